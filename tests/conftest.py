"""What all tests share: no network, no screen, one thread; and the record of what `make test` cost."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("MPLBACKEND", "Agg")  # figures are drawn into memory
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: times compare on any number of cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
for folder in (ROOT / "book" / "_ext", ROOT / "tools", ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


STARTED = pytest.StashKey[tuple[float, float]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "xdist_group(name): run these in one worker (pytest-xdist's own; named here for when it is absent)",
    )
    config.stash[STARTED] = (time.perf_counter(), cpu_seconds())


def cpu_seconds() -> float:
    "CPU seconds of this process and of its children that have ended (workers, command lines)."
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    "Leave the cost of a whole run in book/_build/times-test.json, where tools/budget.py finds it."
    some = (
        config.option.keyword
        or config.option.markexpr
        or config.option.collectonly
        or config.args_source != pytest.Config.ArgsSource.TESTPATHS
    )
    if some or hasattr(config, "workerinput"):
        return
    wall, cpu = config.stash[STARTED]
    cost = {
        "cpu_seconds": round(cpu_seconds() - cpu, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
    }
    target = ROOT / "book" / "_build" / "times-test.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(cost) + "\n", encoding="utf-8")


LOCAL = {"localhost", "127.0.0.1", "::1", "", None}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    "Any attempt to reach another machine is an error; servers on this one may be reached."

    def only_local(real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **options: Any) -> Any:
            found = [a for a in arguments if not isinstance(a, socket.socket)]
            host = found[0][0] if found and isinstance(found[0], tuple) else found[0] if found else None
            local = host.decode() if isinstance(host, bytes) else host
            if (
                isinstance(local, str) and local not in LOCAL and not local.startswith(("/", "\0"))
            ):  # a path: a socket file
                raise OSError(f"tests must not use the network, and something tried to reach {host!r}")
            return real(*arguments, **options)

        return guarded

    monkeypatch.setattr(socket, "getaddrinfo", only_local(socket.getaddrinfo))
    monkeypatch.setattr(socket.socket, "connect", only_local(socket.socket.connect))
