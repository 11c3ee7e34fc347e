"""Fifty kills: what was written is the old or the new, whole, and the resumed run ends as if nothing had happened."""

import os
from pathlib import Path

import kills
import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork")
def test_fifty_kills(tmp_path: Path) -> None:
    reached = kills.check_kills(tmp_path, times=50, seed=0)
    assert len(set(reached)) > 4, f"the kills came at too few places to mean much: {reached}"
