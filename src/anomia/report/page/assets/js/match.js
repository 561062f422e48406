// Finds an answer in a text: the matching of anomia/grade.py, mapped back to the original characters.
// Verdicts come from the records; this only finds what to mark.

const CLUSTERS = /\P{M}[\p{M}\p{Cf}]*|\p{M}[\p{M}\p{Cf}]*/gu;
// As in anomia/text.py: the invisible characters of category Cf, and the letters that a joiner once formed.
const UNSEEN =
  /(?![\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u{110bd}\u{110cd}\u{13430}-\u{1343f}\u{e0020}-\u{e007f}\u200d])\p{Cf}/gu;
const JOINED = [
  ["\u0d23\u0d4d", "\u0d7a"], ["\u0d28\u0d4d", "\u0d7b"], ["\u0d30\u0d4d", "\u0d7c"], ["\u0d32\u0d4d", "\u0d7d"],
  ["\u0d33\u0d4d", "\u0d7e"], ["\u0d15\u0d4d", "\u0d7f"], ["\u09a4\u09cd", "\u09ce"], ["\u0930\u094d", "\u0931\u094d"],
];

function seenPart(cluster) {
  let text = cluster.replace(UNSEEN, "");
  for (const [old, letter] of JOINED) text = text.replaceAll(`${old}\u200d`, letter);
  return text.replaceAll("\u200d", "");
}

// One cluster, case and width folded, without punctuation and invisible characters; white space becomes one space.
function folded(cluster) {
  const text = seenPart(cluster).normalize("NFKC").toUpperCase().toLowerCase().replaceAll("ς", "σ").normalize("NFKC");
  return text.replace(/\p{P}/gu, "").replace(/\s+/gu, " ");
}

// The normalized text and, for each of its characters, its start and end in the original.
function normalized(text) {
  let plain = "";
  const starts = [];
  const ends = [];
  for (const match of text.matchAll(CLUSTERS)) {
    for (const unit of folded(match[0])) {
      if (unit === " " && (plain === "" || plain.endsWith(" "))) continue;
      for (let i = 0; i < unit.length; i += 1) {
        starts.push(match.index);
        ends.push(match.index + match[0].length);
      }
      plain += unit;
    }
  }
  return { plain, starts, ends };
}

// Spans [start, end) of all matches of any answer, in order and not overlapping.
function findSpans(text, answers) {
  const { plain, starts, ends } = normalized(text);
  const found = [];
  for (const answer of answers) {
    const wanted = normalized(answer).plain.trim();
    if (!wanted) continue;
    for (let at = plain.indexOf(wanted); at >= 0; at = plain.indexOf(wanted, at + wanted.length)) {
      found.push([starts[at], ends[at + wanted.length - 1]]);
    }
  }
  found.sort((a, b) => a[0] - b[0] || b[1] - a[1]);
  return found.filter(([first], n) => found.slice(0, n).every((earlier) => earlier[1] <= first));
}
