# Generated from nbs/46_llm.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import contextlib
import difflib
import hashlib
import html
import json
import math
import os
import platform
import torch
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.resources import files
from itertools import islice
from numbers import Real
from pathlib import Path
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypeVar
from minillm import __version__
from minillm.attention import Attend
from minillm.batches import _MARK, _NEW, _READY, Batch, BatchStream, Prepared, Source, TokenStore, _clear, _explained, _one_writer, _settle, _settle_alone, _sync_folders, packed_batches, prepare, random_batches, tokenizer_hash
from minillm.bigram import bits_per_byte
from minillm.checkpoint import CheckpointManager, load_checkpoint, restore_state
from minillm.corpus import Field
from minillm.generate import StopStrings, TextStream, _check_count, prompt_ids, stream_ids, stream_text
from minillm.gqa import fused_attention
from minillm.loss import _evaluating, _read, _terms, evaluate_loss, next_token_loss
from minillm.model import PRESETS, LanguageModel, ModelConfig, flops_by_part
from minillm.optim import _RULES, make_optimizer
from minillm.precision import Precision, choose_device, half_attention
from minillm.sampling import Sampler
from minillm.tokenizer import END_OF_TEXT, Tokenizer, parse_json, read_utf8, write_whole
from minillm.train import Callback, StepRecord, Trainer, _check_callbacks
from minillm.llm import GenerateSettings, LLM, RECIPES, Recipe, TextModel, TokenBits, TrainSettings, choose_sizes, describe_model, enter_folder, find_model, fresh_model, is_unfinished, load, make_card, make_plan, make_trainer, open_data, plan_differences, put_weights, read_card, read_model, read_plan, read_run, shipped_models, show_surprise, take_best, token_bits, train_llm, training_batches, validation_batches, write_model, write_texts

# %% exercise 46-a {"title": "How much was seen", "answer": "def seen(place: int, context: int) -> int: ...", "returns": true}
import torch
from torch import nn

from minillm.exercises import expect, mistake
from minillm.llm import token_bits

hints = [
    "The first window judges places 1 to context; place p has p ids before it.",
    "The next window begins half a context later. It judges only the places after those of the first: how many?",
    "From the second window on each judges context/2 places; the first of them has context/2 + 1 ids before it.",
]


class Witness(nn.Module):
    "A model whose guess says how many ids it has seen: the surprise of any id is that many bits."

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, ids, positions=None, documents=None):
        known = torch.arange(1, ids.shape[1] + 1, dtype=torch.float64)[None, :, None]  # (1,T,1)
        rest = torch.log1p(-(2.0**-known))
        return torch.cat([-known * torch.log(torch.tensor(2.0, dtype=torch.float64)), rest], -1)


def really_seen(length, context):
    return [round(bits) for bits in token_bits(Witness(), [0] * (length + 1), context)]


def checks(seen):
    for context in (4, 8, 10, 2):  # the smallest last: there, several mistakes look alike
        right = really_seen(15, context)
        late = [(seen(place, context), wanted) for place, wanted in enumerate(right, 1) if place > context]
        for place, wanted in enumerate(right, 1):
            got = seen(place, context)
            where = f"for place {place} and context {context}"
            if got == min(place, context) != wanted:
                mistake(f"{where} you let a window begin at every place; they begin every half context")
            if got == (place - 1) % context + 1 != wanted:
                mistake(f"{where} you forgot that windows overlap: each is half a context after the one before")
            if place > context and all(one == other - 1 for one, other in late):
                mistake(f"{where} one is missing: the id just before the new places counts too")
            expect(got == wanted, f"{where} the model saw {wanted} ids; yours {got}")


def wrong_every_place(place, context):
    return min(place, context)


def wrong_side_by_side(place, context):
    return (place - 1) % context + 1


def wrong_one_less(place, context):
    return place if place <= context else context // 2 + (place - 1) % (context // 2)


def wrong_always_half(place, context):
    return place if place <= context else context // 2


planted = {
    wrong_every_place: "every half context",
    wrong_side_by_side: "windows overlap",
    wrong_one_less: "one is missing",
    wrong_always_half: "ids; yours",
}

# %% exercise 46-b {"title": "Best of several", "answer": "def best_of(llm, prompt: str, n: int) -> str: ...", "returns": true}
from minillm.exercises import expect, mistake
from minillm.llm import TokenBits

hints = [
    "The surprise of a continuation, given the prompt: that of prompt + text, less that of the prompt alone.",
    "Divide by the bytes of the continuation: len(text.encode('utf-8')).",
    "min(texts, key=…) takes the best; give an empty text an infinite score.",
]


class Scripted:
    "Texts by seed, and a surprise by character that depends on whether the prompt stands before it."

    def __init__(self, texts, rates, prompt):
        self.texts, self.rates, self.prompt, self.asked = texts, rates, prompt, []

    def __call__(self, prompt, *, seed, max_new_tokens):
        expect(prompt == self.prompt, f"the model was asked to go on with {prompt!r}, not with {self.prompt!r}")
        expect(max_new_tokens == 20, f"max_new_tokens is {max_new_tokens}, asked was 20")
        self.asked.append(seed)
        return self.texts[seed]

    def surprise(self, text, end=False):
        told = text.startswith(self.prompt) and bool(self.prompt)
        start = self.prompt if told else ""
        bits = [TokenBits(start.encode(), 40.0)] if told else []
        rates = self.rates if told else dict(zip(self.rates, reversed(self.rates.values())))
        return bits + [TokenBits(c.encode(), rates[c] * len(c.encode())) for c in text[len(start) :]]


CASES = (  # texts, bits a byte of each character after the prompt (without it, the rates are exchanged), the best
    (["ccc", "ddddddd"], {"c": 1.0, "d": 3.0}, "ccc"),
    (["aaaa", "b"], {"a": 1.0, "b": 2.0}, "aaaa"),
    (["éé", "ee"], {"é": 1.5, "e": 2.0}, "éé"),
    (["", "f"], {"f": 5.0, "g": 5.0}, "f"),
    (["", ""], {"f": 5.0, "g": 1.0}, ""),
)


def checks(best_of):
    for texts, rates, right in CASES:
        llm = Scripted(texts, rates, "P")
        got = best_of(llm, "P", len(texts))
        expect(sorted(llm.asked) == list(range(len(texts))), f"seeds asked: {llm.asked}; expected 0 to n − 1")
        where = f"of {texts} with {rates} bits a byte"
        if right == "aaaa" and got == "b":
            mistake(f"{where} you took the smaller sum: a short text always wins then; divide by its bytes")
        if right == "ccc" and got == "ddddddd":
            mistake(f"{where} you judged the text without the prompt before it, or took the most surprising")
        if right == "éé" and got == "ee":
            mistake(f"{where} you divided by characters; é has two bytes")
        if right == "f" and got == "":
            mistake(f"{where} an empty text won; it says nothing, and is never the best")
        expect(got == right, f"{where} the best is {right!r}; yours is {got!r}")


def _written(llm, prompt, n):
    return [llm(prompt, max_new_tokens=20, seed=seed) for seed in range(n)]


def _bits(llm, text):
    return sum(bits for _, bits in llm.surprise(text))


def wrong_sum(llm, prompt, n):
    return min(_written(llm, prompt, n), key=lambda text: _bits(llm, prompt + text))


def wrong_alone(llm, prompt, n):
    return min(_written(llm, prompt, n), key=lambda t: _bits(llm, t) / len(t.encode()) if t else 1e9)


def wrong_characters(llm, prompt, n):
    score = lambda t: (_bits(llm, prompt + t) - _bits(llm, prompt)) / len(t) if t else 1e9
    return min(_written(llm, prompt, n), key=score)


def wrong_empty(llm, prompt, n):
    score = lambda t: (_bits(llm, prompt + t) - _bits(llm, prompt)) / max(1, len(t.encode()))
    return min(_written(llm, prompt, n), key=score)


def wrong_seeds(llm, prompt, n):
    return [llm(prompt, max_new_tokens=20, seed=0) for _ in range(n)][0]


planted = {
    wrong_sum: "divide by its bytes",
    wrong_alone: "without the prompt",
    wrong_characters: "é has two bytes",
    wrong_empty: "never the best",
    wrong_seeds: "expected 0 to n − 1",
}

# %% exercise 46-c {"title": "Mend it", "answer": "def score(documents: list[tuple[str, list[float], float]]) -> float: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "A mean of means gives a short document as much weight as a long one: add up first, divide once.",
    "Bits per byte, not per character: len(text.encode('utf-8')).",
    "The end token is predicted like any other, and has no bytes: its bits count, and nothing is added below.",
]

CASES = (
    [("ab", [3.0], 1.0), ("abcdefgh", [2.0, 2.0], 2.0)],
    [("日本", [8.0, 8.0], 2.0), ("a", [1.0], 5.0)],
    [("owl", [6.0], 0.5)],
)


def checks(score):
    for documents in CASES:
        sizes = [len(text.encode("utf-8")) for text, _, _ in documents]
        bits = [sum(tokens) + end for _, tokens, end in documents]
        right, got = sum(bits) / sum(sizes), score(list(documents))
        same = lambda value, got=got: abs(got - value) < 1e-9
        where = f"for {documents}"
        if same(sum(b / n for b, n in zip(bits, sizes)) / len(sizes)) and not same(right):
            mistake(f"{where} you took a mean of means; a short document then weighs as much as a long one")
        if same(sum(bits) / sum(len(text) for text, _, _ in documents)) and not same(right):
            mistake(f"{where} you divided by characters; the unit is the byte")
        if same(sum(sum(tokens) for _, tokens, _ in documents) / sum(sizes)) and not same(right):
            mistake(f"{where} the end tokens are missing; a model must also say where a text ends")
        expect(same(right), f"{where} it is {right:.4f}; yours {got:.4f}")


def wrong_mean_of_means(documents):
    scores = [(sum(tokens) + end) / len(text.encode("utf-8")) for text, tokens, end in documents]
    return sum(scores) / len(scores)


def wrong_characters(documents):
    return sum(sum(tokens) + end for _, tokens, end in documents) / sum(len(text) for text, _, _ in documents)


def wrong_no_end(documents):
    return sum(sum(tokens) for _, tokens, _ in documents) / sum(len(t.encode("utf-8")) for t, _, _ in documents)


def wrong_end_has_bytes(documents):
    bits = sum(sum(tokens) + end for _, tokens, end in documents)
    return bits / sum(len(text.encode("utf-8")) + 1 for text, _, _ in documents)


planted = {
    wrong_mean_of_means: "mean of means",
    wrong_characters: "the unit is the byte",
    wrong_no_end: "end tokens are missing",
    wrong_end_has_bytes: "; yours",
}
