"""Batches beyond the chapter: every stream as a property, masks equal to chapter 22's, stores under faults, resuming from any place."""

import gc
import json
import os
import pickle
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minillm.batches
import minillm.tokenizer
from minillm.attention import causal_mask, document_mask, mask_rule, scaled_dot_product_attention
from minillm.batches import (
    IGNORED,
    Batch,
    Prepared,
    StoredTokens,
    TokenStore,
    bucketed_batches,
    build_batch,
    cut_pieces,
    explore_batch,
    pack_best_fit,
    pack_sequential,
    packed_batches,
    prefetch,
    prepare,
    random_batches,
    shuffled,
    tokenizer_hash,
)
from minillm.rope import RoPE
from minillm.tokenizer import END_OF_TEXT, Tokenizer

LETTERS = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], [END_OF_TEXT])
END = 256
FIELDS = ("x", "y", "weight", "documents", "positions")
SLOW = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DOCUMENTS = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=40), min_size=1, max_size=30)


@pytest.fixture(autouse=True, scope="module")
def no_waiting() -> Iterator[None]:
    "No test can see what a disk holds after a loss of power, so none waits for it; the steps are counted below."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


def fresh(folder: Path, documents: list[list[int]], tokenizer: Tokenizer = LETTERS) -> TokenStore:
    "A store in a folder of its own."
    store = TokenStore.create(folder / f"store {time.perf_counter_ns()}", tokenizer)
    store.append(documents)
    return store


def equal(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in FIELDS]
    return all(a is b is None or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


# ---- one batch


def test_batch_refuses_what_does_not_fit() -> None:
    x = torch.zeros(2, 3, dtype=torch.int64)
    for name, wrong in (
        ("x", x[0]),
        ("y", x.int()),
        ("weight", x),
        ("documents", x[:1]),
        ("positions", [[0, 1, 2]]),
    ):
        with pytest.raises(ValueError, match="expected" if name == "x" else name):
            Batch(**{"x": x, "y": x, name: wrong})
    with pytest.raises(AttributeError):
        Batch(x, x).x = x
    for wrong in ([[1]], np.zeros((2, 3), int), None):
        with pytest.raises(ValueError, match=r"x is \w+, expected a tensor \(B,T\).*torch.tensor\(\[\[7, 1\]\]\)"):
            Batch(wrong, wrong)
    moved = Batch(x, x, weight=torch.ones(2, 3)).to("meta")
    assert moved.x.device.type == moved.weight.device.type == "meta" and moved.documents is None
    assert Batch(x, x) != Batch(x, x) and Batch(x, torch.full_like(x, IGNORED)).n_tokens == 0


def test_a_batch_moves_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *given, **named: told.append((given, named)) or to(x, *given, **named))
    x = torch.zeros(2, 3, dtype=torch.int64)
    for non_blocking in (True, False):
        Batch(x, x, documents=x).to("cpu", non_blocking=non_blocking)
        assert told == [(("cpu",), {"non_blocking": non_blocking})] * 3
        told.clear()


# ---- packing


@given(
    lengths=st.lists(st.integers(1, 30), max_size=40),
    context=st.integers(1, 20),
    long=st.sampled_from(["split", "start", "end", "middle"]),
)
@SLOW
def test_pieces(lengths: list[int], context: int, long: Any) -> None:
    pieces = cut_pieces(lengths, context, long)
    places = Counter((k, t) for k, start, stop in pieces for t in range(start, stop))
    assert all(1 <= stop - start <= context for _, start, stop in pieces) and max(places.values(), default=1) == 1
    for k, length in enumerate(lengths):
        kept = [t for n, t in sorted(places) if n == k]
        if long == "split" or length <= context:
            assert kept == list(range(length))
        else:
            first = {"start": 0, "end": length - context, "middle": (length - context) // 2}[long]
            assert kept == list(range(first, first + context))


def best_fit_loop(sizes: list[int], context: int) -> list[list[int]]:
    "The same rule without any cleverness: numbers of pieces, row by row."
    rows: list[list[int]] = []
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        room = [context - sum(sizes[j] for j in row) for row in rows]
        able = [r for r in range(len(rows)) if room[r] >= sizes[k]]
        if able:
            rows[min(able, key=lambda r: (room[r], r))].append(k)
        else:
            rows.append([k])
    return rows


@given(lengths=st.lists(st.integers(1, 30), max_size=40), context=st.integers(1, 30))
@SLOW
def test_packing(lengths: list[int], context: int) -> None:
    pieces = cut_pieces(lengths, context)
    sizes = [stop - start for _, start, stop in pieces]
    best = pack_best_fit(pieces, context)
    assert sorted(piece for row in best for piece in row) == sorted(pieces)
    assert [[piece[2] - piece[1] for piece in row] for row in best] == [
        [sizes[k] for k in row] for row in best_fit_loop(sizes, context)
    ]
    assert all(sum(stop - start for _, start, stop in row) <= context for row in best)

    rows = pack_sequential([(k, 0, n) for k, n in enumerate(lengths)], context)
    assert [sum(stop - start for _, start, stop in row) for row in rows[:-1]] == [context] * (len(rows) - 1)
    stream = [(k, t) for row in rows for k, start, stop in row for t in range(start, stop)]
    assert stream == [(k, t) for k, n in enumerate(lengths) for t in range(n)]
    assert len(rows) == -(-sum(lengths) // context) <= len(best) or not lengths


# ---- shuffling


@pytest.mark.parametrize("seed", [(0,), (1,), (7, 3)])
def test_shuffle_is_a_permutation(seed: tuple[int, ...]) -> None:
    for size in [*range(1, 200), 255, 256, 257, 1023, 1025, 65_537]:
        assert np.array_equal(np.sort(shuffled(np.arange(size), size, *seed)), np.arange(size)), size


def test_shuffle_looks_random() -> None:
    "Neither place and number, nor neighbours, hang together; each seed is another shuffle."
    size = 10_000
    found = shuffled(np.arange(size), size, 5)
    assert (
        abs(np.corrcoef(np.arange(size), found)[0, 1]) < 0.05
        and abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05
    )
    assert len({tuple(shuffled(np.arange(20), 20, seed)) for seed in range(500)}) == 500
    pairs = Counter((int(a), int(b)) for seed in range(3000) for a, b in [shuffled(np.arange(2), 4, seed)])
    assert len(pairs) == 12 and sum((n - 250) ** 2 / 250 for n in pairs.values()) < 31.3  # χ² of 11 degrees, 0.1 %
    fixed = sum(int((shuffled(np.arange(50), 50, seed) == np.arange(50)).sum()) for seed in range(1000))
    assert 850 < fixed < 1150  # one fixed point on average


def test_shuffle_is_the_same_everywhere() -> None:
    assert shuffled(np.arange(8), 8, 0).tolist() == [6, 5, 1, 4, 2, 3, 7, 0]
    assert shuffled(np.array([0, 10**9, 2**40 - 1]), 2**40, 1, 2).tolist() == [
        182462313333,
        973359301353,
        440608976508,
    ]


def test_no_two_seeds_are_alike() -> None:
    seeds = [(7,), (7, 0), (7, 0, 0), (2**32 + 5, 0), (5, 1), (5, 0, 1), (5,), (2**32 + 5,), (5, 2**32)]
    assert len({tuple(shuffled(np.arange(50), 50, *seed)) for seed in seeds}) == len(seeds)


def test_shuffle_refuses() -> None:
    with pytest.raises(ValueError, match="place 3 does not exist"):
        shuffled(np.array([0, 3]), 3, 0)
    with pytest.raises(ValueError, match="size=0"):
        shuffled(np.array([0]), 0, 0)
    for seed in ((), (0.9,), (-1,), (2**64,), (True,), (0, 1.0)):
        with pytest.raises(ValueError, match="whole numbers below"):
            shuffled(np.array([0]), 3, *seed)
    with pytest.raises(ValueError, match="at most 2"):
        shuffled(np.array([0]), 2**64, 0)
    assert shuffled(np.array([], int), 3, 0).shape == (0,) and shuffled(np.zeros((2, 2), int), 3, 0).shape == (
        2,
        2,
    )


# ---- streams: what they hold


def sequences(store: StoredTokens) -> list[list[int]]:
    "Each document as [END, ids …, END]: its targets are all but the first."
    return [[END, *store.document(k).tolist(), END] for k in range(store.n_documents)]


def runs(batch: Batch) -> Iterator[tuple[list[int], list[int]]]:
    "x and y of each stretch of one text, row by row; checks the bookkeeping around it."
    assert batch.documents is not None and batch.positions is not None and batch.weight is not None
    for x, y, weight, document, position in zip(*(getattr(batch, name).tolist() for name in FIELDS)):
        used = sum(d >= 0 for d in document)
        rest = len(x) - used
        assert (
            document[used:] == position[used:] == [-1] * rest
            and y[used:] == [IGNORED] * rest
            and x[used:] == [0] * rest
        )
        assert weight == [1.0] * used + [0.0] * rest and IGNORED not in y[:used]
        starts = [t for t in range(used) if t == 0 or document[t] != document[t - 1]]
        assert [document[t] for t in starts] == list(range(len(starts)))
        for a, b in zip(starts, [*starts[1:], used]):
            assert position[a:b] == list(range(b - a))
            yield x[a:b], y[a:b]


STREAMS: dict[str, Callable[..., Any]] = {
    "best fit": lambda store, size, context, **more: packed_batches(store, size, context, **more),
    "sequential": lambda store, size, context, **more: packed_batches(
        store, size, context, strategy="sequential", **more
    ),
    "bucketed": lambda store, size, context, **more: bucketed_batches(
        store, size, context=context, multiple=4, **more
    ),
    "bucketed, whole": lambda store, size, context, **more: bucketed_batches(store, size, **more),
    "windows": lambda store, size, context, epochs=None, pool=0, **more: random_batches(
        store, size, context, **more
    ),
    "epoch windows": lambda store, size, context, pool=0, **more: random_batches(
        store, size, context, order="epoch", **more
    ),
}
TEXTS = [name for name in STREAMS if "windows" not in name]


@pytest.mark.parametrize("name", TEXTS)
@given(
    documents=DOCUMENTS,
    size=st.integers(1, 5),
    context=st.integers(1, 30),
    pool=st.integers(1, 12),
    seed=st.none() | st.integers(0, 9),
)
@SLOW
def test_every_token_is_a_target_once(
    tmp_path: Path, name: str, documents: list[list[int]], size: int, context: int, pool: int, seed: int | None
) -> None:
    store = fresh(tmp_path, documents)
    batches = list(STREAMS[name](store, size, context, pool=pool, seed=seed, epochs=1))
    pairs: Counter = Counter()
    for batch in batches:
        assert 1 <= len(batch.x) <= size and all(part.is_contiguous() for part in (batch.x, batch.y))
        for x, y in runs(batch):
            assert x[1:] == y[:-1] and len(y) >= 1
            pairs.update(zip(x, y))
    assert pairs == Counter(pair for ids in sequences(store) for pair in zip(ids, ids[1:]))
    assert sum(batch.n_tokens for batch in batches) == len(store)
    if name in ("best fit", "sequential"):
        assert {batch.x.shape[1] for batch in batches} == {context} and {
            len(batch.x) for batch in batches[:-1]
        } <= {size}
    if name == "best fit":  # texts that fit are whole
        whole = Counter(tuple(ids[1:]) for ids in sequences(store) if len(ids) - 1 <= context)
        assert not whole - Counter(tuple(y) for batch in batches for _, y in runs(batch))
    if name == "sequential" and pool >= len(documents):
        assert (
            all((row >= 0).all() for batch in batches for row in batch.documents)
            or sum(int((batch.documents < 0).any(1).sum()) for batch in batches) == 1
        )


@given(
    documents=DOCUMENTS,
    context=st.integers(1, 30),
    long=st.sampled_from(["start", "end", "middle"]),
    name=st.sampled_from(TEXTS[:3]),
)
@SLOW
def test_truncation(tmp_path: Path, documents: list[list[int]], context: int, long: str, name: str) -> None:
    store = fresh(tmp_path, documents)
    found = []
    for batch in STREAMS[name](store, 3, context, long=long, epochs=1):
        found += [(x[0], *y) for x, y in runs(batch)]
    expected = []
    for ids in sequences(store):
        over = max(0, len(ids) - 1 - context)
        first = {"start": 0, "end": over, "middle": over // 2}[long]
        expected.append(tuple(ids[first : first + min(context, len(ids) - 1) + 1]))
    if name != "sequential":  # which may cut once more where a row ends
        assert Counter(found) == Counter(expected)
    assert Counter(t for y in found for t in y[1:]) == Counter(t for y in expected for t in y[1:])


def test_rows_and_texts_are_shuffled(tmp_path: Path) -> None:
    store = fresh(tmp_path, [[k % 256] * (1 + k % 7) for k in range(300)])
    for name in TEXTS:
        firsts = [
            [batch.x.flatten().tolist() for batch in STREAMS[name](store, 4, 24, pool=50, seed=seed, epochs=1)]
            for seed in (0, 1)
        ]
        assert firsts[0] != firsts[1]
        twice = [batch.x.flatten().tolist() for batch in STREAMS[name](store, 4, 24, pool=50, seed=0, epochs=2)]
        assert twice[: len(firsts[0]) // 2] != twice[-(len(firsts[0]) // 2) :]
    longest_first = [
        batch.documents.max(1).values.tolist() for batch in packed_batches(store, 300, 24, seed=3, epochs=1)
    ]
    assert longest_first[0] != sorted(longest_first[0])
    plain = packed_batches(store, 1, 2000, seed=None, strategy="sequential", epochs=1)
    assert next(plain).y[0].tolist()[: len(store)] == store.ids.tolist()


def order_of(rows: list[int], before: list[int]) -> tuple[int, ...]:
    "Which place of `before` each row comes from: the shuffle of the rows, whatever the shuffle of the texts."
    assert sorted(rows) == sorted(before)
    return tuple(before.index(row) for row in rows)


@pytest.mark.parametrize("name", ["best fit", "sequential", "bucketed"])
def test_each_group_of_each_epoch_has_an_order_of_its_own(tmp_path: Path, name: str) -> None:
    "Texts that fill a row each, 4 groups of 50: the order of the rows within a group, beside that of the texts."
    store = fresh(tmp_path, [[k] * 7 for k in range(200)])
    rows = [row[1] for batch in STREAMS[name](store, 1, 8, pool=50, seed=3, epochs=2) for row in batch.x.tolist()]
    assert len(rows) == 400 and sorted(rows[:200]) == sorted(rows[200:]) == list(range(200))
    texts = [shuffled(np.arange(200), 200, 3, epoch).tolist() for epoch in (0, 1)]
    assert texts[0] != texts[1]
    orders = [order_of(rows[k : k + 50], (texts[0] + texts[1])[k : k + 50]) for k in range(0, 400, 50)]
    assert len({*orders, tuple(range(50))}) == 9


def test_bucketed_batches_come_in_any_order(tmp_path: Path) -> None:
    store = fresh(tmp_path, [[1] * n for n in range(1, 101)])
    widths = [batch.x.shape[1] for batch in bucketed_batches(store, 4, multiple=1, epochs=1)]
    assert sorted(widths) == [4 * k + 5 for k in range(25)] != widths
    plain = [batch.x.shape[1] for batch in bucketed_batches(store, 4, multiple=1, seed=None, epochs=1)]
    assert plain == sorted(widths)


def test_two_pieces_of_one_text_in_a_row_stay_apart(tmp_path: Path) -> None:
    store = fresh(tmp_path, [list(range(14))])  # 15 targets: pieces of 10 and 5, and a row of 10
    batch = build_batch(store, [[(10, 15), (0, 5)]], 10)
    assert batch.documents[0].tolist() == [0] * 5 + [1] * 5 and batch.positions[0].tolist() == [*range(5)] * 2


@given(documents=DOCUMENTS, context=st.integers(1, 40), size=st.integers(1, 4))
@SLOW
def test_windows(tmp_path: Path, documents: list[list[int]], context: int, size: int) -> None:
    store = fresh(tmp_path, documents)
    stream = [END, *store.ids.tolist()]
    if context > len(store):
        with pytest.raises(ValueError, match=f"try {len(store)}"):
            random_batches(store, size, context)
        return
    texts = {tuple(stream[k : k + context + 1]) for k in range(len(store) - context + 1)}
    for batch in islice(random_batches(store, size, context), 5):
        assert all((x[0], *y) in texts and x[1:] == y[:-1] for x, y in zip(batch.x.tolist(), batch.y.tolist()))
        assert batch.x.shape == (size, context) and batch.weight is batch.documents is batch.positions is None
        assert batch.x.is_contiguous() and batch.y.is_contiguous()
    rows = [y for batch in random_batches(store, size, context, order="epoch", epochs=1) for y in batch.y.tolist()]
    missing = Counter(stream[1:]) - Counter(token for y in rows for token in y)
    assert not Counter(token for y in rows for token in y) - Counter(stream[1:])  # nothing twice
    assert missing.total() <= 2 * (context - 1)


def test_no_window_of_an_epoch_is_lost(tmp_path: Path) -> None:
    "Also where there are more than a group of 4,096; and the next epoch has another order."
    store = fresh(tmp_path, [[k // 256 % 256, k % 256] for k in range(3000)])
    batches = random_batches(store, 100, 1, order="epoch", epochs=2)
    found = torch.cat([batch.y.flatten() for batch in batches])
    one, two = found[: len(store)], found[len(store) :]
    assert torch.equal(one.sort().values, torch.tensor(store.ids.astype(np.int64)).sort().values)
    assert torch.equal(one.sort().values, two.sort().values) and not torch.equal(one, two)

    wide = fresh(tmp_path, [list(range(k, k + 9)) for k in range(100)])  # 100 windows of 10; the first begins anywhere
    starts = [batch.y.tolist() for batch in islice(random_batches(wide, 99, 10, order="epoch"), 2)]
    assert len({tuple(sorted(range(99), key=lambda k: rows[k])) for rows in starts}) == 2


def test_windows_begin_everywhere(tmp_path: Path) -> None:
    store = fresh(tmp_path, [list(range(20))])  # 21 targets, so windows of 10 begin at 12 places
    starts: Counter = Counter()
    for batch in islice(random_batches(store, 8, 10, seed=1), 300):
        starts.update(batch.y[:, 0].tolist())
    assert (
        len(starts) == 12 and sum((n - 200) ** 2 / 200 for n in starts.values()) < 31.3
    )  # χ² of 11 degrees, 0.1 %
    shifts = {batch.y.min().item() for batch in islice(random_batches(store, 2, 10, order="epoch"), 40)}
    assert len(shifts) == 10  # epochs begin at different places


def test_streams_refuse_what_cannot_be(tmp_path: Path) -> None:
    store = fresh(tmp_path, [[1, 2, 3]])
    for make in (random_batches, packed_batches):
        for size, context in ((0, 2), (2, 0), (-1, 2)):
            with pytest.raises(ValueError, match="at least 1"):
                make(store, size, context)
        with pytest.raises(TypeError, match="expected a whole number"):
            make(store, 2.0, 2)
        with pytest.raises(TypeError, match="expected a TokenStore"):
            make("folder", 2, 2)
        with pytest.raises(ValueError, match="seed=-1"):
            make(store, 2, 2, seed=-1)
        with pytest.raises(ValueError, match="append documents first"):
            make(TokenStore.create(tmp_path / f"empty {make.__name__}", LETTERS), 2, 2)
        with pytest.raises(TypeError, match=r"context is .*4.* of type int64; expected a whole number of type int"):
            make(store, 2, np.int64(4))
        with pytest.raises(ValueError, match="expected a whole number of type int, at least 0"):
            make(store, 2, 2, seed=np.int64(4))
    for call, words in (
        (lambda: random_batches(store, 2, 2, order="shuffled"), "one of 'random', 'epoch'"),
        (lambda: random_batches(store, 2, 2, epochs=2), 'try order="epoch"'),
        (lambda: packed_batches(store, 2, 2, strategy="worst"), "one of 'best_fit'"),
        (lambda: next(packed_batches(store, 2, 2, long="cut")), "one of 'split'"),
        (lambda: packed_batches(store, 2, 2, epochs=0), "epochs=0"),
        (lambda: bucketed_batches(store, 2, multiple=0), "multiple=0"),
        (lambda: bucketed_batches(store, 2, context=0), "context=0"),
        (lambda: build_batch(store, [[(0, 4)]], 3), "4 targets, width=3"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# ---- who may see whom: chapter 22's masks


@pytest.mark.parametrize("name", TEXTS)
@given(documents=DOCUMENTS, context=st.integers(1, 24), seed=st.integers(0, 5))
@SLOW
def test_masks_are_those_of_chapter_22(
    tmp_path: Path, name: str, documents: list[list[int]], context: int, seed: int
) -> None:
    "Two slots see each other when they belong to one stretch of one text, and the key is no later: derived from the spans alone."
    store = fresh(tmp_path, documents)
    for batch in STREAMS[name](store, 3, context, seed=seed, epochs=1):
        T = batch.x.shape[1]
        expected = torch.zeros(len(batch.x), 1, T, T, dtype=torch.bool)
        for row in range(len(batch.x)):
            begin = 0
            only = Batch(*(getattr(batch, field)[row : row + 1] for field in FIELDS))
            for x, _ in runs(only):
                expected[row, 0, begin : begin + len(x), begin : begin + len(x)] = (
                    torch.ones(len(x), len(x)).tril().bool()
                )
                begin += len(x)
        rule = mask_rule(batch.positions, documents=batch.documents)(slice(0, T), slice(0, T))
        assert torch.equal(rule, expected)
        assert torch.equal(causal_mask(batch.positions) & document_mask(batch.documents), expected)


@pytest.mark.parametrize("name", TEXTS)
@given(documents=DOCUMENTS, context=st.integers(2, 24))
@SLOW
def test_packed_is_one_text_at_a_time(tmp_path: Path, name: str, documents: list[list[int]], context: int) -> None:
    "Attention over a packed row gives each stretch what it gets alone."
    store = fresh(tmp_path, documents)
    generator = torch.Generator().manual_seed(0)
    double = {"generator": generator, "dtype": torch.float64}  # so that rounding cannot look like a leak
    what, where, mix = torch.randn(257, 8, **double), torch.randn(64, 8, **double), torch.randn(3, 8, 8, **double)

    def look(ids: torch.Tensor, positions: torch.Tensor, mask: Any) -> torch.Tensor:
        q, k, v = (((what[ids] + where[positions]) @ m)[:, None] for m in mix)
        return scaled_dot_product_attention(q, k, v, mask=mask)[:, 0]

    for batch in islice(STREAMS[name](store, 2, context, seed=0, epochs=1), 3):
        row = look(batch.x, batch.positions, mask_rule(batch.positions, documents=batch.documents))
        assert (row[batch.positions < 0] == 0).all()
        for r in range(len(batch.x)):
            begin = 0
            for x, _ in runs(Batch(*(getattr(batch, field)[r : r + 1] for field in FIELDS))):
                alone = torch.arange(len(x))[None]
                expected = look(torch.tensor([x]), alone, mask_rule(alone))[0]
                torch.testing.assert_close(row[r, begin : begin + len(x)], expected, atol=1e-5, rtol=1e-5)
                begin += len(x)


@pytest.mark.parametrize("rotary", [True, False])
def test_what_keeps_texts_apart(tmp_path: Path, rotary: bool) -> None:
    "A vector for each place: documents and positions that start again. Rotary positions: documents are enough."
    double: Any = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    what, where, mix = torch.randn(257, 8, **double), torch.randn(20, 8, **double), torch.randn(3, 8, 8, **double) / 8**0.5
    turn = RoPE(8)

    def look(ids: torch.Tensor, positions: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        x = what[ids] if rotary else what[ids] + where[positions]
        q, k, v = ((x @ m)[:, None] for m in mix)
        if rotary:
            q, k = turn(q, positions), turn(k, positions)
        mask = causal_mask(torch.arange(ids.shape[1])[None]) & document_mask(documents)
        return scaled_dot_product_attention(q, k, v, mask=mask)[0, 0]

    store = fresh(tmp_path, [list(b"eleven char"), list(b"another")])
    batch = next(packed_batches(store, 1, 20, seed=None, strategy="sequential"))
    running, one = torch.arange(20)[None], torch.zeros(1, 20, dtype=torch.int64)
    alone = look(batch.x[:, 12:], running[:, :8], one[:, :8])
    for documents, positions in ((d, p) for d in (batch.documents, one) for p in (batch.positions, running)):
        change = (look(batch.x, positions, documents)[12:] - alone).abs().max()
        right = documents is batch.documents and (rotary or positions is batch.positions)
        assert change < 1e-4 if right else change > 0.1


# ---- a place in the stream

PLACES = st.tuples(
    st.sampled_from(list(STREAMS)), st.integers(1, 4), st.integers(1, 8), st.integers(1, 9), st.integers(0, 30)
)


@given(documents=DOCUMENTS, place=PLACES, seed=st.integers(0, 9), epochs=st.none() | st.integers(1, 3))
@SLOW
def test_resumed_is_uninterrupted(
    tmp_path: Path, documents: list[list[int]], place: tuple, seed: int, epochs: int | None
) -> None:
    name, size, context, pool, steps = place
    store = fresh(tmp_path, [*documents, [1] * 10])
    options = {"pool": pool, "seed": seed, "epochs": None if name == "windows" else epochs}
    whole, again = (STREAMS[name](store, size, context, **options) for _ in range(2))
    for _ in islice(whole, steps):
        pass
    again.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for expected, got in zip(islice(whole, 20), islice(again, 20), strict=True):
        assert equal(expected, got)
    assert whole.state_dict() == again.state_dict()


@given(documents=DOCUMENTS, place=PLACES, depth=st.integers(1, 6))
@settings(SLOW, max_examples=25)
def test_resumed_through_prefetch(tmp_path: Path, documents: list[list[int]], place: tuple, depth: int) -> None:
    "The place is that of what was delivered; going back and forth gives the same batches as the bare stream."
    name, size, context, pool, steps = place
    store = fresh(tmp_path, [*documents, [1] * 10])
    plain = STREAMS[name](store, size, context, pool=pool)
    with prefetch(STREAMS[name](store, size, context, pool=pool), depth) as ahead:
        for _ in range(steps):
            assert equal(next(ahead), next(plain))
        state = json.loads(json.dumps(ahead.state_dict()))
        assert state == plain.state_dict()
        for _ in range(3):
            next(ahead)
        ahead.load_state_dict(state)
        assert ahead.state_dict() == state
        for _ in range(5):
            assert equal(next(ahead), next(plain))


def test_a_place_of_another_stream_is_refused(tmp_path: Path) -> None:
    store, other = fresh(tmp_path, [[1, 2, 3]] * 50), fresh(tmp_path, [[1, 2, 4]] * 50)
    for name, make in STREAMS.items():
        state = make(store, 2, 4).state_dict()
        for changed in (
            make(other, 2, 4),
            make(store, 3, 4),
            make(store, 2, 4, seed=1),
            *([make(store, 2, 5)] if name != "bucketed, whole" else []),
            *([make(store, 2, 4, pool=7), make(store, 2, 4, long="end")] if name in TEXTS else []),
            *([bucketed_batches(store, 2, context=4, multiple=3)] if name == "bucketed" else []),
        ):
            with pytest.raises(ValueError, match="was saved with"):
                changed.load_state_dict(state)
        for key, value in (("epoch", -1), ("unit", 1.0), ("group", True), ("plan", None), ("epoch", None)):
            with pytest.raises(ValueError, match="no place in a stream"):
                make(store, 2, 4).load_state_dict(state | {key: value})
        beyond = make(store, 2, 4)
        beyond.load_state_dict(state | {"unit": 10**9})
        next(beyond)  # goes on with the next group instead of for ever
    store.append([[9]])
    with pytest.raises(ValueError, match="saved with store='200 tokens"):
        packed_batches(store, 2, 4).load_state_dict(packed_batches(TokenStore.open(other.path), 2, 4).state_dict())


# ---- the thread


def threads() -> int:
    gc.collect()
    time.sleep(0.05)
    return threading.active_count()


def endless() -> Iterator[Batch]:
    x = torch.zeros(1, 1, dtype=torch.int64)
    while True:
        yield Batch(x, x)


def test_the_thread_ends() -> None:
    before = threads()
    with prefetch(endless(), 3) as ahead:
        next(ahead)
        assert threads() == before + 1
    assert threads() == before and list(ahead) == []
    ahead.close()  # twice is no error
    forgotten = prefetch(endless(), 1)
    next(forgotten)
    del forgotten
    assert threads() == before
    assert len(list(prefetch(islice(endless(), 7), 2))) == 7 and threads() == before
    with pytest.raises(ZeroDivisionError), prefetch(endless(), 2):
        raise ZeroDivisionError
    assert threads() == before
    with pytest.raises(ValueError, match="depth=0"):
        prefetch(endless(), 0)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_errors_arrive_in_their_place(error: BaseException) -> None:
    def three() -> Iterator[Batch]:
        yield from islice(endless(), 3)
        raise error

    ahead = prefetch(three(), 5)
    for _ in range(3):
        next(ahead)
    with pytest.raises(type(error)) as caught:
        next(ahead)
    assert caught.value is error and list(ahead) == []
    with pytest.raises(TypeError, match="has no state_dict"):
        ahead.state_dict()


def test_a_wrong_place_leaves_the_thread_where_it_was(tmp_path: Path) -> None:
    store = fresh(tmp_path, [[1, 2, 3]] * 20)
    plain = packed_batches(store, 2, 8)
    with prefetch(packed_batches(store, 2, 8), 3) as ahead:
        assert equal(next(ahead), next(plain))
        with pytest.raises(ValueError, match="saved with context=9"):
            ahead.load_state_dict(packed_batches(store, 2, 9).state_dict())
        assert equal(next(ahead), next(plain))


def test_batches_without_a_place(tmp_path: Path) -> None:
    with prefetch(iter([Batch(*[torch.full((1, 1), k)] * 2) for k in range(4)]), 2) as ahead:
        next(ahead)
        with pytest.raises(TypeError, match="has no state_dict"):
            ahead.load_state_dict({})
        assert [batch.x.item() for batch in ahead] == [1, 2, 3]


def test_a_thread_that_throws_its_own_reader_away_ends() -> None:
    "The garbage collector may find a forgotten cycle while the thread runs."
    before = threads()

    def collecting() -> Iterator[Batch]:
        for batch in endless():
            yield batch
            if forgotten.is_set():
                gc.collect()

    forgotten = threading.Event()
    gc.disable()
    try:
        ahead: Any = prefetch(collecting(), 1)
        next(ahead)
        ahead.itself = ahead
        kept = ahead.ready
        del ahead
        forgotten.set()
        kept.get()
        for _ in range(100):
            if threads() == before:
                break
            time.sleep(0.05)
    finally:
        gc.enable()
    assert threads() == before


# ---- the store


@given(groups=st.lists(DOCUMENTS, min_size=1, max_size=4))
@SLOW
def test_store_keeps_what_it_is_given(tmp_path: Path, groups: list[list[list[int]]]) -> None:
    store = fresh(tmp_path, groups[0])
    for group in groups[1:]:
        store.append(group)
    documents = sum(groups, [])
    for found in (
        store,
        TokenStore.open(store.path, tokenizer=LETTERS),
        TokenStore.open(store.path, verify=False),
    ):
        assert [found.document(k).tolist() for k in range(found.n_documents)] == documents
        assert len(found) == sum(len(d) + 1 for d in documents) and found.n_bytes == sum(map(len, documents))
        starts, stops = found.spans(np.arange(found.n_documents))
        assert starts[0] == 0 and np.array_equal(starts[1:], stops[:-1]) and stops[-1] == len(found)
        assert (
            found.read(-1, len(found)).tolist() == [END, *found.ids.tolist()]
            and found.read(0, 1).dtype == np.int64
        )
    assert str(len(store)) in repr(store).replace(",", "")
    for wrong in (-1, store.n_documents):
        with pytest.raises(IndexError, match="there is no document"):
            store.document(wrong)


def test_bytes_are_counted_without_special_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["naïve 日本語 🙂 "] * 9, 270, special_tokens=[END_OF_TEXT, "<|x|>"])
    text = "日本語 naïve 🙂🙂"
    store = fresh(tmp_path, [tokenizer.encode(text), tokenizer.encode("<|x|>", allowed_special="all")], tokenizer)
    assert store.n_bytes == len(text.encode()) == store.token_bytes[store.ids].sum()
    assert store.token_bytes.shape == (tokenizer.vocab_size,)
    assert [store.token_bytes[k] for k in tokenizer.special_tokens.values()] == [0, 0]


@pytest.mark.parametrize("size", [2**16, 2**16 + 1])
def test_ids_at_the_border_of_two_bytes(tmp_path: Path, size: int) -> None:
    wide = Tokenizer({k: k.to_bytes(1 if k < 256 else 3) for k in range(size - 1)}, [], [END_OF_TEXT])
    store = fresh(tmp_path, [[size - 2, 0, 1]], wide)
    assert store.document(0).tolist() == [size - 2, 0, 1] and store.ids.dtype.itemsize == (
        2 if size == 2**16 else 4
    )
    assert TokenStore.open(store.path).ids[-1] == size - 1
    raw = (store.path / "ids.bin").read_bytes()
    assert int.from_bytes(raw[: store.ids.dtype.itemsize], "little") == size - 2


@pytest.mark.parametrize(
    ("document", "kind", "words"),
    [
        ([], ValueError, "leave it out"),
        ([[1, 2]], ValueError, "in a row"),
        ([1, 300], ValueError, "the id 300 at place 1, expected 0 to 256"),
        ([257], ValueError, "the id 257 at place 0, expected 0 to 256"),
        ([5, 5, -1], ValueError, "the id -1 at place 2"),
        ([1, END, 2], ValueError, "which the store adds itself"),
        ([2**70], TypeError, "holds object"),
        ([1.0], TypeError, "holds float64"),
        ([True], TypeError, "holds bool"),
        ("text", TypeError, "tokenizer.encode"),
        (b"text", TypeError, "is bytes"),
        (["a"], TypeError, "whole numbers"),
    ],
)
def test_wrong_documents_are_refused(tmp_path: Path, document: Any, kind: type[Exception], words: str) -> None:
    store = fresh(tmp_path, [[1, 2], [3]])
    before = {path.name: path.read_bytes() for path in store.path.iterdir() if path.name == "store.json"}
    with pytest.raises(kind, match=words) as caught:
        store.append([[4], document, [5]])
    assert "document 3" in str(caught.value)
    assert (
        before == {"store.json": (store.path / "store.json").read_bytes()}
        and TokenStore.open(store.path).n_documents == 2
    )
    store.append([np.array([4], np.uint8), torch.tensor([5])])
    assert [store.document(k).tolist() for k in (2, 3)] == [[4], [5]]


def test_all_or_none(tmp_path: Path) -> None:
    "An error of the source leaves the store as it was, however much was written already."
    store = fresh(tmp_path, [[1]])

    def source() -> Iterator[list[int]]:
        for _ in range(3):
            yield [7] * 2**19
        raise FileNotFoundError("the source is gone")

    with pytest.raises(FileNotFoundError, match="^the source is gone$"):
        store.append(source())
    assert (store.path / "ids.bin").stat().st_size > 2**20  # a block had been written
    assert len(store) == len(TokenStore.open(store.path)) == 2
    store.append([[8, 9]])
    assert TokenStore.open(store.path).ids.tolist() == [1, END, 8, 9, END]


def test_blocks_of_a_million(tmp_path: Path) -> None:
    "Checksums and texts go on from one block to the next, in writing and in reading."
    store = fresh(tmp_path, [[k % 256] * 600_000 for k in range(4)])
    assert len(TokenStore.open(store.path)) == len(store) == 4 * 600_001
    flip(store.path / "ids.bin", 5)
    with pytest.raises(ValueError, match="checksum differs"):
        TokenStore.open(store.path)


def test_creating(tmp_path: Path) -> None:
    store = fresh(tmp_path, [[1]])
    with pytest.raises(FileExistsError, match="holds a store; "):
        TokenStore.create(store.path, LETTERS)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        TokenStore.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is no token store"):
        TokenStore.open(tmp_path)
    without = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [])
    with pytest.raises(ValueError, match="to end texts with"):
        TokenStore.create(tmp_path / "without", without)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OSError, match="cannot write"):
        TokenStore.create(tmp_path / "file", LETTERS)
    assert list(TokenStore.create(tmp_path / "a" / "b", LETTERS).ids) == []
    TokenStore.create(tmp_path / "c", LETTERS)
    with minillm.batches._one_writer(tmp_path / "c"):  # somebody is creating or appending
        with pytest.raises(BlockingIOError, match="is being written by another process or thread"):
            TokenStore.create(tmp_path / "c", LETTERS)
    assert not (tmp_path / "without").exists()
    (tmp_path / "c" / "store.json").unlink()  # a kill before the header
    assert TokenStore.create(tmp_path / "c", LETTERS).n_documents == 0


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


@given(
    documents=DOCUMENTS,
    name=st.sampled_from(["ids.bin", "documents.bin", "token_bytes.bin", "store.json"]),
    bit=st.integers(0, 10**6),
)
@settings(SLOW, max_examples=150)
def test_a_flipped_bit_is_found(tmp_path: Path, documents: list[list[int]], name: str, bit: int) -> None:
    store = fresh(tmp_path, documents)
    flip(store.path / name, bit)
    try:
        found = TokenStore.open(store.path)
    except ValueError as error:
        assert str(store.path) in str(error)
    else:  # white space of the JSON, or a text's name that nothing depends on
        assert name == "store.json" and all(
            np.array_equal(getattr(found, part), getattr(store, part))
            for part in ("ids", "borders", "token_bytes")
        )
        assert (found.header.vocab_size, found.header.end, found.n_bytes) == (257, END, store.n_bytes)


@given(
    documents=DOCUMENTS,
    name=st.sampled_from(["ids.bin", "documents.bin", "token_bytes.bin", "store.json"]),
    share=st.floats(0, 0.999),
)
@SLOW
def test_a_cut_is_found(tmp_path: Path, documents: list[list[int]], name: str, share: float) -> None:
    store = fresh(tmp_path, documents)
    path = store.path / name
    os.truncate(path, int((path.stat().st_size - (name == "store.json")) * share))  # its last byte ends a line
    for verify in (True, False):
        with pytest.raises(ValueError, match="cut off|no JSON|cannot be used"):
            TokenStore.open(store.path, verify=verify)
    path.unlink()
    with pytest.raises((ValueError, FileNotFoundError)):
        TokenStore.open(store.path)


def forge(store: TokenStore, **changes: Any) -> None:
    header = json.loads((store.path / "store.json").read_text(encoding="utf-8"))
    (store.path / "store.json").write_text(json.dumps(header | changes), encoding="utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {"n_tokens": 10**12}, {"n_tokens": 2**60}, {"n_tokens": -1}, {"n_tokens": True}, {"n_tokens": 3.0}, {"n_tokens": "5"}, {"n_documents": 9},
        {"n_bytes": 1}, {"vocab_size": 256}, {"vocab_size": 2**20}, {"end": 257}, {"end": 1}, {"format": "minillm token store, version 2"},
        {"text": None}, {"more": 1}, {"ids_sum": 0}, {"documents_sum": 0}, {"token_bytes_sum": 0},
    ],
)  # fmt: skip
def test_a_header_of_nonsense_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = fresh(tmp_path, [[1, 2], [3]])
    forge(store, **changes)
    with pytest.raises(ValueError, match="store"):
        TokenStore.open(store.path)


@pytest.mark.parametrize("ids", [[1, 2, 3], [300, 2, END], [1, END, END], [1, END, 2]])
def test_a_forged_checksum_does_not_help(tmp_path: Path, ids: list[int]) -> None:
    import zlib

    store = fresh(tmp_path, [[1, 2]])
    data = np.array(ids, "<u2").tobytes()
    (store.path / "ids.bin").write_bytes(data)
    forge(store, ids_sum=zlib.crc32(data))
    with pytest.raises(ValueError, match="damaged"):
        TokenStore.open(store.path)


@pytest.mark.parametrize("border", [2**62, -(2**63), -(2**62), 4, 1, 0])
def test_forged_borders_do_not_help(tmp_path: Path, border: int) -> None:
    import zlib

    store = fresh(tmp_path, [[1, 2], [3]])
    data = np.array([border, 2, 5, 3], "<i8").tobytes()
    (store.path / "documents.bin").write_bytes(data)
    forge(store, documents_sum=zlib.crc32(data))
    with pytest.raises(ValueError, match="damaged"):
        TokenStore.open(store.path)


def test_nothing_in_a_store_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    for name in ("ids.bin", "documents.bin", "token_bytes.bin", "store.json"):
        store = fresh(tmp_path, [[1, 2]] * 100)
        (store.path / name).write_bytes(pickle.dumps(Trap()) * 20)
        with pytest.raises(ValueError):
            TokenStore.open(store.path)
    assert not (tmp_path / "executed").exists()
    store = fresh(tmp_path, [[1]])
    for text in ("[" * 100_000, "[]", "null", '{"a": 1, "a": 2}', "\xff"):
        (store.path / "store.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"store\.json"):
            TokenStore.open(store.path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_full_disk_says_so(tmp_path: Path) -> None:
    store = fresh(tmp_path, [[1, 2]])
    (store.path / "ids.bin").rename(store.path / "kept")
    (store.path / "ids.bin").symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot write .*ids.bin: No space left.*Is the disk full"):
        store.append([[3]])
    (store.path / "ids.bin").unlink()
    (store.path / "kept").rename(store.path / "ids.bin")
    assert TokenStore.open(store.path).n_documents == 1


class Killed(BaseException):
    "Stands for a kill: nothing catches it."


def kill_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> list[str]:
    "Die at the moment-th step towards the disk; what was passed is listed."
    passed: list[str] = []

    def counted(name: str, do: Callable) -> Callable:
        def step(*arguments: Any, **named: Any) -> Any:
            passed.append(name)
            if len(passed) > moment:
                raise Killed
            return do(*arguments, **named)

        return step

    file, folder = (counted(name, os.fsync) for name in ("fsync", "folder"))
    monkeypatch.setattr(os, "fsync", lambda handle: (folder if stat.S_ISDIR(os.fstat(handle).st_mode) else file)(handle))
    monkeypatch.setattr(os, "replace", counted("replace", os.replace))
    monkeypatch.setattr(minillm.batches, "_write_numbers", counted("numbers", minillm.batches._write_numbers))
    monkeypatch.setattr(minillm.batches.shutil, "rmtree", counted("rmtree", minillm.batches.shutil.rmtree))
    return passed


def test_a_kill_at_any_step_of_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for moment in range(20):
        store = fresh(tmp_path, [[1, 2], [3]])
        with monkeypatch.context() as patch:
            passed = kill_at(patch, moment)
            try:
                store.append([[4, 5, 6]])
                died = False
            except Killed:
                died = True
        found = TokenStore.open(store.path)
        assert found.n_documents in ((2, 3) if died else (3,))
        assert found.ids.tolist()[:5] == [1, 2, END, 3, END]
        found.append([[7]])
        assert TokenStore.open(store.path).document(found.n_documents - 1).tolist() == [7]
        if not died:
            numbers = ["numbers", "fsync"] * 2
            assert passed == [*numbers, "folder", "folder", "fsync", "replace", "folder"]  # the header last
            return
    pytest.fail("append never ended")


def test_readers_go_on_while_texts_are_added(tmp_path: Path) -> None:
    store = fresh(tmp_path, [[1, 2]])
    reader = TokenStore.open(store.path)
    store.append([[3]] * 1000)
    assert reader.ids.tolist() == [1, 2, END] and reader.n_documents == 1 and store.n_documents == 1001


def test_the_hash_of_a_tokenizer() -> None:
    one, same_again, other = (Tokenizer.train(["a b a b ab"], size) for size in (258, 258, 259))
    assert tokenizer_hash(one) == tokenizer_hash(same_again) != tokenizer_hash(other)
    named = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], [END_OF_TEXT, "<|x|>"])
    assert tokenizer_hash(LETTERS) != tokenizer_hash(named)


# ---- prepare

STORIES = [f"Story {k}. " + "the cat sat on the mat. " * (1 + k % 5) + "\n" for k in range(200)]


def contents(made: Prepared) -> dict[str, list[str]]:
    stores = {"train": made.train, "validation": made.validation}
    return {
        name: [made.tokenizer.decode(s.document(k).tolist()) for k in range(s.n_documents)]
        for name, s in stores.items()
    }


def test_prepare_splits_and_learns_from_training_alone(tmp_path: Path) -> None:
    made = prepare(STORIES, tmp_path, vocab_size=300, validation=0.2)
    parts = contents(made)
    assert sorted(parts["train"] + parts["validation"]) == sorted(STORIES) and 20 < len(parts["validation"]) < 60
    assert parts["train"] == [text for text in STORIES if text in set(parts["train"])]  # in order
    assert made.tokenizer.merges == Tokenizer.train(parts["train"], 300).merges
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.json",
        "tokenizer.json",
        "train",
        "validation",
    ]
    assert made.report["text"]["documents"] == 200 and made.report["train"]["documents"] == len(parts["train"])
    more = contents(
        prepare(
            [*STORIES, *(f"another {k}" for k in range(50))], tmp_path / "more", vocab_size=300, validation=0.2
        )
    )
    assert set(parts["validation"]) <= set(more["validation"])  # nobody moves


def test_few_documents_give_their_tails(tmp_path: Path) -> None:
    lines = [f"line {k}\n" for k in range(1000)]
    path = tmp_path / "one.txt"
    path.write_text("".join(lines), encoding="utf-8")
    made = prepare(path, tmp_path / "out", vocab_size=280, validation=0.1)
    ((train,), (tail,)) = contents(made).values()
    assert made.report["split"] == "tails" and train + tail == "".join(lines).removesuffix("\n")
    assert tail.startswith("line ") and abs(len(tail) / len(train + tail) - 0.1) < 0.01
    nothing = prepare(path, tmp_path / "all", vocab_size=280, validation=0)
    assert nothing.validation.n_documents == 0 and nothing.train.n_documents == 1
    unseen = prepare(
        ["the cat sat " * 500 + "zq" * 100 + "\n"], tmp_path / "unseen", vocab_size=262, validation=0.05
    )
    assert b"zq" not in unseen.tokenizer.token_bytes


def test_prepare_is_reused_or_says_why(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(STORIES, out, vocab_size=300).reason == "there was nothing yet"
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert prepare(lambda: iter(STORIES), out, vocab_size=300).reason == ""
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    given_one = Tokenizer.train(STORIES, 280)
    for source, options, words in (
        (STORIES, {"vocab_size": 290}, "tokenizer was learned, 300 tokens, is learned, 290 tokens"),
        (STORIES[1:], {"vocab_size": 290}, "the text changed"),
        (STORIES[1:], {"vocab_size": 290, "validation": 0.2}, "validation was 0.1, is 0.2"),
        (STORIES[1:], {"tokenizer": given_one, "validation": 0.2}, "tokenizer was learned, 290"),
    ):
        assert words in prepare(source, out, **options).reason
        assert prepare(source, out, **options).reason == ""
    flip(out / "train" / "ids.bin", 77)
    made = prepare(STORIES[1:], out, tokenizer=given_one, validation=0.2)
    assert "checksum differs" in made.reason and made.tokenizer.merges == given_one.merges
    (out / "tokenizer.json").write_text("{", encoding="utf-8")
    assert "cannot be used" in prepare(STORIES[1:], out, tokenizer=given_one, validation=0.2).reason


def test_sources(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for k in range(3):
        (tmp_path / "folder" / f"{k}.txt").write_text(STORIES[k] * 9, encoding="utf-8")
    (tmp_path / "r.jsonl").write_text(
        "".join(json.dumps({"q": text}) + "\n" for text in STORIES), encoding="utf-8"
    )
    assert prepare(str(tmp_path / "folder"), tmp_path / "a", vocab_size=265).report["split"] == "tails"
    assert (
        prepare(tmp_path / "r.jsonl", tmp_path / "b", vocab_size=280, field="q").report["text"]["documents"] == 200
    )
    for once in (iter(STORIES), (text for text in STORIES), map(str, STORIES)):
        with pytest.raises(TypeError, match="can be read once"):
            prepare(once, tmp_path / "c")
    for empty in ([], [" ", "\n"]):
        with pytest.raises(ValueError, match="holds no text"):
            prepare(empty, tmp_path / "c")
    with pytest.raises(FileNotFoundError):
        prepare(tmp_path / "nowhere", tmp_path / "c")
    for share in (-0.1, 1, 2):
        with pytest.raises(ValueError, match="validation"):
            prepare(STORIES, tmp_path / "c", validation=share)
    with pytest.raises(ValueError, match="vocab_size=0"):
        prepare(STORIES, tmp_path / "c", vocab_size=0)
    assert not (tmp_path / "c").exists()


def test_a_strange_tokenizer_is_not_overwritten(tmp_path: Path) -> None:
    Tokenizer.train(STORIES, 270).save(tmp_path / "tokenizer.json")
    before = (tmp_path / "tokenizer.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"is not empty \(tokenizer.json\).*Name a new folder"):
        prepare(STORIES, tmp_path, vocab_size=280)
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    (tmp_path / "tokenizer.json").unlink()
    prepare(STORIES, tmp_path, vocab_size=280)
    (tmp_path / "mine.txt").write_text("x", encoding="utf-8")
    prepare(STORIES[1:], tmp_path, vocab_size=280)
    assert (tmp_path / "mine.txt").exists()  # what else lies there stays


@pytest.mark.parametrize(
    "names",
    [
        ("report.json", "tokenizer.json", "train/ids.bin"),
        ("thesis.txt", ".ready/thesis.txt"),
        (".new/chapter.txt",),
        (".minillm-new/chapter.txt",),
        (".minillm-ready/report.json",),
    ],
)
def test_files_of_others_stay(tmp_path: Path, names: tuple[str, ...]) -> None:
    "Whatever they are called, in a folder of their own or beside what prepare wrote."
    for out in (tmp_path / "theirs", tmp_path / "ours"):
        if out.name == "ours":
            prepare(STORIES, out, vocab_size=280)
        for name in names:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            if not (out / name).exists():
                (out / name).write_text('{"text": "mine"}', encoding="utf-8")
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        if out.name == "theirs":
            assert not Prepared.is_in(out)
            with pytest.raises((OSError, ValueError), match="report.json"):
                Prepared.open(out)
        if out.name == "theirs" or any(".minillm" in name for name in names):
            with pytest.raises(FileExistsError, match="prepare did not write that; nothing was changed"):
                prepare(STORIES[1:], out, vocab_size=280)
            assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        else:
            prepare(STORIES[1:], out, vocab_size=280)
            kept = [out / name for name in names if "." in name[:1] or name == "thesis.txt"]
            assert all(before[path] == path.read_bytes() for path in kept)


def test_what_cannot_be_read_now_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(STORIES, tmp_path, vocab_size=280)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError("not now")

    monkeypatch.setattr(minillm.batches.TokenStore, "open", forbidden)
    with pytest.raises(PermissionError, match="not now"):
        prepare(STORIES[1:], tmp_path, vocab_size=280)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_two_at_once_into_one_folder(tmp_path: Path) -> None:
    "One writes; the other is told so at once, and nothing of the first is lost."

    def meddling() -> Iterator[str]:
        for number, text in enumerate(STORIES):
            if number == 100 and (tmp_path / "out" / ".minillm-new").exists():
                with pytest.raises(BlockingIOError, match="is being written by another process or thread"):
                    prepare(STORIES, tmp_path / "out", vocab_size=280)
                refused.append(1)
            yield text

    refused: list[int] = []
    made = prepare(meddling, tmp_path / "out", vocab_size=280)
    assert len(refused) > 2 and Prepared.open(tmp_path / "out").train.n_documents == made.train.n_documents
    assert not (tmp_path / "out" / ".minillm-lock").exists()
    store = fresh(tmp_path, [[1, 2]])

    def inside() -> Iterator[list[int]]:
        TokenStore.open(store.path).append([[4]])
        yield [3]

    with pytest.raises(BlockingIOError, match="another process"):
        store.append(inside())
    assert TokenStore.open(store.path).n_documents == 1


def test_two_handles_of_one_store(tmp_path: Path) -> None:
    one = fresh(tmp_path, [[1, 2]])
    two, reader = TokenStore.open(one.path), TokenStore.open(one.path)
    one.append([[3, 3, 3]])
    after = TokenStore.open(one.path)
    with pytest.raises(ValueError, match="1 documents then, 2 now.*open it again"):
        two.append([[4, 4]])
    assert after.document(1).tolist() == [3, 3, 3] == TokenStore.open(one.path).document(1).tolist()
    assert reader.n_documents == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report.pop("split"),
        lambda report: report.update(split="both"),
        lambda report: report.update(plan="x"),
        lambda report: report["plan"].update(validation="much"),
        lambda report: report["text"].update(more=1),
        lambda report: report["text"].pop("words"),
        lambda report: report["text"].update(documents="many"),
        lambda report: report.update(text=[]),
    ],
)
def test_a_changed_report_is_damage(tmp_path: Path, change: Callable) -> None:
    prepare(STORIES, tmp_path, vocab_size=280)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    change(report)
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(ValueError, match="report.json is not as this version of prepare writes it"):
        Prepared.open(tmp_path)
    with pytest.raises(FileExistsError, match="is not as this version.*nothing was changed. Say replace=True"):
        prepare(STORIES, tmp_path, vocab_size=280, replace=False)
    assert "cannot be used" in prepare(STORIES, tmp_path, vocab_size=280).reason
    (tmp_path / "report.json").write_text("{", encoding="utf-8")
    assert Prepared.is_in(tmp_path) and "no JSON" in prepare(STORIES, tmp_path, vocab_size=280).reason


def test_no_side_stays_empty(tmp_path: Path) -> None:
    for name, text in (("a", "the same text again and again. " * 9), ("b", "another one. " * 9), ("c", "c d e " * 9)):
        made = prepare([text] * 200, tmp_path / name, vocab_size=260, validation=0.5)
        assert made.report["split"] == "tails" and made.train.n_documents and made.validation.n_documents
    with pytest.raises(ValueError, match="validation=0.1 leaves no text for validation"):
        prepare(["a"], tmp_path / "d", tokenizer=LETTERS)
    assert not (tmp_path / "d").exists()


def test_how_the_text_is_split(tmp_path: Path) -> None:
    "Whole documents once about ten of them go to validation; below, one that fell to it by chance would weigh too much."
    for count, way in ((9, "tails"), (99, "tails"), (100, "documents")):
        made = prepare(STORIES[:count], tmp_path / str(count), tokenizer=LETTERS, validation=0.1)
        assert made.report["split"] == way


def test_long_documents_come_in_pieces(tmp_path: Path) -> None:
    text = "".join(f"line {k}\n" for k in range(500))
    made = prepare([text], tmp_path / "pieces", tokenizer=LETTERS, validation=0, max_chars=1000)
    whole = prepare([text], tmp_path / "whole", tokenizer=LETTERS, validation=0)
    assert "".join(contents(made)["train"]).split() == "".join(contents(whole)["train"]).split() == text.split()
    assert made.train.n_documents >= 4 and whole.train.n_documents == 1


def test_a_text_that_changes_meanwhile(tmp_path: Path) -> None:
    calls = iter(range(100))
    with pytest.raises(ValueError, match="the text changed while it was read"):
        prepare(lambda: [*STORIES, f"reading {next(calls)}"], tmp_path / "out", vocab_size=280)
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_kill_at_any_step_of_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Before, between and after the moves: what is there is the old text or the new one, whole."
    old, new = STORIES[:40], STORIES[20:]
    texts: Counter = Counter()
    for moment in range(200):
        out = tmp_path / str(moment)
        prepare(old, out, vocab_size=270, validation=0)
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                prepare(new, out, vocab_size=280, validation=0)
                died = False
            except Killed:
                died = True
        found = Prepared.open(out)
        train = contents(found)["train"]
        assert (train, found.tokenizer.vocab_size) in ((old, 270), (new, 280))
        assert found.report["train"]["documents"] == len(train) == found.report["text"]["documents"]
        texts[len(train)] += 1
        assert contents(prepare(new, out, vocab_size=280, validation=0))["train"] == new
        assert sorted(path.name for path in out.iterdir()) == [
            "report.json",
            "tokenizer.json",
            "train",
            "validation",
        ]
        if not died:
            break
    assert texts[len(old)] > 10 and texts[len(new)] > 5


def test_clearing_takes_what_is_ours_and_the_mark_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, mark, remove = tmp_path / "work", tmp_path / "work" / "written by minillm", minillm.batches.shutil.rmtree
    (work / "train").mkdir(parents=True)
    (work / "chapter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is not from prepare"):
        minillm.batches._clear(work)
    assert (work / "chapter.txt").exists()
    mark.touch()

    def watched(path: Path, **named: Any) -> None:
        assert mark.exists()
        remove(path, **named)

    monkeypatch.setattr(minillm.batches.shutil, "rmtree", watched)
    minillm.batches._clear(work)
    assert not work.exists()


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prepare"):
        Prepared.open(tmp_path)
    prepare(STORIES, tmp_path, vocab_size=280)
    Tokenizer.train(STORIES, 270).save(tmp_path)
    with pytest.raises(ValueError, match="was written by tokenizer"):
        Prepared.open(tmp_path)


# ---- the explorer


def test_the_explorer_is_given_what_the_batch_holds(tmp_path: Path) -> None:
    store = fresh(tmp_path, [list(b"abc"), list(b"de")])
    batch = next(packed_batches(store, 2, 9, seed=None, epochs=1))
    data = explore_batch(batch, LETTERS).data
    (row,) = data["rows"]
    assert [slot["token"] for slot in row] == ["<end>", *"abc", "<end>", *"de", "", ""]
    assert [slot["target"] for slot in row] == [*"abc", "<end>", *"de", "<end>", "", ""]
    assert [slot["document"] for slot in row] == batch.documents[0].tolist()
    assert [slot["position"] for slot in row] == batch.positions[0].tolist()
    assert [slot["weight"] for slot in row] == [1] * 7 + [0] * 2
    bare = explore_batch(Batch(batch.x[:, :4], batch.y[:, :4]), [str(k) for k in range(257)], context=3).data[
        "rows"
    ][0]
    assert [(slot["token"], slot["position"], slot["document"], slot["weight"]) for slot in bare] == [
        ("256", 0, 0, 1),
        ("97", 1, 0, 1),
        ("98", 2, 0, 1),
    ]
    with pytest.raises(ValueError, match="context=0"):
        explore_batch(batch, LETTERS, context=0)
    for empty, words in ((batch.x[:0], "B=0"), (batch.x[:, :0], "T=0")):
        with pytest.raises(ValueError, match=f"{words}; expected at least 1"):
            explore_batch(Batch(empty, empty), LETTERS)
