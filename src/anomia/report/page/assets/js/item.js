// One item: the question, and the answers of base and the compressed model, side by side.

const FATES = ["kept", "choice_only", "open_only", "lost", "none"];
const FATE_LABELS = ["kept", "picked, no longer answered", "answered, no longer picked", "lost", "not right in both formats in base"];

const fateChip = (fate) => h("span", { class: `fate ${FATES[fate]}` }, FATE_LABELS[fate]);

function grade(right) {
  if (right === null || right === undefined) return h("span", { class: "grade" }, "not graded");
  return h("span", { class: `grade ${right ? "right" : "wrong"}` }, right ? "✓ right" : "✗ wrong");
}

function sides(left, right) {
  return h("div", { class: "sides" }, h("div", { class: "side" }, left), h("div", { class: "side" }, right));
}

const who = (name, ...more) => h("p", { class: "who" }, named(name), " ", more);

// A model's output, trimmed; the part that made it right is marked.
function output(text, right, answers, language) {
  const shown = text.trim();
  return block("div", "output", shown || "(nothing)", language, right ? findSpans(shown, answers) : []);
}

// Notes where the strict grade differs, and where the output loops.
function remarks(right, strict, loops) {
  const differs = strict !== null && strict !== undefined && strict !== right;
  return [
    differs && h("span", { class: `grade ${strict ? "right" : "wrong"}` }, strict ? " ✓ strict grade" : " ✗ strict grade"),
    loops && h("span", { class: "flag" }, "loops"),
  ];
}

function said(name, text, right, answers, language, ...more) {
  if (text === null || text === undefined) return [who(name), h("p", { class: "small" }, "not asked")];
  return [who(name, grade(right), more), h("div", { class: "box" }, output(text, right, answers, language))];
}

function many(name, found, answers, language) {
  if (!found) return [who(name), h("p", { class: "small" }, "not asked")];
  const [texts, hits] = found;
  const right = [...hits].filter((hit) => hit === "1").length;
  return [who(name, `${right} of ${texts.length} right`), h("div", { class: "box" }, h("ol", { class: "many" }, texts.map((text, n) => h("li", {},
    h("span", { class: `grade ${hits[n] === "1" ? "right" : "wrong"}`, title: hits[n] === "1" ? "right" : "wrong" }, hits[n] === "1" ? "✓" : "✗"),
    output(text, hits[n] === "1", answers, language)))))];
}

function passageView(item, row, language) {
  if (!item.context) return null;
  const node = h("div", { class: "passage foreign", dir: "auto", lang: language, tabindex: 0, role: "region", "aria-label": "passage" });
  const chars = Array.from(item.context);
  const known = row.cut && row.seen !== null && row.seen !== undefined;
  const seen = known ? chars.slice(0, row.seen).join("") : item.context;
  node.append(...marked(seen, findSpans(seen, item.answers)));
  if (known) node.append(h("span", { class: "unseen", title: "cut off: the models did not see this" }, visible(chars.slice(row.seen).join(""))));
  return [h("h4", {}, "Passage"), node];
}

// A token with its rank under it. A space before it stays outside; a token of nothing else is shown by a sign.
function withRank(piece, rank) {
  const body = piece.trimStart();
  const space = piece.slice(0, piece.length - body.length);
  const sign = body ? visible(body) : /\n/.test(space) ? "⏎" : space ? "␣" : "·";
  const token = h("ruby", {}, h("span", { class: rank > 10 ? "rank lost" : "rank demoted", title: `rank ${rank}` }, sign),
    h("rt", { dir: "ltr" }, h("span", { class: "sr" }, " rank "), count(rank), h("span", { class: "sr" }, " ")));
  return h("span", {}, body ? [space, token] : [token, space]);
}

// A long answer, token by token. mark: attributes of the token at a place, or null. ranks: shown where they are above 1.
function longText(pieces, language, mark, ranks = []) {
  const text = h("div", { class: "output long foreign", dir: "auto", lang: language, tabindex: 0, role: "region", "aria-label": "long answer" });
  if (ranks.some((rank) => rank > 1)) text.classList.add("ranked");
  text.append(...pieces.map((piece, n) => (ranks[n] > 1 ? withRank(piece, ranks[n]) : h("span", mark(n) ?? {}, visible(piece)))));
  return text;
}

function longEnd(found) {
  const parts = [`${found.pieces.length} tokens`, found.stopped ? "stopped at a loop" : found.ended ? "ended" : "no end within the limit"];
  return [parts.join(", "), found.loop !== null && h("span", { class: "flag" }, `loops from token ${found.loop}`)];
}

// Base's answer with the rank that the arm gives each token, next to the arm's free answer.
function longView(names, base, arm, language) {
  if (!base.long || !arm.long) return null;
  const ranks = arm.long.ranks ?? [];
  const differs = arm.long.differs;
  const free = (n) => (n === differs ? { class: "differs", title: `token ${n}: here it leaves base's answer` } : n === arm.long.loop ? { class: "differs", title: `token ${n}: here it starts to loop` } : null);
  const among = (from, to) => ranks.filter((rank) => rank >= from && rank <= to).length;
  const told = ranks.length > 0 && arm !== base
    ? `Of base's ${ranks.length} tokens, ${among(2, 10)} are ranked 2 to 10 (underlined) and ${among(11, Infinity)} lower (struck through); the number under each of these is its rank.`
    : null;
  const equal = differs === null || differs === undefined;
  return [h("h4", {}, "Long answer"), told && h("p", { class: "small" }, told),
    sides([who(names[0], typeof base.long.right === "boolean" && [grade(base.long.right), " "], longEnd(base.long)), h("div", { class: "box" }, longText(base.long.pieces, language, () => null, arm === base ? [] : ranks))],
      [who(names[1], typeof arm.long.right === "boolean" && [grade(arm.long.right), " "], longEnd(arm.long)), arm !== base && h("p", { class: "small" }, equal ? `The same as base's, token for token${arm.long.stopped || base.long.stopped ? ", as far as it goes" : ""}.` : `It leaves base's answer at token ${differs}.`),
        h("div", { class: "box" }, longText(arm.long.pieces, language, free))])];
}

function verdictTable(row, settings) {
  const mark = ["–", "✗", "✓"];
  const word = ["not asked", "wrong", "right"];
  const cell = (value) => h("td", { class: value && `grade ${word[value]}` }, mark[value], h("span", { class: "sr" }, ` ${word[value]}`));
  const asked = Object.entries(row.verdicts).filter(([, [before, after]]) => before || after);
  return h("details", {}, h("summary", {}, "Every grade"), scrolling(h("table", {},
    h("thead", {}, h("tr", {}, ["asked", "base", "compressed"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, asked.map(([name, [before, after]]) => h("tr", {}, h("th", { scope: "row" }, settings.probes[name].label), cell(before), cell(after))))), "every grade"));
}

function itemView(found, item, { settings, armName, actions }) {
  const language = settings.codes[found.language];
  const base = item.answered.find((row) => row.arm === "base");
  const arm = item.answered.find((row) => row.arm === armName) ?? base;
  const names = ["base", armName];
  const pair = (view) => sides(view(names[0], base), view(names[1], arm));
  const answeredBy = (part) => Object.entries(settings.probes).filter(([name]) => base[part]?.[name] || arm[part]?.[name]);
  const texts = answeredBy("texts");
  const options = Object.entries(settings.probes).filter(([, probe]) => probe.options)
    .map(([name, probe]) => optionsTable(item, name, probe, base, arm, language)).filter(Boolean);
  const others = item.answered.filter((row) => row.arm !== "base");
  const armChoice = others.length > 1 && h("select", { "aria-label": "compressed model", onchange: (event) => actions.otherArm(event.target.value) },
    others.map((row) => h("option", { value: row.arm, selected: row.arm === armName }, shorten(row.arm))));
  return [
    h("div", { class: "bar" },
      h("span", { class: "where" }, named(found.language), " · ", named(found.id)), !settings.atLength && fateChip(found.fate), armChoice,
      h("button", { type: "button", onclick: actions.previous, title: "k" }, "Previous"),
      h("button", { type: "button", onclick: actions.next, title: "j" }, "Next"),
      h("button", { type: "button", onclick: actions.alike, title: "a" }, "Another like it")),
    block("h3", "question", item.question, language),
    item.answers.length > 0 && h("p", { class: "answers" }, "Answer: ", item.answers.map((text) => h("mark", {}, foreign(oneLine(text), language)))),
    (item.flags ?? []).map((text) => h("p", { class: "flagged" }, text)),
    !(base.finite && arm.finite) && h("p", { class: "message" }, `${base.finite ? shorten(armName) : "base"} gave logits that are NaN or infinite here.`),
    !settings.atLength && [h("h4", {}, "Asked openly"), pair((name, row) => said(name, row.said[0], row.said[1], item.answers, language, ...remarks(row.said[1], row.said[2], row.said[3])))],
    longView(names, base, arm, language),
    !settings.atLength && verdictTable(found, settings),
    passageView(item, base, language),
    promptView(item, base, settings, found.run, language),
    options.length > 0 && [h("h4", {}, "Picking the answer"), options[0], options.length > 1 && h("details", {}, h("summary", {}, "Other options, and without the question"), options.slice(1)),
      h("p", { class: "small" }, "● picked; percentages are the softmax of the scores.")],
    base.top[0] && [h("h4", {}, "Most likely next tokens after the open prompt"), pair((name, row) => [who(name), tokensView(row)])],
    texts.length > 0 && h("details", {}, h("summary", {}, "Answers to other prompts"), texts.map(([name, probe]) => [
      h("h4", {}, probe.label), pair((label, row) => said(label, row.texts?.[name]?.[0], row.texts?.[name]?.[1], item.answers, language))])),
    answeredBy("reached").map(([name, probe]) => h("details", {}, h("summary", {}, capital(probe.short)),
      pair((label, row) => many(label, row.reached?.[name], item.answers, language)))),
    settings.omitted.length > 0 && h("p", { class: "small" },
      `Omitted to keep this file small: ${settings.omitted.join(", ")}. They are in the records; anomia view shows them.`),
  ];
}
