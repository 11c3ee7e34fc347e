# Generated from nbs/33_optim.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import math
import torch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from torch import Tensor, nn
from torch.optim import Optimizer
from typing import Any, Literal, TypeAlias
from minillm.optim import AdamW, Lion, Muon, Named, SGD, Schedule, clip_grad_norm, constant_schedule, cosine_schedule, decay_groups, explore_optimizers, make_optimizer, newton_schulz, optimizer_bytes, wsd_schedule

# %% exercise 33-a {"title": "Looking ahead", "answer": "def nesterov(slope: Callable[[Tensor], Tensor], p: Tensor, lr: float, momentum: float, steps: int) -> list[Tensor]: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "Four lines a step: the gradient, the velocity, the place, and keeping the place.",
    "The new velocity is used, the one that has this gradient in it already.",
    "If all places in your list are equal, the same tensor is in it again and again: p = p − … makes a new one.",
]


def torchs(stretch, p, lr, momentum, steps, nesterov=True):
    p = torch.nn.Parameter(p.clone())
    rule, path = torch.optim.SGD([p], lr, momentum=momentum, nesterov=nesterov), []
    for _ in range(steps):
        p.grad = stretch * p.detach()
        rule.step()
        path.append(p.detach().clone())
    return path


def checks(nesterov):
    cases = ([1.0, 25.0], 0.03, 0.9), ([1.0, 4.0, 9.0], 0.1, 0.5), ([2.0, 3.0], 0.2, 0.1)
    for numbers, lr, momentum in cases:
        stretch, start = torch.tensor(numbers).double(), torch.linspace(-4, 2, len(numbers)).double()
        where = f"for slopes {numbers}, lr={lr}, momentum={momentum}"
        got = nesterov(lambda p, stretch=stretch: stretch * p, start.clone(), lr, momentum, 6)
        expect(
            isinstance(got, list) and len(got) == 6, f"{where} expected a list of 6 places, one after each step"
        )
        expect(
            all(getattr(p, "shape", None) == start.shape for p in got), f"{where} each place has the shape of p"
        )
        expect(
            all(getattr(p, "dtype", None) == start.dtype for p in got),
            f"{where} each place is a tensor of {start.dtype}, as p is",
        )
        got, right = torch.stack(got), torch.stack(torchs(stretch, start, lr, momentum, 6))
        plain = torch.stack(torchs(stretch, start, lr, momentum, 6, False))
        if torch.allclose(got[0], start - lr * stretch * start):
            if torch.allclose(got, plain):
                mistake(f"{where} this is ordinary momentum; the step is g + μ·v with the new v")
            mistake(f"{where} the first step is lr·g; with the new velocity v = g it is lr·(1 + μ)·g")
        if torch.allclose(got[0], got[-1]):
            mistake(f"{where} all places are equal: one tensor is in your list several times")
        expect(
            torch.allclose(got, right),
            f"{where} the second place is {got[1].tolist()}; right is {right[1].tolist()}",
        )


def walk(slope, p, lr, momentum, steps, ahead):
    v, path = torch.zeros_like(p), []
    for _ in range(steps):
        g, old = slope(p), v
        v = momentum * v + g
        p = p - lr * ahead(g, v, old, momentum)
        path.append(p)
    return path


def wrong_ordinary(slope, p, lr, momentum, steps):
    return walk(slope, p, lr, momentum, steps, lambda g, v, old, mu: v)


def wrong_old_velocity(slope, p, lr, momentum, steps):
    return walk(slope, p, lr, momentum, steps, lambda g, v, old, mu: g + mu * (mu * old))


def wrong_twice(slope, p, lr, momentum, steps):
    return walk(slope, p, lr, momentum, steps, lambda g, v, old, mu: v + mu * v)


def wrong_same_tensor(slope, p, lr, momentum, steps):
    p, v, path = p.clone(), torch.zeros_like(p), []
    for _ in range(steps):
        g = slope(p)
        v = momentum * v + g
        p -= lr * (g + momentum * v)
        path.append(p)
    return path


planted = {
    wrong_ordinary: "ordinary momentum",
    wrong_old_velocity: "the first step is lr·g",
    wrong_twice: "right is",
    wrong_same_tensor: "several times",
}

# %% exercise 33-b {"title": "Where it explodes", "answer": "def largest_rate(steepnesses: list[float], momentum: float) -> float: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Put v away: p[t+1] = p[t] − lr·s·p[t] + μ·(p[t] − p[t−1]). At the border it jumps across and back.",
    "At the border p[t+1] = −p[t] and p[t−1] = −p[t]. Put that in and solve for lr.",
    "The steepest direction goes first.",
]


def grows(steepness, rate, momentum):
    p, v = 1.0, 0.0
    far = []
    for _ in range(4000):
        v = momentum * v + steepness * p
        p -= rate * v
        far.append(abs(p))
        if far[-1] > 1e6:
            return True
    return max(far[-20:]) > 1.0


def checks(largest_rate):
    for steepnesses, momentum in (([1.0, 25.0], 0.0), ([25.0, 1.0], 0.9), ([3.0], 0.5), ([0.2, 0.1, 4.0], 0.99)):
        got, top = largest_rate(list(steepnesses), momentum), max(steepnesses)
        where = f"for steepnesses {steepnesses} and momentum {momentum}"
        expect(isinstance(got, float | int) and got > 0, f"{where} expected a rate above 0, got {got!r}")
        close = lambda x, got=got: abs(got - x) < 1e-9 * x
        if momentum and close(2 / top):
            mistake(f"{where} you gave the limit without momentum, {2 / top:g}; momentum moves it")
        if momentum and (close(2 * (1 - momentum) / top) or close(2 / top / (1 - momentum))):
            mistake(f"{where} 1 − μ is how far velocity grows if gradients agree; at the border they alternate")
        if len(steepnesses) > 1 and close(2 * (1 + momentum) / min(steepnesses)):
            mistake(f"{where} the flattest direction allows this, the steepest does not")
        expect(
            not grows(top, 0.99 * got, momentum), f"{where} at 0.99 times your rate {got:g} the ball still leaves"
        )
        expect(
            grows(top, 1.01 * got, momentum), f"{where} at 1.01 times your rate {got:g} the ball still comes down"
        )
        expect(close(2 * (1 + momentum) / top), f"{where} {got:g} is near, but not where the ball begins to climb")


def wrong_without_momentum(steepnesses, momentum):
    return 2 / max(steepnesses)


def wrong_less(steepnesses, momentum):
    return 2 * (1 - momentum) / max(steepnesses)


def wrong_flattest(steepnesses, momentum):
    return 2 * (1 + momentum) / min(steepnesses)


def wrong_factor(steepnesses, momentum):
    return 4 * (1 + momentum) / max(steepnesses)


def wrong_too_careful(steepnesses, momentum):
    return (1 + momentum) / max(steepnesses)


def wrong_nearly(steepnesses, momentum):
    return 1.995 * (1 + momentum) / max(steepnesses)


planted = {
    wrong_without_momentum: "limit without momentum",
    wrong_less: "they alternate",
    wrong_flattest: "the steepest does not",
    wrong_factor: "still leaves",
    wrong_too_careful: "still comes down",
    wrong_nearly: "is near",
}

# %% exercise 33-c {"title": "Another way down", "answer": "def sqrt_schedule(steps: int, warmup: int, fall: int) -> Callable[[int], float]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Three cases: step < warmup, step < steps − fall, and the rest.",
    "The fall begins at step steps − fall with x = 0, and would end at step `steps` with x = 1.",
]


def checks(sqrt_schedule):
    for steps, warmup, fall in ((20, 4, 5), (10, 0, 10), (12, 3, 1), (100, 10, 25)):
        schedule = sqrt_schedule(steps, warmup, fall)
        where = f"for {steps} steps, {warmup} of warm-up and a fall of {fall}"
        expect(callable(schedule), f"{where} expected a function of the step, got {schedule!r}")
        got = [schedule(step) for step in range(steps + 1)]
        if got[0] == 0:
            mistake(f"{where} the first step has factor 0 and is wasted; it is step + 1 over warmup + 1")
        if got[steps - 1] == 0:
            mistake(f"{where} the last step has factor 0: the fall is to end one step after it")
        start = steps - fall
        if start > warmup and got[start] < 1:
            mistake(f"{where} step {start} has {got[start]:.3f}: the fall begins there, so x is still 0")
        middle = start + fall // 2
        x = (middle - start) / fall
        if 0 < x and abs(got[middle] - (1 - x)) < 1e-9:
            mistake(f"{where} at step {middle} this is a straight line; it should be 1 − √x")
        if 0 < x and abs(got[middle] - (1 - x) ** 0.5) < 1e-9:
            mistake(f"{where} at step {middle} this is √(1 − x); it should be 1 − √x, fast at first")
        for step in range(steps + 1):
            up, x = (step + 1) / (warmup + 1), max(step - start, 0) / fall
            right = up if step < warmup else 1 - x**0.5
            expect(abs(got[step] - right) < 1e-9, f"{where} step {step} is {right:.4f}; yours {got[step]:.4f}")
        if abs(schedule(steps + 3)) > 1e-9:
            mistake(f"{where} three steps after the end it is {schedule(steps + 3):.4f}; it stays at 0")
        if abs(schedule(steps - 1) - got[steps - 1]) > 1e-9:
            mistake(f"{where} step {steps - 1}, asked for again, gives another factor: it should remember nothing")


def build(steps, warmup, fall, up=lambda s, w: (s + 1) / (w + 1), down=lambda x: 1 - x**0.5, shift=0, last=0):
    def schedule(step):
        if step < warmup:
            return up(step, warmup)
        return down(min(max(step + shift - (steps - fall), 0) / max(fall - last, 1), 1.0))

    return schedule


def wrong_from_zero(steps, warmup, fall):
    return build(steps, warmup, fall, up=lambda s, w: s / w)


def wrong_full_twice(steps, warmup, fall):
    return build(steps, warmup, fall, up=lambda s, w: (s + 1) / w)


def wrong_straight(steps, warmup, fall):
    return build(steps, warmup, fall, down=lambda x: 1 - x)


def wrong_root(steps, warmup, fall):
    return build(steps, warmup, fall, down=lambda x: (1 - x) ** 0.5)


def wrong_early(steps, warmup, fall):
    return build(steps, warmup, fall, shift=1)


def wrong_below_zero(steps, warmup, fall):
    right = build(steps, warmup, fall)
    return lambda step: right(step) if step < steps else 1 - ((step - steps + fall) / fall) ** 0.5


def wrong_counts(steps, warmup, fall):
    right, calls = build(steps, warmup, fall), []
    return lambda step: right(len(calls.append(step) or calls) - 1)


def wrong_end(steps, warmup, fall):
    return build(steps, warmup, fall, last=1)


planted = {
    wrong_from_zero: "first step has factor 0",
    wrong_full_twice: "step 0 is 0.2000",
    wrong_straight: "straight line",
    wrong_root: "√(1 − x)",
    wrong_early: "last step has factor 0",
    wrong_end: "last step has factor 0",
    wrong_below_zero: "stays at 0",
    wrong_counts: "remember nothing",
}

# %% exercise 33-d {"title": "Three bugs", "answer": "def train_number(p: float, gradients: list[float], lr: float, schedule: Callable[[int], float], betas: tuple[float, float]=..., eps: float=1e-08, weight_decay: float=0.1) -> float: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake
from minillm.optim import constant_schedule, cosine_schedule, wsd_schedule

hints = [
    "Which of the lines would be the same if p were in another unit? The decay belongs to p, not to g.",
    "After one step m is a tenth of g. What is missing between m and the division?",
    "Schedules count from 0. The exponents of the correction count from 1.",
]


def torchs(p, gradients, lr, schedule, betas, eps, weight_decay):
    p = torch.nn.Parameter(torch.tensor(p, dtype=torch.float64))
    rule = torch.optim.AdamW([p], lr, betas=betas, eps=eps, weight_decay=weight_decay)
    for step, g in enumerate(gradients):
        rule.param_groups[0]["lr"] = lr * schedule(step)
        p.grad = torch.tensor(g, dtype=torch.float64)
        rule.step()
    return p.item()


def variant(bugs, p, gradients, lr, schedule, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1):
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        rate = lr * schedule(t if "late" in bugs else t - 1)
        if "inside" in bugs:
            g = g + weight_decay * p
        elif "unscheduled" in bugs:
            p = p * (1 - lr * weight_decay)
        elif "rateless" in bugs:
            p = p * (1 - weight_decay)
        else:
            p = p * (1 - rate * weight_decay)
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        k = t - 1 + (t == 1) if "early" in bugs else t
        fix = (1, 1) if "bare" in bugs else (1 - betas[0] ** k, 1 - betas[1] ** k)
        p = p - rate * (m / fix[0]) / ((v / fix[1]) ** 0.5 + eps)
    return p


SAYS = {
    "inside": "the decay is still added to the gradient, and gets divided with it",
    "bare": "bias correction is missing: m and v begin at 0",
    "late": "the schedule is asked for step 1 first; its steps count from 0",
    "unscheduled": "the decay ignores the schedule: it is the rate of this step times weight_decay",
    "rateless": "the decay is weight_decay alone; torch's is the rate of this step times weight_decay",
    "early": "the exponents of the correction are one too small: after the first gradient they are 1",
}
SUSPECTS = [
    {a, b, c} - {""}
    for a in ("", "inside", "unscheduled", "rateless")
    for b in ("", "bare", "early")
    for c in ("", "late")
]


def checks(train_number):
    settings = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
    cases = (
        (2.0, [0.3, -1.0, 0.5, 0.2, 4.0, 0.1], 0.1, cosine_schedule(6, warmup=2), settings),
        (-1.0, [5.0, 4.0, -3.0, 0.0], 0.05, wsd_schedule(8, decay=0.5), settings | {"betas": (0.8, 0.9)}),
        (1.5, [0.1] * 5, 0.2, constant_schedule(warmup=3), settings | {"weight_decay": 0.5, "eps": 0.1}),
    )
    for p, gradients, lr, schedule, options in cases:
        got = train_number(p, list(gradients), lr, schedule, **options)
        right = torchs(p, gradients, lr, schedule, **options)
        where = f"for p={p}, gradients {gradients}, {schedule.shape}"
        expect(isinstance(got, float), f"{where} expected a number, got {type(got).__name__}")
        if abs(got - right) < 1e-9:
            continue
        for bugs in sorted(SUSPECTS, key=len):
            if bugs and abs(got - variant(bugs, p, gradients, lr, schedule, **options)) < 1e-9:
                mistake(f"{where}: " + "; ".join(SAYS[bug] for bug in sorted(bugs)))
        expect(False, f"{where} torch's AdamW ends at {right:.6f}, yours at {got:.6f}")


def wrong_as_found(p, gradients, lr, schedule, **options):
    return variant({"inside", "bare", "late"}, p, gradients, lr, schedule, **options)


def wrong_decay(p, gradients, lr, schedule, **options):
    return variant({"inside"}, p, gradients, lr, schedule, **options)


def wrong_correction(p, gradients, lr, schedule, **options):
    return variant({"bare"}, p, gradients, lr, schedule, **options)


def wrong_step(p, gradients, lr, schedule, **options):
    return variant({"late"}, p, gradients, lr, schedule, **options)


def wrong_decay_without_schedule(p, gradients, lr, schedule, **options):
    return variant({"unscheduled"}, p, gradients, lr, schedule, **options)


def wrong_decay_without_rate(p, gradients, lr, schedule, **options):
    return variant({"rateless"}, p, gradients, lr, schedule, **options)


def wrong_exponent(p, gradients, lr, schedule, **options):
    return variant({"early"}, p, gradients, lr, schedule, **options)


planted = {
    wrong_as_found: "bias correction is missing",
    wrong_decay: "still added to the gradient",
    wrong_correction: "bias correction is missing",
    wrong_step: "count from 0",
    wrong_decay_without_schedule: "ignores the schedule",
    wrong_decay_without_rate: "weight_decay alone",
    wrong_exponent: "one too small",
}
