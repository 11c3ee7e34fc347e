"""The explorer kit in a real browser: keys, numbers, themes, narrow screens, paper, hostile text; and the types of its scripts."""

import json
import re

import pytest
from conftest import HERE, ROOT, node, page_of
from explorer_checks import check_temperature, number

from minillm.explorers import Explorer
from minillm.figures import bars, figure

SCRIPTS = sorted((ROOT / "minillm" / "assets" / "explorers").glob("*.js"))

EVERYTHING = """minillm.explorer(({ data, ui }) => {
  const row = ui.group("Settings");
  const pattern = row.select({ label: "Pattern", options: [{ value: "a", label: "First" }, { value: "b", label: "Second" }] });
  const causal = row.toggle({ label: "Causal", value: true });
  const scale = ui.slider({ label: "Scale", min: 0, max: 2, step: 0.25, value: 1, unit: "times" });
  const steps = ui.steps({ label: "Merges", count: 4, describe: (i) => `merge ${i}`, interval: 50 });
  const text = ui.text({ label: "Your text", value: data.text, hint: "Type anything." });
  const chips = ui.chips({ label: "Characters", select: true });
  const grid = ui.grid({ label: "Weights" });
  const weight = ui.readout({ label: "Weight", digits: 2 });
  const bars = ui.bars({ label: "Counts" });
  const note = ui.note("");
  let pressed = 0;
  ui.button({ label: "Again", press: () => { pressed += 1; } });
  return () => {
    chips.set(Array.from(text.value).map((c, i) => ({ text: c, note: i })));
    const words = ["the", " cat", " sat"];
    grid.set(words.map((_, i) => words.map((_, j) => (causal.value && j > i ? null : scale.value * (3 * i + j)))), { rows: words, columns: words });
    weight.set(scale.value * (3 * grid.row + grid.column));
    bars.set(words.map((label, i) => ({ label, value: i - 1, mark: i === 2 })));
    note.set(`${pattern.value} step ${steps.value} chip ${chips.value} cell ${grid.row},${grid.column} pressed ${pressed}`);
  };
});"""

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><!--<script>\u2028\u2029&amp;\"'`${1}\\"


def everything(text: str = "ab c\n") -> Explorer:
    still = "<svg viewBox='0 0 10 10'><rect width='10' height='10'/></svg>"
    return Explorer(
        "everything", title="Every part", description="One of each part.", data={"text": text}, still=still, caption="All parts.", script=EVERYTHING
    )


def temperature() -> Explorer:
    still, axes = figure(height=1.5)
    bars(axes, ["mat", "moon"], [0.5, 0.5])
    data = {"words": ["mat", "sofa", "roof", "moon"], "logits": [2.0, 1.5, 0.5, -1.0]}
    return Explorer(
        "temperature", title="Temperature", description="Bars; move the slider.", data=data, still=still, caption="Cold and hot.", label="fig-temperature"
    )


def note(frame) -> str:
    return frame.locator(".ml-note").inner_text()


def test_temperature_shows_what_python_computes(visit):
    frame = visit(page_of(temperature())).frames()[0]
    check_temperature(frame)


def test_every_part_moves_by_keyboard(visit):
    opened = visit(page_of(everything()))
    frame = opened.frames()[0]
    press = opened.page.keyboard.press
    assert note(frame) == "a step 0 chip -1 cell 0,0 pressed 0"

    frame.get_by_label("Pattern").focus()
    press("ArrowDown")
    press("Tab")
    assert frame.get_by_label("Causal").evaluate("e => e === document.activeElement"), "Tab goes from part to part"
    assert frame.locator("[data-row='0'][data-column='2']").get_attribute("data-value") is None, "masked"
    press("Space")
    assert number(frame, "[data-row='0'][data-column='2']") == 2
    press("Tab")
    press("ArrowRight")
    assert number(frame, "[data-row='2'][data-column='1']") == 1.25 * 7
    assert frame.get_by_label("Scale").get_attribute("aria-valuetext") == "1.25 times"

    frame.get_by_role("button", name="Next step").press("Enter")
    frame.get_by_role("button", name="Next step").press("Space")
    frame.get_by_role("button", name="Previous step").press("Enter")
    assert "step 1" in note(frame) and frame.locator(".ml-steps [data-value]").inner_text() == "1 of 3: merge 1"
    frame.get_by_label("Merges").last.press("End")
    assert "step 3" in note(frame)

    box = frame.get_by_label("Your text")
    box.fill("日本")
    assert frame.locator("[data-chips] [data-text]").evaluate_all("all => all.map((e) => e.dataset.text)") == ["日", "本"]
    chip = frame.locator("[data-chips] [role=option]").first
    chip.focus()
    press("End")
    assert "chip 1" in note(frame) and frame.locator("[data-chips] [aria-selected=true]").get_attribute("data-text") == "本"
    press("ArrowLeft")
    assert "chip 0" in note(frame)

    frame.locator("[role=gridcell][tabindex='0']").focus()
    for key, cell in (("ArrowDown", "1,0"), ("End", "1,2"), ("PageDown", "2,2"), ("Home", "2,0"), ("Control+Home", "0,0"), ("ArrowUp", "0,0")):
        press(key)
        assert f"cell {cell}" in note(frame), key
        assert frame.locator("[role=gridcell]:focus").count() == 1, f"{key} keeps the focus in the grid although it is drawn anew"
    press("Control+End")
    assert number(frame, "[data-readout=Weight]") == 1.25 * 8

    frame.get_by_role("button", name="Again").press("Enter")
    assert "pressed 1" in note(frame)
    assert opened.complaints == [] and opened.left == []


def test_play_walks_to_the_end_and_stops(visit):
    frame = visit(page_of(everything())).frames()[0]
    play = frame.get_by_role("button", name="Play")
    play.press("Enter")
    frame.wait_for_selector(".ml-steps [data-value='3']")
    frame.wait_for_selector(".ml-play:text-is('Play')")


def test_a_move_draws_once(visit):
    frame = visit(page_of(temperature())).frames()[0]
    assert frame.locator("main").get_attribute("data-draws") == "1"
    frame.get_by_label("Temperature").press("ArrowRight")
    assert frame.locator("main").get_attribute("data-draws") == "2"


def test_pointer_moves_grid_and_chips(visit):
    frame = visit(page_of(everything())).frames()[0]
    frame.locator("[data-row='2'][data-column='1']").click()
    frame.locator("[data-chips] [role=option]").nth(2).click()
    assert "chip 2 cell 2,1" in note(frame)


def test_hostile_text_stays_text(visit):
    opened = visit(page_of(everything(HOSTILE)))
    frame = opened.frames()[0]
    assert frame.get_by_label("Your text").input_value() == HOSTILE
    shown = frame.locator("[data-chips] [data-text]").evaluate_all("all => all.map((e) => e.dataset.text).join('')")
    assert shown == HOSTILE
    assert frame.locator("img").count() == 0 and opened.page.locator("img").count() == 0
    assert opened.page.title() == "Test" and frame.title() == "Every part"
    assert opened.complaints == []


def test_hostile_words_stay_words(visit):
    words = {key: HOSTILE for key in ("title", "description", "caption")}
    explorer = Explorer("demo", **words, data=HOSTILE, still="<svg></svg>", script="minillm.explorer(({ data, ui }) => void ui.note(data)); // </script>")
    opened = visit(page_of(explorer))
    frame = opened.frames()[0]
    assert frame.locator("h1").text_content() == HOSTILE and note(frame).startswith("</script>")
    assert opened.page.locator("img").count() == 0 and opened.complaints == []
    assert HOSTILE in opened.page.locator("figcaption").text_content()


def test_a_script_may_speak_of_scripts(visit):
    script = """minillm.explorer(({ ui }) => { ui.note('<!--<script>' + `</script>` + String(/<!--/.test('<!--'))); }); // </script>"""
    explorer = Explorer("demo", title="t", description="d", data=0, still="<svg></svg>", caption="c", script=script, style="/* </style> */")
    opened = visit(page_of(explorer))
    assert note(opened.frames()[0]) == "<!--<script></script>true" and opened.complaints == []


def test_the_frame_is_shut_in(visit):
    opened = visit(page_of(temperature()))
    frame = opened.frames()[0]
    reach = "() => { try { return String(parent.document.title) } catch (error) { return error.name } }"
    assert frame.evaluate(reach) == "SecurityError"
    assert frame.evaluate("fetch('http://127.0.0.1:9/').then(() => 'fetched', (error) => error.name)") == "TypeError"
    assert any("Content Security Policy" in text for text in opened.complaints), "its own policy stops it before the network does"
    assert opened.left == []


def test_the_frame_follows_the_theme(visit):
    opened = visit(page_of(everything(), temperature()))
    for theme, background in (("dark", "rgb(20, 24, 30)"), ("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 30)")):
        opened.theme(theme)
        for frame in opened.frames():
            assert frame.evaluate("getComputedStyle(document.body).backgroundColor") == background
            assert frame.evaluate("getComputedStyle(document.documentElement).colorScheme") == theme


def test_the_frame_grows_with_its_content(visit):
    opened = visit(page_of(everything()))
    frame = opened.frames()[0]
    tall = "document.querySelector('iframe').getBoundingClientRect().height"
    before = opened.page.evaluate(tall)
    frame.get_by_label("Your text").fill("word " * 200)
    opened.page.wait_for_function(f"{tall} > {before} + 50")
    assert frame.evaluate("document.documentElement.scrollHeight <= innerHeight + 1"), "nothing to scroll inside"


def test_only_an_explorers_window_is_heard(visit):
    stranger = '<iframe id="stranger" sandbox="allow-scripts" srcdoc="&lt;script&gt;parent.postMessage({minillm:\'height\',height:3000},\'*\')&lt;/script&gt;"></iframe>'
    opened = visit(page_of(temperature()).replace("</main>", stranger + "</main>"))
    frame = opened.frames()[0]
    opened.page.evaluate("postMessage({ minillm: 'height', height: 3000 }, '*')")
    opened.page.wait_for_timeout(300)
    tall = "document.querySelector('iframe.ml-frame').getBoundingClientRect().height"
    height = opened.page.evaluate(tall)
    assert height < 1000
    for nonsense in ("'tall'", "-5", "1e9", "null", "{}"):
        frame.evaluate(f"parent.postMessage({{ minillm: 'height', height: {nonsense} }}, '*')")
    opened.page.wait_for_timeout(200)
    assert opened.page.evaluate(tall) in {height, 4000}


def test_the_page_cannot_be_painted_by_a_bad_colour(visit):
    opened = visit(page_of(temperature()))
    frame = opened.frames()[0]
    opened.theme("light")
    opened.page.wait_for_timeout(600)  # the page repeats itself once, after late style sheets
    seen = frame.evaluate(
        """async () => { postMessage({ minillm: 'theme', dark: true, fg: 'red', bg: 'red' }, '*');
        await new Promise((done) => setTimeout(done, 50)); return document.querySelector('main').dataset.theme }"""
    )
    assert seen == "light", "a message that is not the page's is not heard"
    opened.page.evaluate("frames[0].postMessage({ minillm: 'theme', dark: true, fg: 'url(x)', bg: '}' }, '*')")
    frame.wait_for_selector("main[data-theme=dark]")
    assert frame.evaluate("getComputedStyle(document.body).color") == "rgb(34, 34, 34)", "what is no colour changes nothing"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, theme):
    opened = visit(page_of(everything(HOSTILE), temperature()))
    opened.theme(theme)
    for frame in opened.frames():
        assert opened.axe(frame) == []
    assert opened.axe() == []


def test_axe_would_find_something(visit):
    bad = "minillm.explorer(({ root }) => { root.append(minillm.h('button', { type: 'button' })); });"
    opened = visit(page_of(Explorer("bad", title="t", description="d", data=0, still="<svg></svg>", caption="c", script=bad)))
    assert any("button-name" in finding for finding in opened.axe(opened.frames()[0]))


def test_fits_a_phone(visit):
    opened = visit(page_of(everything("a long unbroken word " + "x" * 300), temperature()), width=390)
    for frame in opened.frames():
        assert frame.evaluate("document.documentElement.scrollWidth") <= 390
        wide = frame.evaluate("[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.ml-scroll, .ml-hidden')).map((e) => e.outerHTML.slice(0, 80))")
        assert wide == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_paper_gets_the_still_picture(visit):
    opened = visit(page_of(temperature()))
    still, frame = opened.page.locator(".ml-still"), opened.page.locator("iframe.ml-frame")
    assert frame.is_visible() and not still.is_visible()
    opened.page.emulate_media(media="print")
    assert still.is_visible() and not frame.is_visible()
    assert still.get_attribute("role") == "img" and still.get_attribute("aria-label") == "Bars; move the slider."


def test_without_scripts_the_still_picture_is_there(visit):
    opened = visit(page_of(temperature()), java_script_enabled=False)
    assert opened.page.locator(".ml-still").is_visible() and not opened.page.locator("iframe.ml-frame").is_visible()


def test_reduced_motion_is_respected(visit):
    frame = visit(page_of(temperature()), reduced_motion="reduce").frames()[0]
    assert frame.evaluate("getComputedStyle(document.querySelector('.ml-bar')).transitionDuration") == "0s"


def test_a_failing_script_says_so(visit):
    script = "minillm.explorer(() => { throw new Error('no such layer'); });"
    opened = visit(page_of(Explorer("bad", title="t", description="d", data=0, still="<svg></svg>", caption="c", script=script)))
    alert = opened.page.frame_locator("iframe.ml-frame").get_by_role("alert")
    alert.wait_for()
    assert "no such layer" in alert.inner_text() and any("no such layer" in text for text in opened.complaints)


def test_types():
    result = node("npx", "--no-install", "tsc", "--project", ".")
    assert result.returncode == 0, result.stdout


def test_types_would_find_it(tmp_path):
    "A misspelt part, a number for a label and a bar that is none are each reported."
    kit = ROOT / "minillm" / "assets" / "explorers" / "kit.js"
    wrong = ["ui.sldier({ label: 'x' })", "ui.readout({ label: 7 })", "ui.bars({ label: 'x' }).set([1])"]
    script = "".join(f"minillm.explorer(({{ ui }}) => void {call});\n" for call in wrong)
    (tmp_path / "wrong.js").write_text(script, encoding="utf-8")
    settings = {"extends": str(HERE / "tsconfig.json"), "include": [str(kit), "wrong.js"]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    result = node("npx", "--no-install", "tsc", "--project", str(tmp_path))
    assert result.returncode != 0
    for line in (1, 2, 3):
        assert f"wrong.js({line}," in result.stdout, result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_markup_from_text(script):
    "Text becomes elements only through textContent and append; nothing is loaded and nothing is evaluated."
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", script.read_text(encoding="utf-8"), flags=re.S)
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "fetch(", "XMLHttpRequest", "import("):
        assert risky not in code, f"{script.name} uses {risky}; build elements with minillm.h"
