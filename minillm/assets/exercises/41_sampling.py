# Generated from nbs/41_sampling.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import math
import torch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from torch import Generator, Tensor
from typing import Any, TypeAlias
from minillm.sampling import Ban, MinP, Processor, RepetitionPenalty, Sampler, Temperature, TopK, TopP, draw_ids, entropy, explore_sampling

# %% exercise 41-a {"title": "As sure as you like", "answer": "def find_temperature(logits: Tensor, p: float) -> float: ...", "returns": true}
import math

import torch

from minillm.exercises import expect, mistake

hints = [
    "For two tokens there is a formula: p / (1 − p) = exp(difference / τ). For more there is none, so search.",
    "The higher the temperature, the smaller the share of the best one: halve an interval until it is short.",
    "Temperatures differ by factors, not by sums: start from 0.001 and 10,000, and try the root of their product.",
]


def best_share(logits, temperature):
    return (logits.double() / temperature).softmax(-1).max().item()


def checks(find_temperature):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.tensor([2.0, 0.0]), torch.tensor([-3.0, -1.0, -2.5])]
    rows += [3 * torch.randn(V, generator=generator) for V in (4, 30, 100)]
    for row in rows:
        for p in (0.55, 0.9, 0.99, 0.5 / len(row) + 0.5, 1 / len(row) + 0.02):
            got = find_temperature(row.clone(), p)
            where = f"for {len(row)} tokens and p={p:.3f}"
            expect(isinstance(got, int | float) and got > 0, f"{where} a temperature is a number above 0: {got!r}")
            found = best_share(row, got)
            if abs(found - p) > 0.001 and abs(best_share(row, 1 / got) - p) <= 0.001:
                mistake(f"{where} you returned 1/τ: logits are divided by the temperature, not multiplied")
            top = row.sort().values
            two = (top[-1] - top[-2]).item() / math.log(p / (1 - p)) if p > 0.5 else math.inf
            if len(row) > 2 and abs(got - two) < 1e-3 * two and abs(found - p) > 0.001:
                mistake(f"{where} you looked at the two best tokens alone; the others have a share, too")
            expect(abs(found - p) <= 0.001, f"{where} the best one has {found:.4f} at your temperature {got:.4g}")


def wrong_inverse(logits, p):
    low, high = 1e-4, 1e3
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if (logits.double() * middle).softmax(-1).max() > p else (middle, high)
    return middle


def wrong_two_best(logits, p):
    top = logits.sort().values
    return (top[-1] - top[-2]).item() / math.log(p / (1 - p))


def wrong_other_way(logits, p):
    low, high = 1e-3, 1e4
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if (logits / middle).softmax(-1).max() > p else (middle, high)
    return middle


def wrong_coarse(logits, p):
    return min((t / 10 for t in range(1, 100)), key=lambda t: abs(best_share(logits, t) - p))


def wrong_never_hot(logits, p):
    return min((1.001**n for n in range(-7000, 1500)), key=lambda t: abs(best_share(logits, t) - p))


planted = {
    wrong_inverse: "you returned 1/τ",
    wrong_two_best: "the others have a share",
    wrong_other_way: "at your temperature",
    wrong_coarse: "at your temperature",
    wrong_never_hot: "at your temperature",
}

# %% exercise 41-b {"title": "Dice without sums", "answer": "def gumbel_choice(logits: Tensor, uniform: Tensor) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "One line: add the noise to all logits, then argmax over the last axis.",
    "−ln u is above 0; its logarithm may have either sign, and it is taken away from the logit.",
]


def checks(gumbel_choice):
    generator = torch.Generator().manual_seed(0)
    row = torch.tensor([1.5, 0.0, 1.0, -1.0, -torch.inf])
    logits = row.expand(40_000, 5)
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp(min=1e-12).float()
    got = gumbel_choice(logits.clone(), uniform.clone())
    expect(getattr(got, "shape", None) == (40_000,), "expected one id for each of 40,000 rows")
    p = row.softmax(-1).double()[:4]
    counts = torch.bincount(got, minlength=5)[:4].double()
    shares = ", ".join(f"{x:.3f}" for x in (counts / counts.sum()).tolist())
    wanted = ", ".join(f"{x:.3f}" for x in p.tolist())
    if (got == row.argmax()).all():
        mistake("your draw always takes the best token: where is the noise?")
    noise = -(-uniform.log()).log()
    if torch.equal(got, (logits.softmax(-1) + noise).argmax(-1)):
        mistake(f"you added the noise to probabilities; it belongs to the logits. You get {shares}, not {wanted}")
    if torch.equal(got, (logits - noise).argmax(-1)):
        mistake(f"the noise has the wrong sign: shares are {shares}, they should be {wanted}")
    expect((got != 4).all(), "a token with logit −∞ was drawn; it cannot come")
    chi2 = ((counts - 40_000 * p) ** 2 / (40_000 * p)).sum()
    p_value = torch.special.gammaincc(torch.tensor(1.5, dtype=torch.float64), chi2 / 2).item()
    expect(p_value > 1e-4, f"the shares are {shares}, they should be {wanted}; it is no bad luck ({p_value:.1g})")
    expect(torch.equal(got, (logits + noise).argmax(-1)), "the shares are right, but not by the given numbers u")


def wrong_greedy(logits, uniform):
    return logits.argmax(-1)


def wrong_uniform_noise(logits, uniform):
    return (logits + uniform).argmax(-1)


def wrong_sign(logits, uniform):
    return (logits + (-uniform.log()).log()).argmax(-1)


def wrong_probabilities(logits, uniform):
    return (logits.softmax(-1) - (-uniform.log()).log()).argmax(-1)


def wrong_one_log(logits, uniform):
    return (logits - uniform.log()).argmax(-1)


def wrong_own_dice(logits, uniform):
    return torch.multinomial(logits.softmax(-1), 1, generator=torch.Generator().manual_seed(1))[:, 0]


planted = {
    wrong_greedy: "where is the noise",
    wrong_uniform_noise: "no bad luck",
    wrong_sign: "wrong sign",
    wrong_probabilities: "belongs to the logits",
    wrong_one_log: "no bad luck",
    wrong_own_dice: "not by the given numbers",
}

# %% exercise 41-c {"title": "A penalty that subtracts", "answer": "def count_penalty(logits: Tensor, history: Tensor, presence: float, frequency: float) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "Count first: a tensor (B,V) of how often each id stands in its row.",
    "`scatter_add(1, ids, ones)` counts. An id of −1 is an error there, or the last token: give it weight 0.",
    "logits − presence · (counts > 0) − frequency · counts.",
]


def counted(history, V):
    return torch.tensor([[row.count(i) for i in range(V)] for row in history.tolist()]).float()


def checks(count_penalty):
    generator = torch.Generator().manual_seed(0)
    cases = [torch.tensor([[0, 1, 1, 1, -1], [-1, -1, -1, 5, 0]]), torch.zeros(2, 0, dtype=torch.long)]
    cases += [torch.randint(-1, 6, (2, n), generator=generator) for n in (9, 60)]
    for history in cases:
        for presence, frequency in ((0.5, 0.0), (0.0, 0.25), (1.0, 0.5)):
            logits = 3 * torch.randn(2, 6, generator=generator)
            got = count_penalty(logits.clone(), history.clone(), presence, frequency)
            check_case(got, logits, history, presence, frequency)
            moved = count_penalty(logits + 7, history.clone(), presence, frequency)
            expect(torch.allclose(moved.softmax(-1), got.softmax(-1), atol=1e-5), "logits + 7 are the same model")


def check_case(got, logits, history, presence, frequency):
    counts = counted(history, 6)
    answer = lambda n: logits - presence * (n > 0) - frequency * n
    same = lambda n: torch.allclose(got, answer(n), atol=1e-5)
    where = f"for history {history.tolist()}, presence {presence} and frequency {frequency}"
    expect(getattr(got, "shape", None) == logits.shape, f"{where} expected logits (B,V) = (2, 6)")
    if same(counts):
        return
    if same((counts > 0).float()):
        mistake(f"{where} the frequency penalty was taken once; it counts each time that a token occurred")
    if torch.allclose(got, logits - (presence + frequency) * counts, atol=1e-5):
        mistake(f"{where} the presence penalty was taken several times; it is subtracted once")
    as_last, as_first = (counts.clone() for _ in range(2))
    as_last[:, -1] += (history < 0).sum(1)
    as_first[:, 0] += (history < 0).sum(1)
    if same(as_last) or same(as_first):
        mistake(f"{where} the −1 was counted as a token; it says that nothing stands there")
    if torch.allclose(got, 2 * logits - answer(counts), atol=1e-5):
        mistake(f"{where} tokens that occurred became more probable: subtract")
    row = (got - answer(counts)).abs().amax(1).nan_to_num(torch.inf).argmax().item()
    told = f"expected {answer(counts)[row].tolist()} in row {row}, yours {got[row].tolist()}"
    expect(False, f"{where} {told}")


def wrong_counts_once(logits, history, presence, frequency):
    seen = torch.tensor([[float(i in row) for i in range(logits.shape[1])] for row in history.tolist()])
    return logits - (presence + frequency) * seen


def wrong_presence_each_time(logits, history, presence, frequency):
    return logits - (presence + frequency) * counted(history, logits.shape[1])


def wrong_counts_nothing(logits, history, presence, frequency):
    ones = torch.ones(history.shape)
    counts = torch.zeros_like(logits).scatter_add(1, history % logits.shape[1], ones)
    return logits - presence * (counts > 0) - frequency * counts


def wrong_clamped(logits, history, presence, frequency):
    counts = torch.zeros_like(logits).scatter_add(1, history.clamp(min=0), torch.ones(history.shape))
    return logits - presence * (counts > 0) - frequency * counts


def wrong_sign(logits, history, presence, frequency):
    counts = counted(history, logits.shape[1])
    return logits + presence * (counts > 0) + frequency * counts


def wrong_counts_to_three(logits, history, presence, frequency):
    counts = counted(history, logits.shape[1]).clamp(max=3)
    return logits - presence * (counts > 0) - frequency * counts


def wrong_divides(logits, history, presence, frequency):
    counts = counted(history, logits.shape[1])
    return logits / (1 + presence * (counts > 0) + frequency * counts)


planted = {
    wrong_counts_once: "counts each time",
    wrong_presence_each_time: "subtracted once",
    wrong_counts_nothing: "−1 was counted",
    wrong_clamped: "−1 was counted",
    wrong_sign: "more probable",
    wrong_counts_to_three: "expected",
    wrong_divides: "expected",
}

# %% exercise 41-d {"title": "Mend it", "answer": "def nucleus(logits: Tensor, p: float) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "Print `keep` for the logits of [0.97, 0.02, 0.01] and p = 0.9. Who is left?",
    "`keep` says whether the best, the second best, … stays. The mask needs whether token 0, token 1, … stays.",
    "A token stays while those *before* it have less than p; `scatter(-1, ids, keep)` puts it back in place.",
]


def slow(row, p):
    left, total = set(), 0.0
    for i in sorted(range(len(row)), key=lambda i: -row[i]):
        if left and total >= p:
            break
        left.add(i)
        total += row[i]
    return left


def checks(nucleus):
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(12, 7, generator=generator) ** 3 + 1e-3
    sure = torch.tensor([[0.97, 0.02, 0.01, 0, 0, 0, 0], [0, 0.01, 0.01, 0, 0, 0.01, 0.97]]) + 1e-6
    rows = torch.cat([rows / rows.sum(-1, keepdim=True), sure / sure.sum(-1, keepdim=True)])
    for p in (0.9, 0.5, 0.3):
        logits = rows.log() + torch.arange(len(rows))[:, None] / 4  # the same probabilities, wherever logits lie
        got = nucleus(logits.clone(), p)
        expect(getattr(got, "shape", None) == logits.shape, f"expected logits (B,V) = {tuple(logits.shape)}")
        for row, before, after in zip(rows, logits, got):
            check_row([round(x, 4) for x in row.tolist()], row.tolist(), before, after, p)


def check_row(told, row, before, after, p):
    wanted, kept = slow(row, p), set((after != -torch.inf).nonzero()[:, 0].tolist())
    where = f"of {told}, with p={p},"
    expect(after.isnan().sum() == 0, f"{where} there is NaN among your logits: {after.tolist()}")
    if (after == torch.inf).any():
        mistake(f"{where} what is cut must become −∞; +∞ would always come")
    if not kept:
        mistake(f"{where} nobody is left; the token that crosses p must stay")
    if kept != wanted and kept == set(range(len(wanted))):
        mistake(f"{where} you kept the first {len(kept)} places, not the best tokens: put the mask back in place")
    if kept != wanted and kept == slow(before.exp().tolist(), p):
        mistake(f"{where} you added up exp(logits); before a softmax they are no probabilities")
    if kept < wanted and len(kept) == len(wanted) - 1:
        mistake(f"{where} tokens {sorted(kept)} stay; the one that crosses p is missing: {sorted(wanted)}")
    expect(kept == wanted, f"{where} tokens {sorted(wanted)} stay, yours are {sorted(kept)}")
    same = all(after[i] == before[i] for i in kept)
    expect(same, f"{where} the logits of those who stay should not change")


def wrong_as_given(logits, p):
    ordered, ids = logits.sort(dim=-1, descending=True)
    keep = ordered.softmax(-1).cumsum(-1) <= p
    return logits.masked_fill(~keep, -torch.inf)


def wrong_not_put_back(logits, p):
    ordered, ids = logits.sort(dim=-1, descending=True)
    shares = ordered.softmax(-1)
    return logits.masked_fill(shares.cumsum(-1) - shares >= p, -torch.inf)


def wrong_crossing_one_out(logits, p):
    ordered, ids = logits.sort(dim=-1, descending=True)
    keep = ordered.softmax(-1).cumsum(-1) <= p
    keep[..., 0] = True
    return logits.masked_fill(~torch.zeros_like(keep).scatter(-1, ids, keep), -torch.inf)


def wrong_nobody_left(logits, p):
    ordered, ids = logits.sort(dim=-1, descending=True)
    keep = ordered.softmax(-1).cumsum(-1) <= p
    return logits.masked_fill(~torch.zeros_like(keep).scatter(-1, ids, keep), -torch.inf)


def wrong_gathered(logits, p):
    ordered, ids = logits.sort(dim=-1, descending=True)
    shares = ordered.softmax(-1)
    keep = (shares.cumsum(-1) - shares < p).gather(-1, ids)
    return logits.masked_fill(~keep, -torch.inf)


def wrong_sorted_result(logits, p):
    ordered, ids = logits.sort(dim=-1, descending=True)
    shares = ordered.softmax(-1)
    return ordered.masked_fill(shares.cumsum(-1) - shares >= p, -torch.inf)


def nucleus_of(weights, logits, p, cut):
    ordered, ids = weights.sort(dim=-1, descending=True)
    keep = torch.zeros_like(ordered, dtype=torch.bool).scatter(-1, ids, ordered.cumsum(-1) - ordered < p)
    return logits.masked_fill(~keep, cut)


def wrong_plus_infinity(logits, p):
    return nucleus_of(logits.softmax(-1), logits, p, torch.inf)


def wrong_no_softmax(logits, p):
    return nucleus_of(logits.exp(), logits, p, -torch.inf)


planted = {
    wrong_plus_infinity: "+∞ would always come",
    wrong_no_softmax: "you added up exp(logits)",
    wrong_as_given: "stay, yours are",
    wrong_not_put_back: "not the best tokens",
    wrong_crossing_one_out: "the one that crosses p is missing",
    wrong_nobody_left: "is missing",
    wrong_gathered: "stay, yours are",
    wrong_sorted_result: "not the best tokens",
}
