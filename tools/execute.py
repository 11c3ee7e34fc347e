#!/usr/bin/env python3
"""Execute the chapters that have no up-to-date outputs, two at a time, one thread each, the longest first.

A chapter's outputs are kept in book/_build/executed/ under a key that changes when the outputs may: with the chapter's code, the library modules it
imports, the assets and records it opens, or the pinned versions. The book takes them from there, so nothing in the book is ever stale and
nothing runs twice. A cell that fails is printed with its chapter, its name and its error, and the exit status is 1.
"""

import argparse
import json
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from chapter import EXECUTED, Chapter, Library  # noqa: E402
from kernels import run_notebook  # noqa: E402

ANSI = re.compile(r"\x1b\[[0-9;]*m")
TIMES = ROOT / "book" / "_build" / "times.json"


def final_cell(numbers: list[str]) -> str:
    "A last cell: the values that prose quotes, and the processor seconds the chapter took."
    return f"""
import json as _json, time as _time

def _plain(expression):
    value = eval(expression)
    try:
        value = value.item()
    except (AttributeError, RuntimeError, ValueError, TypeError):
        pass  # no tensor or array of one element
    return value if isinstance(value, (int, float, str, bool)) else str(value)

_numbers = {{}}
for _expression in {numbers!r}:
    try:
        _numbers[_expression] = _plain(_expression)
    except (NameError, AttributeError, LookupError):
        pass  # the page says which number has no value
print(_json.dumps({{"cpu": _time.process_time(), "numbers": _numbers}}))
"""


def execute(path: Path) -> tuple[str, str]:
    "Run one chapter in its own kernel; store its outputs. Returns its name and what went wrong, or an empty string."
    import nbformat
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    chapter = Chapter.read(path)
    cells = chapter.executable()
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}})
    notebook.cells = [nbformat.v4.new_code_cell(cell.source) for cell in cells] + [nbformat.v4.new_code_cell(final_cell(chapter.numbers))]
    started = time.time()
    quiet = ["--IPKernelApp.log_level=40"]  # the kernel announces at every start that its loopback port is not encrypted
    try:
        run_notebook(notebook, path.parent, timeout=1800, extra_arguments=quiet)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        ran = sum(1 for cell in notebook.cells if cell.execution_count)
        where = cells[max(0, ran - 1)].name if ran <= len(cells) else "the values quoted in prose"
        return path.stem, f"{path.stem}, cell {where!r}:\n{ANSI.sub('', str(error))}"
    last = json.loads(next(output.text for output in notebook.cells[-1].outputs if output.get("name") == "stdout"))
    noise = [f"{name}: {output.text}" for name, output in stderr_of(cells, notebook.cells)]
    if noise:
        return path.stem, f"{path.stem} writes to stderr; a chapter must run without a warning:\n" + "\n".join(noise)
    outputs = {cell.name: ran.outputs for cell, ran in zip(cells, notebook.cells)}
    wall = time.time() - started
    store(chapter, {"outputs": outputs, "numbers": last["numbers"], "cpu_seconds": last["cpu"], "wall_seconds": wall})
    return path.stem, ""


def stderr_of(cells: list, ran: list) -> list:
    "What cells wrote to the error stream, except those tagged `expect-stderr`."
    return [
        (cell.name, output)
        for cell, done in zip(cells, ran)
        for output in done.outputs
        if output.get("name") == "stderr" and "expect-stderr" not in cell.tags
    ]


def store(chapter: Chapter, record: dict, kept: int = 3) -> None:
    "Write the outputs at once; keep a few older ones, so that a change taken back runs nothing."
    EXECUTED.mkdir(parents=True, exist_ok=True)
    partial = chapter.executed_path.with_suffix(".partial")
    partial.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    partial.replace(chapter.executed_path)
    copies = sorted(EXECUTED.glob(f"{chapter.path.stem}.*.json"), key=lambda path: path.stat().st_mtime)
    for old in copies[:-kept]:
        old.unlink()


def write_times(paths: list[Path]) -> None:
    "Processor seconds of every chapter, for the budget and the README."
    records = {path.stem: Chapter.read(path, LIBRARY).executed() for path in paths}
    times = {name: {"cpu_seconds": round(r["cpu_seconds"], 2), "wall_seconds": round(r["wall_seconds"], 2)} for name, r in records.items() if r}
    TIMES.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")


LIBRARY = Library()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="chapters by name, such as 12_bpe; default: all that are stale")
    parser.add_argument("--jobs", type=int, default=2, help="chapters at a time (default 2)")
    arguments = parser.parse_args()
    paths = [path for path in sorted((ROOT / "nbs").glob("*.ipynb")) if not arguments.names or path.stem in arguments.names]
    stale = [path for path in paths if Chapter.read(path, LIBRARY).executed() is None]
    budget = ROOT / "budget.json"
    seconds = json.loads(budget.read_text(encoding="utf-8")).get("chapters", {}) if budget.exists() else {}
    stale.sort(key=lambda path: -float(seconds.get(path.stem, 60)))
    print(f"{len(paths) - len(stale)} of {len(paths)} chapters are up to date; {len(stale)} to execute", flush=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MINILLM_STRICT": "1"}
    failures = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for done in as_completed([pool.submit(execute, path) for path in stale]):
            name, trouble = done.result()
            print(f"  {name}: {'FAILED' if trouble else 'executed'}", flush=True)
            failures += [trouble] if trouble else []
    EXECUTED.mkdir(parents=True, exist_ok=True)
    write_times(sorted((ROOT / "nbs").glob("*.ipynb")))
    print("\n\n".join(failures), file=sys.stderr, end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
