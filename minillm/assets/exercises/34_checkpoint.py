# Generated from nbs/34_checkpoint.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import copy
import hashlib
import json
import math
import os
import re
import shutil
import torch
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from typing import Any, NoReturn
from minillm.batches import _WRITING, _at_least_one, _explained, _one_writer, _sync_folders
from minillm.tokenizer import parse_json, read_utf8, write_whole
from minillm.checkpoint import CheckpointManager, gather_state, load_checkpoint, read_about, restore_state, save_checkpoint

# %% exercise 34-a {"title": "Read a tensor by hand", "answer": "def find_tensor(data: bytes, name: str) -> tuple[str, list[int], bytes]: ...", "returns": true}
import json

import torch
from safetensors.torch import save

from minillm.exercises import expect, mistake

hints = [
    "The first 8 bytes are the length of the table, the lowest byte first: int.from_bytes(data[:8], 'little').",
    "json.loads(data[8 : 8 + length]) is the table. data_offsets are counted from where the table ends.",
]


def a_file():
    tensors = {"w": torch.arange(6, dtype=torch.int16).view(2, 3), "b": torch.tensor(1.5), "e": torch.zeros(0, 2)}
    tensors["wide"] = torch.arange(300, dtype=torch.float64)  # makes numbers that need two bytes
    return save(tensors, metadata={"note": "x" * 300}), tensors


def turned(data):
    start = 8 + int.from_bytes(data[:8], "little")
    table = json.dumps(dict(reversed(json.loads(data[8:start]).items()))).encode()
    return len(table).to_bytes(8, "little") + table + data[start:]


def checks(find_tensor):
    data, tensors = a_file()
    for each in (data, turned(data)):
        check_file(find_tensor, each, tensors)


def check_file(find_tensor, data, tensors):
    kinds = {"w": "I16", "b": "F32", "e": "F32", "wide": "F64"}
    for name, x in tensors.items():
        got = find_tensor(data, name)
        expect(isinstance(got, tuple) and len(got) == 3, "return three things: dtype, shape, bytes")
        right = x.numpy().tobytes()
        if got[2] != right and got[2] in data and len(got[2]) == len(right):
            mistake(f"{name}: the right number of bytes from the wrong place; offsets begin where the table ends")
        wanted = (kinds[name], list(x.shape), right)
        says = f"{name} is {kinds[name]} of shape {list(x.shape)} with {len(right)} bytes; yours: {got!r:.120}"
        expect((got[0], list(got[1]), got[2]) == wanted, says)
    try:
        find_tensor(data, "none")
    except KeyError:
        return
    mistake("a name that is not in the table must raise KeyError")


def read(data, name, start=0, order="little"):
    length = int.from_bytes(data[:8], order)
    entry = json.loads(data[8 : 8 + length])[name]
    begin, end = entry["data_offsets"]
    start = start or 8 + length
    return entry["dtype"], entry["shape"], data[start + begin : start + end]


def wrong_in_order(data, name):
    start = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:start])
    for other, entry in table.items():
        if other != "__metadata__":
            begin, end = entry["data_offsets"]
            if other == name:
                return entry["dtype"], entry["shape"], data[start : start + end - begin]
            start += end - begin
    raise KeyError(name)


def wrong_start(data, name):
    return read(data, name, start=int.from_bytes(data[:8], "little"))


def wrong_from_zero(data, name):
    return read(data, name, start=8)


def wrong_default(data, name):
    try:
        return read(data, name)
    except KeyError:
        return "", [], b""


planted = {
    wrong_in_order: "from the wrong place",
    wrong_start: "from the wrong place",
    wrong_from_zero: "from the wrong place",
    wrong_default: "must raise KeyError",
}

# %% exercise 34-b {"title": "Also every thousandth", "answer": "def steps_to_keep(metrics: dict[int, float | None], last: int, every: int) -> list[int]: ...", "returns": true}
import math

from minillm.exercises import expect, mistake

hints = [
    "Three sets, joined: the newest, the best, the multiples.",
    "min of (metric, step) pairs takes the earlier step of equal metrics; leave out None and NaN before.",
]

NAN = float("nan")
RUNS = (
    ({5: 3.0, 10: 1.0, 15: 2.0, 20: 2.5}, 2, 100, [10, 15, 20], "the best, 10, is not among the last two"),
    ({1000: 3.0, 1500: 2.0, 2000: 1.5, 2500: 1.0, 3000: 0.5}, 1, 1000, [1000, 2000, 3000], "multiples stay"),
    ({5: 1.0, 10: 1.0, 15: 2.0}, 1, 100, [5, 15], "of equal metrics the earlier is the best"),
    ({5: NAN, 10: 2.0, 15: 3.0, 20: NAN}, 1, 100, [10, 20], "NaN is never the best"),
    ({5: None, 10: 2.0, 15: None, 20: 3.0}, 1, 100, [10, 20], "None was not measured"),
    ({5: None, 10: None}, 1, 100, [10], "without any metric there is no best"),
    ({20: 1.0, 5: 2.0, 15: 3.0, 10: 4.0}, 2, 100, [15, 20], "the newest are those of the highest steps, in order"),
)


def checks(steps_to_keep):
    for metrics, last, every, right, says in RUNS:
        try:
            got = steps_to_keep(dict(metrics), last, every)
        except (ValueError, TypeError) as error:
            mistake(f"{says}: {metrics} raised {type(error).__name__}: {error}")
        if got != right:
            mistake(f"{says}: of {metrics} with last={last}, every={every} keep {right}, not {got}")


def keep(metrics, last, every, best=min, nan=True, multiples=True):
    steps = sorted(metrics)
    found = [(v, s) for s, v in metrics.items() if v is not None and not (nan and math.isnan(v))]
    chosen = {best(found)[1]} if found else set()
    return sorted(set(steps[-last:]) | chosen | {s for s in steps if multiples and s % every == 0})


def wrong_highest(metrics, last, every):
    return keep(metrics, last, every, best=max)


def wrong_later(metrics, last, every):
    return keep(metrics, last, every, best=lambda found: min(found, key=lambda pair: (pair[0], -pair[1])))


def wrong_nan(metrics, last, every):
    return keep(metrics, last, every, nan=False)


def wrong_no_multiples(metrics, last, every):
    return keep(metrics, last, every, multiples=False)


def wrong_order(metrics, last, every):
    return sorted(set(list(metrics)[-last:]) | set(keep(metrics, 1, every)))


def wrong_none(metrics, last, every):
    known = [step for step, x in metrics.items() if x == x]
    best = min(known, key=lambda step: (metrics[step], step))
    return sorted({best, *sorted(metrics)[-last:], *(s for s in metrics if s % every == 0)})


planted = {
    wrong_highest: "is not among the last two",
    wrong_later: "the earlier is the best",
    wrong_nan: "NaN is never the best",
    wrong_no_multiples: "multiples stay",
    wrong_order: "highest steps",
    wrong_none: "None was not measured",
}

# %% exercise 34-c {"title": "How often?", "answer": "def best_interval(save_seconds: float, cut_seconds: float) -> float: ...", "returns": true}
import math

from minillm.exercises import expect, mistake

hints = [
    "In a second of training, C/t seconds go to saves, and t/(2·M) to work that is done again.",
    "Where the derivative with respect to t is 0: −C/t² + 1/(2·M) = 0.",
]


def checks(best_interval):
    for pair in ((10, 86_400), (1, 3600), (0.5, 200_000), (60, 604_800), (2, 50_000)):
        check_pair(best_interval(*pair), *pair)


def check_pair(got, saving, cut):
    def lost(t):
        return saving / t + t / (2 * cut)

    expect(isinstance(got, (int, float)) and got > 0, f"a number of seconds above 0, not {got!r}")
    right = min((saving * 1.002**k for k in range(8000)), key=lost)  # from one save's time on, in steps of 0.2 %
    where = f"for a save of {saving} s and a cut every {cut} s"
    if math.isclose(got, math.sqrt(saving * cut), rel_tol=1e-3):
        mistake(f"{where}: half an interval is done again on average, not a whole one")
    if math.isclose(got, 2 * saving * cut, rel_tol=1e-3):
        mistake(f"{where}: that is the square of the answer")
    if not math.isclose(got, right, rel_tol=3e-3):
        mistake(f"{where} {got:.1f} s lose {lost(got):.2%} of the time, {right:.1f} s lose {lost(right):.2%}")


def wrong_whole(save_seconds, cut_seconds):
    return math.sqrt(save_seconds * cut_seconds)


def wrong_square(save_seconds, cut_seconds):
    return 2 * save_seconds * cut_seconds


def wrong_half(save_seconds, cut_seconds):
    return math.sqrt(save_seconds * cut_seconds / 2)


def wrong_share(save_seconds, cut_seconds):
    return 100 * save_seconds


planted = {
    wrong_whole: "not a whole one",
    wrong_square: "square of the answer",
    wrong_half: "of the time",
    wrong_share: "of the time",
}

# %% exercise 34-d {"title": "Four bugs", "answer": "def save_order() -> list[tuple[str, ...]]: ...", "returns": true}
from itertools import product

from minillm.exercises import expect, mistake

hints = [
    "Which file speaks of which? What is spoken of must be there first.",
    "What is not synced when its name arrives may be empty. A name is only certain after a sync of the folder.",
    "The old tensors may go when nobody can need them any more, and not before that is certain.",
]
OLD = [("write", "t1", "AAAA"), ("sync", "t1"), ("write", "head", "t1:AAAA"), ("sync", "head")]
OLD += [("sync folder", "")]


def disks(done):
    seen, arrived, settled, pending = {}, set(), {}, []
    for number, (what, name, *more) in enumerate(done):
        if what != "sync folder" and what != "write" and seen.get(name) is None:
            mistake(f"step {number - len(OLD) + 1}: there is no {name} to {what}")
        if what == "sync":
            arrived.add(seen[name])
        elif what == "sync folder":
            settled, pending = dict(seen), []
        else:
            changes = {name: (number, more[0])} if what == "write" else {name: None}
            changes |= {more[0]: seen[name]} if what == "move" else {}
            seen |= changes
            pending.append(changes)
    for kept in product([False, True], repeat=len(pending)):
        names = dict(settled)
        for keep, changes in zip(kept, pending):
            names |= changes if keep else {}
        files = [(name, held) for name, held in names.items() if held]
        texts = [[x[1]] if x in arrived else ["", x[1][: len(x[1]) // 2], x[1]] for _, x in files]
        yield from (dict(zip([name for name, _ in files], chosen)) for chosen in product(*texts))


def verdict(disk):
    name, _, digest = disk.get("head", "").partition(":")
    if not digest:
        return "its header is cut or missing: it was not synced before it took its name"
    if disk.get(name) == digest:
        return "old" if digest == "AAAA" else "new"
    if name == "t1":
        return "its header speaks of t1, which is gone: the old tensors went before the new header was certain"
    if name in disk:
        return "its header speaks of tensors that are cut: they were not synced before the header was moved"
    return "its header speaks of tensors that are not there: their name was not certain when the header was moved"


def checks(save_order):
    steps = save_order()
    kinds = {"write": 3, "move": 3, "sync": 2, "remove": 2, "sync folder": 2}
    for step in steps:
        expect(kinds.get(step[0]) == len(step), f"{step} is no operation of power_cut")
    expect(len(steps) <= 12, f"eight operations are enough, yours are {len(steps)}")
    for k in range(len(steps) + 1):
        after = "before your first step" if k == 0 else f"after step {k}, {steps[k - 1]},"
        for disk in disks(OLD + steps[:k]):
            if (found := verdict(disk)) not in ("old", "new"):
                mistake(f"power cut {after} the disk may hold {disk}: {found}")
    ends = {verdict(disk) for disk in disks(OLD + steps)}
    expect(ends == {"new"}, "when all is done the new checkpoint must be certain: sync the folder after the move")
    seen = {}
    for what, name, *more in OLD + steps:
        seen |= {name: True} if what == "write" else {name: False} if what in ("remove", "move") else {}
        seen |= {more[0]: True} if what == "move" else {}
    left = {name for name, there in seen.items() if there}
    expect(left == {"t2", "head"}, f"at the end there should be t2 and head, yours leaves {sorted(left)}")


GOOD = [("write", "t2", "BBBB"), ("sync", "t2"), ("sync folder", ""), ("write", "head.new", "t2:BBBB")]
GOOD += [("sync", "head.new"), ("move", "head.new", "head"), ("sync folder", ""), ("remove", "t1")]


def without(*numbers):
    return [step for k, step in enumerate(GOOD) if k not in numbers]


def wrong_as_found():
    return [GOOD[7], GOOD[3], GOOD[5], GOOD[0], GOOD[1]]


def wrong_tensors_not_synced():
    return without(1)


def wrong_names_not_synced():
    return without(2)


def wrong_header_not_synced():
    return without(4)


def wrong_not_certain():
    return without(6, 7)


def wrong_removed_early():
    return [*GOOD[:6], GOOD[7], GOOD[6]]


def wrong_old_stays():
    return without(7)


def wrong_header_first():
    return [*GOOD[3:6], *GOOD[:3], *GOOD[6:]]


planted = {
    wrong_as_found: "which is gone",
    wrong_tensors_not_synced: "they were not synced before the header",
    wrong_names_not_synced: "their name was not certain",
    wrong_header_not_synced: "not synced before it took its name",
    wrong_not_certain: "must be certain",
    wrong_removed_early: "which is gone",
    wrong_old_stays: "yours leaves",
    wrong_header_first: "tensors that are not there",
}
