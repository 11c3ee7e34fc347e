#!/usr/bin/env python3
"""How fast a store becomes batches: minillm beside a plain loop and torch's DataLoader, in million tokens per CPU second.

    python benchmarks/batches.py some.txt other.txt

The texts (documents separated by a line <|endoftext|>, or whole files) are encoded once, into a folder that is removed in the end. One
process, one thread, no worker processes, all ways in turn within each round; the first round is not counted, the median of the rounds is
reported. `padding` is the share of slots without a target; tokens are targets, so padding does not count as speed.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before the libraries are imported

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from minillm.batches import Batch, TokenStore, bucketed_batches, packed_batches, prefetch, prepare, random_batches
from minillm.corpus import iter_documents

Make = Callable[[], tuple[int, int]]  # a batch → its targets and its slots


def processor() -> str:
    "The processor's name, as well as the system tells it."
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


class Windows(Dataset):
    "Every window of a file of ids, as the map-style data set that a DataLoader takes."

    def __init__(self, ids: np.ndarray, context: int) -> None:
        self.ids, self.context = ids, context

    def __len__(self) -> int:
        return len(self.ids) - self.context

    def __getitem__(self, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        window = torch.from_numpy(self.ids[start : start + self.context + 1].astype(np.int64))
        return window[:-1], window[1:]


def plain_loop(ids: np.ndarray, batch_size: int, context: int) -> torch.Tensor:
    "The loop of nanoGPT's train.py."
    starts = torch.randint(len(ids) - context, (batch_size,))
    x = torch.stack([torch.from_numpy(ids[i : i + context].astype(np.int64)) for i in starts])
    torch.stack([torch.from_numpy(ids[i + 1 : i + 1 + context].astype(np.int64)) for i in starts])
    return x


def ways(store: TokenStore, batch_size: int, context: int) -> dict[str, Make]:
    "Name → what makes the next batch."
    ids = np.memmap(store.path / "ids.bin", store.header.dtype, "r", shape=(len(store),))
    data = Windows(ids, context)
    loader = iter(DataLoader(data, batch_size, sampler=RandomSampler(data, replacement=True, num_samples=10**9)))
    streams = {
        "random windows": random_batches(store, batch_size, context),
        "windows, each once": random_batches(store, batch_size, context, order="epoch"),
        "packed, best fit": packed_batches(store, batch_size, context),
        "packed, sequential": packed_batches(store, batch_size, context, strategy="sequential"),
        "bucketed": bucketed_batches(store, batch_size, context=context),
        "packed, prefetched": prefetch(packed_batches(store, batch_size, context)),
    }

    def counted(batch: Batch) -> tuple[int, int]:
        return batch.n_tokens, batch.x.numel()

    def bare(x: torch.Tensor) -> tuple[int, int]:
        return x.numel(), x.numel()

    return {
        "plain loop": lambda: bare(plain_loop(ids, batch_size, context)),
        "torch DataLoader": lambda: bare(next(loader)[0]),
        **{name: lambda stream=stream: counted(next(stream)) for name, stream in streams.items()},
    }


def measure(makers: dict[str, Make], rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    "Million targets per CPU second, microseconds a batch, and padding: the median of the rounds."
    speeds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in makers}
    for number in range(rounds + 1):
        for name, make in makers.items():
            began, count, tokens, slots = time.process_time(), 0, 0, 0
            while (took := time.process_time() - began) < seconds:
                found = make()
                count, tokens, slots = count + 1, tokens + found[0], slots + found[1]
            if number:
                speeds[name].append((tokens / took / 1e6, 1e6 * took / count, 1 - tokens / slots))
    names = ("million_tokens_per_cpu_second", "microseconds_a_batch", "padding")
    return {name: dict(zip(names, map(statistics.median, zip(*found)))) for name, found in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="text in UTF-8")
    parser.add_argument("--batch-size", type=int, default=16, help="rows (default: 16)")
    parser.add_argument("--context", type=int, default=256, help="tokens a row (default: 256)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.2, help="CPU seconds of each way in a round (default: 0.2)")
    parser.add_argument("--out", type=Path, help="write all figures there as JSON")
    options = parser.parse_args()
    if min(options.batch_size, options.context, options.rounds) < 1 or options.seconds <= 0:
        parser.error("sizes, rounds and seconds must be positive")
    torch.set_num_threads(1)
    machine = f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}"
    versions = {name: version(name) for name in ("torch", "numpy")}
    print(f"{machine}; 1 thread; {', '.join(f'{name} {number}' for name, number in versions.items())}")
    results = {}
    for path in options.files:
        with tempfile.TemporaryDirectory() as folder:
            try:
                documents = list(iter_documents(path))
                store = prepare(documents, folder, validation=0).train
            except (OSError, ValueError) as error:
                parser.error(str(error))
            print(f"\n{path}: {store}, batches of {options.batch_size} rows of {options.context}")
            found = measure(ways(store, options.batch_size, options.context), options.rounds, options.seconds)
        base = found["plain loop"]["million_tokens_per_cpu_second"]
        for name, row in found.items():
            speed, micro, padding = row.values()
            print(f"  {name:<20}{speed:8.1f} M tokens/s {micro:8.0f} µs a batch  {padding:6.1%} padding   {speed / base:5.2f} × plain loop")
        results[str(path)] = found
    if options.out:
        record = {"machine": machine, "threads": 1, "versions": versions, "command": sys.argv[1:], "files": results}
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
