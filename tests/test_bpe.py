"Byte-pair encoding: the fast trainer against the naive one and the library `tokenizers`, and what readers and files may do to it."

import json
import random
import time
import warnings
from collections.abc import Iterator

import pytest
import tiktoken
from chapters import chapter_function
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers

from minillm.bpe import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    PairTable,
    char_token,
    count_chunks,
    iterate_chunks,
    learn_merges,
    merge_chunk,
    merge_in_word,
    split_text,
    token_char,
    train_bpe,
    utf8_bytes,
)

train_bpe_loop = chapter_function("12_bpe", "train_bpe_loop")
merge_chunk_loop = chapter_function("12_bpe", "merge_chunk_loop")
WHOLE = r"(?s:.+)"  # a pattern that does not cut at all

texts = st.lists(st.one_of(st.text(alphabet="ab", max_size=40), st.text(alphabet="aab é日🙂'1\n", max_size=30), st.text(max_size=20)), max_size=6)
patterns = st.sampled_from([GPT2_PATTERN, GPT4_PATTERN, WHOLE])


def train(documents: list[str], vocab_size: int, **options: object) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    "train_bpe without its warning that no pair is left, and with nothing learnt from nothing."
    if not any(documents):
        return {byte: bytes([byte]) for byte in range(256)}, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return train_bpe(documents, vocab_size, **options)


def train_by_tokenizers(documents: list[str], vocab_size: int, pattern: str = GPT2_PATTERN) -> list[tuple[bytes, bytes]]:
    "The merges that the public library learns from the same chunks, each byte written as one character, in the order of the bytes."
    tokenizer = Tokenizer(models.BPE())
    alphabet = [chr(0x100 + byte) for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False, min_frequency=0)
    chunks = ("".join(alphabet[byte] for byte in chunk.encode()) for text in documents for chunk in split_text(text, pattern))
    tokenizer.train_from_iterator(chunks, trainer)
    as_bytes = lambda piece: bytes(ord(char) - 0x100 for char in piece)
    return [(as_bytes(left), as_bytes(right)) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


# ---- training: equal to the naive trainer and to the public library


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(0, 25), patterns)
def test_fast_equals_naive(documents: list[str], n_merges: int, pattern: str) -> None:
    chunks = [chunk.encode() for text in documents for chunk in split_text(text, pattern)]
    assert train(documents, 256 + n_merges, pattern=pattern) == train_bpe_loop(chunks, n_merges)


@settings(max_examples=150, deadline=None)
@given(texts, st.integers(0, 60), patterns)
def test_fast_equals_the_library_tokenizers(documents: list[str], n_merges: int, pattern: str) -> None:
    "Every merge in order: the library has the same tie rule, and counts overlapping pairs in the same way."
    assert train(documents, 256 + n_merges, pattern=pattern)[1] == train_by_tokenizers(documents, 256 + n_merges, pattern)


def test_many_merges_equal_the_library_tokenizers() -> None:
    rng = random.Random(5)
    words = ["".join(rng.choices("abcdeé", weights=[9, 5, 3, 2, 1, 1], k=rng.randrange(1, 12))) for _ in range(3000)]
    documents = [" ".join(rng.choices(words, k=400)) for _ in range(30)]
    vocab, merges = train_bpe(documents, 3_900)
    assert len(vocab) == 3_900 and merges == train_by_tokenizers(documents, 3_900)


def test_ties_go_to_the_smaller_pair_of_ids() -> None:
    "Also where the order of first appearance, of the bytes' text and of the counts would say otherwise."
    assert train_bpe(["zy", "ab", "zy", "ab"], 257)[1] == [(b"a", b"b")]
    assert train_bpe(["ba bc ba bc"], 257, pattern=r"\w+|\s")[1] == [(b"b", b"a")], "equal left ids: the right ones decide"
    # after "xy" = 256, the pairs (x y, a) and (z, a) tie: 122 < 256, though "xy" < "z" as text
    assert train_bpe(["xya", "xya", "xy", "za", "za"], 258, pattern=WHOLE)[1] == [(b"x", b"y"), (b"z", b"a")]


def test_overlapping_pairs_are_all_counted() -> None:
    "'aaaa' holds 'aa' three times, so it beats 'bc' at two; merged from left to right it is used twice."
    assert train_bpe(["aaaa", "bcbc"], 257, pattern=WHOLE)[1] == [(b"a", b"a")]
    assert merge_in_word("aaaa", "aa", "X") == ("XX", ["aa"], ["XX"])
    assert merge_in_word("baaab", "aa", "X") == ("bXab", ["ba", "aa"], ["bX", "Xa"])
    assert merge_in_word("xyz", "ab", "X") == ("xyz", [], [])


@given(st.text(alphabet="abX", max_size=30), st.sampled_from(["aa", "ab", "XX", "Xa"]))
def test_changes_in_a_word_are_the_difference_of_counts(word: str, pair: str) -> None:
    def count(word: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for i in range(len(word) - 1):
            found[word[i : i + 2]] = found.get(word[i : i + 2], 0) + 1
        return found

    merged, lost, gained = merge_in_word(word, pair, "N")
    expected = count(word)
    for sign, pairs in ((-1, lost), (1, gained)):
        for other in pairs:
            expected[other] = expected.get(other, 0) + sign
    expected.pop(pair, None)  # the merged pair itself is not reported
    seen = {key: n for key, n in count(merged).items() if key != pair}
    assert seen == {key: n for key, n in expected.items() if n}


@settings(deadline=None)
@given(texts, st.integers(0, 40), patterns)
def test_counts_stay_true_after_every_merge(documents: list[str], n_merges: int, pattern: str) -> None:
    "The table, updated around each merge, is the table that one would count anew."
    chunks = count_chunks(documents, pattern)
    table = PairTable([utf8_bytes(chunk).decode("latin-1") for chunk in chunks], list(chunks.values()))
    for new in range(256, 256 + n_merges):
        pair = table.most_frequent()
        if pair is None:
            break
        table.merge(pair, token_char(new))
    fresh = PairTable(table.words, table.times)
    assert {pair: n for pair, n in table.counts.items() if n} == fresh.counts
    for pair, numbers in fresh.holders.items():
        assert numbers <= table.holders[pair]


def test_ids_past_the_surrogates() -> None:
    ids = [0, 255, 0xD7FF, 0xD800, 0xDFFF, 0xE000, 0x10FFFF - 0x800]
    chars = [token_char(i) for i in ids]
    assert [char_token(char) for char in chars] == ids
    assert chars == sorted(chars) and all(char.encode() for char in chars)


def test_a_vocabulary_beyond_the_surrogates() -> None:
    "More than 0xD800 tokens: each word of its own letters, so that merges are plenty."
    rng = random.Random(0)
    words = [bytes(rng.choices(range(256), k=8)).decode("latin-1") for _ in range(10_500)]
    vocab, merges = learn_merges(PairTable(words, [1] * len(words)), 56_500)
    assert len(vocab) == 56_500 and len(set(vocab.values())) == 56_500
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for word in words[::500]:
        assert b"".join(merge_chunk(word.encode("latin-1"), ranks)) == word.encode("latin-1")


# ---- documents


def test_documents_are_streamed() -> None:
    "A document is let go before the next one is asked for, and none is read twice."
    alive = 0

    class Document(str):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def documents() -> Iterator[str]:
        nonlocal alive
        for number in range(20):
            assert alive <= 1, "at most the previous document is still held while the next is made"
            alive += 1
            yield Document(f"fun run {number} sun")

    assert train_bpe(documents(), 270) == train_bpe([f"fun run {number} sun" for number in range(20)], 270)


@settings(deadline=None)
@given(texts, st.integers(0, 20))
def test_documents_are_separate(documents: list[str], n_merges: int) -> None:
    "As if all were one text, cut where documents end; their order and how they are handed over do not matter."
    counts = count_chunks(documents)
    assert counts == sum((count_chunks([text]) for text in documents), start=count_chunks([]))
    one_way = train(documents, 256 + n_merges)
    assert train(documents[::-1], 256 + n_merges) == one_way
    assert train(tuple(documents), 256 + n_merges) == one_way


def test_no_token_crosses_from_one_document_to_the_next() -> None:
    assert [b"".join(pair) for pair in train(["ab", "ab", "ab"], 300, pattern=WHOLE)[1]] == [b"ab"]


@settings(deadline=None)
@given(st.text(max_size=60), patterns)
def test_chunks_are_the_text(text: str, pattern: str) -> None:
    assert "".join(split_text(text, pattern)) == text
    assert list(iterate_chunks(text, pattern)) == split_text(text, pattern)


def test_a_long_document_is_cut_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    "A list of all its chunks would take twenty times its size."
    import minillm.bpe as module

    def never(*_arguments: object) -> list[str]:
        raise AssertionError("split_text was called with a document of 11 million characters")

    text = "word " * 2_200_000
    monkeypatch.setattr(module, "split_text", never)
    assert count_chunks([text]) == {"word": 1, " word": 2_199_999, " ": 1}


# ---- encoding


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.binary(min_size=1, max_size=3)), max_size=12))
def test_merge_chunk_equals_the_loop_for_any_ranks(chunk: bytes, pairs: list[tuple[bytes, bytes]]) -> None:
    "Also for lists of merges that no training would make."
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    assert merge_chunk(chunk, ranks) == merge_chunk_loop(chunk, ranks)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab", min_size=1, max_size=80), st.integers(0, 12), st.text(alphabet="abc", max_size=80))
def test_encoding_replays_training(text: str, n_merges: int, other: str) -> None:
    _, merges = train([text], 256 + n_merges, pattern=WHOLE)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    table = PairTable([text], [1])
    vocab, again = learn_merges(table, 256 + n_merges)
    assert again == merges
    assert merge_chunk(text.encode(), ranks) == [vocab[char_token(char)] for char in table.words[0]]
    assert merge_chunk(other.encode(), ranks) == merge_chunk_loop(other.encode(), ranks)


def test_an_unbroken_megabyte() -> None:
    "Sixteen times the length takes far less than sixteen times sixteen as long, in training and in encoding."
    rng = random.Random(3)
    letters = "abcdefghijklmnopqrstuvwxyz"
    _, merges = train(["".join(rng.choices(letters, k=20_000))], 1_000, pattern=WHOLE)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    seconds: dict[str, list[float]] = {"train": [], "encode": []}
    for length in (62_500, 1_000_000):
        text = "".join(rng.choices(letters, k=length))
        for name, work in {"train": lambda t: train_bpe([t], 300), "encode": lambda t: merge_chunk(t.encode(), ranks)}.items():
            start = time.process_time()
            work(text)
            seconds[name].append(time.process_time() - start)
    for name, (short, long) in seconds.items():
        assert long < 16 * 5 * short, f"{name}: {short:.2f} s for 62,500 characters, {long:.2f} s for a million"


def test_the_same_letter_without_end() -> None:
    n = 2**18
    vocab, merges = train(["a" * n], 300)
    assert [len(left + right) for left, right in merges] == [2**k for k in range(1, 19)]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    assert merge_chunk(b"a" * n, ranks) == [b"a" * n] and vocab[255 + 18] == b"a" * n
    assert [len(piece) for piece in merge_chunk(b"a" * (n - 1), ranks)] == [2**k for k in range(17, -1, -1)]


# ---- what was asked for


def test_the_vocabulary_is_laid_out_as_promised() -> None:
    vocab, merges = train_bpe(["fun fun funny sun sun sunny run " * 3], 262, special_tokens=["<pad>", "<|endoftext|>"])
    assert list(vocab) == list(range(262))
    assert [vocab[byte] for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert [vocab[256 + k] for k in range(4)] == [left + right for left, right in merges]
    assert [vocab[260], vocab[261]] == [b"<pad>", b"<|endoftext|>"]
    assert train_bpe(["x"], 256) == ({byte: bytes([byte]) for byte in range(256)}, [])


def test_too_little_text_makes_fewer_tokens_and_says_so() -> None:
    with pytest.warns(UserWarning, match=r"no pair is left after 2 merges: 259 tokens, not vocab_size=1000\. Give more text"):
        vocab, merges = train_bpe(["abc"], 1_000, special_tokens=["<eos>"])
    assert merges == [(b"a", b"b"), (b"ab", b"c")] and len(vocab) == 259 and vocab[258] == b"<eos>"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_bpe(["abc"], 259, special_tokens=["<eos>"])


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ((["text"], 255), ValueError, "vocab_size=255, expected 256 to"),
        ((["text"], 257, ["<a>", "<b>"]), ValueError, "vocab_size=257, expected 258 to .* 256 bytes and 2 special tokens"),
        ((["text"], 10**9), ValueError, "vocab_size=1000000000, expected 256 to 1112064"),
        ((["text"], 1e4), TypeError, "vocab_size is 10000.0, expected an int"),
        ((["text"], True), TypeError, "vocab_size is True"),
        (([], 300), ValueError, "no text to learn from"),
        ((["", ""], 300), ValueError, "no text to learn from"),
        (("text", 300), TypeError, r"put it in a list: \[text\]"),
        ((b"text", 300), TypeError, "put it in a list"),
        ((["fine", b"bytes"], 300), TypeError, "document 1: got bytes, expected str"),
        ((["fine", None], 300), TypeError, "document 1: got NoneType"),
        ((["fine", "also", "no \ud800"], 300), ValueError, r"document 2: the character at position 3 is the lone surrogate U\+D800"),
        ((["text"], 300, "<eos>"), TypeError, r"special_tokens is one text.*write \['<eos>'\]"),
        ((["text"], 300, ["<eos>", "<eos>"]), ValueError, "names one twice"),
        ((["text"], 300, [""]), ValueError, "special token is empty"),
        ((["text"], 300, [b"<eos>"]), TypeError, "got bytes, expected str"),
        ((["text"], 300, ["\udfff"]), ValueError, "position 0 is the lone surrogate"),
    ],
)
def test_wrong_arguments_are_explained(arguments: tuple, kind: type[Exception], says: str) -> None:
    documents, vocab_size, *special = arguments
    with pytest.raises(kind, match=says):
        train_bpe(documents, vocab_size, **({"special_tokens": special[0]} if special else {}))


@pytest.mark.parametrize(
    ("pattern", "kind", "says"),
    [
        ("(", ValueError, "is no regular expression"),
        (r"(\w+)|\W+", ValueError, "captures 1 groups"),
        (r"\w+", ValueError, "matches nothing at position 3, before ' b'"),
        ("", ValueError, "matches nothing at position 0"),
        (None, TypeError, "pattern is NoneType, expected str"),
    ],
)
def test_a_bad_pattern_is_explained(pattern: str, kind: type[Exception], says: str) -> None:
    for work in (split_text, lambda *a: list(iterate_chunks(*a)), lambda text, p: train_bpe([text], 300, pattern=p)):
        with pytest.raises(kind, match=says):
            work("one b", pattern)


def test_text_after_the_last_match_is_missed_too() -> None:
    with pytest.raises(ValueError, match="matches nothing at position 3, before '!'"):
        split_text("one!", r"\w+")
    with pytest.raises(ValueError, match="position 4 is the lone surrogate"):
        split_text("tail\ud83d")


@pytest.mark.parametrize(
    ("text", "gpt2", "gpt4"),
    [
        ("don't we'LL", ["don", "'t", " we", "'", "LL"], ["don", "'t", " we", "'LL"]),
        ("12345 678", ["12345", " 678"], ["123", "45", " ", "678"]),
        ("a  b   ", ["a", " ", " b", "   "], ["a", " ", " b", "   "]),
        ("x\n\n y", ["x", "\n\n", " y"], ["x", "\n\n", " y"]),
        ("f(x)!\n", ["f", "(", "x", ")!", "\n"], ["f", "(x", ")!\n"]),
        ("\x1c\x85\ufeff", ["\x1c", "\x85", "\ufeff"], ["\x1c", "\x85", "\ufeff"]),
    ],
)
def test_patterns_cut_as_documented(text: str, gpt2: list[str], gpt4: list[str]) -> None:
    assert split_text(text, GPT2_PATTERN) == gpt2
    assert split_text(text, GPT4_PATTERN) == gpt4


TIKTOKEN = {  # as tiktoken 0.14 writes them
    GPT2_PATTERN: r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    GPT4_PATTERN: r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s""",
}


def cuts_like_tiktoken(text: str, pattern: str) -> bool:
    "Does tiktoken's own engine cut here too? With each chunk a token of its own, ids show where it cuts."
    chunks = [chunk.encode() for chunk in split_text(text, pattern)]
    longer = [chunk for chunk in dict.fromkeys(chunks) if len(chunk) > 1]
    ranks = {bytes([byte]): byte for byte in range(256)} | {chunk: 256 + k for k, chunk in enumerate(longer)}
    encoding = tiktoken.Encoding("chunks", pat_str=TIKTOKEN[pattern], mergeable_ranks=ranks, special_tokens={})
    return [ranks[chunk] for chunk in chunks] == encoding.encode_ordinary(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("aB1é日½ '\n\r\t.!sST\u2019\u017f\x1c\x85\u3000🙂\u0301"), max_size=25))
def test_patterns_cut_as_tiktoken_does(text: str) -> None:
    assert cuts_like_tiktoken(text, GPT2_PATTERN)
    assert cuts_like_tiktoken(text + ".", GPT4_PATTERN)


def test_gpt4_pattern_at_the_end_of_a_text() -> None:
    "The one departure: tiktoken now takes white space at the very end as one chunk; the pattern first published, and Llama 3's, do not."
    assert split_text("a \n\t", GPT4_PATTERN) == ["a", " \n", "\t"]
    assert not cuts_like_tiktoken("a  \n\t", GPT4_PATTERN)
    assert cuts_like_tiktoken("a  ", GPT4_PATTERN) and cuts_like_tiktoken("a\n\n", GPT4_PATTERN)
