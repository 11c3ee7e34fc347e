// @ts-check
// The next token's bars under temperature, top-k, top-p and min-p: who is left to be drawn from, and how open the choice is.
minillm.explorer(({ data, ui }) => {
  /** Tokens and logits from the best down; of the tokens only the first have names. @type {{ contexts: { text: string, tokens: string[], logits: number[] }[] }} */
  const { contexts } = data;
  const place = ui.select({ label: "The text so far", options: contexts.map(({ text }, i) => ({ value: String(i), label: text })) });
  const first = ui.group();
  const temperature = first.slider({ label: "Temperature", min: 0, max: 3, step: 0.1, value: 1 });
  const last = first.toggle({ label: "Temperature last" });
  const cuts = ui.group();
  const topK = cuts.slider({ label: "Top-k", min: 0, max: 40, step: 1, value: 0, format: (k) => (k ? String(k) : "off") });
  const topP = cuts.slider({ label: "Top-p", min: 0, max: 1, step: 0.01, value: 1, format: (p) => (p < 1 ? minillm.fixed(p, 2) : "off") });
  const minP = cuts.slider({ label: "Min-p", min: 0, max: 1, step: 0.01, value: 0, format: (m) => (m ? minillm.fixed(m, 2) : "off") });
  const numbers = ui.group();
  const left = numbers.readout({ label: "Tokens left", digits: 0 });
  const share = numbers.readout({ label: "The model gave them", digits: 4 });
  const bits = numbers.readout({ label: "Entropy", unit: "bits", digits: 2 });
  const wide = numbers.readout({ label: "As wide as", unit: "equal tokens", digits: 1 });
  const bars = ui.bars({ label: "Probability of the next token", max: 1, digits: 3 });

  /** How many of the tokens stay; they are sorted, so it is always the first ones. @param {number[]} z logits */
  const keep = (z) => {
    let n = z.length;
    if (topK.value > 0) n = z.filter((x) => x >= z[Math.min(topK.value, n) - 1]).length;
    if (topP.value < 1) {
      const p = minillm.softmax(z.slice(0, n));
      let rest = 0; // of this token and all after it
      while (n > 1 && rest + p[n - 1] <= 1 - topP.value) rest += p[--n];
    }
    if (minP.value > 0) n = z.slice(0, n).filter((x) => x >= z[0] + Math.log(minP.value)).length;
    return n;
  };

  return () => {
    const { tokens, logits } = contexts[Number(place.value)];
    const t = temperature.value;
    const scaled = t > 0 ? logits.map((x) => x / t) : logits;
    const n = t > 0 ? keep(last.value ? logits : scaled) : 1;
    const p = minillm.softmax(scaled.slice(0, n));
    const entropy = minillm.sum(p.map((x) => (x > 0 ? -x * Math.log2(x) : 0)));
    left.set(n);
    share.set(minillm.sum(minillm.softmax(logits).slice(0, n)));
    bits.set(entropy);
    wide.set(2 ** entropy);
    const rows = tokens.map((label, i) => ({ label, value: p[i] ?? 0, color: 0 }));
    const others = logits.length - tokens.length;
    if (others) rows.push({ label: `${others} others`, value: minillm.sum(p.slice(tokens.length)), color: 4 });
    bars.set(rows);
  };
});
