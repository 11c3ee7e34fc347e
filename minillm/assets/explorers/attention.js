// @ts-check
// One query's weights over all keys: scale, causal mask and temperature can be switched while looking.
minillm.explorer(({ data, ui }) => {
  /** products: dot products, [head][query][key] @type {{ tokens: string[], products: number[][][], width: number }} */
  const { tokens, products, width } = data;
  const queries = ui.chips({ label: "Query", select: true });
  const controls = ui.group();
  const head = controls.select({ label: "Head", options: products.map((_, n) => String(n)) });
  const temperature = controls.slider({ label: "Temperature", min: 0.1, max: 10, step: 0.1, value: 1 });
  const scaled = controls.toggle({ label: `Divide by √H = √${width}`, value: true });
  const causal = controls.toggle({ label: "Causal mask", value: true });
  const numbers = ui.group();
  const key = numbers.readout({ label: "Most weight on" });
  const product = numbers.readout({ label: "Its dot product", digits: 2 });
  const score = numbers.readout({ label: "Its score", digits: 2 });
  const weight = numbers.readout({ label: "Its weight", digits: 3 });
  const weights = ui.bars({ label: "Weight of each key", max: 1, digits: 3 });

  /** @param {number} i */
  const name = (i) => `${minillm.visible(tokens[i])} · ${i}`;
  const middle = Math.min(tokens.length - 1, Math.round((tokens.length * 2) / 3));
  queries.set(tokens.map((text, i) => ({ text, note: i, color: null, title: `${text}, position ${i}` })));
  queries.select(middle);

  return () => {
    const t = Math.max(queries.value, 0);
    const dots = products[Number(head.value)][t];
    const scores = dots.map((x, s) => (causal.value && s > t ? -Infinity : (x * (scaled.value ? width ** -0.5 : 1)) / temperature.value));
    const p = minillm.softmax(scores);
    const best = p.indexOf(Math.max(...p));
    key.set(name(best));
    product.set(dots[best]);
    score.set(scores[best]);
    weight.set(p[best]);
    weights.set(p.map((value, s) => ({ label: name(s), value, color: s === t ? 1 : 0, mark: s === best })));
  };
});
