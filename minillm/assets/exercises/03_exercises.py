# Generated from nbs/03_exercises.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import contextlib
import functools
import importlib.resources
import inspect
import itertools
import json
import linecache
import os
import re
import signal
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn
from minillm.exercises import Exercise, Mistake, NotYet, TooLong, Verdict, Watched, check, expect, find_exercise, hint, judge, load_exercises, mistake, raises, time_limit

# %% exercise 03-a {"title": "The longest word", "answer": "def longest_word(text: str) -> str: ...", "returns": true}
from minillm.exercises import expect, mistake, raises

hints = [
    "`text.split()` without an argument separates at any white space, and drops empty pieces.",
    "`max` takes a `key`; of several largest items it returns the first.",
]


def checks(longest_word):
    got = longest_word("two red owls sing here")
    if got == "here":
        mistake("three words are equally long and you took the last of them; the rule is: the first")
    if got == "two":
        mistake("you took the last word of the alphabet; the longest has the most letters: max(…, key=len)")
    expect(got == "owls", f"of 'two red owls sing here' the answer is 'owls'; yours is {got!r}")
    text = "a\tbright\nday"
    got = longest_word(text)
    expect(got == "bright", f"tabs and line ends separate too: of {text!r} it is 'bright'; yours is {got!r}")
    with raises(ValueError, show=False):
        longest_word(" \n")


def wrong_last(text):
    return max(reversed(text.split()), key=len)


def wrong_alphabet(text):
    return max(text.split())


def wrong_spaces(text):
    return max(text.split(" "), key=len)


planted = {
    wrong_last: "took the last of them",
    wrong_alphabet: "last word of the alphabet",
    wrong_spaces: "tabs and line ends separate too",
}
