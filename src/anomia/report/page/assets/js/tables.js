// Tables: what the terminal shows, and the numbers behind a figure.

function scrolling(table, label) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, table);
}

function dataTable({ title, columns, rows, rules = [], notes = [], more = 0 }) {
  const head = columns.map((name) => h("th", { scope: "col" }, visible(name)));
  const body = rows.map((cells, n) => h("tr", { class: rules.includes(n) && "rule" },
    cells.map((cell, column) => (column === 0 ? h("th", { scope: "row" }, foreign(cell)) : h("td", {}, foreign(cell))))));
  const table = h("table", {}, title && h("caption", {}, visible(title)), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
  const below = [...notes];
  if (more) below.push(`${count(more)} more rows in the folder tables, beside this page`);
  return [
    scrolling(table, title || "numbers of the figure"),
    below.length > 0 && h("ul", { class: "notes" }, below.map((note) => h("li", {}, visible(note)))),
  ];
}
