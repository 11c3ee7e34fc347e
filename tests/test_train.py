"""Chapter 35, beyond what it shows: kills and resumes, accumulation under weights, signals, listeners, memory, output that is no terminal."""

import ast
import gc
import inspect
import itertools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minillm.batches import Batch, TokenStore, bucketed_batches, packed_batches, prefetch, random_batches
from minillm.bigram import Bigram
from minillm.checkpoint import CheckpointManager, load_checkpoint
from minillm.loss import evaluate_loss, next_token_loss
from minillm.model import LanguageModel, ModelConfig
from minillm.optim import AdamW, constant_schedule, cosine_schedule, make_optimizer, wsd_schedule
from minillm.precision import Precision
from minillm.tokenizer import END_OF_TEXT, Tokenizer
from minillm.train import (
    Callback,
    Feed,
    History,
    JsonLog,
    LiveCurve,
    Progress,
    Stepper,
    StepRecord,
    Trainer,
    Watch,
    accumulate_gradients,
    catch_signals,
    curve_svg,
    read_log,
    tensorboard_log,
    wandb_log,
)

V = 260
LETTERS = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], [END_OF_TEXT])
HERE = Path(__file__).resolve().parent
QUIET: dict[str, Any] = {"progress": False, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    found = TokenStore.create(tmp_path_factory.mktemp("store") / "s", LETTERS)
    chance = random.Random(0)
    found.append([[chance.randrange(97, 110) for _ in range(chance.randrange(5, 60))] for _ in range(200)])
    return found


def small(seed: int = 0, dropout: float = 0.0) -> LanguageModel:
    config = ModelConfig(vocab_size=V, width=16, n_layers=1, n_heads=2, context=32, dropout=dropout)
    return LanguageModel(config, generator=torch.Generator().manual_seed(seed))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().float() for p in model.parameters()])


def trainer_of(model: nn.Module, batches: Any, **more: Any) -> Trainer:
    return Trainer(model, next_token_loss, batches, **{"steps": 6, "lr": 0.01} | QUIET | more)


# ---- accumulation


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3}])
def test_accumulation_is_the_large_batch(store: TokenStore, seed: int, options: dict) -> None:
    "Over whole training runs: random cuts of padded and weighted batches, clipped, against one batch a step."
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    large, cut = [], []
    full = (batch for batch in bucketed_batches(store, 8, context=32, seed=seed) if len(batch.x) == 8)
    for batch in itertools.islice(full, 4):
        weight = torch.rand(batch.x.shape, generator=generator) * (batch.y >= 0)
        batch = replace(batch, weight=weight if seed % 2 else batch.weight)
        borders = sorted({0, len(batch.x), *chance.sample(range(1, len(batch.x)), 3)})
        parts = {name: value for name, value in vars(batch).items() if value is not None}
        large.append(batch)
        cut.append([Batch(**{n: v[a:b] for n, v in parts.items()}) for a, b in itertools.pairwise(borders)])
    loss_fn = partial(next_token_loss, **options)
    one, many = (Trainer(small(seed), loss_fn, [], steps=4, lr=0.003, max_norm=0.5, **QUIET) for _ in range(2))
    for step, (batch, parts) in enumerate(zip(large, cut)):
        assert len(parts) == 4
        a, b = one.stepper.update([batch], step), many.stepper.update(parts, step)
        assert a == pytest.approx(b, rel=2e-4)
        first, second = ([p.grad for p in x.model.parameters()] for x in (one, many))
        torch.testing.assert_close(first, second, atol=2e-7, rtol=2e-3)


def test_parts_that_count_nothing_change_nothing(store: TokenStore) -> None:
    batch = next(packed_batches(store, 4, 16))
    nothing = replace(batch, weight=torch.zeros(batch.x.shape))
    for parts in ([nothing, batch], [batch, nothing], [nothing, batch, nothing]):
        alone, together = small(), small()
        found = accumulate_gradients(alone, next_token_loss, [batch])
        other = accumulate_gradients(together, next_token_loss, parts)
        assert found["loss"].item() == pytest.approx(other["loss"].item(), rel=1e-6)
        for p, q in zip(alone.parameters(), together.parameters()):
            torch.testing.assert_close(p.grad, q.grad, atol=1e-8, rtol=1e-5)
    trainer = trainer_of(model := small(), [nothing] * 3)
    before = weights(model)
    history = trainer.train()
    assert torch.equal(weights(model), before) and "no target counted" in history.steps[0].note


def test_metrics_are_means_over_all_parts() -> None:
    "What else a loss function reports is averaged by weight, as the loss is."

    def loss_fn(model: nn.Module, batch: tuple[float, float]) -> tuple[Tensor, dict[str, Tensor]]:
        value, weight = batch
        loss = model.weight.sum() * 0 + value
        return loss, {"weight": torch.tensor(weight), "twice": torch.tensor(2 * value)}

    trainer = Trainer(nn.Linear(2, 2), loss_fn, [(1.0, 3.0), (5.0, 1.0)], steps=1, accumulate=2, **QUIET)
    (record,) = trainer.train().steps
    assert (record.loss, record.nats, record.more, record.tokens) == (2.0, 2.0, {"twice": 4.0}, 4)


ONE = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "NoneType None"),
        (ONE, "Tensor tensor"),
        ((1.0, {"weight": ONE}), "a float as loss, which is no tensor"),
        ((ONE, {}), "no weight, only nothing"),
        ((ONE, {"accuracy": ONE}), "no weight, only accuracy"),
        ((ONE, {"weight": 3}), "a int as weight"),
        ((ONE, {"weight": ONE, "accuracy": 0.5}), "a float as accuracy"),
        ((torch.ones(2), {"weight": ONE}), "a tensor of shape (2,) as loss"),
        ((ONE, {"weight": torch.ones(2, 3)}), "a tensor of shape (2, 3) as weight"),
    ],
)
def test_a_wrong_loss_function_is_told(answer: Any, says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(says) + ".*expected \\(loss, metrics\\)"):
        Trainer(nn.Linear(1, 1), lambda model, batch: answer, [1], steps=1, **QUIET).train()


def test_one_bad_batch_ruins_nearly_all_of_a_transformer(store: TokenStore) -> None:
    "What the chapter says of the loop without a guard; and the trainer has one."
    batch = next(packed_batches(store, 2, 16))

    def infinite(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = next_token_loss(model, batch)
        return loss / 0, metrics

    unguarded, guarded = small(), small()
    optimizer = make_optimizer(unguarded, lr=0.01)
    infinite(unguarded, batch)[0].backward()
    optimizer.step()
    assert not weights(unguarded).isfinite().float().mean() > 0.02
    trainer = Trainer(guarded, infinite, [batch], steps=1, **QUIET)
    assert trainer.train().steps[0].note and torch.equal(weights(guarded), weights(small()))


def test_bf16_accumulates_in_float32(store: TokenStore) -> None:
    "Sixteen parts through bf16 weights: the masters get the float32 sum of the parts' gradients."
    parts = list(itertools.islice(packed_batches(store, 2, 16), 16))
    stepper = Stepper(small(), next_token_loss, lr=0.01, precision=Precision("bf16"), max_norm=None)
    reference = small().to(torch.bfloat16)
    total: list[Tensor] = [torch.zeros(p.shape) for p in reference.parameters()]
    count = 0.0
    for part in parts:
        reference.zero_grad()
        loss, metrics = next_token_loss(reference, part)
        loss.backward()
        total = [t + p.grad.float() * metrics["weight"] for t, p in zip(total, reference.parameters())]  # type: ignore[union-attr]
        count += metrics["weight"].item()
    stepper.update(parts, 0)
    for master, expected in zip(stepper.parameters, total):
        wanted = expected / count
        assert (master.grad - wanted).norm() < 0.01 * wanted.norm()  # a bf16 sum of 16 would be off by more
    for weight, master, before in zip(stepper.model.parameters(), stepper.parameters, small().parameters(), strict=True):
        assert torch.equal(weight, master.to(torch.bfloat16)) and not torch.equal(master, before)


# ---- resuming


def settings_of(store: TokenStore, folder: Path, kind: str, seed: int = 0, **more: Any) -> Trainer:
    torch.manual_seed(seed)
    make: dict[str, Callable[[], Any]] = {
        "packed": lambda: packed_batches(store, 3, 16),
        "random": lambda: random_batches(store, 3, 16, seed=4),
        "bucketed": lambda: bucketed_batches(store, 3, context=32),
        "prefetched": lambda: prefetch(packed_batches(store, 3, 16)),
        "list": lambda: list(itertools.islice(packed_batches(store, 3, 16), 40)),
    }
    shared = {"steps": 11, "validation": make["list"]()[:2], "validate_every": 3, "save_every": 4}
    shared |= {"log": folder / "log.jsonl", "checkpoints": CheckpointManager(folder)}
    return trainer_of(small(seed, dropout=0.3), make[kind](), **shared | more)


def the_same(a: Trainer, b: Trainer) -> None:
    "Weights, optimiser, place, generator and everything else that is saved: bit for bit."
    for one, other in zip(_leaves(a.state_dict()), _leaves(b.state_dict()), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for key in tree for leaf in [key, *_leaves(tree[key])]]
    return [leaf for item in tree for leaf in _leaves(item)] if isinstance(tree, list | tuple) else [tree]


@pytest.mark.parametrize("kind", ["packed", "random", "bucketed", "prefetched", "list"])
@pytest.mark.parametrize("cut", [1, 3, 8])
def test_a_resumed_run_is_the_uninterrupted_one(store: TokenStore, tmp_path: Path, kind: str, cut: int) -> None:
    whole = settings_of(store, tmp_path / "whole", kind)
    whole.train()
    settings_of(store, tmp_path / "parts", kind).train(cut)
    torch.manual_seed(12345)
    third = settings_of(store, tmp_path / "parts", kind, seed=7)
    assert third.resume() and third.step == cut
    third.train()
    the_same(whole, third)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts")]
    told = [[(s.step, s.loss, s.norm, s.lr, s.tokens) for s in log.steps] for log in logs]
    assert told[0] == told[1] and len(told[0]) == 11
    looks = [[(v.step, v.loss, v.train, v.best) for v in log.validations] for log in logs]
    assert looks[0] == looks[1] and [look[0] for look in looks[0]] == [3, 6, 9, 11]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bf16", {"precision": "bf16"}),
        ("autocast", {"precision": "autocast"}),
        ("lion", {"optimizer": partial(make_optimizer, name="lion")}),
        ("sgd", {"optimizer": partial(make_optimizer, name="sgd")}),
        ("ours", {"optimizer": lambda named, lr: AdamW([p for _, p in named], lr)}),
        ("accumulate", {"accumulate": 2, "schedule": wsd_schedule(11, warmup=2)}),
        ("generator", {"generators": {"mine": torch.Generator().manual_seed(5)}}),
    ],
)
def test_resuming_in_every_form(store: TokenStore, tmp_path: Path, name: str, change: dict) -> None:
    whole = settings_of(store, tmp_path / "whole", "packed", **change)
    whole.train()
    settings_of(store, tmp_path / "parts", "packed", **change).train(5)
    third = settings_of(store, tmp_path / "parts", "packed", seed=7, **change)
    assert third.resume()
    third.train()
    the_same(whole, third)


def test_each_part_of_the_state_matters(store: TokenStore, tmp_path: Path) -> None:
    "A resumed run that forgets one of them is another run: the test above would see it."
    whole = settings_of(store, tmp_path / "whole", "packed")
    whole.train()
    settings_of(store, tmp_path / "parts", "packed").train(5)
    for forgotten in ("model", "optimizer", "feed", "chance"):
        third = settings_of(store, tmp_path / "other", "packed", seed=7)
        fresh = third.state_dict()["parts"][forgotten]
        state = load_checkpoint(tmp_path / "parts" / "step-00000005")
        third.load_state_dict(state | {"parts": state["parts"] | {forgotten: fresh}})
        third.checkpoints = None
        third.train()
        assert not torch.equal(weights(third.model), weights(whole.model)), forgotten


def test_a_run_of_other_settings_is_refused(store: TokenStore, tmp_path: Path) -> None:
    settings_of(store, tmp_path, "packed").train(5)
    changes = {
        "schedule": constant_schedule(),
        "lr": 0.02,
        "max_norm": None,
        "precision": "autocast",
        "optimizer": partial(make_optimizer, name="sgd"),
    }
    for name, value in changes.items():
        other = settings_of(store, tmp_path, "packed", seed=3, **{name: value})
        before = weights(other.model)
        with pytest.raises(ValueError, match=f"saved with {name}="):
            other.resume()
        assert torch.equal(weights(other.model), before) and other.step == 0
    longer = settings_of(store, tmp_path, "packed", steps=20)
    with pytest.raises(ValueError, match="saved with schedule=.*steps=11"):
        longer.resume()
    assert longer.resume(strict=False) and longer.step == 5
    longer.train()
    assert longer.step == 20
    about = settings_of(store, tmp_path / "about", "packed", about={"tokenizer": "a"})
    about.train(4)
    with pytest.raises(ValueError, match="tokenizer='a'"):
        settings_of(store, tmp_path / "about", "packed", about={"tokenizer": "b"}).resume()


def test_automatic_precision_follows_the_checkpoint(store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "A measurement may turn out otherwise another day; the run goes on in the precision it was begun in."
    import minillm.train

    choose = minillm.train.choose_precision
    for saved, measured in (("bf16", "fp32"), ("fp32", "bf16"), ("autocast", "bf16")):
        folder = tmp_path / saved
        settings_of(store, folder / "whole", "packed", precision=saved).train(9)
        settings_of(store, folder / "parts", "packed", precision=saved).train(5)
        answer = Precision(measured, "measured")
        monkeypatch.setattr(
            minillm.train,
            "choose_precision",
            lambda model, device, name="auto", answer=answer: answer if name == "auto" else choose(model, device, name=name),
        )
        third = settings_of(store, folder / "parts", "packed", precision="auto", seed=7)
        assert third.stepper.precision.name == measured and third.resume()
        assert third.stepper.precision.name == saved
        third.train(4)
        monkeypatch.undo()
        dtype = torch.bfloat16 if saved == "bf16" else torch.float32
        assert {p.dtype for p in third.model.parameters()} == {dtype}
        reference = settings_of(store, folder / "whole", "packed", precision=saved)
        reference.resume()
        the_same(reference, third)


FORKS = """
import json, os, signal, sys, time, torch
from pathlib import Path
from test_train import fork_settings
torch.set_num_threads(1)
for line in sys.stdin:
    order = json.loads(line)
    hears, tells = os.pipe()
    child = os.fork()
    if child == 0:
        trainer = fork_settings(order["store"], order["folder"], order["steps"])
        trainer.resume()
        os.write(tells, b"ready")
        try:
            trainer.train()
            code = 0
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        os._exit(code)
    os.read(hears, 5)
    if order["signal"]:
        time.sleep(order["after"])
        os.kill(child, order["signal"])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(hears), os.close(tells)
    print(json.dumps({"code": code}), flush=True)
"""


def fork_settings(store: str, folder: str, steps: int, seed: int = 0) -> Trainer:
    "The run that is killed: dropout, a thread that makes batches ahead, accumulation, saves every 5 steps."
    more = {"steps": steps, "save_every": 5, "validate_every": 7, "accumulate": 2}
    return settings_of(TokenStore.open(store), Path(folder), "prefetched", seed, **more)


class Forks:
    "A process that has everything imported, and forks a run at each order: a run costs no import."

    def __init__(self, store: TokenStore) -> None:
        code = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{FORKS}"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process: Any = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)  # type: ignore[call-overload]
        self.store = str(store.path)

    def run(self, folder: Path, steps: int, number: int = 0, after: float = 0.0) -> tuple[int, str]:
        "Train in a process of its own, which gets a signal some seconds after it began; its exit status and output."
        order = {"store": self.store, "folder": str(folder), "steps": steps, "signal": int(number), "after": after}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        lines = list(itertools.takewhile(lambda line: line and not line.startswith('{"code"'), self.lines()))
        return self.code, "".join(lines)

    def lines(self) -> Any:
        "What comes, line by line, up to the answer."
        while line := self.process.stdout.readline():
            if line.startswith('{"code"'):
                self.code = json.loads(line)["code"]
            yield line

    def close(self) -> None:
        "End it."
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def forks(store: TokenStore) -> Any:
    found = Forks(store)
    yield found
    found.close()


def killed_again_and_again(forks: Forks, folder: Path, kills: int, steps: int, longest: float) -> None:
    "Kill a run without warning at random moments; in the end it is, bit for bit, one that never was."
    chance = random.Random(kills)
    reference = fork_settings(forks.store, str(folder / "whole"), steps)
    reference.train()
    for _ in range(kills):
        code, _ = forks.run(folder / "killed", steps, signal.SIGKILL, chance.random() * longest)
        assert code in (0, -signal.SIGKILL)
        newest = CheckpointManager(folder / "killed").latest()
        assert newest is None or load_checkpoint(newest)["step"] <= steps
    assert forks.run(folder / "killed", steps)[0] == 0
    last = fork_settings(forks.store, str(folder / "killed"), steps, seed=9)
    assert last.resume() and last.step == steps
    the_same(reference, last)
    told = [[(s.step, s.loss) for s in read_log(folder / name / "log.jsonl").steps] for name in ("whole", "killed")]
    assert told[0] == told[1]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_eight_kills(forks: Forks, tmp_path: Path) -> None:
    killed_again_and_again(forks, tmp_path, kills=8, steps=100, longest=0.5)


# ---- signals


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(forks: Forks, tmp_path: Path, number: signal.Signals) -> None:
    code, output = forks.run(tmp_path, 100_000, number, 0.3)
    assert code == (0 if number == signal.SIGINT else 143), output
    step = int(re.search(r"Interrupted after step (\d+)", output)[1])  # type: ignore[index]
    assert "trainer.resume()" in output and CheckpointManager(tmp_path).steps()[-1] == step
    log = read_log(tmp_path / "log.jsonl")
    assert log.reason == f"ended by {number.name}" and log.steps[-1].step == step


@pytest.mark.parametrize(("words", "said"), [(None, "trainer.resume()"), ("step {step} of 6; again", "\nstep 2 of 6; again\n"), ("", "")])
def test_what_is_said_after_an_interruption(store: TokenStore, tmp_path: Path, words: str | None, said: str, capsys: pytest.CaptureFixture) -> None:
    "By the trainer, in the words that it was given; nothing where nothing interrupted, or nothing was to be said."
    press = types.SimpleNamespace(on_step=lambda trainer, record: record.step == 2 and signal.raise_signal(signal.SIGINT))
    more = {"checkpoints": CheckpointManager(tmp_path), "how_to_resume": words}
    trainer = trainer_of(small(), packed_batches(store, 2, 16), callbacks=[press], **more)
    assert trainer.train().reason == "ended by SIGINT" and trainer.interrupted and trainer.step == 2
    out = capsys.readouterr().out
    assert said in out if words is None else out == said
    assert trainer.train().reason == "finished" and not trainer.interrupted and capsys.readouterr().out == ""


def test_a_second_signal_acts_as_usual() -> None:
    class Twice(Callback):
        def on_step(self, trainer: Any, record: StepRecord) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    heard: list[str] = []
    before, usual = signal.getsignal(signal.SIGINT), signal.default_int_handler
    signal.signal(signal.SIGINT, usual)  # a job in the background ignores it
    listener = types.SimpleNamespace(on_end=lambda trainer, reason: heard.append(reason))
    with pytest.raises(KeyboardInterrupt):
        trainer_of(Bigram(V), [Batch(torch.zeros(1, 2).long(), torch.ones(1, 2).long())], callbacks=[listener, Twice()]).train()
    assert heard == ["ended by KeyboardInterrupt"] and signal.getsignal(signal.SIGINT) is usual
    signal.signal(signal.SIGINT, before)


def test_training_in_a_thread_leaves_signals_alone(store: TokenStore) -> None:
    usual, seen = signal.getsignal(signal.SIGINT), []
    look = types.SimpleNamespace(on_step=lambda trainer, record: seen.append(signal.getsignal(signal.SIGINT)))
    trainer = trainer_of(small(), packed_batches(store, 2, 16), callbacks=[look])
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join(60)
    assert trainer.step == 6 and set(seen) == {usual}
    with catch_signals(seen.append):
        assert signal.getsignal(signal.SIGINT) is not usual
    assert signal.getsignal(signal.SIGINT) is usual


# ---- the run and its listeners


def test_bad_steps_change_nothing_and_end_a_lost_run(store: TokenStore) -> None:
    calls = itertools.count()

    def loss_fn(model: nn.Module, batch: Batch, bad: tuple[int, ...] = (2, 4)) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = next_token_loss(model, batch)
        return loss * (math.nan if next(calls) in bad else 1), metrics

    states: list[Tensor] = []
    look = types.SimpleNamespace(on_step=lambda trainer, record: states.append(weights(trainer.model)))
    history = Trainer(small(), loss_fn, packed_batches(store, 2, 16), steps=6, callbacks=[look], **QUIET).train()
    assert [bool(r.note) for r in history.steps] == [False, False, True, False, True, False]
    assert [torch.equal(a, b) for a, b in itertools.pairwise(states)] == [False, True, False, True, False]
    always = Trainer(small(), partial(loss_fn, bad=range(10**6)), packed_batches(store, 2, 16), steps=50, **QUIET)  # type: ignore[arg-type]
    before = weights(always.model)
    with pytest.raises(FloatingPointError, match="5 steps in a row.*never was a finite loss"):
        always.train()
    assert always.step == 5 and torch.equal(weights(always.model), before)
    assert always.history.reason == "ended by FloatingPointError"


def test_an_infinite_gradient_with_a_finite_loss_is_skipped(store: TokenStore) -> None:
    def loss_fn(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = next_token_loss(model, batch)
        return loss + (model.norm.weight - model.norm.weight.detach()).abs().sum().sqrt(), metrics  # √0: infinite slope

    model = small()
    before = weights(model)
    (record,) = Trainer(model, loss_fn, packed_batches(store, 2, 16), steps=1, **QUIET).train().steps
    assert math.isfinite(record.loss) and "the gradient is" in record.note and torch.equal(weights(model), before)


def test_validation_leaves_training_as_it_was(store: TokenStore) -> None:
    "With dropout, with a part that is frozen in evaluation mode, with an evaluation that draws random numbers."

    def noisy(model: nn.Module, batches: Any) -> dict[str, float]:
        torch.rand(7)
        model.train()
        return {"loss": evaluate_loss(model, batches).loss + torch.rand(()).item()}

    runs = []
    for validation in (None, list(itertools.islice(packed_batches(store, 2, 16), 3))):
        torch.manual_seed(1)
        model = small(dropout=0.4)
        model.norm.eval()
        more = {} if validation is None else {"validation": validation, "validate_every": 1, "evaluate": noisy}
        trainer = trainer_of(model, packed_batches(store, 2, 16), **more)
        trainer.train()
        assert model.training and not model.norm.training and model.dropout.training
        runs.append(weights(model))
    assert torch.equal(*runs)


def test_the_mode_of_the_model_is_kept(store: TokenStore) -> None:
    model, seen = small(dropout=0.4).eval(), []
    look = types.SimpleNamespace(on_step=lambda trainer, record: seen.append(model.training))
    trainer_of(model, packed_batches(store, 2, 16), callbacks=[look]).train()
    assert seen == [True] * 6 and not model.training and not model.dropout.training


def test_train_against_validation_is_of_the_same_steps(store: TokenStore) -> None:
    "Beside each validation stands the mean of the training steps since the one before; a tie is no improvement."
    losses = iter([2.0, 2.0, 1.5])
    more = {"validation": [0], "evaluate": lambda *_: {"loss": next(losses)}, "validate_every": 2}
    history = trainer_of(small(), packed_batches(store, 2, 16), **more).train()
    assert [(v.step, v.loss, v.best) for v in history.validations] == [(2, 2.0, True), (4, 2.0, False), (6, 1.5, True)]
    for v in history.validations:
        two = [s for s in history.steps if v.step - 2 < s.step <= v.step]
        expected = sum(s.nats * s.tokens for s in two) / sum(s.tokens for s in two)
        assert v.train == pytest.approx(expected, rel=1e-6)


def test_an_old_run_is_not_overwritten(store: TokenStore, tmp_path: Path) -> None:
    settings_of(store, tmp_path, "packed").train(8)
    held = CheckpointManager(tmp_path).steps()
    fresh = settings_of(store, tmp_path, "packed", seed=3)
    with pytest.raises(FileExistsError, match="holds step 8 and this trainer is at 0"):
        fresh.train()
    assert fresh.step == 0 and CheckpointManager(tmp_path).steps() == held
    assert len(read_log(tmp_path / "log.jsonl").steps) == 8


@pytest.mark.parametrize("all_of_them", [False, True])
def test_damaged_checkpoints_stop_nobody(store: TokenStore, tmp_path: Path, all_of_them: bool) -> None:
    "The run goes on from the newest whole one, or begins anew where there is none; the damaged ones go at the next save."
    whole = settings_of(store, tmp_path / "whole", "packed")
    whole.train()
    settings_of(store, tmp_path / "run", "packed").train(8)
    manager = CheckpointManager(tmp_path / "run")
    steps = manager.steps()
    assert steps[-1] == 8 and len(steps) >= 2
    for step in steps if all_of_them else steps[-1:]:
        file = next(manager.path(step).glob("tensors-*"))
        file.write_bytes(file.read_bytes()[:-1])
    third = settings_of(store, tmp_path / "run", "packed", seed=0 if all_of_them else 7)
    with pytest.warns(UserWarning, match="passed over"):
        assert third.resume() is not all_of_them
    assert third.step == (0 if all_of_them else steps[-2])
    third.train()
    the_same(whole, third)
    assert manager.latest() == manager.path(11)


def test_the_best_checkpoint_is_kept(store: TokenStore, tmp_path: Path) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.5, 2.6, 2.7])
    more = {"validation": [0], "evaluate": lambda *_: {"loss": next(losses)}, "validate_every": 1}
    manager = CheckpointManager(tmp_path, keep_last=1)
    trainer_of(small(), packed_batches(store, 2, 16), checkpoints=manager, save_every=2, **more).train()
    assert manager.steps() == [2, 6] and manager.best() == manager.path(2)


def test_data_that_ends(store: TokenStore) -> None:
    three = list(itertools.islice(packed_batches(store, 2, 16), 5))
    history = trainer_of(small(), three, accumulate=2, validation=three[:1], validate_every=100).train()
    assert history.reason == "the data ended" and [s.tokens for s in history.steps] == [
        sum(b.n_tokens for b in part) for part in (three[:2], three[2:4], three[4:])
    ]
    assert [v.step for v in history.validations] == [3]
    nothing = trainer_of(small(), []).train()
    assert nothing.reason == "the data ended" and not nothing.steps
    generator = (batch for batch in three)
    assert trainer_of(small(), generator, steps=3).train().reason == "finished"


def test_train_by_pieces_is_train(store: TokenStore) -> None:
    whole, pieces = (trainer_of(small(), packed_batches(store, 2, 16)) for _ in range(2))
    whole.train()
    assert pieces.train(2).reason == "as far as asked" and pieces.step == 2
    pieces.train(3)
    assert pieces.train().reason == "finished" and pieces.step == 6
    the_same(whole, pieces)
    assert [r.step for r in pieces.history.steps] == [1, 2, 3, 4, 5, 6]
    pieces.train()
    assert pieces.step == 6 and len(pieces.history.steps) == 6


def test_listeners_hear_everything_in_order(store: TokenStore, tmp_path: Path) -> None:
    heard: list[tuple[str, Any]] = []

    class All(Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_start(self, trainer: Any) -> None:
            heard.append((self.name, "start"))

        def on_step(self, trainer: Any, record: StepRecord) -> None:
            assert any(p.grad is not None for p in trainer.model.parameters())
            heard.append((self.name, record.step))

        def on_validation(self, trainer: Any, record: Any) -> None:
            heard.append((self.name, f"look {record.step}"))

        def on_save(self, trainer: Any, path: Path) -> None:
            assert path.is_dir()
            heard.append((self.name, f"save {trainer.step}"))

        def on_end(self, trainer: Any, reason: str) -> None:
            heard.append((self.name, reason))

    stop = types.SimpleNamespace(on_step=lambda trainer, record: record.step == 4 and trainer.stop("enough"))
    more = {"validation": list(itertools.islice(packed_batches(store, 2, 16), 1)), "validate_every": 2, "save_every": 3}
    places = {"checkpoints": CheckpointManager(tmp_path), "callbacks": [All("a"), stop, All("b")]}
    trainer_of(small(), packed_batches(store, 2, 16), **more, **places).train()
    events = ["start", 1, 2, "look 2", "save 2", 3, "save 3", 4, "look 4", "save 4", "enough"]
    assert heard == [(name, event) for event in events for name in "ab"]


def test_an_error_in_a_listener_ends_the_run_and_closes_the_log(store: TokenStore, tmp_path: Path) -> None:
    def fail(trainer: Any, record: StepRecord) -> None:
        if record.step == 3:
            raise RuntimeError("mine")

    path = tmp_path / "log.jsonl"
    with pytest.raises(RuntimeError, match="mine"):
        trainer_of(small(), packed_batches(store, 2, 16), callbacks=[types.SimpleNamespace(on_step=fail)], log=path).train()
    log = read_log(path)
    assert len(log.steps) == 3 and log.reason == "ended by RuntimeError"


def test_the_log_is_strict_json(store: TokenStore, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    bad = iter([1.0, math.inf, math.nan, 1.0])

    def loss_fn(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = next_token_loss(model, batch)
        return loss * next(bad), metrics | {"more": torch.tensor(math.nan)}

    Trainer(small(), loss_fn, packed_batches(store, 2, 16), steps=4, log=path, **QUIET).train()
    forbid = lambda word: pytest.fail(f"{word} is no JSON")
    lines = [json.loads(line, parse_constant=forbid) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["kind"] for line in lines] == ["start", "step", "step", "step", "step", "end"]
    assert lines[2]["loss"] is None and lines[2]["note"] and lines[0]["precision"] == "fp32" and lines[1]["more"] is None
    again = Trainer(small(), next_token_loss, packed_batches(store, 2, 16), steps=2, log=path, **QUIET)
    before = path.with_name("log.jsonl.before")
    assert not before.exists()  # nothing was done again
    again.train()  # another run under the same name: the old log is kept beside
    assert len(read_log(path).steps) == 2 and len(read_log(before).steps) == 4
    Trainer(small(), next_token_loss, packed_batches(store, 2, 16), steps=3, log=path, **QUIET).train()
    assert len(read_log(path).steps) == 3 and [r.step for r in read_log(before).steps] == [1, 2, 3, 4, 1, 2]


def test_training_by_pieces_keeps_its_log(store: TokenStore, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    trainer = trainer_of(small(), packed_batches(store, 2, 16), log=path)
    trainer.train(2)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"kind": "step", "step": 3, "lo')  # a kill
    trainer.train()
    assert [r.step for r in read_log(path).steps] == [1, 2, 3, 4, 5, 6]
    assert not path.with_name("log.jsonl.before").exists()


@pytest.mark.parametrize("content", [b"my diary\n", b"[1, 2]\n", b'{"a": 3}\n', b'{"kind": "step", "step": "x"}\n', b"\xff\xfe\n", b"\n"])
def test_a_file_that_is_no_log_is_left_alone(store: TokenStore, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="notes.txt, line 1 is no line of a log.*Name another file"):
        trainer_of(small(), packed_batches(store, 2, 16), log=path).train()
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="line 1 is no line of a log"):
        read_log(path)


def test_a_log_with_strange_letters(tmp_path: Path) -> None:
    "A line separator of Unicode inside a name ends no line."
    log = JsonLog(tmp_path / "log.jsonl")
    run = types.SimpleNamespace(step=0, plan=dict, describe=lambda: "one\u2028line\x85")
    log.on_start(run)
    log.on_step(run, StepRecord(1, 1.0, 1.0, 1.0, 0.1, 8, 0.1, note="two\u2029lines"))
    log.on_end(run, "finished")
    assert read_log(log.path).steps[0].note == "two\u2029lines" and read_log(log.path).reason == "finished"


# ---- what is shown


def printed(code: str) -> subprocess.CompletedProcess:
    prelude = "from test_train import *\nstore = TokenStore.create(sys.argv[1], LETTERS)\nstore.append([[5, 6, 7, 8] * 9] * 30)\n"
    code = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{prelude}{code}"
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "error", "-c", code, f"{folder}/s"]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)


def test_output_that_is_no_terminal() -> None:
    "Whole lines on the ordinary output, nothing on the other, no carriage returns."
    done = printed(
        "val = [next(packed_batches(store, 2, 16))]\n"
        "Trainer(small(), next_token_loss, packed_batches(store, 2, 16), steps=40, **QUIET | {'progress': True}).train()\n"
        "Trainer(small(), next_token_loss, packed_batches(store, 2, 16), steps=4, validation=val, validate_every=2,"
        " flops_per_token=6e6, **QUIET | {'progress': True}).train()\n"
    )
    assert done.returncode == 0 and done.stderr == "" and "\r" not in done.stdout and "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[1:11]] == [f"{4 * k}/40" for k in range(1, 11)]
    assert lines[11] == "finished after step 40" and "parameters on cpu in fp32" in lines[0]
    assert re.fullmatch(
        r"step 4/4  train \d\.\d{3}  validation \d\.\d{3}[* ] \(\d+\.\d\d, \d+\.\d% right\)  [\d,]+ tokens/s, [\d.e+]+ GFLOP/s, 0:00 left",
        lines[-2],
    )


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_a_bar_in_a_terminal() -> None:
    import fcntl
    import pty
    import struct
    import termios

    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\nfrom test_train import *\n"
        "batch = Batch(torch.zeros(2, 3).long(), torch.ones(2, 3).long())\n"
        "Trainer(Bigram(8), next_token_loss, [batch] * 30, steps=30, **QUIET | {'progress': True}).train()\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # a new one has no width
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        output = process.communicate(timeout=120)[0]
    os.close(theirs)
    drawn = b""
    while piece := _read(ours):
        drawn += piece
    os.close(ours)
    text = drawn.decode("utf-8", "replace")
    assert "30/30" in text and "tokens/s" in text and "loss" in text, text
    assert output.strip() == "finished after step 30"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def torch_signature(method: str) -> inspect.Signature:
    "Of a method of torch's SummaryWriter, read from its source: to import it needs TensorBoard."
    source = Path(torch.__file__).parent / "utils" / "tensorboard" / "writer.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (kind,) = [one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "SummaryWriter"]
    (found,) = [one for one in kind.body if isinstance(one, ast.FunctionDef) and one.name == method]
    space: dict[str, Any] = {}
    exec(f"def {method}({ast.unparse(found.args)}): pass", space)
    return inspect.signature(space[method])


def test_services_that_draw_curves(store: TokenStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    "Stand-ins that take what torch's own writer takes, and what Weights & Biases documents. A run by pieces opens them again."
    seen: list[Any] = []

    def told(method: str, *values: Any, **more: Any) -> dict[str, Any]:
        found = torch_signature(method).bind(None, *values, **more).arguments
        return {name: value for name, value in found.items() if name != "self"}

    class Writer:
        def __init__(self, *values: Any, **more: Any) -> None:
            seen.append(told("__init__", *values, **more))

        def add_scalar(self, *values: Any, **more: Any) -> None:
            found = told("add_scalar", *values, **more)
            seen.append((found["tag"], found["global_step"]))
            assert isinstance(found["scalar_value"], float)

        def close(self) -> None:
            told("close")
            seen.append("closed")

    class Run:
        def log(self, data: dict[str, Any], step: int | None = None) -> None:
            seen.append((sorted(data), step))

        def finish(self) -> None:
            seen.append("finished")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))  # type: ignore[arg-type]
    init = lambda **settings: seen.append(settings) or Run()
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))  # type: ignore[arg-type]
    logs = [tensorboard_log(tmp_path), wandb_log("stories", mode="offline", id="one", resume="allow")]
    assert seen == []  # nothing begins before the run
    trainer = trainer_of(small(), packed_batches(store, 2, 16), steps=4, callbacks=logs)
    trainer.train(2)
    names = ["loss", "lr", "nats", "norm", "tokens_per_second"]
    settings = {"project": "stories", "mode": "offline", "id": "one", "resume": "allow"}
    assert seen[:2] == [{"log_dir": str(tmp_path), "purge_step": None}, settings] and seen[-2:] == ["closed", "finished"]
    assert ([f"train/{name}" for name in names], 1) in seen and ("train/loss", 2) in seen
    seen.clear()
    trainer.train()  # what a kill had written of steps 3 and later is hidden
    assert seen[:2] == [{"log_dir": str(tmp_path), "purge_step": 3}, settings] and ("train/loss", 4) in seen
    assert seen[-2:] == ["closed", "finished"]


def test_pause_resume_and_stop_from_another_thread(store: TokenStore) -> None:
    live = LiveCurve()
    steps: list[float] = []
    look = types.SimpleNamespace(on_step=lambda trainer, record: steps.append(time.monotonic()))
    trainer = trainer_of(small(), packed_batches(store, 2, 16), steps=10**6, callbacks=[look, live])
    thread = threading.Thread(target=trainer.train)
    thread.start()
    try:
        while len(steps) < 5:
            time.sleep(0.01)
        live.pause()
        time.sleep(0.3)
        count = len(steps)
        time.sleep(0.4)
        assert len(steps) == count
        live.resume()
        while len(steps) < count + 5:
            time.sleep(0.01)
        live.pause()
        time.sleep(0.2)
    finally:
        live.stop()  # also from a pause
        thread.join(30)
    assert not thread.is_alive() and trainer.history.reason == "stopped by hand"
    assert max(record.seconds for record in trainer.history.steps) < 0.4  # a pause is not counted as training


def test_a_signal_ends_a_pause(store: TokenStore) -> None:
    live = LiveCurve()

    def press(trainer: Any, record: StepRecord) -> None:
        if record.step == 3:
            live.pause()
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    trainer = trainer_of(small(), packed_batches(store, 2, 16), callbacks=[types.SimpleNamespace(on_step=press), live])
    if sys.platform != "win32":
        assert trainer.train().reason == "ended by SIGINT" and trainer.step == 3


def test_the_curve_of_any_history() -> None:
    import xml.etree.ElementTree

    histories = [History()]
    for losses in ([1.0], [1.0, 1.0], [math.nan] * 3, [math.inf, 2.0], [3.0 - 0.001 * k for k in range(2500)]):
        histories.append(History())
        for k, loss in enumerate(losses, 1):
            histories[-1].add(StepRecord(k, loss, loss, 1.0, 0.1, 8, 0.1))
    for history in histories:
        svg = curve_svg(history, 2500)
        xml.etree.ElementTree.fromstring(svg)
        assert "nan" not in svg and "inf" not in svg and len(svg) < 12_000


# ---- what it costs


def memory() -> int:
    "Bytes of this process in memory."
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grows(steps: int) -> float:
    "Bytes a step, over the second half of a run with every listener, without a terminal."
    batch = Batch(torch.zeros(1, 4).long(), torch.ones(1, 4).long())
    seen: list[tuple[int, int]] = []

    def look(trainer: Any, record: StepRecord) -> None:
        if record.step % (steps // 10) == 0:
            gc.collect()
            seen.append((record.step, memory()))

    trainer = trainer_of(
        Bigram(8), itertools.repeat(batch), steps=steps, validation=[batch], validate_every=50, lr=1e-4,
        callbacks=[types.SimpleNamespace(on_step=look), LiveCurve()],
    )  # fmt: skip
    trainer.history.limit = 500
    trainer.train()
    (a, before), (b, after) = seen[len(seen) // 2], seen[-1]
    return (after - before) / (b - a)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
def test_memory_does_not_grow(capsys: pytest.CaptureFixture) -> None:
    assert grows(4000) < 300  # a record that stays has more


def test_a_long_history_is_thin() -> None:
    history = History(limit=1000)
    for k in range(1, 100_001):
        history.add(StepRecord(k, 1.0, 1.0, 1.0, 0.1, 8, 0.1))
    assert 400 < len(history.steps) <= 1000
    gaps = {b.step - a.step for a, b in itertools.pairwise(history.steps)}
    assert gaps == {history.stride}


def test_the_naive_loop_bit_for_bit(store: TokenStore) -> None:
    "Against torch's own optimiser, clipping and a loop of six lines, with warm-up and cosine."
    from torch.nn.utils import clip_grad_norm_

    schedule = cosine_schedule(20, warmup=3)
    ours, theirs = small(dropout=0.2), small(dropout=0.2)
    torch.manual_seed(3)
    trainer_of(ours, packed_batches(store, 3, 16), steps=20, schedule=schedule, max_norm=0.3,
               optimizer=lambda named, lr: torch.optim.AdamW([p for _, p in named], lr=lr)).train()  # fmt: skip
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01)
    for step, batch in zip(range(20), packed_batches(store, 3, 16)):
        optimizer.param_groups[0]["lr"] = 0.01 * schedule(step)
        optimizer.zero_grad()
        next_token_loss(theirs, batch)[0].backward()
        clip_grad_norm_(theirs.parameters(), 0.3)
        optimizer.step()
    torch.testing.assert_close(weights(ours), weights(theirs), atol=2e-6, rtol=1e-5)


def test_the_rate_that_is_noted_is_the_optimisers(store: TokenStore, tmp_path: Path) -> None:
    "An optimiser that was made before has a rate of its own: the plan and the log say that one."
    model = small()
    trainer = trainer_of(model, packed_batches(store, 2, 16), optimizer=torch.optim.SGD(model.parameters(), 0.5), lr=0.01)
    assert trainer.plan()["lr"] == 0.5 and trainer_of(model, [], lr=0.01).plan()["lr"] == 0.01
    assert max(record.lr for record in trainer.train().steps) == 0.5


def test_groups_keep_their_own_rates(store: TokenStore) -> None:
    "An optimiser with two rates, handed in ready: the schedule is a factor of each."
    model = small()
    groups = [{"params": [model.norm.weight], "lr": 0.5}, {"params": [model.embed_tokens.weight], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    seen: list[list[float]] = []
    look = types.SimpleNamespace(on_step=lambda trainer, record: seen.append([g["lr"] for g in optimizer.param_groups]))
    trainer_of(model, packed_batches(store, 2, 16), optimizer=optimizer, schedule=lambda step: 1 / (step + 1), callbacks=[look]).train()
    assert seen[1] == [0.25, 0.05] and seen[5] == pytest.approx([0.5 / 6, 0.1 / 6])


def test_frozen_parameters_stay(store: TokenStore) -> None:
    model = small()
    model.layers.requires_grad_(False)
    before = [p.clone() for p in model.layers.parameters()]
    for precision in ("fp32", "bf16"):
        trainer = trainer_of(model, packed_batches(store, 2, 16), precision=precision)
        trainer.train()
        frozen = [p.to(q.dtype) for p, q in zip(before, model.layers.parameters())]
        assert all(torch.equal(p, q) for p, q in zip(frozen, model.layers.parameters()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "steps=0; expected a whole number"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"lr": 0.0}, "lr=0.0; expected a number above 0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"max_norm": -1.0}, "max_norm=-1.0"),
        ({"patience": 3}, "patience=3 without validation"),
        ({"save_every": 3}, "save_every=3 without checkpoints"),
        ({"validate_every": 0, "validation": []}, "validate_every=0"),
        ({"callbacks": [Callback]}, "no object with one of"),
        ({"precision": "fp61"}, "precision='fp61'"),
        ({"device": "cuda:99"}, "device='cuda:99'"),
    ],
)
def test_bad_settings(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Trainer(Bigram(8), next_token_loss, [], **{"steps": 3} | QUIET | change)


def test_a_watch_says_nothing_of_a_good_run() -> None:
    "No false alarm in noisy but healthy losses; each planted jump is seen."
    for seed in range(20):
        chance, watch = random.Random(seed), Watch()
        for k in range(1, 500):
            loss = 2 + 4 * math.exp(-k / 80) + chance.gauss(0, 0.15)
            assert watch.look(k, loss, 1.0, 0.01) == ""
        assert "jumped" in watch.look(500, 4.0, 1.0, 0.01)


def test_progress_and_log_stand_alone() -> None:
    assert Progress(bar=False).speed() == (0.0, 0.0) and isinstance(JsonLog("x").path, Path)
    assert Feed([1, 2]).take(5) == [1, 2]
