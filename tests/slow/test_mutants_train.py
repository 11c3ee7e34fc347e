"""Wrong versions of chapter 35, each of which tests/test_train.py must notice."""

from pathlib import Path

import pytest
from mutants import assert_caught, assert_passes

MODULE = "train"
MUTANTS = {  # name: (line, what stands there instead)
    "mean of means": ('(loss * (totals["weight"] / unit)).backward()', "(loss / len(parts)).backward()"),
    "gradients not divided": ("            p.grad /= whole / unit", "            pass"),
    "divided by the number of parts": ("            p.grad /= whole / unit", "            p.grad /= len(parts)"),
    "nothing counted is 0/0": ('torch.where(totals["weight"] > 0, totals["weight"], 1.0)', 'totals["weight"]'),
    "collected once": ("        collect()\n", ""),
    "gradients stay": ("        self.forget()\n        found", "        found"),
    "a bad step is done": ('if math.isfinite(numbers["loss"]) and math.isfinite(numbers["norm"])', "if True"),
    "only the loss is looked at": (' and math.isfinite(numbers["norm"])', ""),
    "not clipped": ("math.inf if self.max_norm is None else self.max_norm)", "math.inf)"),
    "schedule one late": ("rate * self.schedule(step)", "rate * self.schedule(max(step - 1, 0))"),
    "rates of the first group": ('group["lr"] = rate * ', 'group["lr"] = self.rates[0] * '),
    "masters not published": ("            self.masters.publish()", "            pass"),
    "the model is not saved": ('found = {"model": self.model, "optimizer"', 'found = {"optimizer"'),
    "the optimiser is not saved": (', "optimizer": self.optimizer}', "}"),
    "the place is not saved": ('"feed": self.feed, "watch"', '"watch"'),
    "chance is not saved": ("return {**own, **chance, **mine", "return {**own, **mine"),
    "a list begins anew": ('islice(self.iterator, state["taken"])', "islice(self.iterator, 0)"),
    "the step is not put back": ('self.step = self.saved = state["step"]', "self.step = 0"),
    "settings are not compared": ("            _compare_plans(", "            (lambda *_: None)("),
    "precision is measured anew": ('if self.precision == "auto" and state', "if False and state"),
    "validation draws": ("with _evaluating(model), torch.random.fork_rng(devices):", "with _evaluating(model):"),
    "validation leaves its mode": ("with _evaluating(model), ", "with torch.no_grad(), "),
    "a tie is better": ("loss < self.best", "loss <= self.best"),
    "training since ever": ("        self.nats = self.weight = 0.0\n        return", "        return"),
    "the mode stays": ("            self.model.eval()\n        self.history", "            pass\n        self.history"),
    "never in training mode": ("            self.model.train()\n", "            pass\n"),
    "no last save": ("        if self.checkpoints and self.saved != self.step:\n", "        if False:\n"),
    "the best is not saved": (" or self.better):", "):"),
    "an old run is overwritten": ("        _refuse_later(self.checkpoints, self.step)\n", ""),
    "SIGTERM goes on": ("            raise SystemExit(143)", "            pass"),
    "every signal only asks": ("        restore()\n        stop(", "        stop("),
    "signals stay caught": ("    finally:\n        restore()", "    finally:\n        pass"),
    "errors are not told": ('            self.reason = f"ended by', '            pass; f"ended by'),
    "the history grows": ("if len(self.steps) > self.limit:", "if False:"),
    "a log twice": ('0 < done >= values["step"]', "True"),
    "NaN in the log": ("value if known(value) else None", "value"),
    "a pause is training": ("        self.started = time.perf_counter()\n", ""),
    "a pause holds a stop": ("while self.paused.is_set() and not trainer.reason:", "while self.paused.is_set():"),
    "spikes at every step": ("max(10 * spread, 0.1 * abs(usual))", "spread"),
    "no spike ever": ("max(10 * spread, 0.1 * abs(usual))", "math.inf"),
    "the data is over early": ("        if not parts:\n            self.stop", "        if len(parts) < self.accumulate:\n            parts = []\n            self.stop"),
}
ONLY = "not kills and not terminal and not memory and not mutants"  # those are slow, and the others see what they see


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_caught(name: str, tmp_path: Path) -> None:
    assert_caught(MODULE, MUTANTS[name], tmp_path, ONLY, seconds=400)  # some never end


@pytest.mark.minutes(1)
def test_nothing_changed_passes(tmp_path: Path) -> None:
    assert_passes(MODULE, tmp_path, ONLY)
