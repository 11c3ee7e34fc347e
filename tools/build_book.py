#!/usr/bin/env python3
"""Build the book's pages from the executed chapters. A warning fails the build; the output is short unless it fails."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "build . --config book/_config.yml --toc _toc.yml --path-output book -W -n --keep-going -q"


def main() -> int:
    command = [str(Path(sys.executable).with_name("jupyter-book")), *COMMAND.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode or "WARNING" in done.stdout + done.stderr:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        print("the book has warnings or errors; see above", file=sys.stderr)
        return 1
    print(f"the book is at {ROOT / 'book' / '_build' / 'html' / 'index.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
