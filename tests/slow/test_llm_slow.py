"""Runs of `train_llm` killed at many moments: each, gone on with, ends with the weights of the run that nobody killed."""

from pathlib import Path

from test_llm import check_kills


def test_killed_at_many_moments(tmp_path: Path) -> None:
    assert check_kills(tmp_path, 25, seed=11) >= 15
