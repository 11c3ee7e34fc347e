#!/usr/bin/env python3
"""What the book and the tests cost, beside what they may cost: `python tools/budget.py`.

    tools/budget.py            the table
    tools/budget.py --judge    exit status 1 when something took more than 1.5 times its budget (.ci/run)
    tools/budget.py --write    put what was measured into budget.json, and the README's table in step

A budget is in *units*: CPU seconds on one thread of a machine on which the calibration loop takes `calibration_seconds`. The loop is timed in the
same run, so a slow machine is not blamed on a chapter. `make book` leaves the chapters' seconds in book/_build/times.json, `make test` its
own in book/_build/times-test.json.
"""

import argparse
import json
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUDGET = ROOT / "budget.json"
TOLERANCE = 1.5  # times the budget
SLACK = 3.0  # units: what a small chapter may be over without being judged
TEST = "make test"


def calibrate(repeats: int = 7) -> float:
    "CPU seconds of a fixed loop of the kind chapters consist of (dictionaries, strings, arithmetic); the best of a few."
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        counts: dict[str, int] = {}
        total = 0.0
        for k in range(600_000):
            key = f"{k * 7919 % 1000}"
            counts[key] = counts.get(key, 0) + 1
            total += counts[key] ** 0.5
        best = min(best, time.process_time() - started)
    return best


def measured(root: Path = ROOT) -> dict[str, float]:
    "CPU seconds by chapter, and of `make test`, as far as they were run."
    seconds: dict[str, float] = {}
    for name, pick in (("times.json", dict.items), ("times-test.json", lambda found: [(TEST, found)])):
        path = root / "book" / "_build" / name
        if path.exists():
            seconds |= {
                what: cost["cpu_seconds"] for what, cost in pick(json.loads(path.read_text(encoding="utf-8")))
            }
    return seconds


def budgets(root: Path = ROOT) -> dict[str, float]:
    "Units by chapter, and of `make test`."
    found = json.loads((root / "budget.json").read_text(encoding="utf-8"))
    return {**found["chapters"], TEST: found[TEST]}


def over_budget(allowed: dict[str, float], units: dict[str, float]) -> list[str]:
    "What took too long, in words."
    return [
        f"{name} took {units[name]:.0f} units, {units[name] / allowed[name]:.1f} times its budget of {allowed[name]:g}"
        for name in allowed
        if name in units and units[name] > TOLERANCE * allowed[name] and units[name] > allowed[name] + SLACK
    ]


def table(allowed: dict[str, float], units: dict[str, float]) -> str:
    "Budget beside measurement, a row each, and the chapters' sum."
    rows = [(name, allowed.get(name), units.get(name)) for name in sorted({*allowed, *units} - {TEST})]
    both = [(a, u) for _, a, u in rows if a is not None and u is not None]
    rows += [
        ("all chapters", sum(a for a, _ in both), sum(u for _, u in both)),
        (TEST, allowed.get(TEST), units.get(TEST)),
    ]
    lines = [f"{'':16}{'budget':>10}{'measured':>10}{'ratio':>8}"]
    for name, a, u in rows:
        cells = [
            f"{a:10.0f}" if a is not None else f"{'–':>10}",
            f"{u:10.1f}" if u is not None else f"{'not run':>10}",
        ]
        lines.append(f"{name:16}{''.join(cells)}{f'{u / a:8.2f}' if a and u is not None else ''}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", action="store_true", help="fail when something is past 1.5 times its budget")
    parser.add_argument("--write", action="store_true", help="write what was measured into budget.json")
    arguments = parser.parse_args()
    budget = json.loads(BUDGET.read_text(encoding="utf-8"))
    loop = calibrate()
    factor = budget["calibration_seconds"] / loop
    units = {name: seconds * factor for name, seconds in measured().items()}
    print(
        f"The calibration loop took {loop:.3f} CPU s here, {budget['calibration_seconds']:.3f} where a unit is a second."
    )
    print(table(budgets(), units))
    if arguments.write:
        existing = {path.stem for path in (ROOT / "nbs").glob("*.ipynb")}
        for name, cost in units.items():
            (budget if name == TEST else budget["chapters"])[name] = max(1, round(cost))
        budget["chapters"] = {name: cost for name, cost in sorted(budget["chapters"].items()) if name in existing}
        BUDGET.write_text(json.dumps(budget, indent=1) + "\n", encoding="utf-8", newline="\n")
        import readme

        readme.main()
    problems = over_budget(budgets(), units) if arguments.judge else []
    print(*problems, sep="\n", end="\n" if problems else "")
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(main())
