"""The block's parts: equal to torch and transformers over random shapes and types, forward and gradient; 16 bits; autocast; compile;
placements against torch's encoder layer; GPT-2's block with its weights mapped; errors; and mutants, each caught by a visible test.
"""

import copy
import pickle
import re
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from chapters import NBS, Chapter
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chapters import assert_noticed
from torch import Tensor, nn
from transformers import (
    BertConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    NemotronConfig,
    Olmo2Config,
    T5Config,
)
from transformers.activations import ACT2FN
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP, Gemma2RMSNorm
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Block
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from transformers.models.t5.modeling_t5 import T5LayerNorm

from minillm.attention import scaled_dot_product_attention
from minillm.block import ACTIVATIONS, MLP, Block, LayerNorm, RMSNorm, SwiGLU, activation, gated_hidden
from minillm.gqa import GroupedQueryAttention

SHAPES = st.lists(st.integers(0, 4), min_size=0, max_size=3)


def random_(module: nn.Module, seed: int) -> nn.Module:
    "The module with random parameters, norms and biases too, so that none can be left out unnoticed."
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5 + 0.3)
    return module


def with_gradients(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    "Result, gradient in x and in each parameter of a fixed mixture of the result."
    x = x.detach().clone().requires_grad_()
    out = module(x)
    weigh = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    return out.detach(), *torch.autograd.grad((out * weigh).sum(), [x, *module.parameters()])


def same_gradients(ours: nn.Module, theirs: nn.Module, x: Tensor, **close: Any) -> None:
    "Equal in result and in every gradient."
    for got, expected in zip(with_gradients(ours, x), with_gradients(theirs, x), strict=True):
        torch.testing.assert_close(got, expected, **close)


# ---- norms


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lead=SHAPES, width=st.integers(1, 40), seed=st.integers(0, 999), size=st.sampled_from([1e-4, 1.0, 1e4]))
def test_norms_equal_torch(lead: list[int], width: int, seed: int, size: float) -> None:
    x = torch.randn(*lead, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size
    pairs = [
        (RMSNorm(width, 1e-6), nn.RMSNorm(width, 1e-6)),
        (LayerNorm(width), nn.LayerNorm(width)),
        (LayerNorm(width, 1e-3, bias=False), nn.LayerNorm(width, 1e-3, bias=False)),
    ]
    for ours, theirs in pairs:
        theirs.load_state_dict(random_(ours, seed).state_dict())
        same_gradients(ours.double(), theirs.double(), x)


@pytest.mark.parametrize("theirs", [LlamaRMSNorm, T5LayerNorm])
def test_rmsnorm_equals_transformers(theirs: type) -> None:
    ours, other = random_(RMSNorm(48), 1), theirs(48, 1e-6)
    other.load_state_dict(ours.state_dict())
    same_gradients(ours, other, torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight", ["16 bits", "float32"])
def test_rmsnorm_in_16_bits_is_llamas_to_the_last_bit(dtype: torch.dtype, weight: str) -> None:
    ours, theirs = random_(RMSNorm(200), 3), LlamaRMSNorm(200, 1e-6)
    theirs.load_state_dict(ours.state_dict())
    if weight == "16 bits":
        ours, theirs = ours.to(dtype), theirs.to(dtype)
    x = (torch.randn(500, 200, generator=torch.Generator().manual_seed(4)) * 50).to(dtype)
    got, expected = with_gradients(ours, x), with_gradients(theirs, x)
    assert torch.equal(got[0], expected[0]) and got[0].dtype == expected[0].dtype
    exact = with_gradients(copy.deepcopy(ours).double(), x.double())
    for mine, other, true in zip(got[1:], expected[1:], exact[1:], strict=True):
        assert mine.dtype == other.dtype
        error, allowed = (mine.double() - true).norm() / true.norm(), (other.double() - true).norm() / true.norm()
        assert error <= 1.05 * allowed + 1e-7  # the gradient by hand rounds once, autograd after each operation


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rmsnorm_in_16_bits_differs_from_torchs_by_the_place_of_one_rounding(dtype: torch.dtype) -> None:
    ours, theirs = random_(RMSNorm(256), 5), nn.RMSNorm(256, 1e-6)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(500, 256, generator=torch.Generator().manual_seed(6)).to(dtype)
    got, other = ours.to(dtype)(x), theirs.to(dtype)(x)
    assert 0.1 < (got != other).double().mean() < 0.5  # the chapter says: not the same numbers here
    torch.testing.assert_close(got, other, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_the_eps_of_torchs_rmsnorm_is_another_unless_told() -> None:
    x = torch.full((8,), 1e-4)
    assert nn.RMSNorm(8)(x)[0] > 2 * RMSNorm(8)(x)[0]


@pytest.mark.parametrize(
    "theirs, ours", [(Gemma2RMSNorm, RMSNorm), (NemotronLayerNorm1P, LayerNorm)], ids=["gemma", "nemotron"]
)
def test_a_weight_that_counts_from_0_needs_1_more(theirs: type, ours: type) -> None:
    other, mine = theirs(24), ours(24)
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(7))
    if ours is RMSNorm:
        mine.load_state_dict(other.state_dict())  # born 0, and it loads without an error
        assert (mine(x) == 0).all() and not (other(x) == 0).any()
    random_(other, 8)
    mine.load_state_dict(other.state_dict())
    assert not torch.allclose(mine(x), other(x), atol=0.1)
    with torch.no_grad():
        mine.weight += 1
    torch.testing.assert_close(mine(x), other(x))


def test_layernorm_in_16_bits_has_float32_inside() -> None:
    x = (torch.randn(100, 64, generator=torch.Generator().manual_seed(5)) * 1000).half()
    got = LayerNorm(64).half()(x)
    torch.testing.assert_close(got, F.layer_norm(x.double(), (64,)).half(), rtol=2**-9, atol=1e-4)


@pytest.mark.parametrize("make", [RMSNorm, LayerNorm])
def test_gradcheck(make: type) -> None:
    norm = random_(make(5), 6).double()
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).transpose(1, 2)  # not contiguous

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(dict(norm.named_parameters()), parameters))
        return torch.func.functional_call(norm, named, (x,))

    inputs = [p.detach().clone().requires_grad_() for p in (x, *norm.parameters())]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradcheck(
        norm, torch.full((1, 5), 1e-4, dtype=torch.float64).requires_grad_()
    )  # eps counts


def test_rmsnorm_without_gradient_is_the_same() -> None:
    norm, x = random_(RMSNorm(33), 8), torch.randn(4, 33, generator=torch.Generator().manual_seed(9))
    with_gradient = norm(x)
    with torch.no_grad():
        assert torch.equal(norm(x), with_gradient) and with_gradient.requires_grad
    with torch.inference_mode():
        assert torch.equal(norm(x), with_gradient)


def test_rmsnorm_of_frozen_weights_gives_a_gradient_in_x_alone() -> None:
    norm, x = RMSNorm(8), torch.randn(2, 8, requires_grad=True)
    norm.weight.requires_grad_(False)
    norm(x).sum().backward()
    assert x.grad is not None and norm.weight.grad is None
    norm.weight.requires_grad_(True)
    norm(x.detach()).sum().backward()
    assert norm.weight.grad is not None


def test_a_second_derivative_is_an_error_and_not_a_wrong_number() -> None:
    norm, x = RMSNorm(4), torch.randn(2, 4, requires_grad=True)
    (first,) = torch.autograd.grad(norm(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, at its first jvp
def test_under_torch_func_it_is_an_error_and_not_a_wrong_number() -> None:
    norm, x, func = RMSNorm(4), torch.randn(3, 4), torch.func
    calls: tuple[Any, ...] = (
        lambda: func.grad(lambda x: norm(x).pow(3).sum())(x),
        lambda: func.vmap(norm)(x),
        lambda: func.jvp(norm, (x,), (x,)),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match="autograd.Function"):
            call()
    with torch.no_grad():
        torch.testing.assert_close(func.vmap(norm)(x), norm(x))
    theirs = nn.RMSNorm(4, 1e-6)  # what the docstring recommends
    gradient = func.grad(lambda x: theirs(x).pow(3).sum())(x)
    torch.testing.assert_close(gradient, torch.autograd.grad(norm(x.requires_grad_()).pow(3).sum(), x)[0])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(width=st.integers(2, 64), seed=st.integers(0, 999), scale=st.sampled_from([0.25, 3.0, 1e3]))
def test_what_norms_promise(width: int, seed: int, scale: float) -> None:
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10
    rms, layer = RMSNorm(width, 1e-12).double(), LayerNorm(width, 1e-12).double()
    one = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(rms(x).square().mean(-1), one)
    torch.testing.assert_close(layer(x).square().mean(-1), one)
    torch.testing.assert_close(layer(x).mean(-1), 0 * one)
    torch.testing.assert_close(rms(scale * x), rms(x))
    torch.testing.assert_close(layer(scale * x + 7), layer(x))
    for norm in (rms, layer):
        torch.testing.assert_close(norm(x)[1], norm(x[1]))  # each vector by itself
        assert norm(torch.zeros(1, width, dtype=torch.float64)).tolist() == [[0.0] * width]


def kept(function: nn.Module, x: Tensor) -> int:
    "Bytes that autograd keeps, besides x and the parameters."
    known, found = {t.untyped_storage().data_ptr() for t in (x, *function.parameters())}, {}

    def note(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in known:
            found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = function(x)
    assert out.requires_grad
    return sum(found.values())


def test_what_is_kept_for_the_backward_pass() -> None:
    x = torch.randn(6, 32, requires_grad=True)
    assert kept(RMSNorm(32), x) == 4 * 6
    assert kept(LlamaRMSNorm(32), x) >= 4 * 6 * 32  # what the gradient by hand saves
    assert kept(SwiGLU(32, 80), x) <= kept(LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=80)), x)
    x16 = x.detach().bfloat16().requires_grad_()
    assert kept(RMSNorm(32).bfloat16(), x16) == 4 * 6  # no float32 copy of x


# ---- activations and feed-forward


def test_activations_are_those_of_transformers() -> None:
    x = torch.linspace(-8, 8, 161, dtype=torch.float64)
    names = {"relu": "relu", "relu_squared": "relu2", "gelu": "gelu", "silu": "silu", "sigmoid": "sigmoid"}
    for ours, theirs in (names | {"identity": "linear"}).items():
        torch.testing.assert_close(activation(ours)(x), ACT2FN[theirs](x))
    for theirs in ("gelu_new", "gelu_pytorch_tanh"):
        torch.testing.assert_close(activation("gelu_tanh")(x), ACT2FN[theirs](x))
        with pytest.raises(ValueError, match="Try 'gelu_tanh'"):
            activation(theirs)
    with pytest.raises(TypeError):
        ACTIVATIONS["tanh"] = torch.tanh  # type: ignore[index]


def test_every_name_in_transformers_gets_a_near_one() -> None:
    for theirs, ours in {"relu2": "relu_squared", "swish": "silu", "linear": "identity", "geglu": "gelu"}.items():
        with pytest.raises(ValueError, match=f"Try '{ours}'"):
            activation(theirs)
    for wrong in (None, ["gelu"]):
        with pytest.raises(ValueError, match=f"there is no activation {re.escape(repr(wrong))}"):
            activation(wrong)  # type: ignore[arg-type]


def test_mlp_equals_gpt2() -> None:
    theirs = random_(GPT2MLP(40, GPT2Config(n_embd=16, resid_pdrop=0.0)), 1)
    ours = MLP(16, 40, activation="gelu_tanh")
    for linear, conv in ((ours.up_proj, theirs.c_fc), (ours.down_proj, theirs.c_proj)):
        linear.load_state_dict({"weight": conv.weight.T, "bias": conv.bias})  # Conv1D keeps (in,out)
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(2))
    for got, want in zip(with_gradients(ours, x), with_gradients(theirs, x), strict=True):
        torch.testing.assert_close(got, want.T if want.ndim == 2 else want)


@pytest.mark.parametrize("bias", [False, True])
def test_swiglu_equals_llama(bias: bool) -> None:
    ours = random_(SwiGLU(16, 40, bias=bias), 3)
    theirs = LlamaMLP(LlamaConfig(hidden_size=16, intermediate_size=40, num_attention_heads=4, mlp_bias=bias))
    theirs.load_state_dict(ours.state_dict())
    same_gradients(ours, theirs, torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(4)))


def test_geglu_equals_gemma() -> None:
    ours = random_(SwiGLU(16, 40, activation="gelu_tanh"), 5)
    theirs = Gemma2MLP(Gemma2Config(hidden_size=16, intermediate_size=40))
    theirs.load_state_dict(ours.state_dict())
    same_gradients(ours, theirs, torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(6)))


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_feed_forward_gradients(name: str) -> None:
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(random_(MLP(4, 6, activation=name), 8).double(), x)
    assert torch.autograd.gradcheck(random_(SwiGLU(4, 6, activation=name), 9).double(), x)


def test_the_dropout_of_an_mlp_is_on_its_hidden_numbers() -> None:
    torch.manual_seed(0)
    mlp = MLP(6, 3, activation="identity", bias=False, dropout=0.5)
    nn.init.ones_(mlp.up_proj.weight)
    nn.init.ones_(mlp.down_proj.weight)
    drawn = mlp(torch.ones(2000, 6))
    assert (drawn == drawn[:, :1]).all()  # all 6 outputs share the 3 hidden numbers
    assert drawn[:, 0].unique().tolist() == [0.0, 12.0, 24.0, 36.0]  # 0 to 3 survivors of 6, doubled
    assert abs(drawn[:, 0].mean().item() - 18) < 5 * 6 * 3**0.5 / 2000**0.5
    assert (mlp.eval()(torch.ones(5, 6)) == 18).all()


@pytest.mark.parametrize("width, hidden", [(4096, 11008), (5120, 13824), (8192, 22016)])
def test_gated_hidden_is_llamas(width: int, hidden: int) -> None:
    assert gated_hidden(width, 256) == hidden  # Llama 7B, 13B, 65B


@given(width=st.integers(1, 20_000), multiple=st.integers(1, 512))
def test_gated_hidden_is_the_next_multiple(width: int, multiple: int) -> None:
    hidden = gated_hidden(width, multiple)
    assert hidden % multiple == 0 and 3 * hidden >= 8 * width > 3 * (hidden - multiple)


@pytest.mark.parametrize("width, more", [(16, 1.5), (64, 1.125), (96, 1.0), (256, 1.03125)])
def test_gated_hidden_has_at_least_the_weights_of_a_plain_one(width: int, more: float) -> None:
    gated, plain = SwiGLU(width, gated_hidden(width)), MLP(width, 4 * width, bias=False)
    weights, others = (sum(p.numel() for p in layer.parameters()) for layer in (gated, plain))
    assert weights == more * others


# ---- the block


def gpt2_like(theirs: nn.TransformerEncoderLayer, placement: str, name: str) -> Block:
    "A block with the weights of torch's encoder layer."
    D, F_ = theirs.linear1.in_features, theirs.linear1.out_features
    attention = GroupedQueryAttention(D, theirs.self_attn.num_heads, bias=True, out_bias=True)
    weights, biases = theirs.self_attn.in_proj_weight.chunk(3), theirs.self_attn.in_proj_bias.chunk(3)
    for part, weight, bias in zip((attention.q_proj, attention.k_proj, attention.v_proj), weights, biases):
        part.load_state_dict({"weight": weight, "bias": bias})
    attention.o_proj.load_state_dict(theirs.self_attn.out_proj.state_dict())
    mlp, norms = MLP(D, F_, activation=name), [LayerNorm(D), LayerNorm(D)]
    mlp.up_proj.load_state_dict(theirs.linear1.state_dict())
    mlp.down_proj.load_state_dict(theirs.linear2.state_dict())
    for norm, other in zip(norms, (theirs.norm1, theirs.norm2)):
        norm.load_state_dict(other.state_dict())
    return Block(attention, mlp, *norms, placement=placement)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_block_equals_torchs_layer(placement: str, name: str) -> None:
    theirs = random_(
        nn.TransformerEncoderLayer(
            24, 4, 40, dropout=0.0, activation=name, batch_first=True, norm_first=placement == "pre"
        ),
        1,
    ).double()
    ours = gpt2_like(theirs, placement, name).double()
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    pair = [x.clone().requires_grad_() for _ in range(2)]
    out = ours(pair[0]), theirs(pair[1], src_mask=mask, is_causal=True)
    torch.testing.assert_close(*out)
    grads = [torch.autograd.grad(y.square().sum(), leaf)[0] for y, leaf in zip(out, pair)]
    torch.testing.assert_close(*grads)


def test_block_equals_gpt2() -> None:
    config = GPT2Config(n_embd=24, n_head=4, n_inner=40, attn_implementation="eager")
    theirs = random_(GPT2Block(config, layer_idx=0), 3).eval()
    attention = GroupedQueryAttention(24, 4, bias=True, out_bias=True)
    q, k, v = theirs.attn.c_attn.weight.T.chunk(3)
    biases = theirs.attn.c_attn.bias.chunk(3)
    for part, weight, bias in zip((attention.q_proj, attention.k_proj, attention.v_proj), (q, k, v), biases):
        part.load_state_dict({"weight": weight, "bias": bias})
    mlp, norms = MLP(24, 40, activation="gelu_tanh"), [LayerNorm(24), LayerNorm(24)]
    convs = (theirs.attn.c_proj, theirs.mlp.c_fc, theirs.mlp.c_proj)
    for linear, conv in zip((attention.o_proj, mlp.up_proj, mlp.down_proj), convs):
        linear.load_state_dict({"weight": conv.weight.T, "bias": conv.bias})
    norms[0].load_state_dict(theirs.ln_1.state_dict())
    norms[1].load_state_dict(theirs.ln_2.state_dict())
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(4))
    mask = torch.full((7, 7), torch.finfo(torch.float32).min).triu(1)[None, None]
    expected = theirs(x, attention_mask=mask)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(Block(attention, mlp, *norms)(x), expected, atol=1e-5, rtol=1e-5)


class Spy(nn.Module):
    "A part that notes what it is given and adds nothing."

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, dict]] = []

    def forward(self, x: Tensor, **where: Any) -> Tensor:
        self.calls.append((x, where))
        return torch.zeros_like(x)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_block_hands_on_where_to_the_attention_alone(placement: str) -> None:
    attention, mlp, x = Spy(), Spy(), torch.randn(2, 3, 4)
    where = {"positions": torch.arange(3), "documents": torch.zeros(3), "cache": object()}
    Block(attention, mlp, nn.Identity(), nn.Identity(), placement=placement)(x, **where)
    assert [call[1].keys() for call in attention.calls] == [where.keys()] and mlp.calls[0][1] == {}
    assert all(attention.calls[0][1][name] is value for name, value in where.items())


def test_names_are_those_of_huggingface() -> None:
    block = Block(GroupedQueryAttention(8, 2), SwiGLU(8, 16), RMSNorm(8), RMSNorm(8))
    assert set(block.state_dict()) == {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        *(f"self_attn.{p}_proj.weight" for p in "qkvo"),
        *(f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")),
    }
    assert set(MLP(4, 8).state_dict()) == {f"{p}_proj.{w}" for p in ("up", "down") for w in ("weight", "bias")}
    assert set(LayerNorm(4).state_dict()) == {"weight", "bias"}
    assert set(LayerNorm(4, bias=False).state_dict()) == {"weight"}


def llama_block(dropout: float = 0.0, placement: str = "pre") -> Block:
    attention = GroupedQueryAttention(16, 4, 2, attend=scaled_dot_product_attention)
    return Block(attention, SwiGLU(16, 24), RMSNorm(16), RMSNorm(16), dropout=dropout, placement=placement)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_dropout_is_on_what_is_added(placement: str) -> None:
    "With dropout on, the change of each part is 0 or 1/(1 − p) times what it is without; off in use."

    class One(nn.Module):
        def forward(self, x: Tensor, **where: Any) -> Tensor:
            return torch.ones_like(x)

    torch.manual_seed(0)
    block = Block(One(), One(), nn.Identity(), nn.Identity(), dropout=0.25, placement=placement)
    x = torch.full((50, 100, 4), 8.0)
    added = block(x) - x
    values = added.unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 4 / 3, 8 / 3]))  # none, one, or both survive
    assert abs(added.mean().item() - 2) < 5 * (2 / 3) ** 0.5 / 20_000**0.5  # variance p/(1−p) for each of two
    assert torch.equal(block.eval()(x), x + 2)


def test_autocast_leaves_norms_and_stream_in_float32() -> None:
    block, x = llama_block(), torch.randn(2, 5, 16, requires_grad=True)
    plain = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x)
        assert out.dtype == torch.float32 and block.input_layernorm(x).dtype == torch.float32
        assert block.mlp(x).dtype == torch.bfloat16
        torch.testing.assert_close(block.input_layernorm(x), RMSNorm(16)(x))
        inside = torch.autograd.grad(block.input_layernorm(x).square().sum(), x)[0]  # backward inside autocast
    torch.testing.assert_close(out, plain, atol=0.1, rtol=0.1)
    torch.testing.assert_close(inside, torch.autograd.grad(block.input_layernorm(x).square().sum(), x)[0])
    out.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


def test_a_block_in_bfloat16_stays_there() -> None:
    block, x = llama_block().bfloat16(), torch.randn(2, 5, 16).bfloat16()
    assert block(x).dtype == torch.bfloat16
    with_gradients(block, x)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
def test_compile_keeps_numbers_and_gradients() -> None:
    block = llama_block()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 5, 16)
    for got, expected in zip(with_gradients(compiled, x), with_gradients(block, x), strict=True):
        torch.testing.assert_close(got, expected)


def test_copies_and_pickles_and_meta() -> None:
    block, x = llama_block(), torch.randn(1, 3, 16)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(x), block(x))
    with torch.device("meta"):
        large = Block(GroupedQueryAttention(4096, 32, 8), SwiGLU(4096, 14336), RMSNorm(4096), RMSNorm(4096))
        assert large(torch.empty(1, 2, 4096)).shape == (1, 2, 4096)
    assert sum(p.numel() for p in large.parameters()) == 218_112_000  # a layer of Llama 3 8B


@settings(max_examples=20, deadline=None, derandomize=True)
@given(B=st.integers(1, 3), T=st.integers(1, 9), place=st.sampled_from(["pre", "post"]), seed=st.integers(0, 99))
def test_the_past_does_not_know_the_future(B: int, T: int, place: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    block, x = llama_block(placement=place), torch.randn(B, T, 16, generator=generator)
    later = x.clone()
    later[:, -1] += 1
    torch.testing.assert_close(block(later)[:, :-1], block(x)[:, :-1])
    assert not torch.allclose(block(later)[:, -1], block(x)[:, -1], atol=1e-3)


# ---- the table of the chapter


def test_the_table_says_what_the_configurations_say() -> None:
    tables = "".join(cell.source for cell in Chapter.load(NBS / "25_block.ipynb").cells if cell.id == "today")
    rows = {row.split("|")[1].strip(): row for row in tables.splitlines() if row.startswith("|")}
    cases = [
        ("BERT", BertConfig(), "hidden_act", "gelu", "GELU"),
        ("GPT-2", GPT2Config(), "activation_function", "gelu_new", "GELU, tanh form"),
        ("T5 base", T5Config(d_model=768, d_ff=3072), "dense_act_fn", "relu", "ReLU"),
        ("Llama 7B", LlamaConfig(), "hidden_act", "silu", "SwiGLU"),
        ("Mistral 7B", MistralConfig(), "hidden_act", "silu", "SwiGLU"),
        ("Nemotron-4 15B", NemotronConfig(), "hidden_act", "relu2", "ReLU²"),
        ("Gemma 2 2B", Gemma2Config(), "hidden_activation", "gelu_pytorch_tanh", "GEGLU, tanh form"),
        ("OLMo 2 7B", Olmo2Config(), "hidden_act", "silu", "SwiGLU"),
    ]
    for name, config, field, theirs, ours in cases:
        hidden = (
            getattr(config, "d_ff", None) or getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        )
        cells = [cell.strip() for cell in rows[name].split("|")]
        assert getattr(config, field) == theirs and cells[4] == ours
        assert float(cells[5]) == round(hidden / config.hidden_size, 2), name


# ---- bad input

BAD = {
    "width of 0": (lambda: RMSNorm(0), "width=0.*Try width=64"),
    "width that is no int": (lambda: LayerNorm(8.0), r"width=8\.0.*Try width=64"),  # type: ignore[arg-type]
    "width that is a bool": (lambda: RMSNorm(True), "width=True"),
    "eps of 0": (lambda: RMSNorm(8, 0.0), r"eps=0\.0.*Try 1e-6"),
    "eps below 0": (lambda: LayerNorm(8, -1e-5), "eps=-1e-05"),
    "eps that is nan": (lambda: RMSNorm(8, float("nan")), "eps=nan"),
    "eps that is text": (lambda: RMSNorm(8, "1e-6"), "eps='1e-6'.*Try 1e-6"),  # type: ignore[arg-type]
    "hidden of 0": (lambda: MLP(8, 0), "hidden=0"),
    "hidden below 0": (lambda: SwiGLU(8, -3), "hidden=-3"),
    "hidden that is no int": (lambda: SwiGLU(8, 8 / 3 * 8), r"hidden=21\.33"),  # type: ignore[arg-type]
    "activation unknown": (lambda: MLP(8, 8, activation="gello"), "there is no activation 'gello'.*Try 'gelu'"),
    "activation of Hugging Face": (lambda: SwiGLU(8, 8, activation="swish"), "Try 'silu'"),
    "dropout of 1": (lambda: MLP(8, 8, dropout=1.0), r"dropout=1\.0.*Try dropout=0\.1"),
    "dropout in percent": (lambda: Block(*parts(), dropout=10), "dropout=10"),
    "dropout that is nan": (lambda: Block(*parts(), dropout=float("nan")), "dropout=nan"),
    "dropout that is text": (lambda: MLP(8, 8, dropout="0.1"), "dropout='0.1'"),  # type: ignore[arg-type]
    "placement": (lambda: Block(*parts(), placement="Pre"), "placement='Pre'.*Try 'pre'"),
    "x too wide for RMSNorm": (lambda: RMSNorm(8)(torch.zeros(2, 9)), r"width 8 .* \(2, 9\).*for width 9"),
    "x too wide for LayerNorm": (lambda: LayerNorm(8)(torch.zeros(2, 9)), "LayerNorm was built for width 8"),
    "x too wide for MLP": (lambda: MLP(8, 8)(torch.zeros(9)), r"MLP .* \(9,\)"),
    "x too wide for SwiGLU": (lambda: SwiGLU(8, 8)(torch.zeros(2, 8, 1)), r"SwiGLU .* \(2, 8, 1\)"),
    "x without axes": (lambda: RMSNorm(8)(torch.tensor(1.0)), r"shape \(\)"),
    "gated_hidden of 0": (lambda: gated_hidden(0), "width=0"),
    "part of another width": (
        lambda: Block(*parts(mlp=nn.Linear(8, 1)))(torch.zeros(1, 2, 8)),
        r"Linear made \(1, 2, 1\) of \(1, 2, 8\).*width 8",
    ),
    "part that returns more": (
        lambda: tuple_block()(torch.zeros(1, 2, 8)),
        r"LlamaAttention made a tuple of \(1, 2, 8\)",
    ),
}


def parts(mlp: nn.Module | None = None) -> tuple[nn.Module, ...]:
    return Spy(), mlp or Spy(), nn.Identity(), nn.Identity()


def tuple_block() -> Block:
    "A block with Hugging Face's attention, which returns a pair."
    config = LlamaConfig(hidden_size=8, num_attention_heads=2, attn_implementation="eager")
    attention = partial(LlamaAttention(config, 0).forward, attention_mask=None)
    rotation = torch.ones(1, 2, 4), torch.zeros(1, 2, 4)

    class Part(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return attention(x, position_embeddings=rotation)

    Part.__name__ = "LlamaAttention"
    return Block(Part(), *parts()[1:])


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    call, says = BAD[name]
    with pytest.raises(ValueError, match=f"(?s){says}"):
        call()


# ---- mutants: each is caught by a visible test of the chapter

MUTANTS = {
    "mean instead of mean square": ("wide.square().mean(-1", "wide.abs().mean(-1"),
    "eps beside the root": (
        "r = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)",
        "r = 1 / (wide.square().mean(-1, keepdim=True).sqrt() + eps)",
    ),
    "16 bits inside": ("wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x", "wide = x"),
    "weight before the cast": (
        "y = (wide * r).to(x.dtype)\n    return y.mul_(weight) if y.dtype == weight.dtype else y * weight, r",
        "return (wide * r * weight).to(x.dtype), r",
    ),
    "gradient without its second term": ("value=-1", "value=0"),
    "gradient with one r too few": ("* r / x.shape[-1]", "/ x.shape[-1]"),
    "gradient of the weight without r": ("product.mul_(r).reshape", "product.reshape"),
    "gradient ignores the weight": ("(product * weight).sum", "product.sum"),
    "no bias in LayerNorm": ("self.weight, self.bias, self.eps", "self.weight, None, self.eps"),
    "fixed eps in LayerNorm": ("self.bias, self.eps)", "self.bias, 1e-1)"),
    "ReLU not squared": ("F.relu(x).square()", "F.relu(x)"),
    "exact for tanh": ('partial(F.gelu, approximate="tanh")', "F.gelu"),
    "no activation in the MLP": (
        "hidden = activation(self.activation)(self.up_proj(x))",
        "hidden = self.up_proj(x)",
    ),
    "gate and content swapped": (
        "activation(self.activation)(self.gate_proj(x)) * self.up_proj(x)",
        "activation(self.activation)(self.up_proj(x)) * self.gate_proj(x)",
    ),
    "gate added": ("(self.gate_proj(x)) * self", "(self.gate_proj(x)) + self"),
    "rounded down": ("-(-8 * width // (3 * multiple_of))", "(8 * width // (3 * multiple_of))"),
    "residual of the normed value": (
        "return x + change if pre else norm(x + change)",
        "return norm(x) + change if pre else norm(x + change)",
    ),
    "post is pre": ('pre = self.placement == "pre"', "pre = True"),
    "where is lost": ("self.input_layernorm, where)", "self.input_layernorm, {})"),
    "norms swapped": (
        "self.input_layernorm, self.self_attn = norm_1, attention\n"
        "        self.post_attention_layernorm, self.mlp = norm_2, mlp",
        "self.post_attention_layernorm, self.self_attn = norm_1, attention\n"
        "        self.input_layernorm, self.mlp = norm_2, mlp",
    ),
    "dropout never on": ("self.dropout(_check_change(", "(_check_change("),
    "any shape may be added": ("and change.shape == x.shape", ""),
    "the feed-forward reads the old stream": (
        "x = self._add(x, self.self_attn",
        "self._add(x, self.self_attn",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_visible_tests_catch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(monkeypatch, "25_block", MUTANTS[name], "cell '", ("norm-time", "placement"))
