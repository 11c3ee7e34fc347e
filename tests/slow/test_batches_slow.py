"""Kills at random moments, from outside: what a store and a prepared folder hold afterwards is the old text or the new one, whole."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from minillm.batches import Prepared, TokenStore, prepare
from minillm.tokenizer import END_OF_TEXT, Tokenizer

LETTERS = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], [END_OF_TEXT])
STORIES = [f"Story {k}. " + "the cat sat on the mat. " * (1 + k % 50) + "\n" for k in range(2000)]

PREPARE = """
import sys
from minillm.batches import prepare
from test_batches_slow import STORIES
print("ready", flush=True)
prepare(STORIES[int(sys.argv[2]):], sys.argv[1], vocab_size=300)
print("done", flush=True)
"""

APPEND = """
import sys
from minillm.batches import TokenStore
store = TokenStore.open(sys.argv[1])
print("ready", flush=True)
for group in range(10**6):
    store.append([[group % 256] * 1000 for _ in range(50)])
    print(group, flush=True)
"""


def start(code: str, *arguments: str) -> subprocess.Popen:
    "The code in a process of its own, ready to work."
    path = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}", *arguments]
    process = subprocess.Popen(path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen, after: float) -> list[str]:
    "Kill it without warning; the lines it had written."
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    return process.communicate()[0].splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_fifty_kills_of_append(tmp_path: Path) -> None:
    chance = random.Random(0)
    TokenStore.create(tmp_path / "s", LETTERS)
    held = 0
    for _ in range(50):
        process = start(APPEND, str(tmp_path / "s"))
        said = kill(process, chance.uniform(0, 0.15))
        store = TokenStore.open(tmp_path / "s")
        groups = store.n_documents / 50
        assert groups == int(groups) and held + len(said) <= groups <= held + len(said) + 1
        numbers = [int(store.document(k)[0]) for k in range(held * 50, store.n_documents)]
        assert numbers == [k // 50 % 256 for k in range(len(numbers))]
        held = int(groups)
    assert held > 20


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_thirty_kills_of_prepare(tmp_path: Path) -> None:
    chance, now, seen = random.Random(0), 0, Counter()
    began = time.monotonic()
    prepare(STORIES, tmp_path, vocab_size=300)
    whole = time.monotonic() - began
    for _ in range(30):
        process = start(PREPARE, str(tmp_path), str(now + 1))
        kill(process, chance.uniform(0, 1.2 * whole))
        found = Prepared.open(tmp_path)
        texts = found.train.n_documents + found.validation.n_documents
        assert texts in (2000 - now, 2000 - now - 1)
        seen[texts == 2000 - now] += 1
        now = 2000 - texts
        first = min((found.tokenizer.decode(s.document(0).tolist()) for s in (found.train, found.validation)), key=STORIES.index)
        assert first == STORIES[now]
    assert min(seen[True], seen[False]) > 2, f"kills came too early or too late to mean much: {seen}"
