#!/usr/bin/env python3
"""The exercises of a chapter: find them, check that they are whole, write their checks to minillm/assets/exercises/.

`make export` calls `export_checks` for each notebook. The solution never gets into the file: only the head of its `def` line does.
`tools/make_class.py` and tests/test_exercises.py read the chapters through `exercises_of`, too.
"""

import ast
import copy
import json
import re
from dataclasses import dataclass
from pathlib import Path

DIRECTIVE = re.compile(r"^#\| *exercise +(\S+) *$", re.MULTILINE)
LABEL = re.compile(r"\d\d-[a-z]")
TITLE = re.compile(r"\*\*Exercise (\d\d-[a-z]) · (.+?)\.?\*\*")
SOLVED = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION[^\n]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class ChapterExercise:
    "The four cells of one exercise, as text, and what was read out of them."

    label: str
    title: str
    statement: str
    solution: str
    check: str
    checks: str
    name: str  # of the answer that the check cell hands in
    answer: str  # head of its definition: "def f(x: int) -> int: ...", "class F: ...", or "" for a plain value
    returns: bool  # it returns something other than None on every path that returns

    @property
    def blank(self) -> str:
        "The solution cell as a student gets it."
        return SOLVED.sub(r'\1raise NotImplementedError("write your answer here")', self.solution)


def source_of(cell: dict) -> str:
    "A cell's source as one string."
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def python_of(source: str) -> str:
    "Code without lines that only IPython understands."
    return "\n".join("" if re.match(r"\s*[%!]", line) else line for line in source.split("\n"))


def exported_cells(notebook: dict) -> list[str]:
    "The sources of the cells that `#| export` sends to the module."
    sources = [source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [source for source in sources if re.search(r"^#\| *exports? *$", source, re.MULTILINE)]


def module_of(notebook: dict) -> str:
    "The name in `#| default_exp`, or the empty string."
    sources = [source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = [re.search(r"^#\| *default_exp +(\S+)", source, re.MULTILINE) for source in sources]
    return next((match[1] for match in found if match), "")


def setup_of(notebook: dict) -> str:
    "Import lines that give an exercise what the chapter's exported code has: its imports, and its public names."
    imports, names = set(), set()
    for source in exported_cells(notebook):
        for node in ast.parse(python_of(source)).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)) and getattr(node, "module", "") != "__future__":
                imports.add(ast.unparse(node))
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    public = sorted(name for name in names if not name.startswith("_"))
    lines = sorted(imports, key=lambda line: (line.startswith("from minillm"), line.startswith("from"), line))
    if public:
        lines.append(f"from minillm.{module_of(notebook)} import {', '.join(public)}")
    return "\n".join(lines) + "\n"


def head_of(node: ast.FunctionDef) -> str:
    "The `def` line alone, on one line. Defaults that are no plain constants become `...`: their names may mean nothing elsewhere."

    def plain(value: ast.expr | None) -> ast.expr | None:
        return value if value is None or isinstance(value, ast.Constant) else ast.Constant(...)

    arguments = copy.deepcopy(node.args)
    arguments.defaults, arguments.kw_defaults = [*map(plain, arguments.defaults)], [*map(plain, arguments.kw_defaults)]
    body: list[ast.stmt] = [ast.Expr(ast.Constant(...))]
    head = ast.FunctionDef(name=node.name, args=arguments, body=body, decorator_list=[], returns=node.returns, lineno=1)
    return " ".join(ast.unparse(head).split())


def answer_of(solution: str, name: str) -> tuple[str, bool]:
    "The head of the definition of `name` in a solution, and whether it always returns something."
    for node in ast.parse(python_of(solution)).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            returned = [part.value for part in ast.walk(node) if isinstance(part, (ast.Return, ast.Yield, ast.YieldFrom))]
            nothing = [value for value in returned if value is None or (isinstance(value, ast.Constant) and value.value is None)]
            optional = node.returns is not None and "None" in ast.unparse(node.returns)
            return head_of(node), bool(returned) and not nothing and not optional
        if isinstance(node, ast.ClassDef) and node.name == name:
            return f"class {name}: ...", True
    return "", True


def exercises_of(path: Path) -> list[ChapterExercise]:
    "A chapter's exercises, in its order; `ValueError` naming the chapter and cell when one is incomplete."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = {cell["id"]: source_of(cell) for cell in notebook["cells"]}
    found = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and (directive := DIRECTIVE.search(source_of(cell))):
            found.append(exercise_from(path, cells, cell["id"], directive[1]))
    marked = {cell_id for cell_id in cells if re.fullmatch(r"(exercise|solution|check|checks)-\d\d-[a-z]", cell_id)}
    whole = {f"{kind}-{one.label}" for one in found for kind in ("exercise", "solution", "check", "checks")}
    if stray := sorted(marked - whole):
        raise ValueError(f"{path.name}: {', '.join(stray)} belong to no exercise; its checks cell must start with `#| exercise LABEL`")
    return found


def exercise_from(path: Path, cells: dict[str, str], cell_id: str, label: str) -> ChapterExercise:
    "Put one exercise together from the cells of its chapter."
    where = f"{path.name}, exercise {label}"
    if not LABEL.fullmatch(label) or label[:2] != path.name[:2]:
        raise ValueError(f"{where}: a label is the chapter's two digits, a dash and a letter, such as {path.name[:2]}-a")
    if missing := [name for name in (f"{kind}-{label}" for kind in ("exercise", "solution", "check", "checks")) if name not in cells]:
        raise ValueError(f"{where}: cells called {', '.join(missing)} are missing; an exercise has four (CONTRIBUTING.md, Exercises)")
    if cell_id != f"checks-{label}":
        raise ValueError(f"{where}: the cell with `#| exercise {label}` is called {cell_id}; call it checks-{label}")
    statement, solution, check, checks = (cells[f"{kind}-{label}"] for kind in ("exercise", "solution", "check", "checks"))
    title = TITLE.search(statement)
    if title is None or title[1] != label:
        raise ValueError(f"{where}: its statement must start with `> **Exercise {label} · A title.**`")
    if not SOLVED.search(solution):
        raise ValueError(f"{where}: the solution has no lines ### BEGIN SOLUTION and ### END SOLUTION")
    call = re.search(rf'\bcheck\("{label}", *(\w+)\)', check)
    if call is None:
        raise ValueError(f'{where}: the check cell must call check("{label}", name_of_the_answer)')
    head, returns = answer_of(solution, call[1])
    return ChapterExercise(label, title[2], statement, solution, check, checks, call[1], head, returns)


def checks_text(path: Path) -> str:
    "The text of the asset file of one chapter, or the empty string when it has no exercises."
    exercises = exercises_of(path)
    if not exercises:
        return ""
    setup = setup_of(json.loads(path.read_text(encoding="utf-8")))
    parts = [f"# Generated from nbs/{path.name} by tools/exercises.py: edit the notebook, then `make export`.\n# %% setup\n{setup}"]
    for one in exercises:
        facts = json.dumps({"title": one.title, "answer": one.answer, "returns": one.returns}, ensure_ascii=False)
        body = DIRECTIVE.sub("", one.checks).strip("\n")
        parts.append(f"# %% exercise {one.label} {facts}\n{body}\n")
    return "\n".join(parts)


def export_checks(path: Path, folder: Path) -> None:
    "Write the checks of one chapter to `folder`/<chapter>.py, or remove that file when the chapter has no exercises."
    target, text = folder / f"{path.stem}.py", checks_text(path)
    if not text:
        target.unlink(missing_ok=True)
    elif not target.exists() or target.read_text(encoding="utf-8") != text:
        folder.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
