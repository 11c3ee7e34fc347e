"""Every visible test cell of every chapter, run against the exported library: one test for each cell, `12_bpe:test-naive-trainer`."""

import functools
import importlib
import sys
import types
from collections.abc import Collection
from pathlib import Path

import pytest
from chapters import (
    NBS,
    CellFailed,
    Chapter,
    Definition,
    Run,
    chapter_function,
    chapter_tests,
    needed_statements,
    parse_cells,
)

TESTS = [
    pytest.param(*one, id=":".join(one), marks=pytest.mark.xdist_group(one[0])) for one in chapter_tests()
]


@functools.cache
def run_of(chapter: str) -> Run:
    "The chapter's one run, shared by its tests."
    return Run(Chapter.load(NBS / f"{chapter}.ipynb"))


@pytest.mark.parametrize(("chapter", "cell"), TESTS)
def test_cell(chapter: str, cell: str) -> None:
    try:
        run_of(chapter).through(cell)
    except CellFailed as failure:
        pytest.fail(str(failure), pytrace=False)


# ---- is that worth anything? A library that is not what its chapter says must be caught.


def broken_module(name: str, old: str, new: str) -> types.ModuleType:
    "A copy of a module of the library in which `old` reads `new`."
    real = importlib.import_module(f"minillm.{name}")
    source = Path(real.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, (
        f"{old!r} stands {source.count(old)} times in minillm/{name}.py; choose a line that is there once"
    )
    copy = types.ModuleType(real.__name__)
    copy.__file__, copy.__package__, copy.__spec__ = real.__file__, real.__package__, real.__spec__
    exec(compile(source.replace(old, new), real.__file__, "exec"), copy.__dict__)
    return copy


def assert_noticed(
    monkeypatch: pytest.MonkeyPatch, notebook: str, change: tuple[str, str], says: str = "cell 'test-", leave: Collection[str] = ()
) -> None:
    "A library with one wrong line fails a visible test of the chapter. The first that fails is enough."
    chapter = Chapter.load(NBS / f"{notebook}.ipynb")
    monkeypatch.setitem(sys.modules, f"minillm.{chapter.module}", broken_module(chapter.module, *change))
    run = Run(chapter)
    with pytest.raises(CellFailed, match=says):
        for cell in chapter.tests:
            if cell.id not in leave:
                run.through(cell.id)


def failures(chapter: Chapter) -> dict[str, str]:
    "Run a whole chapter; cell id → message for the cells that fail."
    run = Run(chapter)
    for cell in chapter.tests:
        try:
            run.through(cell.id)
        except CellFailed:
            pass
    return run.failed


TOY = """
%% md title
# Toy
> A toy.

%% code default-exp
#| default_exp toy

%% code double
#| export
from math import pi

def double(x: int) -> int:
    "Twice x."
    return 2 * x

%% md words
Some words.

%% code test-double
value = double(3)

assert value == 6, "twice three is six"

%% code only-draws
import nowhere_to_be_found
plot(value)

%% code numbers
numbers = [1]

%% code grows
numbers.append(2)

%% code calls
def total():
    return sum(map(double, late))

%% code redraws
value = None
plot(value)

%% code bound-after
late = numbers

%% code trained
#| train
raise SystemExit("training is not run here")

%% code shown
#| eval: false
raise SystemExit("this is only shown")

%% code checks-12-a
#| exercise 12-a
raise SystemExit("an exercise's checks are not run here")

%% code test-numbers
assert total() == 6
assert 3 < pi < 4
"""


def toy_library(monkeypatch: pytest.MonkeyPatch, double: object) -> Chapter:
    "A chapter, and a library with its one module."
    package, module = types.ModuleType("toylib"), types.ModuleType("toylib.toy")
    module.double = double
    monkeypatch.setitem(sys.modules, "toylib", package)
    monkeypatch.setitem(sys.modules, "toylib.toy", module)
    return parse_cells(TOY, package="toylib")


def test_a_good_library_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    chapter = toy_library(monkeypatch, lambda x: x + x)
    assert [cell.id for cell in chapter.kept] == [
        "double",
        "test-double",
        "numbers",
        "grows",
        "calls",
        "bound-after",
        "test-numbers",
    ]
    assert failures(chapter) == {}


def test_a_broken_library_fails_by_cell_and_line(monkeypatch: pytest.MonkeyPatch) -> None:
    "The chapter's own definition is right; what is tested is the module."
    found = failures(toy_library(monkeypatch, lambda x: x + 2))
    assert list(found) == ["test-double", "test-numbers"]
    message = found["test-double"]
    assert message.startswith(
        "nbs/12_toy.ipynb, cell 'test-double', line 3: AssertionError: twice three is six"
    )
    assert "3 > assert value == 6" in message and "value = 5" in message


def test_a_missing_name_is_blamed_on_the_export_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    chapter = toy_library(monkeypatch, None)
    del sys.modules["toylib.toy"].double
    with pytest.raises(
        CellFailed,
        match="NameError(.|\n)*mend it first: nbs/12_toy.ipynb, cell 'double', line 2: ImportError",
    ):
        Run(chapter).through("test-double")


def test_a_broken_copy_of_a_real_module_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minillm.figures", broken_module("figures", "ax.invert_yaxis()", "pass"))
    (failure,) = failures(Chapter.load(NBS / "01_figures.ipynb")).values()
    assert "cell 'test-bars', line 5" in failure and "assert ax.yaxis_inverted()" in failure


def test_naive_functions_can_be_reached() -> None:
    naive = chapter_function("01_figures", "contrast")
    assert round(naive("#000000", "#ffffff")) == 21
    statements = needed_statements(Chapter.load(NBS / "01_figures.ipynb"), "contrast")
    assert all(isinstance(node, Definition) for _, node in statements), "only what the function needs is run"
    assert [node.name for _, node in statements] == ["luminance", "contrast"]
    with pytest.raises(LookupError, match="defines no 'luminous'; the chapter defines .*luminance"):
        chapter_function("01_figures", "luminous")
