"""Choosing the next token: each processor equal to transformers' on random logits with ties; every sampler's distribution by a χ² test
against a second derivation in double precision; order, histories, generators; bad input.
"""

import math
import re
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from minillm.sampling import (
    Ban,
    MinP,
    RepetitionPenalty,
    Sampler,
    Temperature,
    TopK,
    TopP,
    draw_ids,
    entropy,
    explore_sampling,
)

transformers = pytest.importorskip("transformers.generation.logits_process")


def rows_of(seed: int, B: int, V: int, steps: float = 0.0, dead: float = 0.0) -> Tensor:
    "Random logits (B,V); with `steps` rounded to it, so that many tie; with `dead` that share of −inf, never a whole row."
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, V, generator=generator)
    if steps:
        logits = (logits / steps).round() * steps
    gone = torch.rand(B, V, generator=generator) < dead
    gone[:, seed % V] = False
    return logits.masked_fill(gone, -torch.inf)


@st.composite
def logits_rows(draw: Any) -> Tensor:
    seed, B, V = draw(st.integers(0, 9999)), draw(st.integers(1, 4)), draw(st.integers(1, 40))
    return rows_of(seed, B, V, draw(st.sampled_from([0, 0.5, 2.0])), draw(st.sampled_from([0, 0.3])))


# ---- equal to transformers


@settings(max_examples=150, deadline=None, derandomize=True)
@given(logits=logits_rows(), temperature=st.floats(0.05, 20), k=st.integers(1, 60), share=st.floats(0, 1))
def test_equals_transformers(logits: Tensor, temperature: float, k: int, share: float) -> None:
    "Bit for bit, ties and −inf included; where a cut hangs on the last digit of a sum, theirs and ours may differ, so shares stay away from it."
    none = torch.zeros(len(logits), 0, dtype=torch.long)
    assert torch.equal(
        Temperature(temperature)(logits), transformers.TemperatureLogitsWarper(temperature)(none, logits)
    )
    assert torch.equal(TopK(k)(logits), transformers.TopKLogitsWarper(k)(none, logits))
    p = logits.double().softmax(-1)
    if not (abs(p - share * p.amax(-1, keepdim=True)) < 1e-6).any():
        assert torch.equal(MinP(share)(logits), transformers.MinPLogitsWarper(share)(none, logits))
    sums = p.sort(-1).values.cumsum(-1)
    if not (abs(sums - (1 - share)) < 1e-6).any():
        ours, theirs = TopP(share)(logits), transformers.TopPLogitsWarper(share)(none, logits)
        assert torch.equal(ours.sort(-1).values, theirs.sort(-1).values), "as many, and as good"
        differ = ours.isfinite() != theirs.isfinite()
        border = torch.where(ours.isfinite(), ours, torch.inf).amin(-1, keepdim=True)
        assert (logits[differ] == border.expand_as(logits)[differ]).all(), (
            "among equals at the border theirs is any, ours the smaller ids"
        )
        for row, mask in zip(logits, ours.isfinite()):
            tied = (row == row[mask].min()).nonzero()[:, 0] if mask.any() else torch.tensor([])
            assert mask[tied].int().diff().le(0).all() if len(tied) else True


def test_a_share_of_one_leaves_all_that_are_best() -> None:
    "At the border itself, which the test above stays away from."
    assert MinP(1)(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [[-torch.inf, 3, 3]]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(logits=logits_rows(), data=st.data())
def test_penalty_equals_transformers(logits: Tensor, data: st.DataObject) -> None:
    B, V = logits.shape
    penalty = data.draw(st.floats(0.2, 5))
    history = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(0, V - 1), min_size=7, max_size=7), min_size=B, max_size=B))
    )
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(history, logits)
    assert torch.equal(RepetitionPenalty(penalty)(logits, history), theirs)
    padded = torch.cat([torch.full((B, 3), -1), history, torch.full((B, 1), -1)], 1)
    assert torch.equal(RepetitionPenalty(penalty)(logits, padded), theirs), "−1 is nothing"


def test_ban_equals_transformers() -> None:
    logits = rows_of(0, 3, 9)
    theirs = transformers.SuppressTokensLogitsProcessor([2, 8])(torch.zeros(3, 0, dtype=torch.long), logits)
    assert torch.equal(Ban([2, 8])(logits), theirs) and torch.equal(Ban([])(logits), logits)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), steps=st.sampled_from([0, 1.0]))
def test_pipeline_equals_transformers(seed: int, steps: float) -> None:
    "All at once, in the order of `generate`."
    logits, history = (
        rows_of(seed, 3, 30, steps),
        torch.randint(0, 30, (3, 5), generator=torch.Generator().manual_seed(seed)),
    )
    sampler = Sampler(temperature=1.7, top_k=12, top_p=0.83, min_p=0.07, repetition_penalty=1.31, banned=[3])
    x = logits
    for theirs in (
        transformers.RepetitionPenaltyLogitsProcessor(1.31),
        transformers.SuppressTokensLogitsProcessor([3]),
        transformers.TemperatureLogitsWarper(1.7),
        transformers.TopKLogitsWarper(12),
        transformers.TopPLogitsWarper(0.83),
        transformers.MinPLogitsWarper(0.07),
    ):
        x = theirs(history, x)
    ours = sampler.probabilities(logits, history)
    torch.testing.assert_close(ours.sort(-1).values, x.softmax(-1).sort(-1).values)
    if not steps:
        torch.testing.assert_close(ours, x.softmax(-1))


def test_what_the_chapter_says_of_transformers() -> None:
    "The order of their chain, the top-k that nobody asked for, and that temperature 0 is refused."
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    assert GenerationConfig._get_default_generation_params()["top_k"] == 50
    with pytest.raises(ValueError, match="temperature"):
        transformers.TemperatureLogitsWarper(0.0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes))
    options = {
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "suppress_tokens": [1],
    }
    config = GenerationConfig(do_sample=True, pad_token_id=0, eos_token_id=2, **options)
    chain = [type(one).__name__ for one in model._get_logits_processor(config, input_ids_seq_length=3)]
    expected = "RepetitionPenaltyLogitsProcessor SuppressTokensLogitsProcessor TemperatureLogitsWarper"
    assert chain == f"{expected} TopKLogitsWarper TopPLogitsWarper MinPLogitsWarper".split()


# ---- second derivations, one token at a time


def by_hand(row: list[float], said: set[int], sampler: Sampler) -> np.ndarray:
    "Probabilities (V,) after banning, penalty, temperature and cuts, in double precision and by loops."
    x = [-math.inf if i in sampler.banned else value for i, value in enumerate(row)]
    theta = sampler.repetition_penalty
    x = [(value / theta if value > 0 else value * theta) if i in said else value for i, value in enumerate(x)]
    if sampler.temperature == 0:
        return np.eye(len(x))[x.index(max(x))]
    x = [value / sampler.temperature for value in x]
    ranked = sorted(range(len(x)), key=lambda i: (-x[i], i))
    if sampler.top_k is not None:
        ranked = [i for i in ranked if x[i] >= x[ranked[min(sampler.top_k, len(ranked)) - 1]]]
    weight = lambda: {i: math.exp(x[i] - x[ranked[0]]) for i in ranked}
    if sampler.top_p is not None:
        total, before, left = sum(weight().values()), 0.0, []
        for i in ranked:
            if left and before >= sampler.top_p * total:
                break
            left.append(i)
            before += weight()[i]
        ranked = left
    if sampler.min_p is not None:
        ranked = [i for i in ranked if weight()[i] >= sampler.min_p]
    p = np.zeros(len(x))
    for i, w in weight().items():
        p[i] = w
    return p / p.sum()


SAMPLERS = [
    Sampler(),
    Sampler(temperature=0),
    Sampler(temperature=0.6),
    Sampler(temperature=1.8),
    Sampler(top_k=1),
    Sampler(top_k=4),
    Sampler(top_k=99),
    Sampler(top_p=0),
    Sampler(top_p=0.7),
    Sampler(top_p=1),
    Sampler(min_p=0.15),
    Sampler(min_p=1),
    Sampler(repetition_penalty=1.4),
    Sampler(repetition_penalty=0.5, temperature=0.9),
    Sampler(banned=[0, 5]),
    Sampler(temperature=1.5, top_k=8, top_p=0.9, min_p=0.05, repetition_penalty=1.2, banned=[1]),
]


@pytest.mark.parametrize("number", range(len(SAMPLERS)))
def test_distribution(number: int) -> None:
    "χ²: 40,000 draws from each of two rows fit the probabilities by hand; probabilities fit them, too."
    sampler = SAMPLERS[number]
    logits, history = rows_of(5, 2, 12), torch.tensor([[3, 0, -1], [7, 7, 2]])
    generator = torch.Generator().manual_seed(100 + number)
    ids = sampler(
        logits.repeat_interleave(40_000, 0), history.repeat_interleave(40_000, 0), generator=generator
    ).view(2, -1)
    found = sampler.probabilities(logits, history)
    for row, said, drawn, p in zip(logits.tolist(), history.tolist(), ids, found):
        expected = by_hand(row, set(said) - {-1}, sampler)
        np.testing.assert_allclose(p.numpy(), expected, atol=1e-6)
        counts = np.bincount(drawn.numpy(), minlength=12)
        assert counts[expected == 0].sum() == 0
        often = expected * 40_000 >= 5
        seen, wanted = (np.append(x[often], x[~often].sum()) for x in (counts, expected * 40_000))
        seen, wanted = seen[wanted > 0], wanted[wanted > 0]
        assert len(seen) == 1 or stats.chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue > 1e-3


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 9999), number=st.integers(0, len(SAMPLERS) - 1))
def test_probabilities_by_hand(seed: int, number: int) -> None:
    logits = rows_of(seed, 2, 12, steps=[0, 0.5][seed % 2])
    history = torch.randint(-1, 12, (2, 4), generator=torch.Generator().manual_seed(seed))
    found = SAMPLERS[number].probabilities(logits, history).numpy()
    for row, said, p in zip(logits.tolist(), history.tolist(), found):
        np.testing.assert_allclose(p, by_hand(row, set(said) - {-1}, SAMPLERS[number]), atol=1e-5)


def test_a_wrong_sampler_is_found() -> None:
    "The χ² test has teeth: a temperature 3 % off, a token too many."
    logits, generator = rows_of(5, 1, 12), torch.Generator().manual_seed(0)
    for wrong, right in ((Sampler(temperature=1.03), Sampler()), (Sampler(top_k=5), Sampler(top_k=4))):
        counts = np.bincount(wrong(logits.expand(400_000, -1), generator=generator).numpy(), minlength=12)
        expected = by_hand(logits[0].tolist(), set(), right) * 400_000
        often = expected > 5
        seen, wanted = counts[often], expected[often]
        impossible = counts[expected == 0].sum() > 0
        assert impossible or stats.chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue < 1e-3


def test_multinomial_is_a_race() -> None:
    "What the chapter says of torch: one draw is the largest of p / exponential noise."
    p = rows_of(1, 500, 20).softmax(-1)
    drawn = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(3))[:, 0]
    noise = torch.empty_like(p).exponential_(generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, (p / noise).argmax(-1))


def test_gumbel_equals_multinomial() -> None:
    "argmax(x − ln(−ln u)) and torch.multinomial have one distribution: χ² of two samples."
    row = rows_of(2, 1, 8)
    uniform = torch.rand(60_000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = (row.double() - (-uniform.log()).log()).argmax(-1)
    theirs = draw_ids(row.softmax(-1).expand(60_000, -1), torch.Generator().manual_seed(1))
    table = np.stack([np.bincount(ids.numpy(), minlength=8) for ids in (ours, theirs)])
    assert stats.chi2_contingency(table[:, table.sum(0) > 10]).pvalue > 1e-3


# ---- entropy, order, greedy, generators


def test_entropy_equals_scipy() -> None:
    p = rows_of(3, 6, 30, dead=0.4).softmax(-1)
    np.testing.assert_allclose(entropy(p).numpy(), stats.entropy(p.double().numpy(), base=2, axis=-1), rtol=1e-5)
    assert entropy(p.view(2, 3, 30)).shape == (2, 3)


@given(logits=logits_rows())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_greedy_takes_the_smallest_of_the_best(logits: Tensor) -> None:
    ids = Sampler(temperature=0)(logits)
    assert ids.tolist() == [row.index(max(row)) for row in logits.tolist()]
    for sampler in (Sampler(temperature=0, top_k=3), Sampler(top_p=0), Sampler(temperature=1e-6, top_p=0.0)):
        assert torch.equal(sampler(logits), ids)


def test_order_of_processors() -> None:
    logits = rows_of(4, 5, 30)
    first, last = Sampler(temperature=2.0, top_p=0.8), Sampler(processors=[TopP(0.8), Temperature(2.0)])
    assert (first.probabilities(logits) > 0).sum() > (last.probabilities(logits) > 0).sum()
    by_k = [
        Sampler(processors=order).probabilities(logits)
        for order in ([TopK(4), Temperature(2.0)], [Temperature(2.0), TopK(4)])
    ]
    torch.testing.assert_close(*by_k)
    own = lambda logits, history: logits + (torch.arange(30) == 7) * 100.0
    assert Sampler(processors=[own])(logits).tolist() == [7] * 5


def test_rows_do_not_depend_on_their_neighbours() -> None:
    "With a generator each, a row's draws are the same alone and in company."
    logits, sampler = rows_of(6, 4, 50), Sampler(temperature=1.3, top_p=0.95)
    draw = lambda rows, seeds: sampler(rows, generator=[torch.Generator().manual_seed(s) for s in seeds])
    together = draw(logits, [5, 6, 7, 8])
    assert torch.equal(together, torch.cat([draw(logits[i : i + 1], [5 + i]) for i in range(4)]))
    assert torch.equal(draw(logits.flip(0), [8, 7, 6, 5]).flip(0), together)
    one = lambda seed: sampler(logits, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(one(1), one(1)) and any(not torch.equal(one(1), one(seed)) for seed in range(2, 9))


@pytest.mark.parametrize("generator", [0, [1, 2], "seed", np.random.default_rng(0), [torch.Generator(), None]])
def test_a_seed_is_no_generator(generator: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("of a seed make one: torch.Generator().manual_seed(0)")):
        Sampler()(torch.zeros(2, 4), generator=generator)


def test_no_rows_and_no_probabilities() -> None:
    for generator in (None, torch.Generator(), []):
        drawn = Sampler()(torch.zeros(0, 5), generator=generator)
        assert drawn.shape == (0,) and drawn.dtype == torch.int64
    for wrong in (torch.ones(4) / 4, torch.ones(1, 2, 4) / 4, torch.tensor([[0.5, math.nan]]), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match=re.escape("expected probabilities (B,V)")):
            draw_ids(wrong)


def test_logits_are_left_alone() -> None:
    logits, history = rows_of(7, 3, 20), torch.zeros(3, 2, dtype=torch.long)
    before = logits.clone()
    for sampler in SAMPLERS:
        sampler(logits, history)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_formats(dtype: torch.dtype) -> None:
    logits = rows_of(8, 3, 20).to(dtype)
    sampler = Sampler(temperature=0.8, top_p=0.9)
    found = sampler.probabilities(logits)
    assert found.dtype == torch.float32 and torch.equal(found, sampler.probabilities(logits.float()))


def test_large_vocabulary_keeps_its_tail() -> None:
    "50,000 tokens of equal probability: sums in float32 must not lose the share that was asked for."
    for p in (0.1, 0.5, 0.9, 0.999):
        kept = (Sampler(top_p=p).probabilities(torch.zeros(1, 50_000)) > 0).sum().item()
        assert abs(kept - 50_000 * p) <= 10
    assert (Sampler(top_p=1.0).probabilities(torch.linspace(0, -40, 50_000)[None]) > 0).all()


# ---- bad input


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -1}, "temperature=-1; expected"),
        ({"temperature": math.inf}, "Or try temperature=0"),
        ({"temperature": 1e-9}, "Or try temperature=0"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"temperature": True}, "temperature=True"),
        ({"temperature": None}, "temperature=None"),
        ({"top_k": 0}, "None to keep all"),
        ({"top_k": -3}, "top_k=-3"),
        ({"top_k": 2.0}, "top_k=2.0; expected a whole number"),
        ({"top_p": 1.01}, "top_p=1.01"),
        ({"top_p": -0.1}, "top_p=-0.1"),
        ({"top_p": math.nan}, "try top_p=0.9"),
        ({"min_p": 5}, "try min_p=0.1"),
        ({"repetition_penalty": 0}, "Try 1.2"),
        ({"banned": [-1]}, "whole numbers from 0"),
        ({"banned": "the"}, "banned='the'"),
        ({"banned": 7}, "banned=7; expected ids"),
        ({"banned": [1.5]}, "such as banned=[0, 7]"),
        ({"processors": [TopK(1)], "top_k": 2}, "not both"),
        ({"processors": TopK(1)}, "a list of tools"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Sampler(**settings)


def test_extreme_settings_are_right() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert Sampler(top_k=10).probabilities(logits).equal(logits.softmax(-1)), "more than there are: all"
    assert Sampler(top_p=0)(logits).tolist() == Sampler(temperature=0)(logits).tolist() == [1]
    halves = torch.tensor([[0.25, 0.5, 0.125, 0.125]]).log()  # sums are exact: what reaches p is enough
    for p, left in ((0.5, [1]), (0.75, [0, 1]), (0.875, [0, 1, 2]), (0.8, [0, 1, 2])):
        assert TopP(p)(halves)[0].isfinite().nonzero()[:, 0].tolist() == left
    assert Sampler(temperature=1e6).probabilities(logits).sub(1 / 3).abs().max() < 1e-5
    huge = torch.tensor([[3e38, -3e38, 0.0]])
    assert Sampler().probabilities(huge).tolist() == [[1, 0, 0]]
    assert Sampler(temperature=0)(huge).tolist() == [0] and Sampler()(torch.zeros(2, 1)).tolist() == [0, 0]
    assert Sampler()(torch.zeros(0, 5)).shape == (0,), "no text, no id"


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (torch.tensor([[0.0, math.nan]]), "row 0 hold NaN"),
        (torch.tensor([[0.0, 1.0], [math.inf, 1.0]]), "row 1 hold NaN or +inf"),
        (torch.full((2, 3), -math.inf), "row 0 has no token left"),
        (torch.zeros(5), "of one row (V,), logits[None]"),
        (torch.zeros(2, 3, 5), "logits[:, -1]"),
        (torch.zeros(2, 0), "(2, 0)"),
        (torch.zeros(2, 5, dtype=torch.long), "torch.int64"),
        (np.zeros((2, 5)), "ndarray"),
    ],
)
def test_bad_logits(logits: Any, says: str) -> None:
    for sampler in (Sampler(), Sampler(temperature=0), Sampler(top_k=2, top_p=0.5, min_p=0.1)):
        with pytest.raises(ValueError, match=re.escape(says)):
            sampler(logits)


def test_all_banned_and_overflow() -> None:
    with pytest.raises(ValueError, match="ban fewer tokens"):
        Sampler(banned=range(4), temperature=0)(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="banned holds 4, but ids end at 3"):
        Sampler(banned=[4])(torch.zeros(1, 4))
    with pytest.raises(
        ValueError, match="row 0"
    ):  # 3e38 / 1e-6 is more than a float holds: said, not silently NaN
        Sampler(temperature=1e-6)(torch.tensor([[3e38, 1.0]]))


@pytest.mark.parametrize(
    ("history", "says"),
    [
        (None, "needs the ids so far"),
        (torch.zeros(3, 2, dtype=torch.long), "with B=2"),
        (torch.zeros(2, dtype=torch.long), "shape (2,)"),
        (torch.zeros(2, 2), "torch.float32"),
        (torch.full((2, 2), 5), "holds the id 5; ids are from 0 to 4"),
        (torch.full((2, 2), -2), "holds the id -2"),
        ([[0], [1]], "a list; expected a tensor, torch.tensor(ids)"),
    ],
)
def test_bad_history(history: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Sampler(repetition_penalty=1.2)(torch.zeros(2, 5), history)


def test_samplers_are_values() -> None:
    "Equal settings are equal, the text of one makes it again, and nothing can be changed behind its back."
    for a, b in product(SAMPLERS, SAMPLERS):
        assert (a == b) == (a is b)
    assert eval(repr(SAMPLERS[-1])) == SAMPLERS[-1]
    with pytest.raises(AttributeError):
        SAMPLERS[0].temperature = 2.0  # type: ignore[misc]


def test_explorer() -> None:
    logits, tokens = rows_of(9, 2, 30), [f"t{i}" for i in range(30)]
    found = explore_sampling(logits, tokens, ["one", "two"], shown=4)
    for row, sent in zip(logits, found.data["contexts"]):  # type: ignore[index]
        order = row.argsort(descending=True)
        assert sent["tokens"] == [tokens[i] for i in order[:4].tolist()]
        assert sent["logits"] == [round(x, 4) for x in row[order].tolist()]
    banned = explore_sampling(Ban([0, 1])(logits), tokens, ["one", "two"]).data["contexts"][0]  # type: ignore[index]
    assert len(banned["logits"]) == 28 and not {"t0", "t1"} & set(banned["tokens"])
    for wrong in (logits[0], logits[:, :5], logits[:1]):
        with pytest.raises(ValueError, match="expected"):
            explore_sampling(wrong, tokens, ["one", "two"])
