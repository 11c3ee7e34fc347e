#!/usr/bin/env python3
"""Training byte-pair encoding: minillm beside the library `tokenizers`, in CPU seconds of one process and one thread.

    python benchmarks/bpe_training.py FILE …                      # UTF-8 text; each file is one document
    python benchmarks/bpe_training.py FILE … --bytes 5e6 --vocab 4096 --runs 5 --out results.json

The two run in turn, `--runs` times; the median counts. Both read the same documents from memory and cut them with GPT-2's pattern. `--bytes`
takes an equal share from each file. Without files the sample corpus is repeated up to that size, which flatters whoever counts distinct
chunks once; the output says so. Memory is the peak that each training adds, measured in a process of its own.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

THREADS = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
os.environ.update(THREADS)  # before the libraries are imported

from minillm.bpe import train_bpe  # noqa: E402


def documents_of(paths: list[Path], size: int) -> tuple[list[str], str]:
    "Documents of `size` bytes in all, and where they come from."
    if paths:
        texts = [path.read_text(encoding="utf-8") for path in paths]
        share = min(1.0, size / sum(len(text.encode()) for text in texts))
        return [text[: int(len(text) * share)] for text in texts], f"{len(paths)} files, {share:.0%} of each"
    from minillm.corpus import load_corpus

    sample = load_corpus("sample")
    times = max(1, round(size / sum(len(text.encode()) for text in sample)))
    return sample * times, f"the sample corpus repeated {times} times: few distinct chunks, so real text takes longer to learn from"


def by_minillm(documents: list[str], vocab_size: int) -> int:
    "Train, and return the number of tokens."
    return len(train_bpe(documents, vocab_size)[0])


def by_tokenizers(documents: list[str], vocab_size: int) -> int:
    "The same by `tokenizers`: bytes as the alphabet, GPT-2's pattern, nothing else."
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    return tokenizer.get_vocab_size()


CONTENDERS: dict[str, Callable[[list[str], int], int]] = {"minillm": by_minillm, "tokenizers": by_tokenizers}


def peak_megabytes(train: Callable[[list[str], int], int], documents: list[str], vocab_size: int) -> float:
    "The resident memory that one training adds at its peak, in a process of its own; run before this one has freed any. Not on Windows."
    import resource

    read, write = os.pipe()
    if (child := os.fork()) == 0:
        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        train(documents, vocab_size)
        added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / 1e6
        os.write(write, str(added).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return float(pipe.read() or "nan")


def measure(documents: list[str], vocab_size: int, runs: int) -> dict[str, dict[str, object]]:
    "CPU seconds of each contender, interleaved; all runs are kept."
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    sizes = dict.fromkeys(CONTENDERS, 0)
    memory: dict[str, float | None] = {}
    for name, train in CONTENDERS.items():
        train(["imports and first calls"], 260)
        memory[name] = round(peak_megabytes(train, documents, vocab_size), 1) if hasattr(os, "fork") else None
    for _ in range(runs):
        for name, train in CONTENDERS.items():
            start = time.process_time()
            sizes[name] = train(documents, vocab_size)
            seconds[name].append(time.process_time() - start)
    return {
        name: {
            "cpu_seconds": round(statistics.median(seconds[name]), 4),
            "all": [round(s, 4) for s in seconds[name]],
            "tokens": sizes[name],
            "peak_megabytes": memory[name],
        }
        for name in CONTENDERS
    }


def machine() -> dict[str, str]:
    "What the figures depend on."
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next((line.split(":", 1)[1].strip() for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")), cpu)
    names = ("minillm-book", "regex", "tokenizers")
    return {"cpu": cpu, "cores": str(os.cpu_count()), "python": platform.python_version(), **THREADS, **{name: version(name) for name in names}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="UTF-8 text files")
    parser.add_argument("--bytes", type=float, default=5e6, help="how much text to train on (default: 5e6)")
    parser.add_argument("--vocab", type=int, nargs="+", default=[4096], help="vocabulary sizes (default: 4096)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    given = parser.parse_args()
    documents, source = documents_of(given.files, int(given.bytes))
    size = sum(len(text.encode()) for text in documents)
    print(f"{size / 1e6:.2f} MB from {source}")
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    results = {}
    for vocab_size in given.vocab:
        results[str(vocab_size)] = measured = measure(documents, vocab_size, given.runs)
        for name, one in measured.items():
            memory = "" if one["peak_megabytes"] is None else f", {one['peak_megabytes']:.0f} MB more at the peak"
            print(f"vocabulary {vocab_size:,}: {name:10} {one['cpu_seconds']:.2f} CPU s (median of {given.runs}){memory}")
        ratio = measured["tokenizers"]["cpu_seconds"] / measured["minillm"]["cpu_seconds"]
        print(f"vocabulary {vocab_size:,}: tokenizers takes {ratio:.2f} times as long as minillm")
    if given.out:
        record = {"bytes": size, "source": source, "machine": machine(), "vocabularies": results}
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
