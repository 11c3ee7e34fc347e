#!/usr/bin/env python3
"""Edit a notebook as plain text, losslessly.

`nbtext.py unpack nbs/12_bpe.ipynb > bpe.txt`, edit, `nbtext.py pack bpe.txt nbs/12_bpe.ipynb`.

The text holds one header line a cell, then the cell's source as it is:

    %% md why                                  a Markdown cell with the id `why`
    %% code trace {"tags": ["hide-input"]}     a code cell with the id `trace` and its metadata, as JSON

Cell ids are written by hand and kept: the exported module and the API pages point to them.
"""

import json
import re
import sys
from pathlib import Path

HEADER = re.compile(r"^%% (md|code|raw) ([A-Za-z0-9_-]{1,64})(?: (\{.*\}))?$")
KINDS = {"md": "markdown", "code": "code", "raw": "raw"}
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def unpack(notebook: dict) -> str:
    "The notebook as text."
    parts = []
    for cell in notebook["cells"]:
        kind = next(short for short, long in KINDS.items() if long == cell["cell_type"])
        source = "".join(cell["source"])
        meta = " " + json.dumps(cell["metadata"], ensure_ascii=False) if cell["metadata"] else ""
        parts.append(f"%% {kind} {cell['id']}{meta}\n{source}\n")
    return "\n".join(parts)


def pack(text: str) -> dict:
    "The text as a notebook without outputs; a doubled or malformed header is an error."
    cells: list[dict] = []
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        if header := HEADER.match(line):
            kind, name, meta = header.groups()
            if name in seen:
                raise SystemExit(f"line {number}: two cells are called {name!r}; ids must differ")
            seen.add(name)
            cell = {"cell_type": KINDS[kind], "id": name, "metadata": json.loads(meta or "{}"), "source": []}
            if kind == "code":
                cell |= {"execution_count": None, "outputs": []}
            cells.append(cell)
        elif re.match(r"^%% ?(md|code|raw)\b", line):
            raise SystemExit(f"line {number}: {line!r} is no header; write '%% md some-id' or '%% code some-id'")
        elif cells:
            cells[-1]["source"].append(line)
        elif line.strip():
            raise SystemExit(f"line {number}: text before the first header '%% md some-id'")
    for cell in cells:
        body = "\n".join(cell["source"]).strip("\n")
        cell["source"] = re.findall(r"[^\n]*\n|[^\n]+$", body)
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def dumps(notebook: dict) -> str:
    "The notebook as the one canonical JSON text that git sees."
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main(arguments: list[str]) -> None:
    match arguments:
        case ["unpack", path]:
            print(unpack(json.loads(Path(path).read_text(encoding="utf-8"))), end="")
        case ["pack", source, target]:
            Path(target).write_text(dumps(pack(Path(source).read_text(encoding="utf-8"))), encoding="utf-8")
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
