// A list of any length that renders only the rows in view. Browsers can't scroll over tens of millions of
// pixels, so a very long list moves by more than one row per row scrolled.

const ROW = 76;
const TALLEST = 6_000_000;
const SPARE = 4;

function virtualList({ at, render, open }) {
  const rows = h("div", { class: "rows" });
  const spacer = h("div", { class: "spacer" }, rows);
  const node = h("div", { class: "list", tabindex: 0, role: "listbox", "aria-label": "items" }, spacer);
  let size = 0;
  let active = -1;

  const tall = () => Math.min(TALLEST, size * ROW);
  const places = () => Math.max(0, tall() - node.clientHeight);
  const reach = () => Math.max(0, size * ROW - node.clientHeight);
  const offset = () => (places() ? (node.scrollTop / places()) * reach() : 0);

  function paint() {
    const top = offset();
    const first = Math.max(0, Math.floor(top / ROW) - SPARE);
    const last = Math.min(size, Math.ceil((top + node.clientHeight) / ROW) + SPARE);
    const shown = [];
    for (let place = first; place < last; place += 1) {
      const row = at(place);
      shown.push(h("div", {
        class: "entry", role: "option", id: `entry-${place}`, "aria-selected": String(place === active),
        "aria-posinset": place + 1, "aria-setsize": size, onclick: () => choose(place, true),
      }, row ? render(row) : "…"));
    }
    rows.replaceChildren(...shown);
    rows.style.transform = `translateY(${node.scrollTop + first * ROW - top}px)`;
    if (active >= first && active < last) node.setAttribute("aria-activedescendant", `entry-${active}`);
    else node.removeAttribute("aria-activedescendant");
  }

  function show(place) {
    const top = offset();
    let wanted = top;
    if (place * ROW < top) wanted = place * ROW;
    if ((place + 1) * ROW > top + node.clientHeight) wanted = (place + 1) * ROW - node.clientHeight;
    if (wanted !== top && reach()) node.scrollTop = (wanted / reach()) * places();
  }

  function choose(place, opens) {
    if (size === 0) return;
    active = Math.max(0, Math.min(size - 1, place));
    show(active);
    paint();
    if (opens) open(active);
  }

  node.addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
  node.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(node.clientHeight / ROW) - 1);
    const moves = {
      ArrowDown: active + 1, ArrowUp: active - 1, Home: 0, End: size - 1, PageDown: active + page, PageUp: active - page, Enter: active,
    };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(moves[event.key], true);
  });
  new ResizeObserver(paint).observe(node);

  return {
    node, paint, choose,
    step: (by) => choose(active + by, true),
    place: () => active,
    mark: (place) => {
      active = place;
      if (place >= 0) show(place);
      paint();
    },
    fill: (length, place = -1) => {
      size = length;
      active = place;
      spacer.style.height = `${tall()}px`;
      node.scrollTop = 0;
      if (place >= 0) show(place);
      paint();
    },
  };
}
