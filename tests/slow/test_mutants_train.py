"""Planted bugs in the trainer: each must fail tests/test_train.py, run on a copy of the library in which one line is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
    "a log twice": ("        kept = done if trainer.step else []", "        kept = _whole_lines(old)"),
    "NaN in the log": ("value if known(value) else None", "value"),
    "a pause is training": ("        self.started = time.perf_counter()\n", ""),
    "a pause holds a stop": ("while self.paused.is_set() and not trainer.reason:", "while self.paused.is_set():"),
    "spikes at every step": ("max(10 * spread, 0.1 * abs(usual))", "spread"),
    "no spike ever": ("max(10 * spread, 0.1 * abs(usual))", "math.inf"),
    "the data is over early": ("        if not parts:\n            self.stop", "        if len(parts) < self.accumulate:\n            parts = []\n            self.stop"),
}
LEFT_OUT = "not kills and not terminal and not memory and not mutants"  # slow, and others see what they see


def mutated(folder: Path, line: str, instead: str) -> Path:
    "A copy of the project, by links, in which one line of the trainer is another."
    source = (ROOT / "minillm" / "train.py").read_text(encoding="utf-8")
    assert line in source, f"the planted bug no longer fits: {line!r} is not in minillm/train.py"
    (folder / "minillm").mkdir()
    for path in (ROOT / "minillm").iterdir():
        if path.name not in ("train.py", "__pycache__"):
            (folder / "minillm" / path.name).symlink_to(path)
    (folder / "minillm" / "train.py").write_text(source.replace(line, instead), encoding="utf-8")
    (folder / "test_train.py").write_text((ROOT / "tests" / "test_train.py").read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_caught(name: str, tmp_path: Path) -> None:
    folder = mutated(tmp_path, *MUTANTS[name])
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    command += ["-k", LEFT_OUT, str(folder / "test_train.py")]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=400)
    except subprocess.TimeoutExpired:
        return  # a run that never ends is seen, too
    assert done.returncode == 1, f"nobody saw: {name}\n{done.stdout[-2000:]}"
