"""Forward and backward of the Llama-style model against transformers' LlamaForCausalLM of the same size: `python benchmarks/model.py`.

float32, one thread, processor seconds, contenders in turn in one process, median. Both get the same ids and the same
`torch.nn.functional.cross_entropy`. Memory is the peak of a fresh process for each contender over what it held once the model was
built, as the operating system counts it.
"""

import argparse
import gc
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import process_time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.model import LanguageModel, ModelConfig

SIZES = {
    "small": ({"vocab_size": 2_048, "width": 128, "n_layers": 4, "n_heads": 4}, 16, 128),
    "large": ({"vocab_size": 4_096, "width": 256, "n_layers": 6, "n_heads": 8}, 16, 256),
}


class Theirs(nn.Module):
    "transformers' Llama with the same sizes; sdpa attention, no cache."

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"hidden_size": c.width, "intermediate_size": c.hidden, "num_hidden_layers": c.n_layers}
        heads = {"num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads, "head_dim": c.head_width}
        form = {"tie_word_embeddings": c.tie_embeddings, "max_position_embeddings": c.context, "use_cache": False}
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=c.vocab_size, **sizes, **heads, **form))
        assert self.model.config._attn_implementation == "sdpa", self.model.config._attn_implementation

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids, use_cache=False).logits


CONTENDERS = {"minillm": LanguageModel, "transformers": Theirs}


def build(name: str, size: str) -> nn.Module:
    torch.manual_seed(0)
    return CONTENDERS[name](ModelConfig(**SIZES[size][0])).train()


def batch(size: str) -> tuple[Tensor, Tensor]:
    sizes, B, T = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(sizes["vocab_size"], (B, T + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def step(model: nn.Module, x: Tensor, y: Tensor) -> None:
    "Forward, loss, backward, gradients dropped."
    F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
    model.zero_grad(set_to_none=True)


def seconds(size: str, rounds: int) -> dict[str, list[float]]:
    "Processor seconds of each step, contenders in turn; the first round is thrown away."
    models, (x, y) = {name: build(name, size) for name in CONTENDERS}, batch(size)
    taken: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for turn in range(rounds + 1):
        for name in list(models) if turn % 2 else reversed(list(models)):
            gc.collect()
            started = process_time()
            step(models[name], x, y)
            taken[name].append(process_time() - started)
    return {name: times[1:] for name, times in taken.items()}


def memory_kib(field: str) -> int:
    "VmHWM (the most so far) or VmRSS (now) of this process."
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split(f"{field}:")[1].split()[0])


def peak_mib(name: str, size: str) -> float:
    "Peak memory of two steps in a fresh process over that of the built model, in MiB."
    command = [sys.executable, __file__, "--one", name, "--sizes", size]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def one(name: str, size: str) -> None:
    model, (x, y) = build(name, size), batch(size)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts here
    before = memory_kib("VmRSS")
    for _ in range(2):
        step(model, x, y)
    print((memory_kib("VmHWM") - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        return one(arguments.one, arguments.sizes[0])
    for size in arguments.sizes:
        sizes, B, T = SIZES[size]
        print(f"{size}: {ModelConfig(**sizes).n_parameters:,} parameters, {sizes}, B={B}, T={T}, torch {torch.__version__}")
        taken = seconds(size, arguments.rounds)
        for name, times in taken.items():
            s = median(times)
            spread = f"{min(times):.3f} to {max(times):.3f}"
            print(f"  {name:13}{s:8.3f} s a step ({spread}){B * T / s:8.0f} tokens/s{peak_mib(name, size):9.1f} MiB")
        ratio = median(a / b for a, b in zip(taken["minillm"], taken["transformers"]))
        print(f"  minillm / transformers: {ratio:.3f} of the time", flush=True)


if __name__ == "__main__":
    main()
