"""A run to be killed: a plain training loop that saves every 5 steps, and a server that starts it again and again without importing torch anew.

`python tests/kills.py` reads lines from its standard input: a folder of data, one for checkpoints, and after how many seconds to kill the run (0: never).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.batches import TokenStore, packed_batches
from minillm.checkpoint import CheckpointManager, gather_state, restore_state
from minillm.model import LanguageModel, ModelConfig
from minillm.tokenizer import END_OF_TEXT, Tokenizer

STEPS, SAVE_EVERY = 40, 5
LETTERS = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], [END_OF_TEXT])


def write_data(folder: Path) -> None:
    "A store of a few texts."
    store = TokenStore.create(folder, LETTERS)
    store.append([[(7 * k + t * t) % 256 for t in range(10 + k % 30)] for k in range(200)])


def parts(data: Path) -> dict[str, Any]:
    "All that has a state, made anew: with dropout, momentum and shuffled texts."
    generator = torch.Generator().manual_seed(1)
    config = ModelConfig(vocab_size=257, width=32, n_layers=2, n_heads=2, context=32, dropout=0.2)
    model = LanguageModel(config, generator=generator)
    torch.manual_seed(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = packed_batches(TokenStore.open(data), 4, 32, seed=3, pool=20)
    return {"model": model, "optimizer": optimizer, "batches": batches, "dropout": torch.default_generator}


def train(data: Path, out: Path) -> dict[str, Tensor]:
    "Go on from the newest checkpoint, if there is one, to the last step. The weights."
    made, manager, done = parts(data), CheckpointManager(out), 0
    if manager.steps():
        done, state = manager.load(expect={"data": "few texts"})
        restore_state(state, **made)
    model, optimizer = made["model"], made["optimizer"]
    for step in range(done, STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1, (step + 1) / 10) * (1 - step / STEPS)
        batch = next(made["batches"])
        logits = model(batch.x, positions=batch.positions, documents=batch.documents)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % SAVE_EVERY == 0:
            manager.save(gather_state(**made), step + 1, metric=loss.item(), about={"data": "few texts"})
    return model.state_dict()


def serve(run: Callable[[Path, Path], Any]) -> None:
    "For each line of the input, run in a process of its own, forked from this one. How it ended: 0, or minus a signal."
    torch.set_num_threads(1)
    prepared: dict[str, Any] = {}
    for line in sys.stdin:
        data, out, seconds = line.rstrip("\n").split("\t")
        if not prepared:  # what torch imports at first use need not be imported in every process
            prepared = parts(Path(data))
        if not (pid := os.fork()):
            status = 1
            try:
                run(Path(data), Path(out))
                status = 0
            finally:
                os._exit(status)
        if float(seconds):
            time.sleep(float(seconds))
            os.kill(pid, signal.SIGKILL)  # if it has ended, its number is still its own until somebody waits for it
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Runs:
    "Starts runs and kills them."

    def __init__(self, process: subprocess.Popen, data: Path) -> None:
        self.process, self.data = process, data

    def run(self, out: Path, seconds: float = 0) -> int:
        "Train in this folder, killed after so many seconds (0: never). 0, or minus the signal that ended it."
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{self.data}\t{out}\t{seconds}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def finish(self, out: Path) -> dict[str, Tensor]:
        "Train to the end in this folder; the weights."
        assert self.run(out) == 0
        step, state = CheckpointManager(out).load()
        assert step == STEPS
        return state["model"]


@contextmanager
def runs(folder: Path) -> Iterator[Runs]:
    "The server, and data in a folder."
    write_data(folder / "data")
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Runs(process, folder / "data")
    finally:
        process.kill()
        process.communicate()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    "Equal to the last bit."
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def check_kills(folder: Path, times: int, seed: int) -> list[int]:
    "Kill so many runs at random moments; each folder loads, and each run, gone on with, ends as if never killed."
    chance, reached = random.Random(seed), []
    with runs(folder) as server:
        whole = server.finish(folder / "whole")
        began = time.monotonic()
        assert same(server.finish(folder / "again"), whole), "without a kill, two runs differ"
        seconds = time.monotonic() - began
        while len(reached) < times:
            out = folder / f"run {len(reached)}"
            if server.run(out, chance.uniform(0.05, 1) * seconds) == 0:
                shutil.rmtree(out)  # it was done before
                continue
            manager = CheckpointManager(out)
            if manager.steps():
                step, state = manager.load()
                assert step == manager.steps()[-1] and step % SAVE_EVERY == 0, "the newest is whole"
                assert state["optimizer"]["state"][0]["step"] == step
            reached.append(manager.steps()[-1] if manager.steps() else 0)
            assert same(server.finish(out), whole), f"killed after step {reached[-1]}, it ended elsewhere"
    return reached


if __name__ == "__main__":
    serve(train)
