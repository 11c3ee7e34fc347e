# Generated from nbs/11_corpus.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import json
import sys
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from minillm.corpus import CORPORA, SEPARATOR, describe_bad_bytes, find_bad_byte, iter_documents, load_corpus, read_lines, sample_sentences, split_documents, text_files

# %% exercise 11-a {"title": "Counting characters without decoding", "answer": "def count_characters(data: bytes) -> int: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Look at the table of bits again: how do all bytes begin that are not the first of a character?",
    "Count the bytes whose two highest bits are not 10. `byte & 0b1100_0000` keeps those two bits.",
]


def checks(count_characters):
    data = "né月😀".encode()
    got = count_characters(data)
    if got == len(data):
        mistake("you counted every byte; a character has one to four bytes, and only its first must count")
    if got == 1:
        mistake("you counted only the bytes below 128; characters of several bytes have a first byte, too")
    if got == 3:
        mistake("you left out the characters of four bytes; their first byte starts with 11110")
    expect(got == 4, f"'né月😀' has 4 characters in 10 bytes, yours counts {got}")
    for text in ["", "plain", "кошка", "cafe\u0301", "नमस्ते", "\U0010ffff\x7f\x80"]:
        got = count_characters(text.encode())
        expect(got == len(text), f"{text!r} has {len(text)} characters, yours counts {got}")


def wrong_bytes(data):
    return len(data)


def wrong_ascii(data):
    return sum(byte < 128 for byte in data)


def wrong_four(data):
    return sum(byte < 128 or 192 <= byte < 240 for byte in data)


planted = {wrong_bytes: "counted every byte", wrong_ascii: "below 128", wrong_four: "characters of four bytes"}

# %% exercise 11-b {"title": "Bug clinic: the letters that vanish", "answer": "def decode_blocks(blocks: list[bytes]) -> str: ...", "returns": true}
from codecs import getincrementaldecoder

from minillm.exercises import expect, mistake

hints = [
    "Cut 'é' after its first byte. What does each half decode to?",
    "Keep the bytes of an unfinished character until the next block. `codecs.getincrementaldecoder` does that.",
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
            mistake(f"with the blocks {blocks} a letter is lost: each half was decoded on its own and ignored")
        expect(got == text, f"with the blocks {blocks} the text is {text!r}, yours is {got!r}")
    single = [data[k : k + 1] for k in range(len(data))]
    expect(decode_blocks(single) == text, "it fails when every block is a single byte")
    bad = b"caf\xe9 au lait"
    expect(refuses(decode_blocks, bad), f"{bad} is not UTF-8 and must raise UnicodeDecodeError, yours does not")
    cut_off = "data that ends inside a character must raise UnicodeDecodeError; finish the decoder with final=True"
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

# %% exercise 11-c {"title": "Undo a wrong table", "answer": "def undo_latin1(text: str) -> str: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Go back the way the text came: which bytes did the program read as Latin-1?",
    "Encode with the wrong table, decode with the right one. If either step fails, the text was not broken.",
]


def checks(undo_latin1):
    got = undo_latin1("cafÃ©")
    if got == "cafÃ\u0083Â©":
        mistake("that is the wrong table again; undoing goes the other way: encode as Latin-1, decode as UTF-8")
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
