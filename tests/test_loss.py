"""The loss: equal to torch's in values and gradients, with weights, ignored targets, smoothing and z-loss, in 64, 32 and 16 bits; the head in
chunks equal to the whole and never larger than a chunk; evaluation equal to sums by hand; wrong input answered.
"""

import copy
import math
import re
from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minillm.batches import IGNORED, Batch
from minillm.bigram import Bigram
from minillm.loss import (
    Evaluation,
    cross_entropy,
    evaluate_loss,
    linear_cross_entropy,
    log_sum_exp,
    next_token_loss,
)
from minillm.model import LanguageModel, ModelConfig, saved_bytes

TINY = ModelConfig(vocab_size=31, width=16, n_layers=2, n_heads=2, context=32)


def torch_loss(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    "The contract written with torch's functions, over rows."
    logits, targets = logits.flatten(0, -2), targets.flatten()
    rows = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)  # 0 where ignored
    counts = (targets != IGNORED).to(logits.dtype)
    if weight is not None:
        counts = counts * weight.flatten().to(logits.dtype)
    return (counts * (rows + z_loss * torch.logsumexp(logits, -1) ** 2)).sum() / counts.sum()


def example(
    seed: int,
    shape: tuple[int, ...] = (3, 5),
    D: int = 6,
    V: int = 11,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    "hidden (…,D), head (V,D), targets with some ignored, weights with some 0."
    g = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(*shape, D, generator=g, dtype=torch.float64)).to(dtype).requires_grad_()
    head = torch.randn(V, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(V, shape, generator=g).masked_fill(torch.rand(shape, generator=g) < 0.3, IGNORED)
    weight = torch.rand(shape, generator=g).masked_fill(torch.rand(shape, generator=g) < 0.3, 0.0)
    targets.view(-1)[0], weight.view(-1)[0] = 3, 0.5  # something counts
    return hidden, head, targets, weight


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"z_loss": 0.01},
    {"label_smoothing": 0.3, "z_loss": 0.1},
    {"label_smoothing": 1.0},
]


# ---- log_sum_exp


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), dim=st.integers(-3, 2), scale=st.sampled_from([1e-3, 1.0, 50.0, 1e4, 1e30]))
def test_log_sum_exp_is_torchs(seed: int, dim: int, scale: float) -> None:
    g = torch.Generator().manual_seed(seed)
    x = (scale * torch.randn(2, 3, 4, generator=g, dtype=torch.float64)).requires_grad_()
    w = torch.randn(2, 3, 4, generator=g, dtype=torch.float64).sum(dim)
    ours, theirs = log_sum_exp(x, dim), torch.logsumexp(x, dim)
    torch.testing.assert_close(gradients((ours * w).sum(), x), gradients((theirs * w).sum(), x))


def test_log_sum_exp_at_the_borders() -> None:
    inf = math.inf
    x = torch.tensor([[-inf, 1.0, 2.0], [-inf, -inf, -inf], [inf, 0.0, 1.0], [3e38, 3e38, -inf]])
    torch.testing.assert_close(log_sum_exp(x), torch.logsumexp(x, -1))
    assert log_sum_exp(torch.tensor([math.nan, 1.0])).isnan()
    narrow = torch.tensor([300.0, 299.0], dtype=torch.bfloat16)
    assert log_sum_exp(narrow).dtype == torch.float32
    torch.testing.assert_close(log_sum_exp(narrow), torch.logsumexp(narrow.float(), -1))
    assert log_sum_exp(torch.tensor([True, False])).item() == pytest.approx(math.log(math.e + 1))
    assert torch.logsumexp(narrow, -1).dtype == torch.bfloat16  # as the docstring says
    one = torch.tensor([-inf, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(log_sum_exp(one), one)[0].tolist() == [0, 1]


# ---- equality with torch


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_both_are_torchs(data: st.DataObject) -> None:
    "Values and gradients for logits, hidden and head, float64: one part in 1e-10."
    shape = data.draw(st.sampled_from([(7,), (3, 5), (2, 1, 4)]))
    scale = data.draw(st.sampled_from([0.01, 1.0, 30.0]))
    hidden, head, targets, weight = example(data.draw(st.integers(0, 10**6)), shape, scale=scale)
    given_weight = data.draw(st.sampled_from([None, weight, torch.ones(shape)]))
    options = data.draw(st.sampled_from(OPTIONS))
    wanted = gradients(torch_loss(hidden @ head.T, targets, given_weight, **options), hidden, head)
    plain = gradients(cross_entropy(hidden @ head.T, targets, given_weight, **options), hidden, head)
    chunk = data.draw(st.integers(1, 20))
    ours = gradients(
        linear_cross_entropy(hidden, head, targets, given_weight, chunk=chunk, **options), hidden, head
    )
    torch.testing.assert_close(plain, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_weights_the_mean_is_torchs_own(smoothing: float) -> None:
    "torch's reduction itself, and its result in float32 for large logits."
    for scale in (1.0, 100.0, 1e4):
        hidden, head, targets, _ = example(1, dtype=torch.float32, scale=scale)
        logits = hidden @ head.T
        theirs = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing)
        torch.testing.assert_close(
            cross_entropy(logits, targets, label_smoothing=smoothing), theirs, rtol=2e-6, atol=1e-7
        )
        ours = linear_cross_entropy(hidden, head, targets, label_smoothing=smoothing)
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-7)
    surprise = cross_entropy(torch.tensor([[3e4, 3e4 - 1.0]]), torch.tensor([1])).item()
    assert surprise == pytest.approx(math.log(1 + math.e), abs=2e-7)  # not rounded as 3e4 would be


@pytest.mark.skipif(
    not hasattr(torch.nn, "LinearCrossEntropyOptions"), reason="torch has its own chunks from 2.13 on"
)
def test_torchs_own_chunks() -> None:
    "Also what torch answers for rows of a head in chunks, which forms its gradient in the forward pass too."
    hidden, head, targets, _ = example(1, (50,), dtype=torch.float32)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=16)
    theirs = gradients(F.linear_cross_entropy(hidden, head, targets, options=options), hidden, head)
    torch.testing.assert_close(
        gradients(linear_cross_entropy(hidden, head, targets, chunk=16), hidden, head), theirs
    )


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_gradients_by_differences(options: dict[str, float], chunk: int) -> None:
    hidden, head, targets, weight = example(2, (2, 3), D=3, V=5)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, weight, chunk=chunk, **options), (hidden, head)
    )
    logits = (hidden @ head.T).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, targets, weight, **options), logits)
    assert torch.autograd.gradgradcheck(lambda z: cross_entropy(z, targets, weight, **options), logits)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_bfloat16_is_no_worse_than_torch(options: dict[str, float], weighted: bool) -> None:
    "bf16 hidden and head against exact float64: about the error of torch's loss on bf16 logits, no larger kind."
    hidden, head, targets, weight = example(3, (40, 5), D=64, V=97, dtype=torch.bfloat16)
    head = (head.detach() / 8).requires_grad_()
    given_weight = weight if weighted else None
    exact_inputs = [x.detach().double().requires_grad_() for x in (hidden, head)]
    exact = gradients(
        torch_loss(exact_inputs[0] @ exact_inputs[1].T, targets, given_weight, **options), *exact_inputs
    )
    theirs = gradients(torch_loss((hidden @ head.T).float(), targets, given_weight, **options), hidden, head)
    ours = gradients(linear_cross_entropy(hidden, head, targets, given_weight, chunk=16, **options), hidden, head)
    assert [x.dtype for x in ours] == [torch.float32, torch.bfloat16, torch.bfloat16]
    for name, ours_x, theirs_x, exact_x in zip(("loss", "hidden", "head"), ours, theirs, exact):
        error, allowed = ((x.double() - exact_x).norm() / exact_x.norm() for x in (ours_x, theirs_x))
        second = 1.02 if name == "loss" else 1.45  # the mean comes last: a second rounding, √2 in all
        assert error < second * allowed + 1e-5, (name, error, allowed)
    plain = cross_entropy(hidden @ head.T, targets, given_weight, **options)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain, theirs[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    "Products in 16 bits, loss and gradients in float32; the gradient of the head is better than torch's."
    hidden, head, targets, _ = example(4, (300,), D=32, V=50, dtype=torch.float32)
    exact = gradients(F.cross_entropy((hidden @ head.T), targets), hidden, head)
    with torch.autocast("cpu", dtype=dtype):
        ours = linear_cross_entropy(hidden, head, targets, chunk=7)
        theirs = F.cross_entropy(hidden @ head.T, targets)
    assert ours.dtype == torch.float32 and not torch.equal(ours, exact[0])  # it did run in 16 bits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for a, b, right in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), exact):
        assert a.dtype == torch.float32 and (a - right).norm() <= 1.1 * (b - right).norm() + 1e-7
    with torch.autocast("cpu", dtype=dtype):  # a head that is 16 bits already, and float64, which stays
        linear_cross_entropy(hidden.to(dtype), head, targets).backward()
        doubled = linear_cross_entropy(hidden.double(), head.double(), targets)
    torch.testing.assert_close(doubled, exact[0].double(), rtol=1e-5, atol=0)


# ---- nothing counted, padding, and what autograd may ask


@pytest.mark.parametrize("kind", ["ignored", "weight 0", "empty"])
def test_nothing_counted_is_zero_with_zero_gradients(kind: str) -> None:
    hidden, head, targets, weight = example(5, (0, 5) if kind == "empty" else (3, 5)) if kind != "empty" else (
        torch.zeros(0, 6, requires_grad=True), torch.randn(11, 6, requires_grad=True), torch.zeros(0, dtype=torch.long), torch.zeros(0),
    )  # fmt: skip
    if kind == "ignored":
        targets = torch.full_like(targets, IGNORED)
    if kind == "weight 0":
        weight = torch.zeros_like(weight)
    for options in OPTIONS:
        for loss in (
            cross_entropy(hidden @ head.T, targets, weight, **options),
            linear_cross_entropy(hidden, head, targets, weight, **options),
        ):
            value, *grads = gradients(loss, hidden, head)
            assert value == 0 and all((g == 0).all() for g in grads)
    if kind == "ignored":
        assert F.cross_entropy((hidden @ head.T).flatten(0, 1), targets.flatten()).isnan()  # what torch says


def test_what_does_not_count_cannot_spoil() -> None:
    "Infinite and nan values in padding: the loss and all gradients are those without these rows."
    hidden, head, targets, weight = example(6)
    out = (targets == IGNORED) | (weight == 0)
    spoilt = hidden.detach().clone()
    spoilt[out] = math.nan
    spoilt.requires_grad_()
    wanted = gradients(linear_cross_entropy(hidden[~out], head, targets[~out], weight[~out]), hidden, head)
    got = gradients(linear_cross_entropy(spoilt, head, targets, weight, chunk=2), spoilt, head)
    torch.testing.assert_close(got, wanted)
    assert (got[1][out] == 0).all()
    logits = (spoilt @ head.detach().T).detach().requires_grad_()
    value, by_logits = gradients(cross_entropy(logits, targets, weight), logits)
    torch.testing.assert_close(value, wanted[0])
    assert (by_logits[out] == 0).all()


def test_banned_ids() -> None:
    "Logits of −inf: no surprise for others, an infinite one where the target is banned, never nan."
    logits = torch.tensor([[0.0, 1.0, -math.inf], [0.0, 1.0, -math.inf]], requires_grad=True)
    value, by_logits = gradients(cross_entropy(logits, torch.tensor([0, 1])), logits)
    assert value.isfinite() and by_logits.isfinite().all() and (by_logits[:, 2] == 0).all()
    for options in OPTIONS[:3:2]:
        assert cross_entropy(logits, torch.tensor([0, 2]), **options) == math.inf


def test_only_what_is_wanted() -> None:
    "A frozen head or frozen hidden costs no gradient; two backward passes are alike; a second derivative is refused."
    hidden, head, targets, weight = example(7)
    wanted = gradients(linear_cross_entropy(hidden, head, targets, weight), hidden, head)
    for frozen in (0, 1):
        inputs = [hidden, head]
        inputs[frozen] = inputs[frozen].detach()
        loss = linear_cross_entropy(*inputs, targets, weight)
        torch.testing.assert_close(torch.autograd.grad(loss, inputs[1 - frozen])[0], wanted[2 - frozen])
        size = inputs[1 - frozen].numel() * 8
        known = targets.where(targets != IGNORED, 0)
        kept = saved_bytes(
            lambda inputs=inputs, y=known: linear_cross_entropy(*inputs, y), [hidden, head, targets]
        )
        assert size <= kept <= size + 64  # one gradient, and a few numbers
    loss = linear_cross_entropy(hidden, head, targets, weight)
    first = torch.autograd.grad(3 * loss, [hidden, head], retain_graph=True)
    torch.testing.assert_close([3 * g for g in torch.autograd.grad(loss, [hidden, head])], list(first))
    with pytest.raises(RuntimeError):
        (by_head,) = torch.autograd.grad(linear_cross_entropy(hidden, head, targets), head, create_graph=True)
        by_head.sum().backward()
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, head, targets).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(linear_cross_entropy(hidden, head, targets, weight).item(), wanted[0].item())


def test_weights_are_not_learned() -> None:
    "Both ways agree on it: no gradient by the weights, instead of a wrong one."
    hidden, head, targets, weight = example(7)
    weight.requires_grad_()
    for loss in (
        cross_entropy(hidden @ head.T, targets, weight),
        linear_cross_entropy(hidden, head, targets, weight),
    ):
        assert torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True) == (None,)


def test_tied_embedding() -> None:
    "The matrix gets the gradient of both its uses."
    table, ids = nn.Embedding(11, 6), torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))
    grads = []
    for chunked in (True, False):
        table.zero_grad()
        hidden, targets = table(ids[:, :-1]).tanh(), ids[:, 1:]
        loss = (
            linear_cross_entropy(hidden, table.weight, targets, chunk=3)
            if chunked
            else cross_entropy(hidden @ table.weight.T, targets)
        )
        loss.backward()
        grads.append(table.weight.grad.clone())
    torch.testing.assert_close(*grads)


class Largest(TorchDispatchMode):
    "The most numbers that a tensor had."

    most = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        self.most = max([self.most, *(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))])
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1}])
def test_never_more_than_a_chunk_of_logits(dtype: torch.dtype, options: dict[str, float]) -> None:
    R, D, V, chunk = 200, 8, 100, 16
    hidden, head, targets, weight = example(8, (R,), D, V, dtype)
    with Largest() as seen:
        linear_cross_entropy(hidden, head, targets, weight, chunk=chunk, **options).backward()
    assert seen.most == chunk * V  # logits of a chunk; all of them would be 200 · 100
    hidden, head = hidden.detach().requires_grad_(), head.detach().requires_grad_()
    targets = targets.where(targets != IGNORED, 0)
    kept = saved_bytes(lambda: linear_cross_entropy(hidden, head, targets, chunk=chunk), [hidden, head, targets])
    assert kept <= dtype.itemsize * R * D + 4 * V * D + 64  # the two gradients, and a few numbers


def peak_bytes(function: Any) -> int:
    "The most memory that was held at once, as torch's allocator reports it."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as found:
        function()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("options", OPTIONS[:4])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_peak_is_one_chunk(options: dict[str, float], weighted: bool) -> None:
    "Forward: one chunk of logits and the gradients; backward: the gradients twice. Two chunks were once held."
    R, D, V, chunk = 512, 8, 2000, 64
    hidden, head, targets, weight = example(8, (R,), D, V, torch.float32)
    targets = targets.where(targets != IGNORED, 0)
    given_weight = weight + 0.1 if weighted else None
    arguments = hidden, head, targets, given_weight
    both, logits = 4 * (R * D + V * D), 4 * chunk * V
    forward = peak_bytes(lambda: linear_cross_entropy(*arguments, chunk=chunk, **options))
    assert logits + both <= forward < 1.05 * logits + both + 64 * R
    narrow = hidden.detach()[:64].requires_grad_()
    step = lambda: linear_cross_entropy(narrow, head, targets[:64], chunk=8, **options).backward()
    assert peak_bytes(step) < 2 * 4 * (64 * D + V * D) + 64 * R + 4 * 8 * V


# ---- next_token_loss


def batch_of(seed: int = 0, B: int = 3, T: int = 12, V: int = 31, weighted: bool = True) -> Batch:
    "Two texts a row, then padding."
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (B, T + 1), generator=g)
    documents = torch.tensor([0] * 5 + [1] * 4 + [-1] * (T - 9)).expand(B, T).clone()
    positions = torch.tensor([*range(5), *range(4), *[-1] * (T - 9)]).expand(B, T).clone()
    y = ids[:, 1:].masked_fill(documents < 0, IGNORED)
    weight = torch.rand(B, T, generator=g) * (documents >= 0) if weighted else None
    return Batch(ids[:, :-1].contiguous(), y, weight, documents, positions)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("options", OPTIONS[:4])
def test_next_token_loss_of_a_language_model(tied: bool, options: dict[str, float]) -> None:
    places = "rope" if tied else "learned"  # learned: where a text begins matters, too
    model = LanguageModel(
        TINY.change(tie_embeddings=tied, positions=places), generator=torch.Generator().manual_seed(0)
    )
    for batch in (batch_of(), batch_of(weighted=False)):
        logits = model(batch.x, positions=batch.positions, documents=batch.documents)
        wanted = gradients(torch_loss(logits, batch.y, batch.weight, **options), *model.parameters())
        loss, metrics = next_token_loss(model, batch, chunk=5, **options)
        torch.testing.assert_close(gradients(loss, *model.parameters()), wanted, rtol=1e-4, atol=1e-6)
        counts = (batch.y != IGNORED).float() * (1.0 if batch.weight is None else batch.weight)
        plain = torch_loss(logits, batch.y, batch.weight)
        assert set(metrics) == {"weight", "nats"} and not any(x.requires_grad for x in metrics.values())
        torch.testing.assert_close(metrics["weight"], counts.sum())
        torch.testing.assert_close(metrics["nats"], (plain * counts.sum()).detach())
    assert loss.isfinite() and metrics["weight"].ndim == metrics["nats"].ndim == 0


class Whole(nn.Module):
    "A model without `hidden`: takes the other way."

    def __init__(self, inner: LanguageModel) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor, **places: Any) -> Tensor:
        return self.inner(ids, **places)


class Shifted(nn.Linear):
    "A head that does more than its matrix, as an adapter would."

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean(-1, keepdim=True) * torch.arange(self.out_features)


def test_which_way_a_model_goes() -> None:
    model, batch = LanguageModel(TINY, generator=torch.Generator().manual_seed(1)), batch_of()
    options = {"label_smoothing": 0.1, "z_loss": 0.01}
    torch.testing.assert_close(
        next_token_loss(model, batch, **options), next_token_loss(Whole(model), batch, **options)
    )
    calls: list[int] = []
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    next_token_loss(model, batch)
    assert not calls  # the plain head is read, not called
    for change in ("wrapped", "bias"):
        other = copy.deepcopy(model)
        other.lm_head = Shifted(16, 31, bias=False) if change == "wrapped" else nn.Linear(16, 31)
        logits = other(batch.x, positions=batch.positions, documents=batch.documents)
        loss, metrics = next_token_loss(other, batch)
        torch.testing.assert_close(loss, torch_loss(logits, batch.y, batch.weight))
        torch.testing.assert_close(evaluate_loss(other, [batch]).nats, metrics["nats"].item(), rtol=1e-5, atol=0)


def test_a_bigram_is_trained_by_the_same_function() -> None:
    batch = batch_of(V=31)
    model = Bigram(31)
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    losses = []
    for _ in range(20):
        loss, _ = next_token_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(31), rel=1e-6) and losses == sorted(losses, reverse=True)


# ---- evaluate_loss


def test_evaluation_by_hand() -> None:
    "Sums over batches of unequal size, in any cut, equal those of all rows; accuracy and bytes by weight."
    model = LanguageModel(TINY, generator=torch.Generator().manual_seed(0))
    batches = [batch_of(0, B=3), batch_of(1, B=1), batch_of(2, B=2, weighted=False)]
    sizes = torch.arange(31) % 4
    nats = weight = right = n_bytes = 0.0
    n_tokens = 0
    for batch in batches:
        logits = model(batch.x, positions=batch.positions, documents=batch.documents).double()
        w = (batch.y != IGNORED).double() * (1.0 if batch.weight is None else batch.weight)
        y = batch.y.clamp_min(0)
        nats += (w * -logits.log_softmax(-1).gather(-1, y[..., None])[..., 0]).sum().item()
        right += (w * (logits.argmax(-1) == y)).sum().item()
        n_bytes += (w * sizes[y]).sum().item()
        weight, n_tokens = weight + w.sum().item(), n_tokens + int((w > 0).sum())
    for token_bytes in (sizes, sizes.numpy().astype("<u4"), sizes.tolist()):
        found = evaluate_loss(model, batches, token_bytes=token_bytes)
        assert found.n_tokens == n_tokens and type(found.n_tokens) is int
        assert found.nats == pytest.approx(nats, rel=1e-5) and found.weight == pytest.approx(weight, rel=1e-6)
        assert found.n_bytes == pytest.approx(n_bytes, rel=1e-6) and found.accuracy == pytest.approx(
            right / weight, rel=1e-6
        )
    assert found.loss == pytest.approx(nats / weight, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / weight), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)
    assert evaluate_loss(model, iter(batches), max_batches=1) == evaluate_loss(model, batches[:1])
    rest = iter(batches)
    evaluate_loss(model, rest, max_batches=2)
    assert len(list(rest)) == 1  # no batch is taken and thrown away


def test_evaluation_leaves_the_model_as_it_was() -> None:
    model = LanguageModel(TINY.change(dropout=0.5), generator=torch.Generator().manual_seed(0))
    model.layers[0].eval()  # a part that somebody froze
    modes = [part.training for part in model.modules()]
    assert True in modes and False in modes
    first, second = (evaluate_loss(model, [batch_of()]) for _ in range(2))
    assert first == second  # no dropout
    assert [part.training for part in model.modules()] == modes and torch.is_grad_enabled()
    assert all(x.grad is None for x in model.parameters())
    with pytest.raises(ValueError, match="is no id|ids run"):
        evaluate_loss(model, [Batch(torch.zeros(1, 2, dtype=torch.long), torch.tensor([[1, 99]]))])
    assert [part.training for part in model.modules()] == modes and torch.is_grad_enabled()


def test_evaluation_in_sixteen_bits() -> None:
    model = LanguageModel(TINY, generator=torch.Generator().manual_seed(0))
    exact = evaluate_loss(model, [batch_of()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = evaluate_loss(model, [batch_of()])
    narrow = evaluate_loss(model.bfloat16(), [batch_of()])
    for found in (mixed, narrow):
        assert found.loss == pytest.approx(exact.loss, rel=5e-3) and found.loss != exact.loss


# ---- wrong input


def test_errors_that_teach() -> None:
    hidden, head, targets, weight = example(9)
    logits = (hidden @ head.T).detach()
    plain: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("target 11: ids run from 0 to 10", (targets.where(targets != 3, 11),), {}),
        ("target -1: ids run", (targets.where(targets != 3, -1),), {}),
        ("expected an id for each row", (targets[:, 1:],), {}),
        ("targets are torch.float32", (targets.float(),), {}),
        ("targets are torch.bool", (targets > 0,), {}),
        ("try weight[targets.clamp(0)]", (targets, torch.ones(11)), {}),
        ("a finite number from 0", (targets, -weight), {}),
        ("a finite number from 0", (targets, weight * math.nan), {}),
        ("a finite number from 0", (targets, weight + math.inf), {}),
        ("a share from 0 to 1", (targets,), {"label_smoothing": 1.1}),
        ("a share from 0 to 1", (targets,), {"label_smoothing": math.nan}),
        ("a factor from 0", (targets,), {"z_loss": -1e-4}),
    ]
    for words, arguments, options in plain:
        for call in (
            lambda *a, **o: cross_entropy(logits, *a, **o),
            lambda *a, **o: linear_cross_entropy(hidden, head, *a, **o),
        ):
            with pytest.raises(ValueError, match=re.escape(words)):
                call(*arguments, **options)
    for words, call in {
        "chunk=0": lambda: linear_cross_entropy(hidden, head, targets, chunk=0),
        "chunk=2.5": lambda: linear_cross_entropy(hidden, head, targets, chunk=2.5),  # type: ignore[arg-type]
        "expected (V,D) and (…,D)": lambda: linear_cross_entropy(hidden, head.T, targets),
        "bfloat16": lambda: linear_cross_entropy(hidden.float(), head.bfloat16(), targets),
    }.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            call()
    good = cross_entropy(logits, targets)
    assert torch.equal(cross_entropy(logits, targets.int()), good) and torch.equal(
        cross_entropy(logits, targets.to(torch.int16)), good
    )
    batch, model = batch_of(), Bigram(31)
    nothing = Batch(batch.x, torch.full_like(batch.y, IGNORED))

    class Endless:
        epochs = None

        def __iter__(self) -> Any:
            while True:
                yield batch

    for words, found in {
        "no end": lambda: evaluate_loss(model, Endless()),
        "no target counted": lambda: evaluate_loss(model, [nothing]),
        "used up": lambda: evaluate_loss(model, []),
        "try [batch]": lambda: evaluate_loss(model, batch),  # type: ignore[arg-type]
        "max_batches=-1; try 20": lambda: evaluate_loss(model, [batch], max_batches=-1),
        "batch is a tuple, not a Batch": lambda: next_token_loss(model, (batch.x, batch.y)),  # type: ignore[arg-type]
        "token_bytes has 5 ids": lambda: evaluate_loss(model, [batch], token_bytes=[1] * 5),
        "token_bytes=store.token_bytes": lambda: evaluate_loss(model, [batch]).bits_per_byte,
    }.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            found()
    assert evaluate_loss(model, Endless(), max_batches=2).n_tokens == 2 * batch.n_tokens
    assert evaluate_loss(model, [nothing, batch]) == evaluate_loss(model, [batch])
    loss, metrics = next_token_loss(model, nothing)
    assert loss == 0 and metrics["weight"] == 0 and metrics["nats"] == 0
    assert Evaluation(10.0, 5.0, 5, 0.0, 0.5).loss == 2
    with pytest.raises(ValueError, match="at least one byte"):
        _ = Evaluation(10.0, 5.0, 5, 0.0, 0.5).bits_per_byte


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    hidden, head, targets, weight = example(10, V=5003, dtype=torch.float32)  # odd rows
    wanted = gradients(linear_cross_entropy(hidden, head, targets, weight), hidden, head)
    moved = [x.detach().cuda() for x in (hidden, head, targets, weight)]
    inputs = [x.requires_grad_() for x in moved[:2]]
    got = gradients(linear_cross_entropy(*inputs, *moved[2:], chunk=4), *inputs)
    torch.testing.assert_close([x.cpu() for x in got], wanted, rtol=1e-4, atol=1e-5)
    model = LanguageModel(TINY, generator=torch.Generator().manual_seed(0))
    here = evaluate_loss(model, [batch_of()], token_bytes=[1] * 31)
    assert evaluate_loss(model.cuda(), [batch_of()], token_bytes=[1] * 31).loss == pytest.approx(
        here.loss, rel=1e-4
    )
