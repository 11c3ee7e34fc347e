"""Fifty kills of a run, and an hour's run at its full pace: nothing is lost, nothing leaks."""

import os
import random
import sys
from pathlib import Path

import pytest
from test_train import LETTERS, Forks, grows, killed_again_and_again

from minillm.batches import TokenStore

STEPS = int(os.environ.get("MINILLM_LEAK_STEPS", "1000000"))  # about an hour


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_fifty_kills(tmp_path: Path) -> None:
    store, chance = TokenStore.create(tmp_path / "s", LETTERS), random.Random(0)
    store.append([[chance.randrange(97, 110) for _ in range(chance.randrange(5, 60))] for _ in range(200)])
    forks = Forks(store)
    killed_again_and_again(forks, tmp_path, kills=50, steps=1500, longest=1.5)
    forks.close()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
def test_an_hour_leaks_nothing() -> None:
    assert grows(STEPS) < 1  # byte a step
