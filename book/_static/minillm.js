// @ts-check
// What a page does beyond standing still: it keeps a reader's predictions, and covers what they are asked to predict.
// Without this script everything is visible. Nothing leaves the page; notes live in this browser's localStorage.

(() => {
  "use strict";

  /** @param {string} key @returns {string | null} */
  function recall(key) {
    try { return localStorage.getItem(key); } catch { return null; }
  }

  /** @param {string} key @param {string} value */
  function remember(key, value) {
    try { localStorage.setItem(key, value); } catch { /* private windows may refuse; the note then lasts as long as the page */ }
  }

  /** @param {Element} a @param {Element} b @returns {boolean} whether a comes before b in the page */
  function before(a, b) {
    return Boolean(a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING);
  }

  /**
   * Give one prediction its box, cover what lies between it and its answer, and open both on request.
   * @param {HTMLElement} box @param {HTMLDetailsElement | undefined} answer @param {HTMLElement[]} outputs @param {string} key
   */
  function predict(box, answer, outputs, key) {
    const row = document.createElement("form");
    row.className = "ml-note";
    const label = document.createElement("label");
    label.append("Your prediction");
    const input = document.createElement("input");
    input.type = "text";
    input.autocomplete = "off";
    label.append(input);
    const button = document.createElement("button");
    button.type = "submit";
    button.textContent = "Compare";
    row.append(label, button);
    box.append(row);

    const curtains = outputs.map((output) => {
      const curtain = document.createElement("div");
      curtain.className = "ml-curtain";
      curtain.textContent = "Covered until you have noted a prediction above, or pressed Compare without one.";
      output.before(curtain);
      output.classList.add("ml-covered");
      return curtain;
    });

    /** @param {boolean} open */
    function reveal(open) {
      for (const output of outputs) output.classList.remove("ml-covered");
      for (const curtain of curtains) curtain.remove();
      button.textContent = "Compare again";
      if (!answer) return;
      let beside = answer.querySelector(".ml-beside");
      if (!beside) {
        beside = document.createElement("p");
        beside.className = "ml-beside";
        beside.setAttribute("role", "status");
        answer.querySelector("summary")?.after(beside);
      }
      const measured = answer.querySelector(".ml-measured")?.textContent;
      const yours = input.value.trim() ? `You predicted: ${input.value.trim()}.` : "You noted no prediction.";
      beside.textContent = measured ? `${yours} Measured: ${measured}.` : yours;
      if (open) answer.open = true;
    }

    row.addEventListener("submit", (event) => {
      event.preventDefault();
      remember(key, input.value);
      reveal(true);
    });
    const earlier = recall(key);
    if (earlier !== null) {
      input.value = earlier;
      reveal(false);
    }
  }

  function setUp() {
    const boxes = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("div.admonition.ml-predict")]);
    const answers = /** @type {HTMLDetailsElement[]} */ ([...document.querySelectorAll("details.ml-answer")]);
    const outputs = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("div.cell_output")]);
    boxes.forEach((box, k) => {
      const answer = answers.find((a) => before(box, a) && (!boxes[k + 1] || before(a, boxes[k + 1])));
      const between = answer ? outputs.filter((o) => before(box, o) && before(o, answer)) : [];
      predict(box, answer, between, `minillm:${location.pathname.split("/").pop()}:${k}`);
    });
    // what scrolls sideways on a phone must be reachable by keyboard
    for (const wide of document.querySelectorAll("figure.ml-figure, .bd-article table, div.cell_output .output, mjx-container")) {
      if (wide.scrollWidth > wide.clientWidth + 1) wide.setAttribute("tabindex", "0");
    }
    // the theme's names for screen readers: a name must hold the words that are shown
    for (const named of document.querySelectorAll('summary[aria-label="Toggle hidden content"], .search-button-field[aria-label]')) {
      named.removeAttribute("aria-label");
    }
    for (const arrow of document.querySelectorAll(".bd-sidebar summary")) arrow.setAttribute("aria-label", "Show or hide the pages below");
    for (const list of document.querySelectorAll('.citation-list[role="list"]')) list.removeAttribute("role");
    // a link into a fold opens it; so does printing
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = target && target.closest("details");
    if (fold) fold.open = true;
    window.addEventListener("beforeprint", () => {
      for (const details of document.querySelectorAll("details")) details.open = true;
    });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", setUp);
  else setUp();
})();
