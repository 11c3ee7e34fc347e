"""The exercises: what `check` tells a reader, and the trial of every exercise of the book. `make class` is tested at the end, on a small chapter."""

import functools
import json
import linecache
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exercises as tool
import make_class
import nbformat
import pytest
from nbtext import dumps, pack

from minillm.exercises import (
    Exercise,
    Mistake,
    NotYet,
    TooLong,
    Verdict,
    check,
    find_exercise,
    judge,
    load_exercises,
    raises,
    time_limit,
)

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "nbs").glob("*.ipynb"))
ASSETS = ROOT / "minillm" / "assets" / "exercises"


# ---- the trial of every exercise


@functools.cache
def exercises_of(path: Path) -> dict[str, tool.ChapterExercise]:
    return {one.label: one for one in tool.exercises_of(path)}


ALL = [pytest.param(path, label, id=label) for path in CHAPTERS for label in exercises_of(path)]


def answer_from(path: Path, cell: str, exercise: tool.ChapterExercise) -> object:
    "Run a solution cell as a student's would run: after the chapter's imports and exported names, without the chapter."
    space: dict[str, Any] = {"__name__": "answer"}
    exec(tool.setup_of(json.loads(path.read_text(encoding="utf-8"))), space)
    name = f"<{exercise.label}>"
    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
    exec(compile(tool.python_of(cell), name, "exec"), space)
    return space[exercise.name]


@pytest.mark.parametrize(("path", "label"), ALL)
def test_solution_passes(path: Path, label: str) -> None:
    one = exercises_of(path)[label]
    verdict = judge(find_exercise(label), answer_from(path, one.solution, one))
    assert verdict.passed, verdict.message


@pytest.mark.parametrize(("path", "label"), ALL)
def test_blank_fails_as_blank(path: Path, label: str) -> None:
    one = exercises_of(path)[label]
    assert one.blank != one.solution and "SOLUTION" not in one.blank
    try:
        answer = answer_from(path, one.blank, one)
    except NotImplementedError:  # the answer is a plain value: running the blank cell already fails
        assert one.answer == ""
        return
    verdict = judge(find_exercise(label), answer)
    assert not verdict.passed and "still blank" in verdict.message, verdict.message


@pytest.mark.parametrize(("path", "label"), ALL)
def test_planted_mistakes_are_named(path: Path, label: str) -> None:
    planted = find_exercise(label).namespace()["planted"]
    assert len(planted) >= 2, f"{label} plants {len(planted)} mistakes; at least two are asked for"
    for wrong, words in planted.items():
        verdict = judge(find_exercise(label), wrong)
        assert not verdict.passed, f"{label}: the planted mistake {wrong!r} passes"
        assert len(words) >= 5 and words in verdict.message, f"{label}: {wrong!r} is told {verdict.message!r}, without {words!r}"


@pytest.mark.parametrize(("path", "label"), ALL)
def test_hints_and_marks(path: Path, label: str) -> None:
    hints = find_exercise(label).namespace()["hints"]
    assert hints and all(isinstance(one, str) and len(one) > 10 for one in hints), f"{label}: hints are sentences, at least one"
    metadata = {cell["id"]: cell["metadata"].get("nbgrader") for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]}
    common = {"schema_version": 3, "task": False}
    assert metadata[f"solution-{label}"] == common | {
        "grade": False,
        "grade_id": f"solution-{label}",
        "locked": False,
        "solution": True,
    }
    wanted = common | {"grade": True, "grade_id": f"check-{label}", "locked": True, "solution": False}
    given = dict(metadata[f"check-{label}"])
    assert given.pop("points") > 0 and given == wanted
    assert metadata[f"checks-{label}"] is None and metadata[f"exercise-{label}"] is None


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_assets_are_in_step(path: Path) -> None:
    asset, text = ASSETS / f"{path.stem}.py", tool.checks_text(path)
    assert asset.exists() == bool(text), f"{asset} is there, or not, against nbs/{path.name}: run `make export`"
    assert not text or asset.read_text(encoding="utf-8") == text, f"{asset} is not what nbs/{path.name} says: run `make export`"
    for label, one in exercises_of(path).items():
        body = one.solution.partition("### BEGIN SOLUTION")[2].partition("### END SOLUTION")[0].strip()
        assert body not in text, f"{asset} holds the solution of {label}"


def test_no_asset_without_chapter() -> None:
    assert {path.stem for path in ASSETS.glob("*.py")} <= {path.stem for path in CHAPTERS}


# ---- what a reader is told


def exercise(checks: str, answer: str = "def f(x: list) -> list: ...", returns: bool = True, extra: str = "") -> Exercise:
    source = f"hints = []\nseconds = 0.5\n{extra}\ndef checks(f):\n    {checks}\n"
    return Exercise("98-a", "A toy", answer, returns, "import math\n", source, Path("toy.py"), 1)


def told(answer: object, checks: str = "expect(f([3, 1, 2]) == [1, 2, 3], 'not sorted')", **options: Any) -> str:
    verdict = judge(exercise(checks, **options), answer)
    assert not verdict.passed
    return verdict.message


def forgets(x: list) -> None:
    sorted(x)


def sorts_in_place(x: list) -> list:
    x.sort()
    return x


def loops(x: list) -> list:
    for _ in range(300):  # six seconds, in case nothing stops it
        try:
            time.sleep(0.02)
        except Exception:
            pass
    return x


def swallows_the_first_alarm(x: list) -> list:
    for _ in range(2):
        try:
            time.sleep(3)
        except:  # noqa: E722
            if _:
                raise
    return x


def recurses(x: list) -> list:
    return recurses(x)


def divides(x: list) -> list:
    return [1 / (value - 1) for value in x]


def leaves(x: list) -> list:
    sys.exit("gone")


def helps(x: list) -> list:
    return divides(x)


def library(x: list) -> list:
    return json.loads(str(x) + "!")


def test_right() -> None:
    assert judge(exercise("expect(f([2, 1]) == [1, 2], '')"), sorted) == Verdict(True, "every check passed")
    assert judge(exercise("expect(f([2, 1]) == [1, 2], '')", extra="well_done = 'fine; now 1 MB'"), sorted).message == "fine; now 1 MB"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: x, "not sorted"),
        (forgets, "forgets([3, 1, 2]) returned None"),
        (
            sorts_in_place,
            "changed its input: it was called as sorts_in_place([3, 1, 2]) and left sorts_in_place([1, 2, 3])",
        ),
        (recurses, "recurses([3, 1, 2]) calls itself without end at line"),
        (divides, "divides([3, 1, 2]) raised ZeroDivisionError: division by zero at line"),
        (divides, "`return [1 / (value - 1) for value in x]`"),
        (helps, "helps([3, 1, 2]) raised ZeroDivisionError"),
        (helps, "`return [1 / (value - 1) for value in x]`"),
        (leaves, "leaves([3, 1, 2]) raised SystemExit: gone"),
        (library, '`return json.loads(str(x) + "!")`'),
        (lambda x, y: x, "takes (x); yours takes (x, y)"),
        (lambda: [], "takes (x); yours takes ()"),
        ([1, 2, 3], 'without a call: check("98-a", f); what came is [1, 2, 3], of type list'),
        (functools.partial(lambda x: 1 / 0), "your_function([3, 1, 2]) raised ZeroDivisionError"),
    ],
)
def test_wrong_answers(answer: object, said: str) -> None:
    assert said in told(answer)


def test_a_built_in_function_has_no_line() -> None:
    assert told(max, "f(3)") == "max(3) raised TypeError: 'int' object is not iterable"


def test_blank() -> None:
    def blank(x: list) -> list:
        raise NotImplementedError("write your answer here")

    assert "still blank" in told(blank)
    assert "still blank" in told(blank, "\n    with raises(ValueError, show=False):\n        f([])")


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this system has no alarm clock")
@pytest.mark.parametrize("answer", [loops, swallows_the_first_alarm])
def test_far_too_long(answer: Callable) -> None:
    assert f"{answer.__name__}([3, 1, 2]) was still running after 0.5 seconds at line" in told(answer)
    assert signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, None) and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this system has no alarm clock")
def test_time_limit_keeps_another_alarm() -> None:
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 50)
        with pytest.raises(TooLong), time_limit(0.05):
            time.sleep(5)
        assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50 and not rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_other_thread_has_no_limit() -> None:
    verdicts: list[Verdict] = []
    slow = exercise("expect(f([1]) == [1], '')", extra="seconds = 0.01")
    thread = threading.Thread(target=lambda: verdicts.append(judge(slow, lambda x: time.sleep(0.1) or x)))
    thread.start()
    thread.join()
    assert verdicts[0].passed


def test_none_and_changes_can_be_fair() -> None:
    assert judge(exercise("expect(f([1]) is None, '')", returns=False), forgets).passed
    assert judge(exercise("expect(f([2, 1]) == [1, 2], '')", extra="may_change_input = True"), sorts_in_place).passed


def test_tensor_changed_in_place() -> None:
    torch = pytest.importorskip("torch")
    checks = "import torch; f(torch.ones(2))"
    assert "tensor of shape (2,), float32, values [1.0, 1.0]" in told(lambda x: x.mul_(2), checks)
    assert judge(exercise(checks), lambda x: x * 2).passed
    big = told(lambda x: x.mul_(2), "import torch; f(torch.ones(50, 50))")
    assert "(50, 50)" in big and len(big) < 300
    with torch.inference_mode():
        assert judge(exercise(checks), lambda x: x * 2).passed


def test_long_inputs_are_cut() -> None:
    assert len(told(divides, "f(list(range(100_000)))")) < 500


def test_answer_that_the_check_cannot_use() -> None:
    said = told(lambda x: 7, "f([1])[0]")
    assert said.startswith("your_function([1]) returned 7, of type int: the check could not go on with it (TypeError")


def test_class_answers() -> None:
    asks = exercise("expect(f().value == 1, 'value is not 1')", answer="class F: ...")

    class Right:
        value = 1

    class Raises:
        @property
        def value(self) -> int:
            return {}["lost"]

    class Blank:
        def __init__(self) -> None:
            raise NotImplementedError

    assert judge(asks, Right).passed
    assert (
        "your answer raised KeyError: 'lost' at line" in judge(asks, Raises).message
        and '`return {}["lost"]`' in judge(asks, Raises).message
    )
    assert "still blank" in judge(asks, Blank).message
    assert "your answer: the check could not go on with it (AttributeError: 'dict' object has no" in judge(asks, dict).message
    assert "asks for the class itself" in judge(asks, Right()).message


def test_faulty_checks_are_not_blamed_on_the_reader() -> None:
    for checks in ("undefined_name", "f([1]); undefined_name", "int('ten')"):
        with pytest.raises(RuntimeError, match="whatever the answer; please report it"):
            judge(exercise(checks), sorted)


def test_namespaces_are_fresh() -> None:
    asks = exercise("expect(count.append(1) is None and len(count) == 1, 'kept')", extra="count = []")
    assert judge(asks, sorted).passed and judge(asks, sorted).passed


def test_check_prints_or_raises(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINILLM_STRICT", raising=False)
    check("03-a", max)
    out = capsys.readouterr().out
    assert out.startswith("03-a (The longest word): not yet. ") and 'hint("03-a") gives a hint.' in out
    check("03-a", lambda text: max(text.split(), key=len, default=None) or [][text])
    assert "not yet. Your_function" not in capsys.readouterr().out
    with pytest.raises(NotYet, match="not yet"):
        check("03-a", max, strict=True)
    monkeypatch.setenv("MINILLM_STRICT", "1")
    with pytest.raises(NotYet, match="not yet"):
        check("03-a", max)
    check("03-a", max, strict=False)
    monkeypatch.setenv("MINILLM_STRICT", "0")
    check("03-a", max)


def test_right_answer_names_the_next(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_exports(tmp_path, monkeypatch)
    check("98-a", lambda n: 2 * n)
    assert capsys.readouterr().out == "98-a (Double): right. Every check passed. Next: 98-b (A stack).\n"


def test_hints_count_in_one_process() -> None:
    program = "from minillm.exercises import hint\nfor _ in range(3): hint('03-a')"
    lines = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "hint 1 of 2" in lines[0] and "(1 left)" in lines[0]
    assert "hint 2 of 2" in lines[1] and "no more" in lines[1] and lines[2] == lines[1]


@pytest.mark.parametrize("label", ["03-A", "03a", "3-a", "03-z", "exercise 03-a"])
def test_near_labels(label: str) -> None:
    with pytest.raises(ValueError, match=f"no exercise is called '{label}'; did you mean .*03-a"):
        find_exercise(label)


def test_unknown_labels_of_any_kind() -> None:
    for label in ("", "99-q", 12, None):
        with pytest.raises(ValueError, match="no exercise is called"):
            find_exercise(label)  # type: ignore[arg-type]


def test_raises(capsys: pytest.CaptureFixture) -> None:
    with raises((KeyError, IndexError), "range"):
        list()[0]
    assert capsys.readouterr().out == "IndexError: list index out of range\n"
    with raises(ValueError, "a (b"):  # no valid pattern, but found as plain words
        raise ValueError("needs a (b)")
    capsys.readouterr()
    with raises(ValueError, r"ten\W+$", show=False):
        int("ten")
    assert capsys.readouterr().out == ""
    with (
        pytest.raises(Mistake, match="expected KeyError or IndexError .* ValueError came instead: seven"),
        raises((KeyError, IndexError)),
    ):
        raise ValueError("seven")
    with pytest.raises(Mistake, match="expected words: 'z \\(y'"), raises(ValueError, "z (y"):
        raise ValueError("something else")
    with pytest.raises(Mistake, match="nothing was raised"), raises(ValueError):
        pass
    with pytest.raises(KeyboardInterrupt), raises(ValueError):
        raise KeyboardInterrupt


# ---- a small chapter, made here

TOY = """
%% md title
# Toys
> Two toys.

%% code default-exp
#| default_exp exercises

%% code thing
#| export
from math import pi

%% md exercise-98-a
> **Exercise 98-a · Double.** Write `double(n)`, see [the chapter](12_bpe.ipynb) and [`pi`](#see/toys.pi). Checked on [2](#number/n/d) numbers.

> **Hint.** It is 2n.

%% code solution-98-a {"nbgrader": {"grade": false, "grade_id": "solution-98-a", "locked": false, "schema_version": 3, "solution": true, "task": false}}
def double(n: int, start=min(1, 2), *, sign: int = 1) -> int:
    "Twice n."
    ### BEGIN SOLUTION
    secret = 2 * n
    return secret
    ### END SOLUTION

%% code check-98-a {"nbgrader": {"grade": true, "grade_id": "check-98-a", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}}
check("98-a", double)

%% code checks-98-a
#| exercise 98-a
from minillm.exercises import expect

hints = ["Twice."]


def checks(double):
    expect(double(3) == 6, f"twice 3 is 6, yours is {double(3)}")


planted = {}

%% md exercise-98-b
> **Exercise 98-b · A stack.** Write `Stack`.

%% code solution-98-b {"nbgrader": {"grade": false, "grade_id": "solution-98-b", "locked": false, "schema_version": 3, "solution": true, "task": false}}
class Stack:
    ### BEGIN SOLUTION
    size = 0
    ### END SOLUTION

%% code check-98-b {"nbgrader": {"grade": true, "grade_id": "check-98-b", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}}
check("98-b", Stack)

%% code checks-98-b
#| exercise 98-b
from minillm.exercises import expect

hints = []


def checks(Stack):
    expect(Stack.size == 0, "an empty stack has size 0")


planted = {}
"""


def toy_chapter(folder: Path, text: str = TOY) -> Path:
    path = folder / "98_toys.ipynb"
    path.write_text(dumps(pack(text)), encoding="utf-8")
    return path


def toy_exports(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "The small chapter, with its checks where the machinery looks for them: a package folder of its own."
    path = toy_chapter(folder)
    tool.export_checks(path, folder / "assets" / "exercises")
    monkeypatch.setattr("importlib.resources.files", lambda package: folder)
    return path


def test_exported_file(tmp_path: Path) -> None:
    path = toy_chapter(tmp_path)
    tool.export_checks(path, tmp_path / "out")
    found = load_exercises(tmp_path / "out" / "98_toys.py")
    assert list(found) == ["98-a", "98-b"]
    assert found["98-a"].answer == "def double(n: int, start=..., *, sign: int=1) -> int: ..."
    assert (found["98-b"].answer, found["98-a"].returns) == ("class Stack: ...", True)
    assert found["98-a"].setup.splitlines()[0] == "from math import pi"
    assert "secret" not in (tmp_path / "out" / "98_toys.py").read_text(encoding="utf-8")
    verdict = judge(found["98-a"], lambda n: n)
    assert verdict.message == "twice 3 is 6, yours is 3"
    tool.export_checks(toy_chapter(tmp_path, TOY[: TOY.index("%% md exercise-98-a")]), tmp_path / "out")
    assert not (tmp_path / "out" / "98_toys.py").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("#| exercise 98-a", "#| exercise 12-a", "a label is the chapter's two digits"),
        ("%% md exercise-98-a", "%% md statement-98-a", "cells called exercise-98-a are missing"),
        ("#| exercise 98-a\n", "", "belong to no exercise"),
        ("Exercise 98-a · Double.", "Exercise 98-c · Double.", "its statement must start with"),
        ("### BEGIN SOLUTION\n    secret", "secret", "no lines ### BEGIN SOLUTION"),
        ('check("98-a", double)', "check(double)", "the check cell must call"),
        ("%% code checks-98-a", "%% code behind-98-a", "are missing"),
    ],
)
def test_incomplete_exercises_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert TOY.count(old) == 1
    with pytest.raises(ValueError, match=said):
        tool.checks_text(toy_chapter(tmp_path, TOY.replace(old, new)))


def test_answers_that_may_be_none() -> None:
    assert tool.answer_of("def f(x):\n    return x", "f") == ("def f(x): ...", True)
    assert not tool.answer_of("def f(x):\n    x.sort()", "f")[1]
    assert not tool.answer_of("def f(x) -> int | None:\n    return x", "f")[1]
    assert not tool.answer_of("def f(x):\n    if x:\n        return\n    return x", "f")[1]
    assert tool.answer_of("def f(x):\n    yield x", "f")[1]
    assert tool.answer_of("f = 3", "f") == ("", True)


# ---- make class


def solved(release: nbformat.NotebookNode, **answers: str) -> nbformat.NotebookNode:
    "A release as a student hands it in, with some solution cells replaced."
    notebook = nbformat.from_dict(release)
    for cell in notebook.cells:
        if (name := cell.metadata.nbgrader.grade_id.replace("-", "_")) in answers:
            cell.source = answers[name]
    return notebook


def test_class_release_and_grades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "A solved copy earns all points, a blank none, a wrong one none; tampering with a locked cell changes nothing."
    nbs, out, elsewhere = tmp_path / "nbs", tmp_path / "class", tmp_path / "elsewhere"
    nbs.mkdir()
    elsewhere.mkdir()
    toy_chapter(nbs)
    # the installed library knows no chapter 98: the kernel gets a folder that adds its checks to what `find_exercise` sees
    monkeypatch.setenv("PYTHONPATH", str(library_with_toys(tmp_path, nbs / "98_toys.ipynb")))
    assert make_class.write_course(out, nbs) == ["98_toys"]
    release = nbformat.read(str(out / "release" / "98_toys" / "98_toys.ipynb"), 4)
    source = nbformat.read(str(out / "source" / "98_toys" / "98_toys.ipynb"), 4)
    everything = nbformat.writes(release)
    assert "secret" not in everything and "planted" not in everything and "It is 2n" not in everything and "SOLUTION" not in everything
    assert 'raise NotImplementedError(\\"write your answer here\\")' in everything
    assert "see the chapter and `pi`. Checked on 2 numbers." in everything
    cells = {cell.metadata.nbgrader.grade_id: cell for cell in release.cells}
    assert all(cell.metadata.nbgrader.locked for name, cell in cells.items() if not name.startswith("solution"))
    assert "secret" in nbformat.writes(source)

    assert make_class.grade(source, release, elsewhere) == {"98-a": (2, 2), "98-b": (1, 1)}
    assert make_class.grade(release, release, elsewhere) == {"98-a": (0, 2), "98-b": (0, 1)}
    half = solved(
        release,
        solution_98_a="check = print\ndef double(n): return 2 * n",
        check_98_b="pass",
        solution_98_b="class Stack: size = 1",
    )
    assert make_class.grade(half, release, elsewhere) == {"98-a": (2, 2), "98-b": (0, 1)}
    kills = solved(release, solution_98_b="import os; os._exit(1)", solution_98_a="double = lambda n: n")
    assert make_class.grade(kills, release, elsewhere) == {"98-a": (0, 2), "98-b": (0, 1)}


def library_with_toys(folder: Path, chapter: Path) -> Path:
    "A folder that, on PYTHONPATH, makes `minillm` see the checks of one more chapter."
    site = folder / "site"
    site.mkdir()
    tool.export_checks(chapter, site / "assets" / "exercises")
    hook = f"import importlib.resources as r, pathlib\nold = r.files\nr.files = lambda p: pathlib.Path({str(site)!r}) if p == 'minillm' else old(p)\n"
    (site / "sitecustomize.py").write_text(hook, encoding="utf-8")
    return site
