"""The decoding loop: greedy ids equal to transformers' `generate`, also left-padded and past the end of a row; batched equal to one at a time,
cached equal to uncached, over random models, prompts, samplers, stop ids and contexts; pieces of text equal to the whole; bad input.
"""

import random
import re
from typing import Any

import pytest
import torch
from chapters import chapter_function
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model_transformers import FAMILIES, pair
from torch import Generator, Tensor, nn
from transformers import GenerationConfig

from minillm.attention import Cache
from minillm.bigram import Bigram
from minillm.generate import (
    Generated,
    Reader,
    Row,
    StopStrings,
    generate,
    left_pad,
    next_logits,
    prompt_ids,
    row_seeds,
    stream_ids,
    stream_text,
)
from minillm.model import LanguageModel, ModelConfig
from minillm.sampling import Sampler
from minillm.tokenizer import END_OF_TEXT, Tokenizer

GREEDY = Sampler(temperature=0)
ListCache = chapter_function("42_generate", "ListCache")
Parrot = chapter_function("42_generate", "Parrot")


def some_prompts(rng: random.Random, V: int, longest: int = 9) -> list[list[int]]:
    "Two to five prompts of different lengths, one of them with a single id."
    lengths = [1, *(rng.randint(1, longest) for _ in range(rng.randint(1, 4)))]
    rng.shuffle(lengths)
    return [[rng.randrange(V) for _ in range(n)] for n in lengths]


def small_model(rng: random.Random, **changes: Any) -> LanguageModel:
    "Random, with weights so large that every id before matters."
    K, G = rng.choice([(1, 2), (2, 1), (2, 2)])
    c = ModelConfig(vocab_size=30, width=K * G * 8, n_layers=2, n_heads=K * G, n_kv_heads=K, context=64, init_std=0.5, **changes)
    return LanguageModel(c, generator=Generator().manual_seed(rng.randrange(999)))


# ---- transformers


def theirs_greedy(theirs: nn.Module, prompts: list[list[int]], n: int, end: int | None) -> list[list[int]]:
    "Their `generate` on a left-padded batch: the new ids, without the end and what comes after it."
    ids, positions = left_pad(prompts, pad=0)
    theirs.generation_config.eos_token_id = end  # else the configuration's stands in for None
    settings = GenerationConfig(max_new_tokens=n, do_sample=False, pad_token_id=0, eos_token_id=end)
    settings.use_cache = getattr(theirs.config, "sliding_window", None) != 1  # their cache is wrong for a window of 1 (5.23)
    found = theirs.generate(ids, attention_mask=(positions >= 0).long(), generation_config=settings)[:, ids.shape[1] :].tolist()
    return [row[: row.index(end)] if end in row else row for row in found]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_ids_equal_transformers(family: str, seed: int) -> None:
    "One at a time, and left-padded; without a cache, and with one; with an end that comes for some rows."
    c, ours, theirs, _ = pair(family, seed)
    prompts = some_prompts(random.Random(seed), c.vocab_size, 5)
    whole = theirs_greedy(theirs, prompts, 10, None)
    assert whole == [theirs_greedy(theirs, [prompt], 10, None)[0] for prompt in prompts]
    assert generate(ours, prompts, max_new_tokens=10, sampler=GREEDY, context=64) == (whole, ["length"] * len(prompts))
    end = whole[0][-1]  # comes at the latest as the last of row 0
    right = theirs_greedy(theirs, prompts, 10, end)
    assert right != whole
    for cache in (None, ListCache(prompts, c.n_layers)):
        found = generate(ours, prompts, cache, max_new_tokens=10, sampler=GREEDY, stop_ids=[end], context=64)
        assert found.ids == right
        assert found.why == ["stop" if end in row else "length" for row in whole]


def test_what_the_chapter_says_of_theirs() -> None:
    "Theirs returns the prompt too and fills ended rows; with chance a row depends on its neighbours."
    _, _, theirs, _ = pair("llama", 0)
    theirs.generation_config.eos_token_id = end = theirs_greedy(theirs, [[1, 2]], 5, None)[0][2]
    found = theirs.generate(torch.tensor([[1, 2]] * 2 + [[3, 3]]), max_new_tokens=30, do_sample=False, pad_token_id=4)
    assert found[:, :2].tolist() == [[1, 2], [1, 2], [3, 3]]
    assert found[0, 2:].tolist() == (new := found[0, 2:].tolist())[: new.index(end) + 1] + [4] * (len(new) - new.index(end) - 1)
    theirs.generation_config.eos_token_id = None

    def drawn(n: int) -> list[int]:
        torch.manual_seed(0)
        return theirs.generate(torch.tensor([[1, 2]] * n), max_new_tokens=20, do_sample=True, top_k=0, temperature=3.0, pad_token_id=4)[0].tolist()

    assert drawn(1) == drawn(1) != drawn(2)


def test_their_names() -> None:
    "The names that the chapter maps to ours exist there."
    known = GenerationConfig()
    for name in ("max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "eos_token_id", "stop_strings", "pad_token_id", "use_cache"):
        assert hasattr(known, name), name


# ---- one law: a row is what it would be alone, with and without a cache

SAMPLERS = [GREEDY, Sampler(), Sampler(0.7, top_k=5), Sampler(1.3, top_p=0.8, repetition_penalty=1.5), Sampler(min_p=0.1, banned=[3])]


@pytest.mark.parametrize("positions", ["rope", "alibi", "learned"])
@pytest.mark.parametrize("seed", range(4))
def test_batched_equals_alone_and_cached_equals_uncached(seed: int, positions: str) -> None:
    "Contexts that end before, within and after the texts; windows; rows that end early."
    rng = random.Random(f"{seed} {positions}")
    model = small_model(rng, positions=positions, window=rng.choice([None, 3]))
    prompts, seeds = some_prompts(rng, 30), [rng.randrange(2**40) for _ in range(5)]
    for sampler in SAMPLERS:
        options = {"sampler": sampler, "stop_ids": [rng.randrange(30)], "max_new_tokens": rng.randint(1, 25), "context": rng.choice([4, 12, 20, 64])}
        together = generate(model, prompts, seed=seeds[: len(prompts)], **options)
        alone = [generate(model, [prompt], seed=[seed], **options) for prompt, seed in zip(prompts, seeds)]
        assert together == Generated([one.ids[0] for one in alone], [one.why[0] for one in alone]), options
        assert generate(model, prompts, ListCache(prompts, 2), seed=seeds[: len(prompts)], **options) == together, options


def by_hand(model: nn.Module, prompt: list[int], n: int, context: int) -> list[int]:
    "The best id after the last `context` ids, again and again: nanoGPT's loop."
    ids = [*prompt]
    for _ in range(n):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids[-context:]]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal", "relative", "none"])
def test_the_window_slides(positions: str) -> None:
    "Past the context, and from a prompt that is longer, as from the last ids alone; the model's own context is the default."
    rng = random.Random(positions)
    model = small_model(rng, positions=positions)
    model.config = model.config.change(context=8) if positions != "learned" else model.config
    prompts = [[rng.randrange(30) for _ in range(n)] for n in (3, 8, 9, 15)]
    right = [by_hand(model, prompt, 20, 8) for prompt in prompts]
    context = {"context": 8} if positions == "learned" else {}
    for cache in (None, ListCache(prompts, 2), ListCache(prompts[:2], 2)):
        some = prompts[:2] if cache and len(cache.layers[0].plan) == 2 else prompts
        assert generate(model, some, cache, max_new_tokens=20, sampler=GREEDY, **context).ids == right[: len(some)]


@pytest.mark.parametrize("cached", [False, True])
def test_neighbours_do_not_matter(cached: bool) -> None:
    "Other rows, another order, rows that are ended from outside: the others go on as if nothing had happened."
    rng = random.Random(5)
    model, prompts = small_model(rng), some_prompts(rng, 30)
    cache = lambda some: ListCache(some, 2) if cached else None
    whole = generate(model, prompts, cache(prompts), max_new_tokens=15, seed=[*range(len(prompts))]).ids
    order = [*reversed(range(len(prompts)))]
    turned = [prompts[r] for r in order]
    assert generate(model, turned, cache(turned), max_new_tokens=15, seed=order).ids == whole[::-1]
    stream = stream_ids(model, prompts, cache(prompts), max_new_tokens=15, seed=[*range(len(prompts))])
    for step, tokens in enumerate(stream):
        assert tokens[0] == (whole[0][step] if step < 4 else None)
        if step == 3:
            stream.stop(0)
    assert [row.new for row in stream.rows] == [whole[0][:4], *whole[1:]]
    assert [row.why for row in stream.rows] == ["stopped"] + ["length"] * (len(prompts) - 1)
    longer = [*prompts, [1] * 30]
    assert generate(model, longer, cache(longer), max_new_tokens=15, seed=[*range(len(longer))]).ids[:-1] == whole


def test_seeds() -> None:
    model = small_model(random.Random(0))
    write = lambda n=1, **seed: generate(model, [[1]] * n, max_new_tokens=12, **seed).ids
    assert write(seed=3) == write(seed=3) != write(seed=4)
    assert write(4, seed=3)[:2] == write(2, seed=3) and len({*map(tuple, write(9, seed=3))}) == 9  # equal prompts, different texts
    assert write(2, seed=[5, 5])[0] == write(seed=[5])[0] == write(2, seed=[5, 5])[1]
    assert not {*row_seeds(0, 20)} & {*row_seeds(1, 20)}  # another seed has no row in common
    for n in range(1, 40):
        assert row_seeds(7, n) == row_seeds(7, 40)[:n]
    torch.manual_seed(1)
    before = write()
    assert write() != before  # each call its own
    torch.manual_seed(1)
    assert write() == before  # which torch's global generator decides
    state = torch.get_rng_state()
    write(seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # with a seed nothing global is touched


# ---- cost, modes, formats


class Watched(nn.Module):
    "A model that notes the shape of what it is given, and whether anything is in training mode or wants a gradient."

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.shapes = model, []

    def forward(self, ids: Tensor, *, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        assert not torch.is_grad_enabled() and not any(module.training for module in self.modules())
        self.shapes.append(tuple(ids.shape))
        return self.model(ids, positions=positions, cache=cache)


def test_what_is_read() -> None:
    "Without a cache: rows that go on, as far as the longest of them reaches. With one: each column once."
    model, prompts = Watched(small_model(random.Random(1))), [[1, 2, 3, 4], [5]]
    model.train()
    stream = stream_ids(model, prompts, max_new_tokens=4, sampler=GREEDY)
    next(stream), next(stream)
    stream.stop(0)
    assert len([*stream]) == 2 and model.shapes == [(2, 4), (2, 5), (1, 3), (1, 4)] and model.training and model.model.training
    model.shapes = []
    generate(model, prompts, ListCache(prompts, 2), max_new_tokens=4, sampler=GREEDY)
    assert model.shapes == [(2, 4), (2, 1), (2, 1), (2, 1)]
    model.shapes = []
    generate(model, prompts, ListCache(prompts, 2), max_new_tokens=4, sampler=GREEDY, context=5)  # two columns fit, then all is read again
    assert model.shapes == [(2, 4), (2, 1), (2, 5), (2, 5)]
    model.shapes = []
    assert generate(model, prompts, max_new_tokens=0) == ([[], []], ["length", "length"]) and not model.shapes


def test_the_head_reads_one_column() -> None:
    model = small_model(random.Random(2))
    seen: list[tuple[int, ...]] = []
    model.lm_head.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    ids = torch.randint(30, (2, 7))
    with torch.no_grad():
        right = model(ids)[:, -1]
    torch.testing.assert_close(next_logits(model, ids), right)
    assert seen[1] == (2, 32) or seen[1] == (2, model.config.width)


def test_modes_come_back() -> None:
    "Also when the model fails, and for modules that were frozen in a model that trains."
    model = small_model(random.Random(3), dropout=0.3)
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    first = generate(model, [[1, 2]], max_new_tokens=8, sampler=GREEDY)
    with pytest.raises(ValueError):
        generate(model, [[1, 99]], max_new_tokens=3)
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes
    assert first == generate(model.eval(), [[1, 2]], max_new_tokens=8, sampler=GREEDY)


def test_half_precision() -> None:
    model = small_model(random.Random(4)).bfloat16()
    assert next_logits(model, torch.tensor([[1, 2]])).dtype == torch.float32
    prompts = [[1, 2, 3], [4]]
    found = generate(model, prompts, max_new_tokens=6, sampler=GREEDY)
    assert generate(model, prompts, ListCache(prompts, 2), max_new_tokens=6, sampler=GREEDY).why == found.why == ["length"] * 2


def test_any_model() -> None:
    "A bigram writes too: 0 → 3 → 1 → 2 → 0; the first ids in a tensor or an array."
    bigram = Bigram(4)
    for last, following in ((0, 3), (3, 1), (1, 2), (2, 0)):
        bigram.weight.data[last, following] = 9.0
    assert generate(bigram, [[0], [1, 2]], max_new_tokens=5, sampler=GREEDY).ids == [[3, 1, 2, 0, 3], [0, 3, 1, 2, 0]]
    assert generate(bigram, torch.tensor([[0]]), max_new_tokens=9, sampler=GREEDY, stop_ids={2}) == ([[3, 1]], ["stop"])
    assert generate(bigram, torch.tensor([[0]]).numpy(), max_new_tokens=2, sampler=GREEDY).ids == [[3, 1]]


# ---- texts


def cut_by_definition(text: str, strings: list[str]) -> str:
    "The text before the string that is complete first; of two complete at once the longer."
    for n in range(1, len(text) + 1):
        if ends := [one for one in strings if text[:n].endswith(one)]:
            return text[: n - max(map(len, ends))]
    return text


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    text=st.text("ab.", max_size=14),
    strings=st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 14), max_size=6),
)
def test_stop_strings(text: str, strings: list[str], cuts: list[int]) -> None:
    "However a text is cut into pieces, the same comes through, and never less than is certain."
    stops, passed, places = StopStrings(strings), "", sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    for begin, end in zip(places, places[1:]):
        passed += stops.push(text[begin:end])
        seen = text[:end]
        if stops.found is None:
            held = seen[len(passed) :]
            assert passed + held == seen and (not held or any(one.startswith(held) for one in strings))
            waiting = [k for k in range(len(seen) + 1) if any(one.startswith(seen[k:]) and one != seen[k:] for one in strings)]
            assert len(held) == (len(seen) - min(waiting) if waiting else 0)
    right = cut_by_definition(text, strings)
    assert (stops.found is None) == (right == text and not any(one in text for one in strings))
    assert passed + stops.finish() == right


LETTERS = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], [END_OF_TEXT])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(max_size=12), strings=st.lists(st.text(min_size=1, max_size=3), max_size=2), n=st.integers(0, 60))
def test_streamed_text(text: str, strings: list[str], n: int) -> None:
    "Joined pieces are the decoded ids, cut at a stop string; no piece is empty; why it ended."
    said = stream_text(Parrot(text), LETTERS, "", max_new_tokens=n, stop=strings)
    pieces = [*said]
    whole = text.encode("utf-8")[:n].decode("utf-8", "replace")
    assert "".join(pieces) == cut_by_definition(whole, strings) and all(pieces)
    found = any(one in whole for one in strings)
    assert said.why == ("stop string" if found else "stop" if len(text.encode("utf-8")) < n else "length")
    assert next(said, None) is None
    if found:  # the row was ended: no id too many
        cut = said.stream.rows[0].new
        assert not any(one in bytes(cut[:-1]).decode("utf-8", "replace") for one in strings if "\N{REPLACEMENT CHARACTER}" not in one)


def test_prompts_of_text() -> None:
    end = LETTERS.special_tokens[END_OF_TEXT]
    assert prompt_ids(LETTERS, "") == [end] and prompt_ids(LETTERS, "Hi") == [end, 72, 105]
    assert prompt_ids(LETTERS, END_OF_TEXT)[1:] == [*END_OF_TEXT.encode()]  # a text is never a command
    assert "".join(stream_text(Parrot("Hello"), LETTERS, "", max_new_tokens=9)) == "Hello"  # an empty prompt: from the end on
    assert "".join(stream_text(Parrot("Hello"), LETTERS, "Hel", max_new_tokens=9)) == "lo"
    assert "".join(stream_text(Parrot("Hello"), LETTERS, [end, 72], max_new_tokens=9)) == "ello"
    assert "".join(stream_text(Parrot("a stop b"), LETTERS, "a stop", max_new_tokens=9, stop="stop")) == " b"  # in the prompt it is none
    without = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [])
    with pytest.raises(ValueError, match="has no '<|endoftext|>'".replace("|", r"\|")):
        stream_text(Parrot("Hello"), without, "", max_new_tokens=9)
    assert "".join(stream_text(Parrot("Hello"), without, [1], max_new_tokens=3)) == "Hel"


def test_a_stream_may_be_left() -> None:
    model = Watched(small_model(random.Random(6)))
    for _ in stream_ids(model, [[1]], max_new_tokens=1000):
        if len(model.shapes) == 3:
            break
    assert len(model.shapes) == 3


# ---- bad input

MODEL = small_model(random.Random(7))
used = ListCache([[1, 2]], 2)
generate(MODEL, [[1, 2]], used, max_new_tokens=3)


@pytest.mark.parametrize(
    ("ids", "options", "kind", "says"),
    [
        ([[1], []], {}, ValueError, "prompt 1 is empty"),
        ([1, 2], {}, TypeError, "expected a list of prompts"),
        ("abc", {}, TypeError, "expected a list of prompts"),
        (["abc"], {}, TypeError, "expected a list of prompts"),
        ([[1.5]], {}, TypeError, "expected a list of prompts"),
        (None, {}, TypeError, "expected a list of prompts"),
        ([[30]], {}, ValueError, "30"),
        ([[-1]], {}, ValueError, "-1"),
        ([[1]], {"max_new_tokens": -1}, ValueError, "max_new_tokens=-1; expected at least 0"),
        ([[1]], {"max_new_tokens": 2.0}, TypeError, "max_new_tokens=2.0"),
        ([[1]], {"max_new_tokens": True}, TypeError, "max_new_tokens=True"),
        ([[1]], {"context": 0}, ValueError, "context=0; expected at least 1"),
        ([[1]], {"stop_ids": [30]}, ValueError, "stop_ids holds 30, and the model writes ids from 0 to 29"),
        ([[1]], {"stop_ids": [-1]}, ValueError, "stop_ids holds -1"),
        ([[1], [2]], {"seed": [1]}, ValueError, "1 seeds for 2 prompts"),
        ([[1, 2]], {"cache": used}, ValueError, "hold nothing yet"),
        ([[1, 2, 3]], {"cache": ListCache([[1], [1, 2, 3]], 2)}, ValueError, "made for these prompts"),
        ([[1, 2, 3], [4]], {"cache": ListCache([[1, 2, 3]], 2)}, ValueError, "made for these prompts"),
        ([[1]] * 3, {"cache": ListCache([[1], [1]], 2)}, ValueError, "made for these prompts"),
        ([[1]], {"cache": ListCache}, ValueError, "expected one with layer(i)"),
        ([[1]], {"cache": {}}, ValueError, "expected one with layer(i)"),
        ([[1]], {"sampler": Sampler(banned=range(30))}, ValueError, "no token left"),
    ],
)
def test_bad_input(ids: Any, options: dict[str, Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=re.escape(says)):
        generate(MODEL, ids, **{"max_new_tokens": 3, **options})


def test_nan_logits() -> None:
    model = small_model(random.Random(8))
    model.norm.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        generate(model, [[1]], max_new_tokens=3)


def test_nothing_to_do() -> None:
    assert generate(MODEL, [], max_new_tokens=5) == ([], []) and [*stream_ids(MODEL, [], max_new_tokens=5)] == []
    assert [*stream_text(Parrot("a"), LETTERS, "", max_new_tokens=0)] == []
    assert generate(MODEL, [[1]], max_new_tokens=3, stop_ids=range(30)) == ([[]], ["stop"])
    ids, positions = left_pad([])
    assert ids.shape == positions.shape == (0, 0) and ids.dtype == torch.int64
    assert left_pad([[], [4]], pad=9)[0].tolist() == [[9], [4]] and left_pad([[], [4]])[1].tolist() == [[-1], [0]]


def test_a_reader_by_hand() -> None:
    "The pieces fit together as `stream_ids` puts them."
    rows = [Row([1, 2], Generator()), Row([3], Generator())]
    reader = Reader(MODEL, rows, None, None)
    right = torch.stack([next_logits(MODEL, torch.tensor([row.ids]))[0] for row in rows])
    torch.testing.assert_close(reader.read(rows), right)
    torch.testing.assert_close(reader.read(rows[1:]), right[1:])
