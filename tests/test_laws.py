"""The laws of CONTRIBUTING.md. Each law is a function that reports what breaks it; each is tried on the book and on deliberate violations.

A message says where, what, and what to do instead.
"""

import ast
import builtins
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chapters import NBS, ROOT, Cell, Chapter, load_chapters, names_bound, names_read, parse_cells
from nbtext import METADATA, dumps

Book = list[Chapter]
Function = ast.FunctionDef | ast.AsyncFunctionDef
LAWS: list[Callable[[Book], Iterator[str]]] = []
BROKEN: list[tuple[Callable[[Book], Iterator[str]], str, str]] = []


def law(*violations: tuple[str, str]) -> Callable:
    "Register a law with its violations: (what it must say, text of a notebook, or of several, each after a line `==== 12_name`)."

    def register(function: Callable[[Book], Iterator[str]]) -> Callable[[Book], Iterator[str]]:
        LAWS.append(function)
        BROKEN.extend((function, says, text) for says, text in violations)
        return function

    return register


def toy_book(text: str) -> Book:
    "Chapters from text: a heading `==== 22_name` starts one; without a heading it is 12_toy."
    parts = re.split(r"^==== (\w+)\n", text.lstrip("\n"), flags=re.M)
    named = list(zip(parts[1::2], parts[2::2])) if len(parts) > 1 else [("12_toy", parts[0])]
    return [parse_cells(body, name) for name, body in named]


def exporting(book: Book) -> Iterator[tuple[Chapter, Cell]]:
    return ((chapter, cell) for chapter in book for cell in chapter.code_cells if cell.exported)


def imports(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, str, list[str]]]:
    "(node, module, names) of every import, at any depth."
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, "." * node.level + (node.module or ""), [alias.name for alias in node.names]


def call_name(node: ast.AST) -> str:
    "`torch.equal` for the call `torch.equal(…)`."
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def functions_of(cell: Cell) -> Iterator[tuple[Function, str, ast.ClassDef | None]]:
    "(function, its full name, its class) for the exported functions and methods of a cell, not for those inside functions."
    for node in cell.definitions:
        if isinstance(node, ast.ClassDef):
            yield from (
                (method, f"{node.name}.{method.name}", node)
                for method in node.body
                if isinstance(method, Function)
            )
        else:
            yield node, node.name, None


def public(name: str) -> bool:
    "Is it part of what a reader may call? `__init__` is, `_helper` and `__repr__` are not."
    return all(not part.startswith("_") or part == "__init__" for part in name.split("."))


# ---- 1. forward only

TWELVE = "==== 12_a\n%% code a\n#| default_exp a\n"
LATER = "==== 31_later\n%% code a\n#| default_exp later\n"


@law(
    (
        "imports minillm.later, which is chapter 31",
        "==== 22_early\n%% code a\n#| default_exp early\n%% code b\n#| export\nfrom minillm.later import x\n"
        + LATER,
    ),
    (
        "imports minillm.later, which is chapter 31",
        "==== 22_early\n%% code a\n#| default_exp early\n%% code b\ndef f():\n    from minillm.later import x\n"
        + LATER,
    ),
    ("by name", TWELVE + "==== 22_b\n%% code b\nimport minillm.a\n"),
    ("by name", TWELVE + "==== 22_b\n%% code b\nfrom minillm import a\n"),
    ("by name", TWELVE + "==== 22_b\n%% code b\n#| export\nfrom .a import x\n"),
    ("its own module", "%% code a\n#| default_exp toy\n%% code b\n#| export\nfrom minillm.toy import x\n"),
    ("no chapter exports minillm.nothing", "%% code b\nfrom minillm.nothing import x\n"),
)
def forward_only(book: Book) -> Iterator[str]:
    """A chapter imports, by name, only from chapters with smaller numbers, so that a reader can stop anywhere.

    The chapters 01 to 03 are tools: cells that are not exported may use them anywhere. Pages that export nothing (the opening, the
    appendices) may show everything.
    """
    numbers = {chapter.module: chapter.number for chapter in book if chapter.module}
    for chapter in book:
        for cell in chapter.code_cells:
            for _, module, names in imports(cell.tree if not cell.directives.get("eval") else ast.parse("")):
                if module == "minillm" and not names and not cell.exported:
                    continue  # `import minillm`: the lazy package, to show its version or its folder
                if (
                    module.startswith(".")
                    or module == "minillm"
                    and set(names) - {"__version__"}
                    or module.startswith("minillm.")
                    and not names
                ):
                    yield f"{cell}: `{module}` is not imported by name; write `from minillm.module import name`"
                elif module.startswith("minillm."):
                    home = module.split(".")[1]
                    if home == chapter.module and cell.exported:
                        yield f"{cell} imports from its own module minillm.{home}; the names are already there"
                    elif home not in numbers and home != "assets":
                        yield f"{cell}: no chapter exports minillm.{home}; modules are {', '.join(sorted(map(str, numbers)))}"
                    elif (
                        chapter.module
                        and (number := numbers.get(home) or 0) > chapter.number
                        and (cell.exported or number > 10)
                    ):
                        yield f"{cell} imports minillm.{home}, which is chapter {number}; look back only, or load an example from assets/"


# ---- 2. one home for each name


@law(
    (
        "`f` again",
        TWELVE + "%% code b\n#| export\ndef f():\n    pass\n==== 22_b\n%% code b\n#| export\ndef f():\n    pass\n",
    ),
    (
        "`f` again",
        "==== 12_a\n%% code a\n#| default_exp a\n%% code b\n#| export\nf = 1\n==== 22_b\n%% code b\nclass f:\n    pass\n",
    ),
)
def one_home_for_each_name(book: Book) -> Iterator[str]:
    "No later chapter defines an exported name again: two definitions drift apart."
    homes: dict[str, Chapter] = {}
    for chapter in book:
        for cell in chapter.code_cells:
            if cell.directives.get("eval") or "exercise" in cell.directives or "nbgrader" in cell.metadata:
                continue
            names = (
                set(chapter.exported_names) & cell.bound
                if cell.exported
                else {node.name for node in cell.definitions}
            )
            for name in sorted(n for n in names if not n.startswith("_")):
                home = homes.get(name)
                if home and home is not chapter:
                    yield f"{cell} defines `{name}` again, whose home is nbs/{home.name}.ipynb; import it or rename this one"
                elif cell.exported:
                    homes[name] = chapter


# ---- 3. config stops at the door


@law(
    (
        "takes `config: object`",
        "%% code b\n#| export\nclass Norm:\n    def __init__(self, config: object) -> None:\n        pass\n",
    ),
    ("takes `c: ModelConfig`", "%% code b\n#| export\ndef norm(c: ModelConfig) -> None:\n    pass\n"),
)
def config_stops_at_the_door(book: Book) -> Iterator[str]:
    "Layers take explicit ints or modules; the model chapter alone unpacks a configuration."
    for chapter, cell in exporting(book):
        for function, name, _ in functions_of(cell) if chapter.module != "model" else ():
            for argument in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]:
                hint = ast.unparse(argument.annotation) if argument.annotation else ""
                if argument.arg in {"config", "cfg"} or "ModelConfig" in hint:
                    yield f"{cell}: {name} takes `{argument.arg}{f': {hint}' if hint else ''}`; take the ints or modules that it needs"


# ---- 4. drawing stays out of the library


@law(
    ("at module level", "==== 22_b\n%% code b\n#| export\nfrom minillm.figures import show\n"),
    (
        "at module level",
        "==== 22_b\n%% code b\n#| export\ntry:\n    from minillm.explorers import Explorer\nexcept ImportError:\n    pass\n",
    ),
    ("needs fastcore", "%% code b\n#| export\nfrom fastcore.basics import patch\n"),
)
def no_drawing_at_module_level(book: Book) -> Iterator[str]:
    "Exported code imports figures and explorers inside the function that draws, and no development tool at all."
    for chapter, cell in exporting(book):
        inside = {id(n) for f in ast.walk(cell.tree) if isinstance(f, Function) for n in ast.walk(f)}
        for node, module, _ in imports(cell.tree):
            if (
                module in {"minillm.figures", "minillm.explorers"}
                and id(node) not in inside
                and chapter.number
                and chapter.number > 3
            ):
                yield f"{cell} imports {module} at module level; import it inside the function that draws"
            if (top := module.split(".")[0]) in {"fastcore", "nbdev", "execnb", "pytest", "hypothesis"}:
                yield f"{cell} is exported and needs {top}, which readers of the library do not install"


# ---- 5. no utils, no exported mutable global; seeds and devices are arguments

IMMUTABLE = {
    "tuple",
    "frozenset",
    "str",
    "bytes",
    "int",
    "float",
    "bool",
    "range",
    "compile",
    "MappingProxyType",
    "TypeVar",
    "ParamSpec",
}
IMMUTABLE |= {
    "NewType",
    "namedtuple",
    "getLogger",
    "Path",
    "Struct",
    "cycler",
    "dtype",
    "device",
    "object",
    "Fraction",
    "Decimal",
}
GLOBAL_STATE = {
    "torch.manual_seed",
    "random.seed",
    "np.random.seed",
    "numpy.random.seed",
    "torch.set_default_device",
    "torch.set_default_dtype",
}
GLOBAL_STATE |= {
    "torch.set_num_threads",
    "np.random.rand",
    "random.random",
    "random.shuffle",
    "random.choice",
    "random.randrange",
}


def mutable(value: ast.expr | None) -> bool:
    "Might the object that this expression makes be changed in place?"
    if isinstance(value, ast.Call):
        return call_name(value).split(".")[-1] not in IMMUTABLE
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


@law(
    ("`CACHE` is a mutable global", "%% code b\n#| export\nCACHE = {}\n"),
    (
        "`seen` is a mutable global",
        "%% code b\n#| export\nfrom collections import Counter\nseen: Counter = Counter()\n",
    ),
    ("`rng` is a mutable global", "%% code b\n#| export\nrng = torch.Generator()\n"),
    ("`global count`", "%% code b\n#| export\ndef f():\n    global count\n    count = 1\n"),
    ("torch.manual_seed", "%% code b\n#| export\ndef f():\n    torch.manual_seed(0)\n"),
    ("random.shuffle", "%% code b\n#| export\ndef f(x):\n    random.shuffle(x)\n"),
)
def no_exported_mutable_global(book: Book) -> Iterator[str]:
    "What a function does depends on its arguments alone: no module holds changing state, seeds and devices are passed in."
    for _, cell in exporting(book):
        for node in cell.tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and mutable(node.value):
                names = ", ".join(sorted(names_bound(node)))
                yield f"{cell}: `{names}` is a mutable global; use a tuple, frozenset or MappingProxyType, or make it an argument"
        for node in ast.walk(cell.tree):
            if isinstance(node, ast.Global):
                yield f"{cell}: `global {', '.join(node.names)}` in exported code; return the value, or keep it in an object"
            if call_name(node) in GLOBAL_STATE:
                yield f"{cell}: `{call_name(node)}` uses state that others share; take a generator or a device as an argument"


@law(
    ("'utils' says nothing", "==== 22_utils\n%% code a\n#| default_exp utils\n"),
    ("'text_helpers' says nothing", "==== 22_b\n%% code a\n#| default_exp text_helpers\n"),
)
def no_utils(book: Book) -> Iterator[str]:
    "A helper lives in the first chapter that needs it."
    for chapter in book:
        for name in {chapter.module or "", chapter.name.partition("_")[2]}:
            if set(name.split("_")) & {"util", "utils", "helpers", "common", "misc", "tools", "core", "lib"}:
                yield f"nbs/{chapter.name}.ipynb: {name!r} says nothing; a helper lives in the first chapter that needs it"


# ---- 6. sizes that fit a glance


@law(
    ("`f` has 26 lines", "%% code b\n#| export\ndef f():\n" + "    pass\n" * 25),
    ("`C.m` has 16 lines", "%% code b\n#| export\nclass C:\n    def m():\n" + "        pass\n" * 15),
    ("`C` has 81 lines", "%% code b\n#| export\nclass C:\n" + "    x = 1\n" * 80),
)
def sizes_that_fit_a_glance(book: Book) -> Iterator[str]:
    "Exported functions have at most 25 lines, methods 15, a class 80."
    for _, cell in exporting(book):
        limits = [(node, name, 15 if owner else 25) for node, name, owner in functions_of(cell)]
        limits += [(node, node.name, 80) for node in cell.definitions if isinstance(node, ast.ClassDef)]
        for node, name, limit in limits:
            if (lines := (node.end_lineno or 0) - node.lineno + 1) > limit:
                yield f"{cell}: `{name}` has {lines} lines, more than {limit}; give a part of it a name of its own"


# ---- 7. every public name has type hints, documented arguments and a docstring


def arguments_of(function: Function, owner: ast.ClassDef | None) -> list[ast.arg]:
    "Its arguments without self or cls."
    spec = function.args
    ordered = [*spec.posonlyargs, *spec.args]
    static = any(ast.unparse(d) == "staticmethod" for d in function.decorator_list)
    return [
        *ordered[1 if owner and not static else 0 :],
        *filter(None, [spec.vararg]),
        *spec.kwonlyargs,
        *filter(None, [spec.kwarg]),
    ]


def documented(function: Function, owner: ast.ClassDef | None, lines: list[str]) -> set[str]:
    "The names of its arguments that stand on a line of their own with a comment."
    given = arguments_of(function, owner)
    alone = [one for one in given if all(other is one or other.lineno != one.lineno for other in given)]
    return {one.arg for one in alone if re.search(r"#\s*\S", " ".join(lines[one.lineno - 1 : one.end_lineno]))}


def documented_in(chapter: Chapter) -> set[str]:
    "The argument names that a chapter's exported code documents anywhere."
    cells = [(cell, cell.source.splitlines()) for cell in chapter.code_cells if cell.exported]
    return {
        name for cell, lines in cells for f, _, owner in functions_of(cell) for name in documented(f, owner, lines)
    }


@law(
    ("`f` has no docstring", "%% code b\n#| export\ndef f() -> None:\n    pass\n"),
    ("`C` has no docstring", "%% code b\n#| export\nclass C:\n    pass\n"),
    (
        "`C.m` has no docstring",
        '%% code b\n#| export\nclass C:\n    "A class."\n    def m(self) -> None:\n        pass\n',
    ),
    ("does not say what it returns", '%% code b\n#| export\ndef f():\n    "Nothing."\n'),
    (
        "`x` of `f` has no type",
        '%% code b\n#| export\ndef f(\n    x,  # a number\n) -> None:\n    "Nothing."\n',
    ),
    (
        "`x` of `f` has no line of its own",
        '%% code b\n#| export\ndef f(\n    x: int,\n) -> None:\n    "Nothing."\n',
    ),
    (
        "`x` of `f` has no line of its own",
        '%% code b\n#| export\ndef f(\n    x: int, y: int,  # two numbers\n) -> None:\n    "Nothing."\n',
    ),
    (
        "`x` of `C.__init__` has no line of its own",
        '%% code b\n#| export\nclass C:\n    "A class."\n    def __init__(self, x: int) -> None:\n        pass\n',
    ),
    (
        "does not mention ValueError",
        '%% code b\n#| export\ndef f() -> None:\n    "Nothing."\n    raise ValueError("no")\n',
    ),
)
def public_names_are_documented(book: Book) -> Iterator[str]:
    """Type hints, one documented argument a line, and a docstring that names the errors.

    In a method an argument may stay bare when the chapter documents one of that name elsewhere.
    """
    for chapter, cell in exporting(book):
        lines, known = cell.source.splitlines(), documented_in(chapter)
        for node in cell.definitions:
            if isinstance(node, ast.ClassDef) and public(node.name) and not ast.get_docstring(node):
                yield f"{cell}: class `{node.name}` has no docstring; say in a sentence what one is"
        for function, name, owner in functions_of(cell):
            if not public(name):
                continue
            doc = ast.get_docstring(function) or ""
            if not doc and function.name != "__init__":
                yield f"{cell}: `{name}` has no docstring; say what it does, with shapes, units, errors and source"
            if not function.returns:
                yield f"{cell}: `{name}` does not say what it returns; write `-> …`"
            told = documented(function, owner, lines)
            for argument in arguments_of(function, owner):
                if not argument.annotation:
                    yield f"{cell}: argument `{argument.arg}` of `{name}` has no type hint"
                if argument.arg not in told and not (owner and argument.arg in known):
                    yield f"{cell}: argument `{argument.arg}` of `{name}` has no line of its own that ends in `# what it is`"
            raised = {
                call_name(n.exc) or ast.unparse(n.exc)
                for n in ast.walk(function)
                if isinstance(n, ast.Raise) and n.exc
            }
            told_errors = doc + (ast.get_docstring(owner) or "" if owner and function.name == "__init__" else "")
            for error in sorted(e for e in raised if re.fullmatch(r"[A-Z]\w*(Error|Exception|Warning)", e)):
                family = [
                    kind.__name__ for kind in getattr(builtins, error, Exception).__mro__[:-3]
                ]  # OSError will do for FileNotFoundError
                if not any(kind in told_errors for kind in {error, *family}):
                    yield f"{cell}: the docstring of `{name}` does not mention {error}, which it raises; `help()` must stand alone"


# ---- 8. no comparison without an assert, no image without alt text, no remote asset


@law(
    ("compares and asserts nothing", "%% code b\na = 1\na == 2\n"),
    ("compares and asserts nothing", "%% code b\nfor a in []:\n    torch.equal(a, a)\nprint(a)\n"),
    ("compares and asserts nothing", "%% code b\ntorch.allclose(a, b)\n"),
)
def no_comparison_without_assert(book: Book) -> Iterator[str]:
    "A comparison that nothing asserts looks like a test and is none."
    equal = re.compile(r"(^|\.)(equal|allclose|isclose|array_equal|all_close)$")
    for chapter in book:
        for cell in chapter.code_cells:
            expected = {
                id(n)
                for w in ast.walk(cell.tree)
                if isinstance(w, ast.With) and "raises(" in ast.unparse(w.items[0])
                for n in ast.walk(w)
            }
            for node in ast.walk(cell.tree):
                if isinstance(node, ast.Expr) and id(node) not in expected:
                    if isinstance(node.value, ast.Compare) or equal.search(call_name(node.value)):
                        yield f"{cell}, line {node.lineno}: `{ast.unparse(node)}` compares and asserts nothing; write `assert …`"


@law(
    ("image without alt text", "%% md a\n![](picture.svg)\n"),
    ("image without alt text", '%% md a\n<img src="picture.svg">\n'),
    ("image without alt text", '%% md a\n<img alt="" src="picture.svg">\n'),
    ("has no alt", '%% code b\nshow(fig, caption="A figure.")\n'),
    ("has no caption", '%% code b\ntoken_strip(pieces, alt="Three tokens.")\n'),
    ("an empty alt", '%% code b\nshow(fig, alt=" ", caption="A figure.")\n'),
    ("`plt.show()`", "%% code b\nplt.show()\n"),
)
def every_picture_is_described(book: Book) -> Iterator[str]:
    "Who cannot see a picture reads its alt text."
    for chapter in book:
        for cell in chapter.cells:
            if cell.kind == "markdown":
                for match in re.finditer(r"!\[(.*?)\]\(|<img\b[^>]*>", cell.source):
                    if not (match[1] or "").strip() and not re.search(r'\balt="\s*[^"\s]', match[0]):
                        yield f"{cell}: image without alt text: {match[0]}; say what it shows"
            for node in ast.walk(cell.tree):
                name = call_name(node)
                if name in {"show", "token_strip"}:
                    given = {k.arg: k.value for k in node.keywords}
                    for wanted in ("alt", "caption") if None not in given else ():
                        if wanted not in given:
                            yield f"{cell}, line {node.lineno}: {name}(…) has no {wanted}; readers who cannot see the figure need it"
                        elif isinstance(given[wanted], ast.Constant) and not str(given[wanted].value).strip():
                            yield f"{cell}, line {node.lineno}: {name}(…) has an empty {wanted}"
                elif re.search(r"^(plt|pyplot|fig\w*)\.show$", name):
                    yield f"{cell}, line {node.lineno}: `{name}()` shows a picture without a description; use `show(fig, alt=…, caption=…)`"


@law(
    ("fold it", "%% code b\nfig, ax = figure()\nax.plot([1])\nax.plot([2])\nshow(fig, alt='a', caption='b')\n"),
    ("source_hidden", '%% code b {"tags": ["hide-input"]}\nshow(fig, alt="a", caption="b")\n'),
)
def drawing_cells_are_folded(book: Book) -> Iterator[str]:
    "At most three visible lines of plotting code; what only draws is folded, in the book and in JupyterLab."
    for chapter in book:
        for cell in chapter.code_cells:
            folded = "hide-input" in cell.metadata.get("tags", [])
            lines = [line for line in cell.code.splitlines() if line.strip()]
            draws = (
                any(call_name(node) == "show" for node in ast.walk(cell.tree))
                and not cell.is_test
                and not cell.exported
            )
            if draws and len(lines) > 3 and not folded and "exercise" not in cell.directives:
                yield f"{cell} draws in {len(lines)} visible lines; fold it with the tag hide-input, or keep to three"
            if folded and not cell.metadata.get("jupyter", {}).get("source_hidden"):
                yield f'{cell} is tagged hide-input and not folded in JupyterLab; add "jupyter": {{"source_hidden": true}}'


# ---- notebooks are clean, and cells have names


@law(
    ("random hex", "%% md a1b2c3d4\nText.\n"),
    ("random hex", "%% md deadbeef\nText.\n"),
    ("words in lower case", "%% md Some_Cell\nText.\n"),
    ("says nothing", "%% md cell-12\nText.\n"),
    ("says nothing", "%% md x\nText.\n"),
)
def cell_ids_are_words(book: Book) -> Iterator[str]:
    "Ids are written by hand and stay: the module, the API pages and links point to them."
    for chapter in book:
        ids = [cell.id for cell in chapter.cells]
        for doubled in sorted({name for name in ids if ids.count(name) > 1}):
            yield f"nbs/{chapter.name}.ipynb: two cells are called {doubled!r}"
        for cell in chapter.cells:
            if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8}", cell.id):
                yield f"{cell}: the id is random hex; name the cell for what is in it, such as 'naive-trainer'"
            elif not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cell.id):
                yield f"{cell}: an id is words in lower case joined by hyphens, such as 'naive-trainer'"
            elif (
                re.fullmatch(r"(cell|code|md|markdown|text|untitled)?-?\d*|[a-z]", cell.id)
                and len(book)
                and cell.kind == "markdown"
            ):
                yield f"{cell}: the id says nothing; name the cell for what is in it"


@law(
    ("starts with `# Title`", "%% md title\nHello.\n"),
    ("`> one-sentence claim`", "%% md title\n# Toy\n\n%% code default-exp\n#| default_exp toy\n"),
    (
        "the first code cell",
        "%% md title\n# Toy\n\n> Claim.\n\n%% code other\nx = 1\n\n%% code default-exp\n#| default_exp toy\n",
    ),
)
def chapters_begin_alike(book: Book) -> Iterator[str]:
    "Title and claim, the generated installation, then the module's name."
    for chapter in book:
        first = (
            chapter.cells[0].source.splitlines() if chapter.cells and chapter.cells[0].kind == "markdown" else [""]
        )
        if not first[0].startswith("# "):
            yield f"nbs/{chapter.name}.ipynb: the first cell starts with `# Title`"
        if chapter.module:
            if not any(line.startswith("> ") for line in first[1:4]):
                yield f"nbs/{chapter.name}.ipynb: under the title stands `> one-sentence claim`, the module's docstring"
            code = [cell for cell in chapter.code_cells if cell.id != "install"]
            if "default_exp" not in code[0].directives:
                yield f"{code[0]}: the first code cell (after the generated one) is `#| default_exp {chapter.module}`"


KNOWN = {"default_exp", "export", "hide", "eval", "train", "exercise"}


@law(
    ("`#| exprot` is no directive", "%% code b\n#| exprot\nx = 1\n"),
    ("must come first", "%% code b\nx = 1\n#| export\n"),
    ("imports with a star", "%% code b\nfrom torch import *\n"),
    ("is no Python", "%% code b\nx = = 1\n"),
    ("magic", "%% code b\n%timeit 1 + 1\n"),
)
def cells_are_plain_python(book: Book) -> Iterator[str]:
    "Known directives at the top, no magics, no star imports: what a reader sees is Python and nothing else."
    for chapter in book:
        for cell in chapter.code_cells:
            try:
                cell.tree  # noqa: B018
            except SyntaxError as error:
                yield f"{cell}, line {error.lineno}: this is no Python: {error.msg}"
                continue
            for word in sorted(cell.directives.keys() - KNOWN):
                yield f"{cell}: `#| {word}` is no directive of this book; there are {', '.join(sorted(KNOWN))}"
            if len(re.findall(r"^#\s*\|", cell.source, re.M)) > len(cell.directives):
                yield f"{cell}: a `#|` line below the code has no effect; directives must come first"
            if cell.id != "install" and re.search(r"^\s*[%!]\w", cell.source, re.M):
                yield f"{cell}: a magic (`%…`, `!…`) runs in Jupyter alone; write Python"
            for _, module, names in imports(cell.tree):
                if "*" in names:
                    yield f"{cell} imports with a star from {module}; name what you need"


# ---- a visible test follows every exported definition


@law(
    (
        "`f` is not tested by the next code cell",
        "%% code b\n#| export\ndef f():\n    pass\n\n%% code c\nprint(f())\n",
    ),
    (
        "`f` is not tested by the next code cell",
        "%% code b\n#| export\ndef f():\n    pass\n\n%% code c\n#| hide\nassert f()\n",
    ),
    (
        "`f` is not tested by the next code cell",
        "%% code b\n#| export\ndef f():\n    pass\n\n%% code c\n#| train\nassert f()\n",
    ),
    (
        "`f` is not tested by the next code cell",
        "%% code b\n#| export\ndef f():\n    pass\n\n%% code c\nassert True\n",
    ),
    ("`f` is not tested by the next code cell", "%% code b\n#| export\ndef f():\n    pass\n"),
    (
        "no test cell uses `g`",
        "%% code b\n#| export\ndef f():\n    pass\n\ndef g():\n    pass\n\n%% code c\nassert f()\n",
    ),
)
def a_test_follows_every_export(book: Book) -> Iterator[str]:
    """The next code cell tests what was exported, where the reader sees it; each public name is used by a test cell.

    Private helpers may be followed by the exported cell that uses them.
    """
    for chapter in book:
        code = [cell for cell in chapter.code_cells if cell.id != "install"]
        tests = [cell for cell in code if cell.is_test and "hide" not in cell.directives]
        used = {cell.id: {n.id for n in ast.walk(cell.tree) if isinstance(n, ast.Name)} for cell in tests}
        for cell, following in zip(code, [*code[1:], None]):
            names = [node.name for node in cell.definitions if cell.exported]
            helps = (
                following
                and following.exported
                and not any(map(public, names))
                and set(names) & names_read(following.tree)
            )
            if names and not helps and not (following and used.get(following.id, set()) & set(names)):
                yield f"{cell}: `{', '.join(names)}` is not tested by the next code cell; put a visible cell with `assert` there"
                continue
            for name in names:
                if public(name) and not any(name in found for found in used.values()):
                    yield f"{cell}: no test cell uses `{name}`"


# ---- files are read and written in UTF-8


@law(
    ("without encoding", "%% code b\nopen('x').read()\n"),
    ("without encoding", "%% code b\npath.read_text()\n"),
    ("without encoding", "%% code b\nwith open(path, 'w') as f:\n    pass\n"),
)
def files_say_their_encoding(book: Book) -> Iterator[str]:
    "Windows assumes another encoding unless it is told."
    for chapter in book:
        for cell in chapter.code_cells:
            yield from (f"{cell}, line {line}: {what}" for line, what in without_encoding(cell.tree))


def without_encoding(tree: ast.AST) -> Iterator[tuple[int, str]]:
    "Text files that are opened without an encoding: (line, message)."
    for node in ast.walk(tree):
        name = call_name(node)
        last = name.split(".")[-1]
        if name in {"open", "io.open"} or last in {"read_text", "write_text"}:
            mode = [
                a.value
                for a in [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
                if isinstance(a, ast.Constant)
            ]
            binary = last == "open" and any("b" in str(m) for m in mode)
            positional = len(node.args) >= {"open": 4, "read_text": 1, "write_text": 2}[last]
            if not binary and not positional and not any(k.arg in {"encoding", None} for k in node.keywords):
                yield node.lineno, f'`{ast.unparse(node)[:60]}` without encoding; add encoding="utf-8"'


# ---- the laws, on the book and on their violations

THE_BOOK = load_chapters()


@pytest.mark.parametrize("check", LAWS, ids=lambda check: check.__name__)
def test_law(check: Callable[[Book], Iterator[str]]) -> None:
    if problems := list(check(THE_BOOK)):
        pytest.fail(f"{check.__doc__}\n" + "\n".join(problems), pytrace=False)


@pytest.mark.parametrize(
    ("check", "says", "text"), [pytest.param(*b, id=f"{b[0].__name__}-{k}") for k, b in enumerate(BROKEN)]
)
def test_law_reports(check: Callable[[Book], Iterator[str]], says: str, text: str) -> None:
    problems = list(check(toy_book(text)))
    assert any(says in problem for problem in problems), f"the law should have said {says!r}; it said {problems}"


GOOD = """
==== 12_good
%% md title
# Good

> A good chapter.

%% code install
%pip install something

%% code default-exp
#| default_exp good

%% code half
#| export
from types import MappingProxyType

NAMES = MappingProxyType({"a": 1})


def half(
    x: int,  # an even number
) -> int:
    "Half of x. Raises ValueError for an odd number."
    if x % 2:
        raise ValueError(f"x={x} is odd; give an even number")
    return x // 2

%% md about-half
Words and ![a half circle](half.svg).

%% code test-half
assert half(4) == 2
with raises(ValueError, "odd"):
    half(3) == 1
==== 22_later
%% md title
# Later

> Another.

%% code default-exp
#| default_exp later

%% code draws
from minillm.good import half

show(fig, alt="Half.", caption="A half.")
"""


@pytest.mark.parametrize("check", LAWS, ids=lambda check: check.__name__)
def test_laws_let_a_good_chapter_pass(check: Callable[[Book], Iterator[str]]) -> None:
    assert list(check(toy_book(GOOD))) == []


# ---- the notebooks as files


def unclean(name: str, text: str) -> Iterator[str]:
    "What keeps a notebook from being the canonical text that git sees."
    notebook = json.loads(text)
    for raw in notebook["cells"]:
        where = f"{name}, cell {raw.get('id')!r}"
        if raw.get("outputs"):
            yield f"{where} has outputs; `make export` removes them"
        if raw.get("execution_count") is not None:
            yield f"{where} has an execution count; `make export` removes it"
        if noise := set(raw["metadata"]) - {"tags", "nbgrader", "jupyter"}:
            yield f"{where} has the metadata {', '.join(sorted(noise))}; `make export` removes it"
    if notebook["metadata"] != METADATA or (notebook["nbformat"], notebook["nbformat_minor"]) != (4, 5):
        yield f"{name}: the notebook's own metadata is not the house's; `make export` mends it"
    if dumps(notebook) != text:
        yield f"{name} is not in canonical form; `make export` rewrites it"


@pytest.mark.parametrize("path", sorted(NBS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_is_clean(path: Path) -> None:
    assert not (problems := list(unclean(path.name, path.read_text(encoding="utf-8")))), "\n".join(problems)


@pytest.mark.parametrize(
    ("says", "change"),
    [
        (
            "has outputs",
            lambda n: n["cells"][0].update(outputs=[{"output_type": "stream", "name": "stdout", "text": "1"}]),
        ),
        ("execution count", lambda n: n["cells"][0].update(execution_count=3)),
        ("metadata collapsed", lambda n: n["cells"][0]["metadata"].update(collapsed=True)),
        ("the notebook's own metadata", lambda n: n["metadata"].update(widgets={})),
        ("canonical", None),
    ],
)
def test_an_unclean_notebook_is_reported(says: str, change: Callable[[dict], None] | None) -> None:
    cell = {
        "cell_type": "code",
        "id": "one",
        "metadata": {},
        "source": ["x = 1"],
        "outputs": [],
        "execution_count": None,
    }
    notebook = json.loads(json.dumps({"cells": [cell], "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}))
    assert not list(unclean("x.ipynb", dumps(notebook)))
    if change:
        change(notebook)
    problems = list(unclean("x.ipynb", dumps(notebook) if change else json.dumps(notebook)))
    assert any(says in problem for problem in problems), problems


# ---- each chapter has its place in the book


def without_a_place(book: Book, root: Path) -> Iterator[str]:
    "Chapters that lack a toc entry, an API page or a budget."
    toc = (root / "_toc.yml").read_text(encoding="utf-8")
    budget = json.loads((root / "budget.json").read_text(encoding="utf-8"))["chapters"]
    entries = re.findall(r"^[\s-]*(?:file|root): nbs/([\w.-]+?)(?:\.ipynb)?\s*$", toc, re.M)
    for chapter in book:
        if entries.count(chapter.name) != 1:
            yield f"_toc.yml names nbs/{chapter.name} {entries.count(chapter.name)} times; a chapter stands there once"
        if chapter.name not in budget:
            yield f'budget.json has no seconds for "{chapter.name}"; run `make book`, then tools/budget.py --write'
        if chapter.module and not (root / "book" / "api" / f"{chapter.module}.md").exists():
            yield f"book/api/{chapter.module}.md is missing; every module has its page"
    for name in sorted({*entries, *budget} - {chapter.name for chapter in book}):
        yield f"{name} is in _toc.yml or budget.json, and nbs/ has no such notebook"


def test_every_chapter_has_its_place() -> None:
    assert not (problems := list(without_a_place(THE_BOOK, ROOT))), "\n".join(problems)


def test_a_chapter_without_a_place_is_reported(tmp_path: Path) -> None:
    (tmp_path / "_toc.yml").write_text("root: book/index\nchapters:\n  - file: nbs/99_gone\n", encoding="utf-8")
    (tmp_path / "budget.json").write_text('{"chapters": {}}', encoding="utf-8")
    problems = "\n".join(without_a_place(toy_book("%% code a\n#| default_exp toy\n"), tmp_path))
    for said in (
        "_toc.yml names nbs/12_toy 0 times",
        "budget.json has no seconds",
        "book/api/toy.md is missing",
        "99_gone is in",
    ):
        assert said in problems


# ---- files of every kind

INSTALL = "pip" + " install"  # in two parts: this file is searched too
TEXT = {
    ".py",
    ".md",
    ".ipynb",
    ".yml",
    ".yaml",
    ".toml",
    ".ini",
    ".txt",
    ".json",
    ".js",
    ".css",
    ".html",
    ".svg",
    ".cfg",
    ".bib",
    "",
}
IGNORED = {
    ".git",
    ".venv",
    "_build",
    "build",
    "dist",
    "__pycache__",
    "node_modules",
    "class",
    ".ruff_cache",
    ".mypy_cache",
    ".pytest_cache",
}
IGNORED |= {".ipynb_checkpoints", ".jupyter_cache", ".hypothesis", "minillm_book.egg-info"}


def text_files(root: Path) -> Iterator[tuple[str, str]]:
    "(path, text) of what the project consists of."
    for folder, inside, names in os.walk(root):
        inside[:] = sorted(set(inside) - IGNORED)
        for path in (Path(folder, name) for name in sorted(names)):
            if path.suffix in TEXT and path.is_file() and path.stat().st_size < 3_000_000:
                try:
                    yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    continue


def wrong_distribution(root: Path) -> Iterator[str]:
    "Places that tell a reader to install somebody else's package."
    pattern = re.compile(r"pip3? install(?:\s+[\w\[\]=<>.,-]+)*?\s+\\?[\"']?minillm(?![\w/.-])")
    for name, text in text_files(root):
        for match in pattern.finditer(text):
            yield f"{name}: {match[0]!r}: that name on PyPI belongs to somebody else; the distribution is minillm-book"


REMOTE = re.compile(
    r"""!\[[^\]]*\]\(\s*https?:|<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\b(?:src|data)=\\?["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref=\\?["']?(?:https?:)?//|@import\s+(?:url\()?\s*["']?(?:https?:)?//|\burl\(\s*["']?(?:https?:)?//"""
    r"""|\b(?:fetch|importScripts|import)\(\s*["'`]https?:|\bfrom\s+["']https?:|\bnew\s+(?:WebSocket|EventSource)\(""",
    re.I,
)


def remote_assets(root: Path) -> Iterator[str]:
    "What the built book would load from another machine."
    for folder in ("nbs", "minillm", "book"):
        for name, text in text_files(root / folder) if (root / folder).exists() else ():
            for match in REMOTE.finditer(text):
                yield f"{folder}/{name}: {match[0]!r} is loaded from another machine; the book works offline: put a copy into _static/"


@pytest.mark.parametrize("check", [wrong_distribution, remote_assets], ids=lambda check: check.__name__)
def test_files(check: Callable[[Path], Iterator[str]]) -> None:
    assert not (problems := list(check(ROOT))), "\n".join(problems)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (wrong_distribution, f"Run `{INSTALL} minillm` first."),
        (wrong_distribution, f"%{INSTALL} -q minillm"),
        (wrong_distribution, f'{INSTALL} "minillm[book]"'),
        (remote_assets, "![a picture](https://example.org/x.png)"),
        (remote_assets, '<script src="https://example.org/x.js"></script>'),
        (remote_assets, '<script src=\\"//example.org/x.js\\"></script>'),
        (remote_assets, '<link rel="stylesheet" href="https://example.org/x.css">'),
        (remote_assets, "body { background: url(https://example.org/x.png) }"),
        (remote_assets, "@import 'https://example.org/x.css';"),
        (remote_assets, "const answer = await fetch('https://example.org/x.json')"),
        (remote_assets, 'import { a } from "https://example.org/x.js"'),
    ],
)
def test_files_that_break_a_law_are_reported(
    check: Callable[[Path], Iterator[str]], text: str, tmp_path: Path
) -> None:
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "page.md").write_text(text, encoding="utf-8")
    assert len(list(check(tmp_path))) == 1


def test_good_files_pass(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    good = "[a link](https://example.org) pip install minillm-book, pip install -e . and pip install git+https://example.org/minillm\n"
    good += "After `pip install` there is a command `minillm`.\n"
    (tmp_path / "book" / "page.md").write_text(
        good + '<svg xmlns="http://www.w3.org/2000/svg"></svg>', encoding="utf-8"
    )
    assert not list(wrong_distribution(tmp_path)) and not list(remote_assets(tmp_path))


@pytest.mark.parametrize("folder", ["tools", "tests", "results", "benchmarks", "book/_ext"])
def test_python_files_say_their_encoding(folder: str) -> None:
    problems = [
        f"{path.relative_to(ROOT)}, line {line}: {what}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, what in without_encoding(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not problems, "\n".join(problems)


# ---- the package


def public_names(book: Book) -> dict[str, str]:
    "Public name → module, for what the chapters after the tools (01 to 03) export."
    chapters = [chapter for chapter in book if (chapter.number or 0) >= 10]
    return {
        name: str(chapter.module)
        for chapter in chapters
        for name in chapter.exported_names
        if not name.startswith("_")
    }


def wrong_table(home: dict[str, str], book: Book) -> Iterator[str]:
    "What the lazy table of minillm/__init__.py has wrong: the main names of every chapter belong there, under their true homes."
    modules = {chapter.module for chapter in book if chapter.module}
    owned = public_names(book)
    for name, module in sorted(home.items()):
        if owned.get(name) != module:
            there = f"its home is {owned[name]}" if name in owned else "no chapter exports it"
            yield f'minillm/__init__.py has "{name}": "{module}", and {there}'
        if name in modules:
            yield f"minillm/__init__.py offers `{name}`, which is a module too: importing the module would hide the name"
    for module in sorted(set(owned.values()) - set(home.values()) - {"cli", "serve"}):  # commands, not names
        names = ", ".join(sorted(name for name, place in owned.items() if place == module))
        yield f"minillm/__init__.py has no name of minillm.{module}; add the main ones of {names}"


def test_the_lazy_table_is_complete() -> None:
    import minillm

    assert not (problems := list(wrong_table(minillm._HOME, THE_BOOK))), "\n".join(problems)


def test_the_lazy_table_works() -> None:
    "In a fresh interpreter every name is found, is the module's own, and a slip says what there is."
    code = "import minillm, importlib; "
    code += "assert all(getattr(minillm, n) is getattr(importlib.import_module('minillm.' + m), n) for n, m in minillm._HOME.items()); "
    code += "assert set(minillm._HOME) <= set(dir(minillm)) and set(minillm.__all__) == {'__version__', *minillm._HOME}"
    loaded_after(code)
    import minillm

    with pytest.raises(AttributeError, match="no name 'Tokeniser'"):
        minillm.Tokeniser  # noqa: B018


def test_a_wrong_table_is_reported() -> None:
    names = "%% code b\n#| export\ndef f():\n    pass\n\ndef g():\n    pass\n\ndef toy():\n    pass\n"
    book = toy_book("%% code a\n#| default_exp toy\n" + names)
    assert list(wrong_table({"f": "toy"}, book)) == []
    assert "no chapter exports it" in "".join(wrong_table({"f": "toy", "h": "toy"}, book))
    assert "its home is toy" in "".join(wrong_table({"f": "elsewhere"}, book))
    assert "which is a module too" in "".join(wrong_table({"f": "toy", "toy": "toy"}, book))
    assert list(wrong_table({}, book)) == [
        "minillm/__init__.py has no name of minillm.toy; add the main ones of f, g, toy"
    ]


def loaded_after(code: str) -> set[str]:
    "The top-level modules in memory after running code in a fresh interpreter."
    command = f"import sys; {code}; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, encoding="utf-8", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HEAVY = {
    "torch",
    "numpy",
    "matplotlib",
    "regex",
    "IPython",
    "tokenizers",
    "transformers",
    "safetensors",
    "tqdm",
}


def test_import_minillm_is_light() -> None:
    assert not (found := HEAVY & loaded_after("import minillm")), (
        f"`import minillm` loads {found}; import them where they are used"
    )


def test_a_heavy_import_would_be_seen() -> None:
    assert "numpy" in HEAVY & loaded_after("import numpy")


def test_the_library_needs_no_development_tool() -> None:
    "Every module but the drawing ones loads without matplotlib, notebooks' machinery or an oracle."
    modules = [
        chapter.module for chapter in THE_BOOK if chapter.module and chapter.module not in {"figures", "explorers"}
    ]
    tools = {
        "matplotlib",
        "nbdev",
        "fastcore",
        "execnb",
        "tokenizers",
        "tiktoken",
        "transformers",
        "bertviz",
        "bitsandbytes",
        "pytest",
    }
    code = "import " + ", ".join(f"minillm.{module}" for module in modules)
    assert not (found := tools & loaded_after(code)), (
        f"importing the library loads {found}; import them inside the function that needs them"
    )
