#!/usr/bin/env python3
"""Write the README's table of chapters, from _toc.yml, the notebooks and budget.json: `python tools/readme.py`. A test keeps it in step."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- chapters: written by tools/readme.py -->", "<!-- end of chapters -->"


def contents(toc: str) -> list[tuple[str, str]]:
    "(part, notebook) in the book's order, read from _toc.yml."
    found, part = [], "Opening"
    for line in toc.splitlines():
        if caption := re.match(r'\s*- caption: "?(.*?)"?\s*$', line):
            part = caption[1]
        elif entry := re.match(r"[\s-]*(?:file|root): nbs/([\w.-]+?)(?:\.ipynb)?\s*$", line):
            found.append((part, entry[1]))
    return found


def title_and_claim(notebook: dict) -> tuple[str, str]:
    "The chapter's title and its one-sentence claim, from its first cell."
    text = "".join(notebook["cells"][0]["source"])
    title = re.search(r"^# (.+)$", text, re.M)
    claim = re.search(r"^((?:> .*\n?)+)", text, re.M)
    said = " ".join(line.removeprefix("> ").strip() for line in claim[1].splitlines()) if claim else ""
    return (title[1].strip() if title else "Untitled"), said


def module_of(notebook: dict) -> str:
    "The module that it exports, or an empty string."
    sources = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    found = (re.match(r"#\|\s*default_exp\s+(\w+)", source) for source in sources)
    return next((match[1] for match in found if match), "")


def duration(units: float) -> str:
    "A readable time: `9 s`, `1 min 20 s`."
    seconds = max(1, round(units))
    return (
        f"{seconds} s" if seconds < 60 else f"{seconds // 60} min" + (f" {seconds % 60} s" if seconds % 60 else "")
    )


def table(root: Path = ROOT) -> str:
    "The table in Markdown: chapter, what it claims, module, time."
    budget = json.loads((root / "budget.json").read_text(encoding="utf-8"))["chapters"]
    rows, before = ["| chapter | what it shows | module | time |", "|---|---|---|---:|"], ""
    for part, name in contents((root / "_toc.yml").read_text(encoding="utf-8")):
        path = root / "nbs" / f"{name}.ipynb"
        if not path.exists():
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        title, claim = title_and_claim(notebook)
        if part != before:
            rows.append(f"| **{part}** | | | |")
            before = part
        module = f"`{module}`" if (module := module_of(notebook)) else ""
        time = duration(budget[name]) if name in budget else ""
        rows.append(f"| [{title}](nbs/{name}.ipynb) | {claim.replace('|', '&#124;')} | {module} | {time} |")
    total = sum(seconds for name, seconds in budget.items() if (root / "nbs" / f"{name}.ipynb").exists())
    return "\n".join([*rows, f"| | | **all chapters, one after the other** | **{duration(total)}** |"])


def with_table(text: str, chapters: str) -> str:
    "The README with this table between its two marks; ValueError when a mark is missing."
    if text.count(START) != 1 or text.count(END) != 1:
        raise ValueError(
            f"README.md must hold the lines {START!r} and {END!r} once each, for the table of chapters"
        )
    head, rest = text.split(START)
    return f"{head}{START}\n{chapters}\n{END}{rest.split(END)[1]}"


def main() -> None:
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8"), table()), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
