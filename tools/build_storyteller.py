#!/usr/bin/env python3
"""Train, judge and pack the model that comes with minillm: `make pretrained` writes minillm/assets/storyteller/.

`tools/build_storyteller.py` trains seed 0 as results/storyteller.py says. On the same machine, with the same versions, it writes the same
weights each time; another processor adds in another order, so there the last digits differ, and with them every figure a little.
A training that was killed goes on from build/storyteller/, and one that `make results` finished is not done again.
`--from FOLDER` packs weights that are there already: a folder of `LLM.save`, whose card says how they were trained. `--out FOLDER` writes
elsewhere.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import results as tool

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "minillm" / "assets" / "storyteller"
SEED = 0
ABOUT = "Tells stories of the story world (chapter 10) and answers questions about them. It knows nothing else."


def figures(found: dict[str, Any]) -> dict[str, Any]:
    "What a card quotes of what `judge` found: everything but the examples."
    return {part: {k: value for k, value in values.items() if k != "examples"} for part, values in found.items()}


def of_record(path: Path) -> dict[str, dict[str, Any]]:
    "The figures of every seed in the record; none where there is no record."
    if not path.exists():
        return {}
    seeds = json.loads(path.read_text(encoding="utf-8"))["seeds"]
    return {seed: figures(found) for seed, found in seeds.items()}


def make_card(experiment: Any, trained: dict[str, Any], found: dict[str, Any], record: Path) -> dict[str, Any]:
    "What there is to know about the model: data, training, and how it was judged."
    recipe, world = experiment.RECIPE, experiment.world()
    data = {"source": "minillm.storyworld.StoryWorld with questions and answers: made by program, nobody's text"}
    data |= {name: list(getattr(world, name)) for name in ("people", "objects", "places")}
    data |= {"remention": world.remention, "questions": f"at most {recipe.questions} after a story"}
    data["events"] = f"from 3 to 12 in a story; in the first {recipe.curriculum:.0%} of the steps fewer"
    how = "prompts are the first two sentences of stories in whose worlds no training story begins; each question alone"
    how = f"{experiment.HELD_OUT} {how}; stories at temperature {experiment.TEMPERATURE}, answers greedily"
    judged = {"by": "results/storyteller.py", "split": experiment.SPLIT, "how": how, **figures(found)}
    card = {"name": "storyteller", "about": ABOUT, "licence": "Apache-2.0", "data": data, **trained}
    return card | {"judged": judged, "judged_by_seed": of_record(record)}


def say(card: dict[str, Any], folder: Path, told: Path) -> None:
    "The figures, and whether they are those of the record."
    stories, questions = card["judged"]["stories"], card["judged"]["questions"]
    print(f"{told}: {sum(path.stat().st_size for path in folder.iterdir()):,} bytes")
    print(", ".join(f"{name} {stories[name]:.1%}" for name in ("parse", "consistent", "new_text", "new_story")))
    print(f"questions {questions['right']:.1%}, the most frequent answers {questions['majority']:.1%}")
    record = card["judged_by_seed"].get(str(card.get("seed")))
    same = record == {part: card["judged"][part] for part in ("stories", "questions")}
    print(f"results/storyteller.json has {'the same' if same else 'other, or no,'} figures for this seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, help="a folder of LLM.save with trained weights")
    parser.add_argument("--out", type=Path, default=TARGET)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = (
        "1"  # as tools/results.py; training sets its own
    )
    experiment = tool.load("storyteller")
    import torch

    from minillm.llm import LLM

    if chosen.source is None:
        llm = experiment.train(SEED, experiment.RUNS / experiment.training_id(SEED))
    else:
        llm = LLM.load(chosen.source, device="cpu")
    own = ("format", "parameters", "vocabulary", "files")
    trained = {name: value for name, value in llm.card.items() if name not in own}
    llm.card = make_card(experiment, trained, experiment.judge(llm), tool.RESULTS / "storyteller.json")
    llm.save(chosen.out, dtype=torch.bfloat16)
    say(llm.card, chosen.out, Path(os.path.relpath(chosen.out)))


if __name__ == "__main__":
    sys.exit(main())
