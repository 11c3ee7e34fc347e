# Generated from nbs/12_bpe.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import heapq
import regex
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from minillm.bpe import GPT2_PATTERN, GPT4_PATTERN, PairTable, char_token, check_vocabulary, compile_pattern, count_chunks, explore_merges, iterate_chunks, learn_merges, merge_chunk, merge_in_word, split_text, token_char, train_bpe, utf8_bytes

# %% exercise 12-a {"title": "Count the pairs", "answer": "def count_pairs(words: dict[str, int]) -> dict[str, int]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "`zip(word, word[1:])` walks along all neighbours of a word.",
    "A word that occurs twice adds two for each of its pairs.",
]


def checks(count_pairs):
    got = dict(count_pairs({"fun": 2, "run": 1}))
    if got.get("un") == 2:
        mistake("'un' stands in two words, but 'fun' occurs twice: each pair counts as often as its word does")
    expect(
        got == {"fu": 2, "un": 3, "ru": 1},
        f"for {{'fun': 2, 'run': 1}} the answer is {{'fu': 2, 'un': 3, 'ru': 1}}, yours is {got}",
    )
    got = dict(count_pairs({"aaaa": 1}))
    if got.get("aa") in (1, 2):
        mistake(f"'aaaa' holds the pair 'aa' at three places, which overlap; you counted {got['aa']}")
    expect(got == {"aa": 3}, f"for {{'aaaa': 1}} the answer is {{'aa': 3}}, yours is {got}")
    got = dict(count_pairs({"x": 5}))
    expect(got == {}, f"a word of one character has no pair, so for {{'x': 5}} the answer is {{}}; yours is {got}")


def wrong_without_frequency(words):
    counts = {}
    for word in words:
        for first, second in zip(word, word[1:]):
            counts[first + second] = counts.get(first + second, 0) + 1
    return counts


def wrong_not_overlapping(words):
    pairs = {word[i : i + 2] for word in words for i in range(len(word) - 1)}
    return {pair: sum(word.count(pair) * times for word, times in words.items()) for pair in pairs}


planted = {wrong_without_frequency: "as often as its word does", wrong_not_overlapping: "which overlap"}

# %% exercise 12-b {"title": "Break it", "answer": "def counterexample() -> tuple[bytes, list[tuple[bytes, bytes]]]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Two merges must compete for one byte; whatever else the chunk holds may stay single bytes.",
    "The merge of lower rank must stand further right in the chunk.",
]


def left_to_right(chunk, ranks):
    pieces = [chunk[i : i + 1] for i in range(len(chunk))]
    i = 0
    while i < len(pieces) - 1:
        if (pieces[i], pieces[i + 1]) in ranks:
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
            i = 0
        else:
            i += 1
    return pieces


def checks(counterexample):
    chunk, merges = counterexample()
    expect(isinstance(chunk, bytes), f"the chunk must be bytes, such as b'the'; yours is {chunk!r}")
    if len(chunk) < 4:
        mistake(f"{chunk!r} has {len(chunk)} bytes; three are the example above, find one of at least four")
    made = {bytes([byte]) for byte in range(256)}
    for left, right in merges:
        expect({left, right} <= made, f"the merge {(left, right)} uses a piece that no earlier merge has made")
        made.add(left + right)
    ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
    ours, theirs = merge_chunk(chunk, ranks), left_to_right(chunk, ranks)
    if ours == theirs and len(ours) == len(chunk):
        mistake(f"none of your merges applies to {chunk!r}; both ways leave single bytes")
    turned = {pair: -rank for pair, rank in ranks.items()}
    if ours == theirs and merge_chunk(chunk, turned) != left_to_right(chunk, turned):
        mistake(f"both ways give {ours}: your merges compete, but the left one is first; turn the order around")
    expect(ours != theirs, f"both ways give {ours}; the two must disagree")


def wrong_order():
    return b"then", [(b"t", b"h"), (b"h", b"e")]


def wrong_nothing_applies():
    return b"wxyz", [(b"a", b"b")]


def wrong_no_conflict():
    return b"abcd", [(b"c", b"d"), (b"a", b"b")]


planted = {
    wrong_order: "turn the order around",
    wrong_nothing_applies: "none of your merges applies",
    wrong_no_conflict: "must disagree",
}

# %% exercise 12-c {"title": "The tie rule", "answer": "def most_frequent_pair(counts: dict[tuple[int, int], int]) -> tuple[int, int]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "The rule says what happens when two pairs are equally frequent.",
    "Tuples are compared from left to right: sort by (minus the count, pair), and take the smallest.",
]


def checks(most_frequent_pair):
    got = most_frequent_pair({(1, 2): 1, (7, 8): 3, (3, 4): 2})
    if got == (1, 2):
        mistake("of counts 1, 3 and 2 you took the pair that occurs once, the least frequent")
    expect(got == (7, 8), f"for {{(1, 2): 1, (7, 8): 3, (3, 4): 2}} the answer is (7, 8), yours is {got}")
    got = most_frequent_pair({(7, 8): 3, (1, 2): 3})
    if got == (7, 8):
        first = most_frequent_pair({(1, 2): 3, (7, 8): 3}) == (1, 2)
        what = "the first seen" if first else "the one with the larger ids"
        mistake(f"two pairs tie and you took {what}; the rule is: the smaller pair of ids wins")
    expect(got == (1, 2), f"for {{(7, 8): 3, (1, 2): 3}} the answer is (1, 2), yours is {got}")
    got = most_frequent_pair({(9, 1): 2, (5, 300): 2, (5, 299): 2})
    expect(
        got == (5, 299),
        f"left ids are compared first: of (9, 1), (5, 300), (5, 299) the answer is (5, 299), yours is {got}",
    )


def wrong_first_seen(counts):
    return max(counts, key=counts.get)


def wrong_largest(counts):
    return max(counts, key=lambda pair: (counts[pair], pair))


def wrong_rarest(counts):
    return min(counts, key=lambda pair: (counts[pair], pair))


planted = {wrong_first_seen: "took the first seen", wrong_largest: "larger ids", wrong_rarest: "least frequent"}

# %% exercise 12-d {"title": "The longest token", "answer": "def longest_token(k: int) -> int: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "A merge joins two tokens that exist already. How long can the new one be?",
    "Train on 'aaaaaaaaaaaaaaaa' and look at the lengths.",
]


def checks(longest_token):
    got = longest_token(0)
    expect(got == 1, f"without a merge all tokens are single bytes, so longest_token(0) is 1; yours is {got}")
    for k in (1, 2, 3, 6):
        vocab, _ = train_bpe(["a" * 2**k], 256 + k)
        seen, got = max(map(len, vocab.values())), longest_token(k)
        if got == k + 1 != seen:
            mistake(f"you let a merge add one byte, but it may double the longest token: {k} give {seen} bytes")
        if got == 2 * k != seen:
            mistake(f"each merge can double again, so it is a power and not a product: {k} give {seen} bytes")
        expect(
            got == seen,
            f"{k} merges on {'a' * 2**k!r} give a token of {seen} bytes, longest_token({k}) says {got}",
        )


def wrong_one_more(k):
    return k + 1


def wrong_product(k):
    return max(1, 2 * k)


planted = {wrong_one_more: "add one byte", wrong_product: "a power and not a product"}

# %% exercise 12-e {"title": "One digit at a time", "answer": "def digit_pattern() -> str: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Print GPT4_PATTERN and find the alternative for digits.",
    "`{1,3}` says how many digits go together; `str.replace` can take it out.",
]


def checks(digit_pattern):
    pattern = digit_pattern()
    got = split_text("in 1969", pattern)
    if got == ["in", " ", "196", "9"]:
        mistake("digits still go together in groups of three; every digit must be a chunk of its own")
    if " 1" in got:
        mistake("the space went with the first digit; GPT-4's pattern leaves the space before digits to itself")
    expect(
        got == ["in", " ", "1", "9", "6", "9"],
        f"'in 1969' must become in, a space, 1, 9, 6, 9; your pattern gives {got}",
    )
    for text in ("٣٤ ½", "½½ ²³ ⅣⅣ", "I'LL\n\n  x.size, it's", "a  b\t\n"):
        want = [
            piece
            for chunk in split_text(text, GPT4_PATTERN)
            for piece in (chunk if chunk.isnumeric() else [chunk])
        ]
        got = split_text(text, pattern)
        if text.startswith(("٣", "½")) and got != want:
            mistake(f"digits of other scripts count too, use \\p{{N}}: {text!r} must be {want}, yours is {got}")
        expect(
            got == want,
            f"apart from digits it must cut as GPT4_PATTERN does: {text!r} must become {want}, yours is {got}",
        )


def wrong_unchanged():
    return GPT4_PATTERN


def wrong_with_space():
    return GPT4_PATTERN.replace(r"\p{N}{1,3}", r" ?\p{N}")


def wrong_ascii():
    return GPT4_PATTERN.replace(r"\p{N}{1,3}", r"[0-9]|\p{N}{1,3}")


def wrong_decimal():
    return GPT4_PATTERN.replace(r"\p{N}{1,3}", r"\d|\p{N}{1,3}")


planted = {
    wrong_decimal: "other scripts",
    wrong_unchanged: "groups of three",
    wrong_with_space: "the space went with",
    wrong_ascii: "other scripts",
}

# %% exercise 12-f {"title": "Bug clinic: the heap that remembers too much", "answer": "def next_pair(heap: list[tuple[int, str]], counts: dict[str, int]) -> str | None: ...", "returns": false}
from minillm.exercises import expect, mistake

may_change_input = True
hints = [
    "The entry says how frequent the pair was when it was put in. Is that still so?",
    "An entry that is out of date must not be returned, and must not be thrown away either.",
]


def emptied(next_pair, counts_then, counts_now):
    heap = sorted((-count, pair) for pair, count in counts_then.items())
    found = []
    while len(found) < 9 and (pair := next_pair(heap, counts_now)) is not None:
        found.append(pair)
        counts_now = {**counts_now, pair: 0}
    return found


def checks(next_pair):
    then, now = {"ab": 5, "cd": 4, "ef": 2}, {"ab": 3, "cd": 4, "ef": 2}
    got = emptied(next_pair, then, now)
    if got[:1] == ["ab"]:
        mistake("'ab' had 5 when its entry was made and has 3 now, fewer than 'cd': that entry is out of date")
    if got == ["cd", "ef"]:
        mistake("'ab' still occurs 3 times and never came: you threw an entry away because it was out of date")
    expect(
        got == ["cd", "ab", "ef"],
        f"the counts now are {now}, so the pairs come as cd, ab, ef; yours come as {got}",
    )
    got = emptied(next_pair, {"xy": 3, "ab": 5}, {"xy": 3, "ab": 3})
    expect(
        got == ["ab", "xy"],
        f"'ab' fell to 3, a tie with 'xy', and the smaller pair comes first: ab, xy; yours come as {got}",
    )
    got = emptied(next_pair, {"ab": 2}, {"ab": 0})
    expect(got == [], f"'ab' does not occur any more, so the answer is None; yours is {got}")


def wrong_believes(heap, counts):
    while heap:
        negative, pair = heapq.heappop(heap)
        if counts.get(pair, 0) > 0:
            return pair
    return None


def wrong_throws_away(heap, counts):
    while heap:
        negative, pair = heapq.heappop(heap)
        if counts.get(pair, 0) == -negative:
            return pair
    return None


planted = {wrong_believes: "out of date", wrong_throws_away: "threw an entry away"}
