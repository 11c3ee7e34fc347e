"""The project's own machinery: the turns of the slow tests, planted bugs that still fit, pages of chapters that are gone."""

import ast
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import build_book
import pytest
from turns import LIMIT, share_out

ROOT = Path(__file__).resolve().parents[1]
SLOW = ROOT / "tests" / "slow"

LOOK = """
import json, sys, pytest
class Look:
    def pytest_collection_finish(self, session):
        from conftest import minutes_of, name_of
        print("FOUND", json.dumps([(name_of(item), minutes_of(item)) for item in session.items]))
sys.exit(pytest.main([*sys.argv[1:], "--collect-only", "-p", "no:cacheprovider"], plugins=[Look()]))
"""


def collect(*words: str) -> list[tuple[str, float]]:
    "(name, CPU minutes) of the slow tests that pytest would run."
    done = subprocess.run([sys.executable, "-c", LOOK, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    return [tuple(one) for one in json.loads(found.removeprefix("FOUND "))]


def test_each_slow_test_has_its_turn_once() -> None:
    "The slow tests as they are: every one in one turn, no turn over the limit but for a test that is over it alone, none idle."
    tests = collect(str(SLOW))
    minutes = dict(tests)
    assert len(minutes) == len(tests) > 300, "a name stands for one test"
    turns = share_out(minutes)
    assert sorted(one for turn in turns for one in turn) == sorted(minutes)
    for turn in turns:
        assert len(turn) == 1 or sum(minutes[one] for one in turn) <= LIMIT + 1e-9
        assert sum(minutes[one] for one in turn) > LIMIT / 3
    assert len(turns) <= 1.2 * sum(min(one, LIMIT) for one in minutes.values()) / LIMIT + 1, "no more turns than it takes"


@pytest.mark.parametrize("seed", range(20))
def test_turns(seed: int) -> None:
    "Any tests: once each, within the limit, the long ones alone; the order of the names does not matter."
    chance = random.Random(seed)
    costs = {f"test_{k}": chance.choice([0.01, 0.1, 0.5, 3.0, 4.0, 60.0]) for k in range(chance.randrange(1, 200))}
    turns = share_out(costs)
    assert sorted(one for turn in turns for one in turn) == sorted(costs)
    for turn in turns:
        load = sum(costs[one] for one in turn)
        assert load <= LIMIT + 1e-9 or len(turn) == 1 and load == 60
    assert share_out(dict(sorted(costs.items(), reverse=True))) == turns


def test_a_new_test_moves_few_others() -> None:
    costs = {f"test_{k}": 0.1 for k in range(300)}
    before, after = share_out(costs), share_out(costs | {"test_new": 0.1})
    if len(before) == len(after):
        moved = sum(set(a) != set(b) for a, b in zip(before, after))
        assert moved <= 3
    assert share_out({}) == [[]]


TOY = """
import pytest

def test_short(): pass

@pytest.mark.minutes(60)
def test_long(): pass

@pytest.mark.parametrize("k", [pytest.param(0, marks=pytest.mark.minutes(3)), pytest.param(1, marks=pytest.mark.minutes(3))])
def test_each(k): pass

def test_said_too_little():
    import time
    began = time.process_time()
    while time.process_time() - began < 0.5: pass
"""


def toy(folder: Path, *words: str) -> str:
    "The output of pytest on a folder with the slow tests' conftest and a file of toys."
    (folder / "slow").mkdir(exist_ok=True)
    shutil.copy(SLOW / "conftest.py", folder / "slow")
    (folder / "slow" / "test_toy.py").write_text(TOY, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\npythonpath = " + str(ROOT / "tests"), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=folder, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_toys_take_turns(tmp_path: Path) -> None:
    "Three days: the long one alone, the two of three minutes on days of their own, with a short one or two; then it begins anew."
    days = [toy(tmp_path, "slow", "-v", "--turn", f"2026-11-{day}") for day in (20, 21, 22, 23)]
    names = ["short", "long", "each[0]", "each[1]", "said_too_little"]
    ran = [{name for name in names if f"test_{name} PASSED" in day} for day in days]
    assert sorted(sum((sorted(one) for one in ran[:3]), [])) == sorted(names) and {"long"} in ran[:3] and ran[3] == ran[0]
    assert all(f"turn {k} of 3: " in "".join(days) for k in (1, 2, 3))
    assert "1 of 5 slow tests, about 60.0 CPU minutes" in "".join(days)
    assert "5 passed" in toy(tmp_path, "slow"), "without a day all run"


def test_wrong_words_to_turn(tmp_path: Path) -> None:
    assert "'friday' is no day; give today, or a date such as 2026-11-21" in toy(tmp_path, "slow", "--turn", "friday")
    part = toy(tmp_path, "slow/test_toy.py", "--turn", "today")
    assert "--turn shares out all slow tests; you gave slow/test_toy.py. Run: pytest tests/slow --turn" in part


def planted() -> list[tuple[str, str, str]]:
    "(module, mutant, the line that it changes) of the slow tests' tables, read without running them."
    found = []
    for path in sorted(SLOW.glob("test_mutants_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        said = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
        if "MUTANTS" in said:
            table = ast.literal_eval(said["MUTANTS"])
            found += [(ast.literal_eval(said["MODULE"]), name, line) for name, (line, _) in table.items()]
    return found


def test_planted_bugs_still_fit() -> None:
    "A line that a mutant changes stands once in its module: told at once, and not on the day when the slow test has its turn."
    found = planted()
    assert {"generate", "llm", "loss", "precision", "train"} <= {module for module, *_ in found}
    sources = {module: (ROOT / "minillm" / f"{module}.py").read_text(encoding="utf-8") for module, *_ in found}
    astray = [
        f"tests/slow/test_mutants_{module}.py, {name!r}: {line!r} stands {n} times in minillm/{module}.py, not once"
        for module, name, line in found
        if (n := sources[module].count(line)) != 1
    ]
    assert not astray, "\n".join(astray)


def test_pages_of_chapters_that_are_gone(tmp_path: Path) -> None:
    "Cleared: what _toc.yml does not name. Left: what it names, what Sphinx makes itself, pictures."
    kept = [
        "index.html", "search.html", "nbs/00_opening.html", "nbs/12_bpe.html", "book/api/bpe.html", "book/glossary.html",
        "_sources/nbs/12_bpe.ipynb", "_sources/book/api/bpe.md", "_static/x.html", "_images/a.png",
    ]  # fmt: skip
    gone = ["nbs/99_gone.html", "book/api/gone.html", "_sources/nbs/99_gone.ipynb"]
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    toc = "root: nbs/00_opening\nparts:\n  - caption: A\n    chapters:\n      - file: nbs/12_bpe.ipynb  # here\n"
    toc += "      # - file: nbs/99_gone\n      - file: book/glossary\n        sections:\n          - file: book/api/bpe\n"
    assert sorted(map(str, build_book.clear_gone(tmp_path, toc))) == sorted(gone)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(kept)
    assert build_book.clear_gone(tmp_path, toc) == build_book.clear_gone(tmp_path / "nowhere", toc) == []


def test_pages_of_the_book_stay() -> None:
    "The real _toc.yml names every page that this book has."
    pages = [f"nbs/{path.stem}" for path in (ROOT / "nbs").glob("*.ipynb")] + ["book/glossary", "book/api/index"]
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert all(page in toc for page in pages)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sockets that are files")
def test_kernels_share_no_ports(tmp_path: Path) -> None:
    "Kernels started with `run_notebook` open no TCP port that another could be given as well, and leave no files behind."
    import nbformat
    from kernels import run_notebook

    seen = "import json, ipykernel; about = json.loads(ipykernel.get_connection_info()); print(about['transport'], about['ip'])"
    places = []
    for _ in range(2):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(seen)])
        run_notebook(notebook, tmp_path, timeout=60)
        transport, place = "".join(one.text for one in notebook.cells[0].outputs if one.name == "stdout").split()
        assert transport == "ipc" and not Path(place).parent.exists()
        places.append(place)
    assert places[0] != places[1]
