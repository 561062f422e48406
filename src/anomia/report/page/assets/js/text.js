// Text of models and data sets: characters that would hide or reorder the text around them are shown by name.

const HIDDEN = {
  0: "NUL", 0x202a: "LRE", 0x202b: "RLE", 0x202c: "PDF", 0x202d: "LRO", 0x202e: "RLO",
  0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI", 0xfeff: "BOM",
};
const HIDES = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]/u;
const SHOWN_AT_ONCE = 4000;

function nameOf(char) {
  const code = char.codePointAt(0);
  return HIDDEN[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

// The parts of a text as nodes; characters that would change the text direction are made visible instead.
function visible(text) {
  const parts = [];
  let plain = "";
  if (!HIDES.test(text)) return [text];
  for (const char of text) {
    if (!HIDES.test(char)) {
      plain += char;
      continue;
    }
    if (plain) parts.push(plain);
    plain = "";
    parts.push(h("span", { class: "hidden-char", title: "an invisible character" }, nameOf(char)));
  }
  if (plain) parts.push(plain);
  return parts;
}

// Text of unknown direction within a line of the page.
function foreign(text, language) {
  return h("bdi", { lang: language }, visible(text ?? ""));
}

// The name of a language, an arm or a model, shortened to fit into a line.
function shorten(text) {
  const chars = Array.from(text ?? "");
  return chars.length > 90 ? `${chars.slice(0, 60).join("")}…${chars.slice(-20).join("")}` : text ?? "";
}

const named = (text) => foreign(shorten(text));

// A block of text with spans marked; a very long one is expanded with a button.
function block(tag, name, text, language, spans = []) {
  const node = h(tag, { class: `${name} foreign`, dir: "auto", lang: language });
  const fill = (longest) => {
    node.replaceChildren(...marked(text.slice(0, longest), spans));
    if (text.length > longest) {
      const more = h("button", { type: "button", class: "link", onclick: () => fill(Infinity) },
        `show all ${count(text.length)} characters`);
      node.append(" … ", more);
    }
  };
  fill(SHOWN_AT_ONCE);
  return node;
}

function marked(text, spans) {
  const parts = [];
  let at = 0;
  for (const [first, last] of spans) {
    if (last > text.length) break;
    parts.push(...visible(text.slice(at, first)), h("mark", {}, visible(text.slice(first, last))));
    at = last;
  }
  parts.push(...visible(text.slice(at)));
  return parts;
}

// A token with visible spaces and line breaks.
function token(text) {
  const node = h("span", { class: "token foreign", dir: "auto" });
  for (const part of (text ?? "").split(/([ \n\t])/)) {
    const shown = { " ": "␣", "\n": "⏎", "\t": "⇥" }[part];
    node.append(...(shown ? [h("span", { class: "space" }, shown)] : visible(part)));
  }
  return node;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const oneLine = (text) => (text ?? "").trim().replace(/\s*\n\s*/g, " ⏎ ").slice(0, 300);
