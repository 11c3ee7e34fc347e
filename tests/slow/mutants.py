"""Planted bugs that tests/test_<module>.py must notice. (Those that a chapter's visible tests must notice: `test_chapters.assert_noticed`.)"""

import os
import subprocess
import sys
from pathlib import Path

from test_chapters import broken_module

ROOT = Path(__file__).resolve().parents[2]
NOTHING = ("", "")  # the change that changes nothing


def copy_with(module: str, change: tuple[str, str], folder: Path) -> None:
    "Into a folder: the library, by links, in which one line of one module is another, and the module's tests. AssertionError where the line is gone."
    if change != NOTHING:
        broken_module(module, *change)  # the line is there once, and what comes out can be imported
    (folder / "minillm").mkdir()
    for path in (ROOT / "minillm").iterdir():
        if path.name not in (f"{module}.py", "__pycache__"):
            (folder / "minillm" / path.name).symlink_to(path)
    source = (ROOT / "minillm" / f"{module}.py").read_text(encoding="utf-8")
    (folder / "minillm" / f"{module}.py").write_text(source.replace(*change), encoding="utf-8")
    tests = (ROOT / "tests" / f"test_{module}.py").read_text(encoding="utf-8")
    (folder / f"test_{module}.py").write_text(tests, encoding="utf-8")


def tests_of(module: str, change: tuple[str, str], folder: Path, only: str, seconds: float | None = None) -> subprocess.CompletedProcess:
    "tests/test_<module>.py on a library with that change, up to the first that fails, in a process of its own. Raises TimeoutExpired."
    copy_with(module, change, folder)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "-k", only]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, f"test_{module}.py"], cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=seconds
    )


def assert_caught(module: str, change: tuple[str, str], folder: Path, only: str = "", seconds: float | None = None) -> None:
    "A library with one wrong line fails a test of tests/test_<module>.py. `only` is pytest's -k; longer than `seconds`, if given, is noticed, too."
    try:
        done = tests_of(module, change, folder, only, seconds)
    except subprocess.TimeoutExpired:
        return
    assert done.returncode == 1, f"tests/test_{module}.py does not notice {change[1]!r} for {change[0]!r}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def assert_passes(module: str, folder: Path, only: str = "") -> None:
    "In the same folder, the library as it is passes: otherwise it would say nothing that the wrong ones fail."
    done = tests_of(module, NOTHING, folder, only)
    assert done.returncode == 0, f"tests/test_{module}.py fails in a folder of its own, with nothing changed\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
