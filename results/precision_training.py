"""A small transformer on the book's sample text in four precisions: the loss on held-out text after training.

The seed chooses the fresh weights and the batches, the same for each precision. The rate falls to nothing along a
cosine, so that the last steps are small ones.
"""

import math
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.gqa import fused_attention
from minillm.model import LanguageModel, ModelConfig
from minillm.precision import MasterWeights, Precision, half_attention
from minillm.tokenizer import Tokenizer

STEPS, RATE, BATCH, CONTEXT, WIDTH, LAYERS, HEADS = 300, 3e-3, 8, 64, 64, 2, 2
SEEDS = [0, 1, 2, 3, 4]
RUNS = {
    "fp32": ("fp32", False),
    "autocast": ("autocast", False),
    "masters": ("bf16", True),
    "bare": ("bf16", False),
}


def sample_ids() -> tuple[Tensor, int]:
    "The sample text as ids, and how many ids there are."
    assets = Path(str(files("minillm"))) / "assets"
    tokenizer = Tokenizer.load(assets / "tokenizer" / "tokenizer.json")
    return (
        torch.tensor(tokenizer.encode((assets / "corpus" / "sample.txt").read_text(encoding="utf-8"))),
        tokenizer.vocab_size,
    )


def windows(ids: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    "n windows and what follows each token of them."
    starts = torch.randint(len(ids) - CONTEXT, (n,), generator=generator)
    rows = torch.stack([ids[i : i + CONTEXT + 1] for i in starts])
    return rows[:, :-1], rows[:, 1:]


def loss_of(model: LanguageModel, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).float().flatten(0, 1), y.flatten())


def train(name: str, with_masters: bool, ids: Tensor, vocabulary: int, seed: int) -> float:
    "The loss on the last tenth of the text after training on the rest, in nats a token."
    generator, precision = torch.Generator().manual_seed(seed), Precision(name)
    config = ModelConfig(vocab_size=vocabulary, width=WIDTH, n_layers=LAYERS, n_heads=HEADS)
    attend = fused_attention if name == "fp32" else half_attention
    model = LanguageModel(config, attend=attend, generator=generator)
    masters = MasterWeights(model) if with_masters else None
    model = model.to(torch.bfloat16) if name == "bf16" else model
    parameters = model.parameters() if masters is None else masters.parameters
    optimiser, text = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.95)), ids[: len(ids) * 9 // 10]
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = (
            RATE * min(1, (step + 1) / 40) * (1 + math.cos(math.pi * step / STEPS)) / 2
        )
        with precision.autocast():
            loss = loss_of(model, *windows(text, BATCH, generator))
        loss.backward()
        if masters is not None:
            masters.take_gradients()
        optimiser.step()
        optimiser.zero_grad()
        if masters is not None:
            masters.publish()
    held = windows(ids[len(text) :], 64, torch.Generator().manual_seed(0))
    with torch.no_grad(), precision.autocast():
        return loss_of(model, *held).item()


def run(seed: int) -> dict:
    "Loss by precision."
    ids, vocabulary = sample_ids()
    return {"loss": {name: train(*how, ids, vocabulary, seed) for name, how in RUNS.items()}}


FUNCTIONS = [run, train, loss_of, windows, sample_ids, MasterWeights, half_attention]
