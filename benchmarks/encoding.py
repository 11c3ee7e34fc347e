#!/usr/bin/env python3
"""How fast text becomes ids: minillm beside `tokenizers` and `tiktoken`, with GPT-2's vocabulary, in MB per CPU second.

    python benchmarks/encoding.py --gpt2 FOLDER some.txt other.txt      FOLDER holds vocab.json and merges.txt

One process, one thread, all in turn within each round; the first round fills the caches and is not counted ("cold" clears ours before
every file). The median of the rounds is reported, and all must give equal ids before a time counts.
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

for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = "1"  # before the libraries are imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tiktoken  # noqa: E402
import tokenizers  # noqa: E402

from minillm.tokenizer import END_OF_TEXT, Tokenizer, tokenizer_json  # noqa: E402

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""  # tiktoken's own for GPT-2
Encode = Callable[[str], list[int]]


def processor() -> str:
    "The processor's name, as well as the system tells it."
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def encoders(folder: Path) -> dict[str, Encode]:
    "Name → encoder, all with GPT-2's vocabulary; special tokens are ordinary text to each."
    ours = Tokenizer.from_gpt2(folder / "vocab.json", folder / "merges.txt")
    cold = Tokenizer(dict(enumerate(ours.token_bytes)), ours.merges, ours.special_tokens)
    text = tokenizer_json(ours.token_bytes, ours.merges, ours.special_tokens, ours.pattern)
    public = tokenizers.Tokenizer.from_str(text)
    public.encode_special_tokens = True
    special = ours.special_tokens[END_OF_TEXT]
    ranks = {data: token for token, data in enumerate(ours.token_bytes) if token != special}
    openai = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: special})

    def encode_cold(text: str) -> list[int]:
        cold.chunks.clear()
        return cold.encode(text)

    return {
        "minillm": ours.encode,
        "minillm, cold": encode_cold,
        "tokenizers": lambda text: public.encode(text).ids,
        "tokenizers, no offsets": lambda text: public.encode_batch_fast([text])[0].ids,
        "tiktoken": openai.encode_ordinary,
    }


def measure(ways: dict[str, Encode], text: str, rounds: int) -> dict[str, list[float]]:
    "CPU seconds of each round by name. Raises SystemExit if the ids differ."
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    expected = ways["tiktoken"](text)
    for number in range(rounds + 1):
        for name, encode in ways.items():
            began = time.process_time()
            ids = encode(text)
            took = time.process_time() - began
            if ids != expected:
                raise SystemExit(f"{name} gives other ids than tiktoken; a speed would mean nothing")
            if number:
                seconds[name].append(took)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="text in UTF-8")
    parser.add_argument("--gpt2", type=Path, required=True, help="folder with GPT-2's vocab.json and merges.txt")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: 5)")
    parser.add_argument("--out", type=Path, help="write all figures there as JSON")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        texts = {str(path): path.read_bytes().decode("utf-8") for path in options.files}
        ways = encoders(options.gpt2)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    versions = {name: version(name) for name in ("tokenizers", "tiktoken", "regex")}
    machine = f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}"
    print(f"{machine}; 1 thread; {', '.join(f'{name} {number}' for name, number in versions.items())}")
    results = {}
    for path, text in texts.items():
        megabytes = len(text.encode("utf-8")) / 1e6
        if not megabytes:
            parser.error(f"{path} is empty")
        seconds = measure(ways, text, options.rounds)
        speed = {name: megabytes / statistics.median(times) for name, times in seconds.items()}
        ratios = {name: speed["minillm"] / speed[name] for name in ("tokenizers", "tokenizers, no offsets", "tiktoken")}
        results[path] = {"megabytes": megabytes, "seconds": seconds, "mb_per_cpu_second": speed, "minillm_over": ratios}
        print(f"\n{path}: {megabytes:.2f} MB, median of {options.rounds} rounds")
        for name, value in speed.items():
            beside = f"   minillm is {ratios[name]:.2f} times as fast" if name in ratios else ""
            print(f"  {name:<24}{value:7.2f} MB per CPU second{beside}")
    if options.out:
        record = {"machine": machine, "threads": 1, "versions": versions, "command": sys.argv[1:], "files": results}
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
