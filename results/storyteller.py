"""The model that ships: a small transformer learns the story world, which then judges it; three trainings.

A seed chooses the stories, their order and the fresh weights; the tokenizer is the same for all. A training is
saved every few minutes in build/storyteller/, so a killed one goes on, and one that is done is only judged again.
`python results/storyteller.py 0 2` trains ahead, such as in another terminal.
"""

import contextlib
import functools
import hashlib
import inspect
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm import __version__
from minillm.batches import IGNORED, Batch, BatchStream
from minillm.checkpoint import CheckpointManager
from minillm.generate import generate, left_pad, prompt_ids, row_seeds
from minillm.llm import LLM, fresh_model
from minillm.loss import next_token_loss
from minillm.model import LanguageModel, ModelConfig
from minillm.optim import make_optimizer, wsd_schedule
from minillm.precision import half_attention
from minillm.sampling import Sampler
from minillm.storyworld import (
    OBJECTS,
    PEOPLE,
    PLACES,
    QUESTIONS,
    Story,
    StoryWorld,
    check_story,
    judge_answer,
    majority_answers,
    story_signature,
)
from minillm.tokenizer import END_OF_TEXT, Tokenizer
from minillm.train import Callback, StepRecord, Trainer


@dataclass(frozen=True)
class Recipe:
    "The world, the model, and how it is trained."

    people: int = 6  # the first of PEOPLE
    objects: int = 6
    places: int = 5
    remention: float = 0.9  # how often facts are told again
    questions: int = 8  # after a story, at most
    vocab_size: int = 560
    width: int = 128
    n_layers: int = 6
    n_heads: int = 4
    n_kv_heads: int = 4
    hidden: int = 192
    context: int = 512
    embedding_std: float = 0.5  # of the fresh embedding; see `fresh_teller`
    steps: int = 6600
    rows: int = 8  # stories in a batch
    optimizer: str = "muon"  # for the matrices inside; AdamW for the rest
    lr: float = 3e-3
    beta2: float = 0.99  # AdamW's
    weight_decay: float = 0.1
    warmup: int = 100  # steps
    decay: float = 0.6  # share of the steps in which the rate falls, at the end
    floor: float = 0.02  # of the rate, to which it falls
    answer_weight: float = 2.0  # of a token of an answer; all others have 1
    curriculum: float = 0.4  # share of the steps in which stories grow from 3 events to 12
    precision: str = "autocast"  # while training; "autocast" is bfloat16 where the products are
    threads: int = 1  # another number may add in another order, and so give other weights


RECIPE = Recipe()
SEEDS = [0, 1, 2]
HELD_OUT, SPLIT, TEMPERATURE, LONGEST, EXAMPLES = 200, "validation", 0.7, 400, 6
GROUP = 40  # batches that are made together: their stories are sorted by length
RUNS = Path(__file__).resolve().parent.parent / "build" / "storyteller"

Writer = Callable[[Sequence[str], float, int], list[str]]  # prompts, temperature, most tokens → rests of the lines


# ---- the stories


def world(split: str = "train", *, recipe: Recipe = RECIPE, seed: int = 0, **change: Any) -> StoryWorld:
    "The world in which the model lives."
    names = {"people": PEOPLE[: recipe.people], "objects": OBJECTS[: recipe.objects]}
    names["places"] = PLACES[: recipe.places]
    usual = {"remention": recipe.remention, "n_questions": recipe.questions}
    return StoryWorld(split=split, seed=seed, **names, **usual | change)


def held_out(n: int = HELD_OUT, recipe: Recipe = RECIPE) -> list[Story]:
    "Stories in whose worlds no training story begins, each with a question of every kind that it can be asked."
    return list(world(SPLIT, recipe=recipe, n_questions=len(QUESTIONS)).stories(n))


@functools.cache
def story_tokenizer(recipe: Recipe = RECIPE) -> Tokenizer:
    "Learned from the first 3,000 training stories of seed 0."
    texts = [story.with_questions() for story in world(recipe=recipe).stories(3000)]
    return Tokenizer.train(texts, recipe.vocab_size)


def training_stories(group: int, seed: int, recipe: Recipe = RECIPE) -> list[Story]:
    "The stories of a group of batches: short ones at first."
    grown = min(1.0, group * GROUP / (recipe.curriculum * recipe.steps)) if recipe.curriculum else 1.0
    n = GROUP * recipe.rows
    return list(world(recipe=recipe, seed=seed, events=(3, 3 + int(9 * grown))).stories(n, group * n))


def story_row(story: Story, tokenizer: Tokenizer, answer_weight: float) -> tuple[list[int], list[float]]:
    "The ids of a story and its questions, and what each counts."
    ids = tokenizer.encode(story.text)
    weights = [1.0] * len(ids)
    for question in story.questions:
        asked, answer = tokenizer.encode(f"\nQ: {question.text} A:"), tokenizer.encode(f" {question.answer}.")
        ids += asked + answer
        weights += [1.0] * len(asked) + [answer_weight] * len(answer)
    return ids, weights


def pad_rows(rows: Sequence[tuple[list[int], list[float]]], end: int) -> Batch:
    "Rows as a batch: the end token before and after each, then padding that counts nothing."
    shape = len(rows), 1 + max(len(ids) for ids, _ in rows)
    x, y, weight = torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED), torch.zeros(shape)
    for r, (ids, weights) in enumerate(rows):
        x[r, : len(ids) + 1] = torch.tensor([end, *ids])
        y[r, : len(ids) + 1] = torch.tensor([*ids, end])
        weight[r, : len(ids) + 1] = torch.tensor([*weights, 1.0])
    return Batch(x, y, weight)


def story_batches(tokenizer: Tokenizer, seed: int, recipe: Recipe = RECIPE) -> BatchStream:
    "Batches of stories of about one length, without end; any place is found again."
    end = tokenizer.special_tokens[END_OF_TEXT]

    def units(epoch: int, group: int) -> list[list[tuple[list[int], list[float]]]]:
        stories = training_stories(group, seed, recipe)
        rows = [story_row(story, tokenizer, recipe.answer_weight) for story in stories]
        rows.sort(key=lambda row: len(row[0]))
        cut = [rows[i : i + recipe.rows] for i in range(0, len(rows), recipe.rows)]
        return [cut[i] for i in np.random.default_rng([seed, group]).permutation(len(cut))]

    plan = {"kind": "stories", "seed": seed, "recipe": repr(recipe)}
    return BatchStream(units, lambda taken: pad_rows(taken[0], end), 1, None, plan)


# ---- training


class Meter(Callback):
    "Tokens and seconds of a run, also of one that was resumed."

    def __init__(self) -> None:
        self.tokens, self.seconds = 0, 0.0

    def on_step(self, trainer: Any, record: StepRecord) -> None:
        self.tokens, self.seconds = self.tokens + record.tokens, self.seconds + record.seconds

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "seconds": self.seconds}

    def load_state_dict(self, state: Any) -> None:
        self.tokens, self.seconds = state["tokens"], state["seconds"]


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    "So many threads in torch during the block."
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def model_config(recipe: Recipe = RECIPE) -> ModelConfig:
    "The form of the model."
    same = ("vocab_size", "width", "n_layers", "n_heads", "n_kv_heads", "hidden", "context")
    return ModelConfig(**{name: getattr(recipe, name) for name in same}, tie_embeddings=False)


def fresh_teller(seed: int, recipe: Recipe = RECIPE) -> LanguageModel:
    """A fresh model whose embeddings are far apart.

    With the usual 0.02 all colours soon are one word to it: they stand in the same places, so the first steps move
    their rows by the same amounts, which are larger than what told them apart.
    """
    model = fresh_model(model_config(recipe), seed, attend=half_attention)
    with torch.no_grad():
        table = model.embed_tokens.weight
        table.mul_(recipe.embedding_std / table.std())
    return model


def make_trainer(seed: int, folder: Path | None, recipe: Recipe, progress: bool) -> tuple[Trainer, Meter]:
    "A trainer for fresh weights, and what counts its tokens."
    meter = Meter()
    how: dict[str, Any] = {"steps": recipe.steps, "lr": recipe.lr, "precision": recipe.precision, "device": "cpu"}
    rule = {"name": recipe.optimizer, "betas": (0.9, recipe.beta2), "weight_decay": recipe.weight_decay}
    how["optimizer"] = partial(make_optimizer, **rule)
    how["schedule"] = wsd_schedule(recipe.steps, warmup=recipe.warmup, decay=recipe.decay, floor=recipe.floor)
    how |= {"callbacks": [meter], "progress": progress, "about": {"training": training_id(seed, recipe)}}
    if folder is not None:
        how |= {"checkpoints": CheckpointManager(folder), "save_every": max(1, recipe.steps // 20)}
    batches = story_batches(story_tokenizer(recipe), seed, recipe)
    return Trainer(fresh_teller(seed, recipe), next_token_loss, batches, **how), meter


def train(seed: int, folder: str | Path | None = None, *, recipe: Recipe = RECIPE, progress: bool = True) -> LLM:
    """The model of a seed, its weights rounded to bfloat16, as it ships. With a folder a killed training goes on.

    Raises KeyboardInterrupt after Ctrl-C, once everything is saved.
    """
    with threads(recipe.threads):
        trainer, meter = make_trainer(seed, None if folder is None else Path(folder), recipe, progress)
        trainer.resume()
        trainer.train()
    if trainer.step < recipe.steps:
        raise KeyboardInterrupt(trainer.reason)
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.copy_(p.bfloat16())
    card = {"seed": seed, "recipe": asdict(recipe), "steps": trainer.step, "tokens": meter.tokens}
    card |= {"seconds": round(meter.seconds), "precision": f"{recipe.precision}, at the end rounded to bfloat16"}
    card["machine"] = f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, {recipe.threads} threads"
    card["versions"] = {"minillm": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return LLM(trainer.model, story_tokenizer(recipe), card=card, device="cpu")


# what the weights depend on, in this file
STREAM = [Recipe, world, story_tokenizer, training_stories, story_row, pad_rows, story_batches]
TRAINING = [*STREAM, threads, model_config, fresh_teller, make_trainer, train]


def training_id(seed: int, recipe: Recipe = RECIPE) -> str:
    "Another seed, recipe, version of torch or line of the code above is another training."
    parts = [repr(recipe), str(seed), torch.__version__, *map(inspect.getsource, TRAINING)]
    return f"seed-{seed}-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:12]}"


# ---- writing


class LayerMemory:
    "Keys and values of one layer, with room for so many tokens: minillm.attention.LayerCache."

    def __init__(self, start: Tensor, room: int) -> None:
        self.start, self.n = start, 0  # positions (B,T) of the prompts, −1 in padding
        self.there = torch.full((len(start), room), -1)
        self.kept: tuple[Tensor, Tensor] | None = None

    def positions(self, T: int) -> Tensor:
        if not self.n:
            return self.start
        return self.start[:, -1:] + (self.n - self.start.shape[1]) + torch.arange(1, T + 1)

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        new = slice(self.n, self.n + k.shape[2])
        self.there[:, new] = self.positions(k.shape[2])
        if self.kept is None:
            shape = (*k.shape[:2], self.there.shape[1], k.shape[3])
            self.kept = k.new_zeros(shape), v.new_zeros(shape)
        self.kept[0][:, :, new], self.kept[1][:, :, new] = k, v
        self.n = new.stop
        return self.kept[0][:, :, : self.n], self.kept[1][:, :, : self.n], self.there[:, : self.n], None


class Memory:
    "One `LayerMemory` a layer: minillm.attention.Cache."

    def __init__(self, prompts: Sequence[Sequence[int]], n_layers: int, room: int) -> None:
        start = left_pad(prompts)[1]
        self.layers = [LayerMemory(start, start.shape[1] + room) for _ in range(n_layers)]

    def layer(self, i: int) -> LayerMemory:
        return self.layers[i]


def write(
    llm: LLM, prompts: Sequence[str], temperature: float, max_new_tokens: int, *, seed: int = 0, rows: int = 64
) -> list[str]:
    "What the model writes after each prompt, until the line or the text ends. No row depends on its neighbours."
    tokenizer, config = llm.tokenizer, llm.model.config
    ids, seeds = [prompt_ids(tokenizer, prompt) for prompt in prompts], row_seeds(seed, len(prompts))
    lines = [token for token, data in enumerate(tokenizer.token_bytes) if data.startswith(b"\n")]
    stop_ids = [tokenizer.special_tokens[END_OF_TEXT], *lines]
    found = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda r: len(ids[r]))
    for taken in (order[i : i + rows] for i in range(0, len(order), rows)):
        some = [ids[r] for r in taken]
        most = min(max_new_tokens, config.context - max(map(len, some)))
        how: dict[str, Any] = {"sampler": Sampler(temperature), "stop_ids": stop_ids, "max_new_tokens": most}
        memory = Memory(some, config.n_layers, most)
        new = generate(llm.model, some, memory, **how, seed=[seeds[r] for r in taken]).ids
        for r, tokens in zip(taken, new):
            found[r] = tokenizer.decode(tokens).split("\n")[0]
    return found


# ---- judging


def novelty(texts: Sequence[str], training: Iterator[Story]) -> dict[str, float]:
    "Shares of texts whose words, and whose plot in whatever words, no training story has."
    signatures = [story_signature(text) for text in texts]
    worlds = {check_story(text).world for text in texts}  # a signature begins with it; few stories share one
    words, plots = set(), set()
    for story in training:
        words.add(story.text)
        if story.world in worlds:
            plots.add(story_signature(story.text))
    new_text, new_story = [text not in words for text in texts], [one not in plots for one in signatures]
    return {"new_text": sum(new_text) / len(texts), "new_story": sum(new_story) / len(texts)}


def judge_stories(writer: Writer, stories: Sequence[Story], training: Iterator[Story]) -> dict[str, Any]:
    """Stories that the model goes on with after two sentences: what can be read, and what contradicts itself.

    "consistent" is the share of all that have six sentences or more and no contradiction, "sound" of those that
    can be read throughout as well.
    """
    prompts = [" ".join(story.sentences[:2]) for story in stories]
    texts = [prompt + more for prompt, more in zip(prompts, writer(prompts, TEMPERATURE, LONGEST))]
    reports = [check_story(text) for text in texts]
    n_written = n_read = 0
    for story, report in zip(stories, reports):
        given = [i for i in (0, 1) if report.sentences[i : i + 1] == story.sentences[i : i + 1]]
        n_written += len(report.sentences) - len(given)
        n_read += len(report.sentences) - len({*given, *report.unparsed})
    long = [len(report.sentences) >= 6 for report in reports]
    consistent = [a and not report.contradictions for a, report in zip(long, reports)]
    sound = [a and not report.unparsed for a, report in zip(consistent, reports)]
    found: dict[str, Any] = {"n": len(texts), "sentences": n_written, "parse": n_read / max(1, n_written)}
    shares = {"six_or_more": long, "consistent": consistent, "sound": sound}
    found |= {name: sum(values) / len(texts) for name, values in shares.items()} | novelty(texts, training)
    kinds = Counter(one.kind for report in reports for one in report.contradictions)
    return found | {"contradictions": dict(sorted(kinds.items())), "examples": bad_stories(prompts, texts)}


def bad_stories(prompts: Sequence[str], texts: Sequence[str]) -> list[dict[str, Any]]:
    "The first stories in which something is wrong, with their first fault."
    found = []
    for prompt, text in zip(prompts, texts):
        report = check_story(text)
        faults = [(one.sentence, one.kind, one.known) for one in report.contradictions]
        faults += [(i, "not understood", "no frame fits") for i in report.unparsed]
        if faults:
            number, kind, known = min(faults)
            fault = {"sentence": report.sentences[number], "kind": kind, "known": known}
            found.append({"prompt": prompt, "text": text[len(prompt) :], **fault})
    return found[:EXAMPLES]


@functools.cache
def usual_answers(recipe: Recipe = RECIPE) -> dict[str, tuple[str, float]]:
    "The most frequent answer to each kind of question in 2,000 training stories."
    return majority_answers(world(recipe=recipe, n_questions=len(QUESTIONS)).stories(2000))


def is_answer(story: Story, question: str, answer: str) -> bool:
    "Is an answer right, such as ' in the park.', with its stop?"
    return judge_answer(check_story(story.text).state, f"Q: {question} A: {answer.strip()}") == []


def judge_answers(writer: Writer, stories: Sequence[Story], usual: dict[str, tuple[str, float]]) -> dict[str, Any]:
    "Each question after its story alone, answered greedily; beside it the most frequent answer of its kind."
    asked = [(story, question) for story in stories for question in story.questions]
    said = writer([f"{story.text}\nQ: {question.text} A:" for story, question in asked], 0.0, 40)
    kinds: dict[str, dict[str, Any]] = {}
    wrong: dict[str, dict[str, str]] = {}
    for (story, question), answer in zip(asked, said):
        most = usual[question.kind][0]
        one = kinds.setdefault(question.kind, {"n": 0, "right": 0, "majority": 0, "answer": most})
        one["n"] += 1
        one["right"] += (right := is_answer(story, question.text, answer))
        one["majority"] += is_answer(story, question.text, f"{most}.")
        if not right:
            shown = {"question": question.text, "said": answer.strip(), "right": f"{question.answer}."}
            wrong.setdefault(question.kind, {"kind": question.kind, "story": story.text, **shown})
    whole = {name: sum(one[name] for one in kinds.values()) for name in ("n", "right", "majority")}
    for one in (whole, *kinds.values()):
        one |= {name: one[name] / one["n"] for name in ("right", "majority")}
    return whole | {"kinds": dict(sorted(kinds.items())), "examples": [wrong[kind] for kind in sorted(wrong)]}


def judge(llm: LLM, n: int = HELD_OUT, *, recipe: Recipe = RECIPE, writer: Writer | None = None) -> dict[str, Any]:
    "What the story world finds about a model that `train` made. Another `writer` is judged in its place."
    seed, groups = llm.card.get("seed", 0), range(-(-llm.card.get("steps", recipe.steps) // GROUP))
    stories, writer = held_out(n, recipe), writer or partial(write, llm)
    learned = chain.from_iterable(training_stories(group, seed, recipe) for group in groups)
    with threads(1):
        told = judge_stories(writer, stories, learned)
        return {"stories": told, "questions": judge_answers(writer, stories, usual_answers(recipe))}


def run(seed: int) -> dict[str, Any]:
    "Train, or go on with a training that is there, and judge."
    return judge(train(seed, RUNS / training_id(seed)))


WRITING = [held_out, LayerMemory, Memory, write]
JUDGING = [novelty, judge_stories, bad_stories, usual_answers, is_answer, judge_answers, judge]
FUNCTIONS = [*TRAINING, *WRITING, *JUDGING, run]  # what the record's hash covers


if __name__ == "__main__":
    for chosen in map(int, sys.argv[1:]):
        train(chosen, RUNS / training_id(chosen))
