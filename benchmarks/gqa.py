"""Our attention layer against transformers' LlamaAttention: `python benchmarks/gqa.py [--rounds 15]`.

Forward and backward of a layer with rotary positions, the same weights, float32, no padding, then a step of writing with a cache of
keys, and a prompt that is read into an empty cache. One process, one thread, processor seconds, contenders in turn, median. Memory is the
peak of a fresh process for each contender, as the operating system counts it, less that of a process that did the same on one text of 8
tokens.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from minillm.attention import scaled_dot_product_attention
from minillm.gqa import GroupedQueryAttention, fused_attention, repeat_heads
from minillm.rope import RoPE

WIDTH, HEADS = 256, 8


def layers(n_kv_heads: int) -> dict[str, Callable[[Tensor], Tensor]]:
    "Both layers as functions (B,T,D) → (B,T,D), with equal weights."
    config = LlamaConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_key_value_heads=n_kv_heads, num_hidden_layers=1, vocab_size=8,
        attn_implementation="sdpa",
    )  # fmt: skip
    theirs, rotary = LlamaAttention(config, 0), LlamaRotaryEmbedding(config)
    ours = GroupedQueryAttention(WIDTH, HEADS, n_kv_heads, rope=RoPE(WIDTH // HEADS))
    ours.load_state_dict(theirs.state_dict())

    def run_theirs(x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])[None]
        return theirs(x, position_embeddings=rotary(x, places), attention_mask=None)[0]

    return {"minillm": ours, "transformers": run_theirs}


def in_turn(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    "Median processor milliseconds of each."
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 2):
        for name, function in functions.items():
            started = process_time()
            function()
            taken[name].append(1000 * (process_time() - started))
    return {name: median(times[2:]) for name, times in taken.items()}


def train_step(layer: Callable[[Tensor], Tensor], B: int, T: int) -> Callable[[], object]:
    x = torch.randn(B, T, WIDTH, requires_grad=True)
    return lambda: layer(x).sum().backward()


def peak_mib(name: str, n_kv_heads: int, B: int, T: int) -> float:
    "Peak memory of a fresh process in MiB, from Linux's /proc."
    command = [sys.executable, __file__, "--one", name, str(n_kv_heads), str(B), str(T)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def writing(n_kv_heads: int, S: int, B: int = 8, N: int = 32, H: int = 64) -> dict[str, Callable[[], object]]:
    "One query a head over a cache of S keys: by groups, and with repeated keys."
    q = torch.randn(B, N, 1, H)
    k, v = (torch.randn(B, n_kv_heads, S, H) for _ in range(2))
    times = N // n_kv_heads
    return {
        "by groups": lambda: fused_attention(q, k, v),
        "repeated": lambda: fused_attention(q, repeat_heads(k, times), repeat_heads(v, times)),
        "chapter 22": lambda: scaled_dot_product_attention(q, repeat_heads(k, times), repeat_heads(v, times)),
    }


class PromptCache:
    "A cache that is empty: it answers what came. `first`: the position of the first token; from 1 on a mask is needed."

    def __init__(self, T: int, first: int) -> None:
        self.places = torch.arange(first, first + T)

    def positions(self, T: int) -> Tensor:
        return self.places

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        return k, v, self.places, None


def prompt(T: int) -> dict[str, Callable[[], object]]:
    "A layer that reads a prompt of T tokens: without a cache, into an empty one, and into one that makes it build a mask."
    layer, x = GroupedQueryAttention(512, 8, 2), torch.randn(1, T, 512)
    return {
        "no cache": lambda: layer(x),
        "empty cache": lambda: layer(x, cache=PromptCache(T, 0)),
        "with a mask": lambda: layer(x, cache=PromptCache(T, 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        name, *sizes = arguments.one
        K, B, T = map(int, sizes)
        train_step(layers(K)[name], B, T)()
        print(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0])
        return
    print(f"forward and backward, B=16 T=256 D={WIDTH} N={HEADS}, torch {torch.__version__}")
    for K in (8, 4, 1):
        taken = in_turn({name: train_step(layer, 16, 256) for name, layer in layers(K).items()}, arguments.rounds)
        for name, milliseconds in taken.items():
            memory = peak_mib(name, K, 16, 256) - peak_mib(name, K, 1, 8)
            print(f"K={K}  {name:13}{milliseconds:8.1f} ms{memory:8.1f} MiB", flush=True)
    print("one step of writing, B=8 N=32 H=64, 1024 keys")
    with torch.no_grad():
        for K in (32, 8, 1):
            for name, milliseconds in in_turn(writing(K, 1024), arguments.rounds).items():
                print(f"K={K:2}  {name:13}{milliseconds:8.2f} ms", flush=True)
        print("a prompt, D=512 N=8 K=2")
        for T in (16, 128, 2048):
            for name, milliseconds in in_turn(prompt(T), arguments.rounds).items():
                print(f"T={T:4}  {name:13}{milliseconds:8.3f} ms", flush=True)


if __name__ == "__main__":
    main()
