// @ts-check
"use strict";
/*
The explorer kit: what every interactive figure of the book is made of.

A script `minillm/assets/explorers/<name>.js` is one call, with its helpers inside:

    minillm.explorer(({ data, ui }) => {
      /** what Python sent @type {{ words: string[], logits: number[] }} *\/
      const { words, logits } = data;
      const t = ui.slider({ label: "Temperature", min: 0.1, max: 3, step: 0.1, value: 1 });
      const bars = ui.bars({ label: "Probability of each word", max: 1, digits: 3 });
      const entropy = ui.readout({ label: "Entropy", unit: "bits", digits: 3 });
      return () => {                                  // draw: called once, then after every move of the reader
        const p = minillm.softmax(logits.map((x) => x / t.value));
        bars.set(words.map((label, i) => ({ label, value: p[i] })));
        entropy.set(minillm.sum(p.map((x) => -x * Math.log2(x))));
      };
    });

`data` is what Python gave `Explorer(data=…)`. `root` is the frame's <main>; whatever you add to it yourself needs a label
and keys of its own. Every part is appended in the order of the calls and has `.element`. Calling a part's `.set(…)` never
calls draw; a reader's move always does, once.

  controls                                                                    value          changed by
  ui.slider({ label, min, max, step, value, unit?, format? })                 .value number  .set(number), .limits(min, max)
  ui.select({ label, options: ["a", "b"] | [{value, label}], value? })        .value string  .set(string)
  ui.toggle({ label, value? })                                                .value boolean .set(boolean)
  ui.text({ label, value?, rows?, maxLength?, hint? })                        .value string  .set(string)
  ui.button({ label, press })                                                 -              -
  ui.steps({ label, count, value?, describe?, interval? })                    .value number  .set(i), .count(n), .stop()
  ui.chips({ label, select?, limit? })                                        .value index   .set([{text, note?, title?, color?}]), .select(i)
  ui.grid({ label, digits?, max?, format?, select?, numbers? })               .row, .column  .set(matrix, {rows, columns}), .select(row, column)
  shown
  ui.readout({ label, unit?, digits?, value?, quiet? })                                      .set(number | string)
  ui.bars({ label, max?, unit?, digits?, format? })                                          .set([{label, value, color?, mark?}])
  ui.note(text)                                                                              .set(text)
  ui.group(label?)                            a box that sets its parts side by side; it is a `ui` itself

- chips: `select: true` lets the reader pick one (arrows, Home, End); `.value` is its index, or -1. `color` is 0–5 or null for
  none; without it the chips take turns. Invisible characters are drawn as ␣ ↵ ⇥. `note` is small below, `title` in words.
- grid: a heatmap from 0 (empty) to `max` (full; default: the largest value); negative values take the second colour, null is
  a hatched cell (masked). Arrows, Home, End, Ctrl+Home, Ctrl+End, PageUp and PageDown move its cursor; so does a click.
- steps: 0 … count-1, with previous, next, play and a slider; `describe(i)` names a step in words.
- bars: `mark: true` puts a bar in the second colour and says so to screen readers.

Also `minillm.h(tag, attributes, ...children)` makes an element (text is only ever text), `minillm.softmax`, `minillm.sum`,
`minillm.visible(text)`, `minillm.fixed(x, digits)` and `minillm.bytes(text)` (its UTF-8 bytes). Colours are CSS variables:
--fg --bg --muted --line --c0 … --c5.

For tests: <main data-explorer data-ready data-theme data-draws>, and on shown numbers the exact value: data-readout="Entropy"
data-value; data-bars > [data-label][data-value]; data-grid > [data-row][data-column][data-value]; data-chips > [data-text].
*/

/**
 * @typedef {{ element: HTMLElement }} Part
 * @typedef {Part & { readonly value: number, set(value: number): void, limits(min: number, max: number): void }} Slider
 * @typedef {Part & { readonly value: string, set(value: string): void }} Choice
 * @typedef {Part & { readonly value: boolean, set(value: boolean): void }} Toggle
 * @typedef {Part & { readonly value: string, set(value: string): void }} TextBox
 * @typedef {Part & { readonly value: number, set(step: number): void, count(n: number): void, stop(): void }} Steps
 * @typedef {{ text: string, note?: string | number, title?: string, color?: number | null }} Chip
 * @typedef {Part & { readonly value: number, set(chips: Chip[]): void, select(index: number): void }} Chips
 * @typedef {(number | null)[][]} Matrix
 * @typedef {Part & { readonly row: number, readonly column: number, set(values: Matrix, names?: { rows?: string[], columns?: string[] }): void,
 *   select(row: number, column: number): void }} Grid
 * @typedef {Part & { set(value: number | string): void }} Readout
 * @typedef {{ label: string, value: number, color?: number, mark?: boolean }} Bar
 * @typedef {Part & { set(bars: Bar[]): void }} Bars
 * @typedef {Part & { set(text: string): void }} Note
 * @typedef {object} Ui
 * @property {(o: { label: string, min: number, max: number, step: number, value: number, unit?: string, format?: (x: number) => string }) => Slider} slider
 * @property {(o: { label: string, options: (string | { value: string, label: string })[], value?: string }) => Choice} select
 * @property {(o: { label: string, value?: boolean }) => Toggle} toggle
 * @property {(o: { label: string, value?: string, rows?: number, maxLength?: number, hint?: string }) => TextBox} text
 * @property {(o: { label: string, press: () => void }) => Part} button
 * @property {(o: { label: string, count: number, value?: number, describe?: (step: number) => string, interval?: number }) => Steps} steps
 * @property {(o: { label: string, select?: boolean, limit?: number }) => Chips} chips
 * @property {(o: { label: string, digits?: number, max?: number, format?: (x: number) => string, select?: boolean, numbers?: boolean }) => Grid} grid
 * @property {(o: { label: string, unit?: string, digits?: number, value?: number | string, quiet?: boolean }) => Readout} readout
 * @property {(o: { label: string, max?: number, unit?: string, digits?: number, format?: (x: number) => string }) => Bars} bars
 * @property {(text: string) => Note} note
 * @property {(label?: string) => Ui & Part} group
 * @typedef {(frame: { data: any, root: HTMLElement, ui: Ui }) => (void | (() => void))} Setup
 */

const minillm = (() => {
  let names = 0;
  const fresh = () => `ml-${(names += 1)}`; // ids inside one frame

  /**
   * An element. Attributes that are undefined, null or false are left out; children that are strings become text.
   * @template {keyof HTMLElementTagNameMap} K
   * @param {K} tag
   * @param {Record<string, string | number | boolean | null | undefined>} [attributes]
   * @param {...(Node | string)} children
   * @returns {HTMLElementTagNameMap[K]}
   */
  const h = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== null && value !== false) element.setAttribute(key, value === true ? "" : String(value));
    }
    element.append(...children);
    return element;
  };

  /** @param {number[]} values */
  const sum = (values) => values.reduce((total, x) => total + x, 0);

  /** @param {number[]} logits */
  const softmax = (logits) => {
    const top = Math.max(...logits);
    const powers = logits.map((x) => Math.exp(x - top));
    const total = sum(powers);
    return powers.map((x) => x / total);
  };

  /** The text with every invisible character drawn. @param {string} text */
  const visible = (text) =>
    text
      .replace(/ /g, "␣")
      .replace(/\n/g, "↵")
      .replace(/\t/g, "⇥")
      .replace(/\r/g, "␍")
      .replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Zs}]/gu, (c) => `\\u{${(c.codePointAt(0) ?? 0).toString(16)}}`);

  /** A number with so many digits after the point, and a true minus sign. @param {number} x @param {number} digits */
  const fixed = (x, digits) => (Number.isFinite(x) ? x.toFixed(digits).replace(/^-(?=0(\.0*)?$)/, "").replace(/^-/, "−") : String(x));

  /** The UTF-8 bytes of a text. @param {string} text */
  const bytes = (text) => Array.from(new TextEncoder().encode(text));

  /** @param {number} x @param {number} low @param {number} high */
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

  /** How many digits after the point a slider of this step needs. @param {number} step */
  const digitsOf = (step) => (String(step).split(".")[1] ?? "").length;

  /** A custom property, for colours and lengths. @param {HTMLElement} element @param {string} name @param {string} value */
  const style = (element, name, value) => element.style.setProperty(name, value);

  /** @param {KeyboardEvent} event */
  const plain = (event) => !event.altKey && !event.metaKey;

  /**
   * The parts, appended to `box`; `moved` is called after each move of the reader.
   * @param {HTMLElement} box
   * @param {() => void} moved
   * @returns {Ui}
   */
  const makeUi = (box, moved) => {
    /** @template {HTMLElement} E @param {E} element @returns {E} */
    const add = (element) => {
      box.append(element);
      return element;
    };

    /** A label above its control. @param {string} label @param {HTMLElement} control @param {...(Node | string)} rest */
    const field = (label, control, ...rest) => {
      control.id = control.id || fresh();
      return add(h("div", { class: "ml-field", "data-control": label }, h("label", { for: control.id }, label), control, ...rest));
    };

    /** @type {Ui["slider"]} */
    const slider = ({ label, min, max, step, value, unit = "", format }) => {
      const digits = digitsOf(step);
      const words = format ?? ((x) => fixed(x, digits) + (unit && ` ${unit}`));
      const input = h("input", { type: "range", min, max, step, value });
      const shown = h("output", { class: "ml-value", for: (input.id = fresh()), "aria-live": "off" });
      const tell = () => {
        shown.textContent = words(input.valueAsNumber);
        input.setAttribute("aria-valuetext", words(input.valueAsNumber));
      };
      input.addEventListener("input", () => (tell(), moved()));
      tell();
      return {
        element: field(label, input, shown),
        get value() {
          return input.valueAsNumber;
        },
        set: (x) => ((input.value = String(x)), tell()),
        limits: (low, high) => ((input.min = String(low)), (input.max = String(high)), tell()),
      };
    };

    /** @type {Ui["select"]} */
    const select = ({ label, options, value }) => {
      const input = h("select");
      for (const option of options) {
        const one = typeof option === "string" ? { value: option, label: option } : option;
        input.append(h("option", { value: one.value }, one.label));
      }
      if (value !== undefined) input.value = value;
      input.addEventListener("change", moved);
      return {
        element: field(label, input),
        get value() {
          return input.value;
        },
        set: (x) => void (input.value = x),
      };
    };

    /** @type {Ui["toggle"]} */
    const toggle = ({ label, value = false }) => {
      const input = h("input", { type: "checkbox", id: fresh() });
      input.checked = value;
      input.addEventListener("change", moved);
      return {
        element: add(h("div", { class: "ml-field ml-toggle", "data-control": label }, input, h("label", { for: input.id }, label))),
        get value() {
          return input.checked;
        },
        set: (x) => void (input.checked = x),
      };
    };

    /** @type {Ui["text"]} */
    const text = ({ label, value = "", rows = 2, maxLength = 2000, hint = "" }) => {
      const about = h("small", { class: "ml-hint", id: fresh() }, hint);
      const input = h("textarea", { rows, maxlength: maxLength, spellcheck: "false", "aria-describedby": hint ? about.id : null });
      input.value = value;
      input.addEventListener("input", moved);
      const element = field(label, input, ...(hint ? [about] : []));
      element.classList.add("ml-wide");
      return {
        element,
        get value() {
          return input.value;
        },
        set: (x) => void (input.value = x),
      };
    };

    /** @type {Ui["button"]} */
    const button = ({ label, press }) => {
      const element = add(h("button", { type: "button", class: "ml-button" }, label));
      element.addEventListener("click", () => (press(), moved()));
      return { element };
    };

    /** @type {Ui["steps"]} */
    const steps = ({ label, count, value = 0, describe = () => "", interval = 1000 }) => {
      /** @type {number | undefined} */
      let timer;
      const range = h("input", { type: "range", min: 0, max: count - 1, step: 1, value, id: fresh() });
      const shown = h("span", { class: "ml-value", role: "status" });
      const back = h("button", { type: "button", class: "ml-button", "aria-label": "Previous step" }, "◀");
      const next = h("button", { type: "button", class: "ml-button", "aria-label": "Next step" }, "▶");
      const play = h("button", { type: "button", class: "ml-button ml-play" }, "Play");
      const last = () => Number(range.max);
      const tell = () => {
        const step = range.valueAsNumber;
        const said = describe(step);
        const told = `${step} of ${last()}${said && `: ${said}`}`;
        shown.textContent = told;
        shown.dataset.value = String(step);
        range.setAttribute("aria-valuetext", told);
        // aria-disabled, not disabled: a button that loses the focus at the end would throw a keyboard reader out of the figure
        back.setAttribute("aria-disabled", String(step === 0));
        next.setAttribute("aria-disabled", String(step === last()));
      };
      const stop = () => {
        clearInterval(timer);
        timer = undefined;
        play.textContent = "Play";
      };
      /** @param {number} step */
      const go = (step) => {
        const before = range.valueAsNumber;
        range.value = String(clamp(step, 0, last()));
        if (range.valueAsNumber !== before) (tell(), moved());
      };
      back.addEventListener("click", () => (stop(), go(range.valueAsNumber - 1)));
      next.addEventListener("click", () => (stop(), go(range.valueAsNumber + 1)));
      range.addEventListener("input", () => (stop(), tell(), moved()));
      play.addEventListener("click", () => {
        if (timer !== undefined) return stop();
        if (range.valueAsNumber === last()) go(0);
        play.textContent = "Pause";
        timer = window.setInterval(() => {
          go(range.valueAsNumber + 1);
          if (range.valueAsNumber === last()) stop();
        }, interval);
      });
      tell();
      const group = h("div", { class: "ml-steps", role: "group", "aria-label": label }, back, play, next, range, shown);
      return {
        element: add(h("div", { class: "ml-field ml-wide", "data-control": label }, h("label", { for: range.id }, label), group)),
        get value() {
          return range.valueAsNumber;
        },
        set: (step) => ((range.value = String(clamp(step, 0, last()))), tell()),
        count: (n) => (stop(), (range.max = String(Math.max(n - 1, 0))), tell()),
        stop,
      };
    };

    /** @type {Ui["chips"]} */
    const chips = ({ label, select: selectable = false, limit = 2000 }) => {
      let chosen = -1;
      const list = h("div", { class: "ml-chips", role: selectable ? "listbox" : "list", "aria-label": label, "data-chips": label });
      if (selectable) list.setAttribute("aria-orientation", "horizontal");
      const more = h("small", { class: "ml-hint" });
      const items = () => /** @type {HTMLElement[]} */ (Array.from(list.children));
      const mark = () => {
        items().forEach((item, i) => {
          item.setAttribute("aria-selected", String(i === chosen));
          item.tabIndex = i === Math.max(chosen, 0) ? 0 : -1;
        });
      };
      /** @param {number} index */
      const pick = (index) => {
        const item = items()[index];
        if (!item) return;
        chosen = index;
        mark();
        item.focus();
        moved();
      };
      if (selectable) {
        list.addEventListener("click", (event) => pick(items().indexOf(/** @type {HTMLElement} */ (event.target).closest("[role=option]") ?? list)));
        list.addEventListener("keydown", (event) => {
          const at = items().indexOf(/** @type {HTMLElement} */ (document.activeElement));
          const end = items().length - 1;
          /** @type {Record<string, number>} */
          const moves = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: end, Enter: at, " ": at };
          if (!plain(event) || !(event.key in moves)) return;
          event.preventDefault();
          pick(clamp(moves[event.key], 0, end));
        });
      }
      return {
        element: add(h("div", { class: "ml-part" }, h("div", { class: "ml-label", "aria-hidden": true }, label), list, more)),
        get value() {
          return chosen;
        },
        set: (pieces) => {
          const focused = list.contains(document.activeElement);
          list.replaceChildren(
            ...pieces.slice(0, limit).map((piece, i) => {
              const color = piece.color === undefined ? i % 6 : piece.color;
              const note = piece.note === undefined ? [] : [h("small", {}, String(piece.note))];
              const chip = h("span", { class: "ml-chip", role: selectable ? "option" : "listitem", "data-text": piece.text, title: piece.title });
              if (color !== null) style(chip, "--chip", `var(--c${color % 6})`);
              chip.append(h("span", { "aria-hidden": piece.title && "true" }, visible(piece.text), ...note));
              if (piece.title) chip.append(h("span", { class: "ml-hidden" }, piece.title)); // said in place of what is shown
              return chip;
            }),
          );
          more.textContent = pieces.length > limit ? `… and ${pieces.length - limit} more` : "";
          chosen = Math.min(chosen, Math.min(pieces.length, limit) - 1);
          if (selectable) mark();
          if (focused && selectable) items()[Math.max(chosen, 0)]?.focus();
        },
        select: (index) => {
          chosen = clamp(index, -1, items().length - 1);
          if (selectable) mark();
        },
      };
    };

    /** @type {Ui["grid"]} */
    const grid = ({ label, digits = 2, max, format, select: selectable = true, numbers = true }) => {
      let row = 0;
      let column = 0;
      /** @type {HTMLElement[][]} */
      let cells = [];
      const words = format ?? ((x) => fixed(x, digits));
      const table = h("div", { class: "ml-grid", role: selectable ? "grid" : "table", "aria-label": label, "data-grid": label });
      const mark = () => {
        if (!selectable) return;
        cells.forEach((line, i) =>
          line.forEach((cell, j) => {
            cell.tabIndex = i === row && j === column ? 0 : -1;
            cell.setAttribute("aria-selected", String(i === row && j === column));
            cell.classList.toggle("ml-cross", (i === row || j === column) && !(i === row && j === column));
          }),
        );
      };
      /** @param {number} i @param {number} j */
      const pick = (i, j) => {
        row = clamp(i, 0, cells.length - 1);
        column = clamp(j, 0, (cells[0]?.length ?? 1) - 1);
        mark();
        cells[row]?.[column]?.focus();
        moved();
      };
      if (selectable) {
        table.addEventListener("click", (event) => {
          const cell = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest("[role=gridcell]"));
          if (cell) pick(Number(cell.dataset.row), Number(cell.dataset.column));
        });
        table.addEventListener("keydown", (event) => {
          const [bottom, right] = [cells.length - 1, (cells[0]?.length ?? 1) - 1];
          /** @type {Record<string, [number, number]>} */
          const moves = {
            ArrowUp: [row - 1, column],
            ArrowDown: [row + 1, column],
            ArrowLeft: [row, column - 1],
            ArrowRight: [row, column + 1],
            Home: [event.ctrlKey ? 0 : row, 0],
            End: [event.ctrlKey ? bottom : row, right],
            PageUp: [0, column],
            PageDown: [bottom, column],
          };
          if (!plain(event) || !(event.key in moves)) return;
          event.preventDefault();
          pick(...moves[event.key]);
        });
      }
      return {
        element: add(h("div", { class: "ml-part" }, h("div", { class: "ml-label", "aria-hidden": true }, label), h("div", { class: "ml-scroll" }, table))),
        get row() {
          return row;
        },
        get column() {
          return column;
        },
        set: (values, { rows, columns } = {}) => {
          const focused = table.contains(document.activeElement);
          const width = values[0]?.length ?? 0;
          const top = max ?? Math.max(...values.flat().map((x) => Math.abs(x ?? 0)), 1e-30);
          const left = rows ? "auto " : "";
          style(table, "grid-template-columns", `${left}repeat(${width}, minmax(0, 1fr))`);
          style(table, "--columns", String(width));
          table.classList.toggle("ml-fine", width > 12 || !numbers);
          table.replaceChildren();
          if (columns) {
            const heads = columns.map((name) => h("span", { role: "columnheader", class: "ml-head", title: name }, visible(name)));
            if (rows) heads.unshift(h("span", { role: "columnheader", class: "ml-head" }, h("span", { class: "ml-hidden" }, "row")));
            table.append(h("div", { role: "row", class: "ml-row" }, ...heads));
          }
          cells = values.map((line, i) =>
            line.map((x, j) => {
              const where = `${rows?.[i] ?? `row ${i + 1}`}, ${columns?.[j] ?? `column ${j + 1}`}`;
              const said = x === null ? "masked" : words(x);
              const cell = h("span", { role: selectable ? "gridcell" : "cell", class: "ml-cell", "data-row": i, "data-column": j, title: `${where}: ${said}` });
              cell.append(h("span", { class: "ml-hidden" }, `${where}: `), h("span", { class: "ml-number" }, x === null ? "" : said));
              if (x === null) {
                cell.classList.add("ml-masked");
                cell.append(h("span", { class: "ml-hidden" }, said));
              } else {
                cell.dataset.value = String(x);
                style(cell, "--share", clamp(Math.abs(x) / top, 0, 1).toFixed(3));
                style(cell, "--hue", x < 0 ? "var(--c1)" : "var(--c0)");
              }
              return cell;
            }),
          );
          cells.forEach((line, i) => {
            const head = rows ? [h("span", { role: "rowheader", class: "ml-head ml-left", title: rows[i] }, visible(rows[i]))] : [];
            table.append(h("div", { role: "row", class: "ml-row" }, ...head, ...line));
          });
          row = clamp(row, 0, Math.max(cells.length - 1, 0));
          column = clamp(column, 0, Math.max(width - 1, 0));
          mark();
          if (focused) cells[row]?.[column]?.focus();
        },
        select: (i, j) => {
          row = clamp(i, 0, Math.max(cells.length - 1, 0));
          column = clamp(j, 0, Math.max((cells[0]?.length ?? 1) - 1, 0));
          mark();
        },
      };
    };

    /** @type {Ui["readout"]} */
    const readout = ({ label, unit = "", digits = 2, value = "", quiet = false }) => {
      const number = h("span", { class: "ml-value" });
      const element = add(h("div", { class: "ml-readout", role: quiet ? null : "status", "data-readout": label }, h("span", { class: "ml-label" }, label), " ", number));
      /** @param {number | string} x */
      const set = (x) => {
        element.dataset.value = String(x);
        const told = (typeof x === "number" ? fixed(x, digits) : x) + (unit && ` ${unit}`);
        if (number.textContent !== told) number.textContent = told; // an unchanged number is not read out again
      };
      set(value);
      return { element, set };
    };

    /** @type {Ui["bars"]} */
    const bars = ({ label, max, unit = "", digits = 2, format }) => {
      const words = format ?? ((x) => fixed(x, digits) + (unit && ` ${unit}`));
      const body = h("tbody");
      const table = h("table", { class: "ml-bars", "data-bars": label }, h("caption", { class: "ml-label" }, label), body);
      return {
        element: add(h("div", { class: "ml-part" }, table)),
        set: (list) => {
          const top = max ?? Math.max(...list.map((bar) => Math.abs(bar.value)), 1e-30);
          while (body.rows.length > list.length) body.deleteRow(-1);
          list.forEach((bar, i) => {
            // rows are kept and changed, so that bars glide instead of jumping
            const row =
              body.rows[i] ??
              body.appendChild(h("tr", {}, h("th", { scope: "row" }), h("td", { class: "ml-track" }, h("span", { class: "ml-bar" })), h("td", { class: "ml-value" })));
            const [name, track, number] = /** @type {HTMLElement[]} */ (Array.from(row.cells));
            row.dataset.label = bar.label;
            row.dataset.value = String(bar.value);
            row.classList.toggle("ml-marked", Boolean(bar.mark));
            name.title = bar.label;
            name.replaceChildren(visible(bar.label).replace(/(?<!^)␣(?!$)/g, " "), ...(bar.mark ? [h("span", { class: "ml-hidden" }, " (marked)")] : []));
            number.textContent = words(bar.value);
            const fill = /** @type {HTMLElement} */ (track.firstElementChild);
            style(fill, "width", `${(100 * clamp(Math.abs(bar.value) / top, 0, 1)).toFixed(2)}%`);
            style(fill, "min-width", bar.value === 0 ? "0" : "1px"); // little is not nothing
            style(fill, "--hue", `var(--c${bar.mark ? 1 : (bar.color ?? 0) % 6})`);
          });
        },
      };
    };

    /** @type {Ui["note"]} */
    const note = (words) => {
      const element = add(h("p", { class: "ml-note", role: "status" }, words));
      return {
        element,
        set: (next) => {
          if (element.textContent !== next) element.textContent = next;
        },
      };
    };

    /** @type {Ui["group"]} */
    const group = (label) => {
      const element = add(h("div", { class: "ml-group", role: label ? "group" : null, "aria-label": label }));
      return { ...makeUi(element, moved), element };
    };

    return { slider, select, toggle, text, button, steps, chips, grid, readout, bars, note, group };
  };

  /** Take the page's colours, sent by bridge.js; anything that is no colour is ignored. @param {HTMLElement} root */
  const followPage = (root) => {
    const page = document.documentElement;
    const reveal = () => page.classList.remove("ml-waiting");
    window.addEventListener("message", (event) => {
      const theme = event.source === window.parent ? event.data : null;
      if (theme?.minillm !== "theme") return;
      for (const name of ["fg", "bg"]) if (CSS.supports("color", theme[name])) style(page, `--${name}`, theme[name]);
      if (typeof theme.font === "string") style(page, "font-family", theme.font);
      root.dataset.theme = theme.dark === true ? "dark" : "light";
      page.dataset.theme = root.dataset.theme;
      reveal();
    });
    const told = () => window.parent.postMessage({ minillm: "height", height: Math.ceil(root.getBoundingClientRect().height) }, "*");
    new ResizeObserver(told).observe(root);
    window.parent.postMessage({ minillm: "hello" }, "*");
    setTimeout(reveal, 400); // a page without the bridge: draw in our own colours
  };

  /**
   * Build the frame's figure: `setup` makes the parts and returns what draws them.
   * @param {Setup} setup
   */
  const explorer = (setup) => {
    const root = /** @type {HTMLElement} */ (document.querySelector("main"));
    const data = JSON.parse(document.getElementById("ml-data")?.textContent ?? "null");
    let draws = 0;
    /** @type {void | (() => void)} */
    let draw;
    /** @param {unknown} error */
    const failed = (error) => {
      root.append(h("p", { class: "ml-error", role: "alert" }, `This figure failed: ${error}`));
      throw error;
    };
    const moved = () => {
      try {
        if (draw) draw();
      } catch (error) {
        failed(error);
      }
      root.dataset.draws = String((draws += 1));
    };
    followPage(root);
    try {
      draw = setup({ data, root, ui: makeUi(root, moved) });
    } catch (error) {
      failed(error);
    }
    moved();
    root.dataset.ready = "true";
  };

  return { explorer, h, sum, softmax, visible, fixed, bytes };
})();
