"""The class release of the whole book: every assignment solved, blank and wrong; and nbgrader's own commands with its gradebook."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import make_class
import nbformat
import pytest
from exercises import exercises_of

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = [path for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")) if exercises_of(path)]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("course")
    assert make_class.write_course(out, ROOT / "nbs") == [path.stem for path in CHAPTERS]
    return out


def notebook(course: Path, kind: str, name: str) -> nbformat.NotebookNode:
    return nbformat.read(str(course / kind / name / f"{name}.ipynb"), 4)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_assignment(course: Path, path: Path, tmp_path: Path) -> None:
    "Far from the project: with its solutions full points, blank none, and each wrong answer none while the others keep theirs."
    source, release = notebook(course, "source", path.stem), notebook(course, "release", path.stem)
    solved = make_class.grade(source, release, tmp_path)
    labels = [one.label for one in exercises_of(path)]
    assert list(solved) == labels and all(earned == most > 0 for earned, most in solved.values()), solved
    assert all(earned == 0 for earned, _ in make_class.grade(release, release, tmp_path).values())
    first, *others = exercises_of(path)
    source.cells[
        [cell.id for cell in source.cells].index(f"solution-{first.label}")
    ].source = f"def {first.name}(*inputs): return 'wrong'"
    points = make_class.grade(source, release, tmp_path)
    assert points[first.label][0] == 0 and all(points[one.label] == solved[one.label] for one in others)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_release_reveals_nothing(course: Path, path: Path) -> None:
    release = notebook(course, "release", path.stem)
    cells = {cell.id: cell for cell in release.cells}
    everything = "\n".join(cell.source for cell in release.cells)
    for one in exercises_of(path):
        assert cells[f"solution-{one.label}"].source == one.blank and "raise NotImplementedError" in one.blank
        body = one.solution.partition("### BEGIN SOLUTION")[2].partition("### END SOLUTION")[0]
        lines = {line.strip() for line in body.splitlines()} - {""}
        # a bug clinic shows most lines of its solution, in a wrong version
        assert not all(line in everything for line in lines), f"the release tells the answer to {one.label}"
    assert not any(cell.get("outputs") for cell in release.cells)
    assert all(word not in everything for word in ("planted", "BEGIN SOLUTION", "**Hint.**", "**Answer.**"))


def test_nbgrader_itself(course: Path) -> None:
    "generate_assignment, autograde and export, as a lecturer types them; a solved, a blank and a tampering student."
    name = "03_exercises"

    def nbgrader(*words: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls a command of its own, alembic
        environment = os.environ | {"PYTHONWARNINGS": "ignore", "PATH": path}
        done = subprocess.run(
            [sys.executable, "-m", "nbgrader", *words], cwd=course, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    nbgrader("generate_assignment", name, "--force")
    released = notebook(course, "release", name)
    assert "BEGIN SOLUTION" not in nbformat.writes(released)
    handed_in = {
        "solved": notebook(course, "source", name),
        "blank": released,
        "tampering": notebook(course, "release", name),
    }
    for cell in handed_in["tampering"].cells:
        if cell.metadata.nbgrader.grade:
            cell.source = "pass"
    for student, work in handed_in.items():
        target = course / "submitted" / student / name / f"{name}.ipynb"
        target.parent.mkdir(parents=True)
        nbformat.write(work, str(target))
    nbgrader("autograde", name)
    nbgrader("export")
    with (course / "grades.csv").open(encoding="utf-8") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores["solved"] > 0 and scores["blank"] == scores["tampering"] == 0


def test_the_command(tmp_path: Path) -> None:
    "`tools/make_class.py` writes the course, and marks notebooks that were handed in."
    tool = [sys.executable, str(ROOT / "tools" / "make_class.py"), "--out", "course"]
    made = subprocess.run(tool, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert made.stdout.startswith(f"course: {len(CHAPTERS)} assignments (03_exercises")
    files = [f"course/{kind}/03_exercises/03_exercises.ipynb" for kind in ("source", "release")]
    marked = subprocess.run([*tool, "--grade", *files], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert marked.stdout.splitlines() == [f"{files[0]}: 1 of 1 (03-a 1/1)", f"{files[1]}: 0 of 1 (03-a 0/1)"]
    (tmp_path / "other.ipynb").write_bytes((tmp_path / files[0]).read_bytes())
    other = subprocess.run([*tool, "--grade", "other.ipynb"], cwd=tmp_path, capture_output=True, text=True)
    assert other.returncode == 2 and "keep the notebook's name" in other.stderr
