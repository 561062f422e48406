// The report from the top: verdicts, what was compared, and the sections with tables and figures.

const SECTION_TABLES = ["fates", "noise", "ladder", "drops", "checks", "ranks", "oracle", "one-shot", "long", "located", "tests"];
const SECTION_CLOSING = ["arms", "size", "repaired", "differences", "hygiene"];
const CLOSING_SLOTS = { size: "arms", repaired: "arms", differences: "hygiene" };
const ARMS_OPEN = 3;

const slot = (name) => document.querySelector(`[data-slot="${name}"]`);
const armLabel = (data, run, arm) => (data.runs.length > 1 ? `${shorten(run.name)} · ${shorten(arm)}` : shorten(arm));

function meter([probe, label, before, after], again) {
  const row = (who, found, name) => h("div", { class: `row ${name}` }, h("span", {}, who), bar(found?.value, "bar", found),
    h("span", {}, found ? numbers(found.shown) : "–", found ? "\u00a0%" : null));
  return h("div", { class: `meter ${probe}` }, h("span", { class: "label" }, label),
    row("base", before, "before"), row(again ? "with noise" : "compressed", after, "after"));
}

// The options that decided, and the outcomes with the other kinds of options.
function decidedView(verdict) {
  const others = [["with standard options", verdict.standard], ["with options from the same passage", verdict.same_passage]];
  if (!verdict.why && others.every(([, outcome]) => outcome === "–")) return null;
  return h("div", { class: "decided" },
    verdict.why && h("p", {}, visible(verdict.why)),
    h("dl", {}, others.map(([label, outcome]) => [h("dt", {}, label), h("dd", {}, visible(outcome))])));
}

function verdictView(data, run, arm, openItems) {
  const { verdict } = arm;
  // Without options an outcome says nothing about a language; the table of long answers does.
  const languages = !run.at_length && verdict.texts.length > 1 && h("details", {}, h("summary", {}, "By language"),
    verdict.outcomes.map(dataTable),
    h("dl", { class: "texts" }, verdict.texts.map(([language, text]) => [h("dt", {}, foreign(language)), h("dd", {}, visible(text))])));
  const unsaid = arm.unsaid > 0 && h("p", {}, h("button", { type: "button", class: "link", onclick: () => openItems(run, arm) },
    `See what it still picks among standard options but no longer answers (${arm.unsaid} ${arm.unsaid === 1 ? "item" : "items"}, all languages)`));
  return h("article", { class: "verdict", "aria-label": `Verdict on ${shorten(arm.name)}` },
    h("div", {},
      h("p", { class: "arm" }, foreign(armLabel(data, run, arm.name)), h("span", { class: `outcome ${verdict.outcome}` }, verdict.label)),
      h("p", { class: "headline" }, visible(verdict.headline)),
      h("p", { class: "advice" }, visible(verdict.advice)),
      h("p", { class: "rest" }, visible(verdict.rest)), decidedView(verdict), unsaid, languages),
    h("div", {},
      arm.accuracies.map((accuracy) => meter(accuracy, arm.null)),
      arm.excluded.length > 0 && h("p", { class: "small" }, "Without ", arm.excluded.map((name, n) => [n > 0 && ", ", foreign(name)]), ": base is too weak there."),
      arm.tables.noise.length > 0 && h("p", { class: "small noise" }, h("a", { href: "#noise" }, "How much of this is noise")),
      arm.stopping.map((note) => h("p", { class: "small" }, visible(note)))));
}

// Null arms: base again under changes that should have no effect. They are the reference, not candidates.
function referenceView(run) {
  return h("aside", { class: "reference", "aria-label": "Reference" },
    h("h3", {}, "For reference: base again, under harmless noise"),
    dataTable({
      title: "", columns: ["null arm", "outcome", ...run.noise],
      rows: run.reference.map((arm) => [shorten(arm.name), arm.outcome, ...arm.changes]),
    }));
}

function fillVerdicts(data, openItems) {
  $("title").append(...visible(data.title));
  document.title = `${data.title} · Anomia`;
  const arms = data.runs.flatMap((run) => run.arms);
  const noise = arms.every((arm) => arm.null);
  const who = noise ? "The uncompressed model alone was"
    : data.runs.length > 1 ? "Uncompressed models and their compressed versions were"
      : `The uncompressed model and its compressed ${arms.length > 1 ? "versions" : "version"} were`;
  const what = data.runs.every((run) => run.at_length) ? "given the same prompts to answer at length" : "asked the same questions in several ways";
  $("lead").textContent = `${who} ${what}${noise ? ", again under harmless noise" : ""}` +
    `${data.runs.length > 1 ? `, in ${data.runs.length} runs` : ""}. ` +
    `This page says what ${noise ? "noise changed" : "was lost"}, how sure that is, and shows every answer.`;
  for (const run of data.runs) {
    for (const [arm, how] of run.unfinished) {
      $("verdicts").append(h("p", { class: "message" }, h("b", {}, "This run is unfinished. "), named(arm), ": ", foreign(how), "."));
    }
    for (const [arm, note] of run.notes) $("verdicts").append(h("p", { class: "message" }, named(arm), ": ", foreign(note)));
    for (const [arm, reason] of run.failed) $("verdicts").append(h("p", { class: "message" }, named(arm), " was not measured: ", foreign(reason)));
    for (const [arm, items] of run.broken) {
      $("verdicts").append(h("p", { class: "message" }, named(arm), ` gives logits that are NaN or infinite for ${items} items.`));
    }
    for (const arm of run.arms) $("verdicts").append(verdictView(data, run, arm, openItems));
    if (run.reference.length) $("verdicts").append(referenceView(run));
  }
}

function fillFacts(data) {
  for (const run of data.runs) {
    if (data.runs.length > 1) slot("facts").append(h("h3", {}, named(run.name)));
    slot("facts").append(h("dl", { class: "facts" }, run.facts.map(([label, value]) => [h("dt", {}, visible(label)), h("dd", {}, foreign(value))])));
  }
}

function fillTables(data) {
  const arms = data.runs.flatMap((run) => run.arms.map((arm) => [run, arm]));
  const drawn = new Set(data.figures.map((figure) => figure.section));
  for (const name of SECTION_TABLES) {
    // A table that repeats a figure starts folded; the fates stay open, because they explain all the rest.
    const folded = name !== "fates" && drawn.has(name) && arms.length <= ARMS_OPEN && arms.some(([, arm]) => arm.tables[name].length);
    const place = folded ? h("details", { class: "numbers" }, h("summary", {}, "In numbers")) : slot(name);
    if (folded) slot(name).append(place);
    arms.forEach(([run, arm], n) => {
      const tables = arm.tables[name].map((table) => dataTable(table));
      if (!tables.length) return;
      const label = foreign(armLabel(data, run, arm.name));
      if (arms.length === 1) place.append(...tables.flat().filter(Boolean));
      else if (arms.length <= ARMS_OPEN) place.append(h("h3", {}, label), ...tables.flat().filter(Boolean));
      else place.append(h("details", { open: n === 0 }, h("summary", {}, label), tables));
    });
  }
  for (const name of SECTION_CLOSING) {
    for (const run of data.runs) {
      const tables = (run.tables[name] ?? []).flatMap((table) => dataTable(table)).filter(Boolean);
      if (!tables.length) continue;
      const place = slot(CLOSING_SLOTS[name] ?? name);
      if (data.runs.length > 1) place.append(h("h3", {}, named(run.name)));
      place.append(...tables);
    }
  }
}

function fillLocated(data) {
  for (const run of data.runs) {
    for (const arm of run.arms.filter((one) => one.located)) {
      slot("located").before(h("p", {}, h("b", {}, foreign(armLabel(data, run, arm.name)), ". "), visible(arm.located)));
    }
  }
}

// Places figures before the tables of their section.
function fillFigures(data) {
  const views = [];
  const last = {};
  for (const figure of data.figures) {
    const place = slot(figure.section) ?? slot("more");
    const view = figureView(figure);
    if (last[figure.section]) last[figure.section].after(view.node);
    else place.prepend(view.node);
    last[figure.section] = view.node;
    views.push(view);
  }
  themeListeners.push(() => drawAll(views));
  return views;
}

function fillRest(data) {
  for (const run of data.runs) $("commands").append(h("pre", { class: "code", tabindex: 0 }, visible(run.command)));
  $("chance").textContent = data.chance ?? "";
  $("ways").textContent = data.ways;
  $("forms").append(...data.forms.flatMap(([name, what]) => [h("dt", {}, name), h("dd", {}, what)]));
  $("citation").textContent = `Anomia ${data.anomia}: what compression took from a language model.\n` +
    "Method: Wen et al. (2026). The Benchmark Illusion: Pruned LLMs Can Pass Multiple Choice\nbut Fail to Answer. arXiv:2606.17609.";
  $("made").textContent = `Made by Anomia ${data.anomia}. One self-contained file: mail it or open it from disk.`;
}

// Removes sections without content, also from the page's navigation.
function finishSections() {
  const found = [];
  for (const section of document.querySelectorAll("section[data-nav]")) {
    const place = section.querySelector("[data-slot]");
    if (place && !place.childElementCount) {
      section.hidden = true;
      continue;
    }
    const link = h("a", { href: `#${section.id}` }, section.dataset.nav);
    $("sections").append(h("li", {}, link));
    found.push([section, link]);
  }
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      for (const [section, link] of found) {
        if (section === entry.target) {
          link.setAttribute("aria-current", "true");
          const list = $("sections");
          list.scrollLeft = link.offsetLeft - list.offsetLeft - 40;
        } else link.removeAttribute("aria-current");
      }
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  found.forEach(([section]) => seen.observe(section));
}
