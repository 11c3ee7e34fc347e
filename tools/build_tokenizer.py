#!/usr/bin/env python3
"""Train the tokenizer that comes with minillm, from the sample corpus that comes with minillm: the same bytes each time.

`tools/build_tokenizer.py` writes minillm/assets/tokenizer/tokenizer.json; with a path, it writes there (the test compares). Run it after
a change of the sample corpus or of training.
"""

import sys
from pathlib import Path

from minillm.corpus import load_corpus
from minillm.tokenizer import Tokenizer

TARGET = Path(__file__).resolve().parent.parent / "minillm" / "assets" / "tokenizer" / "tokenizer.json"
VOCAB_SIZE = 2_048  # 256 bytes, 1,791 merges and the end-of-text token: small enough to look through


def main(arguments: list[str]) -> None:
    target = Path(arguments[0]) if arguments else TARGET
    target.parent.mkdir(parents=True, exist_ok=True)
    Tokenizer.train(load_corpus("sample"), VOCAB_SIZE).save(target)


if __name__ == "__main__":
    main(sys.argv[1:])
