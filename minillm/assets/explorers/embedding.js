// @ts-check
// The tokens nearest to one, by the cosine of their vectors; the reader chooses how many numbers of each vector count.
minillm.explorer(({ data, ui }) => {
  /** vectors: one row a token, the strongest direction first @type {{ tokens: string[], vectors: number[][], start: number }} */
  const { tokens, vectors, start } = data;
  const width = vectors[0].length;
  const chips = ui.chips({ label: "Token", select: true, limit: 1000 });
  const numbers = ui.slider({ label: "Numbers that count", min: 1, max: width, step: 1, value: Math.min(width, 16) });
  const group = ui.group();
  const best = group.readout({ label: "Nearest" });
  const cosine = group.readout({ label: "Its cosine", digits: 3 });
  const bars = ui.bars({ label: "Cosine of the eight nearest tokens", max: 1, digits: 3 });

  chips.set(tokens.map((text) => ({ text, color: null })));
  chips.select(start);

  /** @param {number[]} a @param {number[]} b @param {number} d */
  const dot = (a, b, d) => minillm.sum(a.slice(0, d).map((x, i) => x * b[i]));

  return () => {
    const d = numbers.value;
    const chosen = Math.max(chips.value, 0);
    const lengths = vectors.map((v) => Math.sqrt(dot(v, v, d)) || 1);
    const all = vectors.map((v, i) => ({ label: minillm.visible(tokens[i]), i, value: dot(v, vectors[chosen], d) / lengths[i] / lengths[chosen] }));
    const near = all.filter(({ i }) => i !== chosen).sort((a, b) => b.value - a.value || a.i - b.i);
    best.set(near[0].label);
    cosine.set(near[0].value);
    bars.set(near.slice(0, 8).map(({ label, value }, k) => ({ label, value: Math.max(value, 0), mark: k === 0 })));
  };
});
