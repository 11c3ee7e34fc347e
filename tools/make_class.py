#!/usr/bin/env python3
"""Chapters → an nbgrader course: `tools/make_class.py --out class` writes it, `--grade FILE …` marks notebooks that students handed in.

    class/source/12_bpe/12_bpe.ipynb     with solutions: for you alone
    class/release/12_bpe/12_bpe.ipynb    for students: solutions replaced by `raise NotImplementedError`, checks locked
    class/nbgrader_config.py             for those who use nbgrader's own commands and gradebook

Each notebook holds the exercises of one chapter and what they need, not the chapter. Students need minillm installed, nothing else.
`--grade` needs no gradebook: it puts the locked cells back, runs the notebook, and prints the points of each exercise.
"""

import argparse
import copy
import json
import re
import sys
from pathlib import Path

import nbformat
from exercises import ChapterExercise, exercises_of, setup_of, source_of
from kernels import run_notebook
from nbformat import NotebookNode
from nbtext import METADATA

ROOT = Path(__file__).resolve().parent.parent
BLANK = 'raise NotImplementedError("write your answer here")'
INTRODUCTION = """# Exercises of chapter {number} · {title}

Each exercise asks for one short function. Write it where the cell says `raise NotImplementedError`, run the cell, then the check below it.
The check says in a sentence what is wrong. `hint("{label}")` in a cell of your own gives a hint, and each further call the next one.

The statements speak of the chapter that they come from: have it open. Keep the locked cells as they are. You may add cells, for helper functions or for trying things out.
Before you hand in, restart the kernel and run all cells.
"""
CONFIG = """# Read by nbgrader's commands in this folder. Start with `nbgrader generate_assignment 12_bpe`;
# what students hand in goes to submitted/NAME/12_bpe/12_bpe.ipynb.
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "minillm"
c.ClearSolutions.code_stub = {{"python": {blank!r}}}
c.Execute.interrupt_on_timeout = True
"""


def plain(markdown: str) -> str:
    "A statement for students: without folded hints and answers, and links into the book reduced to their words."
    kept = re.sub(r"^> \*\*(?:Hint|Answer)\.\*\*.*(?:\n>.*)*\n?", "", markdown, flags=re.MULTILINE)
    return re.sub(r"\[((?:[^\[\]]|`[^`]*`)+)\]\((?:#[^)]*|\w+\.ipynb[^)]*)\)", r"\1", kept).strip()


def marks(name: str, *, grade: bool = False, solution: bool = False, points: float = 0) -> dict:
    "nbgrader's metadata of one cell."
    facts = {"grade": grade, "grade_id": name, "locked": not solution, "schema_version": 3, "solution": solution, "task": False}
    return {"nbgrader": facts | ({"points": points} if grade else {})}


def code(name: str, source: str, metadata: dict) -> NotebookNode:
    "A code cell with an id."
    return nbformat.v4.new_code_cell(source, id=name, metadata=metadata)


def wrapped(line: str) -> str:
    "A long `from … import a, b, c` as one name a line."
    head, _, names = line.partition(" import ")
    return line if len(line) <= 100 else f"{head} import (\n" + "".join(f"    {name},\n" for name in names.split(", ")) + ")"


def exercise_cells(exercise: ChapterExercise, notebook: dict) -> list[NotebookNode]:
    "Statement, solution and check of one exercise. The check imports `check` itself, so that a student's own `check` changes nothing."
    label = exercise.label
    points = next(cell["metadata"]["nbgrader"]["points"] for cell in notebook["cells"] if cell["id"] == f"check-{label}")
    check = f'from minillm.exercises import check\n\ncheck("{label}", {exercise.name}, strict=True)'
    return [
        nbformat.v4.new_markdown_cell(plain(exercise.statement), id=f"exercise-{label}", metadata=marks(f"exercise-{label}")),
        code(f"solution-{label}", exercise.solution, marks(f"solution-{label}", solution=True)),
        code(f"check-{label}", check, marks(f"check-{label}", grade=True, points=points)),
    ]


def source_notebook(path: Path) -> NotebookNode | None:
    "The lecturer's notebook for a chapter, or None when it has no exercises."
    exercises = exercises_of(path)
    if not exercises:
        return None
    notebook = json.loads(path.read_text(encoding="utf-8"))
    title = re.match(r"# (.+)", source_of(notebook["cells"][0]))
    install = [source_of(cell).partition("\n")[2] for cell in notebook["cells"] if cell["id"] == "install"]
    number = path.name[:2]
    imports = "\n".join([*map(wrapped, setup_of(notebook).splitlines()), "from minillm.exercises import check, hint"])
    introduction = INTRODUCTION.format(number=number, title=title[1] if title else path.stem, label=exercises[0].label)
    cells = [nbformat.v4.new_markdown_cell(introduction.strip(), id="introduction", metadata=marks(f"introduction-{number}"))]
    cells += [code("install", source, marks(f"install-{number}")) for source in install]
    cells += [code("setup", imports, marks(f"setup-{number}"))]
    for exercise in exercises:
        cells += exercise_cells(exercise, notebook)
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)


def student_notebook(source: NotebookNode) -> NotebookNode:
    "The release: nbgrader's own steps, without its gradebook."
    from nbgrader.preprocessors import (
        CheckCellMetadata,
        ClearHiddenTests,
        ClearOutput,
        ClearSolutions,
        ComputeChecksums,
        LockCells,
    )

    notebook, resources = copy.deepcopy(source), {}
    clear = ClearSolutions(code_stub={"python": BLANK})
    steps = [LockCells(), clear, ClearOutput(), CheckCellMetadata(), ClearHiddenTests(), ComputeChecksums()]
    for step in steps:
        notebook, resources = step.preprocess(notebook, resources)
    return notebook


def restored(submitted: NotebookNode, release: NotebookNode) -> NotebookNode:
    "What a student handed in, with the locked cells as they were released and each named cell once."
    originals = {cell.metadata.nbgrader.grade_id: cell for cell in release.cells if "nbgrader" in cell.metadata}
    cells, seen = [], set()
    for cell in copy.deepcopy(submitted).cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name in originals and name not in seen:
            cell.metadata.nbgrader = originals[name].metadata.nbgrader
            if originals[name].metadata.nbgrader.locked:
                cell.source, cell.cell_type = originals[name].source, originals[name].cell_type
            seen.add(name)
        elif "nbgrader" in cell.metadata:
            del cell.metadata["nbgrader"]
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)


def grade(submitted: NotebookNode, release: NotebookNode, folder: Path, seconds: int = 120) -> dict[str, tuple[float, float]]:
    "Run a student's notebook in `folder`; label → (points, of how many). A check that is missing or never ran earns nothing."
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from nbgrader.utils import determine_grade

    notebook = restored(submitted, release)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    try:
        run_notebook(notebook, folder, timeout=seconds, interrupt_on_timeout=True, allow_errors=True)
    except (DeadKernelError, CellTimeoutError) as error:
        print(f"the notebook stopped early: {type(error).__name__}", file=sys.stderr)
    ran = {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if "nbgrader" in cell.metadata and cell.get("execution_count")}
    points = {}
    for cell in release.cells:
        facts = cell.metadata.get("nbgrader", {})
        if facts.get("grade"):
            earned = determine_grade(ran[facts.grade_id])[0] if facts.grade_id in ran else 0
            points[facts.grade_id.removeprefix("check-")] = (float(earned or 0), float(facts.points))
    return points


def write_course(out: Path, nbs: Path) -> list[str]:
    "Write source/ and release/ for every chapter with exercises; returns the chapters' names."
    names = []
    for path in sorted(nbs.glob("[0-9][0-9]_*.ipynb")):
        if (source := source_notebook(path)) is not None:
            for kind, notebook in {"source": source, "release": student_notebook(source)}.items():
                target = out / kind / path.stem / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                nbformat.write(notebook, str(target))
            names.append(path.stem)
    (out / "nbgrader_config.py").write_text(CONFIG.format(blank=BLANK), encoding="utf-8")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "class", help="the course's folder (default: class/)")
    parser.add_argument("--nbs", type=Path, default=ROOT / "nbs", help="the chapters' folder (default: nbs/)")
    parser.add_argument("--grade", type=Path, nargs="+", metavar="FILE", help="mark these notebooks instead of writing the course")
    arguments = parser.parse_args()
    if not arguments.grade:
        names = write_course(arguments.out, arguments.nbs)
        print(f"{arguments.out}: {len(names)} assignments ({', '.join(names)}); release/ is for students, source/ holds the solutions")
        return
    for path in arguments.grade:
        release = arguments.out / "release" / path.stem / path.name
        if not release.exists():
            parser.error(f"{path}: there is no {release}; keep the notebook's name, and write the course first")
        points = grade(nbformat.read(str(path), 4), nbformat.read(str(release), 4), path.resolve().parent)
        each = ", ".join(f"{label} {earned:g}/{most:g}" for label, (earned, most) in points.items())
        print(f"{path}: {sum(p for p, _ in points.values()):g} of {sum(most for _, most in points.values()):g} ({each})")


if __name__ == "__main__":
    main()
