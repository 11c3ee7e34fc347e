# Generated from nbs/14_batches.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import bisect
import contextlib
import hashlib
import json
import numpy as np
import os
import queue
import shutil
import sys
import threading
import torch
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from torch import Tensor
from typing import Any, Literal, Self, TypeAlias
from minillm.corpus import Field, QualityReport, TextTally, _try_lock, corpus_version, iter_documents, split_of, split_tail
from minillm.tokenizer import END_OF_TEXT, Tokenizer, Vocabulary, parse_json, read_utf8, tokenizer_json, write_whole
from minillm.batches import Batch, BatchStream, IGNORED, Long, Piece, Prefetch, Prepared, Source, Span, StoreHeader, StoredTokens, Strategy, TokenStore, bucketed_batches, build_batch, cut_pieces, explore_batch, pack_best_fit, pack_sequential, packed_batches, prefetch, prepare, random_batches, shuffled, tokenizer_hash, window_batch

# %% exercise 14-a {"title": "A row by hand", "answer": "def packed_row(texts: list[list[int]], end: int, context: int) -> tuple[list[int], ...]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "A text of n ids takes n + 1 slots: x is end, t1, …, tn and y is t1, …, tn, end.",
    "Go through the texts with enumerate, and make the four lists longer each time.",
    "The rest is context − len(x) slots of padding.",
]


def row(texts, end, context, again=True):
    x, y, documents, positions = [], [], [], []
    for number, ids in enumerate(texts):
        x += [end, *ids]
        y += [*ids, end]
        documents += [number] * (len(ids) + 1)
        first = 0 if again else len(positions)
        positions += range(first, first + len(ids) + 1)
    rest = context - len(x)
    return x + [0] * rest, y + [-100] * rest, documents + [-1] * rest, positions + [-1] * rest


def checks(packed_row):
    for texts, end, context in (([[5, 6], [7]], 9, 8), ([[1, 2, 3], [4, 5], [6]], 0, 9), ([[8, 8]], 3, 3)):
        got = tuple(map(list, packed_row(texts, end, context)))
        where = f"for texts {texts}, end={end}, context={context}"
        expect(len(got) == 4, f"four lists are asked for, {len(got)} came")
        expect(all(len(part) == context for part in got), f"{where} each list has {context} numbers")
        right = row(texts, end, context)
        x, y, documents, positions = got
        if x[: len(texts[0])] == texts[0] and x[0] != end:
            mistake(
                f"{where} the row begins with the first id; each text begins with the end token, which predicts it"
            )
        if positions == [t if d >= 0 else -1 for t, d in enumerate(documents)] and len(texts) > 1:
            mistake(f"{where} positions run on; they start again at 0 with each text")
        if y[:-1] == x[1:] and y != right[1]:
            mistake(
                f"{where} y is x moved by one everywhere, padding too; where no token follows, it is -100"
            )
        if [t for t in y if t != -100].count(end) < len(texts) and end not in sum(texts, []):
            mistake(f"{where} a text's last target is missing: after its last id comes the end token")
        for name, mine, wanted in zip(("x", "y", "documents", "positions"), got, right):
            expect(mine == wanted, f"{where} {name} is {wanted}, yours is {mine}")


def wrong_no_start(texts, end, context):
    x, y, documents, positions = row(texts, end, context)
    moved = [[*ids, end] for ids in texts]
    x = sum(moved, []) + x[sum(map(len, moved)) :]
    return x, x[1:] + [-100], documents, positions


def wrong_running(texts, end, context):
    return row(texts, end, context, again=False)


def wrong_cross(texts, end, context):
    x, _, documents, positions = row(texts, end, context)
    return x, x[1:] + [-100], documents, positions


def wrong_no_end(texts, end, context):
    x, y, documents, positions = row(texts, end, context)
    return x, [-100 if token == end else token for token in y], documents, positions


planted = {
    wrong_no_start: "begins with the end token",
    wrong_running: "start again at 0",
    wrong_cross: "padding too",
    wrong_no_end: "last target is missing",
}

# %% exercise 14-b {"title": "First fit", "answer": "def pack_first_fit(lengths: list[int], context: int) -> list[list[int]]: ...", "returns": true}
import random

from minillm.exercises import expect, mistake

hints = [
    "Keep two lists: the rows, and how much room each has left.",
    "`next((r for r, left in enumerate(room) if left >= length), len(rows))` is the first with room, or a new.",
]
well_done = "Compare its padding with pack_best_fit's on the lengths of this chapter. Does sorting help it, too?"


def first_fit(lengths, context, strict=False, best=False, sort=False, last=False):
    rows, room = [], []
    order = sorted(range(len(lengths)), key=lambda k: -lengths[k]) if sort else range(len(lengths))
    for number in order:
        able = [
            r
            for r, left in enumerate(room)
            if (left > lengths[number] if strict else left >= lengths[number])
        ]
        able = able[-1:] if last and able and able[-1] == len(rows) - 1 else [] if last else able
        if able:
            row = min(able, key=lambda r: room[r]) if best else able[0]
        else:
            row = len(rows)
            rows.append([])
            room.append(context)
        rows[row].append(number)
        room[row] -= lengths[number]
    return rows


def checks(pack_first_fit):
    chance = random.Random(0)
    cases = [([4, 3, 3, 2], 6), ([3, 5, 1, 2, 1], 6), ([2, 4, 3, 1], 6), ([6, 6], 6)]
    cases += [([chance.randint(1, 20) for _ in range(50)], 32) for _ in range(5)]
    for lengths, context in cases:
        got = [list(row) for row in pack_first_fit(list(lengths), context)]
        where = f"for lengths {lengths}, context={context}"
        right = first_fit(lengths, context)
        if got == right:
            continue
        known = {
            "a row that is exactly filled was refused; room must be at least the length": {"strict": True},
            "the row with the least room was taken; first fit takes the first": {"best": True},
            "the texts were sorted; first fit takes them as they come": {"sort": True},
            "only the last row was looked at; an earlier one may have room": {"last": True},
        }
        for words, options in known.items():
            if got == first_fit(lengths, context, **options):
                mistake(f"{where} {words}")
        expect(
            sorted(sum(got, [])) == list(range(len(lengths))),
            f"{where} each text is in one row, once; yours: {got}",
        )
        expect(
            all(sum(lengths[k] for k in row) <= context for row in got), f"{where} a row is too full: {got}"
        )
        expect(False, f"{where} the rows are {right}, yours are {got}")


def wrong_strict(lengths, context):
    return first_fit(lengths, context, strict=True)


def wrong_best(lengths, context):
    return first_fit(lengths, context, best=True)


def wrong_sorted(lengths, context):
    return first_fit(lengths, context, sort=True)


def wrong_last(lengths, context):
    return first_fit(lengths, context, last=True)


planted = {
    wrong_strict: "exactly filled",
    wrong_best: "least room",
    wrong_sorted: "as they come",
    wrong_last: "only the last row",
}

# %% exercise 14-c {"title": "Undo the shuffle", "answer": "def undo_rounds(left: int, right: int, functions: list) -> tuple[int, int]: ...", "returns": true}
import random

from minillm.exercises import expect, mistake

hints = [
    "After a round, the new left is the old right. So you know the old right at once.",
    "The new right is old left ⊕ f(old right). And a ⊕ b ⊕ b is a.",
    "The last round is undone first.",
]


def checks(undo_rounds):
    chance = random.Random(0)
    for count in (1, 2, 5):
        tables = [[chance.randrange(16) for _ in range(16)] for _ in range(count)]
        functions = [table.__getitem__ for table in tables]
        for left in range(16):
            for right in range(16):
                a, b = left, right
                for function in functions:
                    a, b = b, a ^ function(b)
                try:
                    got = tuple(undo_rounds(a, b, functions))
                except IndexError:
                    mistake("the function was given a number that is no half; it is asked for the new left")
                if got == (left, right):
                    continue
                where = f"after {count} rounds"
                if got == (right, left):
                    mistake(f"{where} left and right are swapped in your result")
                if count > 1 and got == forward_order(a, b, functions):
                    mistake(f"{where} you undid the first round first; the last one must be undone first")
                expect(False, f"{where} ({left}, {right}) went in, yours is {got}")


def forward_order(left, right, functions):
    for function in functions:
        left, right = right ^ function(left), left
    return left, right


def wrong_order(left, right, functions):
    return forward_order(left, right, functions)


def wrong_swapped(left, right, functions):
    for function in reversed(functions):
        left, right = right ^ function(left), left
    return right, left


def wrong_again(left, right, functions):
    for function in reversed(functions):
        left, right = right, left ^ function(right)
    return left, right


planted = {
    wrong_order: "undid the first round first",
    wrong_swapped: "are swapped",
    wrong_again: "went in, yours is",
}

# %% exercise 14-d {"title": "Mend it", "answer": "def total_loss(parts: list[tuple[Tensor, Tensor]]) -> Tensor: ...", "returns": true}
import torch
from torch import Tensor

from minillm.exercises import expect, mistake

hints = [
    "How many slots of (losses * weight) are padding? mean() divides by them, too.",
    "A part with two targets counts as much as one with two thousand when means are averaged.",
    "Add up the weighted losses of all parts, add up the weights of all parts, and divide once.",
]


def checks(total_loss):
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(6, 5, generator=generator) + 1
    some = torch.rand(6, 5, generator=generator) < torch.linspace(0.1, 0.9, 6)[:, None]
    weight = some * torch.tensor([1.0, 0.25, 0.5, 1.0, 0.125])
    if not isinstance(total_loss([(losses, weight)]), Tensor):
        mistake("the result is a number and has no gradient; make it of the losses, without float() or item()")
    check_cuts(total_loss, losses, weight)
    little = torch.zeros(6, 5)
    little[2, 1], little[4, 4] = 0.25, 0.125
    if torch.isclose(torch.as_tensor(total_loss([(losses, little)])), (losses * little).sum(), atol=1e-5):
        mistake("all weights together are 0.375, and you divided by 1; only 0 needs a guard")
    check_gradient(total_loss, losses, little, "when all weights together are 0.375")
    check_gradient(total_loss, losses, weight, "for random weights")
    check_gradient(total_loss, losses, torch.zeros(6, 5), "when nothing counts")


def check_cuts(total_loss, losses, weight):
    right = (losses * weight).sum() / weight.sum()
    for sizes in ((6,), (3, 3), (1, 5), (2, 2, 2)):
        parts = list(zip(losses.split(sizes), weight.split(sizes)))
        got = torch.as_tensor(total_loss(parts))
        if torch.isclose(got, right, atol=1e-5):
            continue
        where = f"for parts of {sizes} rows"
        known = {
            "padding is counted: the sum was divided by the number of slots, not of targets": wrong_slots,
            "each part counts alike, whatever it holds; divide once, by the weights of all parts": wrong_parts,
            "each row counts alike; the mean is over targets": wrong_rows,
            "a target of weight 0.25 counts as a whole one": wrong_whole,
            "weighted losses were divided by the number of targets; divide by the sum of weights": wrong_number,
        }
        for words, wrong in known.items():
            if torch.isclose(got, wrong(parts), atol=1e-5):
                mistake(f"{where} {words}")
        expect(False, f"{where} the loss is {right:.4f}, yours is {float(got):.4f}")


def check_gradient(total_loss, losses, weight, where):
    "The loss, and what `backward` says of it: each target's share of all weights."
    losses, total = losses.clone().requires_grad_(), weight.sum().clamp(min=1e-30)
    right = (losses * weight).sum().detach() / total
    got = total_loss([(losses[:2], weight[:2]), (losses[2:], weight[2:])])
    if not (isinstance(got, Tensor) and got.requires_grad):
        mistake(f"{where} the result has no gradient; make it of the losses alone")
    expect(torch.isclose(got, right, atol=1e-5), f"{where} the loss is {right:.4f}, yours is {got.item():.4f}")
    got.backward()
    words = f"{where} the gradient of each loss is its weight over the sum of all weights"
    expect(torch.allclose(losses.grad, weight / total, atol=1e-5), f"{words}; yours is {losses.grad.tolist()}")


def wrong_slots(parts):
    return sum((losses * weight).mean() for losses, weight in parts) / len(parts)


def wrong_parts(parts):
    return sum((losses * weight).sum() / weight.sum() for losses, weight in parts) / len(parts)


def wrong_rows(parts):
    rows = [((a * w).sum(-1) / w.sum(-1).clamp(min=1)) for a, w in parts]
    return torch.cat(rows).mean()


def wrong_whole(parts):
    return sum(a[w > 0].sum() for a, w in parts) / sum((w > 0).sum() for _, w in parts).clamp(min=1)


def wrong_number(parts):
    return sum((a * w).sum() for a, w in parts) / sum((w > 0).sum() for _, w in parts).clamp(min=1)


def wrong_guard(parts):
    return sum((a * w).sum() for a, w in parts) / sum(w.sum() for _, w in parts).clamp(min=1)


def wrong_float(parts):
    return float(sum((a * w).sum() for a, w in parts) / sum(w.sum() for _, w in parts).clamp(min=1e-30))


def wrong_nothing(parts):
    return (sum((a * w).sum() for a, w in parts) / sum(w.sum() for _, w in parts)).nan_to_num()


planted = {
    wrong_slots: "padding is counted",
    wrong_parts: "each part counts alike",
    wrong_rows: "each row counts alike",
    wrong_whole: "counts as a whole one",
    wrong_number: "divide by the sum of weights",
    wrong_guard: "you divided by 1",
    wrong_float: "has no gradient",
    wrong_nothing: "when nothing counts the gradient",
}
