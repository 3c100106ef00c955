"use strict";
// Texts of models are shown by textContent and value alone, never as markup.
const token = document.querySelector("meta[name=token]").content;
const $ = (id) => document.getElementById(id);
const fields = ["t0", "t1", "t2", "t3"].map($);
const names = ["extractive_question", "extractive_answer", "self_explain_question", "self_explain_answer"];
const state = { list: [], flat: [], at: 0, trail: [], picture: null, duo: null, editing: false, view: { x: 0, y: 0, s: 1 } };

const get = async (path, query = "") => {
  const answer = await fetch(`${path}?token=${token}${query}`);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
};
const reviewer = () => $("reviewer").value.trim();
const say = (text) => { $("message").textContent = text; };

async function refresh() {
  const data = await get("/api/list");
  state.list = data.pictures;
  state.flat = data.pictures.flatMap((picture, i) => picture.duos.map((duo, k) => ({ i, k, ...duo })));
  const mine = state.flat.filter((duo) => duo.said && duo.said[reviewer()]).length;
  $("progress").max = Math.max(1, state.flat.length);
  $("progress").value = mine;
  $("done").textContent = `${mine} of ${state.flat.length} decided`;
  $("agreement").replaceChildren(...data.agreement.map((one) => {
    const item = document.createElement("li");
    const kappa = one.kappa === null ? "not defined" : one.kappa.toFixed(3);
    item.textContent = `${one.first} and ${one.second}: ${one.duos} duos, ${(100 * one.observed).toFixed(1)} % the same, kappa ${kappa}`;
    return item;
  }));
}

async function show(at) {
  if (!state.flat.length) return say("No duo is there to be reviewed.");
  state.at = Math.min(Math.max(at, 0), state.flat.length - 1);
  const place = state.flat[state.at];
  const other = !state.picture || state.picture.i !== place.i;
  state.picture = await get("/api/picture", `&i=${place.i}`);
  state.duo = state.picture.duos[place.k];
  edit(false);
  const own = state.duo.said[reviewer()];
  const texts = own && own.edited ? names.map((name) => own.edited[name]) : state.duo.texts;
  fields.forEach((field, n) => { field.value = texts[n]; });
  $("said").className = own ? own.verdict : "";
  $("said").textContent = own ? { accept: "Accepted", edit: "Edited", reject: "Rejected" }[own.verdict] : "Open";
  $("where").textContent = `${state.picture.name}, duo ${place.k + 1} of ${state.picture.duos.length}`;
  $("caption").textContent = state.picture.caption || "none";
  $("human").textContent = state.picture.human_caption ? `By a person: ${state.picture.human_caption}` : "";
  if (other) {
    const image = $("image");
    image.onload = fit;
    image.width = state.picture.width;
    image.height = state.picture.height;
    image.alt = state.picture.name;
    image.src = `/image?token=${token}&i=${place.i}`;
    fit();
  }
  boxes();
}

const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ").trim();
function boxes() {
  const svg = $("boxes");
  svg.setAttribute("viewBox", `0 0 ${state.picture.width} ${state.picture.height}`);
  const quotes = fields.flatMap((field) => [...field.value.matchAll(/["“„«]([^"”“»]+)["”“»]/g)]).map((found) => plain(found[1])).filter(Boolean);
  svg.replaceChildren(...state.picture.boxes.map((box) => {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
    shape.setAttribute("points", box.quad.map((point) => point.join(",")).join(" "));
    const text = plain(box.text);
    const padded = ` ${text} `;
    if (text && quotes.some((quote) => padded.includes(` ${quote} `) || ` ${quote} `.includes(padded))) shape.classList.add("quoted");
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `${box.text} (${box.score.toFixed(2)})`;
    shape.append(title);
    return shape;
  }));
}

async function decide(verdict, edited = null) {
  if (!reviewer()) { $("reviewer").focus(); return say("Write your name first."); }
  const answer = await fetch("/api/verdict", {
    method: "POST",
    headers: { "X-Token": token, "Content-Type": "application/json" },
    body: JSON.stringify({ picture: state.picture.i, duo: state.duo.id, reviewer: reviewer(), verdict, edited }),
  });
  if (!answer.ok) return say(await answer.text());
  const { warning } = await answer.json();
  if (verdict !== "undo") state.trail.push(state.at);
  await refresh();
  const last = state.at === state.flat.length - 1;
  await show(verdict === "undo" || last ? state.at : state.at + 1);
  say(warning ? `Saved, but: ${warning}` : verdict === "undo" ? "Taken back." : "Saved.");
}

// After a decision the next duo is shown: what is taken back there is the decision before it.
async function undo() {
  if (!state.duo.said[reviewer()]) {
    const before = state.trail.pop();
    if (before === undefined) return say("Nothing is decided about this duo.");
    await show(before);
    if (!state.duo.said[reviewer()]) return say("Nothing is decided about this duo.");
  }
  await decide("undo");
}

function edit(on) {
  state.editing = on;
  fields.forEach((field) => { field.readOnly = !on; });
  $("editing").hidden = !on;
  $("buttons").hidden = on;
  if (on) { fields[0].focus(); say(""); } else { $("stage").focus({ preventScroll: true }); }
}
const save = () => decide("edit", Object.fromEntries(names.map((name, n) => [name, fields[n].value])));
function nextOpen() {
  const order = state.flat.map((_, n) => (state.at + 1 + n) % state.flat.length);
  const open = order.find((n) => !(state.flat[n].said && state.flat[n].said[reviewer()]));
  return open === undefined ? say("You have decided about all of them.") : show(open);
}

function draw() {
  const { x, y, s } = state.view;
  $("sheet").style.transform = `translate(${x}px, ${y}px) scale(${s})`;
}
function fit() {
  const stage = $("stage").getBoundingClientRect();
  const s = Math.min(stage.width / state.picture.width, stage.height / state.picture.height) * 0.98;
  state.view = { s, x: (stage.width - s * state.picture.width) / 2, y: (stage.height - s * state.picture.height) / 2 };
  draw();
}
function zoom(factor, at) {
  const stage = $("stage").getBoundingClientRect();
  const point = at || { x: stage.width / 2, y: stage.height / 2 };
  const s = Math.min(Math.max(state.view.s * factor, 0.02), 40);
  const k = s / state.view.s;
  state.view = { s, x: point.x - (point.x - state.view.x) * k, y: point.y - (point.y - state.view.y) * k };
  draw();
}

const actions = {
  a: () => decide("accept"), r: () => decide("reject"), u: undo, e: () => edit(true),
  j: () => show(state.at + 1), k: () => show(state.at - 1), ArrowRight: () => show(state.at + 1), ArrowLeft: () => show(state.at - 1),
  n: nextOpen, b: () => $("boxes").classList.toggle("off"), "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit,
  "?": () => $("help").showModal(),
};
// One after the other: a key that is pressed while a decision is being saved is about the duo that follows.
let queue = Promise.resolve();
const safely = (action) => { queue = queue.then(action).catch((error) => say(error.message)); };
document.addEventListener("keydown", (event) => {
  if (state.editing) {
    if (event.key === "Escape") { event.preventDefault(); safely(() => show(state.at)); }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); safely(save); }
    return;
  }
  if (event.target === $("reviewer")) {
    if (event.key === "Enter" || event.key === "Escape") $("stage").focus();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const action = actions[event.key];
  if (action) { event.preventDefault(); safely(action); }
});
const clicks = { accept: actions.a, reject: actions.r, undo: actions.u, edit: actions.e, save, cancel: () => show(state.at), previous: actions.k, next: actions.j, open: nextOpen, "zoom-in": actions["+"], "zoom-out": actions["-"], "zoom-fit": fit, "toggle-boxes": actions.b, "help-button": actions["?"] };
for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", () => safely(action));
const stage = $("stage");
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = stage.getBoundingClientRect();
  zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, { x: event.clientX - box.left, y: event.clientY - box.top });
}, { passive: false });
stage.addEventListener("pointerdown", (event) => { if (event.target.closest("#zoom")) return; stage.setPointerCapture(event.pointerId); stage.classList.add("dragging"); });
stage.addEventListener("pointermove", (event) => {
  if (!stage.classList.contains("dragging")) return;
  state.view.x += event.movementX; state.view.y += event.movementY; draw();
});
stage.addEventListener("pointerup", () => stage.classList.remove("dragging"));
window.addEventListener("resize", () => state.picture && fit());
$("reviewer").value = new URLSearchParams(location.search).get("reviewer") || localStorage.getItem("reviewer") || "";
$("reviewer").addEventListener("change", () => { localStorage.setItem("reviewer", reviewer()); safely(async () => { await refresh(); await show(state.at); }); });
safely(async () => { await refresh(); await show(0); if (reviewer()) await nextOpenIfDecided(); });
async function nextOpenIfDecided() {
  const first = state.flat[0];
  if (first && first.said && first.said[reviewer()]) await nextOpen();
}
