"""Every page of the built book, without a network: maths, pictures, names for screen readers, light, dark, phone, paper, explorers.

A page is loaded once; the tests of a page share that visit, in the order of this file.
"""

import functools
import re
from collections.abc import Iterator

import pytest
from conftest import BOOK, Visit
from explorer_checks import CHECKED
from playwright.sync_api import Browser

MADE_BY_SPHINX = {"genindex.html", "search.html", "py-modindex.html"}


def pages() -> list[str]:
    "The book's pages, without those that only send the reader on."
    found = [path for path in BOOK.rglob("*.html") if "_static" not in path.parts and path.name not in MADE_BY_SPHINX]
    return sorted(path.relative_to(BOOK).as_posix() for path in found if 'http-equiv="Refresh"' not in path.read_text(encoding="utf-8"))


PAGES = pages()

# rules that depend on colours: the only ones worth asking again on the dark page
COLOUR_RULES = ("color-contrast", "link-in-text-block")


@pytest.fixture(scope="module", params=PAGES or ["the book is not built"])
def visited(request: pytest.FixtureRequest, browser: Browser, book: str) -> Iterator[Visit]:
    "One page of the book, light, on a laptop, with every prediction made and every fold open."
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce")
    visit = Visit(context)
    visit.page.goto(f"{book}/{request.param}", wait_until="load")
    visit.page.evaluate("async () => { if (window.MathJax?.startup) await MathJax.startup.promise }")
    for button in visit.page.locator("form.ml-note button").all():
        button.click()
    visit.page.evaluate("document.querySelectorAll('article details').forEach((e) => { e.open = true })")
    visit.theme("light")
    yield visit
    context.close()


def test_maths_is_rendered(visited):
    source = visited.page.locator("span.math, div.math").count()
    if source:
        visited.page.wait_for_function("n => document.querySelectorAll('mjx-container svg').length >= n", arg=source)
    assert visited.page.locator("mjx-merror, [data-mjx-error]").count() == 0
    left = visited.page.evaluate(
        r"""() => { const walk = document.createTreeWalker(document.querySelector('article') ?? document.body, NodeFilter.SHOW_TEXT);
        const found = []; while (walk.nextNode()) { const t = walk.currentNode;
          if (/\\\(|\\\[|\$\$|\\frac|\\sqrt|\\begin\{/.test(t.data) && !t.parentElement.closest('pre, code, script, style, mjx-container, textarea')) found.push(t.data.slice(0, 80)) }
        return found }"""
    )
    assert left == [], "raw TeX on the page"


def test_every_picture_is_described(visited):
    nameless = visited.page.evaluate(
        """() => [...document.querySelectorAll('img, article svg')].filter((e) => !e.closest('mjx-container, [aria-hidden=true], button, [role=img] *')
        && !(e.getAttribute('alt') ?? e.getAttribute('aria-label') ?? e.closest('[role=img]')?.getAttribute('aria-label') ?? '').trim()
        && !(e.localName === 'svg' && e.closest('a, .sd-octicon, .admonition-title'))).map((e) => e.outerHTML.slice(0, 160))"""
    )
    assert nameless == []
    for frame in visited.page.locator("iframe").all():
        assert (frame.get_attribute("title") or "").strip(), "a frame without a title"


def test_every_figure_is_numbered_and_explained(visited):
    found = visited.page.locator("figure.ml-figure").evaluate_all(
        "all => all.map((e) => [e.querySelector('.ml-number')?.textContent ?? '', e.querySelector('figcaption')?.textContent ?? ''])"
    )
    numbers = [number for number, _ in found]
    for number, caption in found:
        assert re.match(r"Figure \S", number), f"no number on the figure: {caption}"
        assert len(caption.replace(number, "").strip(" .")) > 10, f"{number} has no caption"
    assert len(set(numbers)) == len(numbers), "two figures have one number"


def test_ids_are_unique(visited):
    assert visited.page.evaluate(
        "() => { const seen = new Map(); document.querySelectorAll('[id]').forEach((e) => seen.set(e.id, (seen.get(e.id) ?? 0) + 1)); return [...seen].filter(([, n]) => n > 1).map(([id]) => id) }"
    ) == []


def test_links_inside_the_page_lead_somewhere(visited):
    dangling = visited.page.evaluate(
        """() => [...document.querySelectorAll('article a[href^="#"]')].map((a) => decodeURIComponent(a.getAttribute('href').slice(1)))
        .filter((id) => id && !document.getElementById(id))"""
    )
    assert dangling == []


def test_nothing_raw_is_left(visited):
    "Directives and the book's convention must have become something."
    words = visited.page.evaluate(
        """() => { const copy = document.querySelector('article').cloneNode(true);
        copy.querySelectorAll('code, script, style').forEach((e) => e.remove()); return copy.textContent }"""
    )
    for raw in ("#| ", "[!", "#number/", "#record/", "#see/", "#term-", "{ref}", "{cite"):
        assert raw not in words, f"{raw!r} shows on the page"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_theme(visited, theme):
    "Nothing serious for axe-core, and text in figures is as light as the page's text."
    visited.theme(theme)
    rules = () if theme == "light" else COLOUR_RULES
    found = visited.axe(rules=rules)
    for frame in visited.frames():
        found += visited.axe(frame, rules=rules)
    assert found == []
    body = visited.page.evaluate("getComputedStyle(document.querySelector('article') ?? document.body).color")
    inks = visited.page.locator("figure.ml-figure svg[role=img]").evaluate_all(
        "all => [...new Set(all.filter((e) => !e.closest('.ml-still')).map((e) => getComputedStyle(e).fill))]"
    )
    assert all(brightness(ink) == brightness(body) for ink in inks), f"{theme}: page {body}, figures {inks}"


def brightness(color: str) -> str:
    red, green, blue = (float(x) for x in re.findall(r"[\d.]+", color)[:3])
    return "light" if 0.3 * red + 0.59 * green + 0.11 * blue > 128 else "dark"


def test_explorers_move_by_keyboard(visited):
    for frame in visited.frames():
        name = frame.locator("main").get_attribute("data-explorer")
        assert name in CHECKED, f"nothing checks the numbers of the explorer {name!r}: add a check to CHECKED"
        draws = int(frame.locator("main").get_attribute("data-draws"))
        CHECKED[name](frame)
        assert int(frame.locator("main").get_attribute("data-draws")) > draws
        assert frame.get_by_role("alert").count() == 0


def test_a_phone_scrolls_down_only(visited):
    visited.page.set_viewport_size({"width": 390, "height": 844})
    try:
        visited.page.wait_for_timeout(300)
        wide = visited.page.evaluate("document.documentElement.scrollWidth")
        reach = """() => [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1
            && !e.closest('pre, figure, table, mjx-container, .bd-sidebar-secondary')).slice(0, 3).map((e) => e.outerHTML.slice(0, 120))"""
        assert wide <= 390, visited.page.evaluate(reach)
        for frame in visited.frames():
            assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    finally:
        visited.page.set_viewport_size({"width": 1280, "height": 900})


def test_paper_gets_still_pictures(visited):
    visited.page.emulate_media(media="print")
    try:
        for figure in visited.page.locator("figure.ml-explorer").all():
            assert not figure.locator("iframe.ml-frame").is_visible()
            assert figure.locator(".ml-still").is_visible()
        covered = "all => all.filter((e) => getComputedStyle(e).display === 'none').length"
        assert visited.page.locator(".ml-covered").evaluate_all(covered) == 0, "answers stay covered on paper"
    finally:
        visited.page.emulate_media(media="screen")


def test_nothing_left_and_nothing_complained(visited):
    "Last, so that everything above has had its chance."
    assert visited.left == [], "requests for other machines"
    assert visited.missing == [], "files that are not there"
    assert visited.complaints == [], "errors in the console"


# ---- the book as a whole


@functools.cache
def page_with(selector: str) -> str:
    "The first page whose source holds a string."
    return next((page for page in PAGES if selector in (BOOK / page).read_text(encoding="utf-8")), "")


def test_the_front_door_leads_in(browser, book):
    context = browser.new_context()
    visit = Visit(context)
    visit.page.goto(f"{book}/index.html")
    visit.page.wait_for_selector("article h1")
    assert visit.left == visit.missing == visit.complaints == []
    context.close()


def test_predictions_are_kept(browser, book):
    "Outputs stay covered until a prediction is noted; the note stands beside the answer, and is there after a reload."
    page = page_with("ml-predict")
    assert page, "no prediction in the book"
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    visit = Visit(context)
    visit.page.goto(f"{book}/{page}")
    form = visit.page.locator("form.ml-note").first
    covered = visit.page.locator(".ml-covered")
    before = covered.count()
    form.get_by_label("Your prediction").fill("about seven")
    form.get_by_label("Your prediction").press("Enter")
    beside = visit.page.locator(".ml-beside").first
    assert "You predicted: about seven" in beside.inner_text() and beside.is_visible()
    assert covered.count() <= before
    visit.page.reload()
    assert visit.page.get_by_label("Your prediction").first.input_value() == "about seven"
    context.close()


def test_search_works_without_a_network(browser, book):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    visit = Visit(context)
    visit.page.goto(f"{book}/search.html?q=token")
    visit.page.wait_for_selector("#search-results li a")
    assert visit.page.locator("#search-results li").count() > 2
    visit.page.goto(f"{book}/search.html?q=nosuchwordanywhere")
    visit.page.wait_for_selector("#search-results >> text=/did not match|no results/i")
    assert visit.left == visit.missing == visit.complaints == []
    context.close()


def test_the_theme_button_reaches_the_explorers(browser, book):
    "By the button itself, as a reader does."
    page = page_with("ml-frame")
    assert page, "no explorer in the book"
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    visit = Visit(context)
    visit.page.goto(f"{book}/{page}")
    frame = visit.frames()[0]
    seen = set()
    for _ in range(3):  # light, dark, as the system
        visit.page.locator("button.theme-switch-button").first.click()
        visit.page.wait_for_timeout(700)
        theme = visit.page.evaluate("document.documentElement.dataset.theme")
        assert frame.locator("main").get_attribute("data-theme") == theme
        seen.add(theme)
    assert seen == {"light", "dark"}
    context.close()


def test_the_guard_would_notice(browser):
    "A page that asks for something elsewhere, misses a file and fails is caught in all three."
    context = browser.new_context()
    visit = Visit(context)
    visit.page.set_content("<img src='https://example.org/a.png' alt='x'><script>throw new Error('ours')</script>")
    visit.page.wait_for_timeout(300)
    assert visit.left == ["https://example.org/a.png"] and any("ours" in text for text in visit.complaints)
    context.close()
