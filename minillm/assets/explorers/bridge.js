// @ts-check
/*
Stands in the page beside each explorer's frame. The frame is sandboxed and cannot see the page, so the page tells it its
colours and takes its height. Only messages of such a frame are heard: the sender must be its window, the origin "null".
*/
(() => {
  const page = /** @type {any} */ (window);
  if (page[Symbol.for("minillm.bridge")]) return; // one is enough for all frames of a page
  page[Symbol.for("minillm.bridge")] = true;

  const frames = () => /** @type {HTMLIFrameElement[]} */ (Array.from(document.querySelectorAll("iframe.ml-frame")));

  /** The first colour painted behind an element. @param {Element | null} element */
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (!/^(transparent|rgba\(.*, 0\))$/.test(color)) return color;
    }
    return "";
  };

  /** Is text of this colour light, so that the page must be dark? @param {string} color */
  const isLight = (color) => {
    const [red, green, blue] = (color.match(/[\d.]+/g) ?? []).map(Number);
    return 0.3 * red + 0.59 * green + 0.11 * blue > 128;
  };

  /** @param {HTMLIFrameElement} frame */
  const tell = (frame) => {
    const box = frame.parentElement ?? document.body;
    const { color, fontFamily } = getComputedStyle(box);
    const dark = isLight(color);
    const bg = background(box) || (dark ? "#121212" : "#ffffff");
    // a sandboxed document has no address to send to; the message holds colours and nothing else
    frame.contentWindow?.postMessage({ minillm: "theme", dark, fg: color, bg, font: fontFamily }, "*");
  };

  window.addEventListener("message", (event) => {
    if (event.origin !== "null") return;
    const frame = frames().find((one) => one.contentWindow === event.source);
    if (!frame) return;
    if (event.data?.minillm === "hello") tell(frame);
    const height = event.data?.minillm === "height" ? Number(event.data.height) : NaN;
    if (height >= 40) frame.style.height = `${Math.min(height, 4000)}px`;
  });

  let late = 0;
  const changed = () => {
    frames().forEach(tell);
    clearTimeout(late);
    late = window.setTimeout(() => frames().forEach(tell), 400); // style sheets that load or fade in after the attribute changed
  };
  const watch = new MutationObserver(changed);
  for (const element of [document.documentElement, document.body]) watch.observe(element, { attributes: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
})();
