"use strict";
const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));

// Tables: a click on a heading sorts, a second one turns the order round.
for (const table of all("table.data")) {
  const body = table.tBodies[0];
  const headings = all("th", table);
  headings.forEach((heading, at) => heading.addEventListener("click", () => {
    const rising = heading.getAttribute("aria-sort") === "descending"
      || (!heading.hasAttribute("aria-sort") && !heading.classList.contains("n"));
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.cells[at];
      return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
    };
    // Cells without a number come last in either order.
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
      const order = typeof x === "number" ? x - y : x.localeCompare(y);
      return rising ? order : -order;
    };
    body.append(...all("tr", body).sort(compare));
  }));
}

// Cards: search, filters and order; a stretch is shown at a time.
for (const browser of all(".browser")) {
  const cards = all("article", browser).map((node, at) => ({
    node, at,
    text: node.querySelector(".said").textContent.toLowerCase(),
    scores: (node.dataset.scores || "").split(" ").map(Number),
  }));
  const list = browser.querySelector(".cards");
  const more = browser.querySelector(".more");
  const count = browser.querySelector(".count");
  const field = (name) => browser.querySelector(`[name=${name}]`);
  const value = (name) => (field(name) ? field(name).value : "");
  const stretch = 60;
  let shown = stretch;
  const show = (card, visible) => {
    card.node.hidden = !visible;
    const picture = visible && card.node.querySelector("img[data-of]:not([src])");
    if (picture) picture.src = document.getElementById(picture.dataset.of).src;
  };
  const update = () => {
    const words = value("find").toLowerCase().split(/\s+/).filter(Boolean);
    const outcome = value("outcome");
    const category = value("category");
    const found = cards.filter(({ node, text }) =>
      words.every((word) => text.includes(word))
      && (!outcome || (outcome === "failed" ? "failed" in node.dataset : node.dataset.outcome === outcome))
      && (!category || node.dataset.category === category));
    const [column, way] = value("order").split(" ");
    found.sort((a, b) => {
      if (!way) return a.at - b.at;
      const [x, y] = [a.scores[column], b.scores[column]];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.at - b.at;
      return (way === "up" ? x - y : y - x) || a.at - b.at;
    });
    const kept = new Set(found.slice(0, shown));
    cards.forEach((card) => show(card, kept.has(card)));
    list.append(...found.slice(0, shown).map((card) => card.node));
    more.hidden = found.length <= shown;
    count.textContent = found.length === cards.length
      ? `${cards.length} questions` : `${found.length} of ${cards.length} questions`;
  };
  for (const control of all(".controls input, .controls select", browser)) {
    control.addEventListener("input", () => { shown = stretch; update(); });
  }
  more.addEventListener("click", () => { shown += stretch; update(); });
  list.addEventListener("click", (event) => {
    const picture = event.target.closest(".picture:not(.missing)");
    if (picture) picture.parentNode.classList.toggle("wide");
  });
  update();
}
