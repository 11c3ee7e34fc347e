"""Attention: equal to torch over random shapes, masks, biases and types, forward and gradient; masks against their definition written
as loops; empty rows; errors; and mutants, each caught by a visible test of the chapter and named by an exercise.
"""

import itertools
import json
from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from chapters import NBS, ROOT, Chapter, chapter_function
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chapters import assert_noticed
from torch import Tensor

from minillm.attention import (
    Attend,
    LayerCache,
    attention_scores,
    attention_weights,
    causal_mask,
    document_mask,
    explore_attention,
    flash_attention,
    mask_rule,
    merge_heads,
    padding_mask,
    scaled_dot_product_attention,
    split_heads,
)
from minillm.exercises import find_exercise, judge
from minillm.storyworld import answer_question

BOTH: list[Attend] = [scaled_dot_product_attention, flash_attention]
both = pytest.mark.parametrize("attend", BOTH, ids=["plain", "flash"])


def inputs(
    seed: int, T: int, S: int, lead: tuple[int, ...] = (2, 3), H: int = 4, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    "q, k, v that want gradients, and a generator-made mask and bias are left to the caller."
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*lead, n, H, generator=generator).to(dtype).requires_grad_() for n in (T, S, S)]


def with_gradients(function: Callable[..., Tensor], *given: Tensor) -> tuple[Tensor, ...]:
    "The result, and the gradient in each input of a fixed mixture of it."
    fresh = [x.detach().clone().requires_grad_() for x in given]
    out = function(*fresh)
    weigh = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    return out.detach(), *torch.autograd.grad((out * weigh).sum(), fresh)


# ---- equal to torch


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
@both
def test_equal_to_torch(attend: Attend, data: st.DataObject) -> None:
    "Random lead axes, T, S, H, masks and biases that broadcast in every way, scale and tile: result and all gradients."
    number = lambda low, high: data.draw(st.integers(low, high))
    lead = tuple(data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=2)))
    T, S, H = number(1, 9), number(1, 9), number(1, 5)
    q, k, v = inputs(number(0, 999), T, S, lead, H)
    generator = torch.Generator().manual_seed(number(0, 999))
    full = (*lead, T, S)
    shrunk = lambda: tuple(1 if data.draw(st.booleans()) else n for n in full)[number(0, 2) :]
    mask = torch.rand(shrunk(), generator=generator) < 0.6 if data.draw(st.booleans()) else None
    bias = torch.randn(shrunk(), generator=generator, dtype=torch.float64)
    scale = data.draw(st.sampled_from([None, 1.0, 0.3]))
    options = {"tile": number(1, 10)} if attend is flash_attention else {}

    def theirs(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        added = bias if mask is None else bias.expand(full).masked_fill(~mask.expand(full), -torch.inf)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=added.expand(full), scale=scale)

    def ours(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return attend(q, k, v, mask=mask, bias=bias, scale=scale, **options)

    torch.testing.assert_close(
        with_gradients(ours, q, k, v, bias), with_gradients(theirs, q, k, v, bias), rtol=1e-9, atol=1e-9
    )


TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 0.05, torch.float16: 0.008}


@both
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_number_formats(attend: Attend, dtype: torch.dtype) -> None:
    "Half precision against the exact result in float64, forward and gradient; the result keeps the type."
    q, k, v = inputs(1, 40, 50, H=32, dtype=dtype)
    mask = causal_mask(torch.arange(10, 50), torch.arange(50))
    ours = with_gradients(lambda *x: attend(*x, mask=mask), q, k, v)
    exact = with_gradients(
        lambda *x: F.scaled_dot_product_attention(*x, attn_mask=mask), *(x.double() for x in (q, k, v))
    )
    assert {x.dtype for x in ours} == {dtype}
    for got, right in zip(ours, exact):
        torch.testing.assert_close(got.double(), right, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@both
def test_half_precision_sums_in_float32(attend: Attend) -> None:
    "4096 equal keys: in bfloat16 a running sum of weights would stop growing at 256."
    q, k = torch.zeros(1, 2, dtype=torch.bfloat16), torch.zeros(4096, 2, dtype=torch.bfloat16)
    v = torch.ones(4096, 2, dtype=torch.bfloat16)
    torch.testing.assert_close(attend(q, k, v).float(), torch.ones(1, 2), rtol=0.01, atol=0)


@both
def test_scale_comes_before_the_product_in_half_precision(attend: Attend) -> None:
    "Numbers of 45 in 64 places: the bare product, 129600, is more than float16 holds."
    q, k = (torch.full((2, 64), 45.0, dtype=torch.float16) for _ in range(2))
    assert attend(q, k, k).isfinite().all()


@both
def test_scores_are_computed_in_float32(attend: Attend) -> None:
    "Scores of 180,000 and values whose sums pass 65,504 are too much for float16, not for the result: as near as torch's."
    generator = torch.Generator().manual_seed(0)
    q, k = (300 * torch.randn(2, 5, 4, generator=generator).half() for _ in range(2))
    v = 1000 * torch.rand(2, 5, 4, generator=generator).half()
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(attend(q, k, v).double(), exact, rtol=1e-3, atol=0)
    zero = torch.zeros(2, 300, 4, dtype=torch.float16)  # equal weights of 300 values of 1000
    torch.testing.assert_close(attend(zero, zero, zero + 1000), zero + 1000)


@both
def test_16_bits_are_as_near_as_torch(attend: Attend) -> None:
    "Only the result is rounded: half a unit of the last place, 2^-11 in float16, and 2^-8 in bfloat16 for gradients."
    for dtype, unit in ((torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)):
        q, k, v = inputs(1, 40, 50, H=32, dtype=dtype)
        (got, *_), (right, *_) = (with_gradients(attend, *given) for given in ((q, k, v), (q.double(), k.double(), v.double())))
        assert (got.double() - right).norm() < unit * right.norm()


@both
def test_autocast(attend: Attend) -> None:
    "Inside torch.autocast: the type of torch's own function, gradients of the inputs' type and as near as bfloat16 allows."
    q, k, v = inputs(18, 64, 64, H=16, dtype=torch.float32)
    mask = causal_mask(torch.arange(64))
    right = with_gradients(lambda *x: attend(*x, mask=mask), q.double(), k.double(), v.double())
    with torch.autocast("cpu", torch.bfloat16):
        torchs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        ours = with_gradients(lambda *x: attend(*x, mask=mask), q, k, v)  # backward inside, too
        weights = attention_weights(q, k, mask=mask)
        assert attend(q.double(), k.double(), v.double()).dtype == torch.float64
        with pytest.raises(ValueError, match="expected floating point"):
            attend(q.long(), k, v)
    assert ours[0].dtype == torchs.dtype == torch.bfloat16 and weights.dtype == torch.float32
    for got, exact in zip(ours, right):
        assert (got.double() - exact).norm() < 0.01 * exact.norm()
    for got in with_gradients(attend, *(x.detach().to(torch.bfloat16) for x in (q, k, v))):
        assert got.dtype == torch.bfloat16


def test_backward_does_not_mind_autocast() -> None:
    "Forward outside, backward inside: the scores are the same ones, to the last digit."
    q, k, v = inputs(19, 20, 20, dtype=torch.float32)
    outside = torch.autograd.grad(flash_attention(q, k, v).square().sum(), (q, k, v))
    out = flash_attention(q, k, v).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(out, (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(outside, inside))


@both
def test_on_a_device_without_autocast(attend: Attend) -> None:
    q, k, v = (torch.zeros(2, 3, 4, 5, device="meta") for _ in range(3))
    assert attend(q, k, v).shape == (2, 3, 4, 5)


@both
def test_empty_slots_must_be_finite(attend: Attend) -> None:
    "What fills a slot at −1 does not matter as long as it is a number; nan comes through, as caches are told."
    q, k, v = (x.detach() for x in inputs(20, 1, 3))
    mask = causal_mask(torch.tensor([1]), torch.tensor([0, 1, -1]))
    alone = attend(q, k[..., :2, :], v[..., :2, :])
    for fill, same in ((0.0, True), (1e30, True), (torch.nan, False)):
        v[..., 2, :] = fill
        assert torch.allclose(attend(q, k, v, mask=mask), alone) == same
    assert "finite" in LayerCache.update.__doc__


@both
def test_scores_far_apart(attend: Attend) -> None:
    q, k, v = torch.tensor([[100.0]]), torch.tensor([[100.0], [-100.0], [99.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    torch.testing.assert_close(attend(q, k, v), torch.tensor([[1.0]]))


def test_gradients_by_differences() -> None:
    "gradcheck knows nothing of our derivation; every way a bias can broadcast, and tiles that do not divide the lengths."
    q, k, v = inputs(2, 3, 4, (2, 2), 2)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 1, 3, 4, generator=generator) < 0.6
    mask[0, 0, 2] = False
    for shape, tile in zip([(4,), (3, 1), (2, 1, 1), (2, 2, 3, 4), (1, 2, 3, 4), ()], itertools.cycle((2, 3, 100))):
        bias = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        run = lambda *x, tile=tile: flash_attention(*x[:3], mask=mask, bias=x[3], tile=tile)
        assert torch.autograd.gradcheck(run, (q, k, v, bias), fast_mode=False)


@both
def test_values_of_another_width(attend: Attend) -> None:
    q, k, _ = inputs(3, 4, 6)
    v = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    ours = with_gradients(lambda *x: attend(*x), q, k, v)
    torch.testing.assert_close(ours, with_gradients(lambda *x: torch.softmax(x[0] @ x[1].mT / 2, -1) @ x[2], q, k, v))


@both
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 2)])
def test_any_axes_in_front(attend: Attend, lead: tuple[int, ...]) -> None:
    q, k, v = inputs(4, 3, 5, lead)
    torch.testing.assert_close(attend(q, k, v), torch.softmax(q @ k.mT / 2, -1) @ v)


@both
def test_no_keys_and_no_queries(attend: Attend) -> None:
    q, k, v = inputs(5, 3, 0)
    out = attend(q, k, v)
    assert out.shape == (2, 3, 3, 4) and out.abs().sum() == 0
    assert torch.autograd.grad(out.sum(), q)[0].abs().sum() == 0
    q, k, v = inputs(5, 0, 3)
    assert attend(q, k, v).shape == (2, 3, 0, 4)


def test_layouts_in_memory() -> None:
    "Heads are views that are not contiguous; the tiled gradient must not mind."
    x = torch.randn(2, 6, 12, dtype=torch.float64)
    heads = split_heads(x, 3)
    assert not heads.is_contiguous()
    ours = with_gradients(lambda x: merge_heads(flash_attention(*[split_heads(x, 3)] * 3, tile=4)), x)
    torch.testing.assert_close(
        ours, with_gradients(lambda x: merge_heads(scaled_dot_product_attention(*[split_heads(x, 3)] * 3)), x)
    )


@both
def test_only_some_want_gradients(attend: Attend) -> None:
    q, k, v = (x.detach() for x in inputs(6, 3, 4))
    attend(q, k.requires_grad_(), v).sum().backward()
    assert k.grad is not None and q.grad is None and v.grad is None


def test_second_derivative_is_refused() -> None:
    q, k, v = inputs(7, 3, 4)
    (first,) = torch.autograd.grad(flash_attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# ---- rows with nothing to attend


@both
@pytest.mark.parametrize("how", ["mask", "bias", "both"])
def test_an_empty_row_gives_0_and_gradient_0(attend: Attend, how: str) -> None:
    q, k, v = inputs(8, 6, 7)
    mask = torch.ones(6, 7, dtype=torch.bool)
    mask[2] = False
    bias = torch.zeros(6, 7, dtype=torch.float64)
    bias[4] = -torch.inf
    options = {"mask": mask if how != "bias" else None, "bias": bias if how != "mask" else None}
    empty = {"mask": [2], "bias": [4], "both": [2, 4]}[how]
    out, *grads = with_gradients(lambda *x: attend(*x, **options), q, k, v)
    assert all(x.isfinite().all() for x in (out, *grads))
    assert out[..., empty, :].abs().max() == 0 and grads[0][..., empty, :].abs().max() == 0
    rest = [t for t in range(6) if t not in empty]
    other = with_gradients(lambda q, k, v: attend(q[..., rest, :], k, v), q, k, v)
    torch.testing.assert_close(out[..., rest, :], other[0])


@both
def test_all_rows_empty(attend: Attend) -> None:
    q, k, v = inputs(9, 3, 4)
    out, *grads = with_gradients(lambda *x: attend(*x, mask=torch.tensor(False)), q, k, v)
    assert all(x.abs().max() == 0 for x in (out, *grads))


# ---- masks, against the definition as loops


def allowed_pair(p: int, kp: int, d: int, kd: int, window: int | None, causal: bool) -> bool:
    "May a query at position p of document d see a key at kp of kd?"
    if p < 0 or kp < 0 or d < 0 or kd < 0 or d != kd:
        return False
    return not causal or (kp <= p and (window is None or p - kp < window))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_masks_by_loops(data: st.DataObject) -> None:
    T, S, B = (data.draw(st.integers(1, 7)) for _ in range(3))
    row = lambda n, low, high: [data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n)) for _ in range(B)]
    p, kp, d, kd = row(T, -1, 6), row(S, -1, 6), row(T, -1, 2), row(S, -1, 2)
    causal = data.draw(st.booleans())
    window = data.draw(st.none() | st.integers(1, 4)) if causal else None
    tensors = [torch.tensor(x) for x in (p, kp, d, kd)]
    got = mask_rule(*tensors, window=window, causal=causal)(slice(0, T), slice(0, S))
    expected = [
        [[allowed_pair(p[b][t], kp[b][s], d[b][t], kd[b][s], window, causal) for s in range(S)] for t in range(T)]
        for b in range(B)
    ]
    assert got.shape == (B, 1, T, S) and got[:, 0].tolist() == expected
    dense = causal_mask(tensors[0], tensors[1], window=window) if causal else padding_mask(*tensors[:2])
    assert torch.equal(got, dense & document_mask(*tensors[2:]))
    t, s = slice(T // 2, T), slice(S // 3, S)
    assert torch.equal(mask_rule(*tensors, window=window, causal=causal)(t, s), got[..., t, s])


@both
def test_packed_texts_equal_texts_alone(attend: Attend) -> None:
    "Three texts in one row, and padding: each gets what it would get alone."
    lengths, padding = (3, 5, 1), 2
    T = sum(lengths) + padding
    positions = torch.cat([*(torch.arange(n) for n in lengths), torch.full((padding,), -1)])
    documents = torch.cat([*(torch.full((n,), i) for i, n in enumerate(lengths)), torch.full((padding,), -1)])
    q, k, v = inputs(10, T, T)
    out = attend(q, k, v, mask=mask_rule(positions, documents=documents))
    start = 0
    for n in lengths:
        t = slice(start, start + n)
        alone = F.scaled_dot_product_attention(q[..., t, :], k[..., t, :], v[..., t, :], is_causal=True)
        torch.testing.assert_close(out[..., t, :], alone)
        start += n
    assert out[..., start:, :].abs().max() == 0


@both
def test_a_ring_of_keys(attend: Attend) -> None:
    "Keys may lie in any order, with empty slots between, as in a cache that overwrites: positions decide."
    q, k, v = inputs(11, 2, 8)
    order = torch.tensor([5, 6, -1, 2, 3, 4, -1, 1])
    got = attend(q, k, v, mask=mask_rule(torch.tensor([5, 6]), order, window=4))
    for i, seen in enumerate([[3, 4, 5, 0], [4, 5, 0, 1]]):  # slots of positions 2-5 and 3-6
        alone = F.scaled_dot_product_attention(q[..., i : i + 1, :], k[..., seen, :], v[..., seen, :])
        torch.testing.assert_close(got[..., i : i + 1, :], alone)


# ---- rules: masks and biases built tile by tile


@settings(max_examples=40, deadline=None, derandomize=True)
@given(T=st.integers(1, 12), tile=st.integers(1, 13), window=st.none() | st.integers(1, 5), seed=st.integers(0, 99))
def test_rules_equal_tensors(T: int, tile: int, window: int | None, seed: int) -> None:
    q, k, v = inputs(seed, T, T)
    places = torch.stack([torch.arange(T), torch.arange(T) - T // 2])  # the second text is padded on the left
    places = places.clamp(min=-1)
    rule = mask_rule(places, window=window)
    distance = lambda t, s: -(places[:, None, t, None] - places[:, None, None, s]).abs().double()
    dense = {"mask": rule(slice(0, T), slice(0, T)), "bias": distance(slice(0, T), slice(0, T))}
    right = with_gradients(lambda *x: scaled_dot_product_attention(*x, **dense), q, k, v)
    for attend in (scaled_dot_product_attention, lambda *x, **o: flash_attention(*x, **o, tile=tile)):
        ours = with_gradients(lambda *x, attend=attend: attend(*x, mask=rule, bias=distance), q, k, v)
        torch.testing.assert_close(ours, right, rtol=1e-9, atol=1e-9)


def test_a_rule_is_asked_for_tiles_only() -> None:
    "flash_attention never asks for more than tile × tile, and asks twice: forward and backward."
    asked = []

    def rule(t: slice, s: slice) -> Tensor:
        asked.append((t, s))
        return causal_mask(torch.arange(t.start, t.stop), torch.arange(s.start, s.stop))

    q, k, v = inputs(12, 10, 10)
    flash_attention(q, k, v, mask=rule, tile=4).sum().backward()
    assert all(t.stop - t.start <= 4 and s.stop - s.start <= 4 for t, s in asked)
    assert len(asked) == 1 + 2 * 9  # one look at the last tile for its form


@pytest.mark.parametrize("known", [2, 3, 5])
@both
def test_a_rule_that_knows_too_little(attend: Attend, known: int) -> None:
    "Positions for fewer rows than come: an error at any size of tile, not numbers."
    q, k, v = inputs(12, 6, 6)
    options = {"tile": 2} if attend is flash_attention else {}
    for rule in (mask_rule(torch.arange(known), torch.arange(6)), mask_rule(torch.arange(6), torch.arange(known))):
        with pytest.raises(ValueError, match=rf"positions has shape \({known},\), but the mask goes to"):
            attend(q, k, v, mask=rule, **options)


@pytest.mark.parametrize("name", ["mask", "bias"])
def test_every_tile_of_a_rule_is_checked(name: str) -> None:
    "A rule of one's own whose last tile is right and whose first is not: (2,2) asked, (1,1,2,1) and (3,2) come."
    q, k, v = inputs(12, 6, 6)
    right = torch.ones(2, 2, dtype=torch.bool if name == "mask" else torch.float64)
    for wrong in (right.new_ones(3, 2), right.new_ones(2, 3), right.new_ones(4, 1, 2, 2), right.double().long()):
        rule = lambda t, s, wrong=wrong: wrong if t.start == 0 and s.start == 2 else right
        with pytest.raises(ValueError, match=rf"{name} (of rows 0 to 2 and columns 2 to 4 has shape|is torch.int64)"):
            flash_attention(q, k, v, **{name: rule}, tile=2)


def test_a_learned_bias_as_a_rule() -> None:
    "The plain function sends it gradients; the tiled one cannot, and says so."
    q, k, v = inputs(13, 4, 4)
    table = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    places = torch.arange(4)
    rule = lambda t, s, table=table: table[places[t, None] - places[None, s] + 3]
    right = with_gradients(
        lambda table: scaled_dot_product_attention(q, k, v, bias=lambda t, s: rule(t, s, table)).square(), table
    )
    with pytest.raises(ValueError, match="pass a tensor"):
        flash_attention(q, k, v, bias=rule)
    frozen = flash_attention(q, k, v, bias=lambda t, s: rule(t, s).detach())
    torch.testing.assert_close(frozen, scaled_dot_product_attention(q, k, v))
    whole = slice(0, 4)
    learned = with_gradients(
        lambda table: flash_attention(q, k, v, bias=rule(whole, whole, table), tile=3).square(), table
    )
    torch.testing.assert_close(learned, right)
    assert learned[1].abs().sum() > 0


# ---- memory


def test_flash_never_holds_the_scores() -> None:
    "No result of any operation, forward or backward, has as many numbers as half of the scores, mask and bias included."
    meter = chapter_function("22_attention", "LiveBytes")()
    T = 1024
    q, k, v = inputs(14, T, T, (1, 1), 8, torch.float32)
    places = torch.arange(T)
    slope = lambda t, s: (places[None, s] - places[t, None]).float() / T
    with meter:
        flash_attention(q, k, v, mask=mask_rule(places), bias=slope, tile=64).sum().backward()
    assert meter.peak < T * T  # bytes: a quarter of the scores
    plain = chapter_function("22_attention", "LiveBytes")()
    with plain:
        scaled_dot_product_attention(q, k, v, mask=mask_rule(places), bias=slope).sum().backward()
    assert plain.peak > 8 * T * T  # the meter sees them where they are


# ---- errors

GOOD = dict.fromkeys(("q", "k", "v"), torch.zeros(2, 3, 4, 5))
WRONG = {
    "heads": ({"k": torch.zeros(2, 1, 4, 5)}, r"q is \(2, 3, 4, 5\), k is \(2, 1, 4, 5\).*repeat_interleave"),
    "batch": ({"v": torch.zeros(1, 3, 4, 5)}, "v is .* must be equal"),
    "width": ({"k": torch.zeros(2, 3, 4, 6)}, "q has width H=5, k has 6"),
    "length": ({"v": torch.zeros(2, 3, 3, 5)}, "k holds S=4 keys, v holds 3 values"),
    "axes": ({"q": torch.zeros(5)}, r"q is torch.float32 \(5,\); expected floating point numbers"),
    "whole numbers": ({"q": torch.zeros(2, 3, 4, 5, dtype=torch.int64)}, "q is torch.int64"),
    "types": ({"k": torch.zeros(2, 3, 4, 5).double()}, r"k is torch.float64 on cpu; try k.to\(q\)"),
    "devices": ({"k": torch.zeros(2, 3, 4, 5, device="meta")}, r"k is torch.float32 on meta; try k.to\(q\)"),
    "mask of numbers": ({"mask": torch.zeros(4, 4)}, "a mask is boolean, True = may attend"),
    "mask of integers": ({"mask": torch.ones(4, 4, dtype=torch.int64)}, "a mask is boolean"),
    "mask's shape": ({"mask": torch.ones(4, 3, dtype=torch.bool)}, r"mask has shape \(4, 3\), the scores \(2, 3, 4, 4\)"),
    "mask's axes": ({"mask": torch.ones(1, 2, 3, 4, 4, dtype=torch.bool)}, "mask has shape"),
    "mask of batch": ({"mask": torch.ones(2, 4, 4, dtype=torch.bool)}, r"mask has shape \(2, 4, 4\)"),
    "mask's device": ({"mask": torch.ones(4, 4, dtype=torch.bool, device="meta")}, "mask is on meta, q on cpu"),
    "bias of booleans": ({"bias": torch.ones(4, 4, dtype=torch.bool)}, "Booleans go to mask="),
    "bias's shape": ({"bias": torch.zeros(5, 4)}, "bias has shape"),
    "bias larger than the scores": ({"bias": torch.zeros(3, 3, 4, 4)}, "bias has shape"),
    "rule of numbers": ({"mask": lambda t, s: torch.zeros(4, 4)}, "a mask is boolean"),
    "rule's shape": (
        {"mask": lambda t, s: torch.ones(3, 4, dtype=torch.bool)},
        r"mask of rows 0 to 4 and columns 0 to 4 has shape \(3, 4\), the scores \(2, 3, 4, 4\)",
    ),
    "width of 0": (dict.fromkeys(("q", "k"), torch.zeros(2, 3, 4, 0)), "H=0.*at least one number"),
}


@both
@pytest.mark.parametrize("case", WRONG)
def test_errors(attend: Attend, case: str) -> None:
    wrong, says = WRONG[case]
    given = {**GOOD, **wrong}
    with pytest.raises(ValueError, match=f"(?s){says}"):
        attend(given.pop("q"), given.pop("k"), given.pop("v"), **given)


def test_errors_of_the_rest() -> None:
    with pytest.raises(ValueError, match="tile=0"):
        flash_attention(**GOOD, tile=0)
    with pytest.raises(ValueError, match="window=0"):
        causal_mask(torch.arange(3), window=0)
    with pytest.raises(ValueError, match="try causal=True"):
        mask_rule(torch.arange(3), window=2, causal=False)
    with pytest.raises(ValueError, match="without documents"):
        mask_rule(torch.arange(3), key_documents=torch.arange(3))
    with pytest.raises(ValueError, match="need key_documents too"):
        mask_rule(torch.arange(3), torch.arange(5), torch.arange(3))
    with pytest.raises(ValueError, match="the mask goes to 4"):  # positions for 3 tokens, 4 come
        flash_attention(**GOOD, mask=mask_rule(torch.arange(3)), tile=2)
    with pytest.raises(ValueError, match="H=0"):
        attention_scores(torch.zeros(2, 0), torch.zeros(2, 0))
    with pytest.raises(ValueError, match="without documents"):  # what a cache might hand over
        mask_rule(torch.tensor([1]), torch.tensor([0, 0]), None, torch.tensor([0, 1]))
    for wrong in (torch.zeros(3), torch.ones(3, dtype=torch.bool), torch.tensor(3), torch.zeros(1, 2, 3).long()):
        for mask in (causal_mask, padding_mask, document_mask):
            with pytest.raises(ValueError, match="whole numbers"):
                mask(wrong)
    for heads in (0, 4, 7):
        with pytest.raises(ValueError, match=r"try n_heads in \[1, 2, 3, 6\]"):
            split_heads(torch.zeros(1, 2, 6), heads)
    with pytest.raises(ValueError, match=r"expected \(B,T,D\)"):
        split_heads(torch.zeros(2, 6), 2)


# ---- heads, weights, explorer


@settings(max_examples=30, deadline=None, derandomize=True)
@given(B=st.integers(1, 3), T=st.integers(1, 4), N=st.integers(1, 4), H=st.integers(1, 4))
def test_heads(B: int, T: int, N: int, H: int) -> None:
    x = torch.randn(B, T, N * H)
    heads = split_heads(x, N)
    assert all(torch.equal(heads[:, n], x[..., n * H : (n + 1) * H]) for n in range(N))
    assert torch.equal(merge_heads(heads), x)


def test_equal_to_torchs_multihead_attention() -> None:
    "The whole path, split, attend, merge, against nn.MultiheadAttention, whose mask has the other polarity."
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(12, 3, bias=False, batch_first=True).double()
    x, mask = torch.randn(2, 5, 12, dtype=torch.float64), causal_mask(torch.arange(5))
    q, k, v = (split_heads(x @ w.T, 3) for w in layer.in_proj_weight.chunk(3))
    out = merge_heads(scaled_dot_product_attention(q, k, v, mask=mask)) @ layer.out_proj.weight.T
    theirs, weights = layer(x, x, x, attn_mask=~mask, average_attn_weights=False)
    torch.testing.assert_close(out, theirs)
    torch.testing.assert_close(attention_weights(q, k, mask=mask), weights)


def test_scores_are_what_softmax_gets() -> None:
    q, k, _ = inputs(15, 3, 4)
    mask, bias = torch.tensor([True, False, True, True]), torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(
        torch.softmax(attention_scores(q, k, mask=mask, bias=bias, scale=0.7), -1),
        attention_weights(q, k, mask=mask, bias=bias, scale=0.7),
    )


def test_explorer_takes_one_head_or_many() -> None:
    q, k, _ = inputs(16, 3, 3)
    tokens = ["<script>", "&", "b"]
    for one in (explore_attention(q[0], k[0], tokens), explore_attention(q[0, 0], k[0, 0], tokens)):
        page = one._repr_html_()
        assert "<iframe" in page and "<script>&" not in page
    for wrong in ((q[0], k[0], tokens[:2]), (q, k, tokens), (q[0], k[0, 0], tokens), (q[0, :, :0], k[0, :, :0], [])):
        with pytest.raises(ValueError, match="take one text"):
            explore_attention(*wrong)


def test_the_stored_example_is_of_the_record() -> None:
    from safetensors import safe_open

    path = ROOT / "minillm" / "assets" / "attention_example.safetensors"
    assert path.stat().st_size < 200_000
    with safe_open(str(path), "pt") as stored:
        example = json.loads(stored.metadata()["example"])
        shapes = {name: tuple(stored.get_tensor(name).shape) for name in "qkv"}
    record = json.loads((ROOT / "results" / "attention_copy.json").read_text(encoding="utf-8"))
    assert example["curves"] == [of_seed["curve"] for of_seed in record["seeds"].values()]
    assert shapes == dict.fromkeys("qkv", (2, 4, 24, 16)) and len(example["letters"]) == 24
    assert example["guesses"][9:23] == example["letters"][10:]  # it copies
    assert record["lowest"]["accuracy"] > 0.99 and min(record["lowest"]["right"][1]) > 0.8


def test_the_stored_story_is_of_the_shipped_model() -> None:
    from safetensors import safe_open

    assets = ROOT / "minillm" / "assets"
    path, folder = assets / "storyteller_attention.safetensors", assets / "storyteller"
    assert path.stat().st_size <= 300_000
    with safe_open(str(path), "pt") as stored:
        story = json.loads(stored.metadata()["example"])
        q, k = (stored.get_tensor(name).float() for name in "qk")
    again = "it is of other weights; run tools/build_attention_story.py"
    assert story["model"] == sha256((folder / "model.safetensors").read_bytes()).hexdigest(), again
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = (config["n_layers"], config["n_heads"], len(story["tokens"]), config["head_width"])
    assert q.shape == k.shape == shape and shape[2] <= 64
    assert answer_question(story["story"], story["question"]) == story["answer"]
    asked = f"<|endoftext|>{story['story']}\nQ: {story['question']} A: in the"
    assert "".join(story["tokens"]) == asked
    assert {story["tokens"][i] for i in story["answer_at"]} == {" " + story["answer"].split()[-1]}
    weights = attention_weights(q, k, mask=causal_mask(torch.arange(shape[2])))[:, :, -1]
    share = weights[story["layer"], story["head"], story["answer_at"]].sum().item()
    assert share == pytest.approx(story["share"], rel=1e-4) and share > story["enough"] == 0.2
    assert np.shape(story["right"]) == np.shape(story["still_right"]) == shape[:2]
    assert 0 < story["n_enough"] <= story["n_measured"] == 50 >= np.max(story["still_right"])


# ---- mutants: what the chapter's visible tests must catch

MUTANTS = {
    "scale missing": ("return H**-0.5 if scale is None else scale", "return 1.0 if scale is None else scale"),
    "mask after softmax": (
        "    with _no_autocast(q):\n        out = weights @",
        "    late = 1 if allowed is None else allowed\n"
        "    weights = torch.softmax(attention_scores(q, k, bias=added, scale=scale), dim=-1) * late\n"
        "    with _no_autocast(q):\n        out = weights @",
    ),
    "wrong softmax axis": ("scores.masked_fill(empty, 0.0), dim=-1)", "scores.masked_fill(empty, 0.0), dim=-2)"),
    "mask polarity": ("scores.masked_fill(~mask, -torch.inf)", "scores.masked_fill(mask, -torch.inf)"),
    "causal sees the next": ("(key <= query) & (key >= 0)", "(key <= query + 1) & (key >= 0)"),
    "causal not itself": ("(key <= query) & (key >= 0)", "(key < query) & (key >= 0)"),
    "padding is seen": ("allowed = (key <= query) & (key >= 0)", "allowed = key <= query"),
    "window off by one": ("(query - key < window)", "(query - key <= window)"),
    "documents mixed": ("(query == key) & (key >= 0)", "(query >= key) & (key >= 0)"),
    "empty row is nan": ("scores.masked_fill(empty, 0.0), dim=-1)", "scores, dim=-1)"),
    "empty row is the average": ("return out.masked_fill(empty, 0.0).to(v.dtype)", "return out.to(v.dtype)"),
    "empty row has weights": ("return weights.masked_fill(empty, 0.0)", "return weights"),
    "product in 16 bits": (") @ k.to(wide).mT", ").to(q.dtype) @ k.mT"),
    "bias dropped": ("scores = scores + bias.to(wide)", "scores = scores + 0 * bias"),
    "heads mixed": ("x.unflatten(-1, (n_heads, -1)).transpose(-3, -2)", "x.reshape(len(x), n_heads, x.shape[1], -1)"),
    "no rescaling in flash": ("total = total * shrink + ", "total = total + "),
    "no repair of the mixture": ("mixed = mixed * shrink + ", "mixed = mixed + "),
    "g·o forgotten": (".to(wide).mT - along[..., t, :])", ".to(wide).mT)"),
    "scale missing in the gradient": ("+= scale * dscores.mT @ asked", "+= dscores.mT @ asked"),
    "empty row in flash": (".masked_fill(empty, torch.inf)", ""),
    "tiles skipped": ("if allowed is None or allowed.any():", "if allowed is None or allowed.all():"),
    "key documents ignored": ("texts = documents if key_documents is None else key_documents", "texts = documents"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_chapter_catches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(monkeypatch, "22_attention", MUTANTS[name])


FIVE = {
    "wrong_no_scale": "scale is missing",
    "wrong_late_mask": "mask comes after the softmax",
    "wrong_axis": "softmax runs along the wrong axis",
    "wrong_polarity": "polarity",
    "wrong_sees_next": "off by one",
}


@pytest.mark.parametrize("name", FIVE)
def test_the_exercise_names(name: str) -> None:
    "Each of the five bugs, planted in an answer to exercise 22-a, is named by its check."
    cell = next(c for c in Chapter.load(NBS / "22_attention.ipynb").cells if c.id == "checks-22-a")
    scope: dict = {}
    exec(compile(cell.code, "checks-22-a", "exec"), scope)
    verdict = judge(find_exercise("22-a"), scope[name])
    assert not verdict.passed and FIVE[name] in verdict.message
