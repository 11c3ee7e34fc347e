# Generated from nbs/11_corpus.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import gzip
import hashlib
import http.client
import io
import itertools
import json
import math
import numpy as np
import os
import random
import re
import regex
import ssl
import sys
import time
import unicodedata
import urllib.error
import urllib.request
import zlib
from array import array
from codecs import getincrementaldecoder
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit
from minillm.storyworld import StoryWorld, check_story as check_story
from minillm.corpus import CLEANING, CLEANING_STEPS, CORPORA, Cleaner, CleaningEffect, Deduplicator, DownloadError, Duplicate, Field, QualityReport, REMOTE_CORPORA, RemoteFile, SEPARATOR, SUSPICIOUS, TextTally, cache_folder, candidate_chance, choose_bands, clean_text, corpus_file, corpus_version, deduplicate, describe_bad_bytes, download_corpus, download_file, drop_words, estimate_jaccard, find_bad_byte, iter_documents, jaccard, load_corpus, minhash, quality_report, read_lines, read_records, record_text, sample_sentences, shingles, show_report, split_corpus, split_documents, split_of, split_tail, swap_words, text_files

# %% exercise 11-a {"title": "Bug clinic: the letters that vanish", "answer": "def decode_blocks(blocks: list[bytes]) -> str: ...", "returns": true}
from codecs import getincrementaldecoder

from minillm.exercises import expect, mistake

hints = [
    "Cut 'é' after its first byte. What does each half decode to?",
    "Keep the bytes of an unfinished character for the next block: `codecs.getincrementaldecoder` does.",
    "At the end, an unfinished character is an error: call the decoder once more with final=True.",
]


def refuses(decode_blocks, data):
    try:
        decode_blocks([data])
    except UnicodeDecodeError:
        return True
    return False


def checks(decode_blocks):
    text = "né月😀"
    data = text.encode()
    for cut in range(len(data) + 1):
        blocks = [data[:cut], data[cut:]]
        try:
            got = decode_blocks(blocks)
        except UnicodeDecodeError:
            mistake(f"with the blocks {blocks} it raises: the cut is inside a character, the rest comes next")
        if "\ufffd" in got:
            mistake(f"with the blocks {blocks} a character became \ufffd: each half was decoded on its own")
        if len(got) < len(text):
            mistake(
                f"with the blocks {blocks} a letter is lost: each half was decoded on its own and ignored"
            )
        expect(got == text, f"with the blocks {blocks} the text is {text!r}, yours is {got!r}")
    single = [data[k : k + 1] for k in range(len(data))]
    expect(decode_blocks(single) == text, "it fails when every block is a single byte")
    bad = b"caf\xe9 au lait"
    expect(
        refuses(decode_blocks, bad), f"{bad} is not UTF-8 and must raise UnicodeDecodeError, yours does not"
    )
    cut_off = (
        "data that ends inside a character must raise UnicodeDecodeError; finish the decoder with final=True"
    )
    expect(refuses(decode_blocks, data[:-1]), cut_off)


def wrong_ignore(blocks):
    return "".join(block.decode("utf-8", errors="ignore") for block in blocks)


def wrong_replace(blocks):
    return "".join(block.decode("utf-8", errors="replace") for block in blocks)


def wrong_strict(blocks):
    return "".join(block.decode("utf-8") for block in blocks)


def wrong_end(blocks):
    decoder = getincrementaldecoder("utf-8")()
    return "".join(decoder.decode(block) for block in blocks)


planted = {
    wrong_ignore: "a letter is lost",
    wrong_replace: "decoded on its own",
    wrong_strict: "it raises",
    wrong_end: "final=True",
}

# %% exercise 11-b {"title": "Undo a wrong table", "answer": "def undo_latin1(text: str) -> str: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Go back the way the text came: which bytes did the program read as Latin-1?",
    "Encode with the wrong table, decode with the right one. If either step fails, the text was not broken.",
]


def checks(undo_latin1):
    got = undo_latin1("cafÃ©")
    if got == "cafÃ\u0083Â©":
        mistake(
            "that is the wrong table again; undoing goes the other way: encode as Latin-1, decode as UTF-8"
        )
    expect(got == "café", f"'cafÃ©' was meant to be 'café', yours is {got!r}")
    for broken in ["æ\x9c\x88", "Ð¼Ð¸Ñ\x80", "plain"]:
        meant = broken.encode("latin-1").decode("utf-8")
        got = undo_latin1(broken)
        expect(got == meant, f"{broken!r} was meant to be {meant!r}, yours is {got!r}")
    try:
        got = undo_latin1("café")
    except UnicodeError:
        mistake("'café' is not broken, so it must come back as it is; yours raises an error")
    if got == "caf" or "\ufffd" in got:
        mistake("'café' is not broken and lost its last letter: catch the error instead of passing errors=")
    expect(got == "café", f"'café' is not broken and must come back as it is, yours gives {got!r}")
    got = undo_latin1("月")
    expect(got == "月", f"'月' has no place in Latin-1 and must come back as it is, yours gives {got!r}")


def wrong_way(text):
    return text.encode("utf-8").decode("latin-1")


def wrong_raises(text):
    return text.encode("latin-1").decode("utf-8")


def wrong_ignores(text):
    return text.encode("latin-1", errors="ignore").decode("utf-8", errors="ignore")


planted = {
    wrong_way: "goes the other way",
    wrong_raises: "yours raises an error",
    wrong_ignores: "lost its last letter",
}

# %% exercise 11-c {"title": "A quotation in a long text", "answer": "def containment(part: str, whole: str, size: int=5) -> float: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Jaccard divides by what both hold together. By what must you divide, so that a full quotation gives 1?",
    "Divide the number of common shingles by the number of shingles of the part alone.",
]


def checks(containment):
    part = "how many eggs does the blue hen lay in a week"
    long = (
        "a book about hens . " + " ".join(f"word{k}" for k in range(300)) + " " + part + " and then she rests"
    )
    got = containment(part, long, 5)
    if 0 < got < 0.1:
        mistake(
            f"a full quotation gives {got:.3f}: you divide by the long text's shingles; the part must decide"
        )
    expect(got == 1, f"the whole part is in the long text, so the answer is 1, yours is {got}")
    mixed = " ".join(reversed(part.split())) + " " + " ".join(f"word{k}" for k in range(50))
    got = containment(part, mixed, 3)
    if got == 1:
        mistake("the same words in another order are no quotation: compare shingles, not single words")
    expect(got == 0, f"no run of 3 words is in common, so the answer is 0, yours is {got}")
    got = containment("One, two, THREE four", "he said: one two three; four!", 2)
    if got < 1:
        mistake("a quotation with other capitals and commas is one, too: let `shingles` cut both texts")
    got = containment("he art", "the article", 2)
    if got > 0:
        mistake("'he art' is no run of words in 'the article': compare shingles, do not search in the text")
    got = containment("a b c d e f", "a b c x d e f", 2)
    expect(
        abs(got - 4 / 5) < 1e-9,
        f"of the 5 runs of two in 'a b c d e f', 4 are in 'a b c x d e f'; yours is {got}",
    )
    one_way, other_way = containment("a b c", "a b c d e", 2), containment("a b c d e", "a b c", 2)
    if one_way == other_way:
        mistake(
            "part and whole were exchanged and the answer stayed; only the shingles of the part count below"
        )
    expect(
        (one_way, other_way) == (1, 0.5),
        f"expected 1 one way and 0.5 the other, yours are {one_way}, {other_way}",
    )


def wrong_jaccard(part, whole, size=5):
    from minillm.corpus import jaccard

    return jaccard(shingles(part, size), shingles(whole, size))


def wrong_side(part, whole, size=5):
    small, large = shingles(part, size), shingles(whole, size)
    return len(small & large) / len(large)


def wrong_words(part, whole, size=5):
    small, large = set(part.split()), set(whole.split())
    return len(small & large) / len(small)


def wrong_smaller(part, whole, size=5):
    small, large = shingles(part, size), shingles(whole, size)
    return len(small & large) / min(len(small), len(large))


def wrong_split(part, whole, size=5):
    small, large = (
        {tuple(text.split()[k : k + size]) for k in range(len(text.split()) - size + 1)}
        for text in (part, whole)
    )
    return len(small & large) / len(small)


def wrong_search(part, whole, size=5):
    runs = shingles(part, size)
    return sum(run in " ".join(shingles(whole, 10_000)) for run in runs) / len(runs)


planted = {
    wrong_split: "other capitals and commas",
    wrong_search: "do not search in the text",
    wrong_jaccard: "you divide by the long text's shingles",
    wrong_side: "you divide by the long text's shingles",
    wrong_words: "another order",
    wrong_smaller: "were exchanged",
}

# %% exercise 11-d {"title": "Bug clinic: the test that was trained on", "answer": "def is_test(text: str, share: float) -> bool: ...", "returns": true}
import builtins
import hashlib
import inspect
import json
import os
import random
import subprocess
import sys
import textwrap
import zlib

from minillm.exercises import expect, mistake

seconds = 60  # of which most is the start of a second Python

hints = [
    "Start Python twice and print hash('moon') each time.",
    "Take the first bytes of hashlib.sha256(text.encode()) as a number between 0 and 2**64.",
    "Compare that number with share times 2**64.",
]


def without_hash(is_test, text, share):
    "The answer while Python's own hash() is out of reach."

    def refuse(value):
        mistake(
            "it calls hash(), another number in each process: the test of today is trained on tomorrow"
        )

    kept = builtins.hash
    builtins.hash = refuse
    try:
        return is_test(text, share)
    finally:
        builtins.hash = kept


def elsewhere(is_test, texts, share):
    "The answers of another process, which knows the function's own lines and this chapter's names only."
    function = inspect.unwrap(is_test)
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):  # typed where no source is kept
        return None
    asked = f"print(json.dumps([bool({function.__name__}(text, {share})) for text in {texts!r}]))"
    start = f"import sys; sys.path[:] = {sys.path!r}; from minillm import corpus; globals().update(vars(corpus))"
    known = {**os.environ, "PYTHONHASHSEED": "1"}
    program = "\n".join([start, "import json", source, asked])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=known)
    why = (done.stderr.strip() or "?").splitlines()[-1]
    expect(done.returncode == 0, f"in a second process it fails ({why}); put all that it needs into it")
    return json.loads(done.stdout.splitlines()[-1])


def checks(is_test):
    texts = [f"text number {k:05d}" for k in range(4_000)]
    without_hash(is_test, texts[0], 0.5)
    first = [bool(is_test(text, 0.25)) for text in texts]
    again = [bool(is_test(text, 0.25)) for text in reversed(texts)][::-1]
    if first != again:
        mistake("asked again in another order, it answers otherwise: chance or the place in the list decides")
    found = sum(first)
    if found in (0, 4_000):
        mistake("texts of equal length all fall on one side: take a number that depends on every character")
    expect(
        abs(found - 1_000) < 110,
        f"of 4,000 texts about 1,000 should be test texts for share 0.25, yours are {found}",
    )
    few, none = sum(is_test(text, 0.01) for text in texts), sum(is_test(text, 0.0) for text in texts)
    expect(few < 70, f"of 4,000 texts about 40 should be test texts for share 0.01, yours are {few}")
    expect(
        none == 0 and few > 12,
        f"share 0 gives no test text and 0.01 about 40 of 4,000; yours give {none}, {few}",
    )
    parts = [first[k : k + 100] for k in range(0, 4_000, 100)]
    expect(
        all(5 < sum(part) < 50 for part in parts), "texts that follow each other fall on one side together"
    )
    if elsewhere(is_test, texts[::-40], 0.25) not in (None, first[::-40]):
        mistake("another process gives other answers: only the text may decide, no memory, no salt, no process")


def wrong_hash(text, share):
    return hash(text) % 1000 < share * 1000


def wrong_chance(text, share):
    return random.random() < share


def wrong_length(text, share):
    return len(text) % 100 < share * 100


def wrong_tenth(text, share):
    return zlib.crc32(text.encode()) % 10 < share * 10


def wrong_salt(text, share):
    return text.__hash__() % 1000 < share * 1000


def wrong_process(text, share):
    salted = hashlib.sha256(f"{os.getpid()} {text}".encode()).digest()
    return int.from_bytes(salted[:8], "big") < share * 2**64


def wrong_memory(text, share, known={}):  # noqa: B006
    return known.setdefault(text, random.random()) < share


def wrong_start(text, share):
    return int(text.split()[-1]) / 4_000 < share if text[-1].isdigit() else False


planted = {
    wrong_hash: "calls hash()",
    wrong_chance: "chance or the place",
    wrong_salt: "another process",
    wrong_process: "another process",
    wrong_memory: "another process",
    wrong_length: "texts of equal length",
    wrong_tenth: "about 1,000 should be",
    wrong_start: "one side together",
}
