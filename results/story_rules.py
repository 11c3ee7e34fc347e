"""The storyteller's recipe, much shorter, with AdamW and with Muon: how many questions are answered?

Model, stories, their order, fresh weights, weights of answers and the course of the rate are the same; only the
rule that moves the matrices inside changes, and its rate: for AdamW the one with which an earlier storyteller was
trained. 400 steps are little: most of what the storyteller knows comes later.
"""

import importlib.util
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

path = Path(__file__).resolve().parent / "storyteller.py"
spec = importlib.util.spec_from_file_location("minillm_storyteller", path)
assert spec is not None and spec.loader is not None
teller: Any = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = teller
spec.loader.exec_module(teller)

STEPS, STORIES = 400, 60
RATES = {"adamw": 0.002, "muon": teller.RECIPE.lr}
SEEDS = [0, 1, 2]


def answers(seed: int, rule: str, rate: float) -> dict[str, float]:
    "Shares of right answers after a short training: to all questions, and by kind."
    recipe = replace(teller.RECIPE, steps=STEPS, optimizer=rule, lr=rate)
    llm = teller.train(seed, recipe=recipe, progress=False)
    with teller.threads(1):
        writer = partial(teller.write, llm)
        found = teller.judge_answers(writer, teller.held_out(STORIES, recipe), teller.usual_answers(recipe))
    return {"all": found["right"], **{kind: one["right"] for kind, one in found["kinds"].items()}}


def run(seed: int) -> dict[str, Any]:
    "For each rule."
    return {rule: answers(seed, rule, rate) for rule, rate in RATES.items()} | {"rates": RATES}


# what the record's hash covers: how the storyteller is trained, asked and judged
FUNCTIONS = [answers, run, *teller.TRAINING, *teller.WRITING]
FUNCTIONS += [teller.usual_answers, teller.is_answer, teller.judge_answers]
