// The page asks as any other client does: POST /v1/chat/completions, streamed.
const $ = (id) => document.getElementById(id);
const [talk, question, shown, go] = ["talk", "question", "shown", "go"].map($);
// What `llavar ask` calls a guess: a short answer that the model itself finds unlikely.
const GUESS = 0.2, SHORT = 64;

let messages = [];   // the conversation as it is sent
let pictures = [];   // of the next question: {url, name}
let running = null;  // the AbortController of the answer under way
let model = null;

// With any other character in a header every fetch would fail, before the server is asked.
const canBeSent = (key) => /^[\x20-\x7e]*$/.test(key);

const headers = () => {
  const key = sessionStorage.getItem("key");
  return key && canBeSent(key) ? { Authorization: `Bearer ${key}` } : {};
};

/** Asks for a key that can be sent; `why` says what is wrong with the one so far. */
async function askForKey(why) {
  for (;;) {
    $("refused").textContent = why;
    $("refused").hidden = !why;
    $("key").value = "";
    await new Promise((done) => {
      $("locked").addEventListener("close", done, { once: true });
      $("locked").showModal();
    });
    const key = $("key").value.trim();
    if (canBeSent(key)) return sessionStorage.setItem("key", key);
    sessionStorage.removeItem("key");
    why = "This key has characters that cannot be sent.";
  }
}

/** Fetches, and asks for the key as long as there is none that fits. */
async function call(path, init = {}) {
  for (;;) {
    const response = await fetch(path, { ...init, headers: { ...init.headers, ...headers() } });
    if (response.status !== 401) return response;
    await askForKey(sessionStorage.getItem("key") ? "The key so far was not the server's." : "");
  }
}

function make(name, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(name), attributes);
  element.append(...children);
  return element;
}

/** A picture, or its name where the browser cannot show it. */
function thumbnail({ url, name }) {
  const image = make("img", { src: url, alt: name });
  image.addEventListener("error", () => image.replaceWith(make("span", { className: "file" }, name)));
  return image;
}

function add(kind, text, ofTurn = []) {
  $("hint")?.remove();
  const images = ofTurn.map(thumbnail);
  for (const image of images) image.addEventListener("click", () => image.classList.toggle("large"));
  const said = make("p", {}, text);
  const meta = make("div", { className: "meta" });
  const article = make("article", { className: kind }, make("div", { className: "pictures" }, ...images), said, meta);
  talk.append(article);
  talk.scrollTop = talk.scrollHeight;
  return { article, said, meta };
}

function showPictures() {
  shown.replaceChildren(...pictures.map((picture, at) => {
    const remove = make("button", { type: "button", title: `Leave ${picture.name} out` }, "\u00d7");
    remove.addEventListener("click", () => { pictures.splice(at, 1); showPictures(); question.focus(); });
    return make("li", {}, thumbnail(picture), remove);
  }));
}

async function take(files) {
  for (const file of files) {
    const url = await new Promise((done) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.onerror = () => done(null);
      reader.readAsDataURL(file);
    });
    if (url) pictures.push({ url, name: file.name || "picture" });
    else $("state").textContent = `${file.name} cannot be read`;
  }
  showPictures();
  question.focus();
}

/** The data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

async function answer(turn) {
  const { article, said, meta } = add("model busy", "");
  const begun = performance.now();
  const all = [...messages, turn];
  const pictured = all.flatMap(({ content }) => content).filter(({ type }) => type === "image_url").length;
  // The server refuses a closer look at several pictures.
  const wanted = $("closer").checked, closer = wanted && pictured === 1;
  let text = "", last = null, usage = null, ended = false;
  try {
    const response = await call("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ messages: all, closer, stream: true, stream_options: { include_usage: true } }),
      signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") { ended = true; break; }
      const piece = JSON.parse(data);
      if (piece.error) throw new Error(piece.error.message);
      usage = piece.usage ?? usage;
      const choice = piece.choices[0];
      if (!choice) continue;
      if (choice.finish_reason) last = choice;
      const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
      text += choice.delta.content ?? "";
      said.textContent = text;
      if (atEnd) talk.scrollTop = talk.scrollHeight;
    }
    if (!ended) throw new Error("the connection ended in the middle of the answer");
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    const notes = [`${usage.completion_tokens} tokens in ${seconds} s`];
    if (last.finish_reason === "length") notes.push("cut at its longest");
    if (usage.completion_tokens && usage.completion_tokens <= SHORT) {
      const percent = Math.max(last.probability * 100, 0.1).toFixed(1);
      notes.push(`the model's own probability ${percent} %${last.probability < GUESS ? ": likely a guess" : ""}`);
    }
    if (last.closer_look) notes.push("after a closer look");
    else if (wanted && pictured > 1) notes.push("no closer look at several pictures");
    meta.textContent = notes.join(", ");
    messages.push(turn, { role: "assistant", content: text });
    return true;
  } catch (error) {
    const stopped = error.name === "AbortError";
    meta.textContent = stopped ? "stopped" : String(error.message);
    if (!stopped) article.classList.add("wrong");
    return false;
  } finally {
    article.classList.remove("busy");
    talk.scrollTop = talk.scrollHeight;
  }
}

async function ask() {
  const text = question.value.trim();
  if (running || (!text && !pictures.length)) return;
  const ofTurn = pictures;
  const parts = ofTurn.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  const turn = { role: "user", content: [...parts, { type: "text", text }] };
  const asked = add("user", text, ofTurn);
  question.value = "";
  pictures = [];
  showPictures();
  running = new AbortController();
  const own = running;
  go.textContent = "Stop";
  const answered = await answer(turn);
  if (running !== own) return;
  running = null;
  go.textContent = "Ask";
  // What got no answer can be asked again.
  if (!answered && !question.value && !pictures.length) {
    question.value = text;
    pictures = ofTurn;
    showPictures();
    asked.article.classList.add("unanswered");
  }
  question.focus();
}

function stop() {
  running?.abort();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) stop(); else ask();
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
$("new").addEventListener("click", () => {
  stop();
  running = null;
  go.textContent = "Ask";
  messages = [];
  pictures = [];
  showPictures();
  talk.replaceChildren();
  question.value = "";
  question.focus();
});
$("choose").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => { take([...$("files").files]); $("files").value = ""; });
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) { event.preventDefault(); take(files); }
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); document.body.classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take([...event.dataTransfer.files]);
});

/** Says what is served; a model that is being loaded is waited for. */
async function greet() {
  for (;;) {
    try {
      const { data } = await (await call("/v1/models")).json();
      model = data[0];
      if (model) break;
      $("state").textContent = "the model is being loaded";
    } catch {
      $("state").textContent = "the server does not answer";
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
  $("model").textContent = document.title = model.id;
  $("state").textContent = `${model.max_model_len} tokens of context`;
}

question.focus();
greet();
