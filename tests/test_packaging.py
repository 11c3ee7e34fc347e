"""The package as others install it: one version everywhere, every dependency pinned, and a wheel that holds what the library opens."""

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from chapters import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import minillm

LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = {
    canonicalize_name(match[1]): match[2]
    for match in re.finditer(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
}


def unpinned(wanted: list[str], pins: dict[str, str]) -> list[str]:
    "Names of what must be installed on Linux for these requirements, to the end, and has no pin."
    todo, seen, missing = [Requirement(line) for line in wanted], set(), []
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        for extra in one.extras or {""}:
            if (name, extra) in seen or name.startswith(("nvidia-", "cuda-", "triton")) or name == "minillm-book":
                continue  # a GPU build of PyTorch brings its own
            seen.add((name, extra))
            if name not in pins and name not in missing:
                missing.append(name)
            try:
                needs = [Requirement(line) for line in requires(name) or []]
            except PackageNotFoundError:
                needs = []  # not on this system
            todo += [need for need in needs if not need.marker or need.marker.evaluate({**LINUX, "extra": extra})]
    return sorted(missing)


def all_requirements() -> list[str]:
    "The library's dependencies and every extra's."
    groups = PROJECT["project"]["optional-dependencies"].values()
    return [
        *PROJECT["project"]["dependencies"],
        *PROJECT["build-system"]["requires"],
        *(line for group in groups for line in group),
    ]


def test_every_dependency_is_pinned() -> None:
    missing = unpinned(all_requirements(), PINS)
    assert not missing, f"constraints.txt has no exact version for {', '.join(missing)}"


def test_a_missing_pin_is_seen() -> None:
    assert unpinned(["pytest"], {"pytest": "9"}) and "pluggy" in unpinned(["pytest"], {"pytest": "9"})
    assert "no-such-package" in unpinned(["no-such-package>=1"], PINS)


def test_the_pins_lie_within_the_ranges() -> None:
    for line in all_requirements():
        one = Requirement(line)
        if (pin := PINS.get(canonicalize_name(one.name))) and not one.specifier.contains(pin, prereleases=True):
            pytest.fail(f"constraints.txt pins {one.name}=={pin}, and pyproject.toml asks for {one.specifier}")


def test_the_library_itself_needs_little() -> None:
    "A reader who only imports minillm installs none of the tools; the names are checked so that the list grows on purpose."
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    assert names <= {"torch", "numpy", "regex", "safetensors", "tqdm"}, f"new dependencies of the library: {names}"


def test_one_version_everywhere() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert citation and settings["DEFAULT"]["version"] == minillm.__version__ == citation[1]
    assert PROJECT["project"]["dynamic"] == ["version"], (
        "pyproject.toml takes the version from minillm/__init__.py"
    )
    assert settings["DEFAULT"]["lib_name"] == PROJECT["project"]["name"] == "minillm-book", (
        "`minillm` on PyPI belongs to somebody else"
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    "The wheel, built from a copy of the sources without a network."
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "minillm", folder / "minillm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, folder)
    command = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_what_the_library_opens(wheel: zipfile.ZipFile) -> None:
    inside = set(wheel.namelist())
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "minillm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert not (missing := files - inside), (
        f"the wheel lacks {sorted(missing)}; see [tool.setuptools.package-data]"
    )
    strangers = {name for name in inside - files if ".dist-info/" not in name}
    assert not strangers, f"the wheel holds {sorted(strangers)}"


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = wheel.read(name).decode("utf-8")
    assert f"Name: minillm-book\nVersion: {minillm.__version__}\n" in metadata
    licences = {Path(name).name for name in wheel.namelist() if "/licenses/" in name}
    assert licences == {"LICENSE", "LICENSE-TEXT"}
    (points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "minillm = minillm.cli:main" in wheel.read(points).decode("utf-8")


def test_the_licences_are_whole() -> None:
    code, text = ((ROOT / name).read_text(encoding="utf-8") for name in ("LICENSE", "LICENSE-TEXT"))
    assert (
        code.lstrip().startswith("Apache License\n                           Version 2.0")
        and "END OF TERMS AND CONDITIONS" in code
    )
    assert (
        "Creative Commons Attribution 4.0 International Public License" in text
        and "Section 8 -- Interpretation." in text
    )


def careless(workflow: dict) -> list[str]:
    "What is wrong with a GitHub workflow: actions without a major version, jobs without a limit, more rights than reading."
    found = (
        [] if workflow.get("permissions") == {"contents": "read"} else ["its permissions are not `contents: read`"]
    )
    for name, job in workflow["jobs"].items():
        if "timeout-minutes" not in job:
            found.append(f"job {name} has no timeout-minutes")
        for step in job["steps"]:
            if "uses" in step and not re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]):
                found.append(
                    f"job {name} uses {step['uses']}; name an action of GitHub's own with its major version"
                )
    return found


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem
)
def test_workflows_are_careful(path: Path) -> None:
    assert not (problems := careless(yaml.safe_load(path.read_text(encoding="utf-8")))), "\n".join(problems)


def test_a_careless_workflow_is_seen() -> None:
    workflow = {"permissions": "write-all", "jobs": {"one": {"steps": [{"uses": "somebody/thing@main"}]}}}
    assert len(careless(workflow)) == 3


def test_templates_are_valid_yaml() -> None:
    for path in [
        *(ROOT / ".github").rglob("*.yml"),
        ROOT / "_toc.yml",
        ROOT / "book" / "_config.yml",
        ROOT / "CITATION.cff",
    ]:
        assert yaml.safe_load(path.read_text(encoding="utf-8")), path


def test_ci_script_parses() -> None:
    if shutil.which("bash") and sys.platform != "win32":
        done = subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
