#!/usr/bin/env python3
"""Run long experiments and keep what they measured: `make results`, or `python tools/results.py NAME … [--check] [--again]`.

An experiment is a file results/NAME.py with

    SEEDS = [0, 1, 2]                       each is one run
    def run(seed: int) -> dict              numbers, strings, and lists and dicts of them
    FUNCTIONS = [run, some, functions]      what the numbers depend on; functions and classes, of the file or of minillm

Its record results/NAME.json holds the mean over seeds under the names that `run` returns (so prose can quote `NAME.json/accuracy`), the `lowest` and
`highest` values, every seed's own under `seeds`, and under `meta` the versions, the machine, the threads, the CPU seconds, and a hash of
each function without its docstring, comments and annotations. A record is stale when a hash, a constant of the file or the seeds have changed;
only stale records are run again. It is never edited by hand: its digest tells.
"""

import argparse
import ast
import hashlib
import importlib.util
import inspect
import json
import os
import platform
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
LEFT_OUT = {"annotation", "returns", "type_comment", "type_params", "kind"}


def canonical(node: Any) -> Any:
    "A syntax tree as plain lists: without positions, docstrings and annotations, and the same in every Python version."
    if isinstance(node, list):
        return [canonical(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if (
            name == "body"
            and isinstance(value, list)
            and value
            and ast.unparse(value[0])[:1] in "'\""
            and isinstance(value[0], ast.Expr)
        ):
            value = value[1:]
        if name not in LEFT_OUT and value not in (None, []):
            parts.append([name, canonical(value)])
    return [type(node).__name__, *parts]


def code_hash(source: str) -> str:
    "Changes when the code does, not when its layout, comments, docstrings or annotations do."
    return hashlib.sha256(json.dumps(canonical(ast.parse(textwrap.dedent(source)))).encode()).hexdigest()[:16]


def load(name: str, folder: Path = RESULTS) -> ModuleType:
    "The experiment folder/NAME.py as a module; ValueError when it is not one."
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    for wanted in ("run", "SEEDS", "FUNCTIONS"):
        if not hasattr(module, wanted):
            raise ValueError(
                f"results/{name}.py has no {wanted}; an experiment has run(seed) -> dict, SEEDS and FUNCTIONS (see tools/results.py)"
            )
    return module


def hashes(module: ModuleType) -> dict[str, str]:
    "Hash of everything that an experiment's numbers depend on: its functions and its constants."
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    constants = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    kept = [ast.unparse(node) for node in constants if not re.match(r"(FUNCTIONS|SEEDS)\b", ast.unparse(node))]
    found = {"constants": code_hash("\n".join(kept))}
    for function in [module.run, *(f for f in module.FUNCTIONS if f is not module.run)]:
        function = inspect.unwrap(function)
        home = "" if function.__module__ == module.__name__ else f"{function.__module__}."
        found[f"{home}{function.__qualname__}"] = code_hash(inspect.getsource(function))
    return found


def together(values: list[Any], how: Callable[[list[float]], float]) -> Any:
    "Means (or lowest, or highest values) of results of the same form; None where they are no numbers or differ in form."
    first = values[0]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return float(f"{how(values):.6g}")  # enough digits, and no noise from adding floats
    if all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        return [together(list(items), how) for items in zip(*values)]
    if all(isinstance(value, dict) for value in values) and all(value.keys() == first.keys() for value in values):
        return {key: together([value[key] for value in values], how) for key in first}
    return first if all(value == first for value in values) else None


def digest(record: dict) -> str:
    "A hash of the record's own content."
    rest = {**record, "meta": {key: value for key, value in record["meta"].items() if key != "digest"}}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def measure(module: ModuleType) -> tuple[dict[str, dict], dict[str, float]]:
    "Run every seed: results and CPU seconds by seed."
    seeds, seconds = {}, {}
    for seed in module.SEEDS:
        started = time.process_time()
        seeds[str(seed)] = module.run(seed)
        seconds[str(seed)] = round(time.process_time() - started, 2)
        print(f"  seed {seed}: {seconds[str(seed)]:.1f} CPU s", flush=True)
    return seeds, seconds


def make_record(name: str, module: ModuleType) -> dict:
    "Run an experiment and describe how it was run; TypeError when a result cannot be written as JSON."
    seeds, seconds = measure(module)
    try:
        seeds = json.loads(json.dumps(seeds))
    except TypeError as error:
        raise TypeError(
            f"results/{name}.py: run returns something that JSON cannot hold ({error}); use .item() or .tolist()"
        ) from None
    runs = list(seeds.values())
    if taken := {"seeds", "lowest", "highest", "meta"} & runs[0].keys():
        raise ValueError(
            f"results/{name}.py: run returns {', '.join(sorted(taken))}, names that the record needs for itself; choose others"
        )
    versions = {"python": platform.python_version()}
    versions |= {
        lib: sys.modules[lib].__version__
        for lib in ("torch", "numpy", "minillm")
        if hasattr(sys.modules.get(lib), "__version__")
    }
    torch = sys.modules.get("torch")
    meta = {
        "experiment": f"results/{name}.py",
        "about": (module.__doc__ or "").strip().split("\n")[0],
        "versions": versions,
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads() if torch else 1,
        "cpu_seconds": seconds,
        "code": hashes(module),
    }
    ranges = {"lowest": together(runs, min), "highest": together(runs, max)}
    record = {**together(runs, fmean), **ranges, "seeds": seeds, "meta": meta}
    meta["digest"] = digest(record)
    return record


def text_of(record: dict) -> str:
    "The record as JSON, lists of numbers on one line."
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return re.sub(r"\[[\s\d.,eE+-]+\]", lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text) + "\n"


def experiments(folder: Path = RESULTS) -> list[str]:
    "Names of the experiments."
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def out_of_date(name: str, folder: Path = RESULTS) -> list[str]:
    "Why the record of an experiment must be made again; empty when it holds."
    path, module = folder / f"{name}.json", load(name, folder)
    if not path.exists():
        return ["it has no record yet"]
    record = json.loads(path.read_text(encoding="utf-8"))
    old, new = record["meta"]["code"], hashes(module)
    reasons = [f"{part} changed" for part in sorted(old.keys() | new.keys()) if old.get(part) != new.get(part)]
    if list(record["seeds"]) != [str(seed) for seed in module.SEEDS]:
        reasons.append(
            f"its seeds are {', '.join(record['seeds'])}, the experiment's {', '.join(map(str, module.SEEDS))}"
        )
    return reasons


def edited(folder: Path = RESULTS) -> Iterator[str]:
    "Records that are no longer what the tool wrote, or whose experiment is gone."
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if not (folder / f"{path.stem}.py").exists():
            yield f"{path.name} has no experiment {path.stem}.py"
        elif record.get("meta", {}).get("digest") != digest({"meta": {}, **record}):
            yield f"{path.name} was changed by hand; run `make results`, or `python tools/results.py {path.stem} --again`"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="experiments by name; default: all")
    parser.add_argument(
        "--check", action="store_true", help="only say what is stale; exit status 1 when something is"
    )
    parser.add_argument("--again", action="store_true", help="run even what is up to date")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = (
        "1"  # before torch is imported by an experiment
    )
    if unknown := set(arguments.names) - set(experiments()):
        parser.error(
            f"no experiment {', '.join(sorted(unknown))} in results/; there are {', '.join(experiments())}"
        )
    stale = 0
    for name in arguments.names or experiments():
        reasons = ["asked for"] if arguments.again else out_of_date(name)
        stale += bool(reasons)
        print(f"{name}: {'; '.join(reasons) if reasons else 'up to date'}", flush=True)
        if reasons and not arguments.check:
            (RESULTS / f"{name}.json").write_text(
                text_of(make_record(name, load(name))), encoding="utf-8", newline="\n"
            )
    return int(arguments.check and stale > 0)


if __name__ == "__main__":
    raise SystemExit(main())
