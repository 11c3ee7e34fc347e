# Generated from nbs/15_bigram.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import math
import numpy as np
import torch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from typing import Any, NamedTuple, Self
from minillm.bigram import Bigram, LARGEST_TABLE, NGram, PairCounts, SMOOTHINGS, bigram_bits_per_byte, bits_per_byte, count_bigrams, perplexity, surprise

# %% exercise 15-a {"title": "Compare two reports", "answer": "def to_bits_per_byte(perplexity: float, n_tokens: int, n_bytes: int) -> float: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Perplexity is e to the mean surprise in nats. So the mean surprise is its logarithm.",
    "All tokens together are n_tokens times as surprising; a bit is ln 2 nats.",
]
well_done = "Perplexity 35 gives 1.28 bits per byte, perplexity 60 gives 1.24: the second model is better."


def checks(to_bits_per_byte):
    got = to_bits_per_byte(256, 1_000, 1_000)
    if abs(got - 8 * math.log(2)) < 1e-6:
        mistake("that is in nats: guessing among 256 bytes is a surprise of 8 bits a byte, and 5.55 nats")
    expect(abs(got - 8) < 1e-6, f"guessing among all 256 bytes is 8 bits per byte; yours is {got:.4f}")
    got = to_bits_per_byte(35, 250_000, 1_000_000)
    if abs(got - math.log2(35)) < 1e-6:
        mistake("that is bits per token; a token is four bytes long here")
    if abs(got - math.log2(35) * 4) < 1e-6:
        mistake("you divided by tokens and multiplied by bytes; more tokens are more surprises")
    expect(
        abs(got - 1.2823) < 1e-3, f"perplexity 35, 250,000 tokens, a million bytes: it is 1.282, yours {got:.4f}"
    )
    got = to_bits_per_byte(60, 210_000, 1_000_000)
    expect(
        abs(got - 1.2404) < 1e-3, f"perplexity 60, 210,000 tokens, a million bytes: it is 1.240, yours {got:.4f}"
    )


def wrong_nats(perplexity, n_tokens, n_bytes):
    return n_tokens * math.log(perplexity) / n_bytes


def wrong_per_token(perplexity, n_tokens, n_bytes):
    return math.log2(perplexity)


def wrong_way_round(perplexity, n_tokens, n_bytes):
    return n_bytes * math.log2(perplexity) / n_tokens


planted = {wrong_nats: "that is in nats", wrong_per_token: "bits per token", wrong_way_round: "divided by tokens"}

# %% exercise 15-b {"title": "Twins", "answer": "def twins() -> tuple[str, str]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "A word that comes back to the same letter goes round in circles. In which order may it go round them?",
    "Begin at a, go to b and back, then to c and back.",
]


def pairs_of(word):
    closed = "." + word + "."
    return sorted(zip(closed, closed[1:]))


def checks(twins):
    one, other = twins()
    for word in (one, other):
        good = isinstance(word, str) and word.isalpha() and len(word) <= 8
        expect(good, f"{word!r} should be a word of one to eight letters")
    if one == other:
        mistake(f"both words are {one!r}; they must differ")
    if pairs_of(one) != pairs_of(other) and sorted(one) == sorted(other):
        mistake(f"{one!r} and {other!r} have the same letters, but not the same pairs")
    differ = sorted(set(pairs_of(one)) ^ set(pairs_of(other)))
    expect(pairs_of(one) == pairs_of(other), f"the pairs of {one!r} and {other!r} differ, as in {differ[:2]}")


def wrong_same():
    return "abaca", "abaca"


def wrong_letters():
    return "abcab", "bcaab"


def wrong_ends():
    return "aba", "bab"


planted = {wrong_same: "must differ", wrong_letters: "not the same pairs", wrong_ends: "the pairs of"}

# %% exercise 15-c {"title": "The best mixture", "answer": "def best_weights(p: np.ndarray) -> np.ndarray: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "`parts = p * weights` is (N,M). Divide each of its rows by the row's sum.",
    "The mean over the rows gives the new weights. A few hundred rounds are enough.",
]


def checks(best_weights):
    generator = np.random.default_rng(7)
    p = generator.beta([0.5, 1.0, 3.0], [4.0, 2.0, 30.0], size=(400, 3)) + 1e-4
    p = np.minimum(p, 1.0)
    shares = np.linspace(0, 1, 101)
    grid = [(a, b, 1 - a - b) for a in shares for b in shares if a + b <= 1 + 1e-9]
    wanted = min(float(-np.log(np.maximum(p @ np.array(w), 1e-300)).mean()) for w in grid)
    got = np.asarray(best_weights(p), dtype=float)
    expect(got.shape == (3,), f"for three models the answer has three weights; yours has shape {got.shape}")
    if abs(got.sum() - 1) > 1e-6 or (got < -1e-9).any():
        mistake(f"weights are at least 0 and add up to 1; yours are {got.round(4)} and add up to {got.sum():.4f}")
    mean = float(-np.log(np.maximum(p @ got, 1e-300)).mean())
    if np.allclose(got, 1 / 3, atol=1e-6):
        mistake("your weights are still all equal; the models are not equally good here")
    if got.max() > 1 - 1e-6:
        mistake("you took the one best model; a mixture is less surprised than each model alone")
    once = (p / p.sum(1, keepdims=True)).mean(0)
    if np.allclose(got, once, atol=1e-9):
        mistake("that is one round; repeat it, with the new weights inside, until they stay the same")
    weights = once
    for rounds in range(2, 200):
        weights = (p * weights / (p @ weights)[:, None]).mean(0)
        if np.allclose(got, weights, atol=1e-9) and mean >= wanted + 1e-4:
            mistake(f"right way, but {rounds} rounds are too few: {mean:.4f} nats; {wanted:.4f} is possible")
    expect(mean < wanted + 1e-4, f"your mixture has a mean surprise of {mean:.4f} nats; {wanted:.4f} is possible")
    two = p[:, :2]
    got = np.asarray(best_weights(two), dtype=float)
    wanted = min(float(-np.log(two @ np.array([a, 1 - a])).mean()) for a in shares)
    mean = float(-np.log(two @ got).mean())
    expect(mean < wanted + 1e-4, f"two models: your mixture has {mean:.4f} nats; {wanted:.4f} is possible")


def wrong_equal(p):
    return np.full(p.shape[1], 1 / p.shape[1])


def wrong_best_one(p):
    weights = np.zeros(p.shape[1])
    weights[np.log(p).mean(0).argmax()] = 1.0
    return weights


def wrong_one_round(p):
    return (p / p.sum(1, keepdims=True)).mean(0)


def wrong_few_rounds(p):
    weights = np.full(p.shape[1], 1 / p.shape[1])
    for _ in range(20):
        weights = (p * weights / (p @ weights)[:, None]).mean(0)
    return weights


def wrong_not_normalised(p):
    return p.mean(0)


planted = {
    wrong_equal: "still all equal",
    wrong_best_one: "the one best model",
    wrong_one_round: "one round",
    wrong_few_rounds: "20 rounds are too few",
    wrong_not_normalised: "add up to 1",
}

# %% exercise 15-d {"title": "Bug clinic: three times as bad at Japanese?", "answer": "def report(texts: list[str], nats: list[float]) -> float: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "How many characters has 日本語, and how many bytes?",
    "A short document counts as much as a long one here. Add up first, then divide.",
]
well_done = (
    "Most characters of Japanese have three bytes, so 5.7 a character is about 1.9 a byte, as for English. "
    "No reason for alarm, although two different texts say little about each other."
)


def checks(report):
    got = report(["日本語"], [9 * math.log(2)])
    if abs(got - 3) < 1e-9:
        mistake("日本語 has three characters and nine bytes; you divided by characters")
    expect(abs(got - 1) < 1e-9, f"9 bits for the 9 bytes of 日本語 are 1 bit per byte; yours is {got:.4f}")
    texts, nats = ["a" * 90, "b" * 10], [90 * math.log(2), 50 * math.log(2)]
    got = report(texts, nats)
    if abs(got - 3) < 1e-9:
        mistake("a document of 10 bytes counted as much as one of 90; divide the sum of bits by the sum of bytes")
    expect(abs(got - 1.4) < 1e-9, f"140 bits for 100 bytes are 1.4 bits per byte; yours is {got:.4f}")
    try:
        got = report(["", "ab"], [math.log(2), math.log(2)])
    except ZeroDivisionError:
        mistake("an empty document has no bytes, but its end token has a surprise: add up before you divide")
    expect(abs(got - 1) < 1e-9, f"2 bits for 2 bytes, one document empty, are 1 bit per byte; yours is {got:.4f}")


def wrong_as_it_was(texts, nats):
    rates = [total / math.log(2) / len(text) for text, total in zip(texts, nats)]
    return sum(rates) / len(rates)


def wrong_mean_of_rates(texts, nats):
    rates = [total / math.log(2) / len(text.encode()) for text, total in zip(texts, nats)]
    return sum(rates) / len(rates)


def wrong_characters(texts, nats):
    return sum(nats) / math.log(2) / sum(map(len, texts))


planted = {
    wrong_as_it_was: "divided by characters",
    wrong_mean_of_rates: "counted as much as",
    wrong_characters: "divided by characters",
}
