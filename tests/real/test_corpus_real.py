"""Real text through the corpus tools, each in bounded memory: `make test-real DATA=folder`, or MINILLM_REAL_DATA=folder pytest tests/real.

Reads what the folder has of tinyshakespeare.txt, wikitext2_*.txt, tinystories*.txt, gsm8k_*.jsonl and udhr/*.txt; what is missing is skipped.
"""

import gzip
import hashlib
import os
import random
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from minillm.corpus import (
    REMOTE_CORPORA,
    Cleaner,
    Deduplicator,
    QualityReport,
    TextTally,
    corpus_version,
    download_corpus,
    iter_documents,
    jaccard,
    load_corpus,
    quality_report,
    shingles,
    split_corpus,
    split_of,
)

if "MINILLM_REAL_DATA" not in os.environ:
    pytest.exit("tests/real needs a folder of text files: set MINILLM_REAL_DATA, or run make test-real DATA=folder", returncode=4)

FOLDER = Path(os.environ["MINILLM_REAL_DATA"])
SUMS = ("question", "answer")
SOURCES = {
    "tinyshakespeare": (FOLDER / "tinyshakespeare.txt", "text"),
    "wikitext2": (FOLDER / "wikitext2_valid.txt", "text"),
    "tinystories": (FOLDER / "tinystories_2M.txt", "text"),
    "languages": (FOLDER / "udhr", "text"),
    "gsm8k": (FOLDER / "gsm8k_train.jsonl", SUMS),
}


def source(name: str) -> tuple[Path, str | tuple[str, ...]]:
    path, field = SOURCES[name]
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path, field


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A cache folder with copies of what the data folder has of the published files."
    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path))
    for remote in REMOTE_CORPORA.values():
        if (FOLDER / remote.file).exists():
            shutil.copy(FOLDER / remote.file, tmp_path)
    return tmp_path


def sizes_of(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*.txt")) if path.is_dir() else path.stat().st_size


@pytest.mark.parametrize("name", SOURCES)
def test_report_cleaning_and_duplicates_in_bounded_memory(name: str, capsys: pytest.CaptureFixture) -> None:
    "The whole way once, streamed: 5 KB for each kept document (signatures and bands) and at most 16 MB for all else."
    path, field = source(name)
    tally, cleaner, finder, kept = TextTally(), Cleaner(), Deduplicator(), 0
    tracemalloc.start()
    for text in iter_documents(path, field=field, max_chars=100_000):
        clean = cleaner(text)
        tally.add(clean)
        kept += finder.add(clean) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    report = tally.report()
    with capsys.disabled():
        print(f"\n{name}, {sizes_of(path):,} bytes, peak {peak / 1e6:.1f} MB\n{report}\n{cleaner}")
        print(f"equal {finder.equal}, nearly equal {finder.near}, kept {kept}")
    assert peak < 16_000_000 + 5_000 * kept
    assert report.documents == finder.documents == kept + finder.equal + finder.near
    assert not {"mojibake", "control characters", "replacement characters", "carriage returns", "not NFC"} & set(report.suspicious)


def report_of(name: str) -> QualityReport:
    path, field = source(name)
    return quality_report(iter_documents(path, field=field))


def test_what_the_reports_must_say() -> None:
    scripts = report_of("languages").scripts
    assert len(scripts) >= 10 and {"Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Thai", "Hangul", "Han", "Hiragana"} <= set(scripts)
    assert report_of("languages").documents == 17
    bard = report_of("tinyshakespeare")
    assert bard.characters == bard.bytes == sizes_of(source("tinyshakespeare")[0]) - 1 and bard.distinct_characters == 65
    assert "GLOUCESTER:" in bard.most_repeated
    sums = report_of("gsm8k")
    assert sums.documents == 7_473 and sums.duplicates == 0 and sums.kinds["digits"] > 0.05


def test_no_real_language_is_taken_for_mojibake() -> None:
    for name in SOURCES:
        assert "mojibake" not in report_of(name).suspicious


@pytest.mark.parametrize("name", ["tinystories", "gsm8k", "wikitext2"])
def test_planted_duplicates_are_found(name: str, cache: Path) -> None:
    "Copies of 200 real documents, and copies with one word changed: all equal ones are found, and all near enough ones."
    path, field = source(name)
    documents = load_corpus("wikitext2-valid") if name == "wikitext2" else load_corpus(path, field=field)[:3_000]
    draw, finder = random.Random(0), Deduplicator(n_hashes=512)
    kept = [text for text in documents if finder.add(text) is None]
    before, missed, found = (finder.equal, finder.near), 0, 0
    for text in draw.sample(kept, min(200, len(kept))):
        assert finder.add(text).similarity == 1
        words = text.split(" ")
        words[draw.randrange(len(words))] = "otherwise"
        true = jaccard(shingles(text), shingles(" ".join(words)))
        if true > 0.8 + 4 * (0.8 * 0.2 / 512) ** 0.5:
            hit = finder.add(" ".join(words))
            missed, found = missed + (hit is None), found + (hit is not None)
    assert finder.equal - before[0] == min(200, len(kept)) and missed == 0 and found >= 25
    print(name, before, found)


def test_duplicates_equal_brute_force_on_real_text() -> None:
    "600 stories, each pair compared by its true similarity at a threshold that real stories reach."
    path, _ = source("tinystories")
    documents, threshold = load_corpus(path)[:600], 0.1
    runs = [shingles(text, 2) for text in documents]
    finder, kept = Deduplicator(threshold, size=2, n_hashes=512), []
    error = 4 * (threshold * (1 - threshold) / 512) ** 0.5
    for k, text in enumerate(documents):
        best = max((jaccard(runs[k], runs[j]) for j in kept), default=0.0)
        hit = finder.add(text)
        assert not (hit is None and best > threshold + error), (k, best)
        assert not (hit is not None and best < threshold - error), (k, best)
        if hit is None:
            kept.append(k)
    assert 0 < finder.near < 600


def test_training_and_test_of_gsm8k_share_no_problem() -> None:
    "A published split, looked at with our tool: no test problem is nearly equal to one of the training."
    train, test = FOLDER / "gsm8k_train.jsonl", FOLDER / "gsm8k_test.jsonl"
    if not test.exists():
        pytest.skip(f"{test} is not there")
    finder = Deduplicator(0.8)
    for text in load_corpus(train, field="question"):
        finder.add(text)
    both = sum(finder.add(text) is not None for text in load_corpus(test, field="question"))
    print(f"{both} of the test problems are nearly equal to one of the training")
    assert both < 15


@pytest.mark.parametrize("name", ["tinystories", "gsm8k"])
def test_a_split_of_real_text(name: str) -> None:
    path, field = source(name)
    documents = load_corpus(path, field=field)
    parts = split_corpus(documents, validation=0.05, test=0.1)
    assert sum(map(len, parts.values())) == len(documents)
    assert len(parts["test"]) == pytest.approx(0.1 * len(documents), abs=4 * (len(documents) * 0.09) ** 0.5)
    fewer = split_corpus(documents[::3], validation=0.05, test=0.1)
    assert set(fewer["test"]) <= set(parts["test"]) and all(split_of(t, validation=0.05, test=0.1) == "test" for t in fewer["test"])


def test_a_book_gives_its_tail() -> None:
    path, _ = source("tinyshakespeare")
    [text] = load_corpus(path)
    parts = split_corpus([text])
    joined = "".join(piece for name in ("train", "validation", "test") for piece in parts[name])
    assert joined == text and len(parts["test"][0]) == pytest.approx(0.05 * len(text), rel=0.01)


def test_published_files_by_name(cache: Path, capsys: pytest.CaptureFixture) -> None:
    "Put by hand into the cache: checked against the known hashes without a network, and read by their names."
    names = [name for name, remote in REMOTE_CORPORA.items() if (cache / remote.file).exists()]
    if not names:
        pytest.skip(f"{FOLDER} has none of the published files")
    for name in names:
        remote = REMOTE_CORPORA[name]
        assert hashlib.sha256((cache / remote.file).read_bytes()).hexdigest() == remote.sha256
        assert download_corpus(name, progress=False) == cache / remote.file
        documents = load_corpus(name)
        print(name, len(documents), corpus_version(documents))
        assert documents == list(iter_documents(name, max_chars=10**9))
    for name in {"wikitext2-valid", "wikitext2-test"} & set(names):
        articles = load_corpus(name)
        assert len(articles) == 60 and all(text.startswith(" = ") for text in articles)


def test_packed_files_read_the_same(tmp_path: Path) -> None:
    path, _ = source("wikitext2")
    with gzip.open(tmp_path / "wiki.txt.gz", "wb") as file:
        file.write(path.read_bytes())
    assert load_corpus(tmp_path / "wiki.txt.gz") == load_corpus(path)


def timed(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def test_speeds(capsys: pytest.CaptureFixture) -> None:
    "Reported, not judged: machines differ."
    path, _ = source("tinystories")
    documents = load_corpus(path)
    mb = sum(len(text.encode()) for text in documents) / 1e6
    cleaner, finder = Cleaner(), Deduplicator()
    steps = {
        "read": lambda: load_corpus(path),
        "clean": lambda: list(map(cleaner, documents)),
        "report": lambda: quality_report(documents),
        "deduplicate": lambda: list(map(finder.add, documents)),
        "split": lambda: split_corpus(documents),
        "stamp": lambda: corpus_version(documents),
    }
    with capsys.disabled():
        print("\nMB a CPU second:", {name: round(mb / timed(call), 1) for name, call in steps.items()})
