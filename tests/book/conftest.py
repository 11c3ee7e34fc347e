"""One browser for all tests of the book, a server on this machine, and a guard that lets no request out and remembers who tried."""

import functools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Frame, Page, Playwright, Request, Route, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BOOK = Path(os.environ.get("MINILLM_BOOK_HTML", ROOT / "book" / "_build" / "html"))
LOCAL = {"127.0.0.1", "localhost"}
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --force-color-profile=srgb"
).split()


def chromium_path() -> str:
    "Chromium's path: $CHROMIUM, or the first one found."
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if not found:
        pytest.exit("make test-book needs Chromium: install it, or name it in the variable CHROMIUM", returncode=2)
    return found


def node(*command: str) -> subprocess.CompletedProcess:
    "Run node's tools in this folder, after fetching what the lock file names."
    if not shutil.which("npm"):
        pytest.exit("make test-book needs node and npm, for the types of the JavaScript and the accessibility rules", returncode=2)
    stamp = HERE / "node_modules" / ".package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < (HERE / "package-lock.json").stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=HERE, check=True)
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, encoding="utf-8")


class Visit:
    "A browser page with what it asked for and what it complained about."

    def __init__(self, context: BrowserContext) -> None:
        self.left: list[str] = []  # requests for other machines
        self.missing: list[str] = []  # files of ours that are not there
        self.complaints: list[str] = []  # console errors, warnings of the browser's rules, uncaught exceptions
        context.route("**/*", self.guard)
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", lambda answer: answer.status >= 400 and self.missing.append(f"{answer.status} {answer.url}"))

    def guard(self, route: Route, request: Request) -> None:
        "Let through what stays on this machine."
        address = urlsplit(request.url)
        if address.scheme in {"data", "blob", "about", "file"} or address.hostname in LOCAL:
            route.continue_()
        else:
            self.left.append(request.url)
            route.abort()

    def frames(self) -> list[Frame]:
        "The explorers on the page, ready."
        found = []
        for element in self.page.locator("iframe.ml-frame").all():
            frame = element.element_handle().content_frame()
            frame.wait_for_selector("main[data-ready=true]", state="attached", timeout=10_000)
            found.append(frame)
        return found

    def theme(self, name: str) -> None:
        "Switch the page as its button does, and wait until the explorers have followed."
        self.page.evaluate("name => { document.documentElement.dataset.theme = name; document.documentElement.dataset.mode = name }", name)
        for frame in self.frames():
            frame.wait_for_selector(f"main[data-theme={name}]", state="attached", timeout=10_000)
        self.page.wait_for_timeout(150)  # colours that glide

    def axe(self, frame: Frame | None = None, rules: tuple[str, ...] = ()) -> list[str]:
        "What axe-core finds serious or critical in the page, or in one explorer: rule, element, reason."
        place = frame or self.page.main_frame
        if not place.evaluate("typeof window.axe === 'object'"):
            place.evaluate(axe_source())
        options = {"resultTypes": ["violations"], "iframes": False}
        if rules:
            options["runOnly"] = {"type": "rule", "values": list(rules)}
        scope = {"exclude": [["mjx-container svg"]]}  # thousands of strokes of letters, hidden from screen readers
        found = place.evaluate("([scope, options]) => axe.run(scope, options)", [scope, options])["violations"]
        return [
            f"{rule['id']} ({rule['impact']}): {rule['help']}: {one['html'][:200]} {one.get('failureSummary', '')[:300]}"
            for rule in found
            if rule["impact"] in {"serious", "critical"}
            for one in rule["nodes"]
        ]


@functools.cache
def axe_source() -> str:
    "axe-core as text, fetched by npm."
    node("node", "--version")
    return (HERE / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
    yield browser
    browser.close()


class Quiet(SimpleHTTPRequestHandler):
    "A server of files that writes no log."

    def log_message(self, *_: object) -> None: ...


def serve(folder: Path) -> tuple[ThreadingHTTPServer, str]:
    "Serve a folder on this machine; returns the server and its address."
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture(scope="session")
def book() -> Iterator[str]:
    "The address of the built book."
    if not (BOOK / "index.html").exists():
        pytest.fail(f"the book is not built: there is no {BOOK}/index.html; run `make book`", pytrace=False)
    server, address = serve(BOOK)
    yield address
    server.shutdown()
    server.server_close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    "visit(html) or visit(address): a fresh page, 800 pixels wide unless told."
    contexts = []

    def open_page(html: str = "", *, address: str = "", width: int = 800, **options: object) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        opened = Visit(context)
        if address:
            opened.page.goto(address)
        else:
            opened.page.set_content(html)
        return opened

    yield open_page
    for context in contexts:
        context.close()


def page_of(*explorers: object, css: str = "") -> str:
    "A plain page, light or dark by html[data-theme], with explorers on it."
    figures = "".join(explorer._repr_html_() for explorer in explorers)
    return f"""<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Test</title>
<meta name="viewport" content="width=device-width"><style>html{{background:#fff;color:#222;font-family:sans-serif}}
html[data-theme=dark]{{background:#14181e;color:#ced6dd;color-scheme:dark}}{css}</style></head><body><main>{figures}</main></body></html>"""
