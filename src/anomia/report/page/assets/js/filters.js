// The filter: everything the reader can select rows by.

const WANTED = [
  ["", "any"], ["21", "base right, compressed wrong"], ["12", "base wrong, compressed right"],
  ["22", "both right"], ["11", "both wrong"],
];

const emptyFilter = () => ({ search: "", arm: null, language: null, fate: null, from: null, to: null, loops: false, probes: {} });

// The controls, and `read`, which returns their settings; `changed` is called when these may have changed.
function filterControls(source, data, changed) {
  const settings = data.explorer;
  const label = (text, control, name) => h("label", { class: name }, text, control);
  const choice = (all, entries) => h("select", { onchange: changed }, all !== null && h("option", { value: "" }, all),
    entries.map(([value, text]) => h("option", { value }, text)));
  const whole = (control) => (/^\d+$/.test(control.value.trim()) ? Number(control.value) : null);
  let waiting = 0;
  const soon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(changed, 120);
  };

  const search = h("input", { type: "search", id: "search", oninput: soon, autocomplete: "off", placeholder: "question, answer, output, id" });
  const arm = choice(null, source.arms.map(([run, name], n) => [n, data.runs.length > 1 ? `${shorten(data.runs[run].name)} · ${shorten(name)}` : shorten(name)]));
  const language = choice("all", source.languages.map((name, n) => [n, shorten(name)]));
  const from = h("input", { inputmode: "numeric", oninput: soon, placeholder: "from", "aria-label": "rank from" });
  const to = h("input", { inputmode: "numeric", oninput: soon, placeholder: "to", "aria-label": "rank to" });
  const loops = h("input", { type: "checkbox", onchange: changed });
  const probes = Object.fromEntries(Object.keys(settings.probes).map((name) => [name, choice(null, WANTED)]));
  let fate = null;

  const chips = FATES.map((name, n) => h("button", { type: "button", "aria-pressed": "false", onclick: () => setFate(fate === n ? null : n) },
    fateChip(n), h("span", { class: "count" })));
  function setFate(wanted, quietly = false) {
    fate = wanted;
    chips.forEach((chip, n) => chip.setAttribute("aria-pressed", String(n === fate)));
    if (!quietly) changed();
  }

  const summary = h("summary", {}, "Grade of each probe");
  function read() {
    const asked = Object.fromEntries(Object.entries(probes).map(([name, control]) => [name, control.value]).filter(([, value]) => value));
    const used = Object.keys(asked).length;
    summary.textContent = used ? `Grade of each probe (${used} set)` : "Grade of each probe";
    return {
      search: search.value.slice(0, 500), arm: Number(arm.value), language: language.value === "" ? null : Number(language.value),
      fate, from: whole(from), to: whole(to), loops: loops.checked, probes: asked,
    };
  }

  function write(filter) {
    search.value = filter.search;
    arm.value = String(filter.arm ?? 0);
    language.value = filter.language === null ? "" : String(filter.language);
    from.value = filter.from ?? "";
    to.value = filter.to ?? "";
    loops.checked = filter.loops;
    for (const [name, control] of Object.entries(probes)) control.value = filter.probes[name] ?? "";
    setFate(filter.fate, true);
  }

  function showCounts(counts) {
    chips.forEach((chip, n) => { chip.querySelector(".count").textContent = count(counts[n] ?? 0); });
  }

  const node = h("div", { role: "search", "aria-label": "Items" },
    h("div", { class: "filters" },
      label("Search", search, "search"),
      source.arms.length > 1 && label("Compressed model", arm),
      source.languages.length > 1 && label("Language", language),
      !settings.atLength && h("div", {}, label("Rank of the answer", h("div", { class: "pair" }, from, to)))),
    h("div", { class: "fates", role: "group", "aria-label": "Fate" }, !settings.atLength && chips,
      source.loops && h("label", { class: "loops" }, loops, "only answers that loop")),
    !settings.atLength && h("details", { class: "probe-details" }, summary, h("div", { class: "probe-filters" },
      Object.entries(probes).map(([name, control]) => label(settings.probes[name].label, control)))));
  return { node, read, write, search, showCounts };
}
