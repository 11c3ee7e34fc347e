"""Checkpoints beyond the chapter: any state comes back, no damage goes unseen, no fault and no kill costs more than the steps since the last save."""

import copy
import errno
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kills
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

import minillm.checkpoint
from minillm.batches import _one_writer
from minillm.checkpoint import (
    CheckpointManager,
    _sealed,
    _system_error,
    gather_state,
    load_checkpoint,
    read_about,
    restore_state,
    save_checkpoint,
)

SLOW = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DTYPES = sorted(minillm.checkpoint._DTYPES, key=str)


def exactly(one: Any, other: Any) -> bool:
    "Equal in value, kind, order of keys and, for tensors, dtype and every bit."
    if isinstance(one, torch.Tensor):
        if not isinstance(other, torch.Tensor) or (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        plain = (x.detach().resolve_conj().resolve_neg() for x in (one, other))
        bits = [x.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8) for x in plain]
        return torch.equal(*bits)
    if isinstance(one, dict):
        return isinstance(other, dict) and exactly(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple):
        alike = type(one) is type(other) and len(one) == len(other)
        return alike and all(exactly(a, b) for a, b in zip(one, other))
    return type(one) is type(other) and repr(one) == repr(other)  # −0.0 is not 0.0, and nan is nan


# ---- any state comes back

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
KEYS = st.text(st.sampled_from("a.$_é\ud800"), max_size=4) | st.integers(-3, 3) | st.booleans() | st.none()
KEYS |= st.floats(allow_nan=False) | st.tuples(st.integers(), st.text(max_size=2))


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    "Any dtype, up to three dimensions, empty ones too, transposed or strided or neither."
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    numbers = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    size = int(torch.tensor(shape).prod()) * dtype.itemsize
    top = 2 if dtype == torch.bool else 256
    x = torch.randint(0, top, (size,), dtype=torch.uint8, generator=numbers).view(dtype).view(shape)
    return draw(st.sampled_from([x, x.T if x.ndim == 2 else x.transpose(0, -1) if x.ndim else x, x[..., ::2] if x.ndim else x]))


STATES = st.recursive(
    PLAIN | tensors(),
    lambda inner: st.lists(inner, max_size=4)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(state=STATES)
@SLOW
def test_any_state_comes_back(state: Any, tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path / "c", state, about={"note": "ü", "rate": float("inf")})
    assert exactly(load_checkpoint(place), state)
    assert read_about(place) == {"note": "ü", "rate": float("inf")}
    assert len(list(place.iterdir())) == 2, "each save removes what the one before has written"


def test_memory_that_is_shared_is_shared_again(tmp_path: Path) -> None:
    x = torch.arange(6.0).view(2, 3)
    empty = torch.zeros(0)
    state = {"a": x, "b": nn.Parameter(x), "row": x[1], "turned": x.T, "same": [x, {1: x.view(2, 3)}], "none": [empty, empty]}
    state["conj"] = [z := torch.tensor([1 + 2j], dtype=torch.complex64), z.conj(), z.imag, z.conj().imag]
    found = load_checkpoint(save_checkpoint(tmp_path / "c", state))
    assert exactly(found, {**state, "b": x})
    assert found["a"] is found["b"] is found["same"][0] is found["same"][1][1]
    assert type(found["b"]) is torch.Tensor and not found["b"].requires_grad
    found["a"].zero_()
    assert torch.equal(found["row"], x[1]) and torch.equal(found["turned"], x.T), "parts of one memory come back apart"
    square = torch.arange(9.0).view(3, 3)
    turns = [square, square.T, square[0], square[1], square[0].clone()]  # one memory, one shape, other numbers
    assert exactly(load_checkpoint(save_checkpoint(tmp_path / "s", turns)), turns)
    wide = torch.zeros(1).expand(1000)
    assert exactly(load_checkpoint(save_checkpoint(tmp_path / "w", [wide, wide[:3]])), [wide.clone(), torch.zeros(3)])


def test_a_slice_does_not_bring_its_whole_memory(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path / "c", torch.zeros(1000, 1000)[3])
    assert sum(path.stat().st_size for path in place.iterdir()) < 6000


def test_names_that_clash(tmp_path: Path) -> None:
    one, two, three = torch.tensor(1), torch.tensor(2), torch.tensor(3)
    state = {"a.b": one, "a": {"b": two}, "__metadata__": three, "$tensor": [4], "1": torch.tensor(5), 1: torch.tensor(6)}
    place = save_checkpoint(tmp_path / "c", state)
    assert exactly(load_checkpoint(place), state)
    held = load_file(next(place.glob("*.safetensors")))
    assert sorted(int(x) for x in held.values()) == [1, 2, 3, 5, 6]


@pytest.mark.parametrize("state", [{"$": 1}, {"$tensor": "a"}, {"$tuple": [1]}, {"$items": []}, {"$float": "inf"}, {"$a": {"$b": 1}}])
def test_keys_that_look_like_our_marks(state: Any, tmp_path: Path) -> None:
    assert exactly(load_checkpoint(save_checkpoint(tmp_path / "c", state, about={"$tuple": 1})), state)
    assert read_about(tmp_path / "c") == {"$tuple": 1}


def test_model_and_optimizer_states_are_plain_again(tmp_path: Path) -> None:
    state = OrderedDict(nn.Linear(2, 2).state_dict())
    found = load_checkpoint(save_checkpoint(tmp_path / "c", state))
    assert type(found) is dict and exactly(found, dict(state))


class Program:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    "make",
    [
        lambda: {1, 2}, lambda: Program(), lambda: b"bytes", lambda: torch.float32, lambda: torch.Size([2]), lambda: 1j,
        lambda: np.float64(1.0), lambda: np.zeros(2), lambda: print, lambda: torch.zeros(2).to_sparse(),
        lambda: torch.zeros(2, device="meta"), lambda: torch.zeros(2, dtype=torch.complex128),
        lambda: {torch.zeros(1): 1}, lambda: {b"a": 1}, lambda: {1: {2, 3}},
        lambda: torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)]),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_data_is_refused_before_anything_is_written(make: Callable, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", "before")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TypeError, match=r"state\['model'\]\[0\].* is a "):
        save_checkpoint(tmp_path / "c", {"model": [make()]})
    assert sorted(tmp_path.rglob("*")) == before and load_checkpoint(tmp_path / "c") == "before"


def test_a_state_that_holds_itself(tmp_path: Path) -> None:
    state: list[Any] = []
    state.append(state)
    with pytest.raises(ValueError, match="nested more than 100 deep; does a container hold itself"):
        save_checkpoint(tmp_path / "c", state)
    deep: Any = 1
    for k in range(99):
        deep = [deep] if k % 2 else {0: deep}
    assert load_checkpoint(save_checkpoint(tmp_path / "c", deep)) == deep


@pytest.mark.parametrize("about", [{1: 2}, {"a": []}, {"a": torch.zeros(1)}, {"a": {}}])
def test_about_is_flat(about: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="about.*expected names with strings"):
        save_checkpoint(tmp_path / "c", 1, about=about)


# ---- the files of the public library


@given(held=st.dictionaries(st.text("ab.é", min_size=1, max_size=4), tensors(), max_size=5))
@SLOW
def test_the_library_reads_the_tensors_by_their_names(held: dict[str, torch.Tensor], tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path / "ours", held)
    theirs = load_file(next(place.glob("tensors-*.safetensors")))
    assert exactly({name: theirs[name] for name in held}, held)


def test_what_is_loaded_does_not_hang_on_the_file(tmp_path: Path) -> None:
    state = {"w": torch.arange(2000.0), "n": torch.tensor(3, dtype=torch.int16)}
    place = save_checkpoint(tmp_path / "c", state)
    found = load_checkpoint(place)
    path = next(place.glob("tensors-*"))
    path.write_bytes(bytes(path.stat().st_size))
    assert exactly(found, state)
    found["w"].zero_()
    found["n"] += 1
    assert found["n"] == 4 and found["w"].untyped_storage().nbytes() == 8000


@pytest.mark.skipif(os.name == "nt", reason="permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_tensors_may_be_read_by_whom_the_header_may_be_read(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        place = save_checkpoint(tmp_path / "c", torch.zeros(3))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o666 & ~mask}


MEMORY = """
import sys, torch
from resource import RUSAGE_SELF, getrusage
from minillm.checkpoint import gather_state, load_checkpoint, restore_state, save_checkpoint

torch.set_num_threads(1)
save_checkpoint(sys.argv[1], {"model": torch.zeros(10)})
load_checkpoint(sys.argv[1])
model = torch.nn.Linear(4096, 8192, bias=False)  # 128 MiB
peaks = [getrusage(RUSAGE_SELF).ru_maxrss // 1024]
save_checkpoint(sys.argv[1], gather_state(model=model))
peaks.append(getrusage(RUSAGE_SELF).ru_maxrss // 1024)
state = load_checkpoint(sys.argv[1])
peaks.append(getrusage(RUSAGE_SELF).ru_maxrss // 1024)
restore_state(state, model=model)
peaks.append(getrusage(RUSAGE_SELF).ru_maxrss // 1024)
print(*peaks)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
def test_a_save_needs_no_second_copy_in_memory(tmp_path: Path) -> None:
    "In MiB: to save, nothing; to load, the state and the pages of the file, which the system can take back; to restore, nothing."
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path / "c")], capture_output=True, text=True, check=True)
    before, saved, loaded, restored = map(int, done.stdout.split())
    assert saved - before < 30, (before, saved)
    assert loaded - saved < 128 * 2 + 30, (saved, loaded)
    assert restored - loaded < 30, (loaded, restored)


@pytest.mark.parametrize(
    "table",
    [
        b"", b"[]", b"{", b'{"a":1}', b'{"a":{}}', b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}', b'{"a":{"dtype":"no","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F32","shape":"ab","data_offsets":[0,8]}}', b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}',
        b'{"a":{"dtype":"F32","shape":[-1,-2],"data_offsets":[0,8]}}',
        b"\xff\xff", b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[6,14]}}',
    ],
)  # fmt: skip
def test_a_forged_table_is_an_error_and_no_crash(table: bytes, tmp_path: Path) -> None:
    "Somebody with bad intentions can give a file the right hash; it must still be an error, and quickly."
    import hashlib

    data = struct.pack("<Q", len(table)) + table + bytes(8)
    digest = hashlib.sha256(data).hexdigest()
    name = f"tensors-{digest[:16]}.safetensors"
    (tmp_path / name).write_bytes(data)
    header = {"format": minillm.checkpoint._CHECKPOINT_FORMAT, "about": {}}
    header |= {"tensors": {"file": name, "bytes": len(data), "sha256": digest}, "state": {"$tensor": "a"}}
    (tmp_path / "checkpoint.json").write_text(_sealed(header), encoding="utf-8")
    with pytest.raises(ValueError):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("state", [{"$no": 1}, {"$tensor": "b"}, {"$tuple": 3}, {"$items": [[[], 1]]}, {"$items": 3}, {"$float": "x"}, {"$items": [1]}, {"$tensor": []}])
def test_a_forged_header_is_an_error(state: Any, tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path / "c", {"a": torch.zeros(1)})
    header = json.loads((place / "checkpoint.json").read_text(encoding="utf-8"))
    del header["sha256"]
    for change in ({"state": state}, {"about": state}, {"about": 3}, {"tensors": 3}, {"tensors": {"file": "../../x"}}, {"format": "other"}):
        (place / "checkpoint.json").write_text(_sealed({**header, **change}), encoding="utf-8")
        with pytest.raises(ValueError):
            load_checkpoint(place, expect={"a": 1})


def test_a_forged_header_reaches_no_file_elsewhere(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path / "c", torch.zeros(1))
    header = json.loads((place / "checkpoint.json").read_text(encoding="utf-8"))
    del header["sha256"]
    for name in (f"../{header['tensors']['file']}", str(tmp_path / header["tensors"]["file"])):
        shutil.copy(place / header["tensors"]["file"], tmp_path)
        forged = {**header, "tensors": {**header["tensors"], "file": name}}
        (place / "checkpoint.json").write_text(_sealed(forged), encoding="utf-8")
        with pytest.raises(ValueError, match="names no file of tensors"):
            load_checkpoint(place)


# ---- damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = {"w": torch.randn(5, 3), "m": {0: torch.ones(3, dtype=torch.bfloat16)}, "n": [1, "two", (3.0,)]}
    return save_checkpoint(tmp_path_factory.mktemp("whole") / "c", state, about={"tokenizer": "3f2a"})


@given(data=st.data())
@settings(SLOW, max_examples=300)
def test_no_damage_goes_unseen(data: st.DataObject, whole: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    shutil.copytree(whole, tmp_path / "c")
    path = data.draw(st.sampled_from(sorted((tmp_path / "c").iterdir())))
    held = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(held) - 1))
    how = data.draw(st.sampled_from(["cut", "flip", "longer", "without", "swap", "empty"]))
    if how == "cut":
        path.write_bytes(held[:at])
    elif how == "flip":
        held[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(held)
    elif how == "longer":
        path.write_bytes(held + b"\n")
    elif how == "without":
        path.unlink()
    elif how == "swap":
        if held[at : at + 2] == held[at : at + 2][::-1]:
            return
        held[at : at + 2] = held[at : at + 2][::-1]
        path.write_bytes(held)
    else:
        path.write_bytes(b"")
    kind: Any = (ValueError, FileNotFoundError) if how == "without" else ValueError
    with pytest.raises(kind, match="earlier|save_checkpoint"):
        load_checkpoint(tmp_path / "c")


def test_messages_of_damage(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none does not exist: there is no checkpoint.json in it. save_checkpoint"):
        load_checkpoint(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="was never finished, or is none"):
        load_checkpoint(tmp_path / "empty")
    with pytest.raises(ValueError, match="saved with tokenizer='3f2a', tokenizer='77' is expected. Go on with what it"):
        load_checkpoint(whole, expect={"tokenizer": "77"})
    with pytest.raises(ValueError, match="saved with no config, config=1 is expected"):
        load_checkpoint(whole, expect={"tokenizer": "3f2a", "config": 1})
    CheckpointManager(tmp_path / "run").save(1, 5)
    with pytest.raises(FileNotFoundError, match=r"checkpoints of a run, not one: CheckpointManager\('.*run'\).load\(\)"):
        load_checkpoint(tmp_path / "run")
    with pytest.raises(OSError):
        load_checkpoint(whole / "checkpoint.json")


def test_a_damaged_newest_is_passed_over(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=3)
    for step in (1, 2, 3):
        manager.save(torch.full((2,), step), step, metric=-step)
    path = next(manager.path(3).glob("tensors-*"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="passed over: .*step-00000003.* bytes.*were written"):
        assert manager.latest() == manager.path(2)
    with pytest.warns(UserWarning):
        assert manager.best() == manager.path(2)
    with pytest.warns(UserWarning):
        step, state = manager.load()
    assert (step, state.tolist()) == (2, [2, 2])
    with pytest.raises(ValueError, match="load an earlier one"):
        manager.load(3)
    manager.save(torch.zeros(1), 3)  # the run comes there again
    assert manager.load()[0] == 3
    (manager.path(3) / "checkpoint.json").write_text("{}", encoding="utf-8")
    with pytest.warns(UserWarning):
        assert manager.load()[0] == 2
    manager.drop_after(1)
    manager.path(1).joinpath("checkpoint.json").write_text("{}", encoding="utf-8")
    with pytest.warns(UserWarning), pytest.raises(FileNotFoundError, match=r"no whole checkpoint; saved were the steps \[1\]"):
        manager.load()
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7"):
        manager.load(7)


def test_a_damaged_later_one_makes_room(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (5, 10):
        manager.save(step, step)
    (next(manager.path(10).glob("tensors-*"))).unlink()
    manager.save(7, 7)
    assert manager.steps() == [5, 7] and not manager.path(10).exists()


# ---- faults of the disk


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    "No file may grow beyond so many bytes: the disk is full, as far as a program can see."
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "run")
    manager.save(torch.zeros(10), 1)
    for state in (torch.zeros(100_000), ["word"] * 100_000):  # too much for the tensors, too much for the header
        with file_size_limit(50_000), pytest.raises(OSError, match="cannot write .*stored before is still there.*disk full"):
            manager.save(state, 2)
        assert manager.steps() == [1] and manager.load()[1].tolist() == [0] * 10
        with file_size_limit(50_000), pytest.raises(OSError, match="disk full"):
            save_checkpoint(manager.path(1), state)
        assert manager.load()[1].tolist() == [0] * 10
    assert not manager.path(2).exists() or not (manager.path(2) / "checkpoint.json").exists()
    manager.save(torch.ones(3), 2)
    assert sorted(path.name for path in manager.path(2).iterdir())[0] == "checkpoint.json"
    assert len(list(manager.path(2).iterdir())) == 2, "what the full disk left is gone"


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for write in (lambda place: save_checkpoint(place, 1), lambda place: CheckpointManager(place).save(1, 1)):
        with pytest.raises(NotADirectoryError, match="cannot write .*Can there be such a folder"):
            write(tmp_path / "file" / "c")
        with pytest.raises(OSError, match="cannot write"):
            write(tmp_path / "file")


@pytest.mark.parametrize("name", ["save_file", "mkdir", "fsync", "replace"])
def test_a_folder_that_may_not_be_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save("before", 1)

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(arguments[0]))

    def refuse_as_the_library(path: Path) -> None:
        path.with_name(".tmpA1b2C3").write_bytes(b"half")
        raise SafetensorError(f'Error while serializing: I/O error: Permission denied (os error 13) at path "{path}"')

    with monkeypatch.context() as patch:
        if name == "save_file":
            patch.setattr(minillm.checkpoint, "save_file", lambda held, path: refuse_as_the_library(path))
        else:
            patch.setattr(os, name, refuse)
        with pytest.raises(PermissionError, match="cannot write.*is still there and whole.*read-only"):
            manager.save("after", 2)
        with pytest.raises(PermissionError):
            save_checkpoint(manager.path(1), "after")
    assert manager.load() == (1, "before") and manager.steps() == [1]


@pytest.mark.skipif(os.name == "nt", reason="permissions, and other numbers of errors")
def test_what_the_library_says_of_the_system(tmp_path: Path) -> None:
    "The library passes on the system's words, and we read the number in them: a change of its words would be noticed here."
    (tmp_path / "folder").mkdir()
    for path, kind in ((tmp_path / "none" / "x", FileNotFoundError), (tmp_path / "folder", IsADirectoryError)):
        with pytest.raises(SafetensorError) as caught:
            minillm.checkpoint.save_file({"a": torch.zeros(1)}, path)
        assert type(_system_error(caught.value, path)) is kind
    with file_size_limit(100), pytest.raises(SafetensorError) as caught:
        minillm.checkpoint.save_file({"a": torch.zeros(1000)}, tmp_path / "x")
    found = _system_error(caught.value, tmp_path / "x")
    assert isinstance(found, OSError) and (found.errno, found.strerror) == (errno.EFBIG, "File too large")
    assert isinstance(_system_error(SafetensorError("HeaderTooLarge"), tmp_path), ValueError)


def test_every_size_of_a_full_disk(tmp_path: Path) -> None:
    "Wherever the file stops short, the save says so: never a hash of half a file."
    state = {"w": torch.arange(3000.0), "n": torch.tensor(1, dtype=torch.uint8)}
    place = save_checkpoint(tmp_path / "c", state)
    size = next(place.glob("tensors-*")).stat().st_size
    for most in (0, 1, 7, 8, 100, 4096, 8192, *range(size - 5, size)):
        with file_size_limit(most), pytest.raises(OSError, match="cannot write"):
            save_checkpoint(place, {**state, "w": state["w"] + 1})
        assert exactly(load_checkpoint(place), state) and len(list(place.iterdir())) == 2


class Killed(BaseException):
    "Stands for a kill: nothing catches it."


WAYS = (os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (os, "chmod"), (minillm.checkpoint, "save_file")


def kill_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> list[str]:
    "Die at the moment-th step towards the disk; what was passed is listed."
    passed: list[str] = []

    def counted(name: str, do: Callable) -> Callable:
        def step(*arguments: Any, **named: Any) -> Any:
            if len(passed) >= moment:
                raise Killed
            passed.append(name)
            return do(*arguments, **named)

        return step

    for module, name in WAYS:
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return passed


def test_what_a_kill_inside_the_library_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "The library writes beside its file and moves it. What it leaves lies in a folder that the next save removes, whatever its name."
    place = save_checkpoint(tmp_path / "c", state_of(1))
    work = place / ".tensors.12345"  # of a process that is no more
    work.mkdir()
    (work / ".tmpA1b2C3").write_bytes(b"half")
    (place / "notes").mkdir()
    assert load_checkpoint(place)["step"] == 1
    save_checkpoint(place, state_of(2))
    assert not work.exists() and (place / "notes").is_dir() and load_checkpoint(place)["step"] == 2


def state_of(step: int) -> dict[str, Any]:
    return {"w": torch.full((4,), step), "v": torch.full((3,), -step), "step": step}


def test_a_kill_at_any_step_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "The n-th call that touches the disk never comes back, for every n. What is there is the old or the new."
    old = new = 0
    for moment in range(200):
        manager = CheckpointManager(tmp_path / str(moment), keep_last=1, keep_best=True)
        for step, metric in ((1, 1.0), (2, 2.0), (3, 3.0)):
            manager.save(state_of(step), step, metric=metric)
        assert manager.steps() == [1, 3]
        with monkeypatch.context() as patch:
            passed = kill_at(patch, moment)
            try:
                manager.save(state_of(4), 4, metric=0.5)
                died = False
            except Killed:
                died = True
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing half done may count
            step, state = manager.load()
            best = manager.best()
        assert exactly(state, state_of(step)) and step in (3, 4) and best in (manager.path(1), manager.path(4))
        assert all(exactly(manager.load(s)[1], state_of(s)) for s in manager.steps()), "what is listed is whole"
        old, new = old + (step == 3), new + (step == 4)
        manager.save(state_of(5), 5, metric=9.0)
        assert manager.steps() == ([4, 5] if step == 4 else [1, 5]) and manager.load()[0] == 5
        assert sorted(path.name for path in manager.folder.iterdir()) == [manager.path(s).name for s in manager.steps()]
        if not died:
            assert min(old, new) > 3, passed
            return
    pytest.fail("save never ended")


def test_a_kill_while_a_checkpoint_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for moment in range(50):
        place = save_checkpoint(tmp_path / str(moment), state_of(1))
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                save_checkpoint(place, state_of(2))
                died = False
            except Killed:
                died = True
        found = load_checkpoint(place)
        assert exactly(found, state_of(found["step"]))
        seen.add(found["step"])
        save_checkpoint(place, state_of(3))
        assert load_checkpoint(place)["step"] == 3 and len(list(place.iterdir())) == 2
        if not died:
            assert seen == {1, 2}
            return
    pytest.fail("save never ended")


def test_the_order_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Contents before names, tensors before the header, and the old file last: a power cut reads this order, no test can."
    place = save_checkpoint(tmp_path / "c", state_of(1))
    order: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}

    def fsync(number: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{number}"))
        order.append("sync " + ("tensors" if place.parent.name.startswith(".tensors") else place.name.strip(".").split(".")[0]))
        real["fsync"](number)

    def replace(one: Any, other: Any) -> None:
        order.append("name " + Path(other).name[:7])
        real["replace"](one, other)

    def unlink(path: Any, **named: Any) -> None:
        order.append("remove " + Path(path).name[:7])
        real["unlink"](path, **named)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "unlink", unlink)
    save_checkpoint(place, state_of(2))
    wanted = ["sync tensors", "name tensors", "sync c", "sync checkpoint", "name checkpo", "sync c"]
    steps = [step for step in order if not step.startswith("remove .")]
    assert steps[:6] == wanted and steps[6].startswith("sync") and steps[7:] == ["remove tensors"], steps


# ---- the manager


@given(
    saves=st.lists(st.tuples(st.integers(1, 5), st.none() | st.sampled_from([1.0, 2.0, 3.0, float("nan")])), min_size=1, max_size=8),
    keep_last=st.none() | st.integers(1, 3),
    keep_best=st.booleans(),
)
@settings(SLOW, max_examples=20)
def test_which_ones_stay(saves: list, keep_last: int | None, keep_best: bool, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    manager = CheckpointManager(tmp_path / "run", keep_last=keep_last, keep_best=keep_best)
    assert (manager.steps(), manager.latest(), manager.best()) == ([], None, None)
    step, held = 0, {}
    for ahead, metric in saves:
        step += ahead
        held[step] = metric
        manager.save(step, step, metric=metric)
        known = {s: m for s, m in held.items() if m is not None and m == m}
        best = min(known, key=lambda s: (known[s], s)) if known else None
        keep = set(sorted(held)[-keep_last:] if keep_last else held) | ({best} if keep_best and best else set())
        held = {s: m for s, m in held.items() if s in keep}
        assert manager.steps() == sorted(keep) and manager.latest() == manager.path(step)
        assert manager.best() == (manager.path(best) if best in keep else None) or not keep_best
    assert [manager.load(s)[1] for s in manager.steps()] == manager.steps()
    assert read_about(manager.path(step))["step"] == step


def test_a_run_that_did_not_begin_where_the_last_one_ended(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for step in (5, 10, 15):
        manager.save(step, step)
    with pytest.raises(FileExistsError, match=r"has step 15, you save step 5.*drop_after\(5\)"):
        manager.save("another run", 5)
    assert manager.load() == (15, 15) and manager.steps() == [10, 15]
    manager.drop_after(10)
    manager.save("new", 12)
    manager.save("newer", 12)
    assert manager.load() == (12, "newer") and manager.steps() == [10, 12]


def test_bad_arguments_of_the_manager(tmp_path: Path) -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="expected at least 1"):
            CheckpointManager(tmp_path, keep_last=wrong)
    manager = CheckpointManager(tmp_path)
    for step in (-1, 1.0, True, "3"):
        with pytest.raises(ValueError, match="expected a whole number from 0"):
            manager.save(1, step)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="writes itself"):
        manager.save(1, 1, about={"metric": 2})
    assert not list(tmp_path.iterdir())
    (tmp_path / "notes").mkdir()
    (tmp_path / "step-x").mkdir()
    (manager.path(1)).mkdir()
    (manager.path(1) / "mine.txt").write_text("mine", encoding="utf-8")
    manager.save(1, 2)
    assert (manager.path(1) / "mine.txt").exists() and (tmp_path / "notes").exists() and manager.steps() == [2]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(1, 1)
    with _one_writer(tmp_path), pytest.raises(BlockingIOError, match="is being written"):
        manager.save(2, 2)
    assert manager.load() == (1, 1)


# ---- parts


def test_tied_weights_are_stored_once_and_come_back(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    kills.write_data(tmp_path / "d")
    made = kills.parts(tmp_path / "d")
    place = save_checkpoint(tmp_path / "c", gather_state(**made))
    n = sum(x.numel() for x in made["model"].parameters())
    size = sum(path.stat().st_size for path in place.glob("tensors-*"))
    assert 4 * n < size < 4 * n + 12_000, "the table of embeddings is there once"
    found = load_checkpoint(place)["model"]
    assert found["lm_head.weight"] is found["embed_tokens.weight"]


def trained(data: Path, steps: int = 3) -> dict[str, Any]:
    made = kills.parts(data)
    for _ in range(steps):
        batch = next(made["batches"])
        loss = made["model"](batch.x).float().square().mean()
        made["optimizer"].zero_grad()
        loss.backward()
        made["optimizer"].step()
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data") / "d"
    kills.write_data(place)
    return place


def change_model(state: dict) -> None:
    state["model"] = {name: x[:1] for name, x in state["model"].items()}


def change_dtype(state: dict) -> None:
    state["model"] = {name: x.bfloat16() for name, x in state["model"].items()}


def lose_weight(state: dict) -> None:
    state["model"].popitem()


def add_weight(state: dict) -> None:
    state["model"]["more"] = torch.zeros(1)


def change_groups(state: dict) -> None:
    state["optimizer"]["param_groups"][0]["params"].pop()


def change_order(state: dict) -> None:
    held = state["optimizer"]["state"]
    held[0], held[1] = held[1], held[0]


def no_optimizer(state: dict) -> None:
    state["optimizer"] = {"lr": 1}


def change_plan(state: dict) -> None:
    state["batches"]["plan"] = {**state["batches"]["plan"], "seed": 8}


def change_generator(state: dict) -> None:
    state["dropout"] = torch.zeros(3, dtype=torch.uint8)


def forget(state: dict) -> None:
    del state["dropout"]


def one_more(state: dict) -> None:
    state["schedule"] = {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (change_model, "state of model does not fit: .* is .1, 32. float32, the model's .257, 32. float32"),
        (change_dtype, "bfloat16, the model's .* float32"),
        (lose_weight, "it has no lm_head.weight"),
        (add_weight, "it has more, and the model has not"),
        (change_groups, "it was saved for groups of .19. parameters, this optimiser has .20."),
        (change_order, "exp_avg of parameter 0 is .*: another order"),
        (no_optimizer, "it is not of an optimiser"),
        (change_plan, "batches does not take its state: the place was saved with seed=8, these batches have seed=3"),
        (change_generator, "dropout does not take its state"),
        (forget, r"dropout is missing in the state \(model, optimizer, batches\)\."),
        (one_more, r"schedule is missing in the parts \((model, optimizer, batches, dropout|dropout, batches, optimizer, model)\)"),
    ],
)
def test_all_parts_or_none(change: Callable, says: str, data: Path) -> None:
    state = copy.deepcopy(gather_state(**trained(data)))
    made = trained(data, 1)
    before = copy.deepcopy(gather_state(**made))
    change(state)
    for order in (made, dict(reversed(made.items()))):
        with pytest.raises(ValueError, match=says) as caught:
            restore_state(state, **order)
        assert "Nothing was changed" in str(caught.value)
        assert exactly(gather_state(**made), before)


def test_a_restored_optimizer_leaves_the_state_alone(data: Path) -> None:
    made = trained(data)
    state = copy.deepcopy(gather_state(**made))
    kept = copy.deepcopy(state)
    for _ in range(2):
        restore_state(state, **made)
        made["model"](next(made["batches"]).x).sum().backward()
        made["optimizer"].step()
        assert exactly(state, kept)


def test_what_has_no_state() -> None:
    for wrong in (3, {"a": 1}, None):
        with pytest.raises(TypeError, match=r"step is a .*goes beside the parts: {\"step\": step, \*\*gather_state"):
            gather_state(step=wrong)


# ---- the same run


def test_two_runs_and_one_with_a_break(tmp_path: Path, data: Path) -> None:
    torch.set_num_threads(1)
    whole = copy.deepcopy(kills.train(data, tmp_path / "whole"))
    CheckpointManager(tmp_path / "broken", keep_last=None).folder.mkdir()
    shutil.copytree(tmp_path / "whole", tmp_path / "broken", dirs_exist_ok=True)
    manager = CheckpointManager(tmp_path / "broken")
    manager.drop_after(manager.steps()[0])
    assert manager.steps()[0] < kills.STEPS
    assert kills.same(kills.train(data, tmp_path / "broken"), whole)


@pytest.mark.parametrize("part", ["model", "optimizer", "batches", "dropout"])
def test_each_part_is_needed(part: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "The test of kills would notice: whoever does not restore one part ends elsewhere."
    whole = copy.deepcopy(kills.train(data, tmp_path / "run"))
    manager = CheckpointManager(tmp_path / "run")
    manager.drop_after(manager.steps()[0])

    def forgetful(state: Any, **parts: Any) -> None:
        restore_state({k: v for k, v in state.items() if k != part}, **{k: v for k, v in parts.items() if k != part})

    monkeypatch.setattr(kills, "restore_state", forgetful)
    assert not kills.same(kills.train(data, tmp_path / "run"), whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork")
def test_eight_kills(tmp_path: Path) -> None:
    reached = kills.check_kills(tmp_path, times=8, seed=random.Random().randrange(10**6))
    assert len(reached) == 8 and any(reached), reached


def test_no_pickle_anywhere() -> None:
    source = Path(minillm.checkpoint.__file__).read_text(encoding="utf-8")
    assert "pickle" not in source and "torch.load" not in source and "torch.save" not in source


@pytest.mark.skipif(sys.platform != "win32", reason="Windows")
def test_a_save_on_windows(tmp_path: Path) -> None:
    assert load_checkpoint(save_checkpoint(tmp_path / "c", 1)) == 1
