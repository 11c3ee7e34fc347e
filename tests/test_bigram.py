"Counting models: against brute force in exact fractions, sampling against its own probabilities, training against counting, and bad input."

import math
import tracemalloc
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import minillm.bigram as module
from minillm.bigram import (
    SMOOTHINGS,
    Bigram,
    NGram,
    PairCounts,
    bigram_bits_per_byte,
    bits_per_byte,
    count_bigrams,
    perplexity,
    surprise,
)

V, END = 5, 4  # of the random texts
documents = st.lists(st.lists(st.integers(0, V - 2), max_size=9), min_size=1, max_size=6)


def joined(texts: list[list[int]]) -> list[int]:
    return [token for text in texts for token in [*text, END]]


@pytest.fixture(params=[None, 1, 3], ids=["one block", "blocks of 1", "blocks of 3"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    "Small blocks, so that short texts have many borders."
    if request.param:
        real = module._blocks
        monkeypatch.setattr(module, "_blocks", lambda ids, vocab_size: real(ids, vocab_size, request.param))


# ---- counting


@pytest.mark.usefixtures("blocks")
def test_pairs_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    for length in (0, 1, 2, 7, 500):
        ids = rng.integers(0, V, length)
        counts = count_bigrams(ids, V)
        brute = Counter(zip(ids.tolist(), ids.tolist()[1:]))
        assert dict(zip(zip(*(part.tolist() for part in counts.pairs())), counts.times.tolist())) == brute
        assert sorted(counts.codes.tolist()) == counts.codes.tolist() and counts.dense().sum() == max(0, length - 1)
        assert all(counts.dense()[pair] == times for pair, times in brute.items())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.uint64, list, torch.tensor, "memmap"])
def test_ids_of_every_kind(kind, tmp_path: Path) -> None:
    "Small integer types must not overflow in first · V + second."
    ids = np.random.default_rng(1).integers(0, 250, 300)
    want = count_bigrams(ids, 60_000)
    if kind == "memmap":
        ids.astype(np.uint16).tofile(tmp_path / "ids.bin")
        given = np.memmap(tmp_path / "ids.bin", dtype=np.uint16, mode="r")
    else:
        given = ids.astype(kind) if isinstance(kind, type) and kind is not list else kind(ids)
    got = count_bigrams(given, 60_000)
    assert (got.codes == want.codes).all() and (got.times == want.times).all() and got.codes.dtype == np.int64
    assert want.codes.max() > 2**16
    model, other = (NGram(60_000, 3).fit(x) for x in (given, ids))
    assert np.array_equal(model.surprise(given), other.surprise(ids))


def test_memory_is_for_what_occurred() -> None:
    "A vocabulary of 50,000: the table alone would take 20 GB."
    ids = np.random.default_rng(2).zipf(1.3, 400_000).clip(max=50_000) - 1
    tracemalloc.start()
    counts = count_bigrams(ids, 50_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6, f"{peak / 1e6:.0f} MB for {len(counts.codes):,} pairs"
    assert counts.times.sum() == 399_999
    first, second = counts.pairs()
    place = int(counts.times.argmax())
    assert counts.times[place] == ((ids[:-1] == first[place]) & (ids[1:] == second[place])).sum()


def test_large_vocabulary_long_history() -> None:
    "V⁵ does not fit into 64 bits; the numbering of contexts does."
    ids = np.array([199_999, 199_998, 199_999, 3, 199_999, 199_998, 199_999, 3, 199_999, 7] * 3)
    model = NGram(200_000, 5, smoothing="add", amount=0).fit(ids)
    rows = {n: Counter(zip(*(ids[k:].tolist() for k in range(n)))) for n in range(1, 6)}
    fours, fives = Counter({row: sum(rows[5][five] for five in rows[5] if five[:4] == row) for row in rows[4]}), rows[5]
    want = [math.log(fours[five[:4]] / fives[five]) for five in zip(*(ids[k:].tolist() for k in range(5)))]
    np.testing.assert_allclose(model.surprise(ids)[4:], want, atol=1e-12)
    assert [len(level.keys) for level in model.levels] == [len(rows[n]) for n in range(1, 6)]


def test_entropy_is_a_floor() -> None:
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 6, 400)
    counts = count_bigrams(ids, 6)
    table = counts.dense() / counts.dense().sum(1, keepdims=True)
    own = -np.log(table[ids[:-1], ids[1:]]).mean()
    assert counts.entropy() == pytest.approx(own)
    for _ in range(50):
        other = table * rng.uniform(0.9, 1.1, table.shape) + 1e-3
        other /= other.sum(1, keepdims=True)
        assert -np.log(other[ids[:-1], ids[1:]]).mean() > own


# ---- n-grams against a second derivation: dictionaries of tuples, exact fractions, document by document


class Slow:
    "Chen and Goodman 1999, sections 2.1 to 2.7, word for word, with fractions."

    def __init__(self, texts: list[list[int]], order: int, smoothing: str, amount: Fraction) -> None:
        self.order, self.smoothing, self.amount = order, smoothing, amount
        self.raw: Counter = Counter()
        self.before: defaultdict = defaultdict(set)  # which tokens stood before a row
        self.begins: Counter = Counter()  # how often a row stood where nothing is before it
        for text in texts:
            line = [END, *text, END]  # a document begins after an end
            for last in range(1, len(line)):
                for n in range(1, order + 1):
                    start = last - n + 1
                    if start >= 0:
                        row = tuple(line[start : last + 1])
                        self.raw[row] += 1
                        if start > 0:
                            self.before[row].add(line[start - 1])
                        else:
                            self.begins[row] += 1

    def count(self, row: tuple[int, ...]) -> int:
        if self.smoothing == "kneser-ney" and len(row) < self.order:
            return len(self.before[row]) + self.begins[row]
        return self.raw[row]

    def probability(self, context: tuple[int, ...], token: int) -> Fraction:
        "Of a token after at most order−1 tokens of its own document."
        simpler = self.probability(context[1:], token) if context else Fraction(1, V)
        followers = [self.count((*context, other)) for other in range(V)]
        total, count = sum(followers), followers[token]
        if self.smoothing == "add":
            if total + self.amount * V == 0:
                return Fraction(1, V)
            return (count + self.amount) / Fraction(total + self.amount * V)
        if total == 0:
            return simpler
        if self.smoothing == "interpolate":
            return self.amount * Fraction(count, total) + (1 - self.amount) * simpler
        kinds = sum(other > 0 for other in followers)
        return max(count - self.amount, Fraction(0)) / total + self.amount * kinds / total * simpler


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None, max_examples=12)
@given(documents, st.sampled_from([Fraction(1, 10), Fraction(1, 2), Fraction(3, 4)]), documents)
def test_every_smoothing_is_its_definition(order, smoothing, texts, amount, others) -> None:
    slow = Slow(texts, order, smoothing, amount)
    try:
        model = NGram(V, order, smoothing=smoothing, amount=float(amount), end=END).fit(joined(texts))
    except ValueError as error:
        assert "give more text" in str(error) and max(map(len, texts)) + 1 < order
        return
    want = []
    for text in others:
        line = [END, *text, END]
        for last in range(1, len(line)):
            context = tuple(line[max(0, last - order + 1) : last])
            want.append(slow.probability(context, line[last]))
    got = np.exp(-model.surprise(joined(others)))
    np.testing.assert_allclose(got, np.array(want, dtype=float), rtol=1e-9)


@settings(deadline=None, max_examples=40)
@given(documents, st.integers(1, 4), st.sampled_from(SMOOTHINGS), st.lists(st.integers(0, V - 1), max_size=6))
def test_probabilities_add_up(texts, order, smoothing, context) -> None:
    text = joined([*texts, [0, 1, 2, 3]])
    model = NGram(V, order, smoothing=smoothing, end=END).fit(text)
    p = model.probabilities(context)
    assert p.shape == (V,) and abs(p.sum() - 1) < 1e-12 and (p > 0).all()
    for token in range(V):
        assert model.surprise([*context, token])[-1] == pytest.approx(-math.log(p[token])), "asked one way and the other"


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("end", [END, None])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_blocks_change_nothing(order: int, end: int | None) -> None:
    ids = np.random.default_rng(4).integers(0, V, 60)
    model = NGram(V, order, end=end).fit(ids)
    whole = [-math.log(model.probabilities(ids[:t])[ids[t]]) for t in range(60)]
    np.testing.assert_allclose(model.surprise(ids), whole)
    assert model.total_surprise(ids) == pytest.approx(sum(whole))
    for n, level in enumerate(model.levels, 1):
        stops = [] if end is None else [END]
        rows = {row for row in zip(*([*stops, *ids.tolist()][k:] for k in range(n))) if end not in row[1:-1]}
        if n > 1 or end is None:
            assert len(level.keys) == len(rows)


def test_documents_do_not_see_each_other() -> None:
    "With an end token, the surprise of a document is the same whatever stands before it."
    texts = np.random.default_rng(5).integers(0, V - 1, (20, 8)).tolist()
    model = NGram(V, 4, end=END).fit(joined(texts))
    alone = model.surprise(joined([texts[3]]))
    np.testing.assert_array_equal(model.surprise(joined([texts[7], texts[3]]))[9:], alone)
    mixed = NGram(V, 4).fit(joined(texts))
    assert not np.allclose(mixed.surprise(joined([texts[7], texts[3]]))[9:], mixed.surprise(joined([texts[3]])))


def test_san_francisco() -> None:
    "The example by which Kneser and Ney are taught, by hand: frequent, but at home after one token only."
    the, san, a, glasses = range(4)
    pairs = [(the, glasses), (a, glasses), *[(san, a)] * 5]  # `a` occurs 5 times, always after `san`
    ids = [token for pair in pairs for token in [*pair, 4]]  # documents of two tokens
    model = NGram(5, 2, smoothing="kneser-ney", amount=0.5, end=4).fit(ids)
    # different pairs: 4→the, 4→a, 4→san, the→glasses, a→glasses, san→a, glasses→4, a→4: eight.
    home = {the: 1, san: 1, a: 2, glasses: 2, 4: 2}
    unigram = {token: (number - 0.5) / 8 + 0.5 * 5 / 8 * (1 / 5) for token, number in home.items()}
    # after `the` one token came, once: half of it is discounted
    after_the = [0.5 * unigram[token] + (0.5 if token == glasses else 0) for token in range(5)]
    np.testing.assert_allclose(model.probabilities([the]), after_the, rtol=1e-12)
    plain = NGram(5, 2, smoothing="absolute", amount=0.5, end=4).fit(ids)
    assert model.probabilities([the])[a] < plain.probabilities([the])[a], "frequent after one token only: less likely here"


def test_discount_from_the_counts() -> None:
    ids = [0, 1, 4, 0, 1, 4, 0, 2, 4, 3, 2, 4]
    model = NGram(V, 2, smoothing="absolute", end=END).fit(ids)
    pairs = Counter(zip([4, *ids], ids))
    once, twice = (sum(times == n for times in pairs.values()) for n in (1, 2))
    chosen = NGram(V, 2, smoothing="absolute", amount=None, end=END).fit(ids)
    discount = once / (once + 2 * twice)
    unigrams = Counter(ids)
    ones, twos = (sum(times == n for times in unigrams.values()) for n in (1, 2))
    low = ones / (ones + 2 * twos)
    p_2 = (unigrams[2] - low) / 12 + low * 5 / 12 / 5
    assert chosen.probabilities([0])[2] == pytest.approx((1 - discount) / 3 + discount * 2 / 3 * p_2)
    assert model.probabilities([0])[2] == chosen.probabilities([0])[2]


def test_defaults() -> None:
    "What is taken where nothing is chosen, and the discount where no n-gram occurred twice."
    ids = [0, 1, 2, 0, 1, 3, 2, 2, 1, 0] * 3
    for smoothing, amount in (("add", 0.01), ("interpolate", 0.7)):
        one, other = (NGram(V, 3, smoothing=smoothing, amount=k).fit(ids) for k in (None, amount))
        assert np.array_equal(one.surprise(ids), other.surprise(ids))
    few = [0, 1, 2, 3]  # all occur once
    one, other = (NGram(V, 2, smoothing="absolute", amount=d).fit(few) for d in (None, 0.75))
    assert np.array_equal(one.surprise(few), other.surprise(few))
    counts = count_bigrams(ids, V)
    assert torch.equal(Bigram.from_counts(counts).weight, Bigram.from_counts(counts, 0.01).weight)


def test_add_k_after_a_new_history() -> None:
    "It has nothing to fall back on: all tokens are equally probable. The others ask the shorter history."
    ids = [0, 1, 2] * 3
    for smoothing in SMOOTHINGS:
        p = NGram(6, 3, smoothing=smoothing).fit(ids).probabilities([2, 1])
        if smoothing == "add":
            np.testing.assert_allclose(p, 1 / 6)
        else:
            shorter = NGram(6, 3, smoothing=smoothing).fit(ids).probabilities([5, 1])
            assert p.argmax() == 2 and np.array_equal(p, shorter)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_searches(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    "n(n+1)/2 of them for a probability, as the chapter says."
    model, real, calls = NGram(V, order).fit([0, 1, 2, 3, 0, 2, 1] * 4), module._find, []
    monkeypatch.setattr(module, "_find", lambda *given: calls.append(1) or real(*given))
    model.probabilities([0, 1, 2, 3])
    assert len(calls) == order * (order + 1) // 2


def test_two_or_more_fits_are_the_last() -> None:
    model = NGram(V, 2).fit([0, 1] * 20)
    again = NGram(V, 2).fit([2, 3] * 20)
    assert np.array_equal(model.fit([2, 3] * 20).probabilities([2]), again.probabilities([2]))


# ---- sampling


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    return float(((observed - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("context", [[], [1], [0, 2]])
def test_sampling_follows_the_probabilities(context: list[int]) -> None:
    "χ² with 4 degrees of freedom is above 23.5 once in ten thousand times; the seed is fixed."
    texts = np.random.default_rng(6).integers(0, V - 1, (30, 6)).tolist()
    model = NGram(V, 3, end=END).fit(joined(texts))
    generator, draws = torch.Generator().manual_seed(0), 6_000
    drawn = [model.sample(1, generator=generator, start=context) for _ in range(draws)]
    observed = np.bincount([one[0] if one else END for one in drawn], minlength=V)
    p = model.probabilities(context)
    assert chi_square(observed, draws * p) < 23.5
    wrong = np.roll(p, 1)
    assert chi_square(observed, draws * wrong) > 23.5, "the test would notice another distribution"


def test_sampling_walks_along_the_context() -> None:
    "The pairs and triples that it writes are as frequent as the model says, and chance comes from the generator alone."
    model = NGram(3, 3, smoothing="add", amount=0.2).fit([0, 1, 2, 0, 2, 1, 0, 1, 1, 2, 2, 0, 1, 2] * 4)
    one, two = (model.sample(3_000, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert one != two and one == model.sample(3_000, generator=torch.Generator().manual_seed(1))
    for context in [(0, 1), (1, 2), (2, 0)]:
        after = [c for a, b, c in zip(one, one[1:], one[2:]) if (a, b) == context]
        assert chi_square(np.bincount(after, minlength=3), len(after) * model.probabilities(context)) < 18.4  # 2 degrees


@pytest.mark.parametrize("end", [None, 0])
def test_sampling_goes_on_from_start(end: int | None) -> None:
    "Looking two back in abracadabra, all is certain until bra; what was given is not forgotten after a draw."
    ids = [1, 2, 5, 1, 3, 1, 4, 1, 2, 5, 1, 0]
    model = NGram(6, 3, smoothing="add", amount=0, end=end).fit(ids)
    for start, then in (([1, 3], [1, 4, 1, 2, 5, 1]), ([3, 1], [4, 1, 2, 5, 1]), ([5, 1, 4, 1], [2, 5, 1])):
        got = model.sample(len(then), generator=torch.Generator().manual_seed(0), start=start)
        assert got == then
    deep = NGram(6, 4, smoothing="add", amount=0, end=end).fit(ids)
    assert deep.sample(5, generator=torch.Generator(), start=[1, 3, 1]) == [4, 1, 2, 5, 1]


def test_sampling_stops_at_the_end() -> None:
    model = NGram(V, 2, smoothing="add", amount=0, end=END).fit(joined([[0, 1, 2], [0, 1, 3]] * 3))
    generator = torch.Generator().manual_seed(0)
    said = [model.sample(10, generator=generator) for _ in range(20)]
    assert {tuple(ids) for ids in said} == {(0, 1, 2), (0, 1, 3)}
    assert model.sample(2, generator=generator) == [0, 1] and model.sample(0, generator=generator) == []
    assert model.sample(5, generator=generator, start=[0, 1, 2]) == []


# ---- units


def test_perplexity_is_torch_s() -> None:
    logits, target = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 9
    p = logits.softmax(-1)[range(50), target].double().numpy()
    loss = F.cross_entropy(logits, target)
    assert perplexity(surprise(p).mean()) == pytest.approx(loss.exp().item(), rel=1e-6)
    assert perplexity(loss) == pytest.approx(loss.exp().item())
    assert perplexity(1e6) == math.inf and math.isnan(perplexity(math.nan)) and perplexity(-1e-9) == pytest.approx(1)
    assert perplexity(700) == math.exp(700) and perplexity(709) == math.exp(709) and perplexity(710) == math.inf


def test_surprise_keeps_shapes() -> None:
    assert surprise(np.full((2, 3), 0.5)).shape == (2, 3) and isinstance(surprise(0.25), float)
    assert surprise(1.0) == 0 and math.copysign(1, surprise(1.0)) == 1 and surprise(1 + 1e-9) == 0
    assert surprise(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_surprise_of_tensors(dtype: torch.dtype) -> None:
    "As models give them: with a gradient, in half precision."
    p = torch.tensor([[0.5, 0.25]], dtype=dtype, requires_grad=True)
    np.testing.assert_allclose(surprise(p), [[math.log(2), math.log(4)]], rtol=1e-12)
    assert isinstance(surprise(p[0, 0]), float) and p.requires_grad


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, np.array([0.5, -2.0])])
def test_what_is_no_probability(wrong) -> None:
    with pytest.raises(ValueError, match="is no probability"):
        surprise(wrong)


def test_bits_per_byte_do_not_depend_on_the_tokenizer() -> None:
    "One distribution over texts, cut two ways: bytes one by one, or two at a time."
    p = np.random.default_rng(7).dirichlet(np.ones(4))
    text = np.random.default_rng(8).integers(0, 4, 200)
    single = surprise(p[text])
    double = surprise((p[:, None] * p[None]).reshape(-1)[text[::2] * 4 + text[1::2]])
    assert bits_per_byte(single.sum(), 200) == pytest.approx(bits_per_byte(double.sum(), 200))
    assert perplexity(single.mean()) != pytest.approx(perplexity(double.mean()))


def test_bits_helper() -> None:
    train, held = ([*b"abcab abc ab", 256] * 5 for _ in range(2))
    model = NGram(257, 2, end=256).fit(train)
    want = sum(-math.log2(model.probabilities(held[:t])[held[t]]) for t in range(len(held))) / 60
    assert bigram_bits_per_byte(train, held, 60, 257, end=256) == pytest.approx(want)
    assert bigram_bits_per_byte(np.array(train, np.uint16), torch.tensor(held), 60, 257, end=256) == pytest.approx(want)
    assert bigram_bits_per_byte(train, [0, 1, 2], 3, 257, end=256) > 8, "bytes that never came"


# ---- the matrix


@settings(deadline=None, max_examples=25)
@given(documents, st.sampled_from([0.0, 0.01, 1.0]))
def test_matrix_of_counts(texts, k) -> None:
    "The module, torch's loss, and add-k of the n-gram model: three ways to one number."
    ids = joined([*texts, [0, 1]])
    model = Bigram.from_counts(count_bigrams(ids, V), k)
    x, y = torch.tensor(ids[:-1]), torch.tensor(ids[1:])
    loss = F.cross_entropy(model(x[None])[0], y)
    counted = NGram(V, 2, smoothing="add", amount=k).fit(ids).surprise(ids)[1:]
    assert loss.item() == pytest.approx(counted.mean(), abs=1e-5)
    assert math.exp(loss.item()) == pytest.approx(perplexity(counted.mean()), rel=1e-4)
    assert (model.weight.softmax(-1).sum(-1) - 1).abs().max() < 1e-5, "rows that nobody saw too"


def test_gradient_is_share_minus_counted_share() -> None:
    ids = torch.tensor([0, 1, 0, 2, 0, 1, 3])
    model = Bigram(5)
    model.weight.data = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    F.cross_entropy(model(ids[None, :-1])[0], ids[1:]).backward()
    counts = torch.tensor(count_bigrams(ids, 5).dense(), dtype=torch.float32)
    want = (counts.sum(1, keepdim=True) * model.weight.softmax(-1) - counts) / 6
    torch.testing.assert_close(model.weight.grad, want)


def test_the_module_is_a_language_model() -> None:
    model = Bigram(7)
    assert dict(model.named_parameters()).keys() == {"weight"} and model.weight.shape == (7, 7)
    ids = torch.arange(6).reshape(2, 3)
    model.weight.data = torch.arange(49.0).reshape(7, 7)
    logits = model(ids, positions=torch.arange(3), documents=torch.zeros(2, 3, dtype=torch.long), cache=object())
    assert logits.shape == (2, 3, 7)
    torch.testing.assert_close(logits, model.weight[ids])
    other = Bigram(7)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(ids), logits)


def test_plain_descent_comes_from_above() -> None:
    "Without Adam: every step lowers the full-batch loss, and it never gets below the entropy of the counts."
    ids = torch.tensor([0, 1, 2, 0, 1, 0, 2, 2, 1, 0] * 3)
    floor, model = count_bigrams(ids, 3).entropy(), Bigram(3)
    losses = []
    for _ in range(300):
        loss = F.cross_entropy(model(ids[None, :-1])[0], ids[1:])
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        model.weight.data -= 5.0 * model.weight.grad
    assert losses[0] == pytest.approx(math.log(3)) and losses == sorted(losses, reverse=True)
    assert floor - 1e-6 < losses[-1] < floor + 1e-3


def test_large_tables_are_refused() -> None:
    for make in (lambda: Bigram(50_257), lambda: count_bigrams([0, 1], 50_257).dense()):
        with pytest.raises(ValueError, match=r"50,257 makes a table of .* 10.1 GB; 16,384 tokens are the limit\. NGram"):
            make()
    assert NGram(50_257).fit([0, 50_256, 0]).probabilities([0])[50_256] > 0.1


# ---- bad input


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: count_bigrams([0, 5], 5), ValueError, "id 5 at place 1 is not in the vocabulary: ids run from 0 to 4"),
        (lambda: count_bigrams([-1], 5), ValueError, "id -1 at place 0"),
        (lambda: count_bigrams([0.5, 1], 5), TypeError, "got float64 of shape .2,.; expected whole numbers in one row"),
        (lambda: count_bigrams([[0, 1]], 5), TypeError, "of shape .1, 2."),
        (lambda: count_bigrams(iter([0, 1]), 5), TypeError, "got list_iterator"),
        (lambda: count_bigrams("text", 5), TypeError, "got str"),
        (lambda: NGram(0), ValueError, "vocab_size=0, order=2: both are whole and at least 1"),
        (lambda: NGram(5, 2.5), ValueError, "order=2.5: both are whole"),
        (lambda: NGram(5, "2"), ValueError, "order=2: both are whole"),
        (lambda: NGram(2**40).fit([0, 1]), ValueError, "vocab_size=1099511627776, expected 1 to 2³¹"),
        (lambda: count_bigrams([2**40, 5], 2**41), ValueError, "vocab_size=2199023255552, expected 1 to 2³¹"),
        (lambda: count_bigrams([], 0), ValueError, "vocab_size=0, expected 1 to 2³¹"),
        (lambda: count_bigrams([3], 5).entropy(), ValueError, "no pair was counted, .*; count at least two ids"),
        (lambda: NGram(5, smoothing="add", amount=math.inf), ValueError, "amount=inf .* k is from 0 to 1e9"),
        (lambda: NGram(5, 0), ValueError, "order=0"),
        (lambda: NGram(5, smoothing="laplace"), ValueError, "'laplace' is not known; try one of 'add'"),
        (lambda: NGram(5, smoothing="add", amount=-1), ValueError, "k is from 0 to 1e9"),
        (lambda: NGram(5, smoothing="interpolate", amount=1.5), ValueError, "a share is from 0 to 1"),
        (lambda: NGram(5, amount=math.nan), ValueError, "a discount is from 0 to 1"),
        (lambda: NGram(5, end=5), ValueError, "end=5 is no id of a vocabulary of 5"),
        (lambda: NGram(5).fit([]), ValueError, "0 ids hold no row of 1"),
        (lambda: NGram(5, 3).fit([0, 1]), ValueError, "2 ids hold no row of 3; give more text or a lower order"),
        (lambda: NGram(5).probabilities(), ValueError, "call .fit.ids. first"),
        (lambda: NGram(5).sample(3, generator=torch.Generator()), ValueError, "call .fit.ids. first"),
        (lambda: NGram(5).fit([0, 1]).probabilities([7]), ValueError, "id 7"),
        (lambda: NGram(5).fit([0, 1]).surprise([0, 9]), ValueError, "id 9 at place 1"),
        (lambda: Bigram(0), ValueError, "vocab_size=0, expected at least 1"),
        (lambda: Bigram.from_counts(count_bigrams([0, 1], 3), -1), ValueError, "from 0 to 1e9; try 0.01"),
        (lambda: Bigram.from_counts(count_bigrams([0, 1], 3), math.inf), ValueError, "smoothing=inf, .* from 0 to 1e9"),
        (lambda: Bigram(5)([[1]]), ValueError, "got list; expected a tensor of ids from 0 to 4"),
        (lambda: Bigram(5)(torch.tensor([[5]])), ValueError, "expected a tensor of ids from 0 to 4"),
        (lambda: Bigram(5)(torch.tensor([[0.5]])), ValueError, "got torch.float32 .1, 1.; expected a tensor of ids"),
        (lambda: perplexity(-0.5), ValueError, "below 0"),
        (lambda: bits_per_byte(1.0, 0), ValueError, "n_bytes=0, but a text has at least one byte"),
        (lambda: bits_per_byte(-1.0, 5), ValueError, "below 0"),
        (lambda: bigram_bits_per_byte([0, 1], [0], 0, 5), ValueError, "n_bytes=0"),
    ],
)  # fmt: skip
def test_bad_input(call, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        call()


def test_no_pairs_at_all() -> None:
    counts = count_bigrams([3], 5)
    assert len(counts.codes) == 0 and counts.dense().sum() == 0
    assert isinstance(counts, PairCounts)
    assert (Bigram.from_counts(counts, 0).weight == 0).all(), "nothing seen, so all is equally probable"
