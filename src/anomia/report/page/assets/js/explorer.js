// The explorer: filters, the list, the open item and its address.

const FRAGMENT = "#item=";

function address(run, arm, language, id) {
  return FRAGMENT + [run, arm, language, id].map((part) => encodeURIComponent(String(part).toWellFormed?.() ?? part)).join("/");
}

function readAddress(fragment) {
  if (!fragment.startsWith(FRAGMENT)) return null;
  try {
    const [run, arm, language, id] = fragment.slice(FRAGMENT.length).split("/").map(decodeURIComponent);
    return id === undefined ? null : { run: Number(run), arm, language, id };
  } catch {
    return null;
  }
}

function listEntry(row, settings) {
  const language = settings.codes[row.language];
  return [
    h("div", { class: "question foreign", dir: "auto", lang: language }, visible(oneLine(row.question))),
    h("div", { class: "said foreign", dir: "auto", lang: language }, visible(oneLine(row.said) || "(nothing)")),
    h("div", { class: "meta" }, !settings.atLength && fateChip(row.fate), h("span", {}, named(row.language)),
      row.loops && h("span", { class: "flag" }, "loops"),
      row.rank > 0 && h("span", { class: "place", title: "rank of the answer, base → compressed" }, `${count(row.baseRank)} → ${count(row.rank)}`)),
  ];
}

async function startExplorer(data) {
  const settings = data.explorer;
  const source = await (settings.served ? servedSource(settings) : embeddedSource(settings));
  const status = h("p", { class: "status", role: "status" });
  const panel = h("article", { class: "item", "aria-label": "the open item", tabindex: -1 });
  const empty = h("p", { class: "empty", hidden: true }, "No matches. Clear filters.");
  let current = null;
  let asked = 0;
  let opened = 0;

  const list = virtualList({
    at: (place) => source.at(place),
    render: (row) => listEntry(row, settings),
    open: (place) => source.load(place).then((row) => row && open(row)).catch(failed),
  });
  source.onchange?.(() => list.paint());

  async function filter() {
    const mine = asked += 1;
    const { total, counts } = await source.select(filters.read());
    if (mine !== asked) return;
    filters.showCounts(counts);
    status.textContent = `${count(total)} of ${count(source.size)} rows`;
    empty.hidden = total > 0;
    list.node.hidden = total === 0;
    list.fill(total, current ? source.placeOf(current) : -1);
  }

  const filters = filterControls(source, data, () => filter().catch(failed));

  function failed(error) {
    status.textContent = `The items could not be read: ${error.message}`;
  }

  async function open(row, { follow = false } = {}) {
    const mine = opened += 1;
    current = row;
    const armName = source.arms[row.arm][1];
    const whole = await source.whole(row);
    if (mine !== opened) return;
    panel.replaceChildren(...itemView(row, whole, {
      settings, armName,
      actions: {
        previous: () => list.step(-1), next: () => list.step(1), alike: () => another(row),
        otherArm: (name) => leadTo({ run: row.run, arm: name, language: row.language, id: row.id }),
      },
    }).flat(Infinity).filter((node) => node !== null && node !== undefined && node !== false));
    $("items").classList.add("opened");
    history.replaceState(null, "", address(row.run, armName, row.language, row.id));
    if (follow) {
      list.mark(source.placeOf(row));
      panel.scrollIntoView({ block: "nearest" });
    }
  }

  async function another(row) {
    const found = await source.alike(row).catch(failed);
    if (found) await open(found, { follow: true });
    else status.textContent = "There is no similar item.";
  }

  // Opens an item by its address and clears the filters if they hide it.
  async function leadTo(key) {
    const found = key && await source.find(key).catch(failed);
    if (!found) {
      if (key) status.textContent = "The item in this link is not in this report.";
      return;
    }
    filters.write({ ...emptyFilter(), arm: found.arm });
    current = found;
    await filter();
    await open(found, { follow: true });
    $("items").scrollIntoView();
  }

  async function showFate(run, arm, fate) {
    const number = source.arms.findIndex(([of, name]) => of === run && name === arm);
    filters.write({ ...emptyFilter(), arm: number, fate });
    current = null;
    await filter();
    list.choose(0, true);
    $("items").scrollIntoView();
    list.node.focus({ preventScroll: true });
  }

  function closeItem() {
    current = null;
    panel.replaceChildren(h("p", { class: "empty" }, "Choose an item from the list."));
    $("items").classList.remove("opened");
    list.mark(-1);
    history.replaceState(null, "", "#items");
    list.node.focus({ preventScroll: true });
  }

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      if (event.target === filters.search && filters.search.value) {
        filters.search.value = "";
        filter().catch(failed);
      } else if (typing) event.target.blur();
      else if (current) closeItem();
      return;
    }
    if (typing) return;
    const act = {
      j: () => list.step(1), k: () => list.step(-1), a: () => current && another(current),
      "/": () => { $("items").scrollIntoView(); filters.search.focus({ preventScroll: true }); },
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  addEventListener("hashchange", () => leadTo(readAddress(location.hash)));

  $("items-lead").textContent = settings.atLength ? "Every prompt with both models’ answers."
    : "Every question with both models’ answers. The rank is that of the answer’s first distinctive token, base → compressed.";
  $("explorer").append(filters.node, h("div", { class: "explorer" },
    h("div", { class: "left" }, status, list.node, empty,
      h("p", { class: "keys" }, h("kbd", {}, "j"), " ", h("kbd", {}, "k"), " next, previous · ", h("kbd", {}, "a"), " another like it · ", h("kbd", {}, "/"), " search · ", h("kbd", {}, "Esc"), " close")),
    panel));
  panel.append(h("p", { class: "empty" }, "Choose an item from the list."));
  await filter();
  const wanted = readAddress(location.hash);
  if (wanted) await leadTo(wanted);
  else if (source.size) {
    list.mark(0);
    const first = await source.load(0);
    if (first) await openQuietly(first);
  }

  // Opens the first item without changing the address.
  async function openQuietly(row) {
    const before = location.hash;
    await open(row);
    history.replaceState(null, "", before || location.pathname);
    $("items").classList.remove("opened");
  }
  return { showFate };
}
