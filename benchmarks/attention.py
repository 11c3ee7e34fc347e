"""Time and memory of attention, forward and backward: `python benchmarks/attention.py [--lengths 512 1024 2048] [--rounds 5]`.

One process, one thread, processor seconds, contenders in turn, median. Memory is the peak of a fresh process for each contender, as the
operating system counts it, less that of a process that did the same on 64 tokens.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import torch
import torch.nn.functional as F

from minillm.attention import causal_mask, flash_attention, mask_rule, scaled_dot_product_attention

HEADS, WIDTH = 4, 64


def contenders(T: int) -> dict[str, Callable]:
    "Causal attention, four ways."
    place = torch.arange(T)
    mask, rule = causal_mask(place), mask_rule(place)
    return {
        "plain": lambda q, k, v: scaled_dot_product_attention(q, k, v, mask=mask),
        "tiled": lambda q, k, v: flash_attention(q, k, v, mask=rule),
        "torch, mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        "torch, is_causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }


def inputs(T: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, HEADS, T, WIDTH, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def seconds(T: int, rounds: int, dtype: torch.dtype) -> dict[str, float]:
    "Median processor seconds of forward and backward."
    taken: dict[str, list[float]] = {name: [] for name in contenders(T)}
    for _ in range(rounds + 1):
        for name, attend in contenders(T).items():
            given = inputs(T, dtype)
            started = process_time()
            attend(*given).sum().backward()
            taken[name].append(process_time() - started)
    return {name: median(times[1:]) for name, times in taken.items()}


def peak_mib(name: str, T: int) -> float:
    "Peak memory of a fresh process in MiB, from Linux's /proc (ru_maxrss would start at the parent's)."
    command = [sys.executable, __file__, "--one", name, "--lengths", str(T)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dtype = getattr(torch, arguments.dtype)
    if arguments.one:
        contenders(arguments.lengths[0])[arguments.one](*inputs(arguments.lengths[0], dtype)).sum().backward()
        print(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0])
        return
    print(f"{HEADS} heads of width {WIDTH}, causal, {arguments.dtype}, torch {torch.__version__}")
    print(f"{'':18}{'T':>6}{'ms':>9}{'MiB':>9}")
    for T in arguments.lengths:
        for name, taken in seconds(T, arguments.rounds, dtype).items():
            memory = peak_mib(name, T) - peak_mib(name, 64)
            print(f"{name:18}{T:6}{1000 * taken:9.1f}{memory:9.1f}", flush=True)


if __name__ == "__main__":
    main()
