"""The plain-Markdown convention (CONTRIBUTING.md) turned into MyST: admonitions, folds, references, checked numbers.

Pure functions of text, tested without Sphinx. `Trouble` is raised for a number that is not what the text says, and for unknown targets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from api import label, link_target

BLOCKS = {  # leading word → (directive, css class)
    "Predict first": ("admonition", "ml-predict"),
    "Answer": ("ml-fold", "ml-answer"),
    "Hint": ("ml-fold", "ml-hint"),
    "Bug clinic": ("admonition", "warning ml-bug"),
    "Common bug": ("admonition", "warning ml-bug"),
    "What it costs": ("admonition", "ml-cost"),
    "Note": ("admonition", "note"),
    "Definition": ("admonition", "ml-definition"),
    "Exercise": ("admonition", "ml-exercise"),
}
LEAD = re.compile(r"^> \*\*(?P<title>(?P<word>" + "|".join(BLOCKS) + r")(?P<rest>[^*]*?))\.?\*\*\s*")
LINK = re.compile(r"(?<!!)\[((?:[^\[\]`]|`[^`\n]*`)*)\]\(#([^)\s]+)\)")


class Trouble(ValueError):
    "Something in the prose is not true or points nowhere."


def map_prose(text: str, change: Callable[[str], str]) -> str:
    "Apply `change` to the text outside fenced code."
    parts = re.split(r"(^(?:`{3,}|~{3,})[^\n]*\n.*?^(?:`{3,}|~{3,})[ ]*$)", text, flags=re.M | re.S)
    return "".join(part if k % 2 else change(part) for k, part in enumerate(parts))


def blocks(text: str) -> str:
    "Quoted blocks with a leading word become directives."
    out: list[str] = []
    lines = text.split("\n")
    k = 0
    while k < len(lines):
        lead = LEAD.match(lines[k])
        if not lead:
            out.append(lines[k])
            k += 1
            continue
        end = k
        while end < len(lines) and lines[end].startswith(">"):
            end += 1
        body = [lines[k][lead.end() :], *(re.sub(r"^> ?", "", line) for line in lines[k + 1 : end])]
        directive, css = BLOCKS[lead["word"]]
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", "\n".join(body))), default=0))
        anchor = re.match(r"Exercise (\d\d-[a-z])", lead["title"])
        name = [f":name: exercise-{anchor[1]}"] if anchor else []
        out += [f"{fence}{{{directive}}} {lead['title'].strip()}", f":class: {css}", *name, "", *body, fence]
        k = end
    return "\n".join(out)


def format_value(value: object, spec: str) -> str:
    "Format by a Python format spec; `%` keeps a thin distance from its number."
    return format(value, spec).replace("%", " %")


def quoted(literal: str, value: object, spec: str) -> str:
    "The text to print for a quoted number. Raises Trouble when the literal is not the value, unless it may drift."
    drifting = spec.endswith("~")
    shown = format_value(value, spec.rstrip("~"))
    plain = re.sub(r"[\s,\u202f\u00a0]", "", literal)
    if plain == re.sub(r"[\s,]", "", shown):
        return literal
    if drifting and re.fullmatch(r"[-+]?[\d.]+%?", plain):
        return shown
    raise Trouble(f"the text says {literal!r}, the value is {shown!r}")


def from_record(root: Path, path: str) -> object:
    "The value at `file.json/key.key` in results/."
    name, _, keys = path.partition("/")
    file = root / "results" / name
    if not file.exists():
        raise Trouble(f"there is no record results/{name}; there are {', '.join(sorted(p.name for p in file.parent.glob('*.json'))) or 'none'}")
    value = json.loads(file.read_text(encoding="utf-8"))
    for key in keys.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise Trouble(f"results/{name} has no {key!r} (of {keys!r})") from None
    return value


def glossary_terms(text: str) -> dict[str, str]:
    "Slug → term, from the glossary page."
    found = {}
    for block in re.findall(r"^(`{3,}|:{3,})\{glossary\}[^\n]*\n(.*?)^\1", text, flags=re.M | re.S):
        for line in block[1].split("\n"):
            if line.strip() and not line.startswith((" ", "\t", ":")):
                found[re.sub(r"[^a-z0-9]+", "-", line.strip().lower()).strip("-")] = line.strip()
    return found


def bibliography_keys(text: str) -> set[str]:
    return set(re.findall(r"^@\w+\{\s*([^,\s]+)\s*,", text, flags=re.M))


class Convention:
    "Turns prose into MyST, given what can be referred to."

    def __init__(self, root: Path) -> None:
        self.root = root
        book = root / "book"
        read = lambda path: path.read_text(encoding="utf-8") if path.exists() else ""
        self.terms = glossary_terms(read(book / "glossary.md"))
        self.sources = bibliography_keys(read(book / "references.bib"))

    def link(self, text: str, target: str, numbers: dict[str, object]) -> str:
        "One link of the convention as MyST."
        head, _, rest = target.partition("/")
        if head == "number":
            expression, _, spec = rest.rpartition("/")
            if expression not in numbers:
                raise Trouble(f"the chapter has no value for {expression!r}")
            return f"{{ml-number}}`{quoted(text, numbers[expression], spec)}`"
        if head == "record":
            path, _, spec = rest.rpartition("/")
            return f"{{ml-number}}`{quoted(text, from_record(self.root, path), spec)}`"
        if head == "see":
            if rest.startswith(("fig-", "eq-", "exercise-")):
                return f"[{text}](#{rest})"
            if rest.startswith("cell/"):
                return f"[{text}](#cell-{rest[5:]})"
            return f"[{text}](#{link_target(label(*rest.partition('.')[::2]))})"
        if target.startswith("term-"):
            if target[5:] not in self.terms:
                raise Trouble(f"the glossary has no term for {target!r}")
            return f"{{term}}`{text.replace('`', '')} <{self.terms[target[5:]]}>`"
        if target in self.sources:
            cite = f"{{cite:t}}`{target}`"
            return cite if re.search(r"\d{4}[a-z]?$", text) else f"{text} ({cite})"
        if re.fullmatch(r"[a-z]+\d{4}[a-z]?", target):
            raise Trouble(f"references.bib has no entry {target!r}")
        return f"[{text}](#{target})"

    def prose(self, text: str, numbers: dict[str, object] | None = None) -> tuple[str, list[str]]:
        "The text as MyST, and a list of what is wrong in it."
        troubles: list[str] = []

        def replace(match: re.Match) -> str:
            try:
                return self.link(match[1], match[2], numbers or {})
            except Trouble as trouble:
                troubles.append(f"[{match[1]}](#{match[2]}): {trouble}")
                return match[1]

        return blocks(map_prose(text, lambda part: LINK.sub(replace, part))), troubles
