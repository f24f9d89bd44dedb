"use strict";
document.documentElement.classList.add("scripted");

// Tables whose rows may stand in any order: a button in every head.
function value(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace(/,/g, "").replace(/\u2212/g, "-"));
  return [Number.isNaN(number) ? Infinity : number, text];
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const sorted = [...body.rows].sort((first, second) => {
        const [a, textA] = value(first, column), [b, textB] = value(second, column);
        const order = a === b ? textA.localeCompare(textB) : a - b;
        return up ? order : -order;
      });
      body.append(...sorted);
    });
  });
}

// Charts with values: the nearest to the pointer is told, arrow keys step through them.
function create(parent, name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  parent.append(element);
  return element;
}
for (const chart of document.querySelectorAll(".chart[data-values]")) {
  const values = JSON.parse(chart.dataset.values), svg = chart.querySelector("svg");
  if (!values.x.length) continue;
  const output = document.createElement("output"), marks = create(svg, "g", {});
  let chosen = values.x.length - 1;
  chart.append(output);
  chart.tabIndex = 0;
  chart.setAttribute("role", "group");
  chart.setAttribute("aria-label", chart.dataset.name + ": use the arrow keys to read its values");
  function show(place) {
    chosen = Math.min(Math.max(place, 0), values.x.length - 1);
    const x = values.x[chosen], box = svg.viewBox.baseVal;
    marks.replaceChildren();
    create(marks, "line", { class: "rule", x1: x, x2: x, y1: 0, y2: box.height });
    for (const y of values.y[chosen]) create(marks, "circle", { class: "mark", cx: x, cy: y, r: 2.2 });
    output.textContent = values.text[chosen];
  }
  function hide() {
    marks.replaceChildren();
    output.textContent = "";
  }
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    let nearest = 0;
    values.x.forEach((at, place) => {
      if (Math.abs(at - x) < Math.abs(values.x[nearest] - x)) nearest = place;
    });
    show(nearest);
  });
  svg.addEventListener("pointerleave", hide);
  chart.addEventListener("focus", () => show(chosen));
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") hide();
    if (step === undefined) return;
    event.preventDefault();
    show(chosen + step);
  });
}

// What is folded away is printed, too.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
