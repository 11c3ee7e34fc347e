"""What the book makes of a chapter's cells before anything is parsed or executed. The executor and the Sphinx extension share it.

A chapter is read once (`Chapter.read`): directives become tags and roles, numbers quoted in prose are collected, and the chapter's `key` says which
executed copy is the right one: a hash of the code that runs, of every library module it imports (transitively), of the assets and records it
opens, and of the pinned versions.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXECUTED = ROOT / "book" / "_build" / "executed"
VERSION = "1"  # of this file's cell transformation: raise it to execute everything again

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")
TAGS = {
    "hide": "remove-cell",
    "default_exp": "remove-cell",
    "exercise": "remove-cell",
    "hide_input": "remove-input",
    "hide_output": "remove-output",
    "eval false": "skip-execution",
    "echo false": "remove-input",
    "output false": "remove-output",
    "include false": "remove-cell",
    "code-fold true": "hide-input",
}
TEST = re.compile(r"\bassert\b|\bassert_close\(|\bassert_allclose\(|\braises\(|^check\(", re.M)
NUMBER = re.compile(r"\[([^\]\n]*)\]\(#number/([^)\s]+?)/([^/)\s]*)\)")


@dataclass
class Cell:
    "One cell: its source without directives, what it is, and the tags MyST-NB understands."

    kind: str  # markdown or code
    name: str  # the cell's id
    source: str
    tags: set[str] = field(default_factory=set)
    directives: dict[str, str] = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)

    @property
    def role(self) -> str:
        "What the reader should know of a code cell: export, solution, check, test, or nothing in particular."
        if "export" in self.directives:
            return "export"
        grader = self.metadata.get("nbgrader", {})
        if grader.get("solution"):
            return "solution"
        if grader.get("grade"):
            return "check"
        return "test" if TEST.search(self.source) else ""


def read_cell(raw: dict) -> Cell:
    "A notebook's cell with its leading `#|` lines turned into tags and directives."
    source = raw["source"] if isinstance(raw["source"], str) else "".join(raw["source"])
    metadata = raw.get("metadata", {})
    cell = Cell(raw["cell_type"], raw["id"], source, set(metadata.get("tags", [])), {}, metadata)
    if cell.kind != "code":
        return cell
    lines = source.split("\n")
    while lines and (not lines[0].strip() or DIRECTIVE.match(lines[0])):
        if found := DIRECTIVE.match(lines.pop(0)):
            word, rest = found.groups()
            cell.directives[word] = rest
            cell.tags |= {tag for key, tag in TAGS.items() if key in (word, f"{word} {rest.lower()}")}
    cell.source = "\n".join(lines).rstrip()
    if not cell.source:
        cell.tags.add("remove-cell")
    return cell


def python_of(source: str) -> str:
    "A cell's code without IPython's % and ! lines; a line of an expression may start with such a sign, so only where they are no Python."
    try:
        ast.parse(source)
    except SyntaxError:
        return re.sub(r"^\s*[%!].*$", "pass", source, flags=re.M)
    return source


def imported_modules(code: str) -> set[str]:
    "Names of the minillm modules that `code` imports, at any depth of nesting; `*` when it imports the package as a whole."
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names if alias.name.split(".")[0] == "minillm"]
            found |= {parts[1] if len(parts) > 1 else "*" for parts in names}
        elif isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".") if node.module else []
            if node.level == 0 and path[:1] == ["minillm"]:
                path = path[1:]
            elif node.level == 0:
                continue
            found |= {path[0]} if path else {alias.name for alias in node.names}
    return found


def literals(code: str) -> set[str]:
    "Every string constant in the code, and the parts of those that look like paths."
    words = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return words | {part for word in words if "/" in word and len(word) < 200 for part in word.split("/")}


class Library:
    "The library as files: what a piece of code depends on."

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.modules = {path.stem: path.read_text(encoding="utf-8") for path in sorted((root / "minillm").glob("*.py"))}
        assets = [path for path in sorted((root / "minillm" / "assets").rglob("*")) if path.is_file()]
        self.files = [path for path in assets if path.parent.name != "exercises"] + sorted((root / "results").glob("*.json"))

    def closure(self, code: str) -> set[str]:
        "The modules that code imports, and those they import, to the end."
        todo, seen = imported_modules(code), set()
        while todo:
            name = todo.pop()
            more = set(self.modules) if name == "*" else {name} & set(self.modules)
            for module in more - seen:
                seen.add(module)
                todo |= imported_modules(self.modules[module]) - seen - {"*"}
        return seen

    def opened(self, words: set[str]) -> list[Path]:
        "Assets and records that these strings name: by file name, by stem, or by their folder."
        return [path for path in self.files if {path.name, path.stem, path.parent.name} & (words - {"assets", "results"})]


@dataclass
class Chapter:
    "A notebook as the book sees it."

    path: Path
    cells: list[Cell]
    library: Library

    @classmethod
    def read(cls, path: Path, library: Library | None = None, text: str | None = None) -> Chapter:
        raw = json.loads(text if text is not None else path.read_text(encoding="utf-8"))
        return cls(path, [read_cell(cell) for cell in raw["cells"]], library or Library())

    @property
    def module(self) -> str:
        "The module that the chapter exports, or an empty string."
        return next((cell.directives["default_exp"] for cell in self.cells if "default_exp" in cell.directives), "")

    @cached_property
    def numbers(self) -> list[str]:
        "Expressions whose values the prose quotes."
        found = {match[2] for cell in self.cells if cell.kind == "markdown" for match in NUMBER.finditer(cell.source)}
        return sorted(found)

    def executable(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "code" and "skip-execution" not in cell.tags]

    @cached_property
    def key(self) -> str:
        "Changes exactly when the outputs may."
        code = "\n".join(python_of(cell.source) for cell in self.executable())
        modules = self.library.closure(code)
        words = literals(code) | {word for module in modules for word in literals(self.library.modules[module])}
        digest = hashlib.sha256(f"{VERSION}\n{self.path.stem}\n{self.numbers}\n".encode())
        for cell in self.cells:
            if cell.kind == "code":
                digest.update(f"{cell.name}\0{cell.source}\0{'skip-execution' in cell.tags}\0".encode())
        for module in sorted(modules):
            digest.update(f"{module}\0{self.library.modules[module]}\0".encode())
        checks = self.library.root / "minillm" / "assets" / "exercises" / f"{self.path.stem}.py"
        pins = self.library.root / "constraints.txt"
        for path in [*self.library.opened(words), checks, pins]:
            digest.update(path.name.encode() + (path.read_bytes() if path.exists() else b""))
        return digest.hexdigest()[:16]

    @property
    def executed_path(self) -> Path:
        return EXECUTED / f"{self.path.stem}.{self.key}.json"

    def executed(self) -> dict | None:
        "The stored outputs: {'outputs': {cell id: [...]}, 'numbers': {...}, 'cpu_seconds': …}, or None."
        path = self.executed_path
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
