# Generated from nbs/13_tokenizer.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import codecs
import json
import math
import os
import regex
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Self
from minillm.bpe import GPT2_PATTERN, GPT4_PATTERN, compile_pattern, merge_chunk, split_text, train_bpe, utf8_bytes
from minillm.tokenizer import ChunkCache, END_OF_TEXT, PAD, SAFE_CUT, StreamDecoder, Tokenizer, Vocabulary, byte_letters, check_ids, explore_tokens, order_tokens, parse_json, place_specials, rank_merges, read_gpt2, read_tokenizer_json, read_utf8, safe_cut, safe_parts, spell_bytes, split_special, tokenizer_json, unspell_bytes, write_whole

# %% exercise 13-a {"title": "The premium", "answer": "def premium(tokenizer: Tokenizer, text: str, reference: str) -> float: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "A tokenizer's `encode` gives a list; its length is what counts here.",
    "The text is above the line, the reference below it.",
]


def checks(premium):
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)} | {256: b"ab"}, [(b"a", b"b")])
    got = premium(tokenizer, "né", "abab")
    if got == 2 / 4:
        mistake("you counted characters; a model is given tokens, and 'né' takes 3 of them")
    if got == 3 / 4:
        mistake("you counted bytes; merges make 'abab' two tokens")
    if got == 2 / 3:
        mistake("you divided the reference by the text; a premium above 1 says that the text is dearer")
    expect(got == 3 / 2, f"'né' takes 3 tokens here and 'abab' 2, so the premium is 1.5; yours is {got}")
    got = premium(tokenizer, "ab", "ab")
    expect(got == 1, f"a text costs once as much as itself; yours is {got}")


def wrong_characters(tokenizer, text, reference):
    return len(text) / len(reference)


def wrong_bytes(tokenizer, text, reference):
    return len(text.encode()) / len(reference.encode())


def wrong_way_up(tokenizer, text, reference):
    return len(tokenizer.encode(reference)) / len(tokenizer.encode(text))


planted = {
    wrong_characters: "counted characters",
    wrong_bytes: "counted bytes",
    wrong_way_up: "divided the reference by the text",
}

# %% exercise 13-b {"title": "Break it: an unsafe cut", "answer": "def unsafe_cut() -> tuple[str, int]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Look at the marked text in the section about streams. Where is there no mark beside a space?",
    "To which chunk does a single space belong: to the word before it or to the word behind it?",
]


def checks(unsafe_cut):
    text, k = unsafe_cut()
    expect(isinstance(text, str) and type(k) is int, f"return a text and an int, not {text!r} and {k!r}")
    if not 0 < k < len(text):
        mistake(f"a cut at {k} leaves one part of {text!r} empty; take a place inside the text")
    if " " not in text[k - 1 : k + 1]:
        mistake(f"{text!r} has no space beside place {k}; cutting a word is easy, the question is about spaces")
    if split_text(text[:k]) + split_text(text[k:]) == split_text(text):
        parts = f"{text[:k]!r} and {text[k:]!r}"
        mistake(f"{parts} have the chunks of the whole: this cut is harmless, try the other side")


def wrong_word():
    return "one two", 2


def wrong_side():
    return "one two", 3


def wrong_end():
    return "one ", 4


planted = {wrong_word: "no space beside", wrong_side: "this cut is harmless", wrong_end: "leaves one part"}

# %% exercise 13-c {"title": "Truncate without �", "answer": "def truncate(ids: list[int], limit: int, token_bytes: tuple[bytes, ...]) -> list[int]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Begin with `ids[:limit]`. How can you tell that its bytes end inside a character?",
    "`bytes.decode` raises UnicodeDecodeError for an unfinished character. Drop one id and try again.",
]


def checks(truncate):
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)} | {256: b"na"}, [(b"n", b"a")])
    for text in ("🦜🦜", "naive", "naïve 🦜", "日本", ""):
        ids = tokenizer.encode(text)
        for limit in range(len(ids) + 2):
            got = truncate(list(ids), limit, tokenizer.token_bytes)
            case = f"{text!r} with limit {limit}"
            if len(got) > limit:
                mistake(f"{case}: you return {len(got)} ids; the limit counts ids, not characters")
            if got != ids[: len(got)]:
                mistake(f"{case}: what you return is no beginning of the ids; cut the list, do not encode again")
            whole = b"".join(tokenizer.token_bytes[i] for i in got)
            if "�" in whole.decode("utf-8", errors="replace"):
                mistake(f"{case}: the last character is unfinished, a reader would see �")
            best = max(
                k
                for k in range(min(limit, len(ids)) + 1)
                if "�" not in tokenizer.decode(ids[:k])
            )
            expect(len(got) == best, f"{case}: {best} ids can be kept, you keep {len(got)}")


def wrong_plain(ids, limit, token_bytes):
    return ids[:limit]


def wrong_characters(ids, limit, token_bytes):
    text = b"".join(token_bytes[i] for i in ids).decode()[:limit]
    return list(text.encode())


def wrong_cautious(ids, limit, token_bytes):
    kept = ids[:limit]
    while kept and token_bytes[kept[-1]][-1] > 127:
        kept = kept[:-1]
    return kept


planted = {
    wrong_plain: "last character is unfinished",
    wrong_characters: "the limit counts ids",
    wrong_cautious: "can be kept",
}

# %% exercise 13-d {"title": "Derive: how few, how many", "answer": "def bounds(n: int, longest: int) -> tuple[int, int]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "At worst no merge applies. How long is each token then?",
    "At best every token is as long as the longest. Ten bytes in tokens of four: how many tokens?",
]


def checks(bounds):
    least, most = bounds(10, 4)
    if least == 2:
        mistake("you rounded down: two tokens of 4 bytes hold 8 bytes, and the last 2 need a third token")
    if least == 2.5:
        mistake("the least is 10 / 4, which is no whole number; there are no half tokens")
    if most == 40:
        mistake("you counted four bytes a character; n is in bytes already, and no token is shorter than a byte")
    expect((least, most) == (3, 10), f"10 bytes, longest 4: between 3 and 10 tokens; yours are {least} and {most}")
    huge = 10**18 + 1
    if bounds(huge, 10) == (10**17, huge):
        mistake("for 10**18 + 1 bytes you lose one: a float has 16 digits; stay with ints, as in -(-n // longest)")
    for n, longest, expected in [(8, 4, (2, 8)), (1, 128, (1, 1)), (0, 5, (0, 0)), (huge, 10, (10**17 + 1, huge))]:
        got = tuple(bounds(n, longest))
        expect(got == expected, f"{n} bytes, longest {longest}: expected {expected}, yours are {got}")


def wrong_down(n, longest):
    return n // longest, n


def wrong_fraction(n, longest):
    return n / longest, n


def wrong_most(n, longest):
    return -(-n // longest), 4 * n


def wrong_float(n, longest):
    return math.ceil(n / longest), n


planted = {
    wrong_down: "rounded down",
    wrong_fraction: "no half tokens",
    wrong_most: "four bytes a character",
    wrong_float: "a float has 16 digits",
}

# %% exercise 13-e {"title": "Bug clinic: the borrowed voice", "answer": "def encode_chat(tokenizer: Tokenizer, messages: list[str]) -> list[int]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "What happens if a message is 'What does <|endoftext|> mean?'",
    "The function joins strings and encodes them once. What if it encoded first and joined ids?",
    "The id itself is in `tokenizer.special_tokens[END_OF_TEXT]`; no text is needed to write it.",
]


def checks(encode_chat):
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b" t"}
    tokenizer = Tokenizer(vocab, [(b" ", b"t")], [END_OF_TEXT])
    end = tokenizer.special_tokens[END_OF_TEXT]
    hostile = ["Hello", f"What is{END_OF_TEXT} this?", "<|endof", "text|>", "", END_OF_TEXT]
    got = list(encode_chat(tokenizer, list(hostile)))
    if got.count(end) > len(hostile):
        mistake("a message ends where its writer typed <|endoftext|>; user text must never become a control token")
    if not got.count(end):
        mistake("no message ends in the control token; you wrote its name as ordinary text")
    said, held = [], []
    for token in got:
        if token == end:
            said.append(tokenizer.decode(held))
            held = []
        else:
            held.append(token)
    if said != hostile and [s.replace(END_OF_TEXT, "") for s in hostile] == said:
        mistake("the name was removed from the messages; a message must be kept letter by letter")
    expect(said == hostile and not held, f"the messages {hostile} come back as {said}")
    ids = tokenizer.encode("a t") + [end]
    got = list(encode_chat(tokenizer, ["a t"]))
    expect(got == ids, "the messages must be encoded by the tokenizer, with its merges")


def wrong_joined(tokenizer, messages):
    return tokenizer.encode("".join(message + END_OF_TEXT for message in messages), allowed_special="all")


def wrong_removed(tokenizer, messages):
    clean = [message.replace(END_OF_TEXT, "") for message in messages]
    return [i for m in clean for i in [*tokenizer.encode(m), tokenizer.special_tokens[END_OF_TEXT]]]


def wrong_ordinary(tokenizer, messages):
    return tokenizer.encode("".join(message + END_OF_TEXT for message in messages))


planted = {
    wrong_joined: "must never become a control token",
    wrong_removed: "removed from the messages",
    wrong_ordinary: "no message ends",
}
