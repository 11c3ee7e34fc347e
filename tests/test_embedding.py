"""Embeddings and positions against torch, transformers and second derivations."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.attention import flash_attention, mask_rule, scaled_dot_product_attention
from minillm.embedding import (
    Embedding,
    LearnedPositions,
    RelativeBias,
    SinusoidalPositions,
    explore_embedding,
    relative_bucket,
    sinusoidal_positions,
)

# ---- the table


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.lists(st.integers(0, 29), max_size=12), st.booleans(), st.integers(0, 99))
def test_embedding_is_torchs(V: int, D: int, ids: list[int], scale: bool, seed: int) -> None:
    torch.manual_seed(seed)
    ours = Embedding(V, D, scale=scale).double()
    theirs = nn.Embedding(V, D, dtype=torch.float64, _weight=ours.weight.detach().clone())
    x = torch.tensor([i % V for i in ids], dtype=torch.long)
    factor = math.sqrt(D) if scale else 1.0
    upstream = torch.randn(len(ids), D, dtype=torch.float64)
    out, due = ours(x), factor * theirs(x)
    torch.testing.assert_close(out, due)
    out.backward(upstream)
    due.backward(upstream)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_embedding_takes_every_kind_of_whole_number(dtype: torch.dtype) -> None:
    embed = Embedding(5, 3)
    ids = torch.tensor([[1, 4], [0, 2]])
    assert torch.equal(embed(ids.to(dtype)), embed.weight[ids])


def test_embedding_deviation_is_one_over_root_width() -> None:
    torch.manual_seed(0)
    for D in (16, 64, 400):
        lengths = Embedding(2000, D).weight.square().sum(-1)
        assert abs(lengths.mean().item() - 1) < 0.03, "a row has a squared length of about 1"


def test_logits_are_a_head_with_the_same_weight() -> None:
    torch.manual_seed(0)
    embed, head = Embedding(7, 4, scale=True), nn.Linear(4, 7, bias=False)
    head.weight = embed.weight
    x = torch.randn(2, 3, 4)
    assert torch.equal(embed.logits(x), head(x)), "the factor belongs to what is read, not to what is compared"


def test_tied_gradient_is_the_sum_of_both_ends() -> None:
    torch.manual_seed(0)
    tied = Embedding(6, 4)
    first, last = (tied.weight.detach().clone().requires_grad_() for _ in range(2))
    ids, targets = torch.tensor([2, 5, 2]), torch.tensor([5, 2, 0])
    F.cross_entropy(tied.logits(tied(ids)), targets).backward()
    F.cross_entropy(first[ids] @ last.T, targets).backward()
    torch.testing.assert_close(tied.weight.grad, first.grad + last.grad)


def test_embedding_survives_copy_meta_and_state_dict() -> None:
    embed = Embedding(6, 4, scale=True)
    twin = copy.deepcopy(embed)
    assert list(embed.state_dict()) == ["weight"] and twin.weight is not embed.weight
    with torch.device("meta"):
        ghost = Embedding(10**9, 4096)
    assert ghost.weight.is_meta and ghost(torch.zeros(2, 3, dtype=torch.long, device="meta")).shape == (2, 3, 4096)
    assert Embedding(6, 4).to(torch.bfloat16)(torch.tensor([1])).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (torch.tensor([0, 6]), "ids holds 6, but the table has the rows 0 to 5"),
        (torch.tensor([[-1]]), "ids holds -1"),
        (torch.tensor([1.0]), "torch.float32"),
        (torch.tensor([True]), "torch.bool"),
        ([1, 2], "ids is list"),
    ],
)
def test_embedding_refuses(ids: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Embedding(6, 2)(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -3, 2.5, True, "4"])
@pytest.mark.parametrize("make", [lambda n: Embedding(n, 2), lambda n: Embedding(2, n), lambda n: LearnedPositions(n, 2), RelativeBias])
def test_sizes_are_whole_numbers_from_one(make, size: object) -> None:
    with pytest.raises(ValueError, match="a whole number from 1"):
        make(size)


# ---- positions as vectors


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-1, 10**7), min_size=1, max_size=6), st.integers(1, 12), st.sampled_from([10.0, 10_000.0, 5e5]))
def test_waves_equal_the_formula(places: list[int], pairs: int, base: float) -> None:
    D = 2 * pairs
    got = sinusoidal_positions(torch.tensor(places), D, base=base)
    due = [[f(t / base ** (2 * i / D)) for i in range(pairs) for f in (math.sin, math.cos)] for t in places]
    torch.testing.assert_close(got, torch.tensor(due), atol=1e-6, rtol=0)


def test_waves_equal_transformers_up_to_order() -> None:
    marian = pytest.importorskip("transformers.models.marian.modeling_marian")
    theirs = marian.MarianSinusoidalPositionalEmbedding(40, 16)
    weight = theirs.create_weight() if hasattr(theirs, "create_weight") else theirs.weight
    ours = sinusoidal_positions(torch.arange(40), 16)
    halves = torch.cat([ours[:, 0::2], ours[:, 1::2]], -1)  # all sines, then all cosines
    torch.testing.assert_close(halves, weight.detach(), atol=1e-5, rtol=0)


def test_waves_keep_no_table_and_no_parameters() -> None:
    waves = SinusoidalPositions(8)
    assert not waves.state_dict()
    assert waves(torch.tensor([[10**6]])).isfinite().all() and waves(torch.tensor([[-1, 3]])).shape == (1, 2, 8)


def test_learned_positions_take_offsets_and_padding() -> None:
    learned = LearnedPositions(6, 3)
    rows = torch.tensor([[-1, -1, 0, 1], [2, 3, 4, 5]])
    got = learned(rows)
    assert torch.equal(got[0, 2:], learned.weight[:2]) and torch.equal(got[1], learned.weight[2:])
    assert got.isfinite().all()
    with pytest.raises(ValueError, match="rows 0 to 5. Cut the text"):
        learned(torch.tensor([6]))
    with pytest.raises(ValueError, match="positions holds -5"):
        learned(torch.tensor([[0, -5]]))


# ---- the bias by distance


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 4, 8, 32, 64]), st.integers(33, 500), st.booleans())
def test_buckets_equal_transformers(buckets: int, max_distance: int, bidirectional: bool) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    if bidirectional and buckets < 4:
        buckets = 4
    distance = torch.arange(-1200, 1200)
    due = t5.T5Attention._relative_position_bucket(distance, bidirectional, buckets, max_distance)
    got = relative_bucket(distance, buckets, max_distance, bidirectional=bidirectional)
    assert torch.equal(got, due)


@pytest.mark.parametrize("decoder", [True, False])
def test_bias_equals_transformers(decoder: bool) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    sizes = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
    config = t5.T5Config(num_heads=3, d_model=12, d_kv=4, is_decoder=decoder, **sizes)
    theirs = t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    nn.init.normal_(theirs.relative_attention_bias.weight)
    ours = RelativeBias(3, buckets=8, max_distance=20, bidirectional=not decoder)
    with torch.no_grad():
        ours.weight.copy_(theirs.relative_attention_bias.weight)
    torch.testing.assert_close(ours(torch.arange(50))[None], theirs.compute_bias(50, 50))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=5), st.lists(st.integers(-1, 300), min_size=1, max_size=5), st.integers(1, 500))
def test_bias_knows_only_the_distance(queries: list[int], keys: list[int], shift: int) -> None:
    torch.manual_seed(0)
    bias = RelativeBias(2)
    nn.init.normal_(bias.weight)
    here = bias(torch.tensor(queries), torch.tensor(keys))
    assert torch.equal(here, bias(torch.tensor(queries) + shift, torch.tensor(keys) + shift))
    rows = bias(torch.tensor([queries, queries]), torch.tensor([keys, keys]))
    assert torch.equal(rows, here.expand(2, -1, -1, -1))


def test_bias_works_in_both_forms_of_attention_with_a_gradient() -> None:
    torch.manual_seed(0)
    bias = RelativeBias(2, buckets=4, max_distance=8)
    nn.init.normal_(bias.weight)
    q, k, v = torch.randn(3, 2, 2, 9, 4)
    places = torch.tensor([[-1, *range(8)], [*range(5), *range(4)]])
    documents = torch.tensor([[0] * 9, [0] * 5 + [1] * 4])
    mask = mask_rule(places, documents=documents)
    grads = []
    for attend in (scaled_dot_product_attention, flash_attention):
        bias.weight.grad = None
        attend(q, k, v, mask=mask, bias=bias(places)).square().sum().backward()
        grads.append(bias.weight.grad)
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)
    assert grads[0].abs().min() > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"buckets": 7}, "buckets=7; for one direction it is a multiple of 2"),
        ({"buckets": 2, "bidirectional": True}, "for both directions it is a multiple of 4"),
        ({"buckets": 32, "max_distance": 16}, "they end at 16 already: try max_distance=128"),
        ({"max_distance": 0}, "max_distance=0"),
    ],
)
def test_bias_refuses(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RelativeBias(2, **arguments)


def test_bias_wants_whole_numbers() -> None:
    with pytest.raises(ValueError, match="positions is torch.float32"):
        RelativeBias(2)(torch.randn(3))
    with pytest.raises(ValueError, match="key_positions is torch.float32"):
        RelativeBias(2)(torch.arange(3), torch.randn(3))


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 16), (32, 8), (1, 128), (0, 9), (2.0, 128)])
def test_buckets_refuse(buckets: int, max_distance: int) -> None:
    with pytest.raises(ValueError, match="buckets=|within the exact"):
        relative_bucket(-torch.arange(40), buckets, max_distance)
    with pytest.raises(ValueError, match="distance is torch.float32"):
        relative_bucket(torch.randn(3))


def test_the_start_is_small() -> None:
    torch.manual_seed(0)
    assert LearnedPositions(500, 64).weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not RelativeBias(4).weight.any()


# ---- the explorer


def test_explorer_sends_the_same_cosines() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(20, 50)
    explorer = explore_embedding(vectors, [f"<b>{i}" for i in range(20)])
    sent = torch.tensor(explorer.data["vectors"])
    assert sent.shape == (20, 20) and "100%" in explorer.description
    torch.testing.assert_close(F.normalize(sent) @ F.normalize(sent).T, F.normalize(vectors) @ F.normalize(vectors).T, atol=1e-4, rtol=0)
    sizes = sent.square().sum(0)
    assert (sizes.diff() <= 0).all(), "the strongest direction comes first"
    assert "<b>0" not in explorer._repr_html_()


def test_explorer_says_what_it_leaves_out() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(300, 256, dtype=torch.float64)
    explorer = explore_embedding(vectors, [str(i) for i in range(300)], start=7)
    _, S, Vh = torch.linalg.svd(vectors, full_matrices=False)
    cut = vectors @ Vh[:64].T
    kept = (S[:64].square().sum() / S.square().sum()).item()
    assert f"{kept:.0%} of the squared lengths" in explorer.description and 0.3 < kept < 0.6
    sent = torch.tensor(explorer.data["vectors"], dtype=torch.float64)
    torch.testing.assert_close(sent @ sent.T, cut @ cut.T, atol=0.05, rtol=0)
    with pytest.raises(ValueError, match="start=300, but the tokens are 0 to 299"):
        explore_embedding(vectors, [str(i) for i in range(300)], start=300)


def test_explorer_draws_the_chosen_token() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    labels = [[tick.get_text() for tick in explore_embedding(vectors, ["a", "b", "c", "d"], start=i).still.axes[0].get_yticklabels()] for i in (0, 2)]
    assert labels == [["b", "d", "c"], ["d", "b", "a"]]


@pytest.mark.parametrize("shape", [(3,), (3, 2, 2), (4, 2), (1, 2)])
def test_explorer_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        explore_embedding(torch.randn(shape), ["a", "b", "c"][: 1 if shape == (1, 2) else 3])
