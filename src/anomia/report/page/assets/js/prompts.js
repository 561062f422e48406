// The prompts as they were sent, put together from the templates of anomia/items/prompts.py.

function promptsOf(item, row, templates) {
  const seen = row.seen === null || row.seen === undefined
    ? item.context : Array.from(item.context).slice(0, row.seen).join("");
  const fill = (template, candidates) => template.split("\n").flatMap((line) =>
    (line.includes(templates.candidate) ? candidates.map((text) => line.replaceAll(templates.candidate, () => text)) : [line]))
    .join("\n").replaceAll(templates.context, () => seen).replaceAll(templates.question, () => item.question);
  const open = seen ? templates.open : templates.open_bare;
  const cued = seen ? templates.cued : templates.cued_bare;
  const standard = item.options.choice ?? [];
  const found = [["open, choice, ranks, beams, samples", fill(open, [])]];
  if (row.texts?.cued) found.push(["cued", fill(cued, standard)]);
  if (row.texts?.distractors_only) found.push(["cued, no gold", fill(cued, standard.filter((text) => text !== item.answers[0]))]);
  if (row.texts?.unrelated && item.unrelated) found.push(["cued, unrelated", fill(cued, item.unrelated)]);
  if (row.pick?.choice_no_question?.[0]) found.push(["choice without the question", fill(templates.no_question, [])]);
  return found;
}

function promptView(item, row, settings, run, language) {
  const prompts = promptsOf(item, row, settings.prompts);
  const place = h("div", {});
  const show = (n) => place.replaceChildren(block("div", "passage", prompts[n][1], language));
  const choice = h("select", { "aria-label": "which prompt", onchange: (event) => show(Number(event.target.value)) },
    prompts.map(([label], n) => h("option", { value: n }, label)));
  show(0);
  const notes = [];
  if (row.cut && (row.seen === null || row.seen === undefined)) notes.push("The passage’s end was cut to fit; where is not recorded in this run, so all of it is shown.");
  else if (row.cut) notes.push("The passage’s end was cut to fit, as shown.");
  if (settings.chat[run]) notes.push("It was sent as a user’s turn in the tokenizer’s chat template.");
  return h("details", {}, h("summary", {}, "The prompt as sent"), prompts.length > 1 && h("p", {}, choice), place,
    notes.map((note) => h("p", { class: "small" }, note)));
}
