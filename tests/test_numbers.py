"""Records in results/ are what the tool wrote, prose quotes them right, and a stale one warns (in `make test-slow` it fails)."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import budget
import pytest
from chapters import ROOT, load_chapters
from convention import Trouble, from_record, quoted

import results as tool

QUOTE = re.compile(r"(?<!!)\[((?:[^\[\]`]|`[^`\n]*`)*)\]\(#record/([^)\s]+)/([^/)\s]*)\)")


def test_no_record_was_edited() -> None:
    assert not (problems := list(tool.edited())), "\n".join(problems)


@pytest.mark.filterwarnings("always:record of")
@pytest.mark.parametrize("name", tool.experiments())
def test_record_is_up_to_date(name: str) -> None:
    "Only a warning here: whoever changes a function need not run the long experiment at once."
    if reasons := tool.out_of_date(name):
        warnings.warn(f"record of {name} is stale ({'; '.join(reasons)}); run `make results`", stacklevel=1)


def wrong_quotes(root: Path, pages: dict[str, str]) -> list[str]:
    "Quotes of records in prose that are not what the record says."
    found = []
    for name, text in pages.items():
        for literal, path, spec in QUOTE.findall(re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)):
            try:
                quoted(literal, from_record(root, path), spec)
            except Trouble as trouble:
                found.append(f"{name}: {trouble}")
    return found


def test_prose_quotes_records_right() -> None:
    pages = {
        str(cell): cell.source for chapter in load_chapters() for cell in chapter.cells if cell.kind == "markdown"
    }
    pages |= {
        path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "book").glob("*.md")]
    }
    assert not (problems := wrong_quotes(ROOT, pages)), "\n".join(problems)


def test_a_wrong_quote_is_seen(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text('{"share": 0.708}', encoding="utf-8")
    assert wrong_quotes(tmp_path, {"page": "It is [71 %](#record/a.json/share/.0%)."}) == []
    assert "'72 %'" in wrong_quotes(tmp_path, {"page": "It is [72 %](#record/a.json/share/.0%)."})[0]
    assert "has no 'shares'" in wrong_quotes(tmp_path, {"page": "It is [71 %](#record/a.json/shares/.0%)."})[0]


# ---- the tool

EXPERIMENT = '''"""A toy.

It counts.
"""

STEPS = 3
SEEDS = [0, 1]


def grow(x: int) -> int:
    "One more."
    return x + STEPS


def run(seed: int) -> dict:
    return {"value": grow(seed), "curve": [seed, 2.5], "name": "toy", "nested": {"deep": seed}}


FUNCTIONS = [grow]
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    "A results folder with one experiment and its record."
    (tmp_path / "toy.py").write_text(EXPERIMENT, encoding="utf-8")
    (tmp_path / "toy.json").write_text(
        tool.text_of(tool.make_record("toy", tool.load("toy", tmp_path))), encoding="utf-8"
    )
    return tmp_path


def test_a_record_says_what_was_measured(folder: Path) -> None:
    record = json.loads((folder / "toy.json").read_text(encoding="utf-8"))
    assert (record["value"], record["curve"], record["name"], record["nested"]["deep"]) == (
        3.5,
        [0.5, 2.5],
        "toy",
        0.5,
    )
    assert (record["lowest"]["value"], record["highest"]["value"], record["seeds"]["1"]["curve"]) == (
        3,
        4,
        [1, 2.5],
    )
    assert record["meta"]["about"] == "A toy." and set(record["meta"]["cpu_seconds"]) == {"0", "1"}
    assert {"python"} <= set(record["meta"]["versions"]) and record["meta"]["threads"] >= 1
    assert tool.out_of_date("toy", folder) == [] and list(tool.edited(folder)) == []
    assert '"curve": [1, 2.5]' in (folder / "toy.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        ("One more.", "One more, said otherwise.", []),
        ("(x: int) -> int", "(x)", []),
        ("x + STEPS", "(x  +  STEPS)  # why", []),
        ("x + STEPS", "x - STEPS", ["grow changed"]),
        ("STEPS = 3", "STEPS = 4", ["constants changed"]),
        ('"name": "toy"', '"name": "other"', ["run changed"]),
        ("SEEDS = [0, 1]", "SEEDS = [0]", ["its seeds are 0, 1, the experiment's 0"]),
    ],
)
def test_only_a_change_that_matters_makes_it_stale(folder: Path, old: str, new: str, reasons: list[str]) -> None:
    (folder / "toy.py").write_text(EXPERIMENT.replace(old, new), encoding="utf-8")
    assert tool.out_of_date("toy", folder) == reasons


def test_an_edit_by_hand_is_seen(folder: Path) -> None:
    path = folder / "toy.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"value": 3.5', '"value": 3.6'), encoding="utf-8")
    assert list(tool.edited(folder)) == [
        "toy.json was changed by hand; run `make results`, or `python tools/results.py toy --again`"
    ]
    (folder / "lost.json").write_text("{}", encoding="utf-8")
    assert "lost.json has no experiment lost.py" in list(tool.edited(folder))


def test_an_experiment_that_is_none_is_refused(folder: Path) -> None:
    (folder / "half.py").write_text("SEEDS = [0]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="half.py has no run"):
        tool.load("half", folder)
    (folder / "toy.py").write_text(EXPERIMENT.replace('"name": "toy"', '"name": {1}'), encoding="utf-8")
    with pytest.raises(TypeError, match="JSON cannot hold"):
        tool.make_record("toy", tool.load("toy", folder))
    (folder / "toy.py").write_text(EXPERIMENT.replace('"name"', '"meta"'), encoding="utf-8")
    with pytest.raises(ValueError, match="returns meta, names that the record needs"):
        tool.make_record("toy", tool.load("toy", folder))


# ---- budgets


def test_budgets_are_compared_in_units() -> None:
    allowed = {"12_bpe": 40.0, "01_figures": 1.0, budget.TEST: 100.0}
    assert budget.over_budget(allowed, {"12_bpe": 59.0, "01_figures": 3.9, "new": 999.0}) == []
    (said,) = budget.over_budget(allowed, {"12_bpe": 61.0, budget.TEST: 100.0})
    assert said == "12_bpe took 61 units, 1.5 times its budget of 40"
    shown = budget.table(allowed, {"12_bpe": 61.0})
    assert "12_bpe" in shown and "1.52" in shown and "not run" in shown


def test_what_was_measured_is_read(tmp_path: Path) -> None:
    (tmp_path / "book" / "_build").mkdir(parents=True)
    assert budget.measured(tmp_path) == {}
    (tmp_path / "book" / "_build" / "times.json").write_text(
        '{"12_bpe": {"cpu_seconds": 3.5, "wall_seconds": 4}}', encoding="utf-8"
    )
    (tmp_path / "book" / "_build" / "times-test.json").write_text(
        '{"cpu_seconds": 70.0, "wall_seconds": 80}', encoding="utf-8"
    )
    assert budget.measured(tmp_path) == {"12_bpe": 3.5, budget.TEST: 70.0}


def test_the_calibration_loop_takes_time() -> None:
    assert 0.01 < budget.calibrate(repeats=1) < 10
    assert budget.budgets()[budget.TEST] > 0


def test_a_whole_run_leaves_its_cost(tmp_path: Path) -> None:
    "tests/conftest.py writes what `make test` took; a run of some tests alone writes nothing."
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text(
        (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (tmp_path / "tests" / "test_one.py").write_text("def test_one():\n    pass\n", encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n", encoding="utf-8")
    cost = tmp_path / "book" / "_build" / "times-test.json"
    for arguments, written in ((["tests/test_one.py"], False), (["-k", "one"], False), ([], True)):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        assert cost.exists() == written
    assert set(json.loads(cost.read_text(encoding="utf-8"))) == {"cpu_seconds", "wall_seconds"}
