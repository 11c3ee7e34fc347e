// @ts-check
// Byte-pair encoding on the reader's own text, one merge at a time: the rule of train_bpe, written as simply as it goes.
minillm.explorer(({ data, ui }) => {
  /** @type {{ text: string, other: string, pattern: string, merges: number }} */
  const given = data;
  // JavaScript's \s also takes U+FEFF; \p{White_Space} is what Python's package regex means by \s
  const source = given.pattern.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}");
  const pattern = new RegExp(source, "gu");

  /** The chunks of a text, each as a list of bytes. @param {string} text @returns {number[][]} */
  const split = (text) => (text.match(pattern) ?? []).map((chunk) => minillm.bytes(chunk));

  /** @param {number[]} tokens @param {number} left @param {number} right @param {number} id */
  const merge = (tokens, left, right, id) => {
    /** @type {number[]} */
    const merged = [];
    for (let i = 0; i < tokens.length; i += 1) {
      const here = tokens[i] === left && tokens[i + 1] === right;
      merged.push(here ? id : tokens[i]);
      if (here) i += 1;
    }
    return merged;
  };

  /** All pairs with their counts, the next to be merged first: most frequent, then smallest ids. @param {number[][]} chunks */
  const ranking = (chunks) => {
    /** @type {Map<string, { left: number, right: number, times: number }>} */
    const pairs = new Map();
    for (const tokens of chunks) {
      for (let i = 0; i + 1 < tokens.length; i += 1) {
        const [left, right] = [tokens[i], tokens[i + 1]];
        const key = `${left} ${right}`;
        const pair = pairs.get(key) ?? { left, right, times: 0 };
        pair.times += 1;
        pairs.set(key, pair);
      }
    }
    return [...pairs.values()].sort((a, b) => b.times - a.times || a.left - b.left || a.right - b.right);
  };

  /** At most `limit` merges on a text. @param {string} text @param {number} limit */
  const train = (text, limit) => {
    const vocab = Array.from({ length: 256 }, (_, byte) => [byte]);
    /** @type {{ left: number, right: number, times: number }[]} */
    const merges = [];
    let chunks = split(text);
    let pairs = ranking(chunks);
    while (merges.length < limit && pairs.length) {
      const { left, right } = pairs[0];
      chunks = chunks.map((tokens) => merge(tokens, left, right, vocab.length));
      vocab.push([...vocab[left], ...vocab[right]]);
      merges.push(pairs[0]);
      pairs = ranking(chunks);
    }
    return { vocab, merges, chunks, pairs };
  };

  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  /** A token's text; bytes that are no whole character as ‹e6›. @param {number[]} bytes */
  const show = (bytes) => {
    try {
      return decoder.decode(Uint8Array.from(bytes));
    } catch {
      return bytes.map((byte) => (byte < 128 ? String.fromCharCode(byte) : `‹${byte.toString(16)}›`)).join("");
    }
  };
  /** @param {number[]} tokens @param {number[][]} vocab @returns {Chip[]} */
  const chips = (tokens, vocab) =>
    tokens.map((id) => ({ text: show(vocab[id]), title: `${minillm.visible(show(vocab[id]))}, token ${id}`, color: id < 256 ? null : id % 6 }));

  const text = ui.text({ label: "Text to learn from", value: given.text, rows: 3, maxLength: 2000 });
  let plan = train(given.text, given.merges);
  const steps = ui.steps({
    label: "Merges made",
    count: plan.merges.length + 1,
    describe: (step) => {
      if (step === 0) return "single bytes";
      const { left, right, times } = plan.merges[step - 1];
      return `${minillm.visible(show(plan.vocab[left]))} + ${minillm.visible(show(plan.vocab[right]))}, ${times} times, became token ${255 + step}`;
    },
  });
  const learnt = ui.chips({ label: "The text in tokens" });
  const box = ui.group();
  const count = box.readout({ label: "Tokens", digits: 0 });
  const size = box.readout({ label: "Vocabulary", digits: 0, quiet: true });
  const bars = ui.bars({ label: "Most frequent pairs now (the marked one is merged next)", format: (x) => `${x}` });
  const rule = ui.note("");
  const other = ui.text({ label: "Another text, cut with the merges made so far", value: given.other, rows: 1, maxLength: 500 });
  const encoded = ui.chips({ label: "The other text in tokens" });
  const otherCount = ui.readout({ label: "Tokens in the other text", digits: 0, quiet: true });

  let trained = given.text;
  return () => {
    if (text.value !== trained) {
      trained = text.value;
      plan = train(trained, given.merges);
      steps.count(plan.merges.length + 1);
    }
    const { vocab, merges, chunks, pairs } = train(trained, steps.value);
    const tokens = chunks.flat();
    learnt.set(chips(tokens, vocab));
    count.set(tokens.length);
    size.set(vocab.length);
    bars.set(
      pairs.slice(0, 8).map(({ left, right, times }, i) => ({ label: `${show(vocab[left])} + ${show(vocab[right])}`, value: times, mark: i === 0 })),
    );
    const [next] = pairs;
    const tied = next ? pairs.filter((pair) => pair.times === next.times).length : 0;
    const ids = next && `${next.left} + ${next.right}`;
    rule.set(!next ? "No pair is left." : tied > 1 ? `${tied} pairs occur equally often; the one with the smallest ids is next: ${ids}.` : `The next pair has ids ${ids}.`);
    const cut = split(other.value).map((chunk) => merges.reduce((pieces, { left, right }, k) => merge(pieces, left, right, 256 + k), chunk));
    encoded.set(chips(cut.flat(), vocab));
    otherCount.set(cut.flat().length);
  };
});
