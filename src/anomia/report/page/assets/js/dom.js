// Creates elements without ever parsing text as markup.

const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

function put(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

const h = (tag, properties, ...children) => put(document.createElement(tag), properties, children);
const svg = (tag, properties, ...children) => put(document.createElementNS(SVG, tag), properties, children);

// A share between 0 and 1 as a bar, with its interval if it has one; the number is written next to it.
function bar(share, name, range = null) {
  const place = (number) => Math.max(0, Math.min(1, number ?? 0)) * 100;
  const width = place(share);
  return svg(
    "svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", width: 100, height: 10, rx: 1 }),
    svg("rect", { class: name, width, height: 10, rx: 1 }),
    range && svg("rect", { class: "range", x: place(range.low), width: place(range.high) - place(range.low), y: 4, height: 2 }),
  );
}

// Rounds half to even, as in the tables: 82.5 becomes 82 in both.
const halfToEven = (number) => (Math.abs(number % 1) === 0.5 ? 2 * Math.round(number / 2) : Math.round(number));
const percent = (share) => (share === null || share === undefined ? "–" : `${halfToEven(100 * share)} %`);
const count = (number) => number.toLocaleString("en");
