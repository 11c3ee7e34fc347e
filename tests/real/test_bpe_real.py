"""Byte-pair encoding on real text: `make test-real DATA=folder`, or MINILLM_REAL_DATA=folder pytest tests/real.

Reads every .txt and .jsonl file below the folder.
"""

import os
import time
from pathlib import Path

import pytest
from chapters import chapter_function

from minillm.bpe import GPT2_PATTERN, GPT4_PATTERN, merge_chunk, split_text, train_bpe

if "MINILLM_REAL_DATA" not in os.environ:
    pytest.exit("tests/real needs a folder of text files: set MINILLM_REAL_DATA, or run make test-real DATA=folder", returncode=4)

FOLDER = Path(os.environ["MINILLM_REAL_DATA"])
FILES = sorted(path for kind in ("*.txt", "*.jsonl") for path in FOLDER.rglob(kind))
NAMES = [str(path.relative_to(FOLDER)) for path in FILES]
train_bpe_loop = chapter_function("12_bpe", "train_bpe_loop")
merge_pair_loop = train_bpe_loop.__globals__["merge_pair_loop"]


def merge_where_it_can_be(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    "merge_pair_loop, but words that cannot hold the pair are passed over: minutes instead of a quarter of an hour."
    return merge_pair_loop(word, pair, new) if pair[0] in word and pair[1] in word else word


train_bpe_loop.__globals__["merge_pair_loop"] = merge_where_it_can_be


def read(path: Path, characters: int = -1) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        return file.read(characters)


def test_there_is_text() -> None:
    assert FILES, f"{FOLDER} holds no .txt or .jsonl file"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_first_300_merges_equal_the_naive_trainers(path: Path) -> None:
    text = read(path, 100_000).encode()[:100_000].decode("utf-8", "ignore")
    vocab, merges = train_bpe([text], 256 + 300)
    chunks = [chunk.encode() for chunk in split_text(text)]
    assert (vocab, merges) == train_bpe_loop(chunks, 300)


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN], ids=["gpt2", "gpt4"])
@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_chunks_are_the_text(path: Path, pattern: str) -> None:
    text = read(path)
    assert "".join(split_text(text, pattern)) == text


def test_a_vocabulary_of_32000_on_10_megabytes(record_property: pytest.FixtureRequest, capsys: pytest.CaptureFixture) -> None:
    "Reports CPU seconds, which machines decide; asserts what the vocabulary must be able to do."
    texts, left = [], 10_000_000
    for path in FILES:
        texts.append(read(path, left))
        left = max(0, left - len(texts[-1].encode()))
    start = time.process_time()
    vocab, merges = train_bpe(texts, 32_000)
    seconds = time.process_time() - start
    size = sum(len(text.encode()) for text in texts)
    with capsys.disabled():
        print(f"\n{size / 1e6:.1f} MB, vocabulary {len(vocab):,}: {seconds:.1f} CPU seconds (wanted: at most 60)")
    assert len(vocab) == 32_000 and len(set(vocab.values())) == 32_000
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    tokens = bytes_in = 0
    for text in texts:
        for chunk in split_text(text[:20_000]):
            pieces = merge_chunk(chunk.encode(), ranks)
            assert b"".join(pieces) == chunk.encode()
            tokens, bytes_in = tokens + len(pieces), bytes_in + len(chunk.encode())
    assert bytes_in / tokens > 3, f"{bytes_in / tokens:.2f} bytes per token on text that it was trained on"
