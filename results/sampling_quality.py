"""What samplers do to quality and variety on the story world: an n-gram model of order 6 writes, a program reads.

For each sampler: the share of sentences that a frame of the story world can read, how many texts differ, the share
of 4-grams that their text had said before, and the share of different ones among all 4-grams. "real" are held-out
stories. Names: t temperature and r repetition penalty times ten, k top-k, p top-p and m min-p in percent; what
stands first is done first.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from minillm.bigram import NGram
from minillm.sampling import MinP, RepetitionPenalty, Sampler, Temperature, TopK, TopP
from minillm.storyworld import StoryWorld, parse_sentence, split_sentences
from minillm.tokenizer import Tokenizer

STORIES, VOCABULARY, ORDER, TEXTS, LENGTH = 2000, 512, 6, 60, 200
SEEDS = [0, 1, 2, 3, 4]
SAMPLERS = {
    "greedy": Sampler(temperature=0),
    "greedy_r11": Sampler(temperature=0, repetition_penalty=1.1),
    "greedy_r13": Sampler(temperature=0, repetition_penalty=1.3),
    **{f"t{10 * t:02.0f}": Sampler(temperature=t) for t in (0.3, 0.5, 0.7, 1.0, 1.3, 1.6)},
    **{f"r{10 * penalty:.0f}": Sampler(repetition_penalty=penalty) for penalty in (1.1, 1.3)},
    **{f"k{k}": Sampler(top_k=k) for k in (2, 5, 10, 40)},
    **{f"p{100 * p:.0f}": Sampler(top_p=p) for p in (0.5, 0.8, 0.9, 0.95)},
    **{f"m{100 * share:02.0f}": Sampler(min_p=share) for share in (0.02, 0.05, 0.1, 0.3)},
    "t16_k5": Sampler(temperature=1.6, top_k=5),
    "t16_p90": Sampler(temperature=1.6, top_p=0.9),
    "t16_m10": Sampler(temperature=1.6, min_p=0.1),
    "p90_t16": Sampler(processors=[TopP(0.9), Temperature(1.6)]),
    "m10_t16": Sampler(processors=[MinP(0.1), Temperature(1.6)]),
}


def story_model(seed: int) -> tuple[Tokenizer, Callable[[Sequence[list[int]]], Tensor]]:
    "A tokenizer, and a function from B rows of ids to logits (B,V), learned from stories that depend on the seed."
    stories = [story.text for story in StoryWorld(split="train").stories(STORIES, start=seed * STORIES)]
    tokenizer = Tokenizer.train(stories, VOCABULARY)
    end = tokenizer.special_tokens["<|endoftext|>"]
    ids = np.array([token for text in stories for token in [*tokenizer.encode(text), end]])
    model = NGram(tokenizer.vocab_size, ORDER, end=end).fit(ids)
    known: dict[tuple[int, ...], Tensor] = {}

    def next_logits(rows: Sequence[list[int]]) -> Tensor:
        for context in {tuple(row[1 - ORDER :]) for row in rows} - set(known):
            known[context] = torch.from_numpy(np.log(model.probabilities(context))).float()
        return torch.stack([known[tuple(row[1 - ORDER :])] for row in rows])

    return tokenizer, next_logits


def write(next_logits: Callable, sampler: Sampler, end: int, n: int, length: int, seed: int) -> list[list[int]]:
    "n texts of at most `length` ids, each until the end token, which is not returned."
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = [[end] for _ in range(n)]
    for _ in range(length):
        live = [row for row in rows if len(row) == 1 or row[-1] != end]
        if not live:
            break
        longest = max(map(len, live))
        history = torch.tensor([[-1] * (longest - len(row)) + row for row in live])
        for row, token in zip(live, sampler(next_logits(live), history, generator=generator).tolist()):
            row.append(token)
    return [[token for token in row if token != end] for row in rows]


def judge_texts(texts: list[list[int]], tokenizer: Tokenizer, n: int = 4) -> dict:
    "Shares: sentences that parse, different texts, 4-grams said before in their text, different 4-grams of all."
    sentences, grams, again = [], [], 0
    for ids in texts:
        whole = split_sentences(tokenizer.decode(ids))
        sentences += whole if len(ids) < LENGTH or len(whole) < 2 else whole[:-1]  # the last one was cut off
        own = list(zip(*(ids[i:] for i in range(n))))
        again += len(own) - len(set(own))
        grams += own
    parse = [parse_sentence(sentence) is not None for sentence in sentences]
    shares = {"parse": np.mean(parse), "texts": len({tuple(ids) for ids in texts}) / len(texts)}
    shares |= {"repeated": again / len(grams), "different": len(set(grams)) / len(grams)}
    return {name: round(float(share), 4) for name, share in shares.items()}


def run(seed: int) -> dict:
    "The shares for held-out stories, cut to the same length, and for each sampler."
    tokenizer, next_logits = story_model(seed)
    end = tokenizer.special_tokens["<|endoftext|>"]
    held_out = StoryWorld(split="validation").stories(TEXTS, start=seed * TEXTS)
    found = {"real": judge_texts([tokenizer.encode(story.text)[:LENGTH] for story in held_out], tokenizer)}
    for name, sampler in SAMPLERS.items():
        found[name] = judge_texts(write(next_logits, sampler, end, TEXTS, LENGTH, seed), tokenizer)
    return found


PROCESSORS = [Sampler, Temperature, TopK, TopP, MinP, RepetitionPenalty]
FUNCTIONS = [story_model, write, judge_texts, run, *PROCESSORS]  # what the record's hash covers
