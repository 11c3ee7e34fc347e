"""Chapter 35 over three seeds: a small transformer on the story world, on little of it, with one thing wrong.

The seed chooses the fresh weights and the order of the batches; the stories are the chapter's.
"""

import tempfile
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillm.batches import IGNORED, Batch, Prepared, packed_batches, prepare
from minillm.loss import evaluate_loss, next_token_loss
from minillm.model import LanguageModel, ModelConfig
from minillm.optim import cosine_schedule
from minillm.storyworld import StoryWorld
from minillm.train import History, Trainer

STORIES, VOCABULARY, WIDTH, LAYERS, HEADS, CONTEXT, ROWS, RATE = 1000, 512, 64, 2, 4, 96, 16, 0.005
SEEDS = [0, 1, 2]


def copy_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    "Targets that were not shifted: each token is to predict itself."
    return next_token_loss(model, replace(batch, y=torch.where(batch.y == IGNORED, IGNORED, batch.x)))


def train(data: Prepared, seed: int, **change: Any) -> History:
    "One run from fresh weights."
    sizes = {"vocab_size": VOCABULARY, "width": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "context": CONTEXT}
    model = LanguageModel(ModelConfig(**sizes), generator=torch.Generator().manual_seed(seed))
    settings: dict[str, Any] = {"loss_fn": next_token_loss, "lr": RATE, "precision": "fp32", "device": "cpu"}
    settings["progress"] = False
    settings["batches"] = packed_batches(data.train, ROWS, CONTEXT, seed=seed)
    settings["validation"] = list(islice(packed_batches(data.validation, ROWS, CONTEXT, seed=None), 6))
    settings["evaluate"] = partial(evaluate_loss, token_bytes=data.validation.token_bytes)
    return Trainer(model, **settings | change).train()


def sick_runs(data: Prepared, seed: int) -> dict[str, float]:
    "The last validation loss of a healthy short run, and of three with one thing wrong."
    steps = 60
    cases: dict[str, dict[str, Any]] = {"healthy": {}, "no warm-up": {"schedule": cosine_schedule(steps)}}
    cases |= {"rate times 100": {"lr": 1.0}, "targets not shifted": {"loss_fn": copy_loss}}
    found = {}
    for name, change in cases.items():
        batches = packed_batches(data.train, ROWS, 64, seed=seed)
        usual = {"steps": steps, "lr": 0.01, "schedule": cosine_schedule(steps, warmup=12), "batches": batches}
        found[name.replace(" ", "_")] = train(data, seed, **usual | change).validations[-1].loss
    return found


def run(seed: int) -> dict:
    "Bits per byte after 200 steps; validation at its best and at the end on three batches; the sick runs."
    with tempfile.TemporaryDirectory() as folder:
        stories = [story.text for story in StoryWorld(seed=0).stories(STORIES)]
        data = prepare(stories, Path(folder), vocab_size=VOCABULARY, validation=0.05)
        long = train(data, seed, steps=200).validations[-1]
        few = list(islice(packed_batches(data.train, ROWS, CONTEXT, seed=seed), 3))
        over = train(data, seed, batches=cycle(few), steps=300, validate_every=20, patience=4).validations
        sick = sick_runs(data, seed)
    best = min(over, key=lambda v: v.loss)
    last = over[-1]
    parted = {"best": best.loss, "best_step": best.step, "last": last.loss, "train": last.train}
    whole = {"bits_per_byte": long.bits_per_byte, "loss": long.loss, "accuracy": long.accuracy}
    return {"long": whole, "few": parted | {"later": last.step - best.step}, "sick": sick}


FUNCTIONS = [copy_loss, train, sick_runs, run]  # what the record's hash covers
