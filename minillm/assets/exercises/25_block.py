# Generated from nbs/25_block.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import torch
import torch.nn.functional as F
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from numbers import Real
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from types import MappingProxyType
from typing import Any
from minillm.embedding import _check_sizes
from minillm.block import ACTIVATIONS, Block, LayerNorm, MLP, RMSNorm, SwiGLU, activation, gated_hidden, relu_squared

# %% exercise 25-a {"title": "A norm that survives 16 bits", "answer": "def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor: ...", "returns": true}
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from minillm.exercises import expect, mistake

hints = [
    "Square, mean over the last axis with keepdim=True, plus eps, root, divide.",
    "`x.float()` first. At the end `.to(x.dtype)`, and only then times the weight.",
]


class NoNorm(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("rms_norm", "layer_norm", "group_norm"):
            mistake(f"{func.__name__} is a norm of torch; write it from squares, a mean and a root")
        return func(*args, **(kwargs or {}))


def checks(rms_norm):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, 5, generator=generator) + 1, torch.rand(5, generator=generator) + 0.5
    scale = lambda square: x / (square + 1e-6).sqrt() * weight
    right = scale(x.square().mean(-1, keepdim=True))
    with NoNorm():
        got = rms_norm(x.clone(), weight.clone(), 1e-6)
    expect(getattr(got, "shape", None) == (2, 3, 5), "the result should have the shape of x, here (2, 3, 5)")
    if torch.allclose(got, right / weight, atol=1e-5):
        mistake("the weight is missing")
    if any(torch.allclose(got, scale(x.square().mean(k, keepdim=True)), atol=1e-5) for k in (0, 1, (0, 1))):
        mistake(
            "the mean runs over the tokens, so each token depends on others; it runs over the last axis, −1"
        )
    if any(
        torch.allclose(got, scale(x.square().mean(k, keepdim=True)), atol=1e-5) for k in ((0, 1, 2), (1, 2))
    ):
        mistake("one mean for many tokens together; each token has its own: mean(-1, keepdim=True)")
    if torch.allclose(got, scale(x.square().sum(-1, keepdim=True)), atol=1e-5):
        mistake("you divide by the length of the vector; the root *mean* square is smaller by the root of D")
    centred = x - x.mean(-1, keepdim=True)
    if torch.allclose(
        got, centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight, atol=1e-5
    ):
        mistake("you took the mean away: that is LayerNorm")
    expect(
        torch.allclose(got, right, atol=1e-5),
        "on ordinary numbers it differs from x / √(mean(x²) + eps) · weight",
    )
    alone = rms_norm(x[0, 0].clone(), weight.clone(), 1e-6)
    expect(torch.allclose(alone, right[0, 0], atol=1e-5), "for one token, x of shape (5,), it differs")
    check_eps(rms_norm)
    check_half(rms_norm)


def check_eps(rms_norm):
    tiny, right = torch.full((1, 5), 1e-4), 1e-4 / (1e-8 + 1e-6) ** 0.5
    got = rms_norm(tiny, torch.ones(5), 1e-6)[0, 0].item()
    if abs(got - 1e-4 / (1e-4 + 1e-6)) < 1e-3:
        mistake("eps stands beside the root; under it, a row of 0.0001s becomes 0.1 and not 0.99")
    if abs(got - 1) < 1e-3:
        mistake("eps is not used: a row of 0.0001s becomes 0.1, and a row of zeros would be nan")
    expect(abs(got - right) < 1e-4, f"a row of 0.0001s with eps=1e-6 becomes {right:.4f}; yours {got:.4f}")
    other, right = rms_norm(tiny, torch.ones(5), 1e-4)[0, 0].item(), 1e-4 / (1e-8 + 1e-4) ** 0.5
    if abs(other - got) < 1e-4:
        mistake("another eps changes nothing: use the argument, not a number of your own")
    expect(
        abs(other - right) < 1e-4, f"a row of 0.0001s with eps=1e-4 becomes {right:.4f}; yours {other:.4f}"
    )


def check_half(rms_norm):
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(64, 32, generator=generator) * 300).half()
    weight = (torch.rand(32, generator=generator) + 0.5).half()
    got = rms_norm(x.clone(), weight.clone(), 1e-6)
    expect(
        got.dtype == torch.float16,
        f"for x and weight in float16 the result should be float16, yours is {got.dtype}",
    )
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    right, late = normed.half() * weight, (normed * weight.float()).half()
    if (got == 0).all():
        mistake("in float16 the square of 300 is infinite, and everything becomes 0: compute in float32")
    differ = (got != right).float().mean().item()
    if differ > 0.05 and (got != late).float().mean() < 0.02:
        mistake(
            "the weight comes before the cast: round to float16 first, then multiply, as LlamaRMSNorm does"
        )
    expect(
        differ < 0.02,
        f"in float16 {differ:.0%} of the numbers differ from float32 inside, one cast, then the weight",
    )
    zeros = rms_norm(torch.zeros(1, 32).half(), weight.clone(), 1e-8)
    expect(
        (zeros == 0).all(),
        "a row of zeros in float16 should stay 0; keep eps in float32, too: 1e-8 is 0 in 16 bits",
    )


def wrong_eps_beside(x, weight, eps):
    wide = x.float()
    return (wide / (wide.square().mean(-1, keepdim=True).sqrt() + eps)).to(x.dtype) * weight


def wrong_no_eps(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True))).to(x.dtype) * weight


def wrong_tokens(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(0, keepdim=True) + eps) * weight


def wrong_axis_1(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)).to(x.dtype) * weight


def wrong_fixed_eps(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight


def wrong_eps_in_16_bits(x, weight, eps):
    wide = x.float()
    r = torch.rsqrt(wide.square().mean(-1, keepdim=True) + torch.tensor(eps, dtype=x.dtype))
    return (wide * r).to(x.dtype) * weight


def wrong_torchs(x, weight, eps):
    return F.rms_norm(x.float(), weight.shape, None, eps).to(x.dtype) * weight


def wrong_all(x, weight, eps):
    return x * torch.rsqrt(x.square().mean() + eps) * weight


def wrong_length(x, weight, eps):
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps) * weight


def wrong_centred(x, weight, eps):
    x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def wrong_half(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def wrong_late_cast(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def wrong_no_weight(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


planted = {
    wrong_eps_beside: "beside the root",
    wrong_no_eps: "eps is not used",
    wrong_tokens: "over the tokens",
    wrong_axis_1: "over the tokens",
    wrong_fixed_eps: "use the argument",
    wrong_eps_in_16_bits: "keep eps in float32",
    wrong_torchs: "a norm of torch",
    wrong_all: "one mean for many",
    wrong_length: "length of the vector",
    wrong_centred: "that is LayerNorm",
    wrong_half: "compute in float32",
    wrong_late_cast: "before the cast",
    wrong_no_weight: "the weight is missing",
}

# %% exercise 25-b {"title": "The gradient of a gate", "answer": "def gate_backward(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "For a product y = a·u the gradients are grad·u in a and grad·a in u. Here a = silu(g).",
    "The slope of σ is σ(1 − σ). silu is a product, g·σ(g), so its slope has two terms.",
    "silu'(g) = σ + g·σ·(1 − σ).",
]


def truth(gate, up, grad):
    leaves = [gate.clone().requires_grad_(), up.clone().requires_grad_()]
    return torch.autograd.grad(torch.nn.functional.silu(leaves[0]) * leaves[1], leaves, grad)


def checks(gate_backward):
    generator = torch.Generator().manual_seed(0)
    gate, up, grad = (torch.randn(3, 7, generator=generator, dtype=torch.float64) for _ in range(3))
    right = truth(gate, up, grad)
    try:
        with torch.no_grad():
            got = gate_backward(gate.clone(), up.clone(), grad.clone())
    except RuntimeError as error:
        if "does not require grad" in str(error):
            mistake("autograd is switched off here: write down the two derivatives yourself")
        raise
    expect(
        isinstance(got, tuple | list) and len(got) == 2,
        "return two tensors: the gradient in gate, and that in up",
    )
    dgate, dup = got
    sigma = torch.sigmoid(gate)
    if torch.allclose(dgate, right[1]) and torch.allclose(dup, right[0]):
        mistake("the two are swapped: first the gradient in gate, then that in up")
    if torch.allclose(dgate, grad * up * sigma * (1 - sigma)):
        mistake("that is the slope of σ; silu is g·σ(g), a product of two that both depend on g")
    if torch.allclose(dgate, grad * up * sigma):
        mistake("a term is missing in the slope of silu: g·σ(g) depends on g in σ, too")
    if torch.allclose(dgate, grad * up * gate * sigma * (1 - sigma)):
        mistake("a term is missing in the slope of silu: g·σ(g) depends on g in its first factor, too")
    if torch.allclose(dgate, grad * (sigma + gate * sigma * (1 - sigma))):
        mistake("in gate the gradient lacks the factor up")
    if torch.allclose(dup, grad * gate):
        mistake("in up the factor is silu(gate), not gate")
    expect(torch.allclose(dgate, right[0]), "the gradient in gate differs from autograd's")
    expect(torch.allclose(dup, right[1]), "the gradient in up differs from autograd's")
    far = torch.tensor([100.0, -100.0]), torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0])
    got = gate_backward(*(part.clone() for part in far))
    if not all(part.isfinite().all() for part in got):
        mistake("it overflows in float32 for a gate of −100 or 100: use torch.sigmoid, not exp by hand")
    same = all(torch.allclose(part, expected, atol=1e-6) for part, expected in zip(got, truth(*far)))
    expect(same, "for gates of −100 and 100 it differs from autograd's")


def wrong_slope_of_sigma(gate, up, grad):
    sigma = torch.sigmoid(gate)
    return grad * up * sigma * (1 - sigma), grad * gate * sigma


def wrong_first_term(gate, up, grad):
    sigma = torch.sigmoid(gate)
    return grad * up * sigma, grad * gate * sigma


def wrong_second_term(gate, up, grad):
    sigma = torch.sigmoid(gate)
    return grad * up * gate * sigma * (1 - sigma), grad * gate * sigma


def wrong_no_up(gate, up, grad):
    sigma = torch.sigmoid(gate)
    return grad * (sigma + gate * sigma * (1 - sigma)), grad * gate * sigma


def wrong_swapped(gate, up, grad):
    sigma = torch.sigmoid(gate)
    return grad * gate * sigma, grad * up * (sigma + gate * sigma * (1 - sigma))


def wrong_plain_gate(gate, up, grad):
    sigma = torch.sigmoid(gate)
    return grad * up * (sigma + gate * sigma * (1 - sigma)), grad * gate


def wrong_overflow(gate, up, grad):
    power = (-gate).exp()  # infinite in float32 for −100
    sigma = 1 / (1 + power)
    return grad * up * (sigma + gate * power / (1 + power) ** 2), grad * gate * sigma


def wrong_other_side(gate, up, grad):
    sigma = gate.exp() / (1 + gate.exp())  # infinite over infinite for 100
    return grad * up * (sigma + gate * sigma * (1 - sigma)), grad * gate * sigma


def wrong_autograd(gate, up, grad):
    leaves = [gate.clone().requires_grad_(), up.clone().requires_grad_()]
    return torch.autograd.grad(leaves[0] * torch.sigmoid(leaves[0]) * leaves[1], leaves, grad)


planted = {
    wrong_slope_of_sigma: "slope of σ",
    wrong_first_term: "in σ, too",
    wrong_second_term: "first factor",
    wrong_no_up: "lacks the factor up",
    wrong_swapped: "swapped",
    wrong_plain_gate: "silu(gate), not gate",
    wrong_overflow: "overflows",
    wrong_other_side: "overflows",
    wrong_autograd: "autograd is switched off",
}

# %% exercise 25-c {"title": "A norm on both sides", "answer": "def sandwich(x: Tensor, attention: Callable, mlp: Callable, norms: list) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "Two lines, one for each part. The stream itself is never normed.",
    "x + norms[1](attention(norms[0](x))), and the same with the feed-forward.",
]


def scaled(factor):
    return lambda x: factor * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def checks(sandwich):
    generator = torch.Generator().manual_seed(0)
    x, mix, turn = (torch.randn(*shape, generator=generator) for shape in ((2, 3, 4), (4, 4), (4, 4)))
    attention, mlp, n = (
        (lambda x: x.cumsum(1) @ mix),
        (lambda x: (x @ turn).tanh()),
        [scaled(k) for k in (2.0, 0.5, 3.0, 0.7)],
    )
    got = sandwich(x.clone(), attention, mlp, n)
    expect(getattr(got, "shape", None) == x.shape, "the result should have the shape of x")

    def same(other):
        return torch.allclose(got, other, atol=1e-5)

    middle = x + n[1](attention(n[0](x)))
    if same(middle):
        mistake("the feed-forward is missing")
    if same(middle + n[3](mlp(n[2](x)))):
        mistake("the feed-forward reads the old x; it reads the stream after attention has added to it")
    post = n[1](x + attention(n[0](x)))
    if same(n[3](post + mlp(n[2](post)))):
        mistake("you normed the stream after the addition; only what a part adds is normed")
    bare = x + attention(n[0](x))
    if same(bare + mlp(n[2](bare))):
        mistake("what a part adds is not normed: norms[1] and norms[3] are not used")
    lost = n[1](attention(n[0](x)))
    if same(n[3](mlp(n[2](lost)))):
        mistake("the addition is missing: each part adds to x")
    other = x + n[2](attention(n[0](x)))
    if same(other + n[3](mlp(n[1](other)))):
        mistake("norms[1] and norms[2] are swapped: the order is that of their use")
    normed = n[0](x)
    first = normed + n[1](attention(normed))
    second = n[2](first)
    if same(second + n[3](mlp(second))):
        mistake("you add to the normed value; the addition goes to the stream itself")
    expect(
        same(middle + n[3](mlp(n[2](middle)))),
        "it differs from x + norm'(f(norm(x))), first attention, then feed-forward",
    )


def wrong_old_stream(x, attention, mlp, norms):
    return x + norms[1](attention(norms[0](x))) + norms[3](mlp(norms[2](x)))


def wrong_post(x, attention, mlp, norms):
    x = norms[1](x + attention(norms[0](x)))
    return norms[3](x + mlp(norms[2](x)))


def wrong_plain_pre(x, attention, mlp, norms):
    x = x + attention(norms[0](x))
    return x + mlp(norms[2](x))


def wrong_no_addition(x, attention, mlp, norms):
    return norms[3](mlp(norms[2](norms[1](attention(norms[0](x))))))


def wrong_order(x, attention, mlp, norms):
    x = x + norms[2](attention(norms[0](x)))
    return x + norms[3](mlp(norms[1](x)))


def wrong_normed_stream(x, attention, mlp, norms):
    x = norms[0](x)
    x = norms[2](x + norms[1](attention(x)))
    return x + norms[3](mlp(x))


planted = {
    wrong_old_stream: "reads the old x",
    wrong_post: "normed the stream",
    wrong_plain_pre: "are not used",
    wrong_no_addition: "addition is missing",
    wrong_order: "swapped",
    wrong_normed_stream: "add to the normed value",
}

# %% exercise 25-d {"title": "Mend it", "answer": "def run_block(x: Tensor, attention: Callable, mlp: Callable, norm_1: Callable, norm_2: Callable) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "With parts that add nothing a block is the identity. Here the last norm is what comes out.",
    "The normed value is for the part alone: do not store it in x.",
]


def norm(factor):
    return lambda x: factor * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def checks(run_block):
    generator = torch.Generator().manual_seed(0)
    x, mix = 5 * torch.randn(2, 3, 4, generator=generator), torch.randn(4, 4, generator=generator)
    nothing, first, second = torch.zeros_like, norm(2.0), norm(0.5)
    got = run_block(x.clone(), nothing, nothing, first, second)
    if torch.allclose(got, second(first(x)), atol=1e-5) or torch.allclose(got, second(x), atol=1e-5):
        mistake("with parts that add nothing the norm comes out: the stream itself is normed")
    if torch.allclose(got, first(x), atol=1e-5):
        mistake(
            "with parts that add nothing the first norm comes out: its half still adds to the normed value"
        )
    expect(torch.equal(got, x), "with parts that add nothing, exactly x should come out")
    attention, mlp = (lambda x: x.cumsum(1) @ mix), (lambda x: (x @ mix.T).tanh())
    got, middle = run_block(x.clone(), attention, mlp, first, second), x + attention(first(x))
    if torch.allclose(got, middle + mlp(middle), atol=1e-5) or torch.allclose(
        got, x + attention(x) + mlp(x + attention(x)), atol=1e-5
    ):
        mistake("a part reads the bare stream; it should read it through its norm")
    if torch.allclose(got, middle + mlp(second(x)), atol=1e-5):
        mistake("the feed-forward reads the old x; it reads the stream after attention has added to it")
    if torch.allclose(got, x + first(attention(x)) + second(mlp(x + first(attention(x)))), atol=1e-5):
        mistake("you normed what a part adds; pre-norm norms what it reads")
    swapped = x + attention(second(x))
    if torch.allclose(got, swapped + mlp(first(swapped)), atol=1e-5):
        mistake("the two norms are swapped: norm_1 belongs to attention")
    expect(
        torch.allclose(got, middle + mlp(second(middle)), atol=1e-5),
        "with random parts it differs from x + f(norm(x)), twice",
    )


def wrong_as_given(x, attention, mlp, norm_1, norm_2):
    x = norm_1(x)
    x = x + attention(x)
    x = norm_2(x)
    return x + mlp(x)


def wrong_first_half(x, attention, mlp, norm_1, norm_2):
    x = norm_1(x)
    x = x + attention(x)
    return x + mlp(norm_2(x))


def wrong_no_norm(x, attention, mlp, norm_1, norm_2):
    x = x + attention(x)
    return x + mlp(x)


def wrong_side_by_side(x, attention, mlp, norm_1, norm_2):
    return x + attention(norm_1(x)) + mlp(norm_2(x))


def wrong_norm_of_change(x, attention, mlp, norm_1, norm_2):
    x = x + norm_1(attention(x))
    return x + norm_2(mlp(x))


def wrong_swapped(x, attention, mlp, norm_1, norm_2):
    x = x + attention(norm_2(x))
    return x + mlp(norm_1(x))


planted = {
    wrong_as_given: "the norm comes out",
    wrong_first_half: "first norm comes out",
    wrong_no_norm: "bare stream",
    wrong_side_by_side: "reads the old x",
    wrong_norm_of_change: "norms what it reads",
    wrong_swapped: "swapped",
}
