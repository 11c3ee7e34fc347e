"""Training in float32 and in 16 bits, one thread, contenders in turn in one process: `python benchmarks/precision.py`.

First forward and backward of the Llama-style model by width and precision. Then whole steps with torch's fused AdamW against
transformers' LlamaForCausalLM of the same size, on the same ids: processor seconds, median of the rounds, and the peak of a fresh process
for each contender over what it held once model and optimiser were built. Seconds drift from run to run; ratios of one run compare.
"""

import argparse
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.gqa import fused_attention
from minillm.loss import linear_cross_entropy
from minillm.model import LanguageModel, ModelConfig
from minillm.precision import MasterWeights, Precision, half_attention

Step = Callable[[Tensor, Tensor], None]
V, L, B, T = 4_096, 6, 16, 256


def config(width: int) -> ModelConfig:
    return ModelConfig(vocab_size=V, width=width, n_layers=L, n_heads=max(1, width // 32), context=T)


def drawn(width: int, attend: object) -> LanguageModel:
    return LanguageModel(config(width), attend=attend, generator=torch.Generator().manual_seed(0)).train()


def theirs(c: ModelConfig) -> nn.Module:
    "transformers' Llama of the same sizes; sdpa attention, no cache."
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": c.width, "intermediate_size": c.hidden, "num_hidden_layers": c.n_layers}
    heads = {"num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads, "head_dim": c.head_width}
    form = {"tie_word_embeddings": True, "max_position_embeddings": c.context, "use_cache": False}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=c.vocab_size, **sizes, **heads, **form)).train()
    assert model.config._attn_implementation == "sdpa"
    return model


def adamw(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1, betas=(0.9, 0.95), fused=True)


def forward_backward(width: int, name: str, attend: object) -> Step:
    "One pass each way, loss in one piece, gradients dropped."
    model, precision = drawn(width, attend), Precision(name)
    if name == "bf16":
        MasterWeights(model)

    def step(x: Tensor, y: Tensor) -> None:
        with precision.autocast():
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step


def our_step(width: int, name: str) -> Step:
    "A whole step: head and loss in chunks, `half_attention` for 16 bits, float32 masters under bf16 weights."
    model, precision = drawn(width, fused_attention if name == "fp32" else half_attention), Precision(name)
    masters = MasterWeights(model) if name == "bf16" else None
    optimiser = adamw(model.parameters() if masters is None else masters.parameters)

    def step(x: Tensor, y: Tensor) -> None:
        with precision.autocast():
            loss = linear_cross_entropy(model.hidden(x), model.lm_head.weight, y)
        loss.backward()
        if masters is not None:
            masters.take_gradients()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if masters is not None:
            masters.publish()

    return step


def their_step(width: int, name: str) -> Step:
    "The same with transformers; bf16 weights are what AdamW moves, without masters."
    model, precision = theirs(config(width)), Precision(name)
    model.to(torch.bfloat16 if name == "bf16" else torch.float32)
    optimiser = adamw(model.parameters())

    def step(x: Tensor, y: Tensor) -> None:
        with precision.autocast():
            loss = F.cross_entropy(model(input_ids=x, use_cache=False).logits.flatten(0, 1), y.flatten())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


PASSES = {  # forward and backward: precision, how it attends
    "fp32": ("fp32", fused_attention),
    "autocast": ("autocast", fused_attention),
    "bf16": ("bf16", fused_attention),
    "autocast, half_attention": ("autocast", half_attention),
    "bf16, half_attention": ("bf16", half_attention),
}
STEPS = {f"{who} {name}": (make, name) for name in ("fp32", "autocast", "bf16") for who, make in (("minillm", our_step), ("transformers", their_step))}


def batch() -> tuple[Tensor, Tensor]:
    ids = torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def seconds(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    "Processor seconds of each, in turn and back; the first round is thrown away."
    (x, y), taken = batch(), {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name in list(steps) if turn % 2 else reversed(list(steps)):
            gc.collect()
            started = process_time()
            steps[name](x, y)
            taken[name].append(process_time() - started)
    return {name: times[1:] for name, times in taken.items()}


def memory_kib(field: str) -> int:
    "VmHWM (the most so far) or VmRSS (now) of this process."
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split(f"{field}:")[1].split()[0])


def one(name: str, width: int) -> None:
    "Peak memory of three steps over what the built model and optimiser hold, in MiB."
    make, precision = STEPS[name]
    step, (x, y) = make(width, precision), batch()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts here
    before = memory_kib("VmRSS")
    for _ in range(3):
        step(x, y)
    print((memory_kib("VmHWM") - before) / 1024)


def peak_mib(name: str, width: int) -> float:
    command = [sys.executable, __file__, "--one", name, "--widths", str(width)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def profile(name: str, width: int) -> None:
    "Where one step's time goes."
    make, precision = STEPS[name]
    step, (x, y) = make(width, precision), batch()
    step(x, y)
    with torch.profiler.profile() as found:
        step(x, y)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", choices=list(STEPS), help="show where a step's time goes")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        return one(arguments.one, arguments.widths[0])
    if arguments.profile:
        return profile(arguments.profile, arguments.widths[-1])
    print(f"V={V}, L={L}, B={B}, T={T}, torch {torch.__version__}; forward and backward, ms a batch")
    for width in arguments.widths:
        taken = seconds({name: forward_backward(width, *how) for name, how in PASSES.items()}, arguments.rounds)
        base = median(taken["fp32"])
        said = (f"{name} {1000 * median(times):.0f} ({base / median(times):.2f}x)" for name, times in taken.items())
        print(f"  D={width}: {'; '.join(said)}", flush=True)
    width = arguments.widths[-1]
    print(f"whole steps with fused AdamW, D={width}")
    taken = seconds({name: STEPS[name][0](width, STEPS[name][1]) for name in arguments.steps}, arguments.rounds)
    for name, times in taken.items():
        s = median(times)
        print(f"  {name:22}{s:7.3f} s{B * T / s:8.0f} tokens/s{peak_mib(name, width):8.0f} MiB", flush=True)
    for name in ("fp32", "autocast", "bf16"):
        if {f"minillm {name}", f"transformers {name}"} <= set(taken):
            ratio = median(a / b for a, b in zip(taken[f"transformers {name}"], taken[f"minillm {name}"]))
            print(f"  {name}: minillm does {ratio:.2f} times the tokens of transformers")


if __name__ == "__main__":
    main()
