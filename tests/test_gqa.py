"""The one attention module: torch's kernel equal to chapter 22's functions; layers equal to torch's, to transformers' Llama, Qwen2, Qwen3
and Mistral; every layout of documents, padding and windows equal to one document at a time; cached equal to uncached; planted bugs caught.
"""

import itertools
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attention import with_gradients
from torch import Tensor, nn

import minillm.gqa as gqa
from minillm.attention import (
    Attend,
    LayerCache,
    attention_weights,
    causal_mask,
    flash_attention,
    mask_rule,
    scaled_dot_product_attention,
)
from minillm.block import RMSNorm
from minillm.embedding import RelativeBias
from minillm.gqa import (
    CausalRule,
    GroupedQueryAttention,
    fused_attention,
    kv_cache_bytes,
    pool_heads,
    repeat_heads,
    takes_groups,
)
from minillm.rope import ALiBi, RoPE

CPU = torch.device("cpu")


def heads(seed: int, B: int, N: int, K: int, T: int, S: int, H: int = 4, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    "q (B,N,T,H), k and v (B,K,S,H) that want gradients."
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, N, T, H), (B, K, S, H), (B, K, S, H))
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def repeated(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    "Chapter 22's function, which wants as many heads of keys as of queries."
    times = q.shape[-3] // k.shape[-3]
    return scaled_dot_product_attention(q, *(x.repeat_interleave(times, dim=-3) for x in (k, v)), **options)


# ---- fused_attention: torch's kernel with our contract


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_fused_equals_plain(data: st.DataObject) -> None:
    "Random heads and groups, T≠S, masks and biases that broadcast in every way, rows that are empty, scale: result and all gradients."
    number = lambda low, high: data.draw(st.integers(low, high))
    B, K, G, T, S = number(1, 3), number(1, 3), number(1, 3), number(1, 6), number(1, 6)
    q, k, v = heads(number(0, 999), B, K * G, K, T, S, number(1, 5))
    generator = torch.Generator().manual_seed(number(0, 999))
    full = (B, K * G, T, S)
    shrunk = lambda: tuple(1 if data.draw(st.booleans()) else n for n in full)[number(0, 4) :]
    mask = torch.rand(shrunk(), generator=generator) < 0.6 if data.draw(st.booleans()) else None
    options: dict[str, Any] = {"mask": mask, "scale": data.draw(st.sampled_from([None, 1.0, 0.3]))}
    if data.draw(st.booleans()):
        bias = torch.randn(shrunk(), generator=generator, dtype=torch.float64)
        bias = bias.masked_fill(torch.rand(bias.shape, generator=generator) < 0.2, -torch.inf)
        run = lambda attend: with_gradients(lambda q, k, v, b: attend(q, k, v, bias=b, **options), q, k, v, bias)
    else:
        run = lambda attend: with_gradients(lambda q, k, v: attend(q, k, v, **options), q, k, v)
    ours, right = run(fused_attention), run(repeated)
    assert all(x.isfinite().all() for x in ours)
    torch.testing.assert_close(ours, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("K", [1, 2, 6])
@pytest.mark.parametrize("T", [1, 7])
def test_rules_and_causal_rule(K: int, T: int) -> None:
    q, k, v = heads(0, 2, 6, K, T, 7)
    rule = mask_rule(torch.arange(7 - T, 7), torch.arange(7), window=4)
    distance = lambda t, s: -(torch.arange(7 - T, 7)[t, None] - torch.arange(7)[s]).abs().double()
    for options in ({"mask": rule}, {"mask": rule, "bias": distance}, {"bias": distance}):
        run = lambda attend, options=options: with_gradients(lambda *x: attend(*x, **options), q, k, v)
        torch.testing.assert_close(run(fused_attention), run(repeated))
    if T == 7:
        for options in ({}, {"scale": 0.3}, {"bias": distance}, {"bias": distance(slice(0, 7), slice(0, 7))}):
            run = lambda attend, options=options: with_gradients(lambda *x: attend(*x, mask=CausalRule(7, CPU), **options), q, k, v)
            torch.testing.assert_close(run(fused_attention), run(repeated))


def test_plain_causal_builds_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    "The layer hands over a CausalRule where one text a row begins at 0, and the kernel never asks it."
    layer, x = GroupedQueryAttention(12, 6, 2, window=5), torch.randn(2, 5, 12)
    places = torch.arange(5)
    right = layer(x, positions=places)
    monkeypatch.setattr(CausalRule, "__call__", lambda *a: pytest.fail("asked for a mask"))
    monkeypatch.setattr(gqa, "repeat_heads", lambda *a: pytest.fail("copied keys"))
    torch.testing.assert_close(layer(x), right)
    layer.attend = scaled_dot_product_attention
    with pytest.raises(BaseException, match="copied keys"):
        layer(x)


def test_causal_rule_is_a_rule() -> None:
    rule = CausalRule(6, CPU)
    assert torch.equal(rule(slice(2, 5), slice(1, 4)), causal_mask(torch.arange(6))[2:5, 1:4])
    q, k, v = heads(1, 1, 2, 2, 6, 6)
    torch.testing.assert_close(flash_attention(q, k, v, mask=rule, tile=4), fused_attention(q, k, v, mask=rule))
    for T, S, advice in ((4, 6, "arange(2, 6), torch.arange(6)"), (6, 4, "arange(0, 6), torch.arange(4)"), (7, 7, "arange(0, 7)")):
        q, k, v = heads(1, 1, 2, 2, T, S)  # not the texts that it was made for
        for bias in (None, torch.zeros(T, S, dtype=torch.float64)):
            with pytest.raises(ValueError, match=re.escape(f"CausalRule(6) for T={T} queries and S={S} keys") + ".*" + re.escape(advice)):
                fused_attention(q, k, v, mask=rule, bias=bias)


@pytest.mark.parametrize("dtype, shares", [(torch.bfloat16, True), (torch.float32, False)], ids=str)
def test_where_torchs_kernel_cannot_share_keys(dtype: torch.dtype, shares: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    "Off the CPU only the flash kernel shares: 16 bits, no mask. Anything else is handed repeated keys, never `enable_gqa`."
    seen, kernel = [], F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.append((k.shape[1], options.get("enable_gqa", False)))
        return kernel(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    q, k, v = (torch.zeros(2, n, 5, 4, dtype=dtype, device="meta") for n in (6, 2, 2))
    mask = torch.ones(5, 5, dtype=torch.bool, device="meta")
    for options in ({"mask": CausalRule(5, q.device)}, {"mask": mask}):
        assert fused_attention(q, k, v, **options).shape == q.shape
    assert seen == [(2, True) if shares else (6, False), (6, False)]
    assert fused_attention(q[:, :, :1], k, v, mask=mask[:1]).shape == (2, 6, 1, 4) and seen[2] == (2, False)  # by groups


TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 0.05, torch.float16: 0.008}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("how", ["causal", "mask", "bias"])
def test_number_formats(dtype: torch.dtype, how: str) -> None:
    "Against the exact result in float64, forward and gradient; the result keeps the type. A bias is added in float32."
    q, k, v = heads(1, 2, 4, 2, 40, 40, 32, dtype)
    options: dict[str, Any] = {"mask": CausalRule(40, CPU) if how == "causal" else causal_mask(torch.arange(40))}
    if how == "bias":
        options["bias"] = ALiBi(4)(torch.arange(40), torch.arange(40))
    ours = with_gradients(lambda *x: fused_attention(*x, **options), q, k, v)
    exact = with_gradients(lambda *x: repeated(*x, **options), *(x.double() for x in (q, k, v)))
    assert {x.dtype for x in ours} == {dtype}
    for got, right in zip(ours, exact):
        torch.testing.assert_close(got.double(), right, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_bias_is_not_rounded_to_16_bits() -> None:
    "1000 and 1001 are the same number in bfloat16; as biases they differ by a factor e."
    q, k, v = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 2, 4), torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    bias = torch.tensor([1000.0, 1001.0])
    right = torch.sigmoid(torch.tensor(1.0))
    for qkv in ([q, k, v], [x.bfloat16() for x in (q, k, v)]):
        torch.testing.assert_close(fused_attention(*qkv, bias=bias).float().flatten()[0], right, rtol=0.01, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused_attention(q, k, v, bias=bias).float().flatten()[0], right, rtol=0.01, atol=0)


def test_autocast() -> None:
    layer, x = GroupedQueryAttention(32, 4, 2, rope=RoPE(8)), torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    right = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        for options in ({}, {"positions": torch.arange(16)}):
            got = layer(x, **options)
            assert got.dtype == torch.bfloat16
            torch.testing.assert_close(got.float(), right, rtol=0.05, atol=0.02)
            got.float().sum().backward()
        q, k, v = heads(1, 1, 2, 1, 3, 3)
        assert fused_attention(q, k, v).dtype == torch.float64
        assert fused_attention(q.float(), k.float(), v.float()).dtype == torch.bfloat16  # as torch's own


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("T", [1, 6])
@pytest.mark.parametrize("how", ["mask", "bias", "both"])
def test_an_empty_row_gives_0_and_gradient_0(how: str, T: int, K: int) -> None:
    q, k, v = heads(2, 2, 3, K, T, 7)
    row = T // 2
    mask, bias = torch.ones(T, 7, dtype=torch.bool), torch.zeros(T, 7, dtype=torch.float64)
    mask[row], bias[row] = how == "bias", (-torch.inf if how != "mask" else 0.0)
    out, *grads = with_gradients(lambda *x: fused_attention(*x, mask=mask, bias=bias if how != "mask" else None), q, k, v)
    assert all(x.isfinite().all() for x in (out, *grads))
    assert out[..., row, :].abs().max() == 0 and grads[0][..., row, :].abs().max() == 0


def test_a_kernel_that_returns_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    "Older torch gave nan for an empty row, forward and backward. Played here by one that still does."

    def old(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        scores = q @ k.mT
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return torch.softmax(scores, -1) @ v

    monkeypatch.setattr(F, "scaled_dot_product_attention", old)
    q, k, v = heads(2, 2, 3, 3, 6, 7)
    mask = torch.ones(6, 7, dtype=torch.bool)
    mask[2] = False
    for options in ({"mask": mask}, {"bias": torch.zeros(6, 7).masked_fill(~mask, -torch.inf)}):
        assert old(q, k, v, attn_mask=options.get("mask", options.get("bias"))).isnan().any()
        out = with_gradients(lambda *x, options=options: fused_attention(*x, **options), q, k, v)
        assert all(x.isfinite().all() for x in out) and out[0][..., 2, :].abs().max() == 0


@pytest.mark.parametrize("K", [1, 2, 4])
def test_no_keys_and_no_queries(K: int) -> None:
    for T, S in ((3, 0), (1, 0), (0, 3)):
        q, k, v = heads(3, 2, 4, K, T, S)
        out, *grads = with_gradients(lambda *x: fused_attention(*x, mask=torch.ones(T, S, dtype=torch.bool)), q, k, v)  # noqa: B023
        assert out.shape == (2, 4, T, 4) and all(x.abs().sum() == 0 for x in (out, *grads))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 2)])
def test_any_axes_in_front(lead: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(*lead, n, 4, generator=generator) for n in (3, 5, 5))
    for options in ({}, {"mask": torch.rand(3, 5, generator=generator) < 0.6}):
        torch.testing.assert_close(fused_attention(q, k, v, **options), scaled_dot_product_attention(q, k, v, **options))


def test_values_of_another_width() -> None:
    q, k, _ = heads(4, 2, 4, 2, 5, 5)
    v = torch.randn(2, 2, 5, 7, dtype=torch.float64)
    for options in ({}, {"mask": CausalRule(5, CPU)}, {"bias": torch.zeros(5, 5, dtype=torch.float64)}):
        torch.testing.assert_close(fused_attention(q, k, v, **options), repeated(q, k, v, **options))
    one = q[..., :1, :]
    torch.testing.assert_close(fused_attention(one, k, v), repeated(one, k, v))


def test_fused_raises_like_the_others() -> None:
    q, k, v = (torch.zeros(2, 6, n, 4) for n in (3, 5, 5))
    mask = torch.ones(3, 5, dtype=torch.bool)
    wrong: list[tuple[str, tuple, dict]] = [
        ("must be equal", (q, k[:, :4], v[:, :4]), {}),  # 6 is no multiple of 4
        ("must be equal", (q, k[:, :3], v[:, :2]), {}),
        ("must be equal", (q, k[:1], v[:1]), {}),
        ("equal widths", (q, k[..., :3], v), {}),
        ("each key has one value", (q, k, v[..., :4, :]), {}),
        ("True = may attend", (q, k, v), {"mask": mask.float()}),
        ("floating point", (q, k, v), {"bias": mask}),
        ("the scores", (q, k, v), {"mask": mask[:, :4]}),
        ("the scores", (q, k[:, :2], v[:, :2]), {"mask": torch.ones(2, 3, 5, dtype=torch.bool)}),  # a mask for K heads
        ("H=0", (q[..., :0], k[..., :0], v), {}),
        ("must be equal", (q[:, 0].expand(2, 3, 4), k[:1, 0], v[:1, 0]), {}),  # of three axes the first is the batch, not heads
        ("on meta", (q, k.to("meta"), v), {}),
        ("float64", (q, k.double(), v.double()), {}),
        ("expected floating point", (q.long(), k, v), {}),
    ]
    for match, qkv, options in wrong:
        with pytest.raises(ValueError, match=match):
            fused_attention(*qkv, **options)


def test_on_a_device_without_numbers() -> None:
    "Large models are built on the meta device to count what they cost."
    layer = GroupedQueryAttention(12, 6, 2).to("meta")
    x = torch.zeros(2, 5, 12, device="meta")
    assert layer(x).shape == layer(x, positions=torch.arange(5, device="meta")).shape == (2, 5, 12)


# ---- sharing


def test_repeat_heads() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(repeat_heads(x, 4), x.repeat_interleave(4, dim=1)) and repeat_heads(x, 1) is x
    for wrong, times in ((x, 0), (x, -1), (x, -2), (x[0, 0], 2)):
        with pytest.raises(ValueError, match=r"expected \(B,K,S,H\) and times=1 or more"):
            repeat_heads(wrong, times)
    assert repeat_heads(x[:, :1], 4).untyped_storage().data_ptr() == x.untyped_storage().data_ptr()  # K=1: a view


def random_layer(seed: int, data: st.DataObject | None = None, **options: Any) -> GroupedQueryAttention:
    "A layer in float64 with everything that it may have, drawn at random, and weights that are not small."
    draw = (lambda *choices: data.draw(st.sampled_from(choices))) if data else (lambda *choices: choices[0])
    n_heads, n_kv_heads = draw((6, 2), (4, 4), (4, 1), (6, 3))
    options.setdefault("window", draw(None, 1, 2, 3, 5))
    if draw(True, False):
        options["rope"] = RoPE(4)
    options["position_bias"] = draw(None, ALiBi(n_heads), ALiBi(n_heads).rule, RelativeBias(n_heads, buckets=6, max_distance=9))
    if draw(False, True):
        options |= {"q_norm": nn.RMSNorm(4), "k_norm": nn.RMSNorm(4)}
    options.setdefault("attend", draw(fused_attention, scaled_dot_product_attention, flash_attention))
    torch.manual_seed(seed)
    layer = GroupedQueryAttention(12, n_heads, n_kv_heads, head_width=4, bias=draw(False, True), **options).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.7)
    return layer


def by_definition(layer: GroupedQueryAttention, x: Tensor, first: int = 0) -> Tensor:
    "One text (T,D) → (T,D), by loops over queries and heads; knows nothing of masks, groups or kernels."
    T, H, G = len(x), layer.head_width, layer.n_heads // layer.n_kv_heads
    places = torch.arange(first, first + T)
    bias = torch.zeros(layer.n_heads, T, T, dtype=x.dtype)
    if layer.position_bias is not None:
        rule = layer.position_bias(places, places)
        bias = bias + (rule if isinstance(rule, Tensor) else rule(slice(0, T), slice(0, T)))
    rows = []
    for n in range(layer.n_heads):
        q = F.linear(x, layer.q_proj.weight, layer.q_proj.bias)[:, n * H : (n + 1) * H]
        k, v = (F.linear(x, p.weight, p.bias)[:, (n // G) * H : (n // G + 1) * H] for p in (layer.k_proj, layer.v_proj))
        q, k = (x if norm is None else norm(x) for x, norm in ((q, layer.q_norm), (k, layer.k_norm)))
        if layer.rope is not None:
            q, k = (layer.rope(x[None, None], places)[0, 0] for x in (q, k))
        out = []
        for t in range(T):
            low = 0 if layer.window is None else max(0, t - layer.window + 1)
            scores = torch.stack([q[t] @ k[s] / H**0.5 + bias[n, t, s] for s in range(low, t + 1)])
            out.append(torch.softmax(scores, 0) @ v[low : t + 1])
        rows.append(torch.stack(out))
    return F.linear(torch.cat(rows, -1), layer.o_proj.weight, layer.o_proj.bias)


def draw_rows(data: st.DataObject, B: int) -> tuple[Tensor, Tensor, list[list[tuple[slice, int]]]]:
    "Positions and documents (B,T) of rows with several texts and padding anywhere between, and where the texts lie."
    rows, T = [], data.draw(st.integers(1, 10))
    for _ in range(B):
        row, left = [], T
        while left:
            n = data.draw(st.integers(1, left))
            row.append((n, data.draw(st.booleans())))  # length, text or padding
            left -= n
        rows.append(row)
    positions, documents = torch.full((B, T), -1), torch.full((B, T), -1)
    texts: list[list[tuple[slice, int]]] = []
    for b, row in enumerate(rows):
        start, found = 0, []
        for i, (n, real) in enumerate(row):
            if real:
                first = data.draw(st.sampled_from([0, 0, 3]))  # a text may come from the middle of a document
                positions[b, start : start + n], documents[b, start : start + n] = torch.arange(first, first + n), i
                found.append((slice(start, start + n), first))
            start += n
        texts.append(found)
    return positions, documents, texts


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_layout_equals_one_document_at_a_time(data: st.DataObject) -> None:
    "Texts packed into rows with padding left, right and between; all options, groups and attends; result and gradient."
    layer = random_layer(data.draw(st.integers(0, 99)), data)
    positions, documents, texts = draw_rows(data, data.draw(st.integers(1, 2)))
    x = torch.randn(*positions.shape, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    out = layer(x, positions=positions, documents=documents)
    empty = torch.zeros(12, dtype=torch.float64) if layer.o_proj.bias is None else layer.o_proj.bias
    expected = torch.stack([torch.stack([empty] * x.shape[1])] * len(x)).clone()
    for b, row in enumerate(texts):
        for t, first in row:
            expected[b, t] = by_definition(layer, x[b, t], first)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    weigh = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    expected = expected + 0 * x.sum()  # where all is padding, too, there is a gradient: 0
    ours, right = (torch.autograd.grad((y * weigh).sum(), [x, *layer.parameters()], allow_unused=True) for y in (out, expected))
    for got, one in zip(ours, right):
        torch.testing.assert_close(got, torch.zeros_like(got) if one is None else one, rtol=1e-8, atol=1e-8)


def test_positions_are_for_all_rows_or_each() -> None:
    layer, x = random_layer(0), torch.randn(2, 5, 12, dtype=torch.float64)
    places = torch.arange(5)
    for said in (None, places, places.expand(2, 5)):
        torch.testing.assert_close(layer(x, positions=said), torch.stack([by_definition(layer, row) for row in x]))
    torch.testing.assert_close(layer(x, documents=torch.tensor([0, 0, 1, 1, 1]))[:, 2:], layer(x[:, 2:]))  # rope is relative


@pytest.mark.parametrize("window", [None, 1, 2, 5, 6, 7])
@pytest.mark.parametrize("causal", [True, False])
def test_no_positions_are_the_first_ones(window: int | None, causal: bool) -> None:
    "The short cut for plain texts, at windows around their length: the same as when all is said."
    layer, x = random_layer(0, window=window), torch.randn(2, 6, 12, dtype=torch.float64)
    layer.window, layer.causal = (window, True) if causal else (None, False)
    torch.testing.assert_close(layer(x), layer(x, positions=torch.arange(6)))


def test_an_encoder() -> None:
    layer, x = random_layer(0, window=None), torch.randn(2, 5, 12, dtype=torch.float64)
    layer.causal = False
    q, k, v = layer.project(x, torch.arange(5))
    torch.testing.assert_close(layer(x), layer.merge(repeated(q, k, v)))
    padded = torch.tensor([[0, 1, 2, -1, -1], [0, 1, 2, 3, 4]])
    out = layer(x, positions=padded)
    torch.testing.assert_close(out[0, :3], layer(x[:1, :3])[0])
    torch.testing.assert_close(out[1], layer(x)[1])


def test_gradients_by_differences() -> None:
    layer = random_layer(3)
    x = torch.randn(2, 4, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    places = torch.tensor([[-1, 0, 1, 2], [0, 1, 0, -1]])
    assert torch.autograd.gradcheck(lambda x: layer(x, positions=places), (x,))


# ---- the cache


class ListLayer:
    "One layer's memory, in lists. Its plan says the positions (and documents) of all tokens that will come."

    def __init__(self, plan: Tensor, documents: Tensor | None = None, window: int | None = None) -> None:
        self.plan, self.documents, self.window, self.seen = plan, documents, window, 0
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []

    def positions(self, T: int) -> Tensor:
        return self.plan[..., self.seen : self.seen + T]

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        self.k, self.v, self.seen = [*self.k, *k.unbind(-2)], [*self.v, *v.unbind(-2)], self.seen + k.shape[-2]
        answer = self.answer()
        if self.window is not None:  # what no later query can see is dropped, after the answer
            self.k, self.v = self.k[-self.window :], self.v[-self.window :]
        return answer

    def answer(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        kept = slice(self.seen - len(self.k), self.seen)
        texts = None if self.documents is None else self.documents[..., kept]
        return torch.stack(self.k, -2), torch.stack(self.v, -2), self.plan[..., kept], texts


def cut(data: st.DataObject, T: int) -> list[slice]:
    "A prompt, single tokens, and chunks of any length."
    borders = sorted({0, T, *data.draw(st.lists(st.integers(0, T), max_size=T))})
    return [slice(a, b) for a, b in itertools.pairwise(borders)]


def through(layer: nn.Module, x: Tensor, pieces: list[slice], cache: LayerCache, documents: Tensor | None = None) -> Tensor:
    "The layer's results, piece by piece with a cache."
    part = lambda t: None if documents is None else documents[..., t]
    return torch.cat([layer(x[:, t], documents=part(t), cache=cache) for t in pieces], 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_cached_equals_uncached(data: st.DataObject) -> None:
    "Any cut into prompt, tokens and chunks; left padding, packed texts, padding between; windows that forget; all options."
    layer = random_layer(data.draw(st.integers(0, 99)), data)
    positions, documents, _ = draw_rows(data, data.draw(st.integers(1, 2)))
    if data.draw(st.booleans()):  # one text a row, padded on the left
        B, T = positions.shape
        positions = (torch.arange(T) - torch.tensor([data.draw(st.integers(0, T - 1)) for _ in range(B)])[:, None]).clamp(min=-1)
        documents = None
    if documents is None and len(positions) == 1 and data.draw(st.booleans()):
        positions = positions[0]  # (T,)
    x = torch.randn(len(positions) if positions.ndim == 2 else 1, positions.shape[-1], 12, generator=torch.Generator().manual_seed(1))
    x = x.double()
    cache = ListLayer(positions, documents, layer.window if data.draw(st.booleans()) else None)
    assert isinstance(cache, LayerCache)
    got = through(layer, x, cut(data, x.shape[1]), cache, documents)
    torch.testing.assert_close(got, layer(x, positions=positions, documents=documents), rtol=1e-9, atol=1e-9)


def test_a_ring_of_keys() -> None:
    "Keys may lie in any order with empty slots between, as in a cache that overwrites: positions decide."

    class Ring(ListLayer):
        def answer(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
            k, v, places, _ = super().answer()
            order = torch.randperm(k.shape[-2] + 2, generator=torch.Generator().manual_seed(self.seen))
            fill = lambda y: torch.cat([y, torch.full_like(y[..., :1, :].expand(*y.shape[:-2], 2, -1), 1e6)], -2)[..., order, :]
            return fill(k), fill(v), torch.cat([places, torch.tensor([-1, -1])])[order], None

    layer, x = random_layer(1, window=3), torch.randn(1, 9, 12, dtype=torch.float64)
    pieces = [slice(0, 4), *(slice(t, t + 1) for t in range(4, 9))]
    torch.testing.assert_close(through(layer, x, pieces, Ring(torch.arange(9), None, 3)), layer(x))


def test_keys_in_any_order_from_the_first_piece() -> None:
    "What the cache says of its keys counts, also when it holds no more than came."

    class Backwards(ListLayer):
        def answer(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
            k, v, places, texts = super().answer()
            return k.flip(-2), v.flip(-2), places.flip(-1), None if texts is None else texts.flip(-1)

    layer, x = random_layer(1, window=3), torch.randn(1, 9, 12, dtype=torch.float64)
    texts = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2])
    got = through(layer, x, [slice(0, 4), slice(4, 9)], Backwards(torch.arange(9), texts), texts)
    torch.testing.assert_close(got, layer(x, documents=texts))


@pytest.mark.parametrize("window", [None, 4, 5])
def test_a_prompt_into_an_empty_cache_needs_no_mask(window: int | None) -> None:
    "It is a whole text, as without a cache; what is not must not be taken for one."

    class Backwards(ListLayer):
        def answer(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
            k, v, places, texts = super().answer()
            return k.flip(-2), v.flip(-2), places.flip(-1), texts

    class Slots(ListLayer):
        "Two empty slots in front, filled with large numbers."

        def answer(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
            k, v, places, texts = super().answer()
            fill = lambda x: torch.cat([torch.full_like(x[..., :2, :], 1e6), x], -2)
            return fill(k), fill(v), torch.cat([torch.tensor([-1, -1]), places]), texts

    class Sorted(ListLayer):
        "Keys in order of their positions, though tokens come in another."

        def answer(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
            k, v, places, texts = super().answer()
            order = places.argsort()
            return k[..., order, :], v[..., order, :], places[order], texts

    layer, x, rules = random_layer(0, window=window, attend=fused_attention), torch.randn(2, 9, 12, dtype=torch.float64), []

    @takes_groups
    def watched(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        rules.append(isinstance(options["mask"], CausalRule))
        return fused_attention(q, k, v, **options)

    layer.attend = watched
    left = (torch.arange(9) - torch.tensor([[0], [2]])).clamp(min=-1)
    texts = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1])
    prompt, fits = [slice(0, 5), slice(5, 6), slice(6, 9)], window is None or window >= 5
    for cache, documents, whole in (
        (ListLayer(torch.arange(9)), None, fits),
        (ListLayer(torch.arange(9).expand(2, 9)), None, fits),
        (ListLayer(torch.arange(9) + 1), None, False),
        (ListLayer(left), None, False),
        (ListLayer(torch.arange(9), texts), texts, False),
        (Backwards(torch.arange(9)), None, False),
        (Slots(torch.arange(9)), None, False),
        (Sorted(torch.tensor([1, 0, 2, 4, 3, 5, 6, 7, 8])), None, False),
    ):
        right = layer(x, positions=cache.plan, documents=documents)
        rules.clear()
        torch.testing.assert_close(through(layer, x, prompt, cache, documents), right)
        assert rules == [whole, False, False]


def test_no_tokens() -> None:
    "Nothing comes: nothing is answered, with an empty cache, too."

    class Empty(ListLayer):
        def answer(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
            return torch.zeros(2, 2, 0, 2), torch.zeros(2, 2, 0, 2), torch.arange(0), None

    layer = GroupedQueryAttention(12, 6, 2)
    for cache in (None, Empty(torch.arange(9))):
        assert layer(torch.zeros(2, 0, 12), cache=cache).shape == (2, 0, 12)


class RestartsPositions(ListLayer):
    "Each piece begins at 0 again."

    def positions(self, T: int) -> Tensor:
        return torch.arange(T)


class CountsPadding(ListLayer):
    "Positions count slots: with padding on the left a text does not begin at 0, and padding is seen."

    def positions(self, T: int) -> Tensor:
        return torch.arange(self.seen, self.seen + T)

    def answer(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        k, v, _, texts = super().answer()
        return k, v, torch.arange(k.shape[-2]), texts


class ForgetsWhichArePast(ListLayer):
    "Keeps the window's keys, and says that they are positions 0, 1, 2, …: right until the first is dropped."

    def answer(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        k, v, _, texts = super().answer()
        return k, v, torch.arange(k.shape[-2]), texts


class DropsTooSoon(ListLayer):
    "Drops before it answers: the first queries of a chunk lose the keys that only they may still see."

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        self.k, self.v, self.seen = [*self.k, *k.unbind(-2)], [*self.v, *v.unbind(-2)], self.seen + k.shape[-2]
        self.k, self.v = self.k[-self.window :], self.v[-self.window :]
        return self.answer()


def triangle(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    "`is_causal` when several tokens come, nothing for one: right for a first prompt and for single tokens, wrong for a second chunk."
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[-2] > 1, enable_gqa=q.shape[-3] != k.shape[-3])


PROMPT, TOKENS, CHUNKS = [slice(0, 4)], [slice(0, 4), *(slice(t, t + 1) for t in range(4, 9))], [slice(0, 4), slice(4, 7), slice(7, 9)]
PLANTED = {  # kind of cache, its plan, window, attend, pieces that pass, pieces that show it
    "wrong positions": (RestartsPositions, torch.arange(9), None, fused_attention, PROMPT, TOKENS),
    "padding counted": (CountsPadding, torch.arange(9) - 2, None, fused_attention, [], TOKENS),
    "past the window": (ForgetsWhichArePast, torch.arange(9), 5, fused_attention, TOKENS[:2], TOKENS),
    "dropped too soon": (DropsTooSoon, torch.arange(9), 4, fused_attention, TOKENS, CHUNKS),
    "mask of a chunk": (ListLayer, torch.arange(9), None, triangle, TOKENS, CHUNKS),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_cache_bugs_are_caught(name: str) -> None:
    "Each passes for the first pieces, so a look at the first token shows nothing, and each fails the comparison with no cache."
    kind, plan, window, attend, passes, fails = PLANTED[name]
    layer, x = random_layer(2, window=window, attend=fused_attention), torch.randn(1, 9, 12, dtype=torch.float64)
    plan = plan.clamp(min=-1)
    right = layer(x, positions=plan)
    torch.testing.assert_close(through(layer, x, fails, ListLayer(plan, None, window)), right)
    layer.attend = attend
    off = lambda pieces: (through(layer, x, pieces, kind(plan, None, window)) - right[:, : pieces[-1].stop]).abs().max().item()
    assert not passes or off(passes) < 1e-9
    assert off(fails) > 1e-3


def test_rope_comes_before_the_cache() -> None:
    "What is remembered is turned: keys that come back are used as they are, whatever positions(T) says of new ones."
    layer, x = random_layer(0), torch.randn(1, 6, 12, dtype=torch.float64)
    cache = ListLayer(torch.arange(6))
    through(layer, x, [slice(0, 6)], cache)
    _, k, v = layer.project(x, torch.arange(6))
    torch.testing.assert_close(torch.stack(cache.k, -2), k)
    torch.testing.assert_close(torch.stack(cache.v, -2), v)
    assert cache.k[0].shape == (1, layer.n_kv_heads, 4)  # and not repeated


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    B=st.integers(1, 3),
    K=st.sampled_from([1, 2, 3]),
    T=st.integers(1, 9),
    window=st.none() | st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_cache_bytes_are_exact(B: int, K: int, T: int, window: int | None, dtype: torch.dtype) -> None:
    "Three layers, token by token: what the caches hold is what was predicted, at every step."
    layers = [GroupedQueryAttention(12, 6, K, head_width=4, window=window).to(dtype) for _ in range(3)]
    caches = [ListLayer(torch.arange(T), None, window) for _ in layers]
    x = torch.randn(B, T, 12, dtype=dtype)
    for t in range(T):
        for layer, cache in zip(layers, caches):
            layer(x[:, t : t + 1], cache=cache)
        held = sum(y.numel() * y.element_size() for cache in caches for y in (*cache.k, *cache.v))
        assert held == kv_cache_bytes(3, K, 4, t + 1, batch_size=B, window=window, dtype=dtype)


# ---- public libraries


@pytest.mark.parametrize("bias", [False, True])
def test_equal_to_torchs_multi_head_attention(bias: bool) -> None:
    layer = GroupedQueryAttention(12, 3, bias=bias)
    theirs = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in (layer.q_proj, layer.k_proj, layer.v_proj)]))
        theirs.out_proj.weight.copy_(layer.o_proj.weight)
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([p.bias for p in (layer.q_proj, layer.k_proj, layer.v_proj)]))
            theirs.out_proj.bias.copy_(layer.o_proj.bias)
    x = torch.randn(2, 7, 12)
    later = ~causal_mask(torch.arange(7))  # True = may not, there
    ours = with_gradients(layer, x)
    torch.testing.assert_close(ours, with_gradients(lambda x: theirs(x, x, x, attn_mask=later, need_weights=False)[0], x))


KINDS = {"llama": {}, "llama with bias": {"attention_bias": True}, "qwen2": {}, "qwen3": {}, "mistral": {"sliding_window": 4}}


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_transformers(kind: str, n_kv_heads: int) -> None:
    "Weights copied under their own names; forward and gradient to 1e-5 in float32, with and without padding on the left."
    from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
    from transformers.models.llama import modeling_llama
    from transformers.models.mistral import modeling_mistral
    from transformers.models.qwen2 import modeling_qwen2
    from transformers.models.qwen3 import modeling_qwen3

    config_class, attention, rotary = {
        "llama": (LlamaConfig, modeling_llama.LlamaAttention, modeling_llama.LlamaRotaryEmbedding),
        "qwen2": (Qwen2Config, modeling_qwen2.Qwen2Attention, modeling_qwen2.Qwen2RotaryEmbedding),
        "qwen3": (Qwen3Config, modeling_qwen3.Qwen3Attention, modeling_qwen3.Qwen3RotaryEmbedding),
        "mistral": (MistralConfig, modeling_mistral.MistralAttention, modeling_mistral.MistralRotaryEmbedding),
    }[kind.split()[0]]
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": n_kv_heads, "head_dim": 8, "num_hidden_layers": 1}
    config = config_class(**sizes, **KINDS[kind], vocab_size=8, attn_implementation="sdpa")
    torch.manual_seed(0)
    theirs = attention(config, 0)
    qkv_bias = theirs.q_proj.bias is not None
    norms = {name: nn.RMSNorm(8, eps=config.rms_norm_eps) for name in ("q_norm", "k_norm")} if kind == "qwen3" else {}
    ours = GroupedQueryAttention(
        24, 4, n_kv_heads, head_width=8, bias=qkv_bias, out_bias=theirs.o_proj.bias is not None,
        rope=RoPE(8, base=config.rope_parameters["rope_theta"]), window=KINDS[kind].get("sliding_window"), **norms,
    )  # fmt: skip
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.copy_(torch.randn(p.shape) * 0.3 + ("norm" in name))
    assert list(ours.state_dict()) == [name for name in ours.state_dict() if name in theirs.state_dict()]
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 9, 24)
    for padding in (0, 3):
        places = (torch.arange(9) - torch.tensor([[0], [padding]])).clamp(min=-1)
        seen = None if not padding else (places >= 0).long()
        build = create_sliding_window_causal_mask if "sliding_window" in KINDS[kind] else create_causal_mask
        mask = build(config, x, seen, None, position_ids=torch.arange(9)[None], allow_is_causal_skip=False)  # theirs, not ours

        def run_theirs(x: Tensor, places: Tensor = places, mask: Tensor = mask) -> Tensor:
            turn = rotary(config)(x, places.clamp(min=0))
            return theirs(x, position_embeddings=turn, attention_mask=mask)[0]

        real = (places >= 0)[..., None]  # what they make of a padded row is theirs alone
        for where in [{"positions": places}] if padding else [{"positions": places}, {}]:
            got = with_gradients(lambda x, where=where: ours(x, **where) * real, x)  # noqa: B023
            torch.testing.assert_close(got, with_gradients(lambda x: run_theirs(x) * real, x), rtol=1e-5, atol=1e-5)  # noqa: B023


# ---- bad input


class Answers(ListLayer):
    "A cache that answers something else."

    def __init__(self, **changed: Any) -> None:
        super().__init__(torch.arange(9))
        self.changed = changed

    def answer(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        names = ("k", "v", "places", "texts")
        answer = dict(zip(names, super().answer()))
        return tuple(change(answer[name]) if (change := self.changed.get(name)) else answer[name] for name in names)  # type: ignore[return-value]


class Whole:
    "A cache of all layers."

    def layer(self, i: int) -> LayerCache:
        return ListLayer(torch.arange(9))


BUILD: list[tuple[dict, str]] = [
    ({"n_heads": 6, "n_kv_heads": 4}, "n_heads=6 is not a multiple of n_kv_heads=4; .* serves n_heads/n_kv_heads query heads. Try n_kv_heads=3"),
    ({"n_heads": 6, "n_kv_heads": 12}, "n_heads=6 is not a multiple of n_kv_heads=12; .* Try n_kv_heads=6"),
    ({"n_heads": 5}, "width=12 is not a multiple of n_heads=5.* Try n_heads=4, or say head_width, such as head_width=2"),
    ({"n_heads": 0}, "n_heads=0.*try n_heads=1"),
    ({"n_kv_heads": 0}, "n_kv_heads=0.*try n_kv_heads=1"),
    ({"head_width": 0}, "head_width=0.*try head_width=1"),
    ({"window": 0}, "window=0, but a query sees at least itself: try window=1"),
    ({"window": 3, "causal": False}, "window=3 with causal=False.*try causal=True"),
]


@pytest.mark.parametrize("options, says", BUILD)
def test_layers_that_cannot_be(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GroupedQueryAttention(**{"width": 12, "n_heads": 6, **options})


def test_rope_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"rope turns 4 numbers a head, which has 6; try RoPE\(6\)"):
        GroupedQueryAttention(12, 2, rope=RoPE(4))
    with pytest.raises(ValueError, match="odd|even"):  # heads of odd width have no pairs: RoPE itself says so
        GroupedQueryAttention(15, 3, rope=RoPE(5))


CALL: list[tuple[dict, str]] = [
    ({"x": torch.zeros(5, 12)}, r"x has shape \(5, 12\); expected \(B,T,D\) with D=12; one text is x\[None\]"),
    ({"x": torch.zeros(2, 5, 10)}, "expected .* with D=12"),
    ({"x": torch.zeros(2, 5, 12, dtype=torch.long)}, r"x is torch.int64; .* try x.float\(\)"),
    ({"positions": torch.arange(4)}, r"positions has shape \(4,\), and x B=2 texts of 5 tokens; expected \(5,\) .* or \(2, 5\)"),
    ({"positions": torch.zeros(3, 5, dtype=torch.long)}, r"positions has shape \(3, 5\)"),
    ({"positions": torch.zeros(1, 5, dtype=torch.long)}, r"positions has shape \(1, 5\)"),
    ({"positions": torch.zeros(5)}, "whole numbers"),
    ({"documents": torch.zeros(2, 4, dtype=torch.long)}, r"documents has shape \(2, 4\)"),
    ({"documents": torch.zeros(5)}, "whole numbers"),
    ({"cache": Whole()}, r"cache is a cache of all layers.*try cache.layer\(i\)"),
    ({"cache": ListLayer}, "cache is the class ListLayer; expected an object of it"),
    ({"cache": []}, r"cache is list; expected positions\(T\) and update\(k, v\)"),
    ({"cache": ListLayer(torch.arange(9)), "positions": torch.arange(5)}, "positions beside a cache.*leave positions out"),
    ({"cache": ListLayer(torch.arange(9)), "documents": torch.zeros(5, dtype=torch.long)}, "the layer is told documents and the cache knows none"),
    ({"cache": ListLayer(torch.arange(9), torch.zeros(9, dtype=torch.long))}, "the cache knows documents and the layer is told none"),
    ({"cache": ListLayer(torch.arange(3))}, r"the cache's positions has shape \(3,\).*expected \(5,\)"),
    ({"cache": Answers(k=lambda k: k.repeat_interleave(3, 1))}, r"the cache answers keys \(2, 6, 5, 2\).*not repeated: \(B,K,S,H\) with B=2, K=2, H=2"),
    ({"cache": Answers(v=lambda v: v[:, :, :3])}, r"values \(2, 2, 3, 2\)"),
    ({"cache": Answers(k=lambda k: k.transpose(1, 2))}, r"the cache answers keys \(2, 5, 2, 2\)"),
    ({"cache": Answers(k=lambda k: k[0])}, r"the cache answers keys \(2, 5, 2\)"),
    ({"cache": Answers(places=lambda p: p[:3])}, r"key_positions has shape \(3,\), and the cache B=2 texts of 5 tokens"),
    ({"cache": Answers(texts=lambda _: torch.zeros(3, dtype=torch.long)), "documents": torch.zeros(5, dtype=torch.long)}, "key_documents has shape"),
    ({"cache": Answers(k=lambda k: k.half())}, "q is torch.float32 on cpu, k is torch.float16"),
]


@pytest.mark.parametrize("options, says", CALL)
def test_calls_that_cannot_be(options: dict, says: str) -> None:
    layer = GroupedQueryAttention(12, 6, 2)
    with pytest.raises(ValueError, match=says):
        layer(**{"x": torch.zeros(2, 5, 12), **options})


def test_an_encoder_has_no_cache() -> None:
    with pytest.raises(ValueError, match="cache with causal=False"):
        GroupedQueryAttention(12, 6, causal=False)(torch.zeros(1, 2, 12), cache=ListLayer(torch.arange(2)))


@pytest.mark.parametrize("name", ["q_norm", "k_norm"])
@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm, RMSNorm])
def test_norms_of_another_width(name: str, norm: type[nn.Module]) -> None:
    "Over all heads, as some models do, or over D: said when the layer is built."
    with pytest.raises(ValueError, match=rf"{name} norms 12 numbers, and a head has 2; try {norm.__name__}\(2\)"):
        GroupedQueryAttention(12, 6, 2, **{name: norm(12)})
    GroupedQueryAttention(12, 6, 2, **{name: norm(2)})
    GroupedQueryAttention(12, 6, 2, **{name: nn.RMSNorm(2, elementwise_affine=False)})


@pytest.mark.parametrize("name, value", [("head_width", 1.5), ("n_layers", 0), ("n_kv_heads", -1), ("head_width", 0), ("length", -1), ("batch_size", 0), ("window", 0)])
def test_sizes_that_cannot_be(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}={value};.*try {name}=1"):
        kv_cache_bytes(**{"n_layers": 1, "n_kv_heads": 1, "head_width": 1, "length": 1, name: value})


# ---- looking, swapping, pooling


def test_looking_is_swapping() -> None:
    "A function that keeps the weights sees N heads, whatever K is, and the layer's result stays the same."
    layer, x, seen = random_layer(0), torch.randn(2, 5, 12, dtype=torch.float64), []

    def looking(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.append(attention_weights(q, k, **options))
        return scaled_dot_product_attention(q, k, v, **options)

    right, layer.attend = layer(x), looking
    torch.testing.assert_close(layer(x), right)
    assert seen[0].shape == (2, 6, 5, 5) and seen[0].triu(1).abs().sum() == 0


@pytest.mark.parametrize("attend", [scaled_dot_product_attention, flash_attention, fused_attention])
def test_every_attend_is_the_same(attend: Attend) -> None:
    for seed in range(3):
        layer, x = random_layer(seed, window=3), torch.randn(2, 6, 12, dtype=torch.float64)
        right = torch.stack([by_definition(layer, row) for row in x])
        layer.attend = attend
        torch.testing.assert_close(layer(x), right)


def test_takes_groups_marks() -> None:
    shapes = []

    @takes_groups
    def mine(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(k.shape))
        return fused_attention(q, k, v, **options)

    layer = GroupedQueryAttention(12, 6, 2, attend=mine)
    layer(torch.zeros(2, 5, 12))
    assert shapes == [(2, 2, 5, 2)]


def test_what_takes_no_mark() -> None:
    "A method of an object and a builtin: an error that says what to do; a method marked in its class is fine."

    class Mine:
        def attend(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
            return fused_attention(q, k, v, **options)

        marked = takes_groups(attend)

    for function in (Mine().attend, torch.matmul):
        with pytest.raises(ValueError, match="takes no mark; write a `def`"):
            takes_groups(function)  # type: ignore[arg-type]
    assert Mine().marked.takes_groups


def test_attend_may_be_a_module() -> None:
    "Then it is a part of the layer; to put a function there again, take it out first."

    class Mine(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
            return scaled_dot_product_attention(q, k, v, **options)

    layer, x = GroupedQueryAttention(12, 6, 2), torch.randn(2, 5, 12)
    right = layer(x)
    layer.attend = Mine()
    torch.testing.assert_close(layer(x), right)
    del layer.attend
    layer.attend = fused_attention
    assert torch.equal(layer(x), right)


def test_pool_heads() -> None:
    "The mean of neighbours, by loops; equal heads lose nothing; a pooled layer is one whose heads are means."
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6 * 4, 12, generator=generator)
    for K in (1, 2, 3, 6):
        G = 6 // K
        by_hand = torch.cat([sum(weight[(m * G + g) * 4 : (m * G + g + 1) * 4] for g in range(G)) / G for m in range(K)])
        torch.testing.assert_close(pool_heads(weight, 6, K), by_hand)
        torch.testing.assert_close(pool_heads(weight[:, 0], 6, K), by_hand[:, 0])
    few = torch.randn(2 * 4, 12, generator=generator)
    torch.testing.assert_close(pool_heads(few.view(2, 4, 12).repeat_interleave(3, 0).flatten(0, 1), 6, 2), few)
    for heads, K, rows in ((6, 4, 24), (6, 0, 24), (0, 1, 24), (5, 1, 24)):
        with pytest.raises(ValueError, match="n_kv_heads that divides heads"):
            pool_heads(weight[:rows], heads, K)
