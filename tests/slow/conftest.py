"""The slow tests take turns: `pytest tests/slow --turn today` runs those whose turn it is. `make test-slow` runs them all, for hours.

A test's turn comes every n-th day; n follows from what the tests take, so that a day stays under `turns.LIMIT` CPU minutes (turns.py). A test
that takes more than that has a day of its own. What a test takes is said by its marker, `@pytest.mark.minutes(3)`, or by MINUTES. The end of
a run names the tests of which too little was said.
"""

import argparse
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from turns import share_out

USUAL = 0.1  # CPU minutes of a test of which nothing is said
STEPS = int(os.environ.get("MINILLM_LEAK_STEPS", "1000000"))  # an hour's
MINUTES = {  # CPU minutes of each test whose name begins so; the longest beginning counts
    "test_attention_slow.py": 0.03,
    "test_attention_slow.py::test_the_experiment": 1,
    "test_batches_slow.py": 1,
    "test_checkpoint_slow.py": 2,
    "test_class_slow.py": 0.05,
    "test_llm_slow.py": 4,
    "test_mutants_generate.py": 0.02,
    "test_mutants_llm.py": 0.15,
    "test_mutants_loss.py": 0.12,
    "test_mutants_precision.py": 0.12,
    "test_mutants_train.py": 0.25,
    "test_numbers_slow.py": 0.02,
    "test_storyworld_slow.py": 0.2,
    "test_train_slow.py::test_an_hour": 60 * STEPS / 1_000_000,
    "test_train_slow.py::test_fifty_kills": 3,
}


def day(text: str) -> datetime.date:
    "today, or a date such as 2026-11-21."
    try:
        return datetime.date.today() if text == "today" else datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; give today, or a date such as 2026-11-21") from None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--turn", metavar="DAY", type=day, help="only the slow tests whose turn comes on this day: today, or 2026-11-21")


TOOK = pytest.StashKey[dict[str, tuple[float, float]]]()
TURN = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "minutes(n): the CPU minutes that a slow test takes, for the days' turns")
    config.stash[TOOK], config.stash[TURN] = {}, ""


def name_of(item: pytest.Item) -> str:
    "test_x.py::test_y[z], wherever the tests lie."
    return f"{item.path.name}::{item.nodeid.partition('::')[2]}"


def minutes_of(item: pytest.Item) -> float:
    "What is said of a test's CPU minutes."
    if mark := item.get_closest_marker("minutes"):
        return float(mark.args[0])
    known = [start for start in MINUTES if name_of(item).startswith(start)]
    return MINUTES[max(known, key=len)] if known else USUAL


@pytest.hookimpl(tryfirst=True)  # before -k: the turns are those of all tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    "Leave the tests whose turn it is."
    if (today := config.getoption("--turn")) is None:
        return
    if [Path(one).resolve() for one in config.args] != [Path(__file__).parent]:
        raise pytest.UsageError(f"--turn shares out all slow tests; you gave {' '.join(config.args)}. Run: pytest tests/slow --turn {today}")
    minutes = {name_of(item): minutes_of(item) for item in items}
    turns = share_out(minutes)
    k = today.toordinal() % len(turns)
    kept = [item for item in items if name_of(item) in turns[k]]
    config.stash[TURN] = (
        f"turn {k + 1} of {len(turns)}: {len(kept)} of {len(items)} slow tests, about {sum(minutes[one] for one in turns[k]):.1f} CPU minutes"
    )
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return [config.stash[TURN]] if config.stash[TURN] else []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    "Note the CPU minutes of this process and of its children that have ended."
    began = sum(os.times()[:4])
    done = yield
    item.config.stash[TOOK][name_of(item)] = minutes_of(item), (sum(os.times()[:4]) - began) / 60
    return done


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    "The tests that took far more than was said."
    for name, (said, took) in sorted(config.stash[TOOK].items(), key=lambda one: -one[1][1]):
        if took > max(1.5 * said, said + 0.2):
            terminalreporter.write_line(f"{name} took {took:.1f} CPU minutes; tests/slow/conftest.py says {said:g}")
