// The prompts as they were sent. Their wording comes from anomia/items/prompts.py with the study's own templates;
// here all marks are replaced with the item's texts at once, so that marks inside those texts are not replaced.

function promptsOf(item, row, templates, asked) {
  const seen = row.seen === null || row.seen === undefined
    ? item.context : Array.from(item.context).slice(0, row.seen).join("");
  const list = (candidates) => candidates.map((text) => templates.options.split(templates.candidate).join(text)).join("\n");
  const marks = new RegExp(`(${templates.context}|${templates.question}|${templates.options})`, "u");
  const fill = (form, candidates = []) => {
    const values = new Map([[templates.context, seen], [templates.question, item.question], [templates.options, list(candidates)]]);
    return templates[seen ? form : `${form}_bare`].split(marks).map((part) => values.get(part) ?? part).join("");
  };
  const standard = item.options.standard ?? [];
  const listed = (which) => (which in item.candidates ? item.candidates[which] ?? []
    : standard.filter((text) => which !== "wrong options" || text !== item.answers[0]));
  const answered = (name) => row.texts?.[name] || row.pick?.[name]?.[0] || row.reached?.[name];
  // The first is the prompt that every item is asked with.
  return asked.filter(({ probes }, n) => n === 0 || probes.some(answered))
    .map(({ label, prompt, candidates }) => [label, fill(prompt, candidates ? listed(candidates) : [])]);
}

function promptView(item, row, settings, run, language) {
  if (!settings.prompts[run]) return null;
  const prompts = promptsOf(item, row, settings.prompts[run], settings.asked);
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
