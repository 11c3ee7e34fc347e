# Generated from nbs/23_rope.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import torch
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, isfinite, log, pi
from torch import Tensor, nn
from typing import Any, TypeAlias
from minillm.attention import TileRule
from minillm.rope import ALiBi, LinearScaling, Llama3Scaling, NTKScaling, RoPE, RopeScaling, YaRNScaling, explore_rope, half_to_interleaved, interleaved_to_half, rope_frequencies

# %% exercise 23-a {"title": "By hand", "answer": "def rotate_list(x: list[float], position: int, base: float) -> list[float]: ...", "returns": true}
from math import cos, dist, sin

from minillm.exercises import expect, mistake

hints = [
    "With H numbers, pair i is x[i] and x[i + H // 2]; its angle is position * base ** (-2 * i / H).",
    "New first member: x[i] cos − x[i + H // 2] sin. New second member: x[i] sin + x[i + H // 2] cos.",
    "Return all first members, then all second members.",
]


def rotated(x, position, base, power=2, sign=1, neighbours=False, clock=1.0):
    half, out = len(x) // 2, [0.0] * len(x)
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if neighbours else (i, i + half)
        angle = sign * clock * position * base ** (-power * i / len(x))
        out[a], out[b] = x[a] * cos(angle) - x[b] * sin(angle), x[a] * sin(angle) + x[b] * cos(angle)
    return out


def checks(rotate_list):
    cases = ((4, 1, 100.0), (2, 3, 10_000.0), (6, 2, 10_000.0), (8, 1000, 500_000.0), (8, 0, 10.0))
    for width, position, base in cases:
        x = [1.0 + (7 * i) % 5 for i in range(width)]
        got = [float(number) for number in rotate_list(list(x), position, base)]
        where = f"for {width} numbers at position {position} with base {base:g}"
        expect(len(got) == width, f"{where} the result should have {width} numbers, yours has {len(got)}")
        right = rotated(x, position, base)
        if not dist(got, right) < 1e-3:  # nan, too, is not
            say_why(got, x, position, base, where)
            worst = max(range(width), key=lambda j: abs(got[j] - right[j]))
            mistake(f"{where} number {worst} is {right[worst]:.4f}, yours is {got[worst]:.4f}")


def say_why(got, x, position, base, where):
    if dist(got, rotated(x, position, base, neighbours=True)) < 1e-3:
        mistake("you turned neighbours, the interleaved pairing; half-split pairs are x[i] and x[i + H // 2]")
    if dist(got, rotated(x, position, base, sign=-1)) < 1e-3:
        mistake(f"{where} you turned backwards: the new first member is x cos − y sin, with a minus")
    if dist(got, rotated(x, position, base, power=1)) < 1e-3:
        mistake("your speeds fall half as fast as they should: the exponent is −2i/H, with a 2")
    if dist(got, rotated(x, position, base, power=4)) < 1e-3:
        mistake("your speeds fall twice as fast as they should: in −2i/H, H counts numbers and not pairs")


def wrong_neighbours(x, position, base):
    return rotated(x, position, base, neighbours=True)


def wrong_backwards(x, position, base):
    return rotated(x, position, base, sign=-1)


def wrong_exponent(x, position, base):
    return rotated(x, position, base, power=1)


def wrong_pairs_for_width(x, position, base):
    return rotated(x, position, base, power=4)


def wrong_degrees(x, position, base):
    return rotated(x, position, base, clock=3.141592653589793 / 180)


def wrong_nan(x, position, base):
    return [float("nan")] * len(x)


planted = {
    wrong_neighbours: "interleaved pairing",
    wrong_backwards: "backwards",
    wrong_exponent: "half as fast",
    wrong_pairs_for_width: "twice as fast",
    wrong_degrees: "yours is",
    wrong_nan: "yours is nan",
}

# %% exercise 23-b {"title": "Which base?", "answer": "def smallest_base(head_width: int, context: int) -> float: ...", "returns": true}
from math import isclose, pi

from minillm.exercises import expect, mistake

hints = [
    "The slowest pair is i = H/2 − 1, so its speed is base ** (−(H − 2) / H).",
    "Half a turn is pi radians: context · base ** (−(H − 2) / H) = pi. Solve for the base.",
]


def checks(smallest_base):
    for width, context in ((64, 2048), (128, 8192), (8, 100), (128, 131_072)):
        got, exponent = smallest_base(width, context), width / (width - 2)
        where = f"for head_width={width} and context={context}"
        if isclose(got, (context / (2 * pi)) ** exponent, rel_tol=1e-6):
            mistake(f"{where} your slowest pair makes a whole turn; half a turn is pi radians")
        if isclose(got, context / pi, rel_tol=1e-6):
            mistake(
                f"{where} you took the slowest speed as 1/base; the last pair, i = H/2 − 1, is a little faster"
            )
        if isclose(got, context**exponent, rel_tol=1e-6):
            mistake(f"{where} your slowest pair turns by one radian; half a turn is pi of them")
        right = (context / pi) ** exponent
        expect(isclose(got, right, rel_tol=1e-6), f"{where} the base is {right:.6g}, yours is {got:.6g}")


def wrong_whole_turn(head_width, context):
    return (context / (2 * pi)) ** (head_width / (head_width - 2))


def wrong_last_pair(head_width, context):
    return context / pi


def wrong_one_radian(head_width, context):
    return context ** (head_width / (head_width - 2))


def wrong_second_to_last(head_width, context):
    return (context / pi) ** (head_width / (head_width - 4))


planted = {
    wrong_whole_turn: "a whole turn",
    wrong_last_pair: "1/base",
    wrong_one_radian: "one radian",
    wrong_second_to_last: "the base is",
}

# %% exercise 23-c {"title": "Weights from elsewhere", "answer": "def convert(weight: Tensor, n_heads: int) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake
from minillm.rope import RoPE, half_to_interleaved, interleaved_to_half

hints = [
    "Cut the rows into heads first: weight.unflatten(0, (n_heads, -1)) is (N,H,D).",
    "Reorder the axis of width H with interleaved_to_half(H), then put the heads back one below the other.",
]


def checks(convert):
    generator = torch.Generator().manual_seed(0)
    for n_heads, width, D in ((1, 8, 5), (3, 6, 7), (2, 10, 4), (2, 4, 3)):
        w_q, w_k = torch.randn(2, n_heads * width, D, generator=generator, dtype=torch.float64)
        got_q, got_k = convert(w_q.clone(), n_heads), convert(w_k.clone(), n_heads)
        shape = f"the matrix should keep its shape ({n_heads * width}, {D})"
        expect(getattr(got_q, "shape", None) == w_q.shape, shape)
        got_q, got_k = got_q.to(w_q.dtype), got_k.to(w_k.dtype)
        if torch.equal(got_q, w_q):
            mistake("the matrix came back as it was; its rows have to be reordered")
        if width > 4 and torch.equal(got_q, by_head(w_q, n_heads, half_to_interleaved(width))):
            mistake("you reordered the wrong way: from half-split to interleaved; use interleaved_to_half")
        if n_heads > 1 and torch.equal(got_q, w_q[interleaved_to_half(len(w_q))]):
            mistake("you reordered all rows as one head; each head's H rows are a group of their own")
        x = torch.randn(1, 4, D, generator=generator, dtype=torch.float64)
        places = torch.tensor([0, 5, 90, 91])
        right, yours = (
            scores(RoPE(width, pairing=pairing), x @ q.T, x @ k.T, n_heads, places)
            for pairing, q, k in (("interleaved", w_q, w_k), ("half", got_q, got_k))
        )
        expect(torch.allclose(right, yours), f"with {n_heads} heads the scores at late positions changed")
        same = torch.allclose(got_q, by_head(w_q, n_heads, interleaved_to_half(width)))
        expect(same, "the scores stay, but the rows are others than those of the file, reordered")


def by_head(weight, n_heads, order):
    return weight.unflatten(0, (n_heads, -1))[:, order].flatten(0, 1)


def scores(rope, q, k, n_heads, places):
    q, k = (rope(x.unflatten(-1, (n_heads, -1)).transpose(1, 2), places) for x in (q, k))
    return q @ k.mT


def wrong_direction(weight, n_heads):
    return by_head(weight, n_heads, half_to_interleaved(len(weight) // n_heads))


def wrong_one_head(weight, n_heads):
    return weight[interleaved_to_half(len(weight))]


def wrong_nothing(weight, n_heads):
    return weight


def wrong_sign(weight, n_heads):
    return -by_head(weight, n_heads, interleaved_to_half(len(weight) // n_heads))


def wrong_dealt(weight, n_heads):
    heads = weight.unflatten(0, (-1, n_heads)).transpose(0, 1)
    return heads[:, interleaved_to_half(heads.shape[1])].flatten(0, 1)


planted = {
    wrong_direction: "wrong way",
    wrong_one_head: "as one head",
    wrong_nothing: "as it was",
    wrong_dealt: "scores at late positions",
    wrong_sign: "rows are others",
}

# %% exercise 23-d {"title": "Moving a cache", "answer": "def move_up(rope: RoPE, turned: Tensor, dropped: int) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake
from minillm.rope import RoPE, YaRNScaling

hints = [
    "Turns add up: a key turned for position 7 and then for position −3 is a key turned for position 4.",
    "All keys move by the same amount, so each of the S positions that you give to `rope` is −dropped.",
    "YaRN's factor is `rope.scaling.magnitude`. The keys have it already; divide by the second one.",
]


def checks(move_up):
    generator = torch.Generator().manual_seed(0)
    yarn = RoPE(8, scaling=YaRNScaling(4.0, 2048))
    other = RoPE(16, pairing="interleaved", base=100.0)
    for rope, dropped in ((RoPE(8), 3), (other, 40), (RoPE(8), 0), (yarn, 3), (yarn, 0)):
        keys = torch.randn(1, 2, 5, rope.head_width, generator=generator, dtype=torch.float64)
        places = torch.arange(5) + dropped
        turned = rope(keys, places)
        got = move_up(rope, turned.clone(), dropped)
        shape = f"the result should keep the shape {tuple(keys.shape)}"
        expect(getattr(got, "shape", None) == keys.shape, shape)
        got = got.to(keys.dtype)
        if rope is yarn and same(got, rope(keys, places - dropped) * yarn.scaling.magnitude):
            mistake("the keys come out too long: YaRN's factor was on them, and turning put it on once more")
        if dropped and same(got, rope(turned, torch.full((5,), dropped))):
            mistake("you turned the keys further on; to come to smaller positions they must be turned back")
        if dropped and same(got, rope(turned, places - dropped)):
            mistake("you turned for the new positions on top of the old turn; only the difference is missing")
        if dropped and same(got, rope(turned, -places)):
            mistake("you turned every key back to position 0; all of them move by the same amount")
        anew = f"with dropped={dropped} the keys are not those turned anew"
        expect(same(got, rope(keys, places - dropped)), anew)


def same(got, other):
    return torch.allclose(got, other, atol=1e-4)


def wrong_forward(rope, turned, dropped):
    return rope(turned, torch.full((turned.shape[-2],), dropped))


def wrong_on_top(rope, turned, dropped):
    return rope(turned, torch.arange(turned.shape[-2]))


def wrong_to_zero(rope, turned, dropped):
    return rope(turned, -(torch.arange(turned.shape[-2]) + dropped))


def wrong_twice_as_sharp(rope, turned, dropped):
    return rope(turned, torch.full((turned.shape[-2],), -dropped))


def wrong_one_more(rope, turned, dropped):
    return rope(turned, torch.full((turned.shape[-2],), -dropped - 1))


planted = {
    wrong_forward: "further on",
    wrong_on_top: "on top of the old turn",
    wrong_to_zero: "back to position 0",
    wrong_one_more: "turned anew",
    wrong_twice_as_sharp: "too long",
}

# %% exercise 23-e {"title": "Mend it", "answer": "def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake
from minillm.rope import RoPE, rope_frequencies

hints = [
    "The last line pairs number i with number i + H/2. Which angles does repeat_interleave give to these two?",
    "Both members of a pair need the same angle: torch.cat([angles, angles], dim=-1).",
]


def checks(rotate):
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([0, 1, 7, 60])
    for width, base in ((8, 10_000.0), (4, 100.0)):
        x = torch.randn(2, 4, width, generator=generator)
        got = rotate(x.clone(), places.clone(), base)
        expect(getattr(got, "shape", None) == x.shape, f"the result should keep the shape {tuple(x.shape)}")
        got = got.to(x.dtype)
        if not torch.allclose(got.norm(dim=-1), x.norm(dim=-1), rtol=1e-4):
            mistake(
                "it changes the length of vectors, so it is no rotation: both members of a pair need one angle"
            )
        if torch.allclose(got, RoPE(width, base=base, pairing="interleaved")(x, places), atol=1e-4):
            mistake(
                "it is a rotation, but of neighbours; the last line pairs i with i + H/2: keep these pairs"
            )
        if torch.allclose(got, RoPE(width, base=base)(x, -places), atol=1e-4):
            mistake("it turns backwards: for the halves a and b, the first becomes a cos − b sin")
        right = RoPE(width, base=base)(x, places)
        expect(
            torch.allclose(got, right, atol=1e-4),
            f"for H={width}, base {base:g} it differs from the definition",
        )


def wrong_as_it_was(x, positions, base):
    angles = (positions[:, None] * rope_frequencies(x.shape[-1], base)).repeat_interleave(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat([-b, a], dim=-1) * angles.sin()


def wrong_neighbours(x, positions, base):
    return RoPE(x.shape[-1], base=base, pairing="interleaved")(x, positions)


def wrong_backwards(x, positions, base):
    return RoPE(x.shape[-1], base=base)(x, -positions)


def wrong_base(x, positions, base):
    return RoPE(x.shape[-1])(x, positions)


planted = {
    wrong_as_it_was: "no rotation",
    wrong_neighbours: "of neighbours",
    wrong_backwards: "backwards",
    wrong_base: "differs from the definition",
}
