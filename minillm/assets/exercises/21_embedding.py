# Generated from nbs/21_embedding.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import math
import torch
import torch.nn.functional as F
from collections.abc import Sequence
from torch import Tensor, nn
from typing import Any
from minillm.embedding import Embedding, LearnedPositions, RelativeBias, SinusoidalPositions, explore_embedding, relative_bucket, sinusoidal_positions

# %% exercise 21-a {"title": "The gradient, by hand", "answer": "def table_gradient(ids: Tensor, upstream: Tensor, vocab_size: int) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "A row that was read twice gets the sum of two gradients.",
    "`index_add` adds rows to rows, also where an index repeats; `x[ids] += …` does not.",
]


def checks(table_gradient):
    generator = torch.Generator().manual_seed(0)
    for ids in ([3, 0, 3], [1], [2, 2, 2, 2], [0, 1, 2, 3, 4], []):
        i = torch.tensor(ids, dtype=torch.long)
        upstream = torch.randn(len(ids), 2, generator=generator)
        table = torch.zeros(5, 2, requires_grad=True)
        table[i].backward(upstream)
        got, due = table_gradient(i, upstream, 5), table.grad
        expect(getattr(got, "shape", None) == (5, 2), "the gradient has the shape of the table, (V,D)")
        last = torch.zeros(5, 2)
        for k, row in zip(ids, upstream):
            last[k] = row
        if len(set(ids)) < len(ids) and torch.allclose(got, last):
            mistake("an id that was read twice kept only its last gradient; gradients of one number add up")
        times = torch.bincount(i, minlength=5)[:, None].clamp(min=1)
        if len(set(ids)) < len(ids) and torch.allclose(got, due / times):
            mistake("an id that was read twice got the mean of its gradients; the chain rule adds them")
        expect(torch.allclose(got, due, atol=1e-6), f"for ids {ids} autograd says {due.tolist()}")


def wrong_last(ids, upstream, vocab_size):
    gradient = upstream.new_zeros(vocab_size, upstream.shape[-1])
    for i, row in zip(ids.tolist(), upstream):
        gradient[i] = row
    return gradient


def wrong_mean(ids, upstream, vocab_size):
    gradient = upstream.new_zeros(vocab_size, upstream.shape[-1]).index_add(0, ids, upstream)
    return gradient / torch.bincount(ids, minlength=vocab_size)[:, None].clamp(min=1)


planted = {wrong_last: "kept only its last", wrong_mean: "the chain rule adds them"}

# %% exercise 21-b {"title": "Move without knowing where", "answer": "def shifted(vector: Tensor, k: int) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "Each pair (sin, cos) is the tip of a hand. Turn hand i by k·ω_i, whatever its angle is.",
    "sin(a+b) = sin a cos b + cos a sin b, and cos(a+b) = cos a cos b − sin a sin b.",
]


def _hands(t, width):
    angles = t * 10_000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten()


def checks(shifted):
    for width in (2, 8, 32):
        for place, k in ((0, 1), (5, 3), (40, 0), (100, -60), (12, 500), (3.5, 2), (70.25, -7)):
            here, due, back = (_hands(t, width) for t in (place, place + k, place - k))
            got = shifted(here.clone(), k)
            expect(getattr(got, "shape", None) == (width,), f"the result has shape (D,) = ({width},)")
            if k and torch.allclose(got, back, atol=1e-3) and not torch.allclose(back, due, atol=1e-3):
                mistake("you moved in the other direction: positive k goes to later places")
            same_speed = torch.tensor(float(k)) + torch.atan2(here[0::2], here[1::2])
            if width > 2 and k and torch.allclose(got[0::2], same_speed.sin(), atol=1e-3):
                mistake("all hands turned by the same angle; hand i turns by k · 10000^(−2i/D)")
            wanted = f"width {width}, from place {place} by {k}: not the vector of place {place + k}"
            expect(torch.allclose(got, due, atol=1e-3), wanted)


def _turn(vector, turn):
    sine, cosine = vector[0::2], vector[1::2]
    pairs = [sine * turn.cos() + cosine * turn.sin(), cosine * turn.cos() - sine * turn.sin()]
    return torch.stack(pairs, -1).flatten()


def wrong_direction(vector, k):
    width = len(vector)
    return _turn(vector, -k * 10_000.0 ** (-torch.arange(0, width, 2) / width))


def wrong_same_speed(vector, k):
    return _turn(vector, torch.full((len(vector) // 2,), float(k)))


planted = {wrong_direction: "the other direction", wrong_same_speed: "the same angle"}

# %% exercise 21-c {"title": "Tied or equal?", "answer": "def is_tied(table: nn.Module, head: nn.Module) -> bool: ...", "returns": true}
import torch
from torch import nn

from minillm.embedding import Embedding
from minillm.exercises import expect, mistake

hints = [
    "Python can tell whether two names mean one object.",
    "A second `nn.Parameter` over the same memory is counted, saved and updated twice by an optimiser: not tied.",
]


def checks(is_tied):
    def pair():
        return Embedding(5, 3), nn.Linear(3, 5, bias=False)

    table, head = pair()
    head.weight = table.weight
    expect(is_tied(table, head) is True, "head.weight = table.weight is a tied pair; is_tied should return True")
    table, head = pair()
    expect(is_tied(table, head) is False, "two tables of different numbers are not tied")
    head.weight.data.copy_(table.weight.data)
    before = table.weight.detach().clone()
    if is_tied(table, head):
        mistake("you compare numbers: a copy is equal today, and after one step it is not")
    expect(torch.equal(before, table.weight), "is_tied should not change the weights that it looks at")
    head.weight = nn.Parameter(table.weight.data)
    if is_tied(table, head):
        mistake("the memory is shared, but these are two parameters: an optimiser would update it twice")


def wrong_equal(table, head):
    return torch.equal(table.weight, head.weight)


def wrong_memory(table, head):
    return table.weight.data_ptr() == head.weight.data_ptr()


planted = {wrong_equal: "you compare numbers", wrong_memory: "two parameters"}

# %% exercise 21-d {"title": "What is in a bucket?", "answer": "def bucket_range(bucket: int, buckets: int, max_distance: int) -> tuple[int | None, int | None]: ...", "returns": false}
import torch

from minillm.embedding import relative_bucket
from minillm.exercises import expect, mistake

hints = [
    "The first half of the buckets holds one distance each.",
    "Beyond max_distance there is only the last bucket: so it is enough to try the distances up to there.",
]


def checks(bucket_range):
    for buckets, farthest in ((32, 128), (8, 20), (4, 64), (16, 9)):
        inside = relative_bucket(-torch.arange(4 * farthest), buckets, farthest).tolist()
        for bucket in range(buckets):
            places = [back for back, b in enumerate(inside) if b == bucket]
            due = (places[0], None if bucket == buckets - 1 else places[-1]) if places else (None, None)
            got = tuple(bucket_range(bucket, buckets, farthest))
            where = f"bucket {bucket} of {buckets}, max_distance {farthest}"
            if bucket == buckets - 1 and places and got[0] == due[0] and got[1] is not None:
                mistake("the last bucket has no end: every distance beyond max_distance is in it")
            if places and due[1] is not None and got == (due[0], due[1] + 1):
                mistake(f"{where}: your last distance is already in the next bucket")
            expect(got == due, f"{where}: expected {due}, got {got}")


def _inside(bucket, buckets, max_distance):
    found = relative_bucket(-torch.arange(max_distance + 1), buckets, max_distance) == bucket
    return found.nonzero().flatten().tolist()


def wrong_end(bucket, buckets, max_distance):
    found = _inside(bucket, buckets, max_distance)
    return (found[0], found[-1]) if found else (None, None)


def wrong_past(bucket, buckets, max_distance):
    found = _inside(bucket, buckets, max_distance)
    return (found[0], None if bucket == buckets - 1 else found[-1] + 1) if found else (None, None)


planted = {wrong_end: "has no end", wrong_past: "already in the next bucket"}

# %% exercise 21-e {"title": "Stretch a table", "answer": "def stretch(weight: Tensor, context: int) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "New row t lies at place t·(T−1)/(context−1) of the old table.",
    "Between two rows: (1−part)·lower + part·upper. Mind the last row, which has no upper neighbour.",
]


def checks(stretch):
    line = torch.arange(8.0)[:, None] * torch.tensor([1.0, -2.0])  # row t is (t, −2t)
    got = stretch(line.clone(), 16)
    expect(getattr(got, "shape", None) == (16, 2), "a table of 8 rows stretched to 16 has shape (16,D)")
    if torch.allclose(got, line.repeat(2, 1)):
        mistake("the table was repeated: place 8 would be place 0 again. Stretch it instead")
    if torch.allclose(got, line.repeat_interleave(2, 0)):
        mistake("each row came twice, so places 0 and 1 cannot be told apart; go in straight lines between rows")
    due = torch.linspace(0, 7, 16)[:, None] * torch.tensor([1.0, -2.0])
    ends = torch.allclose(got[0], line[0]) and torch.allclose(got[-1], line[-1], atol=1e-5)
    expect(ends, "the first and last row should stay what they are")
    expect(torch.allclose(got, due, atol=1e-5), "between the rows (t, −2t) a straight line has new row k at 7k/15")
    bent = torch.tensor([[0.0], [10.0], [0.0]])
    five = torch.tensor([[0.0], [5.0], [10.0], [5.0], [0.0]])
    expect(torch.allclose(stretch(bent, 5), five), "rows 0, 10, 0 stretched to five are 0, 5, 10, 5, 0")
    two = stretch(bent, 2)
    expect(torch.allclose(two, torch.zeros(2, 1)), "rows 0, 10, 0 shrunk to two are the first and the last")
    expect(torch.allclose(stretch(bent, 3), bent), "a table of the same length stays as it is")


def wrong_repeat(weight, context):
    return weight.repeat(-(-context // len(weight)), 1)[:context]


def wrong_twice(weight, context):
    return weight[torch.arange(context) * len(weight) // context]


planted = {wrong_repeat: "repeated", wrong_twice: "each row came twice"}
