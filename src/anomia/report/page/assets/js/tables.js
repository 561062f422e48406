// Tables: those of the terminal, and the numbers in a figure.

function scrolling(table, label) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, table);
}

// `34 [25, 45] → 10 [5, 18]`: intervals are less prominent than their figures, and the changed figure goes below.
const INTERVAL = /(\[−?[\d,.]+, −?[\d,.]+\]\*?)/u;

function numbers(text) {
  return text.split(INTERVAL).map((part, n) => (n % 2 ? h("span", { class: "interval" }, part) : visible(part)));
}

function cellOf(text) {
  if (!INTERVAL.test(text)) return foreign(text);
  const [before, ...after] = text.split(" → ");
  return [numbers(before), after.map((part) => h("span", { class: "after" }, "→ ", numbers(part)))];
}

function dataTable({ title, columns, rows, rules = [], notes = [], more = 0 }) {
  const head = columns.map((name) => h("th", { scope: "col" }, visible(name)));
  const body = rows.map((cells, n) => h("tr", { class: rules.includes(n) && "rule" },
    cells.map((cell, column) => (column === 0 ? h("th", { scope: "row" }, foreign(cell)) : h("td", {}, cellOf(cell))))));
  const table = h("table", {}, title && h("caption", {}, visible(title)), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
  const below = [...notes];
  if (more) below.push(`${count(more)} more rows in the folder tables, next to this page`);
  return [
    scrolling(table, title || "numbers of the figure"),
    below.length > 0 && h("ul", { class: "notes" }, below.map((note) => h("li", {}, visible(note)))),
  ];
}
