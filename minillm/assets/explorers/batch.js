// @ts-check
// Who may see whom in a row of a batch, computed from `positions` and `documents`; the reader's own texts can be packed too.
minillm.explorer(({ data, ui }) => {
  /**
   * A slot of a row: its token, the token to guess, the number of its text in the row and its place there; −1 and weight 0 in padding.
   * @typedef {{ token: string, target: string, document: number, position: number, weight: number }} Slot
   * @typedef {{ text: number, start: number, stop: number }} Piece
   */
  /** @type {{ rows: Slot[][], end: string }} */
  const given = data;
  const PAD = { token: "", target: "", document: -1, position: -1, weight: 0 };

  /** Several texts a row, longest first, each where it leaves least room. @param {Piece[]} pieces @param {number} width @returns {Piece[][]} */
  const bestFit = (pieces, width) => {
    /** @type {{ room: number, row: Piece[] }[]} */
    const rows = [];
    const size = (/** @type {Piece} */ piece) => piece.stop - piece.start;
    for (const piece of [...pieces].sort((a, b) => size(b) - size(a))) {
      const fitting = rows.filter(({ room }) => room >= size(piece)).sort((a, b) => a.room - b.room);
      const place = fitting[0] ?? { room: width, row: [] };
      if (!fitting.length) rows.push(place);
      place.row.push(piece);
      place.room -= size(piece);
    }
    return rows.map(({ row }) => row);
  };

  /** One text after another, cut where a row ends. @param {Piece[]} pieces @param {number} width @returns {Piece[][]} */
  const sequential = (pieces, width) => {
    /** @type {Piece[][]} */
    const rows = [];
    let room = 0;
    for (const { text, start, stop } of pieces) {
      for (let from = start; from < stop; ) {
        if (!room) (rows.push([]), (room = width));
        const taken = Math.min(stop - from, room);
        rows[rows.length - 1].push({ text, start: from, stop: from + taken });
        from += taken;
        room -= taken;
      }
    }
    return rows;
  };

  /** The reader's texts, one a line, words as tokens, as rows of a batch. @param {string} text @param {string} how @param {number} width */
  const pack = (text, how, width) => {
    const texts = text.split("\n").map((line) => line.split(/\s+/).filter(Boolean)).filter((words) => words.length);
    const whole = texts.map((words, k) => ({ text: k, start: 0, stop: words.length + 1 }));
    /** @param {Piece} piece @returns {Piece[]} */
    const split = ({ text: k, start, stop }) => (stop - start <= width ? [{ text: k, start, stop }] : [{ text: k, start, stop: start + width }, ...split({ text: k, start: start + width, stop })]);
    const rows = how === "sequential" ? sequential(whole, width) : how === "best fit" ? bestFit(whole.flatMap(split), width) : whole.flatMap(split).map((piece) => [piece]);
    return rows.map((row) => {
      /** @type {Slot[]} */
      const slots = row.flatMap(({ text: k, start, stop }, document) => {
        const ids = [given.end, ...texts[k], given.end];
        return ids.slice(start, stop).map((token, position) => ({ token, target: ids[start + position + 1], document, position, weight: 1 }));
      });
      return [...slots, ...Array(width - slots.length).fill(PAD)];
    });
  };

  /** May a query see a key? The rule of the masks of chapter 22. @param {Slot} query @param {Slot} key */
  const allowed = (query, key) => key.position >= 0 && key.position <= query.position && (!apart.value || (key.document >= 0 && key.document === query.document));

  const view = ui.group();
  const number = view.slider({ label: "Row", min: 0, max: given.rows.length - 1, step: 1, value: 0 });
  const apart = view.toggle({ label: "Use documents", value: true });
  const again = view.toggle({ label: "Positions start again with each text", value: true });
  const chips = ui.chips({ label: "Tokens of the row, with their positions: choose a query", select: true });
  const told = ui.note("");
  const numbers = ui.group();
  const sees = numbers.readout({ label: "Keys it sees", digits: 0 });
  const target = numbers.readout({ label: "Its target" });
  const weight = numbers.readout({ label: "Its weight", digits: 0 });
  const pairs = numbers.readout({ label: "Pairs in the row", digits: 0, quiet: true });
  const across = numbers.readout({ label: "Pairs across texts", digits: 0, quiet: true });
  const later = numbers.readout({ label: "Pairs that look ahead", digits: 0, quiet: true });
  const grid = ui.grid({ label: "Who may see whom: queries down, keys across", max: 1, digits: 0, numbers: false });
  const box = ui.text({ label: "Your own texts, one a line (words are tokens here)", value: "", rows: 3, maxLength: 1000, hint: "Leave it empty to see the batch that was given." });
  const own = ui.group();
  const how = own.select({ label: "How your texts share rows", options: ["one text a row", "sequential", "best fit"], value: "sequential" });
  const width = own.slider({ label: "Tokens in your rows", min: 4, max: 24, step: 1, value: 12 });

  let query = Math.round((given.rows[0].length * 2) / 3);
  let [lastChip, lastRow] = [-1, 0];
  return () => {
    const rows = box.value.trim() ? pack(box.value, how.value, width.value) : given.rows;
    number.limits(0, rows.length - 1);
    const row = rows[Math.min(number.value, rows.length - 1)].map((slot, t) => ({ ...slot, position: again.value || slot.position < 0 ? slot.position : t }));
    if (chips.value !== lastChip) query = chips.value;
    else if (grid.row !== lastRow) query = grid.row;
    query = Math.min(Math.max(query, 0), row.length - 1);

    const mask = row.map((q) => row.map((k) => (allowed(q, k) ? 1 : 0)));
    const seen = row.filter((_, s) => mask[query][s]);
    const each = mask.flatMap((line, t) => line.map((see, s) => ({ see, t, s })));
    const name = (/** @type {Slot} */ slot) => (slot.position < 0 ? "padding" : minillm.visible(slot.token));
    chips.set(row.map((slot) => ({ text: slot.token, note: slot.position, color: slot.document < 0 ? null : slot.document, title: slot.position < 0 ? "padding" : `${slot.token}, text ${slot.document}, position ${slot.position}` })));
    chips.select(query);
    grid.set(mask, { rows: row.map(name), columns: row.map(name) });
    grid.select(query, grid.column);
    [lastChip, lastRow] = [query, query];

    const { position, weight: counts, target: wanted } = row[query];
    told.set(position < 0 ? "Padding sees nothing and is seen by nobody." : `${name(row[query])} sees ${seen.map(name).join(" ")} and is to guess ${minillm.visible(wanted)}.`);
    sees.set(seen.length);
    target.set(counts ? minillm.visible(wanted) : "none");
    weight.set(counts);
    pairs.set(minillm.sum(mask.flat()));
    across.set(each.filter(({ see, t, s }) => see && row[t].document !== row[s].document).length);
    later.set(each.filter(({ see, t, s }) => see && s > t).length);
  };
});
