# Generated from nbs/22_attention.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import torch
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing import Any, Protocol, TypeAlias, runtime_checkable
from minillm.attention import Attend, Cache, LayerCache, TileRule, attention_scores, attention_weights, causal_mask, document_mask, explore_attention, flash_attention, mask_rule, merge_heads, padding_mask, scaled_dot_product_attention, split_heads

# %% exercise 22-a {"title": "All of it", "answer": "def attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "Four steps: scores (T,T), the factor 1/√H, the mask, softmax along each row; then the weights times v.",
    "`torch.ones(T, T, dtype=torch.bool).tril()` is True where a query may attend: on and below the diagonal.",
    "`scores.masked_fill(~allowed, -torch.inf)` before `torch.softmax(scores, dim=-1)`.",
]


def variant(q, k, v, scale=True, late=False, dim=-1, flip=False, shift=0):
    scores = q @ k.T / (q.shape[1] ** 0.5 if scale else 1.0)
    allowed = torch.ones(len(q), len(q), dtype=torch.bool).tril(shift)
    allowed = ~allowed if flip else allowed
    if late:
        return (torch.softmax(scores, dim) * allowed) @ v
    return torch.softmax(scores.masked_fill(~allowed, -torch.inf), dim) @ v


def checks(attend_causal):
    for T, H in ((5, 4), (7, 9)):
        check_size(attend_causal, T, H)


def check_size(attend_causal, T, H):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(T, H, generator=generator) for _ in range(3))
    got = attend_causal(q.clone(), k.clone(), v.clone())
    shape = f"the result should be a tensor (T,H), like q: here ({T}, {H})"
    expect(isinstance(got, torch.Tensor) and got.shape == (T, H), shape)
    got = got.to(q.dtype)

    def same(**bug):
        return torch.allclose(got, variant(q, k, v, **bug), atol=1e-5, equal_nan=True)

    if same(scale=False):
        mistake(f"the scale is missing: multiply the scores by 1/√H, here 1/{H**0.5:.0f}, before the softmax")
    if same(late=True):
        mistake("the mask comes after the softmax: the rows no longer add up to 1; set scores to −inf before it")
    if same(dim=0):
        mistake("softmax runs along the wrong axis: each query's weights, a row, must add up to 1: dim=-1")
    if same(flip=True):
        mistake("the mask's polarity is wrong: you hid the past and the present and showed the future")
    if same(shift=1):
        mistake("causal, but off by one: each query also sees the token after it")
    if same(shift=-1):
        mistake("causal, but off by one: a query does not see itself, and the first row has nothing to attend")
    if torch.allclose(got, torch.softmax(q @ k.T / H**0.5, -1) @ v, atol=1e-5):
        mistake("there is no mask: every query sees the future")
    where = f"for T={T} and H={H} the numbers differ from softmax(mask(q kᵀ / √H)) v"
    expect(torch.allclose(got, variant(q, k, v), atol=1e-5), where)


def wrong_no_scale(q, k, v):
    return torch.softmax((q @ k.T).masked_fill(~torch.ones(len(q), len(q)).tril().bool(), -torch.inf), -1) @ v


def wrong_late_mask(q, k, v):
    return (torch.softmax(q @ k.T / q.shape[1] ** 0.5, -1) * torch.ones(len(q), len(q)).tril()) @ v


def wrong_axis(q, k, v):
    scores = (q @ k.T / q.shape[1] ** 0.5).masked_fill(~torch.ones(len(q), len(q)).tril().bool(), -torch.inf)
    return torch.softmax(scores, 0) @ v


def wrong_polarity(q, k, v):
    scores = (q @ k.T / q.shape[1] ** 0.5).masked_fill(torch.ones(len(q), len(q)).tril().bool(), -torch.inf)
    return torch.softmax(scores, -1) @ v


def wrong_sees_next(q, k, v):
    scores = (q @ k.T / q.shape[1] ** 0.5).masked_fill(~torch.ones(len(q), len(q)).tril(1).bool(), -torch.inf)
    return torch.softmax(scores, -1) @ v


def wrong_not_itself(q, k, v):
    scores = (q @ k.T / q.shape[1] ** 0.5).masked_fill(~torch.ones(len(q), len(q)).tril(-1).bool(), -torch.inf)
    return torch.softmax(scores, -1) @ v


def wrong_half_width(q, k, v):
    scores = (q @ k.T / (q.shape[1] / 2)).masked_fill(~torch.ones(len(q), len(q)).tril().bool(), -torch.inf)
    return torch.softmax(scores, -1) @ v


planted = {
    wrong_no_scale: "the scale is missing",
    wrong_late_mask: "after the softmax",
    wrong_axis: "wrong axis",
    wrong_polarity: "polarity",
    wrong_sees_next: "off by one",
    wrong_not_itself: "off by one",
    wrong_half_width: "for T=7 and H=9",
}

# %% exercise 22-b {"title": "What it costs", "answer": "def attention_cost(B: int, N: int, T: int, S: int, H: int) -> tuple[int, int]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "A matrix product of (T,H) and (H,S) makes T·S sums of H products.",
    "There are two products, the scores and the mixing, each of 2·T·S·H operations a head.",
]


def checks(attention_cost):
    for B, N, T, S, H in ((1, 1, 3, 5, 7), (2, 3, 1, 11, 4), (1, 32, 4096, 4096, 128)):
        operations, size = attention_cost(B, N, T, S, H)
        where = f"for B={B} N={N} T={T} S={S} H={H}"
        unit = B * N * T * S
        if operations == 2 * unit * H:
            mistake(
                f"{where} you have half of the operations: count product and sum, in both matrix products"
            )
        if size == 4 * N * T * S and B > 1:
            mistake(f"{where} you left out the batch: each text has scores of its own")
        if size == unit:
            mistake(f"{where} you counted scores, not bytes: a float32 has 4")
        if size == 4 * unit * H:
            mistake(f"{where} you have H times too many bytes: the sum over H leaves one number for each pair")
        expect(operations == 4 * unit * H, f"{where} there are {4 * unit * H} operations; yours are {operations}")
        expect(size == 4 * unit, f"{where} the scores take {4 * unit} bytes; yours {size}")


def wrong_one_product(B, N, T, S, H):
    return 2 * B * N * T * S * H, 4 * B * N * T * S


def wrong_counted_numbers(B, N, T, S, H):
    return 4 * B * N * T * S * H, B * N * T * S


def wrong_width_in_scores(B, N, T, S, H):
    return 4 * B * N * T * S * H, 4 * B * N * T * S * H


planted = {
    wrong_one_product: "half of the operations",
    wrong_counted_numbers: "not bytes",
    wrong_width_in_scores: "H times too many",
}

# %% exercise 22-c {"title": "The gradient of softmax", "answer": "def softmax_backward(weights: Tensor, grad: Tensor) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "Write p_i = e^{x_i} / Σ e^{x_k} and differentiate in x_j, once for j = i and once for j ≠ i.",
    "Both cases together: ∂p_i/∂x_j = p_i (δ_ij − p_j). Then multiply by g_i and sum over i.",
    "The sum over i leaves p_j (g_j − Σ_i p_i g_i). The last sum is one number for each row: keepdim=True.",
]


def checks(softmax_backward):
    generator = torch.Generator().manual_seed(0)
    for shape in ((4,), (3, 5), (2, 3, 4, 6)):
        scores = torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        weights, grad = torch.softmax(scores, -1), torch.randn(*shape, generator=generator, dtype=torch.float64)
        (right,) = torch.autograd.grad(weights, scores, grad)
        p = weights.detach()
        got = softmax_backward(p.clone(), grad.clone())
        expect(
            getattr(got, "shape", None) == shape, f"for weights of shape {shape} the result should have that shape"
        )
        if torch.allclose(got, p * (1 - p) * grad):
            mistake(
                "only the diagonal ∂p_i/∂x_i is there; a score also lowers all other weights: −p_i p_j for j ≠ i"
            )
        if torch.allclose(got, p * (grad - (p * grad).sum())) and len(shape) > 1:
            mistake("the sum runs over all rows together; each row is a softmax of its own: sum(-1, keepdim=True)")
        if torch.allclose(got, grad - (p * grad).sum(-1, keepdim=True)):
            mistake("the factor p_j in front is missing")
        expect(torch.allclose(got, right), f"for shape {shape} it differs from autograd's gradient")


def wrong_diagonal(weights, grad):
    return weights * (1 - weights) * grad


def wrong_whole_sum(weights, grad):
    return weights * (grad - (weights * grad).sum())


def wrong_no_factor(weights, grad):
    return grad - (weights * grad).sum(-1, keepdim=True)


planted = {wrong_diagonal: "only the diagonal", wrong_whole_sum: "each row", wrong_no_factor: "factor p_j"}

# %% exercise 22-d {"title": "Two halves", "answer": "def merge_attention(out_a: Tensor, log_sum_a: Tensor, out_b: Tensor, log_sum_b: Tensor) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "Each half divided by its own sum, e^{L}. Multiply that back in, add the halves, divide by the whole sum.",
    "The share of the first half is e^{L_a} / (e^{L_a} + e^{L_b}). Subtract the larger from both exponents.",
]


def checks(merge_attention):
    generator = torch.Generator().manual_seed(0)
    both_ways = ((0, 3000, 0, 3000), (3000, 0, 0, 3000))  # a row each
    for near in ((1, 1), (3000, 3000), (0, 3000), (3000, 0), (-3000, -3000), both_ways):
        check_halves(merge_attention, near, generator)


def check_halves(merge_attention, near, generator):
    level = [torch.tensor(x, dtype=torch.float64).expand(4)[:, None] for x in near]  # (T,1) for each half
    scores = 2 * torch.randn(4, 10, generator=generator, dtype=torch.float64)
    scores = scores + torch.cat([level[0].expand(4, 3), level[1].expand(4, 7)], -1)
    values = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    parts = []
    for half in (slice(0, 3), slice(3, 10)):
        parts += [torch.softmax(scores[:, half], -1) @ values[half], scores[:, half].logsumexp(-1, keepdim=True)]
    got, right = merge_attention(*(part.clone() for part in parts)), torch.softmax(scores, -1) @ values
    a, la, b, lb = parts
    expect(getattr(got, "shape", None) == (4, 3), "the result should be (T,H), like each half")
    if not got.isfinite().all():
        mistake(f"with log-sum-exps near {near} your exponentials overflow: subtract each row's larger one")
    if torch.allclose(got, (a + b) / 2):
        mistake("you took the mean of both halves; a half with larger scores weighs more")
    if torch.allclose(got, (la * a + lb * b) / (la + lb)):
        mistake("you weighted by the logarithm of the sums; the sums themselves are e^L")
    expect(torch.allclose(got, right), f"near {near} it differs from attention over all keys at once")


def wrong_mean(out_a, log_sum_a, out_b, log_sum_b):
    return (out_a + out_b) / 2


def wrong_logarithms(out_a, log_sum_a, out_b, log_sum_b):
    return (log_sum_a * out_a + log_sum_b * out_b) / (log_sum_a + log_sum_b)


def wrong_overflow(out_a, log_sum_a, out_b, log_sum_b):
    a, b = log_sum_a.exp(), log_sum_b.exp()
    return (a * out_a + b * out_b) / (a + b)


def wrong_one_sided(out_a, log_sum_a, out_b, log_sum_b):
    b = (log_sum_b - log_sum_a).exp()
    return (out_a + b * out_b) / (1 + b)


def wrong_one_maximum(out_a, log_sum_a, out_b, log_sum_b):
    high = torch.maximum(log_sum_a, log_sum_b).max()
    a, b = (log_sum_a - high).exp(), (log_sum_b - high).exp()
    return (a * out_a + b * out_b) / (a + b)


planted = {
    wrong_mean: "mean of both",
    wrong_logarithms: "logarithm",
    wrong_overflow: "overflow",
    wrong_one_sided: "overflow",
    wrong_one_maximum: "overflow",
}

# %% exercise 22-e {"title": "Mend it", "answer": "def cut_heads(x: Tensor, n_heads: int) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "A reshape deals out numbers in the order in which they lie: all of token 0, then all of token 1, and so on.",
    "Only the last axis may be cut: (B,T,D) → (B,T,N,H). Then move an axis.",
]


def checks(cut_heads):
    x = torch.arange(2 * 4 * 6.0).view(2, 4, 6)
    got = cut_heads(x.clone(), 3)
    expect(
        getattr(got, "shape", None) == (2, 3, 4, 2),
        "for (2,4,6) and 3 heads the result should be (B,N,T,H) = (2,3,4,2)",
    )
    changed = x.clone()
    changed[:, -1] += 100  # the last token
    if not torch.equal(cut_heads(changed, 3)[:, :, :-1], got[:, :, :-1]):
        mistake(
            "the last token changed and an earlier position noticed: your cut mixes tokens, so the future leaks"
        )
    if torch.equal(got, x.view(2, 4, 2, 3).permute(0, 3, 1, 2)):
        mistake("each head takes every third number; a head takes H neighbours: view(B, T, n_heads, H)")
    expect(torch.equal(got[:, 1], x[:, :, 2:4]), "head 1 should hold numbers H to 2H of each token")
    expect(torch.equal(got.transpose(1, 2).reshape(2, 4, 6), x), "the heads side by side should give x again")


def wrong_bare_reshape(x, n_heads):
    B, T, D = x.shape
    return x.reshape(B, n_heads, T, D // n_heads)


def wrong_every_third(x, n_heads):
    B, T, D = x.shape
    return x.reshape(B, T, D // n_heads, n_heads).permute(0, 3, 1, 2)


planted = {wrong_bare_reshape: "the future leaks", wrong_every_third: "H neighbours"}
