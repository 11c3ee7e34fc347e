"""The tokenizer against `tokenizers`, `transformers` and `tiktoken`; special tokens, streams, files, and what breaks other tokenizers."""

import itertools
import json
import os
import random
import sys
import time
import tracemalloc
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.bpe import GPT2_PATTERN, GPT4_PATTERN, split_text
from minillm.corpus import load_corpus, sample_sentences
from minillm.tokenizer import (
    END_OF_TEXT,
    PAD,
    ChunkCache,
    StreamDecoder,
    Tokenizer,
    read_gpt2,
    safe_cut,
    safe_parts,
    spell_bytes,
    split_special,
    tokenizer_json,
    write_whole,
)

PATTERNS = [GPT2_PATTERN, GPT4_PATTERN]
# as tiktoken writes them (tiktoken_ext/openai_public.py)
TIKTOKEN = {
    GPT2_PATTERN: r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    GPT4_PATTERN: (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"""
        r"""|\s*[\r\n]|\s+(?!\S)|\s"""
    ),
}
NAMES = [END_OF_TEXT, PAD, "<|a|>", "<|a|><|b|>", "two words"]
TRAPS = [*"aéЖ字ัſK' \n\r\t.,!-_12½٣<|>", "\u0301", "\u3000", "\u00a0", "\x85", "\x1c", "\ufeff", "👩\u200d👩", "🦜"]
TRAPS += ["'re", "'LL", "'ſ", "  ", "\r\n", "12345", "the ", " the", "<|a", "|>", *NAMES]

assigned = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40)  # the libraries' tables differ on what is new
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
trapped = st.lists(st.one_of(st.sampled_from(TRAPS), assigned), max_size=12).map("".join)
relaxed = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@cache
def ours(pattern: str = GPT2_PATTERN) -> Tokenizer:
    return Tokenizer.train(load_corpus("sample"), 2048, special_tokens=NAMES, pattern=pattern)


def as_json(tokenizer: Tokenizer) -> str:
    return tokenizer_json(tokenizer.token_bytes, tokenizer.merges, tokenizer.special_tokens, tokenizer.pattern)


@cache
def public(pattern: str) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(as_json(ours(pattern)))


@cache
def openai(pattern: str) -> tiktoken.Encoding:
    tokenizer = ours(pattern)
    special = tokenizer.special_tokens
    ranks = {data: token for token, data in enumerate(tokenizer.token_bytes) if token not in special.values()}
    return tiktoken.Encoding("ours", pat_str=TIKTOKEN[pattern], mergeable_ranks=ranks, special_tokens=special)


# ---- equal to the public libraries


@pytest.mark.parametrize("pattern", PATTERNS, ids=["gpt2", "gpt4"])
@given(text=trapped)
@relaxed
def test_equal_to_tokenizers_and_tiktoken(pattern: str, text: str) -> None:
    tokenizer = ours(pattern)
    ids = tokenizer.encode(text)
    assert ids == openai(pattern).encode_ordinary(text)
    allowed = tokenizer.encode(text, allowed_special="all")
    assert allowed == public(pattern).encode(text).ids
    assert tokenizer.decode(ids) == text == tokenizer.decode(allowed)
    assert openai(pattern).decode(ids) == text


@pytest.mark.parametrize("pattern", PATTERNS, ids=["gpt2", "gpt4"])
@given(text=anything)
@relaxed
def test_nothing_is_lost(pattern: str, text: str) -> None:
    "Every text that UTF-8 can write, unassigned characters among them."
    assert ours(pattern).decode(ours(pattern).encode(text)) == text
    assert "".join(split_text(text, pattern)) == text


@pytest.mark.parametrize("pattern", PATTERNS, ids=["gpt2", "gpt4"])
def test_equal_on_code_points(pattern: str) -> None:
    """What counts as letter, number or space is the same to all three, but for characters that are newer than Python's own tables.

    The libraries carry Unicode tables of different age. All of the first two planes is tried, where nearly all assigned characters are.
    """
    codes = [code for code in (*range(0x20000), *range(0x20000, 0x110000, 97)) if not 0xD800 <= code < 0xE000]
    texts = [f"{chr(code)}'s1{chr(code)}1 {chr(code)}{chr(code)}" for code in codes]  # 's after a letter is a chunk
    mine, theirs = [ours(pattern).encode(text) for text in texts], openai(pattern).encode_ordinary_batch(texts, num_threads=1)
    public_ids = [encoding.ids for encoding in public(pattern).encode_batch_fast(texts)]
    known = [unicodedata.category(chr(code)) != "Cn" for code in codes]
    assert sum(known) > 80_000
    for code, *ids in itertools.compress(zip(codes, mine, theirs, public_ids), known):
        assert ids[0] == ids[1] == ids[2], f"U+{code:04X}"


def test_transformers_opens_our_file(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = ours()
    tokenizer.save(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert len(theirs) == tokenizer.vocab_size
    chance = random.Random(0)
    for _ in range(300):
        text = "".join(chance.choices(TRAPS, k=chance.randrange(20)))
        ids = tokenizer.encode(text, allowed_special="all")
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text


def test_opens_what_tokenizers_wrote(tmp_path: Path) -> None:
    "A foreign file: trained there, saved there, with ByteLevel's own pattern and special tokens in front."
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    theirs.train_from_iterator(load_corpus("sample")[:60], trainer)
    path = tmp_path / "theirs.json"
    theirs.save(str(path))
    tokenizer = Tokenizer.load(path)
    assert tokenizer.special_tokens == {"<s>": 0, "</s>": 1} and tokenizer.pattern == GPT2_PATTERN
    for text in [*load_corpus("sample")[60:120], *sample_sentences().values(), "".join(TRAPS)]:
        assert tokenizer.encode(text) == theirs.encode(text).ids
    assert tokenizer.encode("<s>a</s>", allowed_special="all") == theirs.encode("<s>a</s>").ids

    theirs.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    theirs.save(str(path))
    with pytest.raises(ValueError, match=r"theirs\.json: its post_processor is 'TemplateProcessing'"):
        Tokenizer.load(path)


def test_the_three_libraries_by_name() -> None:
    "The table of the chapter: what does the same by another name."
    tokenizer, theirs, fast = ours(), openai(GPT2_PATTERN), tokenizers.Tokenizer.from_str(as_json(ours()))
    text, id = f"It{END_OF_TEXT} is", ours().special_tokens[END_OF_TEXT]
    plain, template = tokenizer.encode(text), tokenizer.encode(text, allowed_special="all")
    assert id in template and id not in plain == theirs.encode_ordinary(text)
    with pytest.raises(ValueError, match="disallowed special token"):
        theirs.encode(text)
    assert theirs.encode(text, allowed_special="all") == template == fast.encode(text).ids
    fast.encode_special_tokens = True
    assert fast.encode(text).ids == plain
    assert tokenizer.decode(template) == theirs.decode(template) == fast.decode(template, skip_special_tokens=False) == text
    assert fast.decode(template) == "It is"
    assert theirs.encode_single_token(END_OF_TEXT) == fast.token_to_id(END_OF_TEXT) == id
    the = tokenizer.encode(" the")[0]
    assert tokenizer.token_bytes[the] == theirs.decode_single_token_bytes(the) == b" the" and fast.id_to_token(the) == "Ġthe"
    assert fast.encode("a b").offsets and theirs.decode_with_offsets([65])[1] == [0]


# ---- special tokens


@given(text=trapped, names=st.sets(st.sampled_from(NAMES)))
@relaxed
def test_text_is_only_text_unless_allowed(text: str, names: set[str]) -> None:
    tokenizer = ours()
    special = {id: name for name, id in tokenizer.special_tokens.items()}
    assert not special.keys() & set(tokenizer.encode(text))
    made = [special[i] for i in tokenizer.encode(text, allowed_special=names) if i in special]
    assert made == split_special(text, names)[1::2] and set(made) <= names
    assert tokenizer.encode(text, allowed_special=[]) == tokenizer.encode(text)


@pytest.mark.parametrize("allowed", [END_OF_TEXT, "none", ["<|unknown|>"], [END_OF_TEXT, "<s>"]])
def test_unknown_allowed_special_is_refused(allowed: object) -> None:
    tokenizer = ours()
    for call in (tokenizer.encode, tokenizer.encode_iterable):
        with pytest.raises(ValueError, match="expected 'all' or a collection"):
            call("text", allowed_special=allowed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 'all' or a collection"):
        tokenizer.encode_batch(["text"], allowed_special=allowed)  # type: ignore[arg-type]


def test_special_tokens_get_ids() -> None:
    vocab, merges = {byte: bytes([byte]) for byte in range(256)} | {256: b"ab"}, [(b"a", b"b")]
    assert Tokenizer(vocab, merges).special_tokens == {}
    tokenizer = Tokenizer(vocab | {257: b"<x>"}, merges, ["<y>", "<x>", "né ½"])
    assert tokenizer.special_tokens == {"<y>": 258, "<x>": 257, "né ½": 259} and tokenizer.vocab_size == 260
    assert tokenizer.encode("né ½", allowed_special="all") == [259] and tokenizer.decode([259, 256]) == "né ½ab"
    for names, says in [(["ab"], "plain text"), (["a"], "plain text"), ([""], "empty"), (["<x>"] * 2, "named twice")]:
        with pytest.raises(ValueError, match=says):
            Tokenizer(vocab, merges, names)
    with pytest.raises(ValueError, match="surrogate"):
        Tokenizer(vocab, merges, ["<\ud800>"])


# ---- streams


@given(data=st.lists(st.binary(max_size=6), max_size=8))
@relaxed
def test_stream_decoding_is_whole_decoding(data: list[bytes]) -> None:
    for errors in ("replace", "ignore", "backslashreplace"):
        decoder = StreamDecoder(data, errors)
        for _ in range(2):  # the second time after finish(): nothing is left over
            text = "".join(map(decoder.push, range(len(data)))) + decoder.finish()
            assert text == b"".join(data).decode("utf-8", errors)


@given(text=trapped)
@relaxed
def test_stream_decoding_ours(text: str) -> None:
    tokenizer = ours()
    for ids in (tokenizer.encode(text), list(text.encode())):
        decoder = tokenizer.stream_decoder("strict")
        pieces = [decoder.push(token) for token in ids]
        assert "".join(pieces) + decoder.finish() == text
        for number in range(len(ids)):  # a piece comes as early as it can
            before = b"".join(tokenizer.token_bytes[i] for i in ids[: number + 1])
            assert "".join(pieces[: number + 1]) == before.decode("utf-8", "ignore")


def test_a_strict_stream_can_be_used_again() -> None:
    decoder = StreamDecoder([b"\xc3", b"n", b"\xa9"], "strict")
    for _ in range(2):
        assert decoder.push(0) == ""
        with pytest.raises(UnicodeDecodeError, match="unexpected end"):
            decoder.finish()
    assert decoder.push(1) + decoder.push(0) + decoder.push(2) + decoder.finish() == "né"


def test_unknown_errors_are_refused_at_once() -> None:
    for call in (ours().stream_decoder, lambda errors: ours().decode([65], errors)):
        with pytest.raises(LookupError, match="replacing"):
            call("replacing")


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(ends)] or [text]


@pytest.mark.parametrize("pattern", PATTERNS, ids=["gpt2", "gpt4"])
@given(text=trapped, places=st.lists(st.integers(0, 1000)), size=st.integers(1, 12), names=st.sets(st.sampled_from(NAMES)))
@relaxed
def test_iterable_is_joined(pattern: str, text: str, places: list[int], size: int, names: set[str]) -> None:
    tokenizer, pieces = ours(pattern), cut(text, places)
    whole = tokenizer.encode(text, allowed_special=names)
    assert list(tokenizer.encode_iterable(pieces, allowed_special=names)) == whole
    parts = list(safe_parts(pieces, pattern, names, size))
    assert "".join(parts) == text
    assert [i for part in parts for i in tokenizer.encode(part, allowed_special=names)] == whole


def test_iterable_with_an_unknown_pattern_waits_for_all() -> None:
    "A pattern that looks far ahead: cutting anywhere would change the chunks."
    pattern = r"\w+(?=.*!)|\w|\W"
    tokenizer = Tokenizer.train(["one two!" * 5], 260, pattern=pattern)
    text = "one two one " * 9000 + "!"
    pieces = [text[i : i + 100] for i in range(0, len(text), 100)]
    assert list(safe_parts(pieces, pattern, size=10)) == [text]
    assert list(tokenizer.encode_iterable(pieces)) == tokenizer.encode(text)


def test_iterable_errors_name_the_piece() -> None:
    tokenizer = ours()
    with pytest.raises(ValueError, match=r"piece 1, from character 0 on: the character at position 2"):
        list(tokenizer.encode_iterable(["fine", "ab\udc80"]))
    with pytest.raises(TypeError, match="piece 1, from character 0 on: got bytes"):
        list(tokenizer.encode_iterable(["fine", b"raw"]))  # type: ignore[list-item]
    assert list(tokenizer.encode_iterable([])) == list(tokenizer.encode_iterable(["", ""])) == []


def line(megabytes: int) -> str:
    "Ordinary text in one line, without a single line end."
    words = " ".join(load_corpus("sample")).replace("\n", " ")
    return words * (megabytes * 1_000_000 // len(words) + 1)


def test_a_long_line_takes_bounded_memory() -> None:
    tokenizer, text = ours(), line(3)
    tokenizer.chunks.clear()
    tracemalloc.start()
    count = sum(1 for _ in tokenizer.encode_iterable([text]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 500_000 and peak < 5_000_000


@pytest.mark.parametrize("unit", ["- ", "--- ***\n", "🦜 ", "!?\t"])
def test_text_without_letters_takes_bounded_memory(unit: str) -> None:
    "Signs and blanks alone: a blank behind a sign is a safe place."
    tokenizer, text = ours(), unit * (1_000_000 // len(unit))
    tokenizer.chunks.clear()
    tracemalloc.start()
    count = sum(1 for _ in tokenizer.encode_iterable([text]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 200_000 and peak < 6_000_000, f"{peak:,} bytes"


@pytest.mark.parametrize("pattern", PATTERNS, ids=["gpt2", "gpt4"])
@given(text=trapped, rest=trapped)
@relaxed
def test_a_safe_cut_is_safe_whatever_follows(pattern: str, text: str, rest: str) -> None:
    cut = safe_cut(text)
    assert split_text(text[:cut], pattern) + split_text(text[cut:] + rest, pattern) == split_text(text + rest, pattern)


def test_text_without_a_safe_place_is_searched_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    "One chunk of a megabyte in blocks: the searches for a cut must not add up to a square."
    searched: list[int] = []
    monkeypatch.setattr("minillm.tokenizer.safe_cut", lambda text, special: searched.append(len(text)) or safe_cut(text, special))
    assert sum(map(len, safe_parts(["-" * 1000] * 1000, size=1000))) == 1_000_000
    assert 0 < sum(searched) < 3_000_000  # with a search for each block it would be 500 million


@pytest.mark.parametrize("unit", ["a", "-", "ab", " ", "字", "the"])
def test_an_unbroken_chunk_is_better_than_quadratic(unit: str) -> None:
    "Time grows less than the square of the size: 16 times the text takes about 20 times as long by n log n, and 256 by a square."
    tokenizer = ours()

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        best = float("inf")
        for _ in range(2):
            began = time.process_time()
            tokenizer.encode(text)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(64_000) < 60 * seconds(4_000) + 0.05


# ---- the cache


def test_the_cache_is_bounded() -> None:
    tokenizer = ours()
    ids = {data: token for token, data in enumerate(tokenizer.token_bytes)}
    ranks = {pair: place for place, pair in enumerate(tokenizer.merges)}
    full = ChunkCache(ids, ranks)
    tracemalloc.start()
    for number in range(4096):
        full[f"{number:064d}"]  # the worst case: 64 bytes, hardly a merge
    each = tracemalloc.get_traced_memory()[0] / 4096  # bytes
    tracemalloc.stop()
    assert 65_536 * each < 80_000_000
    full["0" * 65]
    full["é" * 33]
    assert len(full) == 4096  # longer ones are not kept
    full.update(dict.fromkeys(map(str, range(65_536 - 4096)), (0,)))
    assert len(full) == 65_536 == full.limit
    full["one more"]
    assert list(full) == ["one more"]


def test_the_cache_gives_what_merging_gives() -> None:
    "Also after it has forgotten, and when a chunk comes for the second time."
    tokenizer, again = ours(), ours(GPT4_PATTERN)
    for text in [*load_corpus("sample")[:30], *sample_sentences().values()]:
        first = tokenizer.encode(text)
        assert tokenizer.encode(text) == first
        tokenizer.chunks.clear()
        assert tokenizer.encode(text) == first
        assert again.decode(again.encode(text)) == text
    tokenizer.chunks.limit = 5
    try:
        assert tokenizer.encode(line(1)[:100_000]) == openai(GPT2_PATTERN).encode_ordinary(line(1)[:100_000])
    finally:
        tokenizer.chunks.limit = 65_536


# ---- text and ids that are none


@given(text=st.text(max_size=30), place=st.integers(0, 30), code=st.integers(0xD800, 0xDFFF))
@relaxed
def test_a_lone_surrogate_is_named_with_its_position(text: str, place: int, code: int) -> None:
    text = regex.sub(r"\p{Cs}", "", text)
    place = min(place, len(text))
    for allowed in ((), "all"):
        with pytest.raises(ValueError, match=rf"position {place} is the lone surrogate U\+{code:04X}"):
            ours().encode(text[:place] + chr(code) + text[place:], allowed_special=allowed)


@pytest.mark.parametrize("text", [b"bytes", None, 5, ["text"]])
def test_what_is_no_text_is_refused(text: object) -> None:
    with pytest.raises(TypeError, match="expected str"):
        ours().encode(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [(-1, ValueError), (2048, ValueError), (10**30, ValueError), (10**5000, ValueError), (True, TypeError), (1.0, TypeError), ("1" * 1_000_000, TypeError), (None, TypeError)],
    ids=lambda value: repr(type(value).__name__),
)
def test_what_is_no_id_is_refused(bad: object, kind: type[Exception]) -> None:
    tokenizer = ours()
    with pytest.raises(kind, match=r"ids\[2\] is ") as caught:
        tokenizer.decode([1, 2, bad])  # type: ignore[list-item]
    assert len(str(caught.value)) < 250
    with pytest.raises(kind, match=r"ids\[0\] is "):
        tokenizer.stream_decoder().push(bad)  # type: ignore[arg-type]
    assert tokenizer.decode([]) == "" and tokenizer.decode((65, 66)) == "AB"


def test_a_tensor_of_ids_is_told_what_to_do() -> None:
    import numpy as np

    with pytest.raises(TypeError, match=r"ids\.tolist\(\)"):
        ours().decode(np.array([65, 66]))  # type: ignore[arg-type]


def test_decode_of_half_a_character() -> None:
    tokenizer = ours()
    assert tokenizer.decode([0xC3]) == "�" and tokenizer.decode([0xC3, 0xA9]) == "é"
    assert tokenizer.decode([0xC3], errors="ignore") == ""
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode([0xC3], errors="strict")


BYTES = {byte: bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize(
    ("vocab", "merges", "says"),
    [
        ({**BYTES, 257: b"ab"}, [], "id 256 is missing"),
        ({**BYTES, -1: b"ab"}, [], "id 256 is missing"),
        ({**BYTES, 10**12: b"ab"}, [], "id 256 is missing"),
        ({}, [], "256 of 256 bytes have no id"),
        ({k: v for k, v in BYTES.items() if k < 255}, [], "0xff"),
        ({**BYTES, 256: b"a"}, [], "ids 97 and 256 are both b'a'"),
        ({**BYTES, 256: b""}, [], "not empty"),
        ({**BYTES, 256: "ab"}, [], "not empty"),
        ({**BYTES, "256": b"ab"}, [], "int ids"),
        ({**BYTES, 256.0: b"ab"}, [], "int ids"),
        ({True: b"a"}, [], "maps True to b'a'"),
        ({"x" * 1_000_000: b"a"}, [], "int ids"),
        ({**BYTES, 256: b"ab"}, [(b"a", b"c")], "merge 0, \\(b'a', b'c'\\), needs b'ac'"),
        (BYTES, [(b"a", b"b" * 1_000_000)], "merge 0, .*, needs b'bb"),
        ({**BYTES, 256: b"b" * 1_000_000, 257: b"a" + b"b" * 1_000_000}, [(b"a", b"b" * 1_000_000)] * 2, "merges 0 and 1"),
        ({**BYTES, 256: b"abc"}, [(b"ab", b"c")], "needs b'ab'"),
        ({**BYTES, 256: b"ab"}, [(b"a", b"b"), (b"a", b"b")], "merges 0 and 1"),
        ({**BYTES, 256: b"ab"}, [("a", "b")], "merge 0 is"),
        ({**BYTES, 256: b"ab"}, [(b"a", b"b", b"c")], "merge 0 is"),
    ],
)
def test_parts_that_do_not_fit_are_refused(vocab: dict, merges: list, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says) as caught:
        Tokenizer(vocab, merges)
    assert len(str(caught.value)) < 500


def test_long_names_are_shortened_in_messages() -> None:
    long = "x" * 1_000_000
    calls = [
        lambda: Tokenizer(BYTES, [], long),
        lambda: Tokenizer(BYTES, [], [long, long]),
        lambda: Tokenizer({**BYTES, 256: b"x" * 999_999, 257: long.encode()}, [(b"x", b"x" * 999_999)], [long]),
        lambda: Tokenizer(BYTES, [], [long]).encode("text", allowed_special="none"),
        lambda: ours().encode("text", allowed_special=[long]),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("pattern", ["(", "(a)|b", "a"])
def test_patterns_that_cannot_split_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Tokenizer(BYTES, [], pattern=pattern).encode("ab")


# ---- files


@pytest.mark.parametrize("pattern", PATTERNS, ids=["gpt2", "gpt4"])
def test_round_trip_of_the_file_is_byte_identical(tmp_path: Path, pattern: str) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    ours(pattern).save(first)
    again = Tokenizer.load(first)
    again.save(second)
    assert first.read_bytes() == second.read_bytes()
    assert again.token_bytes == ours(pattern).token_bytes and again.pattern == pattern
    assert list(again.special_tokens.items()) == list(ours(pattern).special_tokens.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.json", "second.json"]


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=2, max_size=5), max_size=4, unique=True))
@relaxed
def test_any_special_token_survives_the_file(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    vocab, merges = {**BYTES, 256: b" t", 257: b"ab"}, [(b" ", b"t"), (b"a", b"b")]
    names = [name for name in names if len(name.encode()) > 1 and name not in (" t", "ab")]
    tokenizer = Tokenizer(vocab, merges, names)
    path = tmp_path_factory.mktemp("special") / "tokenizer.json"
    try:
        tokenizer.save(path)
    except ValueError as error:
        assert "another name" in str(error) and {spell_bytes(data) for data in vocab.values()} & set(names)
        return
    again = Tokenizer.load(path)
    assert again.token_bytes == tokenizer.token_bytes and again.special_tokens == tokenizer.special_tokens
    theirs = tokenizers.Tokenizer.from_file(str(path))
    text = " t".join([*names, "ab"])
    assert theirs.encode(text).ids == again.encode(text, allowed_special="all")


def test_saving_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("old", encoding="utf-8")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="full"):
                ours().save(tmp_path)
        assert path.read_text(encoding="utf-8") == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="surrogate|utf-8"):
        write_whole(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FileNotFoundError, match="mkdir"):
        ours().save(tmp_path / "none" / "tokenizer.json")


def test_the_file_of_the_reader_is_unchanged_by_the_platform(tmp_path: Path) -> None:
    ours().save(tmp_path)
    data = (tmp_path / "tokenizer.json").read_bytes()
    assert b"\r" not in data and data.endswith(b"}\n")
    assert json.loads(data)["model"]["vocab"]["Ġthe"] == ours().encode(" the")[0]


def mutant(**changes: object) -> str:
    "Our file with some values replaced; a key `model__vocab` goes into `model`."
    document = json.loads(as_json(Tokenizer({**BYTES, 256: b"ab"}, [(b"a", b"b")], ["<x>"])))
    for key, value in changes.items():
        *path, last = key.split("__")
        target = document
        for name in path:
            target = target[name]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return json.dumps(document)


VOCAB = json.loads(mutant())["model"]["vocab"]
ADDED = json.loads(mutant())["added_tokens"][0]
SPLIT = json.loads(mutant())["pre_tokenizer"]
HOSTILE = {
    "empty": ("", "no JSON"),
    "one byte": ("{", "no JSON"),
    "binary": (b"\x80\x02}q\x00.", "not UTF-8"),
    "latin-1": ('{"é": 1}'.encode("latin-1"), "byte 2 is 0xe9"),
    "truncated": (mutant()[:-20], "is the file whole"),
    "a list": ("[]", "model is None, expected a dict"),
    "a number": ("1e400", "expected a dict"),
    "endless digits": ("9" * 100_000, "."),
    "nested lists": ("[" * 200_000, "nested too deeply"),
    "nested dicts": ('{"model":' * 200_000, "nested too deeply"),
    "nested normalizer": (mutant()[:-1] + ', "normalizer": ' + "[" * 900 + "]" * 900 + "}", "normalizer"),
    "key twice": (mutant().replace('"b": 98', '"b": 98, "b": 99'), "stands 2 times"),
    "no model": (mutant(model=...), "model is None"),
    "model a list": (mutant(model=[]), "model is \\[\\]"),
    "WordPiece": (mutant(model__type="WordPiece"), "model.type is 'WordPiece'"),
    "unigram": (mutant(model__type="Unigram", model__vocab=[["a", -1.0]]), "model.type is 'Unigram'"),
    "byte fallback": (mutant(model__byte_fallback=True), "byte_fallback"),
    "dropout": (mutant(model__dropout=0.1), "dropout"),
    "ignores merges": (mutant(model__ignore_merges=True), "ignore_merges"),
    "prefix": (mutant(model__continuing_subword_prefix="##"), "continuing_subword_prefix"),
    "suffix": (mutant(model__end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "normalizer": (mutant(normalizer={"type": "NFC"}), "normalizer is 'NFC'"),
    "normalizer without a type": (mutant(normalizer={"type": None}), "normalizer is"),
    "normalizer called none": (mutant(normalizer={"type": "none"}), "normalizer is 'none'"),
    "normalizer empty": (mutant(normalizer={}), "normalizer is {}"),
    "decoder without a type": (mutant(decoder={"type": None}), "decoder is"),
    "added of a megabyte": (mutant(added_tokens=[{**ADDED, "content": "x" * 1_000_000, "special": False}]), "no plain special"),
    "added twice, a megabyte": (mutant(added_tokens=[{**ADDED, "content": "x" * 1_000_000, "id": i} for i in (257, 258)]), "has the ids 257"),
    "merge of a megabyte": (mutant(model__merges=["a " + "b" * 1_000_000]), "needs b'bb"),
    "truncation": (mutant(truncation={"max_length": 5}), "truncation"),
    "padding": (mutant(padding={"strategy": "BatchLongest"}), "padding"),
    "other decoder": (mutant(decoder={"type": "Metaspace"}), "decoder is 'Metaspace'"),
    "no pre-split": (mutant(pre_tokenizer=None), "pre_tokenizer is None"),
    "white space": (mutant(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer"),
    "prefix space": (mutant(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "prefix space"),
    "splits twice": (mutant(pre_tokenizer__pretokenizers=[*SPLIT["pretokenizers"]] * 2), "pre_tokenizer"),
    "removes": (mutant(pre_tokenizer__pretokenizers=[{**SPLIT["pretokenizers"][0], "behavior": "Removed"}, SPLIT["pretokenizers"][1]]), "pre_tokenizer"),
    "pattern a number": (mutant(pre_tokenizer__pretokenizers=[{**SPLIT["pretokenizers"][0], "pattern": {"Regex": 5}}, SPLIT["pretokenizers"][1]]), "pattern.Regex is 5"),
    "hostile pattern": (mutant().replace(json.dumps(GPT2_PATTERN), '"(a+)+$"'), "trust_pattern"),
    "vocab a list": (mutant(model__vocab=[]), "model.vocab is \\[\\], expected a dict"),
    "no vocab": (mutant(model__vocab={}), "id 257 is|missing|no id"),
    "id a string": (mutant(model__vocab={**VOCAB, "ab": "256"}), "has the id '256', expected an int"),
    "id a float": (mutant(model__vocab={**VOCAB, "ab": 256.0}), "has the id 256.0, expected an int"),
    "id true": (mutant(model__vocab={**VOCAB, "ab": True}), "has the id True, expected an int"),
    "id negative": (mutant(model__vocab={**VOCAB, "ab": -1}), "id 256 is missing"),
    "id of a terabyte": (mutant(model__vocab={**VOCAB, "ab": 10**12}), "id 256 is missing"),
    "id twice": (mutant(model__vocab={**VOCAB, "cd": 256}), "id 256 is b'ab' and b'cd'"),
    "a byte missing": (mutant(model__vocab={("zz" if k == "A" else k): v for k, v in VOCAB.items()}), "0x41"),
    "SentencePiece": (mutant(model__vocab={**VOCAB, "▁the": 258}), "no byte in GPT-2's letters"),
    "surrogate": (mutant(model__vocab={**VOCAB, "\ud800": 258}), "no byte in GPT-2's letters"),
    "added a dict": (mutant(added_tokens={}), "added_tokens is {}, expected a list"),
    "added a number": (mutant(added_tokens=[5]), "content is None"),
    "added twice": (mutant(added_tokens=[ADDED, {**ADDED, "id": 258}]), "has the ids 257 and 258"),
    "added elsewhere": (mutant(added_tokens=[{**ADDED, "id": 5}]), "id 5 is"),
    "added true": (mutant(added_tokens=[{**ADDED, "id": True}]), "id is True"),
    "added not special": (mutant(added_tokens=[{**ADDED, "special": False}]), "no plain special token"),
    "added strips": (mutant(added_tokens=[{**ADDED, "lstrip": True}]), "no plain special token"),
    "added empty": (mutant(added_tokens=[ADDED, {**ADDED, "content": "", "id": 258}]), "empty"),
    "added a letter": (mutant(added_tokens=[ADDED, {**ADDED, "content": "a", "id": 97}]), "plain text"),
    "added a merge": (mutant(added_tokens=[ADDED, {**ADDED, "content": "ab", "id": 256}]), "plain text"),
    "added a surrogate": (mutant(added_tokens=[ADDED, {**ADDED, "content": "\ud800", "id": 258}]), "surrogate"),
    "merges a dict": (mutant(model__merges={}), "model.merges is {}, expected a list"),
    "merge of one": (mutant(model__merges=["ab"]), "merge 0 is 'ab'"),
    "merge of three": (mutant(model__merges=["a b c"]), "merge 0 is 'a b c'"),
    "merge of none": (mutant(model__merges=["a "]), "merge 0 is 'a '"),
    "merge a number": (mutant(model__merges=[["a", 5]]), "merge 0 is"),
    "merge of nothing known": (mutant(model__merges=["a c"]), "needs b'ac'"),
    "merge twice": (mutant(model__merges=["a b", "a b"]), "merges 0 and 1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    "Each with its path and what is wrong, quickly, and never with another kind of error."
    content, says = HOSTILE[name]
    path = tmp_path / "bad.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    began = time.process_time()
    with pytest.raises(ValueError, match=r"bad\.json: ") as caught:
        Tokenizer.load(path)
    assert regex.search(says, str(caught.value)) and len(str(caught.value)) < 500
    assert time.process_time() - began < 2


def test_the_unbroken_file_is_accepted(tmp_path: Path) -> None:
    "The mutants are refused for their change alone; and spellings of the same are read."
    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    path = tmp_path / "good.json"
    for text, pattern in [
        (mutant(), GPT2_PATTERN),
        (mutant(model__type=..., model__merges=[["a", "b"]], decoder=None), GPT2_PATTERN),
        (mutant(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}), GPT2_PATTERN),
        (mutant().replace(json.dumps(GPT2_PATTERN), json.dumps(gpt2)), GPT2_PATTERN),
        (mutant().replace(json.dumps(GPT2_PATTERN), json.dumps(llama3)), GPT4_PATTERN),
        (mutant(model__unk_token="<x>"), GPT2_PATTERN),
        (mutant(normalizer=None, model__continuing_subword_prefix="", model__byte_fallback=False, model__dropout=None), GPT2_PATTERN),
    ]:
        path.write_text(text, encoding="utf-8")
        assert Tokenizer.load(path).pattern == pattern
        assert Tokenizer.load(path).encode("abab<x>", allowed_special="all") == [256, 256, 257]
    path.write_text(mutant().replace(json.dumps(GPT2_PATTERN), '"(?s:.)"'), encoding="utf-8")
    assert Tokenizer.load(path, trust_pattern=True).encode("ab") == [97, 98]


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.truncate(2**30)  # a gigabyte that takes no room
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"huge\.json: the file has more than 134,217,728 bytes"):
        Tokenizer.load(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.json"):
        Tokenizer.load(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="huggingface"):
        Tokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Played, since a superuser may read everything: the system's error comes through with the path."
    path = tmp_path / "secret.json"
    path.write_text("{}", encoding="utf-8")

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("minillm.tokenizer.open", refuse, raising=False)
    with pytest.raises(PermissionError, match="secret"):
        Tokenizer.load(path)


def test_nothing_is_executed_on_load(tmp_path: Path) -> None:
    "A pickle that would make a file is data, and no JSON."
    import pickle

    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harm",))

    path = tmp_path / "tokenizer.json"
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="tokenizer.json: "):
        Tokenizer.load(path)
    assert not (tmp_path / "harm").exists() and "pickle" not in sys.modules["minillm.tokenizer"].__dict__


# ---- GPT-2's pair of files


@pytest.mark.parametrize("version", ["", "#version: 0.2\n", "#version: 0.2 - Trained by `huggingface/tokenizers`\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_gpt2_files(tmp_path: Path, version: str, end: str) -> None:
    "With and without the version line; a first merge that begins with # is a merge."
    vocab, merges = {**BYTES, 256: b"##", 257: b" t", 258: END_OF_TEXT.encode()}, [(b"#", b"#"), (b" ", b"t")]
    words = {spell_bytes(data): token for token, data in vocab.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    lines = version + "".join(f"{spell_bytes(a)} {spell_bytes(b)}\n" for a, b in merges)
    (tmp_path / "merges.txt").write_bytes(lines.replace("\n", end).encode())
    assert read_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt") == (vocab, merges)
    tokenizer = Tokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert tokenizer.special_tokens == {END_OF_TEXT: 258} and tokenizer.encode("## t") == [256, 257]


@pytest.mark.parametrize(
    ("words", "lines", "says"),
    [
        ("[]", "a b", "expected a dict"),
        ("{", "a b", "no JSON"),
        ('{"a": 0}', "a b", "no id"),
        ("", "", "no JSON"),
        (None, "ab", "merge 0 is 'ab'"),
        (None, "a b\nĠthe  x", "merge 1 is"),
        (None, "a b\n▁ t", "no byte"),
        (None, "x y", "needs b'xy'"),
        (None, b"\xff\xfe", "byte 0 is 0xff"),
    ],
)
def test_bad_gpt2_files_are_refused(tmp_path: Path, words: str | None, lines: str | bytes, says: str) -> None:
    good = json.dumps({spell_bytes(data): token for token, data in {**BYTES, 256: b"ab"}.items()})
    (tmp_path / "vocab.json").write_text(good if words is None else words, encoding="utf-8")
    (tmp_path / "merges.txt").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(ValueError, match=says):
        Tokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")


# ---- the explorer's data


def test_explorer_holds_hostile_text() -> None:
    import html

    from minillm.tokenizer import explore_tokens

    page = explore_tokens("</script><img src=x>", ours())._repr_html_()
    inner = html.unescape(regex.search(r'(?s)srcdoc="(.*?)"', page)[1])
    assert "</script><img" not in inner and inner.count("<script") == 3
    data = json.loads(regex.search(r'(?s)id="ml-data">(.*?)</script>', inner)[1])
    assert data["text"] == "</script><img src=x>" and len(data["tokens"]) == ours().vocab_size
    assert split_text("a b") == ["a", " b"]  # the page's patterns are those of chapter 12: checked in the browser
