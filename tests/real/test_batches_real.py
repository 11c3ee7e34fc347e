"""Part 1 on real text: from a file to batches and back, in bounded memory: `make test-real DATA=folder`."""

import os
import time
import tracemalloc
from pathlib import Path

import pytest
import torch

import minillm.tokenizer
from minillm.batches import IGNORED, Prepared, packed_batches, prepare
from minillm.corpus import iter_documents

if "MINILLM_REAL_DATA" not in os.environ:
    raise RuntimeError("these tests need real text; run `make test-real DATA=folder`, or set MINILLM_REAL_DATA")
DATA = Path(os.environ["MINILLM_REAL_DATA"])
SOURCES = {  # name → source, field, how it is split
    "tinyshakespeare": (DATA / "tinyshakespeare.txt", "text", "tails"),
    "wikitext2": (DATA / "wikitext2_test.txt", "text", "tails"),
    "tinystories": (DATA / "tinystories_2M.txt", "text", "documents"),
    "17 languages": (DATA / "udhr", "text", "tails"),
    "gsm8k": (DATA / "gsm8k_test.jsonl", ("question", "answer"), "documents"),
}


def texts_of(made: Prepared) -> dict[str, list[str]]:
    stores = {"train": made.train, "validation": made.validation}
    return {name: [made.tokenizer.decode(s.document(k).tolist()) for k in range(s.n_documents)] for name, s in stores.items()}


@pytest.mark.parametrize("name", SOURCES)
def test_a_text_becomes_batches(tmp_path: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    "Nothing is lost: the stores hold the text, byte for byte, and the batches of an epoch hold the stores."
    source, field, split = SOURCES[name]
    began = time.process_time()
    made = prepare(source, tmp_path, field=field)
    took = time.process_time() - began
    documents = list(iter_documents(source, field=field, max_chars=4_000_000))
    texts = texts_of(made)
    assert made.report["split"] == split
    if split == "tails":
        assert [a + b for a, b in zip(texts["train"], texts["validation"], strict=True)] == documents
    else:
        assert sorted(texts["train"] + texts["validation"]) == sorted(documents)
    size = sum(len(text.encode()) for text in documents)
    assert made.train.n_bytes + made.validation.n_bytes == size
    assert 0.06 < made.validation.n_bytes / size < 0.14
    again = prepare(source, tmp_path, field=field)
    assert again.reason == ""
    batches = list(packed_batches(made.train, 8, 256, epochs=1))
    ids = torch.cat([batch.y[batch.y != IGNORED] for batch in batches])
    assert torch.equal(ids.sort().values, torch.from_numpy(made.train.ids.astype("int64")).sort().values)
    waste = 1 - len(made.train) / sum(batch.x.numel() for batch in batches)
    with capsys.disabled():
        rate = made.train.n_bytes / len(made.train)
        print(f"\n{name}: {made.train}, {rate:.2f} bytes a token, {took:.1f} CPU s, {waste:.1%} padding in rows of 256")


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Twenty megabytes through prepare, from a stream: four times the text takes no more memory."
    read = lambda path, limit=0: Path(path).read_text(encoding="utf-8")
    monkeypatch.setattr(minillm.tokenizer, "read_utf8", read)  # the chapter's own reserves 128 MiB, which hid all else
    part = (DATA / "tinyshakespeare.txt").read_text(encoding="utf-8")
    pieces = [part[k : k + 20_000] for k in range(0, len(part), 20_000)]
    tokenizer = prepare(pieces[:20], tmp_path / "small").tokenizer
    peaks = []
    for times in (5, 20):
        tracemalloc.start()
        made = prepare(lambda times=times: (f"{k} {piece}" for k in range(times) for piece in pieces), tmp_path / str(times), tokenizer=tokenizer)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert made.train.n_bytes + made.validation.n_bytes > 20_000_000
    assert peaks[1] < 40_000_000 and peaks[1] - peaks[0] < 2_000_000, f"{peaks} bytes"
