#!/usr/bin/env python3
"""Choose and store what chapter 22 shows of the shipped storyteller: minillm/assets/storyteller_attention.safetensors.

Run it after `tools/build_storyteller.py`, of whose weights it is. Nothing is chosen by hand. A story that no training story begins like
is cut after as many sentences as fit, and then asked where somebody is. Of all such stories these count: it names the place that is the
answer and another place too, and the model answers right. The first 50 of them choose one head: the one that gives most weight, from the
last position, to the answer's place wherever it stands. The next 50 measure it. The first of these in which it gives more than 0.2 is stored.
Last, each head in turn is kept from seeing the answer's place, from the last position alone: in how many of the 50 is the model still right?
"""

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

import results as tool
from minillm.attention import attention_weights, scaled_dot_product_attention
from minillm.generate import prompt_ids
from minillm.gqa import fused_attention
from minillm.llm import LLM
from minillm.storyworld import answer_question

ROOT = Path(__file__).resolve().parent.parent
MODEL, TARGET = (
    ROOT / "minillm" / "assets" / "storyteller",
    ROOT / "minillm" / "assets" / "storyteller_attention.safetensors",
)
LONGEST, STORIES, ENOUGH, TRIED, BYTES = 64, 50, 0.2, 1000, 300_000

Case = dict[str, Any]


def swapped(llm: LLM, ids: list[int], attends: list[Any]) -> Tensor:
    "Logits (T,V) of one text, where each layer attends by a function of its own: looking is swapping."
    layers: Any = llm.model.layers
    usual = [layer.self_attn.attend for layer in layers]
    try:
        for layer, attend in zip(layers, attends, strict=True):
            layer.self_attn.attend = attend
        with torch.no_grad():
            return llm.model(torch.tensor([ids]))[0]
    finally:
        for layer, old in zip(layers, usual, strict=True):
            layer.self_attn.attend = old


def watched(llm: LLM, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    "Logits (T,V) of one text, and queries and keys (L,N,T,H) of all layers in half precision."
    seen: list[tuple[Tensor, Tensor]] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, **rules: Any) -> Tensor:
        seen.append((q[0], k[0]))
        return fused_attention(q, k, v, **rules)

    logits = swapped(llm, ids, [attend] * llm.model.config.n_layers)
    q, k = (torch.stack(one).half() for one in zip(*seen, strict=True))
    return logits, q, k


def still_right(llm: LLM, case: Case, layer: int, head: int) -> bool:
    "Is the place found when one head, at the last position, does not see it?"
    T = len(case["ids"])

    def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Any, bias: Any) -> Tensor:
        hidden = torch.zeros(q.shape[1], T, T)
        hidden[head, -1, case["about"]["answer_at"]] = -torch.inf
        return scaled_dot_product_attention(q, k, v, mask=mask, bias=hidden)

    attends = [attend if i == layer else fused_attention for i in range(llm.model.config.n_layers)]
    return int(swapped(llm, case["ids"], attends)[-1].argmax()) == case["place"]


def asked(llm: LLM, sentences: tuple[str, ...], person: str, places: list[str]) -> Case | None:
    "A question about the beginning of a story, if it counts: up to the word before the answer's place."
    encode, name = llm.tokenizer.encode, f"Where is {person}?"
    for n in range(len(sentences), 2, -1):
        text = " ".join(sentences[:n])
        ids = prompt_ids(llm.tokenizer, text)
        prompt = ids + encode(f"\nQ: {name} A:")
        if len(prompt) + 2 <= LONGEST:
            break
    else:
        return None
    answer = answer_question(text, name)
    if not answer or not answer.startswith("in the "):
        return None
    rest, (place, *more) = encode(f" {answer}."), encode(" " + answer.removeprefix("in the "))
    named = {encode(f" {one}")[0] for one in places} & set(ids)
    if more or rest.count(place) != 1 or place not in ids or len(named) < 2:
        return None
    whole, end = prompt + rest, len(prompt) + rest.index(place)
    logits, q, k = watched(llm, whole)
    if logits[len(prompt) - 1 : -1].argmax(-1).tolist() != rest:
        return None
    q, k = (x[:, :, :end] for x in (q, k))
    last = attention_weights(q[:, :, -1:].float(), k.float())[:, :, 0]  # (L,N,T), of the last position
    others = [i for i, one in enumerate(ids) if one in named - {place}]
    found = {
        "story": text,
        "question": name,
        "answer": answer,
        "tokens": [llm.tokenizer.decode([i]) for i in whole[:end]],
    }
    found |= {"answer_at": [i for i, one in enumerate(ids) if one == place], "others_at": others}
    found["blind"] = len(found["answer_at"]) / (len(found["answer_at"]) + len(others))
    case = {"about": found, "ids": whole[:end], "place": place, "q": q, "k": k}
    return case | {"right": last[:, :, found["answer_at"]].sum(-1), "wrong": last[:, :, others].sum(-1)}


def cases(llm: LLM, experiment: Any) -> Iterator[Case]:
    "One question for each story that has one that counts."
    world = experiment.world(experiment.SPLIT)
    for story in world.stories(TRIED):
        people = [name for name in world.people if name in story.text]
        questions = map(partial(asked, llm, story.sentences, places=list(world.places)), people)
        yield from islice(filter(None, questions), 1)


def choose(llm: LLM, experiment: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    "The story to show, with what is told of it; RuntimeError where no head looks at the answer."
    every = cases(llm, experiment)
    chosen_by, measured = (list(islice(every, STORIES)) for _ in range(2))
    if len(measured) < STORIES:
        raise RuntimeError(
            f"only {len(chosen_by) + len(measured)} of {TRIED} stories count; expected {2 * STORIES}"
        )
    votes = torch.stack([case["right"] for case in chosen_by]).mean(0)  # (L,N)
    layer, head = divmod(int(votes.argmax()), votes.shape[1])
    right, wrong = (torch.stack([case[name] for case in measured]) for name in ("right", "wrong"))  # (50,L,N)
    enough = (right[:, layer, head] > ENOUGH).nonzero()[:, 0].tolist()
    if not enough:
        raise RuntimeError(
            f"head {head} of layer {layer} gives the answer {right[:, layer, head].max():.2f} at most; expected {ENOUGH}"
        )
    shown = measured[enough[0]]
    about = shown["about"] | {
        "layer": layer,
        "head": head,
        "n_measured": STORIES,
        "n_enough": len(enough),
        "enough": ENOUGH,
    }
    about |= {"rank": enough[0], "right": right.mean(0).tolist(), "wrong": wrong[:, layer, head].mean().item()}
    about |= {
        "share": right[enough[0], layer, head].item(),
        "n_tokens": sum(len(c["about"]["tokens"]) for c in measured) / STORIES,
    }
    about["blind"] = sum(case["about"]["blind"] for case in measured) / STORIES
    about["still_right"] = [
        [sum(still_right(llm, case, i, h) for case in measured) for h in range(votes.shape[1])]
        for i in range(votes.shape[0])
    ]
    return about, {name: shown[name].contiguous() for name in "qk"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--out", type=Path, default=TARGET)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    llm = LLM.load(chosen.model, device="cpu")
    about, tensors = choose(llm, tool.load("storyteller"))
    about["model"] = llm.card["files"]["model.safetensors"]["sha256"]
    stored = save(tensors, metadata={"example": json.dumps(about, sort_keys=True)})
    if len(stored) > BYTES:
        raise RuntimeError(f"{len(stored):,} bytes; the file may have {BYTES:,}: lower LONGEST")
    chosen.out.write_bytes(stored)
    print(
        f"{chosen.out.name}: {len(stored):,} bytes; layer {about['layer']}, head {about['head']}, {about['share']:.2f} here,",
        end=" ",
    )
    print(
        f"{about['right'][about['layer']][about['head']]:.2f} on average, more than {ENOUGH} in {about['n_enough']} of {STORIES}"
    )


if __name__ == "__main__":
    sys.exit(main())
