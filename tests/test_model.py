"""The model: every configuration builds or teaches; every way to ask for a text gives the same logits; parameters, operations and bytes
as predicted; fresh models near ln V; one batch learned by heart; and mutants, each caught by a visible test of the chapter.
"""

import ast
import copy
import json
import math
import pickle
import random
import re
import sys
import warnings
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from chapters import NBS, CellFailed, Chapter, Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_chapters import broken_module
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minillm.attention import flash_attention, scaled_dot_product_attention
from minillm.gqa import fused_attention, kv_cache_bytes
from minillm.model import (
    PRESETS,
    LanguageModel,
    ModelConfig,
    activation_bytes,
    draw_model,
    flops_by_part,
    init_weights,
    parameters_by_part,
    saved_bytes,
    training_bytes,
)
from minillm.rope import LinearScaling, Llama3Scaling, NTKScaling, YaRNScaling

POSITIONS = ("rope", "learned", "sinusoidal", "alibi", "relative", "none")
TINY = {"vocab_size": 23, "width": 12, "n_layers": 2, "n_heads": 6, "n_kv_heads": 2, "head_width": 4, "hidden": 10, "context": 40}


def some(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(config: ModelConfig, seed: int = 0, **options: Any) -> LanguageModel:
    "A model whose every weight is random and large enough to matter, norms, biases and position biases too."
    model, generator = LanguageModel(config, **options), some(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4 + ("norm" in name and "weight" in name))
    return model.eval()


def random_form(rng: random.Random, **fixed: Any) -> ModelConfig:
    "Any mixture of all choices, small."
    K, G, H = rng.choice([1, 2, 3]), rng.choice([1, 2, 3]), rng.choice([2, 4, 6])
    norm = rng.choice(["rms", "layer"])
    flip = lambda: rng.random() < 0.5
    drawn: dict[str, Any] = {
        "vocab_size": rng.randint(40, 90), "width": rng.choice([8, 12, 18]), "n_layers": rng.randint(1, 3), "n_heads": K * G, "n_kv_heads": K,
        "head_width": H, "hidden": rng.randint(4, 30), "context": 48, "positions": rng.choice(POSITIONS), "norm": norm,
        "norm_bias": norm == "layer" and flip(), "norm_placement": rng.choice(["pre", "pre", "post"]), "gated": flip(),
        "activation": rng.choice(["relu", "relu_squared", "gelu", "gelu_tanh", "silu", "sigmoid", "identity"]), "bias": flip(), "out_bias": flip(),
        "mlp_bias": flip(), "qk_norm": flip(), "window": rng.choice([None, None, 3, 100]), "tie_embeddings": flip(), "scale_embeddings": flip(),
    }  # fmt: skip
    return ModelConfig(**drawn | fixed)


# ---- the configuration

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"width": 250, "n_heads": 8}, "width=250"),
    ({"n_heads": 6, "n_kv_heads": 4, "head_width": 4}, "n_kv_heads=4"),
    ({"n_heads": 4, "n_kv_heads": 8, "head_width": 4}, "n_kv_heads=8"),
    ({"head_width": 7}, "head_width=7"),
    ({"width": 15, "n_heads": 3, "positions": "sinusoidal"}, "width=15"),
    ({"window": 0}, "window=0"),
    ({"context": 0, "positions": "learned"}, "context=0"),
    ({"vocab_size": 0}, "vocab_size=0"),
    ({"n_layers": -1}, "n_layers=-1"),
    ({"hidden": 0}, "hidden=0"),
    ({"dropout": 1.0}, "dropout=1.0"),
    ({"dropout": -0.1}, "dropout=-0.1"),
    ({"dropout": math.nan}, "dropout=nan"),
    ({"rope_base": 1.0}, "rope_base=1.0"),
    ({"rope_base": math.inf}, "rope_base=inf"),
    ({"norm_eps": 0.0}, "norm_eps=0.0"),
    ({"norm_eps": 1.0}, "norm_eps=1.0"),
    ({"init_std": math.nan}, "init_std=nan"),
    ({"positions": "ropes"}, "positions='ropes'"),
    ({"norm": "LayerNorm"}, "norm='LayerNorm'"),
    ({"norm_placement": "sandwich"}, "norm_placement='sandwich'"),
    ({"activation": "swish"}, "activation='swish'"),
    ({"activation": ""}, "activation=''"),
    ({"norm_bias": True}, "norm_bias=True"),
    ({"width": 64.0}, "width=64.0"),
    ({"width": 64.5}, "width=64.5"),
    ({"width": "64"}, "width='64'"),
    ({"n_layers": True}, "n_layers=True"),
    ({"gated": 1}, "gated=1"),
    ({"gated": "yes"}, "gated='yes'"),
    ({"norm_eps": "1e-5"}, "norm_eps='1e-5'"),
    ({"dropout": None}, "dropout=None"),
    ({"positions": None}, "positions=None"),
    ({"window": 2.0}, "window=2.0"),
    ({"window": False}, "window=False"),
    ({"rope_scaling": "yarn"}, "rope_scaling='yarn'"),
    ({"rope_scaling": 2.0}, "rope_scaling=2.0"),
    ({"rope_scaling": {"factor": 2.0}}, "rope_scaling={'factor': 2.0}"),
    ({"rope_scaling": {"kind": "yarrn", "factor": 2.0}}, "rope_scaling={'kind': 'yarrn'"),
    ({"rope_scaling": {"kind": "linear"}}, "rope_scaling={'kind': 'linear'}"),
    ({"rope_scaling": {"kind": "linear", "factor": 0.5}}, "rope_scaling={'kind': 'linear', 'factor': 0.5}"),
    ({"rope_scaling": {"kind": "linear", "factor": "2"}}, "rope_scaling={'kind': 'linear', 'factor': '2'}"),
    ({"rope_scaling": {"kind": ["linear"]}}, "rope_scaling={'kind': ['linear']}"),
    ({"rope_scaling": {"kind": "linear", "factor": 2.0, "contxt": 3}}, "rope_scaling="),
    ({"rope_scaling": NTKScaling(2.0), "width": 4, "n_heads": 2}, "rope_scaling=NTKScaling"),
    ({"rope_scaling": LinearScaling(2.0), "positions": "learned"}, "rope_scaling=LinearScaling"),
]


def repaired(wrong: dict[str, Any], tries: int = 8) -> ModelConfig:
    "Follow the advice of each error until the configuration is made. Every error gives a field and a value for it."
    for _ in range(tries):
        try:
            return ModelConfig(**wrong)
        except ValueError as error:
            advice = re.search(r"Try (\w+)=('[^']*'|\{.*?\}|[-\w.]+)", str(error))
            assert advice and advice[1] in {field.name for field in fields(ModelConfig)}, str(error)
            assert re.match(rf"{advice[1]}=|width=", str(error)), str(error)  # the field that it names first
            wrong = wrong | {advice[1]: ast.literal_eval(advice[2])}
    raise AssertionError(f"the advice leads nowhere: {wrong}")


@pytest.mark.parametrize(("wrong", "names"), WRONG, ids=[names for _, names in WRONG])
def test_every_impossible_field_is_named_with_a_value_that_works(wrong: dict[str, Any], names: str) -> None:
    given = {"vocab_size": 23, "width": 64, "n_heads": 4} | wrong
    with pytest.raises(ValueError) as caught:
        ModelConfig(**given)
    assert names in str(caught.value) and len(str(caught.value)) < 400
    runs(repaired(given))


def runs(config: ModelConfig) -> None:
    "It builds, has as many parameters as predicted, and gives finite logits and gradients."
    model = LanguageModel(config, generator=some(0))
    assert sum(p.numel() for p in model.parameters()) == config.n_parameters
    logits = model(torch.randint(config.vocab_size, (2, 5), generator=some(1)).clamp(max=config.vocab_size - 1)[:, : config.context])
    logits.square().sum().backward()
    assert logits.isfinite().all() and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


VALUES: dict[str, list[Any]] = {
    "vocab_size": [1, 2, 17, 0, "5"], "width": [1, 2, 6, 12, 15, 0, True], "n_layers": [1, 3, 0, 2.0], "n_heads": [1, 2, 3, 6, 0],
    "n_kv_heads": [None, 1, 2, 3, 4, -1], "head_width": [None, 1, 2, 3, 4, 0], "hidden": [None, 1, 7, 0], "context": [1, 5, 9, 0],
    "positions": [*POSITIONS, "rop", None], "rope_base": [2, 100.0, 1, math.nan],
    "rope_scaling": [None, None, LinearScaling(2.0), NTKScaling(2.0), YaRNScaling(4.0, 64), Llama3Scaling(), {"kind": "ntk", "factor": 3.0}, {"kind": 1}, "x"],
    "norm": ["rms", "layer", "batch"], "norm_eps": [1e-6, 0.1, 0, 3], "norm_bias": [False, True, 0], "norm_placement": ["pre", "post", "Pre"],
    "activation": ["relu", "silu", "gelu_new", "identity", 3], "gated": [True, False, None], "bias": [True, False], "out_bias": [True, False],
    "mlp_bias": [True, False, "no"], "qk_norm": [True, False], "window": [None, 1, 3, 0], "dropout": [0, 0.5, 1], "tie_embeddings": [True, False],
    "scale_embeddings": [True, False], "init_std": [0.02, 1, 0.0],
}  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.fixed_dictionaries({"vocab_size": st.sampled_from(VALUES["vocab_size"])}, optional={k: st.sampled_from(v) for k, v in VALUES.items() if k != "vocab_size"}))
def test_any_configuration_builds_or_teaches(given: dict[str, Any]) -> None:
    "Whatever is asked for: either it is built and runs, or following the errors leads to something that does."
    runs(repaired({"width": 12, "n_layers": 2, "n_heads": 2} | given, tries=20))


def test_all_fields_are_tried() -> None:
    assert set(VALUES) == {field.name for field in fields(ModelConfig)}


def test_unknown_names() -> None:
    for ask in (lambda: ModelConfig(vocab_size=5, n_head=2), lambda: ModelConfig.gpt2(n_head=2), lambda: ModelConfig.preset("nano", n_head=2)):
        with pytest.raises(ValueError, match="no field 'n_head'. Did you mean 'n_heads'"):
            ask()
    with pytest.raises(ValueError, match="Did you mean 'n_heads'"):
        ModelConfig.from_dict({"vocab_size": 5, "n_head": 2})
    with pytest.raises(ValueError, match="Try name='125M'"):
        ModelConfig.preset("125m")
    with pytest.raises(TypeError, match="vocab_size"):
        ModelConfig(width=3)


def test_a_configuration_is_a_value() -> None:
    c = ModelConfig(**TINY, rope_scaling=YaRNScaling(4.0, 64))
    with pytest.raises(FrozenInstanceError):
        c.width = 3  # type: ignore[misc]
    assert c == copy.deepcopy(c) == pickle.loads(pickle.dumps(c)) and hash(c) == hash(copy.copy(c))
    assert c != c.change(window=5)


def test_change_keeps_what_was_said_and_follows_what_was_not() -> None:
    c = ModelConfig(vocab_size=9, width=64, n_heads=4)
    assert c.change() == c
    wide = c.change(width=128)
    assert (wide.head_width, wide.hidden, wide.n_kv_heads) == (32, ModelConfig(vocab_size=9, width=128, n_heads=4).hidden, 4)
    assert c.change(n_heads=8).n_kv_heads == 8 and c.change(n_heads=8).head_width == 8
    said = ModelConfig(vocab_size=9, width=64, n_heads=4, n_kv_heads=2, head_width=6, hidden=50).change(width=32, n_layers=1)
    assert (said.n_kv_heads, said.head_width, said.hidden) == (2, 6, 50)
    assert c.change(gated=False).hidden == 256
    again = c.change(n_kv_heads=4, init_std=0.02)  # what would follow anyway counts as not said
    assert again == c and again.change(n_heads=8).n_kv_heads == 8 and again.change(width=2048).init_std == 0.01
    assert c.change(init_std=0.03).change(width=2048).init_std == 0.03
    odd = ModelConfig(vocab_size=9, width=10, n_heads=4, head_width=6)  # heads do not divide the width
    assert odd.change(n_layers=1).head_width == 6


@pytest.mark.parametrize("scaling", [None, LinearScaling(2.0), NTKScaling(4.0), YaRNScaling(4.0, 64, attention_factor=1.5), Llama3Scaling(factor=4.0)], ids=repr)
def test_json_and_back(scaling: Any, tmp_path: Path) -> None:
    c = ModelConfig(**TINY, rope_scaling=scaling)
    c.save(tmp_path / "c.json")
    assert ModelConfig.load(tmp_path / "c.json") == c == ModelConfig.load(str(tmp_path / "c.json"))
    stored = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert stored["version"] == 1 and set(stored) - {"version"} == {field.name for field in fields(ModelConfig)}
    torch.testing.assert_close(randomised(ModelConfig.load(tmp_path / "c.json"))(torch.arange(9)[None]), randomised(c)(torch.arange(9)[None]))


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text, says in (("{", "no JSON"), ("[1]", "holds a list"), ('{"version": 2, "vocab_size": 5}', "version=2"), ('{"vocab_size": "5"}', "vocab_size='5'"), ("{}", "Try vocab_size=2048")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=re.escape(says)):
            ModelConfig.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no JSON"):
        ModelConfig.load(path)
    with pytest.raises(FileNotFoundError):
        ModelConfig.load(tmp_path / "none.json")


def test_integers_do_for_floats_and_the_model_is_the_same() -> None:
    assert ModelConfig(vocab_size=5, rope_base=10_000) == ModelConfig(vocab_size=5)


# ---- sizes


def test_presets_are_what_their_names_say() -> None:
    for name, low, high in (("nano", 0.3e6, 0.4e6), ("1M", 0.95e6, 1.1e6), *((f"{n}M", 0.95e6 * n, 1.05e6 * n) for n in (10, 35, 125, 355)), ("1B", 0.95e9, 1.05e9)):
        c = ModelConfig.preset(name)
        assert low <= c.n_parameters <= high and c.width == c.n_heads * c.head_width
    assert ModelConfig.preset("nano", n_heads=2, width=32).head_width == 16
    assert set(PRESETS) == {"nano", "1M", "10M", "35M", "125M", "355M", "1B"}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(budget=st.floats(3, 9.3), vocab=st.floats(0.5, 5.3), form=st.sampled_from([{}, {"gated": False}, {"tie_embeddings": False}, {"positions": "learned", "context": 64}, {"bias": True, "norm": "layer"}]))
def test_from_budget(budget: float, vocab: float, form: dict[str, Any]) -> None:
    "Within 2 % and by the rules, or an error whose advice works."
    n, V = int(10**budget), int(10**vocab)
    try:
        c = ModelConfig.from_budget(n, V, **form)
    except ValueError as error:
        advised = int(re.search(r"Try n_parameters=(\d+)", str(error))[1])
        assert f"n_parameters={n}" in str(error) and f"vocab_size={V}" in str(error)
        c, n = ModelConfig.from_budget(advised, V, **form), advised
        assert budget < 5 or V > 600  # from 100,000 on only a vocabulary is in the way
    assert abs(c.n_parameters / n - 1) <= 0.02
    assert 32 <= c.head_width <= 128 and c.width == c.n_heads * c.head_width and 5 <= c.width / c.n_layers <= 320
    assert all(getattr(c, name) == value for name, value in form.items())


def test_from_budget_says_what_it_cannot() -> None:
    for wrong, says in (({"width": 64}, "chooses width itself"), ({"windw": 3}, "Did you mean 'window'"), ({"aspect": 0}, "aspect=0")):
        with pytest.raises(ValueError, match=says):
            ModelConfig.from_budget(1_000_000, 2048, **wrong)
    for n in (1e6, "1M", True, 0, -5):
        with pytest.raises(ValueError, match="n_parameters="):
            ModelConfig.from_budget(n, 2048)


@pytest.mark.parametrize("budget", [100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000])
def test_from_budget_meets_round_numbers(budget: int) -> None:
    for V in (256, 2_048, 50_257):
        if budget > 100 * V:
            assert abs(ModelConfig.from_budget(budget, V).n_parameters / budget - 1) < 0.02


# ---- every way to ask for a text gives the same logits


def alone(model: LanguageModel, texts: list[Tensor]) -> list[Tensor]:
    return [model(text[None])[0] for text in texts]


def some_texts(rng: random.Random, vocab_size: int, most: int = 9) -> list[Tensor]:
    return [torch.randint(vocab_size, (rng.randint(1, most),), generator=some(rng.randint(0, 999))) for _ in range(rng.randint(2, 4))]


@pytest.mark.parametrize("attend", [fused_attention, scaled_dot_product_attention, flash_attention], ids=["fused", "plain", "flash"])
@pytest.mark.parametrize("seed", range(10))
def test_packed_and_padded_rows_equal_one_text_at_a_time(seed: int, attend: Any) -> None:
    "Texts side by side in one row, and one a row with padding left or right or on both sides; logits, and gradients of all weights."
    rng = random.Random(seed)
    config = random_form(rng, positions=POSITIONS[seed % 6])
    model, texts = randomised(config, seed, attend=attend), some_texts(rng, config.vocab_size)
    right = torch.cat(alone(model, texts))
    expected = torch.autograd.grad(right.square().mean(), list(model.parameters()), allow_unused=True)

    gap = rng.randint(0, 2)  # padding between texts
    row, places, belongs = [], [], []
    for number, text in enumerate(texts):
        row += [text, torch.zeros(gap, dtype=torch.long)]
        places += [torch.arange(len(text)), torch.full((gap,), -1)]
        belongs += [torch.full((len(text),), number), torch.full((gap,), -1)]
    row, places, belongs = (torch.cat(x)[None] for x in (row, places, belongs))
    layouts = [(row, places, belongs)]

    T = max(map(len, texts)) + 2
    padded, positions = torch.zeros(len(texts), T, dtype=torch.long), torch.full((len(texts), T), -1)
    for b, text in enumerate(texts):
        start = rng.randint(0, T - len(text))
        padded[b, start : start + len(text)], positions[b, start : start + len(text)] = text, torch.arange(len(text))
    layouts += [(padded, positions, None), (padded, positions, torch.where(positions < 0, -1, 7))]

    for ids, where, documents in layouts:
        got = model(ids, positions=where, documents=documents)[where >= 0]
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4)
        gradients = torch.autograd.grad(got.square().mean(), list(model.parameters()), allow_unused=True)
        for mine, theirs in zip(gradients, expected):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_padding_cannot_be_seen() -> None:
    "Whatever ids stand in the padding, nothing changes, and no gradient comes from them."
    model = randomised(random_form(random.Random(3), positions="rope", window=None))
    positions = torch.tensor([[0, 1, 2, -1, -1], [-1, -1, 0, 1, 2]])
    ids = torch.randint(model.config.vocab_size, (2, 5), generator=some(0))
    other = torch.where(positions < 0, (ids + 1) % model.config.vocab_size, ids)
    torch.testing.assert_close(model(ids, positions=positions)[positions >= 0], model(other, positions=positions)[positions >= 0], rtol=0, atol=0)


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_future_cannot_be_seen(positions: str) -> None:
    model = randomised(random_form(random.Random(1), positions=positions))
    ids = torch.randint(model.config.vocab_size, (1, 8), generator=some(0))
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % model.config.vocab_size
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1], atol=1e-3)


@pytest.mark.parametrize("positions", POSITIONS)
def test_positions_that_start_again_need_documents(positions: str) -> None:
    "Else the first text sees the second. Padding, gaps and rows of their own are no such thing."
    model, ids = randomised(ModelConfig(**TINY, positions=positions)), torch.arange(6)[None].repeat(2, 1)
    for wrong in ([0, 1, 2, 0, 1, 2], [0, 1, 2, -1, 0, 1], [0, 0, 1, 2, 3, 4], [5, 4, 3, 2, 1, 0]):
        for where in (torch.tensor(wrong), torch.stack([torch.arange(6), torch.tensor(wrong)])):
            with pytest.raises(ValueError, match="in one row.*Try documents=batch.documents"):
                model(ids, positions=where)
            assert model(ids, positions=where, documents=torch.tensor([0, 0, 0, 1, 1, 1])).isfinite().all()
    for right in ([-1, -1, 0, 1, 2, 3], [0, 1, -1, -1, 2, 3], [3, 5, 9, 11, -1, -1], [-1] * 6):
        assert model(ids, positions=torch.tensor(right)).isfinite().all()


class ListLayer:
    "The plainest memory of a layer: lists. `start` says at which column each row begins; before it stands padding."

    def __init__(self, start: Tensor | None = None, documents: Tensor | None = None) -> None:
        self.start, self.documents, self.seen = start, documents, 0
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []

    def _places(self, low: int, high: int) -> Tensor:
        columns = torch.arange(low, high)
        return columns if self.start is None else (columns - self.start[:, None]).clamp(min=-1)

    def positions(self, T: int) -> Tensor:
        return self._places(self.seen, self.seen + T)

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        self.k.append(k)
        self.v.append(v)
        self.seen += k.shape[-2]
        texts = None if self.documents is None else self.documents[..., : self.seen]
        return torch.cat(self.k, -2), torch.cat(self.v, -2), self._places(0, self.seen), texts


class ListCache:
    "One `ListLayer` a layer."

    def __init__(self, n_layers: int, **options: Any) -> None:
        self.layers = [ListLayer(**options) for _ in range(n_layers)]

    def layer(self, i: int) -> ListLayer:
        return self.layers[i]

    def __len__(self) -> int:
        "Tokens seen; a cache that is empty is a cache nevertheless."
        return self.layers[0].seen


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("chunks", [[7], [1] * 7, [4, 1, 1, 1], [2, 3, 2]], ids=str)
def test_cache_equals_no_cache(positions: str, chunks: list[int]) -> None:
    "The whole text at once, token by token, prefill and decode, and in pieces."
    rng = random.Random(f"{positions} {chunks}")
    for window in (None, 3):
        model = randomised(random_form(rng, positions=positions, window=window))
        ids = torch.randint(model.config.vocab_size, (3, 7), generator=some(2))
        cache = ListCache(model.config.n_layers)
        with torch.no_grad():
            got = torch.cat([model(piece, cache=cache) for piece in ids.split(chunks, 1)], 1)
        torch.testing.assert_close(got, model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_left_padded_cache_equals_one_text_at_a_time(positions: str) -> None:
    model = randomised(random_form(random.Random(4), positions=positions))
    texts = some_texts(random.Random(5), model.config.vocab_size)
    T = max(map(len, texts)) + 3
    start = torch.tensor([T - len(text) for text in texts])
    ids = torch.stack([F.pad(text, (T - len(text), 0)) for text in texts])
    cache = ListCache(model.config.n_layers, start=start)
    with torch.no_grad():
        got = torch.cat([model(piece, cache=cache) for piece in (ids[:, : T - 2], ids[:, T - 2 : T - 1], ids[:, T - 1 :])], 1)
        for b, right in enumerate(alone(model, texts)):
            torch.testing.assert_close(got[b, start[b] :], right, rtol=1e-4, atol=1e-4)


def test_a_packed_cache() -> None:
    "A cache that knows documents: positions go on, documents keep texts apart (rotations know only distances)."
    model = randomised(random_form(random.Random(6), positions="rope"))
    ids, documents = torch.randint(model.config.vocab_size, (1, 8), generator=some(0)), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    cache = ListCache(model.config.n_layers, documents=documents)
    with torch.no_grad():
        got = torch.cat([model(ids[:, t : t + 1], documents=documents[t : t + 1], cache=cache) for t in range(8)], 1)
    torch.testing.assert_close(got, torch.cat([model(ids[:, :3]), model(ids[:, 3:])], 1), rtol=1e-4, atol=1e-4)


def test_cache_bytes_are_those_predicted() -> None:
    config = ModelConfig(**TINY)
    cache = ListCache(config.n_layers)
    LanguageModel(config)(torch.zeros(3, 5, dtype=torch.long), cache=cache)
    held = sum(x.nbytes for layer in cache.layers for x in (*layer.k, *layer.v))
    assert held == kv_cache_bytes(config.n_layers, config.n_kv_heads, config.head_width, 5, batch_size=3, dtype=torch.float32)


def test_hidden_and_head() -> None:
    model = randomised(ModelConfig(**TINY))
    ids = torch.arange(6)[None]
    assert model.hidden(ids).shape == (1, 6, 12)
    torch.testing.assert_close(model.lm_head(model.hidden(ids)), model(ids))


def test_attend_can_be_swapped() -> None:
    "Looking is swapping: a function that keeps the weights is called once a layer and changes nothing."
    seen = []

    def looking(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.append((q.shape, k.shape))
        return scaled_dot_product_attention(q, k, v, **options)

    config = ModelConfig(**TINY)
    ids = torch.arange(6)[None]
    torch.testing.assert_close(randomised(config, attend=looking)(ids), randomised(config)(ids))
    assert seen == [((1, 6, 6, 4), (1, 6, 6, 4))] * 2


def test_scaling_of_rope_reaches_the_model() -> None:
    config = ModelConfig(**TINY)
    for scaling in (LinearScaling(2.0), NTKScaling(2.0), YaRNScaling(4.0, 64), Llama3Scaling(factor=4.0, context=16)):
        assert not torch.allclose(randomised(config)(torch.arange(20)[None]), randomised(config.change(rope_scaling=scaling))(torch.arange(20)[None]), atol=1e-4)


def test_dropout_only_in_training() -> None:
    model = randomised(ModelConfig(**TINY, dropout=0.5))
    ids = torch.arange(6)[None]
    torch.testing.assert_close(model(ids), randomised(ModelConfig(**TINY))(ids))
    model.train()
    torch.manual_seed(0)
    assert not torch.allclose(model(ids), model(ids))


BAD_INPUTS = [
    ((torch.arange(5),), {}, "ids is torch.int64 (5,)"),
    (([[1, 2]],), {}, "ids is a list"),
    ((torch.ones(1, 2),), {}, "torch.float32"),
    ((torch.ones(1, 2, dtype=torch.bool),), {}, "torch.bool"),
    ((torch.ones(1, 2, dtype=torch.uint8),), {}, "torch.uint8"),
    ((torch.ones(1, 0, dtype=torch.long),), {}, "no token"),
    ((torch.ones(0, 3, dtype=torch.long),), {}, "no token"),
    ((torch.tensor([[3, 23]]),), {}, "ids holds 23"),
    ((torch.tensor([[3, -1]]),), {}, "ids holds -1"),
    ((torch.zeros(1, 41, dtype=torch.long),), {}, "context=40"),
    ((torch.zeros(1, 2, dtype=torch.long),), {"positions": torch.tensor([39, 40])}, "positions holds 40"),
    ((torch.zeros(1, 2, dtype=torch.long),), {"positions": torch.tensor([0.0, 1.0])}, "positions"),
    ((torch.zeros(2, 3, dtype=torch.long),), {"positions": torch.arange(4)}, "positions"),
    ((torch.zeros(2, 3, dtype=torch.long),), {"positions": torch.zeros(3, 3, dtype=torch.long)}, "positions"),
    ((torch.zeros(2, 3, dtype=torch.long),), {"documents": torch.zeros(3, dtype=torch.long)}, "documents without positions"),
    ((torch.zeros(2, 3, dtype=torch.long),), {"documents": torch.zeros(2, dtype=torch.long), "positions": torch.arange(3)}, "documents"),
    ((torch.zeros(2, 3, dtype=torch.long),), {"positions": torch.arange(3), "cache": ListCache(2)}, "positions beside a cache"),
    ((torch.zeros(2, 3, dtype=torch.long),), {"cache": ListLayer()}, "cache"),
]


@pytest.mark.parametrize(("arguments", "options", "says"), BAD_INPUTS, ids=[f"{k} {says}" for k, (_, _, says) in enumerate(BAD_INPUTS)])
def test_bad_inputs(arguments: tuple[Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        LanguageModel(ModelConfig(**TINY, positions="learned"))(*arguments, **options)


def test_int32_ids() -> None:
    model = LanguageModel(ModelConfig(**TINY))
    torch.testing.assert_close(model(torch.arange(5)[None].int()), model(torch.arange(5)[None]))


def test_a_text_longer_than_the_context_is_only_too_long_for_learned_positions() -> None:
    for positions in POSITIONS:
        model = LanguageModel(ModelConfig(**TINY, positions=positions))
        if positions != "learned":
            assert model(torch.zeros(1, 50, dtype=torch.long)).isfinite().all()
    cache = ListCache(2)
    model = LanguageModel(ModelConfig(**TINY, positions="learned"))
    model(torch.zeros(1, 40, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="positions holds 40"):
        model(torch.zeros(1, 1, dtype=torch.long), cache=cache)


def test_bfloat16_and_autocast_and_float64() -> None:
    "The same model in other formats: near, and of that format."
    for positions in POSITIONS:
        model = randomised(random_form(random.Random(7), positions=positions, activation="silu"))
        ids = torch.randint(model.config.vocab_size, (2, 9), generator=some(0))
        with torch.no_grad():
            right = model(ids)
            with torch.autocast("cpu", torch.bfloat16):
                near = model(ids)
            half, double = copy.deepcopy(model).bfloat16()(ids), copy.deepcopy(model).double()(ids)
        assert half.dtype == torch.bfloat16 and double.dtype == torch.float64
        torch.testing.assert_close(double.float(), right, rtol=1e-3, atol=1e-3)
        for got in (near, half):
            assert (got.float() - right).norm() < 0.1 * right.norm(), positions


# ---- fresh weights


def test_fresh_weights() -> None:
    config = ModelConfig.gpt2(vocab_size=500, width=96, n_layers=8, n_heads=4, context=200, init_std=0.03)
    for name, weight in LanguageModel(config, generator=some(0)).named_parameters():
        if "norm" in name:
            assert (weight == float(name.endswith("weight"))).all(), name
        elif name.endswith("bias"):
            assert not weight.any(), name
        else:
            expected = 0.03 / 4 if "o_proj" in name or "down_proj" in name else 0.03
            assert abs(weight.std() / expected - 1) < 0.03 and abs(weight.mean()) < 0.05 * expected, name


def test_fresh_weights_come_from_the_generator_alone() -> None:
    config = ModelConfig(**TINY, positions="relative", bias=True)
    both = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        both.append(LanguageModel(config, generator=some(7)).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in both)))
    torch.manual_seed(5)
    one = LanguageModel(config).state_dict()
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(one.values(), LanguageModel(config).state_dict().values()))


def test_init_weights_of_a_part_keeps_norms() -> None:
    model = randomised(ModelConfig(**TINY))
    before = model.norm.weight.clone()
    init_weights(model, std=0.01, generator=some(0))
    assert torch.equal(model.norm.weight, before) and model.lm_head.weight.std() < 0.02


def untrained(config: ModelConfig, seed: int, B: int = 4, T: int = 128) -> float:
    generator = some(seed)
    model = LanguageModel(config, generator=generator).eval()
    ids, targets = (torch.randint(config.vocab_size, (B, T), generator=generator) for _ in range(2))
    with torch.no_grad():
        return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).item() / math.log(config.vocab_size)


@pytest.mark.parametrize("name", ["nano", "1M", "10M", "35M"])
def test_untrained_loss_of_presets(name: str) -> None:
    assert abs(untrained(ModelConfig.preset(name), 0, B=2) - 1) < 0.02


@pytest.mark.parametrize(("width", "vocab_size"), [(640, 2_048), (768, 50_257), (1_472, 2_048), (2_048, 2_048)])
def test_untrained_loss_of_wide_models(width: int, vocab_size: int) -> None:
    "One block of the widths of the large presets and of from_budget(1e9, 2048); with 0.02 all the same it is too much."
    config = ModelConfig(vocab_size=vocab_size, width=width, n_layers=1, n_heads=width // 32, context=128)
    assert abs(untrained(config, 0, B=2 if vocab_size > 10_000 else 4) - 1) < 0.02
    assert math.isclose(config.init_std, 0.02 * math.sqrt(512 / width)) and ModelConfig.preset("nano").init_std == 0.02
    if width == 2_048:
        assert untrained(config.change(init_std=0.02), 0) > 1.04


@pytest.mark.parametrize("seed", range(30))
def test_untrained_loss_of_any_form(seed: int) -> None:
    "Random forms and sizes, of widths up to 128."
    rng = random.Random(seed)
    N, H = rng.choice([1, 2, 4]), rng.choice([8, 16, 32])
    config = random_form(rng, vocab_size=rng.randint(100, 3000), width=N * H, n_heads=N, n_kv_heads=1, head_width=H, hidden=4 * N * H, context=128)
    assert abs(untrained(config, seed) - 1) < 0.02


@pytest.mark.parametrize("form", [ModelConfig, ModelConfig.gpt2], ids=["llama", "gpt2"])
def test_one_batch_is_learned_by_heart(form: Any) -> None:
    config = form(vocab_size=64, width=48, n_layers=2, n_heads=4, context=16)
    model = LanguageModel(config, generator=some(0))
    ids = torch.randint(64, (4, 17), generator=some(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(120):
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


# ---- accounting


@pytest.mark.parametrize("seed", range(40))
def test_parameters_by_part_are_those_of_the_model(seed: int) -> None:
    config = random_form(random.Random(seed))
    counted = dict.fromkeys(parameters_by_part(config), 0)
    for name, weight in LanguageModel(config).named_parameters():
        part = {"embed_tokens": "embedding", "embed_positions": "positions", "lm_head": "head", "norm": "norms"}.get(name.split(".")[0])
        part = part or ("positions" if "position_bias" in name else "attention" if "self_attn" in name else "norms" if "norm" in name else "feed-forward")
        counted[part] += weight.numel()
    assert counted == parameters_by_part(config) and config.n_parameters == sum(counted.values())


@pytest.mark.parametrize("seed", range(12))
def test_flops_equal_torchs_counter(seed: int) -> None:
    "With the plain attention, whose products torch's counter sees; forward, and forward and backward."
    config = random_form(random.Random(seed + 100))
    B, T = 2, random.Random(seed).randint(1, 20)
    model = LanguageModel(config, attend=scaled_dot_product_attention)
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            out = model(torch.zeros(B, T, dtype=torch.long))
            if backward:
                out.square().sum().backward()
        assert counter.get_total_flops() == B * T * sum(flops_by_part(config, T, backward=backward).values())


def kept(config: ModelConfig, B: int, T: int, **where: Tensor) -> int:
    model, ids = LanguageModel(config).train(), torch.zeros(B, T, dtype=torch.long)
    return saved_bytes(lambda: model(ids, **where), without=[ids, *model.parameters(), *where.values()])


@pytest.mark.parametrize("seed", range(40))
def test_activations_within_5_percent(seed: int) -> None:
    "Whatever the form; sizes large enough that a few stray numbers a batch do not count."
    rng = random.Random(seed + 200)
    N = rng.choice([2, 4])
    shape = {"width": rng.choice([32, 48]), "n_heads": N, "n_kv_heads": rng.choice([1, N]), "head_width": rng.choice([8, 16]), "hidden": rng.randint(40, 160)}
    config = random_form(rng, **shape, dropout=rng.choice([0.0, 0.1]))
    B, T = rng.choice([2, 4]), rng.choice([24, 48])
    assert abs(activation_bytes(config, B, T) / kept(config, B, T) - 1) < 0.05, (config, kept(config, B, T) / activation_bytes(config, B, T))


@pytest.mark.parametrize("positions", POSITIONS)
def test_activations_of_windows_and_packed_rows(positions: str) -> None:
    "Rows with positions and documents of their own keep a mask each, a window one for all."
    for B, T, sizes in ((2, 256, {}), (3, 128, {"n_kv_heads": 2}), (2, 128, {"qk_norm": True, "norm": "layer"})):
        config = ModelConfig(**{"vocab_size": 50, "width": 64, "n_layers": 2, "n_heads": 4, "context": T, "positions": positions} | sizes)
        where = {"positions": torch.arange(T // 2).repeat(B, 2), "documents": torch.arange(2).repeat_interleave(T // 2).repeat(B, 1)}
        for c in (config, config.change(window=8)):
            assert abs(activation_bytes(c, B, T) / kept(c, B, T) - 1) < 0.02, (c, B, T)
            assert abs(activation_bytes(c, B, T, packed=True) / kept(c, B, T, **where) - 1) < 0.04, (c, B, T)


def test_activations_of_real_shapes() -> None:
    for config, B, T in ((ModelConfig.preset("nano"), 4, 256), (ModelConfig.preset("1M"), 2, 512), (ModelConfig.gpt2(vocab_size=512, n_layers=1, context=64), 2, 64)):
        assert abs(activation_bytes(config, B, T) / kept(config, B, T) - 1) < 0.01


def test_training_bytes() -> None:
    config = ModelConfig(**TINY)
    parts = training_bytes(config, 3, 7)
    model = LanguageModel(config)
    optimizer = torch.optim.AdamW(model.parameters())
    F.cross_entropy(model(torch.zeros(3, 7, dtype=torch.long)).flatten(0, 1), torch.zeros(21, dtype=torch.long)).backward()
    optimizer.step()
    assert parts["weights"] == sum(p.nbytes for p in model.parameters()) == sum(p.grad.nbytes for p in model.parameters()) == parts["gradients"]
    assert parts["optimizer"] == sum(x.nbytes for state in optimizer.state.values() for name, x in state.items() if name != "step")
    assert parts["logits"] == 2 * 4 * 3 * 7 * config.vocab_size
    assert training_bytes(config, 3, 7, itemsize=2)["activations"] * 2 == parts["activations"] == activation_bytes(config, 3, 7)


def test_the_peak_of_a_step_is_a_fifth_above_the_sum() -> None:
    "As torch's profiler counts what is allocated and freed; the optimizer's step was taken before."
    config = ModelConfig.preset("nano")
    model, x = LanguageModel(config), torch.randint(2048, (16, 256), generator=some(0))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        F.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward()
    events = sorted((event.start_ns(), event.nbytes()) for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
    held = peak = 0
    for _, size in events:
        held += size
        peak = max(peak, held)
    parts = training_bytes(config, 16, 256)
    assert 1.1 < peak / (parts["gradients"] + parts["activations"] + parts["logits"]) < 1.3


def test_bad_sizes() -> None:
    config = ModelConfig(**TINY)
    for ask, says in (
        (lambda: flops_by_part(config, "128"), "context='128'"), (lambda: flops_by_part(config, -5), "context=-5"),
        (lambda: activation_bytes(config, -1, 5), "batch_size=-1"), (lambda: training_bytes(config, 1, 0), "context=0"),
        (lambda: init_weights(LanguageModel(config), n_layers=0), "n_layers=0"), (lambda: LanguageModel(None), "config is a NoneType"),
        (lambda: LanguageModel(config.to_dict()), "config is a dict"), (lambda: ModelConfig.from_dict([1]), "no mapping"),
        (lambda: ModelConfig.preset(["nano"]), "Try name='nano'"), (lambda: ModelConfig(vocab_size=np.int64(50)), "Try vocab_size=50"),
        (lambda: ModelConfig(vocab_size=5, norm_eps=np.float64(1e-5)), "Try norm_eps=1e-05"),
        (lambda: ModelConfig.from_budget(10**13, 2048), "Try n_parameters=1000000000000"), (lambda: ModelConfig.from_budget(10**6, 2048, aspect="x"), "aspect='x'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(says)):
            ask()
    with torch.device("meta"), pytest.raises(ValueError, match="no memory to measure"):
        kept(config, 1, 3)


def test_meta_device() -> None:
    "The largest preset without its memory."
    with torch.device("meta"):
        model = LanguageModel(ModelConfig.preset("1B"))
        assert model(torch.zeros(2, 8, dtype=torch.long)).shape == (2, 8, 50_257)


# ---- the picture


@pytest.mark.parametrize("seed", range(8))
def test_picture(seed: int) -> None:
    "It says in words what it shows, for any form, and draws without a warning."
    config = random_form(random.Random(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = draw_model(config, caption="A toy.", label="fig-toy")
    text = repr(drawn)
    for said in (f"{config.vocab_size:,} ids", f"{config.n_layers} equal blocks", f"{config.n_heads} heads of {config.head_width}", config.activation):
        assert said in text, said
    assert ("gated" in text) == config.gated and ("RoPE" in text) == (config.positions == "rope") and ("QK-norm" in text) == config.qk_norm
    assert ("RMSNorm" in text) == (config.norm == "rms") and ("embedding's matrix" in text) == config.tie_embeddings
    order = text.index("attention (") < text.index("Norm (")
    assert order == (config.norm_placement == "post")
    assert 'aria-label="From below' in drawn.markup and "fig-toy" in drawn.markup and "A toy." in drawn.markup


# ---- mutants: each is caught by a visible test of the chapter

MUTANTS = [
    ("return self.norm(x)", "return x"),
    ("x + self.embed_positions(positions).to(x.dtype)", "x"),
    ("positions=positions, documents=documents, cache=memory", "positions=positions, cache=memory"),
    ("self.lm_head.weight = self.embed_tokens.weight", "self.lm_head.weight = nn.Parameter(self.embed_tokens.weight.clone())"),
    ("1 / math.sqrt(2 * n_layers)", "1 / math.sqrt(n_layers)"),
    ("times = config, 6 if backward else 2", "times = config, 4 if backward else 2"),
    ("(2 + c.gated) * D * c.hidden + c.mlp_bias", "2 * D * c.hidden + c.mlp_bias"),
    ('"optimizer": 2 * weights', '"optimizer": weights'),
    ("heads = c.n_heads + 2 * c.n_kv_heads", "heads = 3 * c.n_heads"),
    ("kept[storage.data_ptr()] = storage", "kept[id(x)] = storage"),
]


@pytest.fixture(scope="module")
def chapter() -> Chapter:
    return Chapter.load(NBS / "26_model.ipynb")


@pytest.mark.parametrize(("old", "new"), MUTANTS, ids=[old[:40] for old, _ in MUTANTS])
def test_mutants_are_caught(chapter: Chapter, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minillm.model", broken_module("model", old, new))
    run = Run(chapter)
    for cell in chapter.tests:
        if cell.id.startswith("test-") and cell.id not in ("test-presets", "test-draw"):
            try:
                run.through(cell.id)
            except CellFailed:
                return
    pytest.fail("no visible test noticed")
