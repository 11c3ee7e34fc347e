"""`minillm tokenize` on real text, from the shell: the ids are tiktoken's, and decoding gives the file back, byte for byte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken

from minillm.tokenizer import unspell_bytes

DATA = Path(os.environ["MINILLM_REAL_DATA"])
TEXTS = sorted(path for path in DATA.rglob("*.txt") if path.parent.name != "gpt2")
GPT2 = ["--gpt2", str(DATA / "gpt2")]
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # of openai/tiktoken's gpt2


def minillm(*words: str, input: bytes = b"") -> bytes:
    done = subprocess.run([sys.executable, "-m", "minillm", *words], input=input, capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@pytest.fixture(scope="module")
def oracle() -> tiktoken.Encoding:
    vocab = json.loads((DATA / "gpt2" / "vocab.json").read_text(encoding="utf-8"))
    ranks = {unspell_bytes(word): token for word, token in vocab.items() if word != "<|endoftext|>"}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})


def test_there_are_texts() -> None:
    assert len(TEXTS) >= 10


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_file(path: Path, oracle: tiktoken.Encoding) -> None:
    ids = minillm("tokenize", *GPT2, "--ids", "--file", str(path))
    assert list(map(int, ids.split())) == oracle.encode_ordinary(path.read_bytes().decode("utf-8"))
    assert minillm("tokenize", *GPT2, "--decode", input=ids) == path.read_bytes()
