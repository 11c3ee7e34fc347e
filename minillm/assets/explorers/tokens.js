// @ts-check
// The reader's own text as tokens: pre-split, byte letters and merges as in chapters 12 and 13, here in the page itself.
minillm.explorer(({ data, ui }) => {
  /** @type {{ text: string, letters: string, tokens: string[], merges: string[], special: Record<string, number>, pattern: "gpt2" | "gpt4" }} */
  const { text, letters, tokens, merges, special, pattern } = data;

  // \s in Python's regex and in Rust is Unicode's White_Space; JavaScript's own \s differs at U+0085 and U+FEFF
  const patterns = {
    gpt2: /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu,
    gpt4: /'(?:[sSſdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\p{White_Space}\p{L}\p{N}]+[\r\n]*|\p{White_Space}*[\r\n]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu,
  };
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const ranks = new Map(merges.map((pair, rank) => [pair, rank]));
  const byteOf = new Map(Array.from(letters, (letter, byte) => [letter, byte]));
  const names = Object.keys(special).sort((a, b) => b.length - a.length);

  /** The tokens of one chunk, in byte letters: always the pair of lowest rank. @param {string} chunk */
  const merge = (chunk) => {
    const pieces = minillm.bytes(chunk).map((byte) => letters[byte]);
    for (;;) {
      let best = Infinity;
      let place = -1;
      for (let i = 0; i + 1 < pieces.length; i += 1) {
        const rank = ranks.get(`${pieces[i]} ${pieces[i + 1]}`);
        if (rank !== undefined && rank < best) [best, place] = [rank, i];
      }
      if (place < 0) return pieces;
      pieces.splice(place, 2, pieces[place] + pieces[place + 1]);
    }
  };

  /** The pieces of a text between special tokens, and these. @param {string} whole @returns {{ piece: string, id?: number }[]} */
  const splitSpecial = (whole) => {
    const found = [];
    let start = 0;
    for (let i = 0; i < whole.length; ) {
      const name = names.find((candidate) => whole.startsWith(candidate, i));
      if (name) {
        found.push({ piece: whole.slice(start, i) }, { piece: name, id: special[name] });
        start = i += name.length;
      } else i += 1;
    }
    return [...found, { piece: whole.slice(start) }];
  };

  /** @param {string} whole @param {boolean} allowed */
  const encode = (whole, allowed) =>
    (allowed ? splitSpecial(whole) : [{ piece: whole, id: undefined }]).flatMap(({ piece, id }) =>
      id !== undefined
        ? [{ id, bytes: minillm.bytes(piece), special: true }]
        : (piece.match(patterns[pattern]) ?? []).flatMap(merge).map((token) => ({
            id: ids.get(token) ?? -1,
            bytes: Array.from(token, (letter) => byteOf.get(letter) ?? 0),
            special: false,
          })),
    );

  /** Bytes as text, or as hexadecimal where they are no whole characters. @param {number[]} bytes */
  const spell = (bytes) => {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
    } catch {
      return hex(bytes);
    }
  };
  /** @param {number[]} bytes */
  const hex = (bytes) => bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");

  const box = ui.text({ label: "Your text", value: text, rows: 3, maxLength: 5000 });
  const group = ui.group();
  const allow = group.toggle({ label: `Read ${names.join(", ") || "special tokens"} as a control token` });
  const nTokens = group.readout({ label: "Tokens", digits: 0 });
  const nCharacters = group.readout({ label: "Characters", digits: 0, quiet: true });
  const nBytes = group.readout({ label: "Bytes", digits: 0, quiet: true });
  const width = group.readout({ label: "Bytes per token", digits: 2, quiet: true });
  const chips = ui.chips({ label: "Tokens and their ids", select: true, limit: 2000 });
  const about = ui.note("");

  let shown = "";
  return () => {
    const found = encode(box.value, allow.value);
    const now = JSON.stringify([box.value, allow.value]);
    if (now !== shown) {
      shown = now;
      chips.select(-1);
      chips.set(
        found.map(({ id, bytes, special: control }, i) => ({
          text: spell(bytes),
          note: id,
          title: `${control ? "control token " : ""}${minillm.visible(spell(bytes))}, id ${id}`,
          color: control ? 1 : [0, 2, 4, 5][i % 4],
        })),
      );
      const size = minillm.bytes(box.value).length;
      nTokens.set(found.length);
      nCharacters.set(Array.from(box.value).length);
      nBytes.set(size);
      width.set(found.length ? size / found.length : 0);
    }
    const chosen = found[chips.value];
    about.set(
      chosen
        ? `Token ${chips.value + 1} of ${found.length}: id ${chosen.id}, ${chosen.special ? "a control token" : `bytes ${hex(chosen.bytes)}`}.`
        : "Choose a token with the arrow keys or a click to see its bytes.",
    );
  };
});
