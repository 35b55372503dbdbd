"use strict";
// Tables sort by a click on a column's title: numbers first by size, largest first; then back.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const th = button.closest("th");
    const body = th.closest("table").tBodies[0];
    const place = th.cellIndex;
    const first = th.classList.contains("num") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const way = th.getAttribute("aria-sort") === first ? other : first;
    for (const title of th.parentElement.cells) title.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", way);
    const value = row => row.cells[place].dataset.value;
    const compare = (a, b) => {
      const [u, v] = [value(a), value(b)];
      if (u === "" || v === "") return (u === "") - (v === "");
      const [x, y] = [Number(u), Number(v)];
      const order = Number.isNaN(x) || Number.isNaN(y) ? u.localeCompare(v) : x - y;
      return way === "ascending" ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
// A candidate that is pointed at lights up in every figure and table.
const marked = new Map();
for (const item of document.querySelectorAll("[data-key]")) {
  const key = item.dataset.key;
  if (!marked.has(key)) marked.set(key, []);
  marked.get(key).push(item);
}
const light = on => event => {
  const item = event.target.closest("[data-key]");
  if (item) for (const same of marked.get(item.dataset.key)) same.classList.toggle("lit", on);
};
document.addEventListener("pointerover", light(true));
document.addEventListener("pointerout", light(false));
