"""Each chapter opened in JupyterLab, in a browser without a network, and run from the top: no error, frames draw, themes follow.

The live curve of chapter 35 is paused, resumed and stopped by clicks.

MINILLM_SCREENSHOTS=folder keeps pictures of every chapter, to be looked at. MINILLM_LAB_CHAPTERS="12_bpe 22_attention" runs only those.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import ROOT, Visit
from playwright.sync_api import Browser
from playwright.sync_api import Error as PlaywrightError

CHAPTERS = os.environ.get("MINILLM_LAB_CHAPTERS", "").split() or sorted(path.stem for path in (ROOT / "nbs").glob("*.ipynb"))
SCREENSHOTS = os.environ.get("MINILLM_SCREENSHOTS", "")
AT_ONCE = 2  # kernels, one thread each
SECONDS = 900  # a chapter may take
LEFT_OUT = shutil.ignore_patterns(".*", "_build", "node_modules", "__pycache__", "build", "dist", "class", "tests", "*.egg-info")


@dataclass
class Lab:
    "A JupyterLab server on this machine, on a copy of the project."

    address: str
    token: str

    def open(self, browser: Browser, chapter: str) -> Visit:
        "A chapter in a tab of its own, its kernel started."
        context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
        visit = Visit(context)
        visit.page.set_default_timeout(60_000)
        visit.page.goto(f"{self.address}/lab/workspaces/{chapter}/tree/nbs/{chapter}.ipynb?token={self.token}")
        visit.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.connectionStatus === 'connected'"
        )
        return visit


@dataclass
class Report:
    "What happened when a chapter was run."

    seconds: float = 0
    problems: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    frames: int = 0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT, home / "project", ignore=LEFT_OUT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    places = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR"]
    settings = {place: str(home / place.lower()) for place in places}
    quiet = Path(settings["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}', encoding="utf-8")  # no question in the corner
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={home / 'project'}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]
    environment = os.environ | settings | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"}
    with open(home / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, home / "log")
            yield Lab(f"http://127.0.0.1:{port}", token)
        finally:
            server.terminate()  # it ends its kernels
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    "Until the server answers; its log when it does not."
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.25)
    pytest.fail("JupyterLab did not start:\n" + log.read_text(encoding="utf-8")[-3000:], pytrace=False)


RUN_ALL = """() => { window.ran = ''; window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ran = 'done' }, (e) => { window.ran = String(e) }) }"""

PROBLEMS = """() => { const cells = window.jupyterapp.shell.currentWidget.content.model.toJSON().cells, found = [];
for (const cell of cells) { const source = [cell.source].flat().join(''), tags = cell.metadata.tags ?? [];
  if (cell.cell_type !== 'code' || !source.trim() || /^#\\|\\s*eval:\\s*false/m.test(source)) continue;
  if (cell.execution_count === null) found.push(`${cell.id}: did not run`);
  for (const output of cell.outputs) {
    if (output.output_type === 'error') found.push(`${cell.id}: ${output.ename}: ${output.evalue}`);
    if (output.name === 'stderr' && !tags.includes('expect-stderr')) found.push(`${cell.id}: on stderr: ${[output.text].flat().join('').slice(0, 300)}`);
  } }
return found }"""


def run_all(browser: Browser, lab: Lab, chapters: list[str]) -> dict[str, Report]:
    "Run chapters, some at a time; look at each as soon as it is done."
    waiting, running, reports = list(chapters), {}, {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            chapter = waiting.pop(0)
            visit = lab.open(browser, chapter)
            visit.page.evaluate(RUN_ALL)
            running[chapter] = (visit, time.monotonic())
        for chapter, (visit, started) in list(running.items()):
            visit.page.wait_for_timeout(200)
            ran = visit.page.evaluate("window.ran")
            if not ran and time.monotonic() - started < SECONDS:
                continue
            report = reports[chapter] = Report(time.monotonic() - started)
            if ran != "done":
                report.problems.append(ran or f"not done after {SECONDS} s")
            look(visit, chapter, report)
            visit.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
            visit.page.context.close()
            del running[chapter]
    return reports


def look(visit: Visit, chapter: str, report: Report) -> None:
    "Read the outputs, walk through the notebook from top to bottom, see every frame drawn, switch to dark."
    page = visit.page
    report.problems += page.evaluate(PROBLEMS)
    count = page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets.length")
    seen, last = set(), -1000.0
    for index in range(count):
        page.evaluate("i => window.jupyterapp.shell.currentWidget.content.scrollToItem(i, 'start')", index)
        page.wait_for_timeout(60)
        for element in page.locator(".jp-Notebook iframe").all():
            name = element.get_attribute("title") or "untitled"
            if name not in seen and drawn(element, report, name):
                seen.add(name)
        top = page.evaluate("document.querySelector('.jp-Notebook .jp-WindowedPanel-outer')?.scrollTop ?? 0")
        if SCREENSHOTS and (top > last + 600 or index == count - 1):
            Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(SCREENSHOTS) / f"{chapter}-{index:03}.png")
            last = top
    report.frames = len(seen)
    for wrong in ("mjx-merror", ".jp-RenderedMarkdown .katex-error", ".jp-OutputArea-output.jp-mod-error"):
        if page.locator(wrong).count():
            report.problems.append(f"{wrong} on the page")
    if page.get_by_text("Error displaying widget").count():
        report.problems.append("a widget does not draw")
    if page.locator(".jp-Notebook iframe.ml-frame").count():
        dark(page, chapter, report)
    report.left = visit.left


def drawn(element, report: Report, name: str) -> bool:
    "Is something drawn in the frame? True when it was looked at."
    frame = element.element_handle().content_frame()
    if "ml-frame" in (element.get_attribute("class") or ""):
        try:
            frame.wait_for_selector("main[data-ready=true][data-theme]", timeout=10_000)
        except PlaywrightError as error:
            report.problems.append(f"the explorer {name!r} does not draw: {error}")
            return True
    box = element.bounding_box() or {"height": 0, "width": 0}
    if box["height"] < 40 or box["width"] < 100:
        report.problems.append(f"the frame {name!r} is {box['width']:.0f} × {box['height']:.0f} pixels")
    if not frame.evaluate("document.body.innerText.trim().length + document.querySelectorAll('svg *, canvas').length"):
        report.problems.append(f"the frame {name!r} is empty")
    return True


def dark(page, chapter: str, report: Report) -> None:
    "The explorers follow JupyterLab's dark theme."
    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    element = page.locator(".jp-Notebook iframe.ml-frame").last
    element.scroll_into_view_if_needed()
    frame = element.element_handle().content_frame()
    try:
        frame.wait_for_selector("main[data-theme=dark]", timeout=10_000)
    except PlaywrightError:
        report.problems.append("the explorer stays light in JupyterLab's dark theme")
    if SCREENSHOTS:
        page.wait_for_timeout(700)
        page.screenshot(path=Path(SCREENSHOTS) / f"{chapter}-dark.png")


@pytest.fixture(scope="module")
def reports(browser: Browser, lab: Lab) -> dict[str, Report]:
    return run_all(browser, lab, CHAPTERS)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_runs_in_jupyterlab(reports, chapter):
    report = reports[chapter]
    print(f"{chapter}: {report.seconds:.0f} s, {report.frames} frames")
    assert report.problems == []
    assert report.left == [], "requests for other machines"


def test_a_broken_chapter_is_reported(browser, lab, tmp_path_factory):
    "The test above can fail: an error, a warning and a frame that stays empty are seen."
    import nbformat

    cells = [
        "from IPython.display import HTML\nHTML('<iframe title=\"hollow\" width=\"300\" height=\"200\" srcdoc=\"&lt;p&gt;&lt;/p&gt;\"></iframe>')",
        "import sys\nprint('careful', file=sys.stderr)",
        "1 / 0",
        "print('never')",
    ]
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.cells = [nbformat.v4.new_code_cell(source, id=f"cell-{k}") for k, source in enumerate(cells)]
    folder = next(path for path in tmp_path_factory.getbasetemp().glob("lab*/project/nbs"))
    nbformat.write(notebook, folder / "99_broken.ipynb")
    problems = " ".join(run_all(browser, lab, ["99_broken"])["99_broken"].problems)
    for said in ("ZeroDivisionError", "careful", "cell-3: did not run", "'hollow' is empty"):
        assert said in problems


LIVE = [
    "import torch\n"
    "from minillm.batches import Batch\n"
    "from minillm.bigram import Bigram\n"
    "from minillm.loss import next_token_loss\n"
    "from minillm.train import LiveCurve, Trainer\n"
    "ids = torch.randint(0, 50, (4, 33), generator=torch.Generator().manual_seed(0))\n"
    "batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())",
    "from itertools import repeat\n"
    "trainer = Trainer(Bigram(50), next_token_loss, repeat(batch), steps=1_000_000, validation=[batch], validate_every=50,\n"
    "                  precision='fp32', device='cpu', progress=False)\n"
    "live = LiveCurve()\n"
    "live.start(trainer)",
]
AFTER = "live.wait(); print('reason:', trainer.history.reason)"

STEP = """() => { const curve = document.querySelector('.jp-Notebook svg[aria-label^="Loss in nats"]');
return curve ? Number(curve.getAttribute('aria-label').match(/over (\\d+) of/)[1]) : -1 }"""


def test_the_live_curve_by_clicks(browser, lab, tmp_path_factory):
    "Pause holds the run, resume lets it go on, stop ends it, and the notebook stays free."
    import nbformat

    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.cells = [nbformat.v4.new_code_cell(source, id=f"cell-{k}") for k, source in enumerate([*LIVE, "pass"])]
    folder = next(path for path in tmp_path_factory.getbasetemp().glob("lab*/project/nbs"))
    nbformat.write(notebook, folder / "98_live.ipynb")
    visit = lab.open(browser, "98_live")
    page = visit.page
    page.evaluate(RUN_ALL)
    button = lambda name: page.locator(".jp-Notebook button.widget-button", has_text=name)
    enabled = lambda name: page.wait_for_function(
        "name => [...document.querySelectorAll('.jp-Notebook button.widget-button')].some(b => b.textContent.trim() === name && !b.disabled)",
        arg=name,
    )
    moved = lambda step: page.wait_for_function(f"step => ({STEP})() > step", arg=step)
    button("Pause").wait_for()
    moved(10)
    assert button("Resume").is_disabled()
    button("Pause").click()
    enabled("Resume")
    page.wait_for_timeout(1500)
    held = page.evaluate(STEP)
    page.wait_for_timeout(1500)
    assert page.evaluate(STEP) == held and button("Pause").is_disabled()
    button("Resume").click()
    enabled("Pause")
    moved(held + 10)
    button("Pause").click()
    enabled("Resume")
    button("Stop").click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.jp-Notebook button.widget-button')].every(b => b.disabled)"
    )
    page.evaluate(
        """code => { const notebook = window.jupyterapp.shell.currentWidget.content, at = notebook.widgets.length - 1;
        notebook.activeCellIndex = at; notebook.widgets[at].model.sharedModel.setSource(code) }""",
        AFTER,
    )
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell')")
    page.get_by_text("reason: stopped by hand").first.wait_for()
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert visit.left == [], "requests for other machines"
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.context.close()
