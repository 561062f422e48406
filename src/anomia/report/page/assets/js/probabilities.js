// Options and next tokens with their probabilities.

// The probabilities of the options relative to each other: the softmax of their scores.
function softmax(scores) {
  const known = scores.filter((score) => score !== null);
  const top = Math.max(...known);
  const parts = scores.map((score) => (score === null ? 0 : Math.exp(score - top)));
  const sum = parts.reduce((a, b) => a + b, 0);
  return parts.map((part) => part / sum);
}

function optionsTable(item, name, probe, base, arm, language) {
  const options = item.options[probe.options];
  const sides = [base, arm].map((row) => row.pick?.[name]?.[0]);
  if (!options || !sides.some(Boolean)) return null;
  const shares = sides.map((scores) => scores && softmax(scores));
  const picked = shares.map((side) => side && side.indexOf(Math.max(...side)));
  const cell = (side, n, who) => h("td", {}, shares[side]
    ? h("div", { class: "value" }, bar(shares[side][n], `bar-${who}`), h("span", {}, `${percent(shares[side][n])}${picked[side] === n ? " ●" : ""}`))
    : "not asked");
  const rows = options.map((text, n) => {
    const gold = text === (probe.options === "own" ? item.own : item.answers[0]);
    return h("tr", { class: gold && "gold" },
      h("th", { scope: "row" }, gold ? h("mark", {}, foreign(oneLine(text), language)) : foreign(oneLine(text), language)),
      cell(0, n, "base"), cell(1, n, "arm"));
  });
  return h("table", { class: "bars" }, h("caption", {}, probe.label),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "option"), h("th", { scope: "col" }, "base"), h("th", { scope: "col" }, "compressed"))),
    h("tbody", {}, rows));
}

// The likeliest next tokens; gold's first token, or its first distinct one, is marked if it is among them.
function tokensView(row) {
  const [first, rank, ties, distinct, distinctRank, logProb] = row.token;
  const [texts, logProbs] = row.top;
  if (!texts) return h("p", { class: "small" }, "not asked");
  const isGold = (text, n) => text === first && rank !== null && n + 1 >= rank && n + 1 <= rank + (ties ?? 0);
  const list = h("ol", { class: "tokens" }, texts.map((text, n) => h("li", { class: isGold(text, n) && "gold" },
    h("span", {}, `${n + 1}`), token(text), h("span", {}, `${(100 * Math.exp(logProbs[n])).toFixed(1)} %`))));
  const telling = distinct !== null && distinct !== first && [", its first distinctive token ", token(distinct), ` ranks ${count(distinctRank)}`];
  const whole = logProb !== null && `; log-probability of the whole answer ${logProb.toFixed(1)}`;
  return [list, rank !== null && h("p", { class: "small" }, "The answer’s first token ", token(first), ` ranks ${count(rank)}`, telling || null, whole || null)];
}
