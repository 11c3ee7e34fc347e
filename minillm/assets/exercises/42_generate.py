# Generated from nbs/42_generate.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import operator
import torch
from collections.abc import Collection, Sequence
from torch import Generator, Tensor, nn
from typing import Any, NamedTuple, Self, TypeGuard
from minillm.attention import Cache
from minillm.model import LanguageModel
from minillm.sampling import Sampler
from minillm.tokenizer import END_OF_TEXT, StreamDecoder, Tokenizer
from minillm.generate import Generated, IdStream, Reader, Row, StopStrings, TextStream, generate, left_pad, next_logits, prompt_ids, row_seeds, stream_ids, stream_text

# %% exercise 42-a {"title": "What re-reading costs", "answer": "def ids_read(n_prompt: int, n_new: int, context: int) -> int: ...", "returns": true}
import torch
from torch import nn

from minillm.exercises import expect, mistake

hints = [
    "To find the first new id the model reads the prompt, n_prompt ids. To find the second it reads one more.",
    "The last new id is written and never read.",
    "Of a text longer than the context it reads `context` ids: min(length, context).",
]


class Counts(nn.Module):
    "Wishes id 0, and counts what it is given."

    read = 0

    def forward(self, ids, *, positions=None, cache=None):
        self.read += ids.numel()
        return torch.zeros(*ids.shape, 2)


def counted(n_prompt, n_new, context):
    model = Counts()
    generate(model, [[1] * n_prompt], max_new_tokens=n_new, context=context, seed=0)
    return model.read


def checks(ids_read):
    for case in ((5, 1, 100), (5, 4, 100), (64, 30, 1000), (3, 10, 8), (9, 4, 6), (6, 3, 6), (7, 0, 10)):
        n_prompt, n_new, context = case
        got, right = ids_read(*case), counted(*case)
        where = f"for a prompt of {n_prompt}, {n_new} new ids and a context of {context}"
        if n_new and got == n_prompt + n_new - 1 != right:
            mistake(f"{where} you read each id once, as with a cache; without one the text is read at each step")
        if got == sum(min(n, context) for n in range(n_prompt + 1, n_prompt + n_new + 1)) != right:
            mistake(f"{where} you count the last new id: it is written, and nobody reads it")
        if got == sum(range(n_prompt, n_prompt + n_new)) != right:
            mistake(f"{where} the model sees at most {context} ids at once, and you let it read them all")
        expect(got == right, f"{where} the model reads {right} ids; yours {got}")


def wrong_once(n_prompt, n_new, context):
    return n_prompt + n_new - 1 if n_new else 0


def wrong_last_too(n_prompt, n_new, context):
    return sum(min(n, context) for n in range(n_prompt + 1, n_prompt + n_new + 1))


def wrong_no_context(n_prompt, n_new, context):
    return sum(range(n_prompt, n_prompt + n_new))


def wrong_prompt_each_time(n_prompt, n_new, context):
    return n_new * min(n_prompt, context)


planted = {
    wrong_once: "as with a cache",
    wrong_last_too: "nobody reads it",
    wrong_no_context: "at most 8 ids at once",
    wrong_prompt_each_time: "the model reads 26 ids",
}

# %% exercise 42-b {"title": "No place stays empty", "answer": "def steps_with_refill(lengths: list[int], slots: int) -> int: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Simulate it: a list of how many ids each place still has to write, and a queue of what waits.",
    "Shorter: remember for each place when it will be free. The next text takes the place that is free first.",
    "All is written when the last place is done: the largest of these times.",
]


def simulated(lengths, slots):
    "Step by step, as the statement says."
    waiting, left, steps = list(lengths), [], 0
    while waiting or left:
        while waiting and len(left) < slots:
            left.append(waiting.pop(0))
        left = [n - 1 for n in left if n > 1]
        steps += 1
    return steps


def checks(steps_with_refill):
    cases = ([9, 8, 1, 2, 7], 2), ([9, 1, 1, 1, 9, 1], 2), ([5, 5, 5, 5], 2), ([4, 3, 2], 5), ([7], 1)
    for lengths, slots in (*cases, ([3, 1, 4, 1, 5, 9, 2, 6], 3)):
        got, right = steps_with_refill(list(lengths), slots), simulated(lengths, slots)
        where = f"for lengths {lengths} and {slots} places"
        one_after_another = sum(max(lengths[k : k + slots]) for k in range(0, len(lengths), slots))
        if got == one_after_another != right:
            mistake(f"{where} you wait for the longest of each batch; a free place is taken in the next step")
        if got == max(-(-sum(lengths) // slots), max(lengths)) != right:
            mistake(f"{where} you divide the work evenly, but a text is written in one place, in the given order")
        if got == simulated(sorted(lengths, reverse=True), slots) != right:
            mistake(f"{where} you took the longest first; nobody knows lengths in advance")
        if got == max(sum(lengths[k::slots]) for k in range(slots)) != right:
            mistake(f"{where} you deal texts to places in turn; the next goes where a place is free first")
        expect(got == right, f"{where} it takes {right} steps; yours {got}")


def wrong_batches(lengths, slots):
    return sum(max(lengths[k : k + slots]) for k in range(0, len(lengths), slots))


def wrong_even(lengths, slots):
    return max(-(-sum(lengths) // slots), max(lengths))


def wrong_longest_first(lengths, slots):
    free_at = [0] * slots
    for length in sorted(lengths, reverse=True):
        free_at[free_at.index(min(free_at))] += length
    return max(free_at)


def wrong_in_turn(lengths, slots):
    return max(sum(lengths[k::slots]) for k in range(slots))


planted = {
    wrong_batches: "longest of each batch",
    wrong_even: "divide the work evenly",
    wrong_longest_first: "longest first",
    wrong_in_turn: "deal texts to places in turn",
}

# %% exercise 42-c {"title": "Not yet", "answer": "def not_before(length: int, end: int): ...", "returns": true}
import torch

from minillm.bigram import Bigram
from minillm.exercises import expect, mistake

hints = [
    "How many ids has a row? Not history.shape[1]: short rows are filled with −1 in front.",
    "(history >= 0).sum(-1) is the number of ids of each row, (B,).",
    "Copy the logits, and set those of `end` to −inf in the rows that are too short.",
]


def banned(processor, logits, history):
    "Which rows may not end, and whether anything else changed."
    given = logits.clone()
    found = processor(logits, history)
    expect(getattr(found, "shape", None) == given.shape, f"a processor returns logits, {tuple(given.shape)}")
    others = torch.ones(given.shape[1], dtype=torch.bool)
    others[2] = False
    if not torch.equal(logits, given):
        mistake("the logits that came were changed in place; others may need them: begin with logits.clone()")
    if not torch.equal(found[:, others], given[:, others]):
        mistake("other tokens than `end` have other logits now; only `end` is made impossible")
    stays = torch.where(found[:, 2].isneginf(), given[:, 2], found[:, 2])
    expect(torch.equal(stays, given[:, 2]), "the logit of `end` is −inf, or as it was")
    return found[:, 2].isneginf().tolist()


def checks(not_before):
    logits = torch.tensor([[0.5, 1.0, 2.0, -1.0]])
    for n, right in ((1, True), (2, True), (3, False), (4, False)):
        got = banned(not_before(3, 2), logits, torch.arange(n)[None] % 4)[0]
        if n == 3 and got:
            mistake("a row of 3 ids must not end before 3, and it has 3: now it may; it is `<`, not `<=`")
        expect(got == right, f"not_before(3, end): a row of {n} ids {'must not' if right else 'may'} end")
    history = torch.tensor([[-1, -1, -1, 1, 2], [3, 1, 2, 1, 1], [-1, 0, 0, 1, 1]])
    got = banned(not_before(4, 2), logits.repeat(3, 1), history)
    if got == [False] * 3:
        mistake("you count the −1 in front of short rows as ids; only what is 0 or more is one")
    if got == [True] * 3:
        mistake("a row that is too short forbids the end to all rows; look at each by itself")
    where = "rows of 2, 5 and 4 ids, not before 4"
    expect(got == [True, False, False], f"{where}: only the first must not end; yours {got}")
    model = Bigram(4)
    model.weight.data[:, 2] = 50.0  # wants to end at once
    sampler = Sampler(processors=[not_before(6, 2)])
    found = generate(model, [[0], [1, 1, 1]], max_new_tokens=20, sampler=sampler, stop_ids=[2], seed=0)
    sizes = [len(ids) for ids in found.ids]
    expect(sizes == [5, 3], f"prompts of 1 and 3 ids grow to 6 and end there: 5 and 3 new ids; yours {sizes}")


def wrong_counts_padding(length, end):
    def processor(logits, history):
        logits = logits.clone()
        if history.shape[1] < length:
            logits[:, end] = -torch.inf
        return logits

    return processor


def wrong_one_too_many(length, end):
    def processor(logits, history):
        logits = logits.clone()
        logits[(history >= 0).sum(-1) <= length, end] = -torch.inf
        return logits

    return processor


def wrong_all_rows(length, end):
    def processor(logits, history):
        logits = logits.clone()
        if ((history >= 0).sum(-1) < length).any():
            logits[:, end] = -torch.inf
        return logits

    return processor


def wrong_in_place(length, end):
    def processor(logits, history):
        logits[(history >= 0).sum(-1) < length, end] = -torch.inf
        return logits

    return processor


def wrong_whole_row(length, end):
    def processor(logits, history):
        logits = logits - 1
        logits[(history >= 0).sum(-1) < length, end] = -torch.inf
        return logits

    return processor


planted = {
    wrong_counts_padding: "only what is 0 or more",
    wrong_one_too_many: "not `<=`",
    wrong_all_rows: "look at each by itself",
    wrong_in_place: "changed in place",
    wrong_whole_row: "other tokens than",
}

# %% exercise 42-d {"title": "Mend it", "answer": "def hand_out(rows: list[list[int]], ended: list[bool], tokens: list[int]) -> list[list[int]]: ...", "returns": true}
from minillm.exercises import expect, mistake

may_change_input = True  # rows may grow in place
hints = [
    "Rows 0 and 2 go on, tokens are [8, 9]. Who gets 9 in the loop?",
    "zip stops with the shortest, and pairs by place. But a token belongs to the next row *that goes on*.",
    "Give the tokens an iterator of their own: left = iter(tokens), and next(left) for a row that goes on.",
]


def checks(hand_out):
    cases = [False, True, False], [True, False, False], [False, False, True], [True, True, False]
    for ended in (*cases, [False] * 3, [True] * 3):
        rows = [[0], [1, 1], [2]]
        tokens = [7, 8, 9][: ended.count(False)]
        left = iter(tokens)
        right = [row if done else [*row, next(left)] for row, done in zip(rows, ended)]
        got = hand_out([[*row] for row in rows], [*ended], [*tokens])
        where = f"for rows {rows}, ended={ended} and tokens {tokens}"
        paired = [[*row] for row in rows]
        for row, done, token in zip(paired, ended, tokens):
            if not done:
                row.append(token)
        if got == paired != right:
            mistake(f"{where} you get {got}: tokens are paired by place, and ended rows have none")
        if isinstance(got, list) and len(got) < 3:
            mistake(f"{where} {3 - len(got)} rows are gone; those that ended stay as they are")
        expect(got == right, f"{where} the rows are {right}; yours {got}")


def wrong_as_it_was(rows, ended, tokens):
    for row, done, token in zip(rows, ended, tokens):
        if not done:
            row.append(token)
    return rows


def wrong_drops_rows(rows, ended, tokens):
    going = [row for row, done in zip(rows, ended) if not done]
    return [[*row, token] for row, token in zip(going, tokens)]


def wrong_backwards(rows, ended, tokens):
    left = [*tokens]
    return [row if done else [*row, left.pop()] for row, done in zip(rows, ended)]


planted = {
    wrong_as_it_was: "paired by place",
    wrong_drops_rows: "rows are gone",
    wrong_backwards: "the rows are",
}
