# Generated from nbs/35_train.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import contextlib
import difflib
import json
import math
import signal
import statistics
import sys
import threading
import time
import torch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, is_dataclass
from itertools import islice
from pathlib import Path
from torch import Tensor, nn
from typing import Any, TypeAlias
from minillm.checkpoint import CheckpointManager, _damage, gather_state, load_checkpoint, restore_state
from minillm.loss import _evaluating, evaluate_loss
from minillm.optim import clip_grad_norm, cosine_schedule, make_optimizer
from minillm.precision import MasterWeights, Precision, choose_device, choose_precision
from minillm.tokenizer import write_whole
from minillm.train import Callback, Feed, History, JsonLog, LiveCurve, LossFunction, Progress, RunControl, ScalarLog, StepRecord, Stepper, Trainer, TrainerSession, TrainerSettings, TrainerState, ValidationRecord, Validator, Watch, accumulate_gradients, catch_signals, curve_svg, read_log, tensorboard_log, wandb_log

# %% exercise 35-a {"title": "When to stop", "answer": "def stops_at(losses: list[float], patience: int) -> tuple[int | None, int]: ...", "returns": false}
from minillm.exercises import expect, mistake

hints = [
    "Keep the place of the best loss so far. How far is the present validation from it?",
    "The run ends at the first k with k − best ≥ patience. A new best needs `<`, not `<=`.",
]


def right_answer(losses, patience):
    best = 0
    for k in range(len(losses)):
        best = min(range(k + 1), key=lambda j: losses[j])
        if k - best == patience:
            return k + 1, best + 1
    return None, best + 1


def rises_in_a_row(losses, patience):
    rises, best = 0, 0
    for k in range(len(losses)):
        best = k if losses[k] < losses[best] else best
        rises = rises + 1 if k and losses[k] >= losses[k - 1] else 0
        if rises >= patience:
            return k + 1, best + 1
    return None, best + 1


def checks(stops_at):
    lists = [[3, 2, 1], [3, 2, 2.5, 2.2, 2.1, 1.5], [3, 2, 2, 2, 2, 1], [1, 2, 3, 4]]
    lists.append([3, 1, 2, 1.5, 0.5, 0.6, 0.7, 0.8])
    for losses in lists:
        for patience in (1, 2, 3):
            got, right = stops_at(list(losses), patience), right_answer(losses, patience)
            where = f"for losses {losses} and patience={patience}"
            expect(isinstance(got, tuple) and len(got) == 2, f"{where} give two numbers, yours is {got!r}")
            if got == rises_in_a_row(losses, patience) != right:
                mistake(f"{where} you compare with the validation just before; compare with the best so far")
            if got == ((right[0] or 0) - 1 if right[0] else None, right[1] - 1):
                mistake(f"{where} you count from 0; the first validation is number 1")
            if got[0] and right[0] and got[0] == right[0] + 1:
                mistake(f"{where} you stop one validation late: {patience} without a better one are enough")
            if losses[1] == losses[2] and got != right:
                mistake(f"{where} there is a tie: equal is not better")
            expect(tuple(got) == right, f"{where} it is {right}; yours {got}")


def wrong_just_before(losses, patience):
    return rises_in_a_row(losses, patience)


def wrong_tie(losses, patience):
    best = 0
    for k, loss in enumerate(losses):
        best = k if loss <= losses[best] else best
        if k - best >= patience:
            return k + 1, best + 1
    return None, best + 1


def wrong_late(losses, patience):
    best = 0
    for k, loss in enumerate(losses):
        best = k if loss < losses[best] else best
        if k - best > patience:
            return k + 1, best + 1
    return None, best + 1


def wrong_from_zero(losses, patience):
    stop, best = right_answer(losses, patience)
    return (None if stop is None else stop - 1), best - 1


planted = {
    wrong_just_before: "compare with the best so far",
    wrong_tie: "equal is not better",
    wrong_late: "one validation late",
    wrong_from_zero: "count from 0",
}

# %% exercise 35-b {"title": "Divide first", "answer": "def accumulate(model: nn.Module, parts: list) -> float: ...", "returns": true}
import torch

from minillm.batches import Batch
from minillm.bigram import Bigram
from minillm.exercises import expect, mistake
from minillm.loss import next_token_loss

hints = [
    'loss times metrics["weight"] is the sum over a part; divide it by the total of all parts.',
    "The total is known before any forward pass: it is in the batches.",
    "Gradients add up: forget those from before with model.zero_grad(), once.",
]


def case(kind):
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.randint(0, 7, (6, 5), generator=generator) for _ in range(2))
    y[0, 1:], y[3, 2:] = -100, -100
    weight = torch.rand(6, 5, generator=generator) * (y != -100) if kind == "weights" else None
    cut = lambda a, b: Batch(x[a:b], y[a:b], None if weight is None else weight[a:b])
    model = Bigram(7)
    model.weight.data.normal_(generator=generator)
    return model, [cut(0, 1), cut(1, 4), cut(4, 6)], cut(0, 6)


def checks(accumulate):
    for kind in ("padding", "weights"):
        model, parts, whole = case(kind)
        loss, _ = next_token_loss(model, whole)
        loss.backward()
        right = model.weight.grad.clone()
        means, weights = [], []
        for part in parts:
            model.zero_grad()
            mean, metrics = next_token_loss(model, part)
            mean.backward()
            means.append(model.weight.grad.clone())
            weights.append(metrics["weight"].item())
        counts = [(part.y != -100).sum().item() for part in parts]
        model.weight.grad = torch.ones(7, 7)  # left over from before
        added = []
        hook = model.weight.register_post_accumulate_grad_hook(lambda p, added=added: added.append(p.grad.clone()))
        got = accumulate(model, parts)
        hook.remove()
        expect(model.weight.grad is not None, "there is no gradient afterwards; call backward for each part")
        found, where = model.weight.grad, f"with {kind}"
        same = lambda y, found=found: torch.allclose(found, y, atol=1e-6)
        if same(right + 1):
            mistake(f"{where} the gradient from before is still in it; forget it first, once")
        if same(sum(means) / 3):
            mistake(f"{where} this is the mean of the parts' means; a part with few targets counts too much")
        if same(sum(means)):
            mistake(f"{where} this is the sum of the parts' means, nothing is divided")
        if same(means[-1]) or same(means[-1] * weights[-1] / sum(weights)):
            mistake(f"{where} only the last part is left; forget gradients once, not before each part")
        if kind == "weights" and same(right * sum(weights) / sum(counts)):
            mistake("you divide by the number of targets; where they have weights, divide by the sum of these")
        expect(same(right), f"{where} the gradient is not that of the large batch")
        times = f"backward reached the weights {len(added)} times for {len(parts)} parts"
        if len(added) < len(parts):
            mistake(f"{times}: what all parts need lies in memory at once, and that was to be avoided")
        if not torch.equal(added[-1], found):
            mistake("you changed the gradient after the last backward; divide the loss before it")
        expect(len(added) == len(parts), f"{times}; once for each is enough")
        mean = loss.item()
        expect(abs(float(got) - mean) < 1e-5, f"{where} the mean is {mean:.4f}; yours {float(got):.4f}")


def weighed(model, parts, divided_by):
    "Right but for what it divides by."
    model.zero_grad()
    mean = 0.0
    for part in parts:
        loss, metrics = next_token_loss(model, part)
        share = loss * metrics["weight"] / divided_by
        share.backward()
        mean += share.item()
    return mean


def total_weight(model, parts):
    return sum(next_token_loss(model, part)[1]["weight"] for part in parts)


def wrong_mean_of_means(model, parts):
    model.zero_grad()
    for part in parts:
        (next_token_loss(model, part)[0] / len(parts)).backward()
    return 0.0


def wrong_sum(model, parts):
    model.zero_grad()
    return sum([next_token_loss(model, part)[0].backward() or 0.0 for part in parts])


def wrong_left_over(model, parts):
    total = total_weight(model, parts)
    for part in parts:
        loss, metrics = next_token_loss(model, part)
        (loss * metrics["weight"] / total).backward()
    return 0.0


def wrong_last_alone(model, parts):
    total = total_weight(model, parts)
    for part in parts:
        model.zero_grad()
        loss, metrics = next_token_loss(model, part)
        (loss * metrics["weight"] / total).backward()
    return 0.0


def wrong_ignores_weights(model, parts):
    return weighed(model, parts, sum((part.y != -100).sum() for part in parts))


def wrong_divides_after(model, parts):
    total, mean = total_weight(model, parts), weighed(model, parts, 1.0)
    model.weight.grad /= total
    return mean / total.item()


def wrong_all_at_once(model, parts):
    model.zero_grad()
    answers = [next_token_loss(model, part) for part in parts]
    mean = sum(loss * m["weight"] for loss, m in answers) / sum(m["weight"] for _, m in answers)
    mean.backward()
    return mean.item()


def wrong_mean(model, parts):
    return weighed(model, parts, total_weight(model, parts)) / len(parts)


planted = {
    wrong_mean_of_means: "mean of the parts' means",
    wrong_sum: "nothing is divided",
    wrong_left_over: "still in it",
    wrong_last_alone: "only the last part is left",
    wrong_ignores_weights: "divide by the sum of these",
    wrong_divides_after: "after the last backward",
    wrong_all_at_once: "in memory at once",
    wrong_mean: "the mean is",
}

# %% exercise 35-c {"title": "An average of the weights", "answer": "def weight_average(decay: float) -> Callback: ...", "returns": true}
import copy
from types import SimpleNamespace

import torch
from torch import nn

from minillm.exercises import expect, mistake

hints = [
    "on_step(self, trainer, record) is called after each step; trainer.model.named_parameters() has the weights.",
    "A weight changes in place: keep p.detach().clone(), or the average is the weight itself.",
    "state_dict returns a dictionary of tensors, load_state_dict puts it back.",
]


def checks(weight_average):
    model = nn.Linear(2, 1)
    run, callback = SimpleNamespace(model=model), weight_average(0.75)
    for value in (1.0, 2.0, 4.0):
        model.weight.data.fill_(value)
        model.bias.data.fill_(-value)
        callback.on_step(run, None)
        if value == 1.0:
            names = sorted(callback.average)
            expect(names == ["bias", "weight"], f"after a step average has {names}, not 'bias' and 'weight'")
            tracked = callback.average["weight"].requires_grad
            expect(not tracked, "the average keeps a graph of operations; take p.detach()")
            first = callback.average["weight"].mean().item()
            if first == 0.25:
                mistake("at the first step the average is the weight itself; yours began at 0")
            kept = copy.deepcopy(callback.state_dict()) if hasattr(callback, "state_dict") else None
    found = callback.average["weight"]
    got = found.mean().item()
    if got == 4.0:
        mistake("your average is the weight itself, which changes in place; keep a copy")
    if abs(got - (0.25 * (0.25 * 1 + 0.75 * 2) + 0.75 * 4)) < 1e-6:
        mistake("decay belongs to what it was, 1 − decay to the weight now; yours is the other way round")
    expect(abs(got - 1.9375) < 1e-6, f"for weights 1, 2, 4 and decay 0.75 it is 1.9375; yours {got}")
    second = callback.average["bias"].mean().item()
    expect(abs(second + 1.9375) < 1e-6, f"for biases −1, −2, −4 it is −1.9375; yours {second}")
    if kept is None or not hasattr(callback, "load_state_dict"):
        mistake("there is no state_dict and load_state_dict: a resumed run would begin a new average")
    fresh = weight_average(0.75)
    fresh.load_state_dict(kept)
    for value in (2.0, 4.0):
        model.weight.data.fill_(value)
        fresh.on_step(run, None)
    same = torch.equal(fresh.average["weight"], found)
    expect(same, "after load_state_dict and the same steps the average is another")
    expect(kept["weight"].mean().item() == 1.0, "load_state_dict gave away what it was given: keep a copy")


def make(first, rule, states=True):
    class Average:
        def __init__(self):
            self.average = {}

        def on_step(self, trainer, record):
            for name, p in trainer.model.named_parameters():
                old = self.average.get(name)
                self.average[name] = first(p) if old is None else rule(old, p)

    if states:
        Average.state_dict = lambda self: dict(self.average)
        Average.load_state_dict = lambda self, state: setattr(self, "average", dict(state))
    return Average()


def wrong_no_copy(decay):
    return make(lambda p: p.detach(), lambda old, p: p.detach())


def wrong_other_way(decay):
    return make(lambda p: p.detach().clone(), lambda old, p: (1 - decay) * old + decay * p.detach())


def wrong_from_zero(decay):
    return make(lambda p: (1 - decay) * p.detach(), lambda old, p: decay * old + (1 - decay) * p.detach())


def wrong_graph(decay):
    return make(lambda p: p * 1, lambda old, p: decay * old + (1 - decay) * p)


def wrong_no_state(decay):
    return make(lambda p: p.detach().clone(), lambda old, p: decay * old + (1 - decay) * p.detach(), states=False)


planted = {
    wrong_no_copy: "keep a copy",
    wrong_other_way: "other way round",
    wrong_from_zero: "began at 0",
    wrong_graph: "graph of operations",
    wrong_no_state: "no state_dict",
}

# %% exercise 35-d {"title": "Two bugs", "answer": "def train(model: nn.Module, batches: Iterable, optimizer: Any, validation: list, every: int) -> Iterator[float]: ...", "returns": true}
import torch

from minillm.batches import Batch
from minillm.bigram import Bigram
from minillm.exercises import expect, mistake

hints = [
    "What does model.eval() change, and who changes it back?",
    "backward adds to the gradients. Who forgets those of the validation before the next step?",
    "torch.no_grad() for validation, model.train() after it.",
]


class Noting(Bigram):
    "A bigram that notes which text it was shown, and in which mode."

    def __init__(self):
        super().__init__(5)
        self.calls = []

    def forward(self, ids, **more):
        self.calls.append((int(ids[0, 0]), self.training, torch.is_grad_enabled()))
        return super().forward(ids, **more)


def batch(first):
    x = torch.tensor([[first, 1, 2]])
    return Batch(x, (x + 1) % 5)


def run_with(train, validation, every=2):
    model = Noting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = list(train(model, [batch(0)] * 6, optimizer, validation, every))
    return model, losses


def checks(train):
    with_it, losses = run_with(train, [batch(3), batch(4)])
    without, plain = run_with(train, [], every=100)
    expect(len(losses) == 6, f"there are 6 batches, you yield {len(losses)} losses")
    trained = [training for first, training, _ in with_it.calls if first == 0]
    looked = [training for first, training, _ in with_it.calls if first != 0]
    shown = f"yours was shown {len(trained)} times for 6 batches"
    expect(len(trained) == 6, f"each batch is learned from once; {shown}")
    expect(len(looked) == 6, f"validation looks at 2 batches 3 times; yours made {len(looked)} calls")
    if any(looked):
        mistake("validation runs in training mode: dropout makes its numbers worse than they are")
    if not all(trained):
        mistake("after the first validation the model learns in evaluation mode, without dropout")
    if not torch.equal(with_it.weight, without.weight):
        mistake("validation changes the weights: its gradients are still there at the next step")
    expect(losses == plain, "the training losses are others with validation than without")


def wrong_eval_stays(model, batches, optimizer, validation, every):
    from minillm.loss import next_token_loss

    for step, one in enumerate(batches, 1):
        loss, _ = next_token_loss(model, one)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % every == 0:
            model.eval()
            with torch.no_grad():
                for other in validation:
                    next_token_loss(model, other)
        yield loss.item()


def wrong_gradients_stay(model, batches, optimizer, validation, every):
    from minillm.loss import next_token_loss

    for step, one in enumerate(batches, 1):
        loss, _ = next_token_loss(model, one)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % every == 0:
            model.eval()
            for other in validation:
                next_token_loss(model, other)[0].backward()
            model.train()
        yield loss.item()


def wrong_never_eval(model, batches, optimizer, validation, every):
    from minillm.loss import next_token_loss

    for step, one in enumerate(batches, 1):
        loss, _ = next_token_loss(model, one)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % every == 0:
            with torch.no_grad():
                for other in validation:
                    next_token_loss(model, other)
        yield loss.item()


planted = {
    wrong_eval_stays: "learns in evaluation mode",
    wrong_gradients_stay: "validation changes the weights",
    wrong_never_eval: "in training mode",
}
