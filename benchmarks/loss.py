"""Head and loss against torch's: `python benchmarks/loss.py [--rounds 5] [--formats float32] [--vocabularies 4096]`.

Forward and backward of a head of V rows and the cross-entropy, 4,096 tokens of width 256: torch's functions on all logits, torch's own
chunks where it has them (`linear_cross_entropy` with options, from 2.13 on), and ours. One process, one thread, processor seconds,
contenders in turn, median. Memory is the peak of a fresh process for each contender, as the operating system counts it, less that of a
process that did the same for 8 tokens.
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
from torch import Tensor

from minillm.loss import cross_entropy, linear_cross_entropy

WIDTH, TOKENS = 256, 16 * 256
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def torch_chunked(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=512)
    return F.linear_cross_entropy(hidden, head, targets, options=options)


LOSSES: dict[str, Loss] = {
    "torch": lambda hidden, head, targets: F.cross_entropy((hidden @ head.mT).float(), targets),
    "torch, chunks": torch_chunked,
    "minillm, plain": lambda hidden, head, targets: cross_entropy(hidden @ head.mT, targets),
    "minillm": linear_cross_entropy,
}
if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
    del LOSSES["torch, chunks"]


def step(name: str, form: str, V: int, tokens: int) -> Callable[[], object]:
    "Forward and backward, which leave gradients."
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if form == "bfloat16" else torch.float32
    hidden = torch.randn(tokens, WIDTH, generator=generator).to(dtype).requires_grad_()
    head = (0.02 * torch.randn(V, WIDTH, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(V, (tokens,), generator=generator)

    def run() -> None:
        hidden.grad = head.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=form == "autocast"):
            loss = LOSSES[name](hidden, head, targets)
        loss.backward()

    return run


def in_turn(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    "Median processor milliseconds of each."
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            started = process_time()
            function()
            taken[name].append(1000 * (process_time() - started))
    return {name: median(times[1:]) for name, times in taken.items()}


def peak_mib(name: str, form: str, V: int, tokens: int) -> float:
    "Peak memory of a fresh process in MiB, from Linux's /proc."
    command = [sys.executable, __file__, "--one", name, form, str(V), str(tokens)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", nargs="+", default=["float32", "bfloat16", "autocast"])
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[4096, 16384])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        name, form, *sizes = arguments.one
        step(name, form, *map(int, sizes))()
        print(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0])
        return
    print(f"head and loss, forward and backward, {TOKENS} tokens, D={WIDTH}, torch {torch.__version__}")
    for V in arguments.vocabularies:
        for form in arguments.formats:
            taken = in_turn({name: step(name, form, V, TOKENS) for name in LOSSES}, arguments.rounds)
            for name, milliseconds in taken.items():
                memory = peak_mib(name, form, V, TOKENS) - peak_mib(name, form, V, 8)
                print(f"V={V:6} {form:9} {name:15}{milliseconds:8.1f} ms{memory:8.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
