"""Would the chapters' tests notice a wrong line? Each exported function is broken on purpose, and its chapter's test cells are run on the broken library.

A function that does nothing at all must always be caught. Of small slips (`<` for `<=`, `+` for `-`, one more, a condition turned round) most must be:
some change nothing that anybody can see, so a share is enough. The survivors are printed, since each may be a test that is missing.
"""

import ast
import contextlib
import copy
import importlib
import io
import math
import random
import signal
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from chapters import Cell, CellFailed, Chapter, Run, load_chapters, names_read

SLIPS = 1  # tried in each function
CAUGHT = 0.6  # share of the slips that must be caught, by chapter
MINUTES = {"10_storyworld": 6, "14_batches": 4, "26_model": 4, "33_optim": 4, "34_checkpoint": 8, "35_train": 20, "46_llm": 20}
USUAL = 2.5  # CPU minutes of the other chapters
PART = 3  # CPU minutes: a chapter that takes longer is tested in parts, every n-th function in each
PATIENCE = 3  # times what the whole chapter takes; a mutant that runs longer counts as caught
Function = ast.FunctionDef | ast.AsyncFunctionDef
SWAPS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SWAPS |= {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    "(name, function) for every function and method of a module that does something."
    for node in tree.body:
        for one in node.body if isinstance(node, ast.ClassDef) else [node]:
            code = [
                s
                for s in getattr(one, "body", [])
                if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            ]
            matters = (
                not all(isinstance(s, ast.Raise | ast.Pass) for s in code)
                and getattr(one, "name", "") != "__repr__"
            )
            if isinstance(one, Function) and matters:
                yield (f"{node.name}.{one.name}" if one is not node else one.name), one


def doing_nothing(function: Function) -> None:
    "The function forgets its body."
    function.body = [ast.copy_location(ast.Return(None), function.body[0])]


def slips(function: Function) -> list[ast.AST]:
    "The places where a small slip can be made."
    inside = [n for statement in function.body for n in ast.walk(statement)]
    texts = {
        id(n) for raised in inside if isinstance(raised, ast.Raise | ast.JoinedStr) for n in ast.walk(raised)
    }  # messages may change
    places = [n for n in inside if id(n) not in texts]
    return [
        n
        for n in places
        if isinstance(n, ast.If | ast.While)
        or type(getattr(n, "op", None)) in SWAPS
        or isinstance(n, ast.Compare)
        and type(n.ops[0]) in SWAPS
        or isinstance(n, ast.Constant)
        and type(n.value) is int
    ]


def slip(node: ast.AST) -> str:
    "Make the slip; say what it was."
    before = ast.unparse(node).splitlines()[0]
    if isinstance(node, ast.If | ast.While):
        node.test = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant):
        node.value += 1
    else:
        node.op = SWAPS[type(node.op)]()
    return f"line {node.lineno}: `{before}` → `{ast.unparse(node).splitlines()[0]}`"


def mutants(module: str, k: int = 0, n: int = 1) -> Iterator[tuple[str, str, ast.Module]]:
    "(function, what was done, the module's tree) for each mutant of part k of n."
    tree = ast.parse(Path(importlib.import_module(f"minillm.{module}").__file__).read_text(encoding="utf-8"))
    for name, function in list(functions(tree))[k::n]:
        whole = copy.deepcopy(tree)
        doing_nothing(dict(functions(whole))[name])
        yield name, "does nothing", ast.fix_missing_locations(whole)
        count = len(slips(function))
        for k in random.Random(name).sample(range(count), min(SLIPS, count)):
            whole = copy.deepcopy(tree)
            what = slip(slips(dict(functions(whole))[name])[k])
            yield name, what, ast.fix_missing_locations(whole)


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    "TimeoutError after so many CPU seconds."

    def stop(*_: object) -> None:
        raise TimeoutError(f"still running after {seconds} CPU seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fails(chapter: Chapter, cells: list[Cell]) -> bool:
    "Does one of these cells fail?"
    run = Run(chapter)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            for cell in cells:
                run.execute(cell)
    except (CellFailed, Exception):
        return True
    return False


def caught(chapter: Chapter, name: str, tree: ast.Module, seconds: float, monkeypatch: pytest.MonkeyPatch) -> bool:
    "Does some test cell of the chapter fail on this module, or run for more than `seconds`?"
    home = f"minillm.{chapter.module}"
    real = importlib.import_module(home)
    broken = types.ModuleType(home)
    broken.__file__, broken.__package__, broken.__spec__ = real.__file__, real.__package__, real.__spec__
    with monkeypatch.context() as patch, patience(seconds):
        patch.setitem(sys.modules, home, broken)
        try:
            exec(compile(tree, real.__file__, "exec"), broken.__dict__)
        except Exception:
            return True
        closest = [cell for cell in chapter.tests if name.split(".")[0] in names_read(cell.tree)]
        return bool(closest) and fails(chapter, chapter.cells_for(closest)) or fails(chapter, chapter.kept)


def parts() -> Iterator:
    "(chapter, k, n), a chapter or its part k of n, each with what it takes."
    for chapter in load_chapters():
        minutes = MINUTES.get(chapter.name, USUAL)
        n = math.ceil(minutes / PART) if chapter.module else 0
        for k in range(n):
            which = f"-{k + 1}of{n}" if n > 1 else ""
            yield pytest.param(chapter, k, n, id=chapter.name + which, marks=pytest.mark.minutes(minutes / n))


@pytest.mark.filterwarnings("ignore")  # of broken code
@pytest.mark.parametrize(("chapter", "k", "n"), [*parts()])
def test_a_wrong_line_is_noticed(chapter: Chapter, k: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(chapter.tests) == 0:
        pytest.fail(f"{chapter.name} has no test cell")
    started = time.process_time()
    assert not fails(chapter, chapter.kept), f"{chapter.name} fails as it is"
    seconds = 2 + PATIENCE * (time.process_time() - started)
    idle, small, tried = [], [], 0
    for name, what, tree in mutants(str(chapter.module), k, n):
        tried += what != "does nothing"
        if not caught(chapter, name, tree, seconds, monkeypatch):
            (idle if what == "does nothing" else small).append(f"{name}, {what}")
    print(f"{chapter.name}: {tried} slips, {len(small)} not caught:", *small, sep="\n  ")
    assert not idle, f"these may do nothing, and no test cell of {chapter.name} minds: {', '.join(idle)}"
    listed = "\n".join(small)
    assert len(small) <= (1 - CAUGHT) * tried, f"{len(small)} of {tried} slips were not caught:\n{listed}"
