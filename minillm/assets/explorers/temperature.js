// @ts-check
// One slider moves softmax's bars: how temperature sharpens or flattens a choice.
minillm.explorer(({ data, ui }) => {
  /** @type {{ words: string[], logits: number[] }} */
  const { words, logits } = data;
  const temperature = ui.slider({ label: "Temperature", min: 0.1, max: 3, step: 0.1, value: 1 });
  const bars = ui.bars({ label: "Probability of each word", max: 1, digits: 3 });
  const entropy = ui.readout({ label: "Entropy", unit: "bits", digits: 3 });
  return () => {
    const p = minillm.softmax(logits.map((x) => x / temperature.value));
    bars.set(words.map((label, i) => ({ label, value: p[i] })));
    entropy.set(minillm.sum(p.map((x) => (x > 0 ? -x * Math.log2(x) : 0))));
  };
});
