"""Formats against Python's struct and torch's own rounding; master weights against float32 training; `half_attention` against chapter 22's
functions in float64 over random sizes, groups, masks and tiles; the choice of a precision from made-up measurements; bad input.
"""

import copy
import math
import struct
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import minillm.precision as precision
from minillm.attention import mask_rule, scaled_dot_product_attention
from minillm.gqa import CausalRule, fused_attention
from minillm.model import LanguageModel, ModelConfig, saved_bytes
from minillm.precision import (
    FloatParts,
    MasterWeights,
    Precision,
    choose_device,
    choose_precision,
    float_parts,
    half_attention,
    precision_seconds,
)

CPU = torch.device("cpu")
SIXTEEN = torch.bfloat16


# ---- formats


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(width=32, allow_nan=False))
def test_float32_bits_are_those_of_struct(value: float) -> None:
    parts = float_parts(value, torch.float32)
    assert parts.sign + parts.exponent + parts.fraction == f"{struct.unpack('>I', struct.pack('>f', value))[0]:032b}"
    assert parts.value == value and len(parts.exponent) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, SIXTEEN, torch.float8_e5m2, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [1.0, -1.0, 0.1, 3.14159, 200.0, 2.0**-9, 0.0, -0.0, 1.9999])
def test_parts_make_the_value(dtype: torch.dtype, value: float) -> None:
    "The textbook formula, with the denormal numbers below the smallest exponent."
    parts = float_parts(value, dtype)
    bias = 2 ** (len(parts.exponent) - 1) - 1
    power, fraction = int(parts.exponent, 2), int(parts.fraction, 2) / 2 ** len(parts.fraction)
    size = fraction * 2.0 ** (1 - bias) if power == 0 else (1 + fraction) * 2.0 ** (power - bias)
    assert parts.value == (-size if parts.sign == "1" else size) == torch.tensor(value).to(dtype).double().item()
    assert math.copysign(1, parts.value) == math.copysign(1, value)
    assert len(parts.sign + parts.exponent + parts.fraction) == 8 * dtype.itemsize


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(min_value=-60_000, max_value=60_000), st.sampled_from([torch.float16, torch.float32]))
def test_step_is_that_of_nextafter(value: float, dtype: torch.dtype) -> None:
    kept = torch.tensor(value, dtype=torch.float64).to(dtype)
    beyond = torch.nextafter(kept.float(), torch.tensor(math.copysign(math.inf, value))) if dtype == torch.float32 else None
    expected = abs(beyond.double() - kept.double()).item() if beyond is not None else max(math.ulp(abs(kept.item())) * 2**42, 2**-24)
    assert float_parts(value, dtype).step == expected


def test_steps_where_a_format_ends() -> None:
    assert float_parts(0.0, SIXTEEN).step == torch.finfo(SIXTEEN).smallest_normal * 2**-7
    assert float_parts(65_504.0, torch.float16).step == math.inf == float_parts(-65_504.0, torch.float16).step
    assert float_parts(1e6, torch.float16).value == math.inf
    for bad in (torch.int8, torch.complex64, torch.float64, torch.float8_e8m0fnu):
        with pytest.raises(ValueError, match=r"try|Try|expected is a floating-point"):
            float_parts(1.0, bad)


# ---- master weights


def tied_model(seed: int = 0) -> LanguageModel:
    config = ModelConfig(vocab_size=60, width=32, n_layers=2, n_heads=4, n_kv_heads=2)
    return LanguageModel(config, generator=torch.Generator().manual_seed(seed))


def ids(seed: int = 0, B: int = 3, T: int = 9) -> Tensor:
    return torch.randint(60, (B, T), generator=torch.Generator().manual_seed(seed))


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x).float().flatten(0, 1), x.roll(-1, 1).flatten())


def test_masters_keep_order_names_ties_and_numbers() -> None:
    model = tied_model()
    before = copy.deepcopy(model.state_dict())
    names = [name for name, _ in model.named_parameters()]
    objects = list(model.parameters())
    masters = MasterWeights(model)
    assert [name for name, _ in masters.named_parameters()] == names and len(masters.parameters) == len(names)
    assert all(a is b for a, b in zip(model.parameters(), objects)) and model.lm_head.weight is model.embed_tokens.weight
    for (name, master), weight in zip(masters.named_parameters(), model.parameters()):
        assert master.dtype == torch.float32 and weight.dtype == SIXTEEN and master.requires_grad
        assert torch.equal(master, before[name]) and torch.equal(weight, before[name].to(SIXTEEN))
        assert master.data_ptr() != weight.data_ptr()
    masters.widen()
    assert all(torch.equal(x, before[name]) and x.dtype == torch.float32 for name, x in model.state_dict().items())
    assert model.lm_head.weight is model.embed_tokens.weight
    with torch.no_grad():
        masters.parameters[0].add_(1.0)
    assert torch.equal(next(model.parameters()), before[names[0]])  # the model has its own memory again


def test_masters_of_long_weights_are_others() -> None:
    "Where weights stay float32 there is nothing to round, and still a step must not reach the model before `publish`."
    model = nn.Linear(3, 3)
    masters = MasterWeights(model, torch.float32)
    before = model.weight.detach().clone()
    with torch.no_grad():
        masters.parameters[0].add_(1.0)
    assert torch.equal(model.weight, before)
    masters.publish()
    assert torch.equal(model.weight, before + 1)


def test_masters_move_as_in_float32() -> None:
    "Given the same gradients, masters take the very steps of a float32 model, over many steps and with accumulation."
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    masters = MasterWeights(ours)
    a, b = torch.optim.AdamW(masters.parameters, lr=1e-4), torch.optim.AdamW(theirs.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        totals = [torch.zeros_like(p) for p in theirs.parameters()]
        for _ in range(3):
            for weight, total in zip(ours.parameters(), totals):
                weight.grad = torch.randn(weight.shape, generator=generator).to(SIXTEEN)
                total += weight.grad.float()
            masters.take_gradients()
            assert all(p.grad is None for p in ours.parameters())
        for p, total in zip(theirs.parameters(), totals):
            p.grad = total
        a.step(), b.step()
        a.zero_grad(), b.zero_grad()
        masters.publish()
    for weight, master, p in zip(ours.parameters(), masters.parameters, theirs.parameters()):
        assert torch.equal(master, p) and torch.equal(weight, p.to(SIXTEEN))


def test_training_with_masters_follows_float32() -> None:
    "Not just falling: at each step within 0.02 nats of float32, over three seeds, with a rate at which bf16 alone stands still."
    for seed in range(3):
        curves = []
        for name in ("fp32", "masters", "bare"):
            model = tied_model(seed)
            masters = MasterWeights(model) if name == "masters" else None
            model.to(torch.float32 if name == "fp32" else SIXTEEN)
            optimiser = torch.optim.SGD(model.parameters() if masters is None else masters.parameters, lr=0.02)
            curve = []
            for _ in range(60):
                loss = loss_of(model, ids(seed))
                curve.append(loss.item())
                loss.backward()
                if masters is not None:
                    masters.take_gradients()
                optimiser.step()
                optimiser.zero_grad()
                if masters is not None:
                    masters.publish()
            curves.append(curve)
        full, kept, bare = curves
        assert max(abs(a - b) for a, b in zip(full, kept)) < 0.02 * (full[0] - full[-1]) + 0.01
        assert full[0] - full[-1] > 0.05


def test_masters_resume_to_the_bit() -> None:
    def run(masters: MasterWeights, model: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
        for i in steps:
            loss_of(model, ids(i)).backward()
            masters.take_gradients()
            optimiser.step()
            optimiser.zero_grad()
            masters.publish()

    model = tied_model()
    masters = MasterWeights(model)
    optimiser = torch.optim.AdamW(masters.parameters, lr=1e-3)
    run(masters, model, optimiser, range(3))
    saved = copy.deepcopy((masters.state_dict(), optimiser.state_dict()))
    run(masters, model, optimiser, range(3, 6))
    other = tied_model(seed=7)
    again = MasterWeights(other)
    again.load_state_dict(saved[0])
    second = torch.optim.AdamW(again.parameters, lr=1e-3)
    second.load_state_dict(saved[1])
    run(again, other, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(masters.parameters, again.parameters))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


def test_masters_refuse_what_does_not_fit() -> None:
    model = nn.Linear(2, 2)
    masters = MasterWeights(model)
    before = {name: x.clone() for name, x in masters.state_dict().items()}
    good = masters.state_dict()
    bad: list[tuple[dict[str, Tensor], str]] = [
        ({"weight": good["weight"] + 1}, "the state has no 'bias'"),
        ({**good, "weight": good["weight"] + 1, "extra": good["bias"]}, "no parameter 'extra'"),
        ({"weight": good["weight"] + 1, "bias": torch.zeros(3)}, r"'bias' is torch.float32 \(3,\)"),
        ({"weight": good["weight"].to(SIXTEEN), "bias": good["bias"]}, "'weight' is torch.bfloat16"),
    ]
    for state, says in bad:
        with pytest.raises(ValueError, match=says):
            masters.load_state_dict(state)
        assert all(torch.equal(x, before[name]) for name, x in masters.state_dict().items())
    with pytest.raises(ValueError, match="nothing to keep a master of"):
        MasterWeights(nn.ReLU())


def test_frozen_parameters_and_buffers() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("waves", torch.full((3,), 0.1))
    model.weight.requires_grad_(False)
    masters = MasterWeights(model)
    assert [p.requires_grad for p in masters.parameters] == [False, True]
    assert model.waves.dtype == torch.float32 and model.weight.dtype == SIXTEEN  # buffers stay as they are
    model(torch.randn(4, 2).to(SIXTEEN)).float().sum().backward()
    masters.take_gradients()
    assert masters.parameters[0].grad is None and masters.parameters[1].grad is not None


# ---- where and in what


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == choose_device("cpu:0") == CPU
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda', but torch sees none here; there is .*cpu"):
            choose_device("cuda")
    for bad in ("gpu", "tpu", "", "cud"):
        with pytest.raises(ValueError, match="no device this book knows"):
            choose_device(bad)
    monkeypatch.setattr(precision, "_devices", lambda: ["cuda:0", "cuda:1", "mps", "cpu"])
    assert choose_device() == torch.device("cuda:0") and choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cuda") == torch.device("cuda") and choose_device("mps") == torch.device("mps")
    with pytest.raises(ValueError, match="cuda:7"):
        choose_device("cuda:7")


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ((1.0, 0.92, 0.93), "fp32"),  # 8 % is not worth it
        ((1.0, 0.5, 0.49), "autocast"),  # nor are bf16 weights for 2 %
        ((1.0, 0.5, 0.4), "bf16"),
        ((1.0, 1.2, 0.8), "bf16"),
        ((1.0, 1.2, 1.1), "fp32"),
        ((1.0, 0.8, 1.3), "autocast"),
    ],
)
def test_the_choice_follows_the_clock(times: tuple[float, ...], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "precision_seconds", lambda *_: dict(zip(("fp32", "autocast", "bf16"), times)))
    found = choose_precision(256)
    assert found.name == chosen
    assert "width 256" in found.reason and "1e+03 ms in fp32" in found.reason and str(found) == f"{chosen}: {found.reason}"


def test_choice_without_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "precision_seconds", lambda *_: pytest.fail("measured"))
    assert choose_precision(256, measure=False).name == "fp32"
    assert "no linear layers" in choose_precision(nn.Embedding(3, 3)).reason
    assert choose_precision(256, "mps").name == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert "no units for bf16" in choose_precision(256, "cuda").reason
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert choose_precision(256, "cuda", measure=False).name == "autocast"
    for name in ("fp32", "autocast", "bf16"):
        assert choose_precision(256, name=name) == Precision(name)
    for bad in ("fp16", "bfloat16", "half", 16):
        with pytest.raises(ValueError, match=r"there is fp32, autocast and bf16.*Try '(fp32|autocast|bf16)'"):
            choose_precision(256, name=bad)  # type: ignore[arg-type]


def test_width_of_a_model() -> None:
    assert precision._width(tied_model()) == 32 and precision._width(7) == 7
    assert precision._width(nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 2))) == 9
    assert precision._width(nn.Embedding(5, 5)) is None


def test_measuring_leaves_no_trace() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    seconds = precision_seconds(48, rounds=2)
    assert torch.equal(torch.rand(2), expected)
    assert set(seconds) == {"fp32", "autocast", "bf16"} and all(0 < s < 60 for s in seconds.values())
    for bad in ({"width": 0}, {"width": 32, "rounds": 0}):
        with pytest.raises(ValueError, match="try width=256"):
            precision_seconds(**bad)


def test_autocast_is_where_it_should_be() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    for name, dtype in (("fp32", torch.float32), ("autocast", SIXTEEN), ("bf16", torch.float32)):
        with Precision(name).autocast(), Precision(name).autocast(CPU):
            assert layer(x).dtype == dtype


# ---- attention in 16 bits


def heads(seed: int, B: int, N: int, K: int, T: int, S: int, H: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, N, T, H), (B, K, S, H), (B, K, S, H))
    return [torch.randn(*shape, generator=generator).to(SIXTEEN) for shape in shapes]


def both_ways(attend: Any, qkv: list[Tensor], grad: Tensor, dtype: torch.dtype, **options: Any) -> list[Tensor]:
    "Result and gradients in q, k and v."
    inputs = [x.detach().to(dtype).clone().requires_grad_() for x in qkv]
    out = attend(*inputs, **options)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(x.grad for x in inputs)]  # type: ignore[misc]


def exact(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    "Chapter 22's function, with repeated keys."
    return scaled_dot_product_attention(q, *(x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v)), **options)


def assert_near(qkv: list[Tensor], seed: int = 0, **options: Any) -> list[Tensor]:
    "bf16 keeps 8 bits: results within 1 %, gradients within 1.5 %, of those in float64, as a whole; none is a number that is not."
    q, _, v = qkv
    grad = torch.randn(*q.shape[:-1], v.shape[-1], generator=torch.Generator().manual_seed(seed)).to(SIXTEEN)
    got = both_ways(half_attention, qkv, grad, SIXTEEN, **options)
    expected = both_ways(exact, qkv, grad, torch.float64, **options)
    for name, a, b in zip(("out", "dq", "dk", "dv"), got, expected):
        assert a.dtype == SIXTEEN and a.shape == b.shape
        assert (a.double() - b).norm() <= (0.01 if name == "out" else 0.015) * b.norm() + 1e-6, name
    return got


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_half_attention_is_attention(data: st.DataObject) -> None:
    draw = data.draw
    K, G, B = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    T, S = draw(st.sampled_from([2, 3, 17, 130, 260])), draw(st.sampled_from([1, 5, 128, 129, 300]))
    q, k, v = heads(draw(st.integers(0, 99)), B, K * G, K, T, S)
    kind = draw(st.sampled_from(["none", "causal", "rows", "texts", "heads", "rule"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    if kind == "causal":
        k, v, mask = k[:, :, :1].expand(-1, -1, T, -1) + q[:, :K], v[:, :, :1].expand(-1, -1, T, -1) + q[:, :K], CausalRule(T, CPU)
    elif kind == "rule":
        places = torch.arange(S - T, S).clamp(min=-1)
        documents = (torch.arange(S) // 40)[None].expand(B, -1)
        mine = documents[:, places.clamp(min=0)]
        mask = mask_rule(places, torch.arange(S), mine, documents, window=draw(st.sampled_from([None, 3, 50])))
    else:
        shape = {"rows": (T, S), "texts": (B, 1, T, S), "heads": (B, K * G, T, S)}.get(kind)
        mask = None if shape is None else torch.rand(shape, generator=generator) < 0.3
    assert_near([q, k, v], mask=mask, scale=draw(st.sampled_from([None, 0.1])))


@pytest.mark.parametrize("shape", [(1,), (1, 40), (30, 1), (2, 1, 1, 40), (1, 4, 30, 1), ()])
def test_masks_that_broadcast(shape: tuple[int, ...]) -> None:
    q, k, v = heads(0, 2, 4, 2, 30, 40)
    assert_near([q, k, v], mask=torch.ones(shape, dtype=torch.bool))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    assert_near([q, k, v], mask=mask)


def test_rows_without_keys_are_zero_with_zero_gradient() -> None:
    q, k, v = heads(0, 2, 4, 2, 200, 60)
    mask = torch.rand(2, 1, 200, 60, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[0, :, 150:], mask[1, :, 3] = False, False
    mask[..., 40:50] = False  # keys that nobody sees
    out, dq, dk, dv = assert_near([q, k, v], mask=mask)
    assert (out[0, :, 150:] == 0).all() and (dq[0, :, 150:] == 0).all() and (out[1, :, 3] == 0).all() and (dq[1, :, 3] == 0).all()
    assert (dk[..., 40:50, :] == 0).all() and (dv[..., 40:50, :] == 0).all()
    out, *grads = assert_near([q, k, v], mask=torch.zeros(200, 60, dtype=torch.bool))
    assert all((x == 0).all() for x in (out, *grads))


def test_everything_else_goes_to_the_kernel() -> None:
    q, k, v = heads(0, 2, 4, 2, 6, 6)
    bias = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0))
    cases: list[tuple[list[Tensor], dict[str, Any]]] = [
        ([q.float(), k.float(), v.float()], {"mask": CausalRule(6, CPU)}),
        ([q.double(), k.double(), v.double()], {}),
        ([q, k, v], {"bias": bias.to(SIXTEEN)}),
        ([q[:, :, :1], k, v], {}),
        ([q[0, 0], k[0, 0], v[0, 0]], {}),
    ]
    for qkv, options in cases:
        assert torch.equal(half_attention(*qkv, **options), fused_attention(*qkv, **options))
    assert half_attention.takes_groups  # type: ignore[attr-defined]


def test_it_refuses_what_the_kernel_refuses() -> None:
    q, k, v = heads(0, 2, 4, 2, 6, 6)
    for call in (
        lambda attend: attend(q, k[..., :5], v),
        lambda attend: attend(q, k, v[:, :, :5]),
        lambda attend: attend(q, k.float(), v),
        lambda attend: attend(q, k, v, mask=CausalRule(5, CPU)),
        lambda attend: attend(q, k, v, mask=torch.ones(5, 6, dtype=torch.bool)),
        lambda attend: attend(q, k, v, mask=torch.ones(6, 6)),
        lambda attend: attend(q, k, v, mask=lambda t, s: torch.ones(2, 2, dtype=torch.bool)),
        lambda attend: attend(torch.cat([q, q[:, :1]], 1), k, v),
    ):
        with pytest.raises(ValueError) as ours:
            call(half_attention)
        with pytest.raises(ValueError) as theirs:
            call(fused_attention)
        assert str(ours.value)[:40] == str(theirs.value)[:40]


def test_attention_keeps_no_scores() -> None:
    q, k, v = (x.requires_grad_() for x in heads(0, 2, 4, 4, 300, 300))
    mask = CausalRule(300, CPU)
    assert saved_bytes(lambda: half_attention(q, k, v, mask=mask), [q, k, v]) == 0  # not even its result
    assert saved_bytes(lambda: fused_attention(q, k, v, mask=mask), [q, k, v]) > q.numel() * 2


def test_under_autocast_it_is_the_same() -> None:
    "Not the kernel's, which rounds elsewhere; keys may come in another format than queries."
    q, k, v = heads(0, 2, 4, 2, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        got = half_attention(q.float(), k.float(), v, mask=CausalRule(40, CPU))
    assert torch.equal(got, half_attention(q, k, v, mask=CausalRule(40, CPU)))
    assert not torch.equal(got, fused_attention(q, k, v, mask=CausalRule(40, CPU)))


def test_a_model_that_uses_it() -> None:
    "The same model, once with torch's kernel: logits near each other, documents and padding included."
    config = ModelConfig(vocab_size=60, width=64, n_layers=3, n_heads=4, n_kv_heads=2, window=7)
    x = ids(0, 3, 20)
    documents = (torch.arange(20) // 8).expand(3, -1).clone()
    documents[2, 15:] = -1
    positions = (torch.arange(20) % 8).expand(3, -1).clone()
    positions[2, 15:] = -1
    models = [
        LanguageModel(config, attend=attend, generator=torch.Generator().manual_seed(0)) for attend in (half_attention, fused_attention)
    ]
    full = models[1](x, positions=positions, documents=documents)
    for model in models:
        model.to(SIXTEEN)
    ours, theirs = (model(x, positions=positions, documents=documents) for model in models)
    near = lambda y: ((y.float() - full).norm() / full.norm()).item()
    assert near(ours) < 0.01 and near(ours) < 1.5 * near(theirs) + 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        models[0].float()
        assert near(models[0](x, positions=positions, documents=documents)) < 0.02


def test_parts_are_a_record() -> None:
    assert float_parts(-2.5, torch.float16) == FloatParts("1", "10000", "0100000000", -2.5, 2**-9)
