"""A small model learns stories with five optimisers, each at four learning rates: which loss, and how fast?

All get the same model, batches, warm-up, cosine and clipping. Chapter 33 trains seed 0 live, each at the rate that
was best, and draws it over this record.
"""

import tempfile

import torch

from minillm.batches import Prepared, prepare, random_batches
from minillm.loss import evaluate_loss, next_token_loss
from minillm.model import LanguageModel, ModelConfig
from minillm.optim import (
    SGD,
    AdamW,
    Lion,
    Muon,
    clip_grad_norm,
    cosine_schedule,
    decay_groups,
    make_optimizer,
    newton_schulz,
)
from minillm.storyworld import StoryWorld

STORIES, VOCABULARY, CONTEXT, BATCH, WIDTH, LAYERS = 1500, 512, 64, 16, 64, 2  # texts, V, T, B, D, L
STEPS, WARMUP, EVERY = 200, 20, 5  # a curve has a point for each 5 steps
RATES = {
    "sgd": [0.1, 0.3, 1.0, 3.0],
    "momentum": [0.03, 0.1, 0.3, 1.0],
    "adamw": [0.001, 0.003, 0.01, 0.03],
    "lion": [0.0003, 0.001, 0.003, 0.01],
    "muon": [0.003, 0.01, 0.03, 0.1],
}
SEEDS = [0, 1, 2]


def stories() -> Prepared:
    "Stories as tokens, in a temporary folder."
    texts = [story.text for story in StoryWorld().stories(STORIES)]
    return prepare(texts, tempfile.mkdtemp(), vocab_size=VOCABULARY)


def small_model(seed: int) -> LanguageModel:
    "A model of two layers."
    config = ModelConfig(vocab_size=VOCABULARY, width=WIDTH, n_layers=LAYERS, n_heads=4, context=CONTEXT)
    return LanguageModel(config, generator=torch.Generator().manual_seed(seed))


def rule(name, model, rate):
    "An optimiser by its name in the figures."
    groups = decay_groups(model, 1.0 if name == "lion" else 0.1)
    if name == "adamw":
        return AdamW(groups, rate, betas=(0.9, 0.95))
    if name == "lion":
        return Lion(groups, rate)
    if name == "muon":
        return make_optimizer(model, name="muon", lr=rate)
    groups = decay_groups(model, 0.0)
    return SGD(groups, rate, momentum=0.9 if name == "momentum" else 0.0)


def train_small(name, rate, store, seed):
    "A curve of the training loss, mean of EVERY steps each, and the model."
    model, batches, losses = small_model(seed), random_batches(store, BATCH, CONTEXT, seed=seed), []
    optimizer, schedule = rule(name, model, rate), cosine_schedule(STEPS, warmup=WARMUP)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step)
        loss, _ = next_token_loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return [sum(losses[k : k + EVERY]) / EVERY for k in range(0, STEPS, EVERY)], model


def run(seed: int) -> dict:
    "Validation loss by optimiser and rate, and the curves of all."
    data = stories()
    final: dict = {}
    curves: dict = {}
    for name, rates in RATES.items():
        runs = [train_small(name, rate, data.train, seed) for rate in rates]
        fresh = lambda: random_batches(data.validation, BATCH, CONTEXT, seed=0)
        final[name] = [round(evaluate_loss(model, fresh(), max_batches=20).loss, 4) for _, model in runs]
        curves[name] = [[round(x, 4) for x in curve] for curve, _ in runs]
    return {"rates": RATES, "final": final, "curves": curves}


# what the record's hash covers
FUNCTIONS = [stories, small_model, rule, train_small, run, SGD, AdamW, Lion, Muon, newton_schulz, clip_grad_norm]
