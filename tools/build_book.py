#!/usr/bin/env python3
"""Build the book's pages from the executed chapters. A warning fails the build; the output is short unless it fails."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "build . --config book/_config.yml --toc _toc.yml --path-output book -W -n --keep-going -q"


def clear_gone(html: Path, toc: str) -> list[Path]:
    "Delete the pages, and the copies of their sources, that _toc.yml no longer names: Sphinx leaves them. Returns what went, below `html`."
    entries = re.findall(r"""^[\s-]*(?:file|root):\s*["']?([^"'#\n]+?)["']?\s*(?:#.*)?$""", toc, re.M)
    named = {re.sub(r"\.(ipynb|md)$", "", entry) for entry in entries}
    gone = []
    for folder in (html, html / "_sources"):
        for path in sorted([*(folder / "nbs").rglob("*"), *(folder / "book").rglob("*")]):
            if path.is_file() and path.relative_to(folder).with_suffix("").as_posix() not in named:
                path.unlink()
                gone.append(path.relative_to(html))
    return gone


def main() -> int:
    html = ROOT / "book" / "_build" / "html"
    if gone := clear_gone(html, (ROOT / "_toc.yml").read_text(encoding="utf-8")):
        print(f"no longer in _toc.yml, and cleared: {', '.join(map(str, gone))}")
    command = [str(Path(sys.executable).with_name("jupyter-book")), *COMMAND.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode or "WARNING" in done.stdout + done.stderr:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        print("the book has warnings or errors; see above", file=sys.stderr)
        return 1
    print(f"the book is at {html / 'index.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
