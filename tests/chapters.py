"""Read the chapters: their cells, what each cell binds and needs, and how to run them against the exported library.

A chapter tests its own definitions when it runs. Here its export cells are replaced by imports from the module that came out of them, so
the same test cells prove that the *library* is what the chapter says. Training cells, exercises and cells that only draw are left out.
"""

import ast
import builtins
import contextlib
import importlib
import io
import json
import linecache
import os
import re
import reprlib
import symtable
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
DIRECTIVE = re.compile(r"^#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")
MAGIC = re.compile(r"^\s*[%!]")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
# calls whose value nobody keeps, and which leave their arguments as they are
HARMLESS = {*dir(builtins), "show", "display", "token_strip", "HTML", "Markdown", "hint", "check"} - {
    "setattr",
    "delattr",
    "exec",
    "next",
}


def names_bound(tree: ast.AST) -> set[str]:
    "The names that a piece of code binds in its own scope, without those inside functions, classes and comprehensions."
    bound: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, Definition):
            bound.add(node.name)
            continue
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            bound |= {n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr)}
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            bound.add(node.id)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.split(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            bound.add(node.name)
        todo.extend(ast.iter_child_nodes(node))
    return bound


def names_read(tree: ast.AST) -> set[str]:
    "The names that a piece of code reads from its own scope or, inside functions, from the notebook's; locals of functions do not count."
    read: set[str] = set()
    todo = [symtable.symtable(ast.unparse(tree), "cell", "exec")]
    while todo:
        table = todo.pop()
        top = table.get_type() == "module"
        read |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
        todo.extend(table.get_children())
    return read | {
        n.target.id for n in ast.walk(tree) if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)
    }


def names_defined(node: ast.stmt) -> set[str]:
    "What a top-level statement of an export cell adds to its module; imports, also those under `if` and `try`, do not count."
    imported = {
        a.asname or a.name.split(".")[0]
        for n in ast.walk(node)
        if isinstance(n, ast.Import | ast.ImportFrom)
        for a in n.names
    }
    return names_bound(node) - (set() if isinstance(node, Definition) else imported)


def root_name(node: ast.AST) -> str | None:
    "`x` for `x`, `x.y[0].z` and `x.f(1).g`."
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def names_changed(tree: ast.AST) -> set[str]:
    "The names whose *objects* a piece of code may change in place: `x[0] = …`, `x.y = …`, `x.append(…)`, `shuffle(x)`."
    changed: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            changed.add(root_name(node) or "")
        elif isinstance(node, ast.Expr) and isinstance(call := node.value, ast.Call):
            if not (isinstance(call.func, ast.Name) and call.func.id in HARMLESS):
                method = [] if isinstance(call.func, ast.Name) else [call.func]
                changed |= {
                    root_name(part) or "" for part in (*method, *call.args, *(k.value for k in call.keywords))
                }
    return changed - {""}


@dataclass(frozen=True)
class Cell:
    "One cell of a chapter."

    id: str
    kind: str  # "code" or "markdown"
    source: str  # as it is in the notebook
    metadata: dict = field(default_factory=dict, hash=False)
    chapter: str = ""  # the notebook's name, such as 12_bpe
    index: int = 0  # its place in the notebook, from 0

    def __str__(self) -> str:
        return f"nbs/{self.chapter}.ipynb, cell {self.id!r}"

    @cached_property
    def directives(self) -> dict[str, str]:
        "`#| export` → {'export': ''}; only the lines at the top count."
        found: dict[str, str] = {}
        for line in self.source.splitlines() if self.kind == "code" else []:
            if match := DIRECTIVE.match(line):
                found[match[1]] = match[2]
            elif line.strip():
                break
        return found

    @cached_property
    def code(self) -> str:
        "The Python in it; directives and magics become empty lines, so that line numbers stay."
        blank = [DIRECTIVE.match(line) or MAGIC.match(line) for line in self.source.splitlines()]
        return "\n".join("" if gone else line for gone, line in zip(blank, self.source.splitlines()))

    @cached_property
    def tree(self) -> ast.Module:
        "Its syntax tree. Raises SyntaxError with the cell's name as the file's."
        return ast.parse(self.code, str(self)) if self.kind == "code" else ast.parse("")

    @property
    def exported(self) -> bool:
        return "export" in self.directives or "exports" in self.directives

    @property
    def runs(self) -> bool:
        "Is it run by `make test`? Not: training, exercises' checks, what is only shown, and the generated installation."
        skipped = {"train", "exercise", "default_exp"} & self.directives.keys() or self.directives.get(
            "eval", ""
        ).lower() == "false"
        return self.kind == "code" and not skipped and self.id != "install"

    @cached_property
    def is_test(self) -> bool:
        "Does it assert something? `assert`, `assert_close(…)` and the like, `with raises(…):`."
        if not self.runs or self.exported:
            return False
        calls = [n.func for n in ast.walk(self.tree) if isinstance(n, ast.Call)]
        called = {
            f.id if isinstance(f, ast.Name) else f.attr if isinstance(f, ast.Attribute) else "" for f in calls
        }
        return any(isinstance(n, ast.Assert) for n in ast.walk(self.tree)) or any(
            re.match(r"assert_|raises$", name) for name in called
        )

    @property
    def definitions(self) -> list[Definition]:
        "Functions and classes at its top level."
        return [node for node in self.tree.body if isinstance(node, Definition)]

    @cached_property
    def bound(self) -> set[str]:
        return names_bound(self.tree)

    @cached_property
    def changed(self) -> set[str]:
        return names_changed(self.tree)

    @cached_property
    def flow(self) -> tuple[set[str], set[str], set[str]]:
        "Names that must be there before it runs; names that it always binds itself; names that its functions look up when they are called."
        before, own, later = set(), set(), set()
        for node in self.tree.body:
            (later if isinstance(node, Definition) else before).update(names_read(node) - own)
            if isinstance(node, Definition | ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom | ast.With):
                own |= names_bound(node)
        return before, own, later


@dataclass(frozen=True)
class Chapter:
    "One notebook."

    name: str  # 12_bpe
    cells: tuple[Cell, ...]
    package: str = "minillm"

    @classmethod
    def from_json(cls, name: str, notebook: dict, package: str = "minillm") -> "Chapter":
        cells = [
            Cell(
                raw.get("id", ""),
                raw["cell_type"],
                "".join(raw["source"]),
                raw.get("metadata", {}),
                name,
                index,
            )
            for index, raw in enumerate(notebook["cells"])
        ]
        return cls(name, tuple(cells), package)

    @classmethod
    def load(cls, path: Path) -> "Chapter":
        return cls.from_json(path.stem, json.loads(path.read_text(encoding="utf-8")))

    @property
    def number(self) -> int | None:
        "12 for 12_bpe; None for a page without a number."
        match = re.match(r"(\d\d)_", self.name)
        return int(match[1]) if match else None

    @cached_property
    def module(self) -> str | None:
        "The module that it exports, `bpe`, or None."
        return next(
            (cell.directives["default_exp"] for cell in self.code_cells if "default_exp" in cell.directives),
            None,
        )

    @property
    def code_cells(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def exported_names(self) -> dict[str, Cell]:
        "What its module defines (not what it imports), private names included."
        found: dict[str, Cell] = {}
        for cell in self.code_cells:
            if cell.exported:
                for node in cell.tree.body:
                    found |= dict.fromkeys(names_defined(node), cell)
        return found

    def to_import(self, cell: Cell) -> str:
        "What stands in for an export cell: its own imports, and its names from the module."
        kept = [ast.unparse(node) for node in cell.tree.body if names_bound(node) and not names_defined(node)]
        names = set().union(*map(names_defined, cell.tree.body))
        if names:
            kept.append(f"from {self.package}.{self.module} import {', '.join(sorted(names))}")
        return "\n".join(kept)

    @cached_property
    def kept(self) -> list[Cell]:
        "The cells that `make test` runs: exports, tests, and what tests need."
        return self.cells_for([cell for cell in self.code_cells if cell.is_test])

    def cells_for(self, tests: list[Cell]) -> list[Cell]:
        """What must run for these tests: the exports, the tests, and the cells that they need.

        Read from the end: a cell stays when it binds a name that a kept later cell reads, or may change the object behind it. What functions
        look up when they are called may be bound before or after them, hence the repetition.
        """
        looked_up: set[str] = set()
        while True:
            kept: list[Cell] = []
            needed = set(looked_up)
            for cell in reversed(self.code_cells):
                if cell.runs and (cell in tests or cell.exported or cell.bound & needed or cell.changed & needed):
                    kept.append(cell)
                    before, own, later = cell.flow
                    needed = (needed - own) | looked_up | (set() if cell.exported else before | later)
            found = looked_up.union(*(cell.flow[2] for cell in kept if not cell.exported))
            if found == looked_up:
                return kept[::-1]
            looked_up = found

    @property
    def tests(self) -> list[Cell]:
        return [cell for cell in self.kept if cell.is_test]


def load_chapters() -> list[Chapter]:
    "Every notebook of nbs/, in order."
    return [Chapter.load(path) for path in sorted(NBS.glob("*.ipynb"))]


class CellFailed(AssertionError):
    "A cell of a chapter failed; the message names notebook, cell and line."


def explain(cell: Cell, error: BaseException, namespace: dict[str, Any]) -> str:
    "What failed where: the cell's line, the values of the names on it, the error."
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == str(cell):
            line, local = trace.tb_lineno, trace.tb_frame.f_locals
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == str(cell):
        line, local = error.lineno or 0, {}
    lines = cell.source.splitlines()
    parts = [f"{cell}, line {line}: {type(error).__name__}: {error}"]
    parts += [f"  {n:3} {'>' if n == line else ' '} {text}" for n, text in enumerate(lines, 1)]
    if isinstance(error, AssertionError) and 0 < line <= len(lines):
        statement = next((n for n in ast.walk(cell.tree) if isinstance(n, ast.stmt) and n.lineno == line), None)
        for name in sorted({n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}) if statement else ():
            value = local.get(name, namespace.get(name))
            if not callable(value) and not isinstance(value, types.ModuleType) and name not in dir(builtins):
                parts.append(f"      {name} = {reprlib.repr(value)}")
    return "\n".join(parts)


class Run:
    "One pass through a chapter, cell after cell, in a namespace of its own."

    def __init__(self, chapter: Chapter, folder: Path = NBS) -> None:
        self.chapter, self.folder = chapter, folder
        self.scope = types.ModuleType(
            f"chapter_{chapter.name}"
        )  # a real module: dataclasses and pickle look their module up
        self.scope.__dict__["display"] = lambda *_shown, **_how: None  # a notebook has it without an import
        self.todo = list(chapter.kept)
        self.failed: dict[str, str] = {}  # cell id → what went wrong

    def execute(self, cell: Cell) -> None:
        "Run one cell. Raises CellFailed."
        source = self.chapter.to_import(cell) if cell.exported else cell.code
        linecache.cache[str(cell)] = (len(source), None, source.splitlines(keepends=True), str(cell))
        sys.modules[self.scope.__name__] = self.scope
        output = io.StringIO()
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(output):
                exec(compile(source, str(cell), "exec", dont_inherit=True), self.scope.__dict__)
        except (Exception, SystemExit) as error:
            raise CellFailed(explain(cell, error, self.scope.__dict__)) from (
                None if isinstance(error, AssertionError) else error
            )
        finally:
            if "matplotlib.pyplot" in sys.modules:
                sys.modules["matplotlib.pyplot"].close("all")

    def through(self, wanted: str) -> None:
        "Run up to and including the cell `wanted`; each cell runs once. Raises CellFailed where that cell, or one that it may need, fails."
        while self.todo and wanted not in {cell.id for cell in self.chapter.kept} - {
            cell.id for cell in self.todo
        }:
            cell = self.todo.pop(0)
            try:
                self.execute(cell)
            except CellFailed as error:
                self.failed[cell.id] = str(error)
        if wanted in self.failed:
            raise CellFailed(self.failed[wanted] + self.blame(wanted))

    def blame(self, wanted: str) -> str:
        "A line about the cells before this one that failed."
        order = [cell.id for cell in self.chapter.kept]
        before = [name for name in order[: order.index(wanted)] if name in self.failed]
        return (
            f"\nAn earlier cell of this chapter failed too; mend it first: {self.failed[before[0]].splitlines()[0]}"
            if before
            else ""
        )


def chapter_tests() -> Iterator[tuple[str, str]]:
    "(chapter, cell id) of every test cell of the book."
    for chapter in load_chapters():
        for cell in chapter.tests:
            yield chapter.name, cell.id


def needed_statements(chapter: Chapter, name: str, cell_id: str | None = None) -> list[tuple[Cell, ast.stmt]]:
    "The top-level statements of a chapter that define `name`, and what they need, in the chapter's order."
    statements = [(cell, node) for cell in chapter.code_cells if cell.runs for node in cell.tree.body]
    homes: dict[str, list[int]] = {}
    for k, (_cell, node) in enumerate(statements):
        for bound in names_bound(node):
            homes.setdefault(bound, []).append(k)
    starts = [k for k in homes.get(name, []) if cell_id in (None, statements[k][0].id)]
    if not starts:
        functions = sorted(
            n for n, places in homes.items() if any(isinstance(statements[k][1], Definition) for k in places)
        )
        where = f"cell {cell_id!r} of nbs/{chapter.name}.ipynb" if cell_id else f"nbs/{chapter.name}.ipynb"
        raise LookupError(f"{where} defines no {name!r}; the chapter defines {', '.join(functions)}")
    todo, wanted = [starts[-1]], set()
    while todo:
        k = todo.pop()
        if k not in wanted:
            wanted.add(k)
            for read in names_read(statements[k][1]):
                places = [j for j in homes.get(read, []) if j != k]
                if earlier := [j for j in places if j < k] or places[:1]:
                    todo.append(earlier[-1])
    return [statements[k] for k in sorted(wanted)]


def chapter_function(chapter: str, name: str, cell: str | None = None) -> Any:
    """A naive, unexported definition out of a chapter: `chapter_function("12_bpe", "train_bpe_loop")`.

    Runs only the statements that define it and what it needs; exported names come from the library. `cell` picks one where a chapter
    refines a function under one name. Raises LookupError, with the names that there are.
    """
    book = Chapter.load(NBS / f"{chapter}.ipynb")
    scope = types.ModuleType(f"chapter_{chapter}_{name}")
    sys.modules[scope.__name__] = scope
    for home, node in needed_statements(book, name, cell):
        if home.exported and names_defined(node):
            module = importlib.import_module(f"{book.package}.{book.module}")
            scope.__dict__.update({bound: getattr(module, bound) for bound in names_bound(node)})
        else:
            with contextlib.chdir(NBS), contextlib.redirect_stdout(io.StringIO()):
                exec(compile(ast.Module([node], []), str(home), "exec", dont_inherit=True), scope.__dict__)
    return scope.__dict__[name]


def quiet_backend() -> None:
    "Figures are drawn into memory, never on a screen."
    os.environ.setdefault("MPLBACKEND", "Agg")


def parse_cells(text: str, name: str = "12_toy", package: str = "minillm") -> Chapter:
    "A chapter from the text form of tools/nbtext.py; for tests."
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from nbtext import pack
    finally:
        sys.path.pop(0)
    return Chapter.from_json(name, pack(text), package)
