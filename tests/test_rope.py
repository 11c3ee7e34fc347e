"""Rotary positions: equal to transformers (rotation, gradients, speeds of every scaling, ALiBi); relative for all positions; tables, formats,
devices and copies; errors; and mutants, each caught by a visible test of the chapter.
"""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from chapters import chapter_function
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chapters import assert_noticed
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from minillm.attention import causal_mask, flash_attention, mask_rule, scaled_dot_product_attention
from minillm.rope import (
    ALiBi,
    LinearScaling,
    Llama3Scaling,
    NTKScaling,
    RoPE,
    RopeScaling,
    YaRNScaling,
    _hands,
    explore_rope,
    half_to_interleaved,
    interleaved_to_half,
    rope_frequencies,
)

PAIRINGS = ("half", "interleaved")
pairings = pytest.mark.parametrize("pairing", PAIRINGS)
PERFORMANCE = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of addcmul_ under vmap


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    "The result, and the gradient in x of a fixed mixture of it."
    x = x.detach().clone().requires_grad_()
    out = function(x)
    weigh = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    return out.detach(), torch.autograd.grad((out * weigh).sum(), x)[0]


def equal(ours: Any, theirs: Any, atol: float = 2e-6) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=atol)


# ---- equal to transformers


def llama_config(head_width: int, base: float, longest: int = 4096, **parameters: Any) -> Any:
    from transformers import LlamaConfig

    sizes = {"hidden_size": 2 * head_width, "num_attention_heads": 2, "head_dim": head_width}
    rope = {"rope_type": "default", "rope_theta": base} | parameters
    return LlamaConfig(**sizes, max_position_embeddings=longest, rope_parameters=rope)


def llama(head_width: int, base: float = 10_000.0, **parameters: Any) -> Callable[[Tensor, Tensor], Tensor]:
    "x (B,N,T,H), positions (B,T) → what transformers' Llama makes of them."
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    module = LlamaRotaryEmbedding(llama_config(head_width, base, **parameters))
    return lambda x, positions: apply_rotary_pos_emb(x, x, *module(x, positions))[0]


def gpt_neox(head_width: int, share: float) -> Callable[[Tensor, Tensor], Tensor]:
    from transformers import GPTNeoXConfig
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding, apply_rotary_pos_emb

    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": share}
    module = GPTNeoXRotaryEmbedding(
        GPTNeoXConfig(hidden_size=2 * head_width, num_attention_heads=2, rope_parameters=rope)
    )
    return lambda x, positions: apply_rotary_pos_emb(x, x, *module(x, positions))[0]


def gpt_j(rotary_width: int) -> Callable[[Tensor, Tensor], Tensor]:
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

    def apply(x: Tensor, positions: Tensor) -> Tensor:
        sin, cos = create_sinusoidal_positions(4096, rotary_width)[positions].chunk(2, dim=-1)
        turned = apply_rotary_pos_emb(x.transpose(1, 2)[..., :rotary_width], sin, cos).transpose(1, 2)
        return torch.cat([turned, x[..., rotary_width:]], dim=-1)

    return apply


def glm(head_width: int) -> Callable[[Tensor, Tensor], Tensor]:
    from transformers.models.glm4.modeling_glm4 import apply_rotary_pos_emb

    def apply(x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[..., None] * rope_frequencies(head_width)
        twice = torch.cat([angles, angles], dim=-1)
        return apply_rotary_pos_emb(x, x, twice.cos(), twice.sin())[0]

    return apply


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_rotation_equals_transformers(data: st.DataObject) -> None:
    "Results and gradients for Llama, GPT-NeoX, GPT-J and GLM-4, over random shapes, positions and bases."
    B, N, T, pairs = (data.draw(st.integers(1, 4)) for _ in range(4))
    H, rotary = 2 * pairs + 4, 2 * pairs + 2
    base = data.draw(st.sampled_from([100.0, 10_000.0, 500_000.0]))
    positions = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(0, 40), min_size=T, max_size=T), min_size=B, max_size=B))
    )
    x = random(B, N, T, H, seed=data.draw(st.integers(0, 99)))
    cases = {
        "llama": (RoPE(H, base=base), llama(H, base)),
        "gpt-neox": (RoPE(H, rotary_width=rotary), gpt_neox(H, (rotary + 0.5) / H)),
        "gpt-j": (RoPE(H, pairing="interleaved", rotary_width=rotary), gpt_j(rotary)),
        "glm": (RoPE(H, pairing="interleaved"), glm(H)),
    }
    ours, theirs = cases[data.draw(st.sampled_from(sorted(cases)))]
    equal(
        with_gradient(lambda x: ours(x, positions), x), with_gradient(lambda x: theirs(x, positions), x), atol=1e-5
    )


def their_speeds(
    kind: str, head_width: int, base: float, seq_len: int | None = None, **parameters: Any
) -> tuple[Tensor, float]:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = llama_config(head_width, base, **({"rope_type": kind} | parameters))
    return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=seq_len)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_speeds_equal_transformers(data: st.DataObject) -> None:
    "Every scaling against ROPE_INIT_FUNCTIONS, over random widths, bases, factors and trained lengths."
    H = 2 * data.draw(st.integers(2, 64))
    base = data.draw(st.sampled_from([1000.0, 10_000.0, 150_000.0, 1_000_000.0]))
    factor = data.draw(st.floats(1, 64, allow_nan=False))
    context = data.draw(st.integers(256, 32_768))
    kind = data.draw(st.sampled_from(["linear", "dynamic", "yarn", "llama3"]))
    scaling: RopeScaling
    if kind == "linear":
        scaling, (theirs, size) = LinearScaling(factor), their_speeds(kind, H, base, factor=factor)
    elif kind == "dynamic":  # at a length of `factor` times the maximum of 4096
        scaling, (theirs, size) = (
            NTKScaling(2 * factor - 1),
            their_speeds(kind, H, base, int(4096 * factor), factor=2.0),
        )
        scaling = NTKScaling(2 * (int(4096 * factor) / 4096) - 1)
    elif kind == "yarn":
        fast, slow = data.draw(st.sampled_from([(32, 1), (16, 2), (8, 0.5)]))
        truncate = data.draw(st.booleans())
        scaling = YaRNScaling(factor, context, fast, slow, truncate=truncate)
        given_there = {"factor": factor, "original_max_position_embeddings": context, "truncate": truncate}
        theirs, size = their_speeds(kind, H, base, beta_fast=fast, beta_slow=slow, **given_there)
    else:
        low, high = data.draw(st.sampled_from([(1.0, 4.0), (0.5, 8.0)]))
        scaling = Llama3Scaling(factor, context, low, high)
        given_there = {"factor": factor, "original_max_position_embeddings": context}
        theirs, size = their_speeds(kind, H, base, low_freq_factor=low, high_freq_factor=high, **given_there)
    torch.testing.assert_close(rope_frequencies(H, base, scaling), theirs, rtol=2e-6, atol=0)
    assert getattr(scaling, "magnitude", 1.0) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize("H", [2, 6, 64, 128, 256])
@pytest.mark.parametrize("base", [10_000, 10_000.0, 500_000.0, 1_000_000.0])
def test_unscaled_speeds_are_those_of_transformers_to_the_bit(H: int, base: float) -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs, size = LlamaRotaryEmbedding.compute_default_rope_parameters(llama_config(H, base))
    assert torch.equal(rope_frequencies(H, base), theirs) and size == 1.0


def test_published_settings() -> None:
    "Llama 3.1's and gpt-oss's, through the whole rotation; YaRN's factor on queries and keys is in it."
    x, positions = random(1, 2, 6, 64), torch.tensor([[0, 1, 2, 17, 50, 99]])
    meta = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    ours = RoPE(64, base=500_000.0, scaling=Llama3Scaling())
    equal(ours(x, positions), llama(64, 500_000.0, rope_type="llama3", **meta)(x, positions), atol=1e-5)
    openai = {
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    }
    ours = RoPE(64, base=150_000.0, scaling=YaRNScaling(32.0, 4096, truncate=False))
    equal(ours(x, positions), llama(64, 150_000.0, rope_type="yarn", **openai)(x, positions), atol=2e-5)
    fixed = RoPE(64, scaling=YaRNScaling(4.0, 2048, attention_factor=0.5))
    torch.testing.assert_close(fixed(x, positions).norm(dim=-1), x.norm(dim=-1) / 2)


def test_far_positions_differ_from_transformers_by_its_float32_angles_alone() -> None:
    "Its angles are float32 products: off by at most half a unit in the last of 24 digits. Ours are float64."
    x, positions = (
        random(1, 1, 8, 64, dtype=torch.float64),
        torch.tensor([[1, 50, 511, 1000, 4001, 30_001, 65_537, 131_071]]),
    )
    ours, theirs = RoPE(64)(x, positions), llama(64)(x.float(), positions).double()
    allowed = (positions * 2.0**-24 + 2e-6)[..., None, :, None] * x.unflatten(-1, (2, 32)).norm(dim=-2).repeat(
        1, 1, 1, 2
    )
    assert ((ours - theirs).abs() <= 1.5 * allowed).all()
    assert (ours - theirs).abs()[..., -1, :].max() > 1e-4, "and that is what they are off by"


# ---- what a rotation must be


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    t=st.integers(-5, 100_000),
    s=st.integers(-5, 100_000),
    by=st.integers(0, 1_000_000),
    pairing=st.sampled_from(PAIRINGS),
    H=st.sampled_from([2, 8, 10]),
    seed=st.integers(0, 99),
)
def test_scores_depend_on_distance_alone(t: int, s: int, by: int, pairing: str, H: int, seed: int) -> None:
    rope, (q, k) = RoPE(H, pairing=pairing), random(2, 1, H, seed=seed, dtype=torch.float64)

    def score(t: int, s: int) -> Tensor:
        return (rope(q, torch.tensor([t])) * rope(k, torch.tensor([s]))).sum()

    torch.testing.assert_close(score(t + by, s + by), score(t, s), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(score(t, s), score(t - s, 0), rtol=1e-7, atol=1e-8)


@pairings
def test_turns_add_up_keep_lengths_and_can_be_undone(pairing: str) -> None:
    rope, x = RoPE(12, pairing=pairing, rotary_width=8), random(2, 3, 5, 12, dtype=torch.float64)
    a, b = torch.tensor([0, 3, 9, 700, 9000]), torch.tensor([4, 4, 1, 2, 9000])
    torch.testing.assert_close(rope(rope(x, a), b), rope(x, a + b))
    torch.testing.assert_close(rope(rope(x, a), -a), x)
    torch.testing.assert_close(rope(x, a).norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rope(x, torch.zeros(5, dtype=torch.int64)), x)


@pairings
def test_equal_to_the_loop(pairing: str) -> None:
    loop = chapter_function("23_rope", "rope_loop")
    x, positions = random(4, 6, dtype=torch.float64), torch.tensor([0, 1, 77, 20_000])
    order = half_to_interleaved(6) if pairing == "half" else torch.arange(6)
    expected = torch.tensor(
        [loop(row, p) for row, p in zip(x[:, order].tolist(), positions.tolist())], dtype=torch.float64
    )
    got = RoPE(6, pairing=pairing)(x, positions)[:, order]
    torch.testing.assert_close(
        got, expected, rtol=0, atol=20_000 * 2.0**-23
    )  # the loop's speeds are not rounded to float32


@settings(max_examples=40, deadline=None, derandomize=True)
@given(pairs=st.integers(1, 20), rest=st.integers(0, 5), seed=st.integers(0, 99))
def test_permutations(pairs: int, rest: int, seed: int) -> None:
    width, H = 2 * pairs, 2 * pairs + rest
    there, back = half_to_interleaved(H, width), interleaved_to_half(H, width)
    assert sorted(there.tolist()) == list(range(H)) and torch.equal(there[back], torch.arange(H))
    x, positions = random(3, H, seed=seed), torch.tensor([1, 5, 60])
    half, interleaved = (RoPE(width + rest, rotary_width=width, pairing=pairing) for pairing in PAIRINGS)
    torch.testing.assert_close(half(x, positions)[:, there], interleaved(x[:, there], positions))


def test_the_permutation_of_llamas_conversion() -> None:
    "The step `permute` of transformers' script that made the published files, from its text."
    N, H, D = 3, 8, 24
    w = random(N * H, D)
    theirs = w.view(N, H // 2, 2, D).transpose(1, 2).reshape(N * H, D)
    assert torch.equal(w.view(N, H, D)[:, interleaved_to_half(H)].view(N * H, D), theirs)


# ---- gradients, transforms, formats


@pairings
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "expanded", "sliced"])
def test_gradients(pairing: str, layout: str) -> None:
    rope, positions = (
        RoPE(7, rotary_width=4, pairing=pairing, scaling=YaRNScaling(4, 100)),
        torch.tensor([0, 3, 9000]),
    )
    shaped = {
        "contiguous": lambda x: x,
        "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "expanded": lambda x: x[:, :1].expand(-1, 2, -1, -1),
        "sliced": lambda x: torch.cat([x, x], -1)[..., 3:10],
    }[layout]
    x = random(1, 2, 3, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rope(shaped(x), positions), x)
    assert torch.autograd.gradgradcheck(lambda x: rope(shaped(x), positions), x)


@PERFORMANCE
@pairings
def test_torch_func(pairing: str) -> None:
    rope, x, positions = RoPE(4, pairing=pairing), random(3, 2, 5, 4), torch.arange(5)
    torch.testing.assert_close(torch.func.vmap(lambda x: rope(x, positions))(x), rope(x, positions))
    loss = lambda x: (rope(x, positions) ** 3).sum()
    per_sample = torch.func.vmap(torch.func.grad(loss))(x)
    torch.testing.assert_close(
        per_sample, with_gradient(lambda x: (rope(x, positions) ** 3).sum()[None], x)[1] * -1
    )


@PERFORMANCE
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by torch.func.jacfwd
@pairings
def test_second_derivatives_in_every_order(pairing: str) -> None:
    rope, x, positions = RoPE(4, pairing=pairing), random(2, 4, dtype=torch.float64), torch.tensor([3, 9000])
    loss = lambda x: (rope(x, positions) ** 3).sum()
    plain = torch.autograd.functional.hessian(loss, x)
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        for inner in (torch.func.jacfwd, torch.func.jacrev):
            torch.testing.assert_close(outer(inner(loss))(x), plain)
    torch.testing.assert_close(torch.func.hessian(loss)(x), plain)


@PERFORMANCE
def test_positions_that_cannot_be_read() -> None:
    "Under vmap over positions, and with fake tensors, nothing is looked up."
    rope, x, positions = RoPE(8), random(3, 2, 5, 8), torch.tensor([[0, 1, 2, 3, 4], [7, 8, -1, 0, 1], [4, 3, 2, 1, 0]])
    torch.testing.assert_close(torch.func.vmap(rope)(x, positions), rope(x, positions))
    with FakeTensorMode():
        shape = RoPE(8)(torch.empty(3, 2, 5, 8), torch.arange(5)).shape
    assert shape == (3, 2, 5, 8)


def test_what_the_table_came_of_is_fixed() -> None:
    rope = RoPE(8, scaling=LinearScaling(2.0))
    changes = {"base": 5.0, "scaling": None, "frequencies": torch.ones(4), "rotary_width": 4}
    for name, value in changes.items():
        with pytest.raises(AttributeError, match=f"{name} of a RoPE is fixed"):
            setattr(rope, name, value)
    rope.train().note = "other attributes are free"
    assert torch.equal(copy.deepcopy(rope).frequencies, rope.frequencies)


def test_other_whole_numbers_and_formats_are_taken() -> None:
    assert torch.equal(rope_frequencies(np.int64(8)), rope_frequencies(8))
    assert torch.equal(half_to_interleaved(np.int64(8)), half_to_interleaved(8))
    doubled = rope_frequencies(8, scaling=lambda f, base: f.double() / 3)
    assert doubled.dtype == torch.float32 and torch.equal(doubled, (rope_frequencies(8).double() / 3).float())


@pairings
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_rounded_once(pairing: str, dtype: torch.dtype) -> None:
    rope, x, positions = (
        RoPE(8, pairing=pairing),
        random(1, 2, 4, 8, dtype=dtype),
        torch.tensor([0, 7, 1001, 131_071]),
    )
    assert torch.equal(rope(x, positions), rope(x.float(), positions).to(dtype))
    out, gradient = with_gradient(lambda x: rope(x, positions).float(), x)
    assert gradient.dtype == dtype
    wide = with_gradient(lambda x: rope(x, positions), x.float())[1]
    torch.testing.assert_close(gradient.float(), wide, rtol=2.0**-7, atol=2.0**-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rope(x, positions), rope(x.float(), positions).to(dtype))
        assert rope(x.float(), positions).dtype == torch.float32


def test_casting_a_model_leaves_the_speeds_alone() -> None:
    model = torch.nn.ModuleDict({"rope": RoPE(64), "alibi": ALiBi(12)})
    x, positions = random(1, 1, 2, 64), torch.tensor([5000, 7000])
    before, bias = model["rope"](x, positions), model["alibi"](positions)
    for cast in (model.bfloat16(), model.half(), model.double(), model.to(torch.float32)):
        assert torch.equal(cast["rope"](x, positions), before) and torch.equal(cast["alibi"](positions), bias)


# ---- tables, copies, devices


@pairings
def test_the_table_says_what_would_be_computed(pairing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    "In any order of growth, at its borders, for one and many; beyond it, and below it, everything is computed."
    import minillm.rope

    seen, x = RoPE(8, pairing=pairing), random(1, 8)
    places = [
        -3,
        -2,
        -1,
        0,
        1,
        253,
        254,
        255,
        256,
        510,
        511,
        512,
        4094,
        4095,
        8189,
        8190,
        8191,
        8192,
        10**9,
        0,
        -1,
    ]
    from_table = [seen(x, torch.tensor([p])) for p in places]
    again = [seen(x, torch.tensor([p])) for p in places]
    monkeypatch.setattr(minillm.rope, "_TABLE_ROWS", 0)
    direct = [RoPE(8, pairing=pairing)(x, torch.tensor([p])) for p in places]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(from_table, direct, again))
    assert {len(table) for table in seen._tables.values()} == {8192}


def test_no_table_grows_with_a_far_position() -> None:
    rope = RoPE(8)
    rope(random(2, 8), torch.tensor([0, 10**12]))
    assert not rope._tables


def test_copies_pickles_and_state() -> None:
    rope, x, positions = RoPE(8, scaling=YaRNScaling(4, 1000)), random(3, 8), torch.tensor([0, 4, 300])
    expected = rope(x, positions)
    assert not rope.state_dict() and not list(rope.parameters()) and not list(rope.buffers())
    stored = io.BytesIO()
    torch.save(rope, stored)
    stored.seek(0)
    for other in (copy.deepcopy(rope), torch.load(stored, weights_only=False), rope.to("cpu")):
        assert torch.equal(other(x, positions), expected) and other.scaling == rope.scaling
    rope.load_state_dict({}, strict=True)


def test_meta_device() -> None:
    "A model made on the meta device gives shapes there, and right numbers once it is materialised."
    with torch.device("meta"):
        rope = RoPE(8, scaling=Llama3Scaling())
        alibi = ALiBi(6)
        assert rope(torch.empty(2, 3, 5, 8), torch.arange(5)).shape == (2, 3, 5, 8)
        assert alibi(torch.arange(5)).shape == (6, 5, 5)
    x = random(1, 1, 4, 8)
    ready = rope.to_empty(device="cpu")
    assert torch.equal(ready(x, torch.arange(4)), RoPE(8, scaling=Llama3Scaling())(x, torch.arange(4)))
    assert torch.equal(alibi(torch.arange(4)), ALiBi(6)(torch.arange(4)))


def test_a_table_made_in_inference_mode_serves_training() -> None:
    with torch.inference_mode():
        rope = RoPE(8)
        rope(random(2, 8), torch.arange(2))
    x = random(2, 8).requires_grad_()
    rope(x, torch.arange(2)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pairings
def test_compiles_into_one_graph(pairing: str) -> None:
    torch.compiler.reset()
    rope, x = RoPE(8, pairing=pairing, rotary_width=6), random(2, 3, 5, 8)
    compiled = torch.compile(rope, backend="aot_eager", fullgraph=True)
    for positions in (torch.arange(5), torch.tensor([[0, 1, 2, -1, -1], [900, 901, 902, 10**6, 0]])):
        ours = with_gradient(lambda x, positions=positions: compiled(x, positions), x)
        equal(ours, with_gradient(lambda x, positions=positions: rope(x, positions), x))


def test_only_cosines_and_sines_are_kept_for_the_backward_pass() -> None:
    rope, kept = RoPE(32), []
    x = random(4, 8, 64, 32).requires_grad_()

    def note(saved: Tensor) -> Tensor:
        kept.append(saved.untyped_storage().nbytes())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        rope(x, torch.arange(64))
    assert max(kept) == 64 * 32 * 4 and len(kept) == 2  # two views of one (T,H)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.uint16, torch.uint64, torch.int64])
def test_whole_numbers_of_any_kind(dtype: torch.dtype) -> None:
    rope, x, positions = RoPE(8), random(3, 8), torch.tensor([2, 0, 9])
    assert torch.equal(rope(x, positions.to(dtype)), rope(x, positions))
    assert torch.equal(ALiBi(4)(positions.to(dtype)), ALiBi(4)(positions))


def test_nothing_to_turn() -> None:
    assert RoPE(8)(torch.zeros(1, 2, 0, 8), torch.arange(0)).shape == (1, 2, 0, 8)
    assert RoPE(8)(torch.zeros(0, 2, 3, 8), torch.arange(3)).shape == (0, 2, 3, 8)


# ---- ALiBi


@pytest.mark.parametrize("n_heads", [*range(1, 41), 64, 71, 112, 128])
def test_slopes_equal_blooms(n_heads: int) -> None:
    "transformers' build_alibi_tensor gives slope · position of the key, (N,1,S)."
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 9, dtype=torch.int64), n_heads, torch.float32)  # (N,1,S)
    torch.testing.assert_close(torch.tensor(ALiBi(n_heads).slopes), theirs[:, 0, 1], rtol=1e-6, atol=0)
    ours = ALiBi(n_heads)(torch.arange(9))  # (N,T,S); rows differ from BLOOM's by a number for each row
    seen = torch.ones(9, 9).tril().bool()
    shifted = (ours - theirs).masked_fill(~seen, torch.nan)
    torch.testing.assert_close(
        shifted.nanmean(-1, keepdim=True).expand_as(shifted)[:, seen], shifted[:, seen], atol=1e-5, rtol=1e-5
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_alibi_dense_tiled_and_by_definition(data: st.DataObject) -> None:
    B, N, T, S = (data.draw(st.integers(1, n)) for n in (2, 5, 6, 9))
    places = st.integers(-1, 20)

    def draw(n: int, batched: bool) -> Tensor:
        rows = data.draw(st.lists(st.lists(places, min_size=n, max_size=n), min_size=B, max_size=B))
        return torch.tensor(rows) if batched else torch.tensor(rows[0])

    here, there = draw(T, data.draw(st.booleans())), draw(S, data.draw(st.booleans()))
    alibi = ALiBi(N)
    bias = alibi(here, there)
    assert bias.shape == ((N, T, S) if here.ndim == there.ndim == 1 else (B, N, T, S))
    for b in range(B):
        for n, t, s in ((n, t, s) for n in range(N) for t in range(T) for s in range(S)):
            query, key = (x[b] if x.ndim == 2 else x for x in (here, there))
            one = bias[b] if bias.ndim == 4 else bias
            assert one[n, t, s].item() == pytest.approx(-alibi.slopes[n] * abs(int(query[t]) - int(key[s])))
    q, k, v = random(B, N, T, 4), random(B, N, S, 4, seed=1), random(B, N, S, 3, seed=2)
    dense = scaled_dot_product_attention(q, k, v, bias=bias, mask=causal_mask(here, there))
    tiled = flash_attention(q, k, v, bias=alibi.rule(here, there), mask=mask_rule(here, there), tile=3)
    torch.testing.assert_close(tiled, dense)


# ---- errors: what came, what was expected, what to try


def bad_turn(x: Tensor, positions: Tensor) -> Callable[[], object]:
    return lambda: RoPE(8)(x, positions)


ERRORS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "odd width": (lambda: RoPE(33), ["33", "even", "try 32"]),
    "a width that is no int": (lambda: rope_frequencies(128 / 2), ["64.0", "try 64"]),
    "width 0": (lambda: RoPE(0), ["0 numbers", "try 2"]),
    "unknown pairing": (lambda: RoPE(8, pairing="neox"), ["'neox'", "'half'", "'interleaved'"]),
    "a part too large": (lambda: RoPE(8, rotary_width=10), ["10", "head_width=8"]),
    "a part of nothing": (lambda: RoPE(8, rotary_width=0), ["rotary_width=0", "None"]),
    "an odd part": (lambda: RoPE(8, rotary_width=5), ["5 numbers", "try 4"]),
    "base 1": (lambda: RoPE(8, base=1.0), ["base=1.0", "base > 1", "10_000.0"]),
    "base below 0": (lambda: RoPE(8, base=-10_000.0), ["base=-10000.0"]),
    "base nan": (lambda: RoPE(8, base=math.nan), ["base=nan"]),
    "base inf": (lambda: RoPE(8, base=math.inf), ["base=inf"]),
    "scaling of another width": (lambda: RoPE(8, scaling=lambda f, base: f[:2]), ["4 finite frequencies"]),
    "scaling to a list": (lambda: RoPE(8, scaling=lambda f, base: f.tolist()), ["a tensor of 4 finite"]),
    "scaling to nan": (lambda: RoPE(8, scaling=lambda f, base: f * math.nan), ["4 finite frequencies"]),
    "float positions": (
        bad_turn(random(3, 8), torch.arange(3) / 2),
        ["torch.float32", "whole numbers", "LinearScaling"],
    ),
    "boolean positions": (bad_turn(random(3, 8), torch.tensor([True, True, False])), ["torch.bool"]),
    "too few positions": (bad_turn(random(1, 2, 3, 8), torch.arange(2)), ["(2,)", "(1, 2, 3, 8)", "torch.arange"]),
    "a single position": (bad_turn(random(1, 2, 1, 8), torch.tensor(3)), ["()", "(T,)"]),
    "three axes": (bad_turn(random(1, 2, 3, 8), torch.zeros(1, 2, 3).long()), ["(1, 2, 3)", "(B,T)"]),
    "positions of another batch": (
        bad_turn(random(2, 1, 3, 8), torch.zeros(3, 3).long()),
        ["(3, 3)", "(2, 1, 3, 8)"],
    ),
    "positions (B,T) without heads": (
        bad_turn(random(2, 3, 8), torch.zeros(2, 3).long()),
        ["(B,N,T,H)", "(2, 3, 8)"],
    ),
    "another width": (bad_turn(random(3, 6), torch.arange(3)), ["(3, 6)", "H=8"]),
    "whole numbers to turn": (
        bad_turn(torch.ones(3, 8).long(), torch.arange(3)),
        ["torch.int64", "floating point"],
    ),
    "one axis": (bad_turn(random(8), torch.arange(1)), ["(8,)"]),
    "another device": (bad_turn(random(3, 8), torch.arange(3, device="meta")), ["meta", "positions.to(x.device)"]),
    "factor below 1": (lambda: LinearScaling(0.25), ["factor=0.25", "factor=2.0"]),
    "factor nan": (lambda: NTKScaling(math.nan), ["factor=nan"]),
    "NTK of one pair": (lambda: RoPE(2, scaling=NTKScaling(2.0)), ["needs two", "LinearScaling"]),
    "no context": (lambda: Llama3Scaling(2.0, 0), ["context=0", "context=2048"]),
    "a context without a turn": (lambda: YaRNScaling(2.0, 5), ["context=5", "LinearScaling"]),
    "YaRN's ramp the wrong way": (lambda: YaRNScaling(2.0, 2048, 1, 32), ["beta_fast=1", "32 and 1"]),
    "Llama's ramp the wrong way": (
        lambda: Llama3Scaling(2.0, 2048, 4.0, 1.0),
        ["low_freq_factor=4.0", "1.0 and 4.0"],
    ),
    "half a head": (lambda: ALiBi(8.0), ["n_heads=8.0", "try n_heads=8"]),
    "ALiBi of two and three texts": (
        lambda: ALiBi(2)(torch.zeros(2, 3).long(), torch.zeros(3, 4).long()),
        ["(2, 3)", "(3, 4)", "as many texts"],
    ),
    "complex places": (lambda: ALiBi(2)(torch.ones(3) * 1j), ["torch.complex64", "torch.arange(T)"]),
    "no heads": (lambda: ALiBi(0), ["n_heads=0", "n_heads=8"]),
    "places that are no numbers": (lambda: ALiBi(2)(torch.ones(3)), ["torch.float32", "torch.arange(T)"]),
    "places of three axes": (lambda: ALiBi(2)(torch.ones(1, 2, 3).long()), ["(1, 2, 3)"]),
    "a permutation of no whole width": (lambda: half_to_interleaved(8.0), ["8.0", "whole", "try 8"]),
    "an odd permutation": (lambda: half_to_interleaved(9), ["head_width=9", "even"]),
    "a permutation of more": (lambda: interleaved_to_half(8, 10), ["rotary_width=10", "at most 8"]),
    "explorer of many": (lambda: explore_rope(random(2, 8), random(2, 8)), ["(2, 8)", "(H,)"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_teach(name: str) -> None:
    call, words = ERRORS[name]
    with pytest.raises(ValueError) as caught:
        call()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{caught.value} lacks {missing}"


def test_a_rule_that_is_too_short_is_refused() -> None:
    q, k, v = random(3, 1, 2, 9, 4)
    with pytest.raises(ValueError, match="the scores"):
        flash_attention(q, k, v, bias=ALiBi(2).rule(torch.arange(5)), tile=4)


def test_scalings_are_values() -> None:
    "Equal when their numbers are, hashable, and no scaling changes a speed it was given."
    for scaling in (LinearScaling(2.0), NTKScaling(2.0), YaRNScaling(2.0, 999), Llama3Scaling()):
        assert scaling == copy.deepcopy(scaling) and len({scaling, copy.deepcopy(scaling)}) == 1
        given_speeds = rope_frequencies(16)
        scaling(given_speeds, 10_000.0)
        assert torch.equal(given_speeds, rope_frequencies(16))
    torch.testing.assert_close(rope_frequencies(16, scaling=YaRNScaling(1.0, 999)), rope_frequencies(16))
    assert YaRNScaling(1.0, 999).magnitude == 1.0


# ---- mutants: what the chapter's visible tests must catch

MUTANTS = {
    "turned backwards": ("out_first.addcmul_(second, sin, value=-1)", "out_first.addcmul_(second, sin)"),
    "one sine missing": ("    out_second.addcmul_(first, sin)  # b cos + a sin\n", ""),
    "pairings swapped": (
        '    if pairing == "interleaved":\n        return',
        '    if pairing == "half":\n        return',
    ),
    "cosines doubled the other way": ("torch.cat([cos, cos], -1)  # (…,T,R)", "cos.repeat_interleave(2, -1)"),
    "gradient not turned back": (
        "_Turn.apply(grad, cos, -sin, ctx.pairing)",
        "_Turn.apply(grad, cos, sin, ctx.pairing)",
    ),
    "speeds of half the width": (
        'torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu") / head_width',
        'torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu") / head_width * 2',
    ),
    "scaling forgotten": ("scaled = scaling(frequencies, base)", "scaled = frequencies"),
    "positions ignored": (
        "return self._tables[key][positions]",
        "return self._tables[key][torch.arange(positions.shape[-1])]",
    ),
    "batch of positions seen as heads": ("else waves[:, None]).chunk", "else waves[None]).chunk"),
    "rest turned away": (
        "torch.cat([turned, x[..., self.rotary_width :]], -1)",
        "torch.cat([turned, -x[..., self.rotary_width :]], -1)",
    ),
    "angles in float32": (
        "torch.float64)[..., None] * self.frequencies.to(where, torch.float64)",
        "torch.float32)[..., None] * self.frequencies.to(where, torch.float32)",
    ),
    "angles in bf16": (
        "size).to(positions.device, dtype)",
        "size).to(positions.device, torch.bfloat16).to(dtype)",
    ),
    "magnitude forgotten": ('getattr(self.scaling, "magnitude", 1.0)', "1.0"),
    "permutation the wrong way": (".view(2, -1).T.flatten()", ".view(-1, 2).T.flatten()"),
    "no inverse": (
        "half_to_interleaved(head_width, rotary_width).argsort()",
        "half_to_interleaved(head_width, rotary_width)",
    ),
    "linear multiplies": ("return frequencies / self.factor\n", "return frequencies * self.factor\n"),
    "NTK without the exponent": ("self.factor ** (H / (H - 2))", "self.factor"),
    "YaRN's ramp upside down": (
        "frequencies / self.factor * ramp + frequencies * (1 - ramp)",
        "frequencies * ramp + frequencies / self.factor * (1 - ramp)",
    ),
    "Llama's ramp upside down": (
        "(1 - keep) * frequencies / self.factor + keep * frequencies",
        "keep * frequencies / self.factor + (1 - keep) * frequencies",
    ),
    "wavelength without 2π": ("self.context / (2 * pi / frequencies)", "self.context * frequencies"),
    "slopes start at 1": ("for n in range(1, power + 1)]", "for n in range(power)]"),
    "slopes between too steep": ("(n - 0.5) / power", "n / (2 * power)"),
    "bias the wrong sign": ("return distance * -torch.tensor", "return distance * torch.tensor"),
    "distances in one direction": ("keys.long()[..., None, None, :]).abs()", "keys.long()[..., None, None, :])"),
    "attention_factor ignored": (
        "0.1 * log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor",
        "0.1 * log(self.factor) + 1.0",
    ),
    "always whole pairs": ("(floor(first), ceil(last)) if self.truncate else (first, last)", "floor(first), ceil(last)"),
    "never whole pairs": ("(floor(first), ceil(last)) if self.truncate else (first, last)", "first, last"),
    "betas ignored": ("for beta in (self.beta_fast, self.beta_slow)", "for beta in (32.0, 1.0)"),
    "YaRN's context ignored": ("log(self.context / (2 * pi * beta))", "log(2048 / (2 * pi * beta))"),
    "YaRN's base ignored": ("per_pair = 2 * log(base) / H", "per_pair = 2 * log(10_000.0) / H"),
    "YaRN's factor ignored": ("return frequencies / self.factor * ramp", "return frequencies / 4 * ramp"),
    "NTK's base ignored": ("rope_frequencies(H, base * self.factor", "rope_frequencies(H, 10_000.0 * self.factor"),
    "NTK's factor ignored": ("base * self.factor ** (H", "base * 4 ** (H"),
    "Llama's factor ignored": ("(1 - keep) * frequencies / self.factor", "(1 - keep) * frequencies / 4"),
    "Llama's borders ignored": ("low, high = self.low_freq_factor, self.high_freq_factor", "low, high = 1.0, 4.0"),
    "turned in 16 bits": (
        "self._look_up(positions.long(), torch.promote_types(x.dtype, torch.float32))",
        "self._look_up(positions.long(), x.dtype)",
    ),
    "no row for position -1": ("            places[-1] = -1  # the last row is", "            # the last row is"),
    "rows from the end for negative positions": ("if low < -1 or high", "if high"),
    "everything kept for the gradient": ("(_Turn.apply if own_gradient else _turn)", "_turn"),
    "scores of the explorer not divided": ("return data, turned @ k / len(k) ** 0.5", "return data, turned @ k"),
    "the explorer ignores base and pairing": (
        "turned = RoPE(len(q), base=base, pairing=pairing)(",
        "turned = RoPE(len(q))(",
    ),
    "the explorer exchanges query and key": ("for x in (q, k)]", "for x in (k, q)]"),
    "the explorer's pairs are halves": ("torch.stack(_pairs(x, pairing), -1)", 'torch.stack(_pairs(x, "half"), -1)'),
    "texts of another number": ("len({1, len(positions), len(keys)}) > 2", "False"),
    "the rule knows no columns": (
        "self(positions[..., t], keys[..., s])",
        "self(positions[..., t], keys[..., t])",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_chapter_catches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(monkeypatch, "23_rope", MUTANTS[name], "cell '(test-|mixed-up|decay|scalings-seen)")


@pairings
def test_the_explorers_figure_shows_the_scores(pairing: str) -> None:
    q, k, places = random(10), random(10, seed=1), torch.arange(30)
    _, by_distance = _hands(q, k, 50.0, pairing, 30)
    expected = RoPE(10, base=50.0, pairing=pairing)(q.double().expand(30, -1), places) @ k.double() / math.sqrt(10)
    torch.testing.assert_close(by_distance, expected)
    later = RoPE(10, base=50.0, pairing=pairing)
    score = later(q.double()[None], torch.tensor([107])) @ later(k.double()[None], torch.tensor([100])).T
    torch.testing.assert_close(by_distance[7], score[0, 0] / math.sqrt(10))


def test_explorer_holds_pairs_in_their_order() -> None:
    q, k = torch.arange(4.0), torch.arange(4.0) + 10
    half, interleaved = (explore_rope(q, k, pairing=pairing, base=123.0) for pairing in PAIRINGS)
    assert half.data["query"] == [[0, 2], [1, 3]] and interleaved.data["query"] == [[0, 1], [2, 3]]
    assert 123.0 in half.data["bases"] and half.data["base"] == 123.0
