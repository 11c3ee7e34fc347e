// @ts-check
// A ball in a valley, moved by a rule: its path for a learning rate, a momentum, a steepness, and a valley that may be turned.
minillm.explorer(({ data, root, ui }) => {
  /** @type {{ start: number[], rates: number[], rate: number, steepnesses: number[], steepness: number, steps: number, second: Record<string, number>, eps: number }} */
  const { start, rates, rate, steepnesses, steepness, steps, second, eps } = data;
  const settings = ui.group();
  const rule = settings.select({ label: "Optimiser", options: [{ value: "sgd", label: "SGD" }, { value: "adamw", label: "AdamW" }, { value: "lion", label: "Lion" }] });
  const speed = settings.slider({
    label: "Learning rate",
    min: 0,
    max: rates.length - 1,
    step: 1,
    value: rates.indexOf(rate),
    format: (i) => String(Number(rates[i].toPrecision(3))),
  });
  const momentum = settings.slider({ label: "Momentum", min: 0, max: 0.99, step: 0.01, value: 0 });
  const place = ui.group();
  const steep = place.slider({
    label: "Steepness",
    min: 0,
    max: steepnesses.length - 1,
    step: 1,
    value: steepnesses.indexOf(steepness),
    format: (i) => `${steepnesses[i]} : 1`,
  });
  const turned = place.toggle({ label: "Turn the valley" });
  const made = ui.steps({ label: "Steps made", count: steps + 1, value: Math.min(30, steps), interval: 120 });
  const numbers = ui.group();
  const height = numbers.readout({ label: "Height", digits: 4 });
  const lowest = numbers.readout({ label: "Lowest so far", digits: 4 });
  const along = numbers.readout({ label: "Along the valley", digits: 3 });
  const across = numbers.readout({ label: "Across the valley", digits: 3 });
  const words = ui.note("");

  /** @param {string} tag @param {Record<string, string | number>} attributes */
  const svg = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    return element;
  };
  const box = svg("svg", { viewBox: "-5 -3.2 10 6.4", width: "100%", "aria-hidden": "true" });
  const rings = svg("g", { fill: "none", stroke: "var(--line)", "stroke-width": 0.03 });
  const line = svg("polyline", { fill: "none", stroke: "var(--c0)", "stroke-width": 0.04 });
  const dots = svg("g", { fill: "var(--c0)" });
  const ball = svg("circle", { r: 0.14, fill: "var(--c1)" });
  box.append(rings, line, dots, ball);
  root.append(box);

  /** From the valley's own axes to the page's, or back. @param {number[]} point @param {number} sign */
  const turn = ([x, y], sign) => (turned.value ? [Math.SQRT1_2 * (x - sign * y), Math.SQRT1_2 * (sign * x + y)] : [x, y]);

  /** The places of the ball, on the page's axes, before the first step and after each. */
  const walk = () => {
    const [lr, beta, other, stretch] = [rates[speed.value], momentum.value, second[rule.value], [1, steepnesses[steep.value]]];
    let point = turn(start, 1);
    const [mean, square, path] = [[0, 0], [0, 0], [point]];
    for (let t = 1; t <= made.value; t += 1) {
      const slope = turn(turn(point, -1).map((x, i) => stretch[i] * x), 1);
      point = point.map((x, i) => {
        const g = slope[i];
        if (rule.value === "sgd") {
          mean[i] = beta * mean[i] + g;
          return x - lr * mean[i];
        }
        const mixed = mean[i] + (1 - beta) * (g - mean[i]);
        if (rule.value === "lion") {
          mean[i] += (1 - other) * (g - mean[i]);
          return x - lr * Math.sign(mixed);
        }
        mean[i] = mixed;
        square[i] = other * square[i] + (1 - other) * g * g;
        const size = Math.sqrt(square[i]) / Math.sqrt(1 - other ** t) + eps;
        return x - ((lr / (1 - beta ** t)) * mixed) / size;
      });
      path.push(point);
    }
    return path;
  };

  return () => {
    const stretch = steepnesses[steep.value];
    const path = walk();
    const own = path.map((point) => turn(point, -1));
    const heights = own.map(([u, w]) => (u * u + stretch * w * w) / 2);
    const [last, least] = [heights[heights.length - 1], Math.min(...heights)];
    height.set(last);
    lowest.set(least);
    along.set(own[own.length - 1][0]);
    across.set(own[own.length - 1][1]);
    const swings = own.filter(([, w], k) => k > 0 && w * own[k - 1][1] < 0).length;
    const fate = last > heights[0] ? "The ball is higher than where it began: the rate is too large." : `It is at ${((100 * last) / heights[0]).toFixed(1)} % of its first height.`;
    words.set(`After ${made.value} steps the ball has crossed the valley ${swings} times. ${fate}`);
    rings.replaceChildren(
      ...[0.25, 1, 2.25, 4, 6.25, 9, 16, 25, 36].map((k) => svg("ellipse", { rx: 1.4 * Math.sqrt(k), ry: (1.4 * Math.sqrt(k)) / Math.sqrt(stretch), transform: turned.value ? "rotate(-45)" : "" })),
    );
    const drawn = path.map(([x, y]) => [Math.max(-99, Math.min(99, x)).toFixed(3), Math.max(-99, Math.min(99, -y)).toFixed(3)]);
    line.setAttribute("points", drawn.map((point) => point.join(",")).join(" "));
    dots.replaceChildren(...drawn.map(([cx, cy]) => svg("circle", { cx, cy, r: 0.06 })));
    ball.setAttribute("cx", drawn[drawn.length - 1][0]);
    ball.setAttribute("cy", drawn[drawn.length - 1][1]);
  };
});
