// @ts-check
// A query and a key, turned for two positions: every pair is a dial with two hands. Moved together, the score stays.
minillm.explorer(({ data, root, ui }) => {
  /** @type {{ query: number[][], key: number[][], base: number, bases: number[], longest: number }} */
  const { query, key, base, bases, longest } = data;
  const width = 2 * query.length;
  const places = ui.group();
  const t = places.slider({ label: "Position of the query", min: 0, max: longest - 1, step: 1, value: Math.min(5, longest - 1) });
  const s = places.slider({ label: "Position of the key", min: 0, max: longest - 1, step: 1, value: Math.min(2, longest - 1) });
  const together = places.toggle({ label: "Move both together" });
  const speeds = ui.group();
  const pair = speeds.slider({ label: "Pair", min: 0, max: query.length - 1, step: 1, value: Math.min(1, query.length - 1) });
  const power = speeds.slider({
    label: "Base",
    min: 0,
    max: bases.length - 1,
    step: 1,
    value: bases.indexOf(base),
    format: (i) => bases[i].toLocaleString("en-US"),
  });
  const numbers = ui.group();
  const distance = numbers.readout({ label: "Distance", digits: 0 });
  const between = numbers.readout({ label: "Angle from key to query", unit: "°", digits: 1 });
  const one = numbers.readout({ label: "This pair adds", digits: 3 });
  const total = numbers.readout({ label: "Score of all pairs", digits: 3 });

  const legend = minillm.h("p", { class: "ml-note" }, "Each dial is a pair: the blue hand is the query's, the orange one the key's. Pink bars lower the score.");
  root.append(legend);
  const dials = minillm.h("div", { role: "group", "aria-label": "Dials of all pairs" });
  dials.style.cssText = "display:flex;flex-wrap:wrap;gap:0.3rem;margin:0.5rem 0";
  root.append(dials);
  const bars = ui.bars({ label: "What each pair adds to the score", digits: 3 });

  /** @param {string} tag @param {Record<string, string | number>} attributes */
  const svg = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    return element;
  };
  const hand = (/** @type {string} */ color) => svg("line", { x1: 0, y1: 0, "stroke-width": 5, "stroke-linecap": "round", stroke: color });
  const faces = query.map((_, i) => {
    const [face, q, k] = [svg("circle", { r: 44, fill: "none", stroke: "var(--line)", "stroke-width": 2 }), hand("var(--c0)"), hand("var(--c1)")];
    const box = svg("svg", { viewBox: "-50 -50 100 100", width: 76, height: 76, "aria-hidden": "true" });
    box.append(face, q, k);
    const button = minillm.h("button", { type: "button", class: "ml-button", "aria-label": `Choose pair ${i}` }, box, minillm.h("span", { "aria-hidden": "true" }, `pair ${i}`));
    button.style.cssText = "display:grid;justify-items:center;padding:0.15rem";
    button.addEventListener("click", () => choose(i));
    dials.append(button);
    return { button, face, q, k };
  });

  /** As if the reader had moved the slider, so that everything is drawn again. @param {number} i */
  const choose = (i) => {
    pair.set(i);
    pair.element.querySelector("input")?.dispatchEvent(new Event("input"));
  };

  let [before, there] = [t.value, s.value];
  /** The slider that was not moved follows the other, both as far as there is room. */
  const follow = () => {
    const step = t.value - before || s.value - there;
    const room = Math.max(-Math.min(before, there), Math.min(step, longest - 1 - Math.max(before, there)));
    t.set(before + room);
    s.set(there + room);
  };
  const lengths = [...query, ...key].map(([x, y]) => Math.hypot(x, y));
  const longestHand = Math.max(...lengths, 1e-9);

  return () => {
    if (together.value) follow();
    [before, there] = [t.value, s.value];
    const chosen = pair.value;
    /** @param {number[]} point @param {number} angle */
    const turn = ([x, y], angle) => [x * Math.cos(angle) - y * Math.sin(angle), x * Math.sin(angle) + y * Math.cos(angle)];
    const added = query.map((point, i) => {
      const speed = bases[power.value] ** ((-2 * i) / width);
      const [a, b] = [turn(point, t.value * speed), turn(key[i], s.value * speed)];
      const { button, face, q, k } = faces[i];
      for (const [line, [x, y]] of /** @type {[Element, number[]][]} */ ([[q, a], [k, b]])) {
        const scale = 14 / Math.max(Math.hypot(x, y), 1e-9) + 28 / longestHand; // a hand is never too short to see
        line.setAttribute("x2", (x * scale).toFixed(2));
        line.setAttribute("y2", (-y * scale).toFixed(2));
      }
      face.setAttribute("stroke", i === chosen ? "var(--fg)" : "var(--line)");
      button.setAttribute("aria-pressed", String(i === chosen));
      if (i === chosen) {
        const angle = Math.atan2(a[1], a[0]) - Math.atan2(b[1], b[0]);
        between.set((((angle * 180) / Math.PI + 540) % 360) - 180);
      }
      return (a[0] * b[0] + a[1] * b[1]) / Math.sqrt(width);
    });
    distance.set(t.value - s.value);
    one.set(added[chosen]);
    total.set(minillm.sum(added));
    bars.set(added.map((value, i) => ({ label: `pair ${i}`, value, color: value < 0 ? 3 : 0, mark: i === chosen })));
  };
});
