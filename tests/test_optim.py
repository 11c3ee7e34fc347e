"""Optimisers bit for bit equal to torch's over random settings, groups, missing gradients and resumed states; Lion equal to a second derivation
in numpy; Muon to torch's, and flat in its singular values; clipping equal to torch's; schedules equal to those of transformers, moved by a step; bad settings refused before anything moves.
"""

import ast
import copy
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chapters import ROOT, Chapter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minillm.model import LanguageModel, ModelConfig
from minillm.optim import (
    SGD,
    AdamW,
    Lion,
    Muon,
    Schedule,
    _valley_data,
    _valley_path,
    clip_grad_norm,
    constant_schedule,
    cosine_schedule,
    decay_groups,
    make_optimizer,
    newton_schulz,
    optimizer_bytes,
    wsd_schedule,
)
from minillm.precision import MasterWeights

OURS: dict[str, Any] = {"sgd": SGD, "adamw": AdamW}
THEIRS: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
SHAPES = [(3, 4), (), (5,), (2, 1, 3), (0,)]


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def feed(params: list[nn.Parameter], generator: torch.Generator, missing: float = 0.0) -> None:
    "Gradients of very different sizes, some of them missing."
    for k, p in enumerate(params):
        g = torch.randn(p.shape, generator=generator) * 10.0 ** (k - 2)
        p.grad = None if torch.rand((), generator=generator) < missing else g.to(p.dtype)


def groups_of(params: list[nn.Parameter], options: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"params": params[:2], **options}, {"params": params[2:]}]


def same(a: list[nn.Parameter], b: list[nn.Parameter]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


# ---- equal to torch's


def settings_of(data: st.DataObject, name: str) -> dict[str, Any]:
    share = st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.999])
    number = lambda *options: data.draw(st.sampled_from(options))
    chosen = {"lr": number(0.0, 1e-4, 0.03, 1.0), "weight_decay": number(0.0, 0.01, 0.5)}
    if name == "sgd":
        return chosen | {"momentum": data.draw(share)}
    return chosen | {"betas": (data.draw(share), data.draw(share)), "eps": number(1e-8, 1e-3)}


def walk_together(data: st.DataObject, one: tuple[Any, list[nn.Parameter]], other: tuple[Any, list[nn.Parameter]], steps: int, missing: tuple[float, ...]) -> None:
    "Two rules make steps on the same gradients, with a rate of the second group that changes: the same bits, the same state."
    (a, ours), (b, theirs) = one, other
    seed, share = data.draw(st.integers(0, 99)), data.draw(st.sampled_from(missing))
    left, right = (torch.Generator().manual_seed(seed) for _ in range(2))
    lr = a.defaults["lr"]
    for step in range(steps):
        feed(ours, left, share)
        feed(theirs, right, share)
        for rule in (a, b):
            rule.param_groups[1]["lr"] = lr * math.exp(-step / 50)
            rule.step()
    assert same(ours, theirs)
    for p, q in zip(ours, theirs, strict=True):
        kept = {key: value for key, value in b.state[q].items() if value is not None}
        assert kept.keys() == a.state[p].keys()
        assert all(torch.equal(value, a.state[p][key]) for key, value in kept.items())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_bit_for_bit_torchs(data: st.DataObject) -> None:
    "Settings, settings of a group, number formats, missing gradients, a rate that changes: 40 steps, the same bits, the same state."
    name = data.draw(st.sampled_from(sorted(OURS)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]))
    options, special = settings_of(data, name), settings_of(data, name)
    ours, theirs = parameters(1, dtype), parameters(1, dtype)
    a = OURS[name](groups_of(ours, special), **options)
    b = THEIRS[name](groups_of(theirs, special), **options, foreach=False)
    walk_together(data, (a, ours), (b, theirs), 40, (0.0, 0.3, 0.9))


@pytest.mark.parametrize("kind", ["foreach", "fused"])
def test_torchs_other_kernels_agree_up_to_rounding(kind: str) -> None:
    ours, theirs = parameters(2), parameters(2)
    a, b = AdamW(ours, 0.01, weight_decay=0.1), torch.optim.AdamW(theirs, 0.01, weight_decay=0.1, **{kind: True})
    left, right = (torch.Generator().manual_seed(0) for _ in range(2))
    for _ in range(100):
        feed(ours, left)
        feed(theirs, right)
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)


def test_on_a_language_model() -> None:
    config = ModelConfig(vocab_size=30, width=16, n_layers=2, n_heads=2, context=12)
    ours = LanguageModel(config, generator=torch.Generator().manual_seed(0))
    theirs, ids = copy.deepcopy(ours), torch.randint(30, (20, 4, 13), generator=torch.Generator().manual_seed(1))
    a = AdamW(decay_groups(ours, 0.1), 0.01, betas=(0.9, 0.95))
    b = torch.optim.AdamW(decay_groups(theirs, 0.1), 0.01, betas=(0.9, 0.95), foreach=False)
    for batch in ids:
        for model, rule in ((ours, a), (theirs, b)):
            rule.zero_grad()
            nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
            clip_grad_norm(model.parameters(), 1.0)
            rule.step()
    assert same(list(ours.parameters()), list(theirs.parameters()))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_lion_as_the_paper_writes_it(data: st.DataObject) -> None:
    "Chen et al. 2023, algorithm 2, in numpy's float64."
    number = lambda *options: data.draw(st.sampled_from(options))
    betas = number((0.9, 0.99), (0.0, 0.5), (0.95, 0.98), (0.5, 0.0))
    lr, decay = number(1e-4, 0.1), number(0.0, 0.3)
    params = parameters(3, torch.float64)
    rule, generator = Lion(params, lr, betas=betas, weight_decay=decay), torch.Generator().manual_seed(number(0, 1, 2))
    places, averages = [p.detach().numpy().copy() for p in params], [np.zeros(p.shape) for p in params]
    for _ in range(40):
        feed(params, generator)
        for k, p in enumerate(params):
            g = p.grad.numpy()
            update = np.sign(betas[0] * averages[k] + (1 - betas[0]) * g)
            places[k] = places[k] - lr * (update + decay * places[k])
            averages[k] = betas[1] * averages[k] + (1 - betas[1]) * g
        rule.step()
    for p, place in zip(params, places, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), place, rtol=1e-10, atol=1e-12)


# ---- the frame: closures, states, groups, schedulers


def build(name: str, params: Any, **options: Any) -> Any:
    return {"sgd": lambda: SGD(params, 0.05, momentum=0.9), "adamw": lambda: AdamW(params, 0.05), "lion": lambda: Lion(params, 0.05)}[name]()


RULES = ("sgd", "adamw", "lion")


@pytest.mark.parametrize("name", RULES)
def test_closure(name: str) -> None:
    "It runs once, with gradients even under no_grad, before the step, and its result comes back."
    p, calls = nn.Parameter(torch.tensor([2.0])), []
    rule = build(name, [p])

    def closure() -> Tensor:
        rule.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        calls.append(loss.item())
        return loss

    with torch.no_grad():
        assert rule.step(closure).item() == 4.0
    assert calls == [4.0] and p.item() < 2.0 and p.requires_grad and rule.step() is None


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("stop", [0, 1, 7])
def test_resumed_equals_uninterrupted(name: str, stop: int) -> None:
    "A state that went through bytes: the same bits; and the state that was loaded is not the one that was saved."
    import io

    def run(params: list[nn.Parameter], rule: Any, steps: range) -> None:
        for step in steps:
            feed(params, torch.Generator().manual_seed(step), 0.2)
            rule.step()

    whole = parameters(4)
    run(whole, build(name, whole), range(15))
    first = parameters(4)
    rule = build(name, first)
    run(first, rule, range(stop))
    file = io.BytesIO()
    torch.save({"params": first, "rule": rule.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = [nn.Parameter(p.detach().clone()) for p in saved["params"]]
    resumed = build(name, second)
    resumed.load_state_dict(saved["rule"])
    run(second, resumed, range(stop, 15))
    assert same(whole, second)


@pytest.mark.parametrize("name", sorted(OURS))
@pytest.mark.parametrize("to_torch", [True, False])
@pytest.mark.parametrize("fused", [False, True])
def test_states_are_exchanged_with_torch(name: str, to_torch: bool, fused: bool) -> None:
    "Ten steps by one, ten by the other, equal to twenty by one. (torch's SGD wants settings in a state that ours has not.)"
    if name == "sgd" and to_torch:
        return
    options: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1} | ({"momentum": 0.9} if name == "sgd" else {})
    classes = (OURS[name], THEIRS[name]) if to_torch else (THEIRS[name], OURS[name])
    right, params = parameters(5), parameters(5)
    rule, alone, state = None, OURS[name](right, **options), None
    for cls in classes:
        rule = cls(params, **options, **({"fused": True} if fused and cls is THEIRS[name] else {}))
        if state is not None:
            rule.load_state_dict(copy.deepcopy(state))
        for step in range(10):
            seed = step + 10 * (state is not None)
            feed(params, torch.Generator().manual_seed(seed))
            rule.step()
        state = rule.state_dict()
    for step in range(20):
        feed(right, torch.Generator().manual_seed(step))
        alone.step()
    if fused:
        torch.testing.assert_close(params, right, rtol=2e-5, atol=2e-6)
    else:
        assert same(params, right)


FOREIGN: list[tuple[Any, str, str]] = [
    (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True), "sgd", "nesterov=True"),
    (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5), "sgd", "dampening=0.5"),
    (lambda p: torch.optim.SGD(p, 0.1, maximize=True), "sgd", "maximize=True"),
    (lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True), "adamw", "amsgrad=True"),
    (lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1), "adamw", "decoupled_weight_decay=False"),
    (lambda p: SGD(p, 0.1, momentum=0.9), "adamw", "not a state of AdamW"),
    (lambda p: Lion(p, 0.1), "adamw", "not a state of AdamW"),
    (lambda p: AdamW(p, 0.1), "lion", "not a state of Lion"),
    (lambda p: torch.optim.AdamW(p, 0.1), "sgd", "not a state of SGD"),
]


@pytest.mark.parametrize("make, name, says", FOREIGN, ids=lambda x: x if isinstance(x, str) else "")
def test_states_of_another_rule_are_refused_before_anything_changes(make: Any, name: str, says: str) -> None:
    other, params = parameters(5), parameters(5)
    foreign, rule = make(other), build(name, params)
    for p in (other, params):
        feed(p, torch.Generator().manual_seed(0))
    foreign.step()
    rule.step()
    before = copy.deepcopy(rule.state_dict())
    with pytest.raises(ValueError, match=re.escape(says) + ".* Try "):
        rule.load_state_dict(foreign.state_dict())
    after = rule.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for kept, now in zip(before["state"].values(), after["state"].values(), strict=True):
        assert kept.keys() == now.keys() and all(torch.equal(kept[key], now[key]) for key in kept)
    if "=" in says:  # a group of one's own with such a setting, too
        key = says.partition("=")[0]
        with pytest.raises(ValueError, match=re.escape(says)):
            rule.add_param_group({"params": parameters(1), key: foreign.param_groups[0][key]})


@pytest.mark.parametrize("name", RULES)
def test_groups_can_be_added_and_schedulers_work(name: str) -> None:
    params = parameters(6)
    rule = build(name, params[:2])
    rule.add_param_group({"params": params[2:], "lr": 0.0})
    before = [p.detach().clone() for p in params]
    feed(params, torch.Generator().manual_seed(0))
    rule.step()
    assert [torch.equal(p, old) for p, old in zip(params, before, strict=True)] == [False, False, True, True, True]
    scheduler = torch.optim.lr_scheduler.LambdaLR(rule, cosine_schedule(10, warmup=4))
    assert rule.param_groups[0]["lr"] == pytest.approx(0.05 * 0.2)
    torch.optim.lr_scheduler.LambdaLR(rule, cosine_schedule(10, warmup=4)).load_state_dict(scheduler.state_dict())


@pytest.mark.parametrize("name", RULES)
def test_sparse_gradients_are_refused_before_anything_moves(name: str) -> None:
    table, other = nn.Embedding(6, 2, sparse=True), nn.Parameter(torch.ones(2))
    rule = build(name, [other, table.weight])
    before = other.detach().clone(), table.weight.detach().clone()
    (table(torch.tensor([1, 2])).sum() + other.sum()).backward()
    with pytest.raises(ValueError, match="sparse=False"):
        rule.step()
    assert torch.equal(other, before[0]) and torch.equal(table.weight, before[1]) and not rule.state[other]
    with pytest.raises(ValueError, match=re.escape("p.grad.to_dense()")):
        clip_grad_norm(table.parameters(), 1.0)
    table.weight.grad = table.weight.grad.to_dense()  # what the message says
    rule.step()
    assert not torch.equal(table.weight, before[1])


@pytest.mark.parametrize("name", RULES)
def test_state_stays_where_it_is(name: str) -> None:
    "No new memory a step for what is remembered."
    params = parameters(7)
    rule = build(name, params)
    feed(params, torch.Generator().manual_seed(0))
    rule.step()
    places = [x.data_ptr() for state in rule.state.values() for x in state.values()]
    size = optimizer_bytes(rule)
    rule.step()
    assert places == [x.data_ptr() for state in rule.state.values() for x in state.values()]
    n = sum(p.numel() for p in params)
    assert size == optimizer_bytes(rule) == {"sgd": 4 * n, "lion": 4 * n, "adamw": 8 * n + 4 * len(params)}[name]


BAD = [
    (SGD, {"lr": -0.1}, "lr=-0.1"),
    (SGD, {"lr": math.nan}, "lr=nan"),
    (AdamW, {"lr": math.inf}, "lr=inf"),
    (SGD, {"momentum": 1.0}, "momentum=1.0"),
    (SGD, {"weight_decay": -1}, "weight_decay=-1"),
    (AdamW, {"betas": (0.9, 1.0)}, "betas=(0.9, 1.0)"),
    (AdamW, {"betas": (0.9,)}, "betas=(0.9,)"),
    (AdamW, {"betas": 0.9}, "betas=0.9"),
    (AdamW, {"eps": -1e-8}, "eps=-1e-08"),
    (Lion, {"betas": (-0.1, 0.9)}, "betas=(-0.1, 0.9)"),
    (Lion, {"lr": "0.1"}, "lr='0.1'"),
    (Lion, {"lr": (0.1,)}, "lr=(0.1,)"),
]


@pytest.mark.parametrize("cls, options, says", BAD, ids=lambda x: str(x)[:30])
def test_bad_settings(cls: Any, options: dict[str, Any], says: str) -> None:
    for make in (lambda: cls(parameters(), **options), lambda: cls([{"params": parameters(), **options}])):
        with pytest.raises(ValueError, match=re.escape(says) + ".* Try "):
            make()
    rule = cls(parameters())
    with pytest.raises(ValueError, match=re.escape(says)):
        rule.add_param_group({"params": parameters(1), **options})
    assert len(rule.param_groups) == 1


def test_rates_may_be_tensors_and_numpys() -> None:
    for lr in (torch.tensor(0.05), np.float32(0.05)):
        a, b = parameters(8), parameters(8)
        left, right = AdamW(a, lr), AdamW(b, float(lr))
        feed(a, torch.Generator().manual_seed(0))
        feed(b, torch.Generator().manual_seed(0))
        left.step()
        right.step()
        assert same(a, b)


# ---- masters in float32


def test_masters_keep_what_bf16_drops() -> None:
    "Steps far below bf16's spacing: without masters nothing moves at all; with them, it is AdamW in float32."
    make = lambda: nn.Linear(4, 3, bias=False)
    torch.manual_seed(0)
    narrow, wide = make(), make()
    narrow.weight.data.fill_(1.0)
    wide.weight.data.fill_(1.0)
    alone = nn.Parameter(torch.ones(3, 4, dtype=torch.bfloat16))
    masters = MasterWeights(narrow)
    rules = AdamW(decay_groups(masters, 0.1), 1e-3), AdamW(decay_groups(wide, 0.1), 1e-3), AdamW([alone], 1e-3)
    for _ in range(50):
        narrow.weight.grad = torch.full((3, 4), 0.5, dtype=torch.bfloat16)
        wide.weight.grad = torch.full((3, 4), 0.5)
        alone.grad = torch.full((3, 4), 0.5, dtype=torch.bfloat16)
        masters.take_gradients()
        for rule in rules:
            rule.step()
            rule.zero_grad()
        masters.publish()
    assert torch.equal(masters.parameters[0], wide.weight) and torch.equal(narrow.weight, wide.weight.bfloat16())
    assert (alone == 1).all() and (narrow.weight < 0.96).all()
    assert rules[0].param_groups[0]["weight_decay"] == 0.1 and optimizer_bytes(rules[0]) == 8 * 12 + 4


# ---- groups


FORMS = [
    ModelConfig(vocab_size=30, width=16, n_layers=2, n_heads=2, context=12),
    ModelConfig(vocab_size=30, width=16, n_layers=2, n_heads=2, context=12, tie_embeddings=False, positions="relative", qk_norm=True),
    ModelConfig.gpt2(vocab_size=30, width=16, n_layers=2, n_heads=2, context=12),
]


@pytest.mark.parametrize("config", FORMS, ids=["llama", "relative", "gpt2"])
def test_every_parameter_is_in_one_group(config: ModelConfig) -> None:
    model = LanguageModel(config)
    names = {id(p): name for name, p in model.named_parameters()}
    decays, spared = ({names[id(p)] for p in group["params"]} for group in decay_groups(model, 0.1))
    assert not decays & spared and decays | spared == set(names.values())
    expected = {name for name in names.values() if re.search(r"(_proj|lm_head)\.weight$", name)}
    assert decays == expected and all(name in spared for name in names.values() if "embed" in name or "norm" in name)
    order = [names[id(p)] for group in decay_groups(model, 0.1) for p in group["params"]]
    assert sorted(order[: len(decays)], key=list(names.values()).index) == order[: len(decays)]


def test_names_of_other_libraries_and_own_tables() -> None:
    wide, flat = (lambda: nn.Parameter(torch.ones(2, 2))), (lambda: nn.Parameter(torch.ones(2)))
    pairs = [("transformer.wte.weight", wide()), ("h.0.attn.c_attn.weight", wide()), ("h.0.ln_1.weight", flat()), ("wpe.weight", wide())]
    decays, spared = decay_groups(pairs, 0.1)
    assert len(decays["params"]) == 1 and decays["params"][0] is pairs[1][1] and len(spared["params"]) == 3
    assert len(decay_groups(pairs, 0.1, tables=())[0]["params"]) == 3
    assert len(decay_groups(pairs, 0.1, tables="wte")[0]["params"]) == 2  # one name, not its letters
    assert decay_groups(iter(pairs[1:2]), 0.1) == [{"params": [pairs[1][1]], "weight_decay": 0.1}]  # an empty group is left out
    pairs[1][1].requires_grad_(False)
    assert len(decay_groups(pairs, 0.1)) == 1
    for wrong in ([p for _, p in pairs], [("a", 1, 2)], [3]):
        with pytest.raises(TypeError, match=re.escape("try model.named_parameters()")):
            decay_groups(wrong, 0.1)
    with pytest.raises(ValueError, match="none of 0 parameters"):
        decay_groups([], 0.1)


def test_make_optimizer() -> None:
    model = LanguageModel(FORMS[0])
    auto, ours = make_optimizer(model, lr=0.01), make_optimizer(model, lr=0.01, fused=False, betas=(0.8, 0.9), weight_decay=0.2)
    assert isinstance(auto, torch.optim.AdamW) and auto.param_groups[0]["fused"] and isinstance(ours, AdamW)
    assert [group["weight_decay"] for group in ours.param_groups] == [0.2, 0.0] and ours.defaults["betas"] == (0.8, 0.9)
    assert auto.defaults["betas"] == (0.9, 0.95) and make_optimizer(model, name="lion", lr=0.01).defaults["betas"] == (0.9, 0.99)
    sgd = make_optimizer(model, name="sgd", lr=0.01, betas=(0.7, 0.0))
    assert isinstance(sgd, SGD) and sgd.defaults["momentum"] == 0.7 and sgd.param_groups[0]["weight_decay"] == 0.1
    assert isinstance(make_optimizer(MasterWeights(LanguageModel(FORMS[0])), lr=0.01), torch.optim.AdamW)
    for options, says in (({"name": "adam"}, "'adamw', 'sgd', 'lion' or 'muon'"), ({"lr": -1.0}, "lr=-1.0"), ({"betas": (2, 2)}, "betas=(2, 2)"), ({"betas": ()}, "betas=()"), ({"fused": "yes"}, "fused='yes'")):
        with pytest.raises(ValueError, match=re.escape(says)):
            make_optimizer(model, **({"lr": 0.01} | options))


# ---- Muon


def matrices(seed: int, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in ((6, 4), (3, 9), (1, 5), (7, 7))]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_muon_is_torchs(data: st.DataObject) -> None:
    """Settings, a group's own, formats, missing gradients, a rate that changes: 20 steps, the same bits and the same state.

    Not bf16 without nesterov: torch 2.13 then divides its own momentum by its length, in place.
    """
    number = lambda *options: data.draw(st.sampled_from(options))
    dtype = number(torch.float32, torch.float64, torch.bfloat16)

    def options() -> dict[str, Any]:
        own = {"lr": number(0.0, 1e-3, 0.05), "weight_decay": number(0.0, 0.1), "momentum": number(0.0, 0.5, 0.95)}
        own |= {"nesterov": dtype == torch.bfloat16 or number(True, False), "ns_steps": number(1, 3, 5), "eps": number(1e-7, 1e-2)}
        return own | {"adjust_lr_fn": number(None, "original", "match_rms_adamw"), "ns_coefficients": number((3.4445, -4.775, 2.0315), (2.0, -1.5, 0.5))}

    ours, theirs, general, special = matrices(1, dtype), matrices(1, dtype), options(), options()
    a, b = (cls(groups_of(params, special), **general) for cls, params in ((Muon, ours), (torch.optim.Muon, theirs)))
    walk_together(data, (a, ours), (b, theirs), 20, (0.0, 0.5))
    fresh = Muon(groups_of(matrices(1, dtype), special), **general)
    fresh.load_state_dict(b.state_dict())
    torch.optim.Muon(groups_of(matrices(1, dtype), special), **general).load_state_dict(a.state_dict())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(m=st.integers(1, 40), n=st.integers(1, 40), seed=st.integers(0, 99), size=st.sampled_from([1e-6, 1.0, 1e6]))
def test_newton_schulz_keeps_directions_and_evens_lengths(m: int, n: int, seed: int, size: float) -> None:
    "Singular values from 1 down to 0.1 end between 0.6 and 1.25 along the same vectors, whatever the scale; zero stays zero."
    generator = torch.Generator().manual_seed(seed)
    u, _, v = torch.linalg.svd(torch.randn(m, n, generator=generator), full_matrices=False)
    before = torch.logspace(0, -1, min(m, n))
    made = newton_schulz(size * u @ before.diag() @ v)
    assert made.dtype == torch.bfloat16 and made.shape == (m, n)
    along = u.T @ made.float() @ v.T
    assert 0.6 < along.diagonal().min() and along.diagonal().max() < 1.25
    assert (along - along.diagonal().diag()).abs().max() < 0.05
    assert not newton_schulz(torch.zeros(m, n)).any()


FREE = ModelConfig(vocab_size=30, width=16, n_layers=2, n_heads=2, context=12, tie_embeddings=False)


def test_make_optimizer_gives_muon_the_matrices_inside() -> None:
    model = LanguageModel(FREE)
    names = {id(p): name for name, p in model.named_parameters()}
    muon = make_optimizer(iter(model.named_parameters()), name="muon", lr=0.01, betas=(0.8, 0.9), weight_decay=0.2)
    assert isinstance(muon, Muon)
    inside, head, spared = ({names[id(p)] for p in group["params"]} for group in muon.param_groups)
    assert inside == {name for name in names.values() if name.endswith("_proj.weight")} and head == {"lm_head.weight"}
    assert inside | head | spared == set(names.values()) and "embed_tokens.weight" in spared
    assert ["betas" in group for group in muon.param_groups] == [False, True, True]
    assert [group["weight_decay"] for group in muon.param_groups] == [0.2, 0.2, 0.0]
    assert muon.param_groups[1]["betas"] == (0.8, 0.9) and muon.param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"
    only = make_optimizer([("a", nn.Parameter(torch.ones(3)))], name="muon", lr=0.01)  # no matrix at all
    assert [group["betas"] for group in only.param_groups] == [(0.9, 0.95)]


def test_muon_beside_adamw_is_each_alone() -> None:
    "One optimiser for the whole model: torch's Muon on the matrices inside, AdamW on the rest; resumed in the middle."
    ours = LanguageModel(FREE, generator=torch.Generator().manual_seed(0))
    theirs, ids = copy.deepcopy(ours), torch.randint(30, (10, 4, 13), generator=torch.Generator().manual_seed(1))
    both = make_optimizer(ours, name="muon", lr=0.01)
    named = dict(theirs.named_parameters())
    inside = [p for name, p in named.items() if name.endswith("_proj.weight")]
    rest = [(name, p) for name, p in named.items() if not name.endswith("_proj.weight")]
    apart = [torch.optim.Muon(inside, 0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")]
    apart.append(torch.optim.AdamW(decay_groups(rest, 0.1), 0.01, betas=(0.9, 0.95), foreach=False))  # type: ignore[arg-type]
    for step, batch in enumerate(ids):
        if step == 5:
            again = make_optimizer(ours, name="muon", lr=0.5)
            again.load_state_dict(copy.deepcopy(both.state_dict()))
            both = again
        for model, rules in ((ours, [both]), (theirs, apart)):
            model.zero_grad()
            nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
            for rule in rules:
                rule.step()
    assert same(list(ours.parameters()), list(theirs.parameters()))


def test_muon_says_what_it_cannot_move() -> None:
    flat, wide = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 3))
    for params in ([wide, flat], [("w", wide), ("b", flat)], iter([flat])):
        with pytest.raises(ValueError, match=r"matrices, got a parameter of shape \(3,\)\. Try"):
            Muon(params)
    for options in ({"ns_steps": 0}, {"ns_steps": 100}, {"ns_steps": True}, {"ns_coefficients": (1, 2)}, {"ns_coefficients": 3.0}, {"adjust_lr_fn": "rms"}, {"momentum": 1.0}, {"lr": -1.0}, {"eps": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.* Try "):
            Muon([wide], **options)
    rule = Muon([wide])
    with pytest.raises(TypeError):
        rule.add_param_group({"params": {nn.Parameter(torch.ones(2, 2))}})
    with pytest.raises(ValueError, match="not a state of Muon"):
        rule.load_state_dict(AdamW([wide]).state_dict())
    with pytest.raises(ValueError, match="not a state of AdamW"):
        AdamW([wide]).load_state_dict(rule.state_dict())
    for shape, advice in (((3,), "What is no matrix is for AdamW"), ((2, 3, 4), "Try .flatten(1)")):
        with pytest.raises(ValueError, match=re.escape(f"got the shape {shape}, expected a matrix. {advice}")):
            newton_schulz(torch.ones(shape))
    advised = Muon([{"params": [flat], "betas": (0.9, 0.95)}, {"params": [wide]}])  # what the message says
    assert [group["eps"] for group in advised.param_groups] == [1e-8, 1e-7]


# ---- clipping


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_clipping_equals_torchs(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    ours, theirs = parameters(9, dtype), parameters(9, dtype)
    seed, missing = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.0, 0.5]))
    for params in (ours, theirs):
        feed(params, torch.Generator().manual_seed(seed), missing)
    max_norm = data.draw(st.sampled_from([1e-3, 1.0, 50.0, 1e9, math.inf]))
    length = clip_grad_norm(iter(ours), max_norm)
    right = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(length, right.to(length.dtype), rtol=1e-6, atol=0)
    for p, q in zip(ours, theirs, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=0)


def test_one_scale_for_all() -> None:
    params = parameters(10)
    feed(params, torch.Generator().manual_seed(0))
    before = torch.cat([p.grad.flatten() for p in params])
    clip_grad_norm(params, 0.5)
    after = torch.cat([p.grad.flatten() for p in params])
    assert torch.cosine_similarity(before, after, dim=0) > 1 - 1e-6 and after.norm() == pytest.approx(0.5, rel=1e-5)
    short = after.clone()
    clip_grad_norm(params, 0.6)
    assert torch.equal(torch.cat([p.grad.flatten() for p in params]), short)  # to the bit


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays(bad: float) -> None:
    "torch would make every gradient NaN, or 0; here the caller sees the length and decides."
    params = parameters(11)
    feed(params, torch.Generator().manual_seed(0))
    params[0].grad[1, 2] = bad
    before = [p.grad.clone() for p in params]
    length = clip_grad_norm(params, 1.0)
    other = parameters(11)
    for p, q in zip(params, other, strict=True):
        q.grad = p.grad.clone()
    torch.nn.utils.clip_grad_norm_(other, 1.0)
    assert all((q.grad.isnan() | (q.grad == 0)).all() for q in other)
    assert not length.isfinite() and length.isnan() == math.isnan(bad)
    assert all(torch.equal(p.grad.nan_to_num(7), old.nan_to_num(7)) for p, old in zip(params, before, strict=True))


def test_bf16_gradients_are_measured_in_float32() -> None:
    p = nn.Parameter(torch.zeros(1000, dtype=torch.bfloat16))
    p.grad = torch.full((1000,), 0.1, dtype=torch.bfloat16)
    exact = p.grad.double().norm().item()
    length = clip_grad_norm(p, 1e9)
    assert length.dtype == torch.float32 and length.item() == pytest.approx(exact, rel=1e-6)


def test_clipping_nothing_and_bad_lengths() -> None:
    assert clip_grad_norm([], 1.0) == 0 and clip_grad_norm(parameters(), 1.0) == 0
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm=1.0"):
            clip_grad_norm(parameters(), wrong)


# ---- schedules


@settings(max_examples=80, deadline=None, derandomize=True)
@given(steps=st.integers(1, 200), data=st.data())
def test_schedules_equal_transformers_moved_by_a_step(steps: int, data: st.DataObject) -> None:
    """transformers begins at 0 and ends at `steps`. Ours at step s, with warm-up w, is theirs at s + 1 with warm-up w + 1 and one step more."""
    from transformers import optimization

    warmup = data.draw(st.integers(0, steps - 1))
    fall = data.draw(st.integers(1, steps - warmup))
    floor = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    cosine, wsd = cosine_schedule(steps, warmup=warmup), wsd_schedule(steps, warmup=warmup, decay=fall / steps, floor=floor)
    level = constant_schedule(warmup=warmup)
    with_floor = {"num_warmup_steps": warmup + 1, "num_training_steps": steps + 1, "num_cycles": 0.5, "min_lr_rate": 0.1}
    stages = {"num_warmup_steps": warmup + 1, "num_stable_steps": steps - warmup - fall, "num_decay_steps": fall, "num_cycles": 0.5}
    stages |= {"warmup_type": "linear", "decay_type": "linear"}
    for step in range(steps + 3):
        if step <= steps:
            right = optimization._get_cosine_schedule_with_warmup_lr_lambda(step + 1, **with_floor)
            assert cosine(step) == pytest.approx(right, abs=1e-12)
        low = {"min_lr_ratio": floor if step >= warmup else 0.0}  # theirs rises from the floor
        right = optimization._get_wsd_scheduler_lambda(step + 1, **stages | low)
        assert wsd(step) == pytest.approx(right, abs=1e-12)
        right = optimization._get_constant_schedule_with_warmup_lr_lambda(step + 1, num_warmup_steps=warmup + 1)
        assert level(step) == pytest.approx(right, abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_shape_of_schedules(warmup: int, floor: float) -> None:
    for schedule in (cosine_schedule(40, warmup=warmup, floor=floor), wsd_schedule(40, warmup=warmup, floor=floor)):
        factors = [schedule(step) for step in range(45)]
        assert 0 < factors[0] and factors[warmup] == 1.0 and all(0 < x <= 1 for x in factors[:40])
        assert factors[40:] == [floor] * 5
        assert all(b > a for a, b in itertools.pairwise(factors[: warmup + 1]))
        assert all(b <= a for a, b in itertools.pairwise(factors[warmup:]))
    assert wsd_schedule(40, warmup=7, decay=0.0)(39) == 1.0


def test_schedules_are_values() -> None:
    one = wsd_schedule(100, warmup=5)
    assert one == wsd_schedule(100, warmup=5) != wsd_schedule(100, warmup=6) and len({one, wsd_schedule(100, warmup=5)}) == 1
    assert Schedule(**json.loads(json.dumps(asdict(one)))) == one
    with pytest.raises(FrozenInstanceError):
        one.steps = 7  # type: ignore[misc]


BAD_SCHEDULES: list[tuple[Any, str]] = [
    (lambda: cosine_schedule(0), "steps=0"),
    (lambda: cosine_schedule(10.0), "steps=10.0"),  # type: ignore[arg-type]
    (lambda: cosine_schedule(10, warmup=-1), "warmup=-1"),
    (lambda: cosine_schedule(10, warmup=10), "warmup=10"),
    (lambda: cosine_schedule(10, floor=1.1), "floor=1.1"),
    (lambda: cosine_schedule(10, floor=math.nan), "floor=nan"),
    (lambda: wsd_schedule(10, decay=-0.1), "decay=-0.1"),
    (lambda: wsd_schedule(10, warmup=5, decay=0.7), "Try decay=0.5"),
    (lambda: wsd_schedule(3, warmup=2, decay=1.0), "Try decay=0.33"),
    (lambda: constant_schedule(warmup=0.5), "warmup=0.5"),  # type: ignore[arg-type]
    (lambda: cosine_schedule(10, floor="a"), "floor='a'"),  # type: ignore[arg-type]
    (lambda: wsd_schedule(10, decay=None), "decay=None"),  # type: ignore[arg-type]
    (lambda: Schedule("linear", 10, 0, 0.2, 0.0), "shape='linear'"),  # type: ignore[arg-type]
    (lambda: Schedule("cosine", None, 0, 0.2, 0.0), "shape='cosine' with steps=None"),
    (lambda: Schedule("constant", 10, 0, 0.0, 1.0), "shape='constant' with steps=10"),
]


@pytest.mark.parametrize("make, says", BAD_SCHEDULES, ids=lambda x: x if isinstance(x, str) else "")
def test_bad_schedules(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        make()
    if tried := re.search(r"decay=([\d.]+)$", says):  # what the message says works
        wsd_schedule(10, warmup=5, decay=float(tried[1]))


# ---- the valley, and the record


@pytest.mark.parametrize("name, momentum", [("sgd", 0.0), ("sgd", 0.9), ("adamw", 0.9), ("lion", 0.5)])
@pytest.mark.parametrize("turned", [False, True])
def test_valley_by_autograd(name: str, momentum: float, turned: bool) -> None:
    "The path from the height itself, by autograd and torch's optimisers (Lion: ours)."
    p = nn.Parameter(torch.tensor([-4.0, 1.5], dtype=torch.float64))
    if turned:
        p.data = torch.tensor([-4 - 1.5, -4 + 1.5], dtype=torch.float64) / 2**0.5
    rule: Any = {
        "sgd": lambda: torch.optim.SGD([p], 0.03, momentum=momentum),
        "adamw": lambda: torch.optim.AdamW([p], 0.03, betas=(momentum, 0.95), weight_decay=0),
        "lion": lambda: Lion([p], 0.03, betas=(momentum, 0.99)),
    }[name]()
    path = [p.detach().clone()]
    for _ in range(30):
        u, w = ((p[0] + p[1]) / 2**0.5, (p[1] - p[0]) / 2**0.5) if turned else (p[0], p[1])
        p.grad = torch.autograd.grad((u**2 + 25 * w**2) / 2, p)[0]
        rule.step()
        path.append(p.detach().clone())
    torch.testing.assert_close(_valley_path(name, 0.03, momentum, 25.0, turned=turned, steps=30), torch.stack(path))


def test_valley_numbers_stay_finite_and_wrong_ones_are_refused() -> None:
    data = _valley_data(100.0, (-10.0, 10.0), 60)
    worst = _valley_path("sgd", max(data["rates"]), 0.99, 100.0, steps=60, start=(-10.0, 10.0))
    assert (worst**2 * 100).isfinite().all()
    for wrong in ((0.0, (1.0, 1.0), 9), (101.0, (1.0, 1.0), 9), (5.0, (11.0, 1.0), 9), (5.0, (1.0, 1.0), 61)):
        with pytest.raises(ValueError, match="try steepness"):
            _valley_data(*wrong)


def definitions(tree: ast.Module) -> Iterator[tuple[str, str]]:
    "Functions without their docstrings, and constants, of the comparison."
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.body = node.body[1:] if isinstance(node.body[0], ast.Expr) else node.body
            node.returns = None
            yield node.name, ast.unparse(node).replace(": int", "")
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).strip("()").startswith("ST"):
            yield ast.unparse(node.targets[0]), ast.unparse(node.value)


def test_record_and_chapter_run_the_same_code() -> None:
    text = Path(ROOT / "results" / "optimizers.py").read_text(encoding="utf-8")
    record = dict(definitions(ast.parse(text)))
    cells = [cell.tree for cell in Chapter.load(ROOT / "nbs" / "33_optim.ipynb").code_cells if not cell.exported]
    chapter = dict(pair for tree in cells for pair in definitions(tree))
    shared = {"stories", "small_model", "rule", "train_small", *(name for name in record if "ST" in name)}
    assert len(shared) == 6 and {name: record[name] for name in shared} == {name: chapter.get(name) for name in shared}
