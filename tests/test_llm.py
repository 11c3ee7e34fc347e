"""Text in, text out: a batch equal to one at a time, a stream equal to a call; surprise equal to what the model says of each token; a folder that is
whole or not there; a run that goes on as if it had never stopped, and refuses to be another one; bad input.
"""

import errno
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from minillm.batches import _NEW, _READY, TokenStore, packed_batches, prepare
from minillm.checkpoint import CheckpointManager
from minillm.generate import generate, prompt_ids, row_seeds
from minillm.llm import (
    LLM,
    RECIPES,
    GenerateSettings,
    TokenBits,
    TrainSettings,
    choose_sizes,
    describe_model,
    find_model,
    is_unfinished,
    load,
    read_card,
    shipped_models,
    show_surprise,
    train_llm,
    validation_batches,
)
from minillm.loss import evaluate_loss
from minillm.model import PRESETS, LanguageModel, ModelConfig
from minillm.sampling import Sampler
from minillm.storyworld import StoryWorld
from minillm.tokenizer import END_OF_TEXT, Tokenizer
from minillm.train import Callback

FILES = ("config.json", "model.safetensors", "tokenizer.json", "card.json")
STORIES = [story.text for story in StoryWorld(seed=0).stories(60)]
SMALL: dict[str, Any] = {
    "steps": 12, "batch_size": 4, "context": 32, "vocab_size": 300, "precision": "fp32", "device": "cpu", "progress": False,
    "save_every": 3, "changes": {"width": 32, "n_layers": 1, "n_heads": 2},
}  # fmt: skip


def small_llm(vocab_size: int = 300, seed: int = 0, **changes: Any) -> LLM:
    "Random weights, so large that every token before matters."
    tokenizer = Tokenizer.train(STORIES, vocab_size)
    form = {"width": 32, "n_layers": 2, "n_heads": 2, "context": 24, "init_std": 0.3, **changes}
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **form)
    return LLM(LanguageModel(config, generator=torch.Generator().manual_seed(seed)), tokenizer, device="cpu")


@pytest.fixture(scope="module")
def llm() -> LLM:
    return small_llm()


# ---- text in, text out


PROMPTS = ["", "Mia", "The owl said: 日本語 🦉", "the old man " * 40, "\n\n", END_OF_TEXT]


def test_a_call_is_what_generate_writes(llm: LLM) -> None:
    "Ids by `generate` from `prompt_ids`, decoded: the same text, without the prompt; a longer prompt than the context too."
    ids = [prompt_ids(llm.tokenizer, prompt) for prompt in PROMPTS]
    assert max(map(len, ids)) > 2 * llm.model.config.context
    ends = [llm.tokenizer.special_tokens[END_OF_TEXT]]
    sampler = Sampler(0.7, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.2)
    found = generate(llm.model, ids, max_new_tokens=30, sampler=sampler, stop_ids=ends, seed=5)
    how: dict[str, Any] = {"top_k": 40, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2}
    texts = llm(PROMPTS, max_new_tokens=30, temperature=0.7, **how, seed=5)
    assert texts == [llm.tokenizer.decode(new) for new in found.ids] and len(set(texts)) > 3
    assert llm(PROMPTS[1], max_new_tokens=30, temperature=0.7, **how, seed=row_seeds(5, 2)[1:]) == texts[1]


@pytest.mark.parametrize("stop", [(), "e", ["the", "q"], ["\n", " a"]])
def test_batch_stream_and_call_agree(llm: LLM, stop: Any) -> None:
    seeds = [3, 1, 4, 1, 5, 9]
    together = llm(PROMPTS, seed=seeds, max_new_tokens=40, stop=stop, temperature=1.5)
    for prompt, seed, text in zip(PROMPTS, seeds, together):
        pieces = list(llm.stream(prompt, seed=[seed], max_new_tokens=40, stop=stop, temperature=1.5))
        assert "".join(pieces) == text and all(pieces)
        assert llm([prompt], seed=[seed], max_new_tokens=40, stop=stop, temperature=1.5) == [text]
        assert not any(one in text for one in ([stop] if isinstance(stop, str) else stop))


def test_one_seed_for_a_text_and_for_the_first_of_many(llm: LLM) -> None:
    how: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.5, "seed": 7}
    first = llm("Mia", **how)
    assert llm(["Mia", "Mia"], **how)[0] == first == "".join(llm.stream("Mia", **how)) != llm(["Mia", "Mia"], **how)[1]
    state = torch.get_rng_state()
    llm("Mia", **how)
    assert torch.equal(torch.get_rng_state(), state), "a seed leaves torch's own chance alone"
    assert len({llm("Mia", max_new_tokens=20, temperature=1.5) for _ in range(4)}) > 1, "without a seed, another text"


def test_corners(llm: LLM) -> None:
    assert llm("Mia", max_new_tokens=0) == "" and llm([], max_new_tokens=3) == [] and llm(("a", "b"), max_new_tokens=0) == ["", ""]
    assert llm("Mia", temperature=0, max_new_tokens=9) == llm("Mia", temperature=0, max_new_tokens=9, seed=3)
    assert llm("Mia", top_k=10**6, seed=0, max_new_tokens=9) == llm("Mia", seed=0, max_new_tokens=9)
    greedy = llm("Mia", temperature=0, max_new_tokens=9)
    assert llm("Mia", top_k=1, seed=0, max_new_tokens=9) == greedy == llm("Mia", top_p=0, seed=0, max_new_tokens=9)
    always = small_llm()
    with torch.no_grad():  # a model that ends at once, whatever it reads
        always.model.embed_tokens.weight.zero_()
        always.model.norm.weight.zero_()
    assert always("Mia", temperature=0, max_new_tokens=3) == always.tokenizer.decode([0] * 3)
    stream = llm.stream("Mia", max_new_tokens=5, seed=0)
    assert stream.why is None and list(stream) and stream.why in ("length", "stop")
    llm.model.train()
    llm("Mia", max_new_tokens=2)
    assert llm.model.training, "the mode is restored"
    llm.model.eval()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_p": -0.1}, "top_p=-0.1"),
        ({"top_k": 0}, "top_k=0"),
        ({"min_p": 2}, "min_p=2"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1; expected at least 0"),
        ({"stop": [""]}, "stop strings are"),
        ({"seed": -1}, "seed=-1; expected a whole number from 0"),
        ({"seed": "x"}, "seed='x'"),
        ({"seed": [1, 2, 3]}, "3 seeds for 1 prompts"),
    ],
)
def test_settings_that_cannot_be(llm: LLM, settings: dict[str, Any], says: str) -> None:
    for ask in (llm, llm.stream):
        with pytest.raises(ValueError) as error:
            ask("Mia", **settings)
        assert says in str(error.value)


def test_words_that_are_no_settings_or_prompts(llm: LLM) -> None:
    with pytest.raises(TypeError, match="there is no setting 'temprature'; did you mean 'temperature'?"):
        llm("Mia", temprature=0)
    with pytest.raises(TypeError, match="there is no setting 'max_tokens'; did you mean 'max_new_tokens'?"):
        llm.stream("Mia", max_tokens=3)
    for wrong in (["Mia"], [1, 2], None):
        with pytest.raises(TypeError, match="a stream goes on with one text, such as 'Once'. For several"):
            llm.stream(wrong)
    with pytest.raises(TypeError, match="max_new_tokens='9'; expected a whole number"):
        llm("Mia", max_new_tokens="9")
    for wrong in (7, None, [7], ["a", None], b"Mia", {"a": 1}):
        with pytest.raises(TypeError, match="expected a text or a list of texts"):
            llm(wrong)
    with pytest.raises(ValueError, match="surrogate|\\\\ud800"):
        llm("\ud800")


def test_tokenizer_and_device_must_fit() -> None:
    model, other = small_llm(300).model, small_llm(310).tokenizer
    with pytest.raises(ValueError, match="the tokenizer has 310 tokens, the model was made for 300"):
        LLM(model, other)
    blunt = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|x|>"])
    with pytest.raises(ValueError, match="has no '<|endoftext|>'"):
        LLM(small_llm(257, width=32).model, blunt)
    if not torch.cuda.is_available():
        for call in (lambda: small_llm_on("cuda"), lambda: load("x", device="cuda"), lambda: TrainSettings(device="cuda")):
            with pytest.raises((ValueError, FileNotFoundError), match="device='cuda'|there is no model"):
                call()
        with pytest.raises(ValueError, match="device='cuda', but torch sees none here; there is .*cpu"):
            small_llm_on("cuda")


def small_llm_on(device: str) -> LLM:
    one = small_llm()
    return LLM(one.model, one.tokenizer, device=device)


# ---- surprise


@pytest.mark.parametrize("length", [1, 5, 23, 24, 25, 36, 37, 60, 133])
def test_surprise_token_by_token(llm: LLM, length: int) -> None:
    "Each token asked for alone: windows of the context that begin every half context, counted by hand."
    context, rng = llm.model.config.context, random.Random(length)
    text = "".join(rng.choice(["owl ", "the ", "é", "🦉", "x"]) for _ in range(200))
    ids = prompt_ids(llm.tokenizer, text)[: length + 1]
    text = llm.tokenizer.decode(ids[1:], "replace")
    if llm.tokenizer.encode(text) != ids[1:]:  # cut inside of a character
        ids = prompt_ids(llm.tokenizer, text)
    right = []
    for target in range(1, len(ids)):
        start = 0
        while target > start + context:  # the first window that predicts it
            start += context // 2
        with torch.no_grad():
            logits = llm.model(torch.tensor([ids[start:target]]))[0, -1].double()
        right.append(-(logits.log_softmax(-1)[ids[target]]).item() / math.log(2))
    found = llm.surprise(text)
    assert b"".join(token for token, _ in found) == text.encode()
    torch.testing.assert_close(torch.tensor([bits for _, bits in found], dtype=torch.float64), torch.tensor(right, dtype=torch.float64), atol=1e-4, rtol=1e-5)


def test_bits_per_byte_is_that_of_evaluation(llm: LLM, tmp_path: Path) -> None:
    "For texts that fit the context, the same sum as chapter 31's over a store, end tokens among it."
    texts = ["Mia sang.", "日本語 🦉", "a"]
    store = TokenStore.create(tmp_path / "s", llm.tokenizer)
    store.append(llm.tokenizer.encode_batch(texts))
    found = evaluate_loss(llm.model, validation_batches(store, 2, 24), token_bytes=store.token_bytes)
    sizes = [len(text.encode()) for text in texts]
    whole = sum(llm.bits_per_byte(text) * size for text, size in zip(texts, sizes)) / sum(sizes)
    assert found.n_bytes == sum(sizes) and math.isclose(found.bits_per_byte, whole, rel_tol=1e-5)
    with pytest.raises(ValueError, match="n_bytes=0"):
        llm.bits_per_byte("")
    assert llm.surprise("") == [] and llm.surprise("", end=True)[0].token == END_OF_TEXT.encode()


def test_show_surprise_is_safe_and_spoken() -> None:
    shown = show_surprise([TokenBits(b"<script>", 3.0), TokenBits(b" \xe6", 40.0), TokenBits(b"\n", 0.0)], label="fig-x")
    markup = shown._repr_html_()
    assert "<script>" not in markup and "&lt;script&gt;" in markup and 'title="3.0 bits"' in markup and "↵" in markup
    assert 'id="fig-x"' in markup and "3 tokens. The most surprising is" in markup and "40.0 bits" in repr(shown)
    depths = [markup.split('<span style="background:#')[k][6:8] for k in (1, 2, 3)]
    assert depths[2] == "00" < depths[0] < depths[1] == f"{140:02x}"
    assert "0 tokens" in repr(show_surprise([]))


# ---- a folder


def the_same(one: LLM, other: LLM) -> bool:
    a, b = one.model.state_dict(), other.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) and one.model.config == other.model.config


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"positions": "learned"}, {"positions": "relative"}])
def test_save_and_load(changes: dict[str, Any], tmp_path: Path) -> None:
    "Same weights, tokenizer, card; tied weights once; no pickle; torch's own chance untouched."
    llm = small_llm(**changes)
    llm.card = {"data": "stories é", "list": [1, None], "steps": 3}
    assert llm.save(tmp_path / "deep" / "m") == tmp_path / "deep" / "m"
    folder = tmp_path / "deep" / "m"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    stored = load_file(folder / "model.safetensors")
    assert sum(x.numel() for x in stored.values()) == llm.model.config.n_parameters
    assert ("lm_head.weight" in stored) == (not llm.model.config.tie_embeddings)
    state = torch.get_rng_state()
    again = load(folder, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert the_same(llm, again) and again("Mia", seed=0, max_new_tokens=9) == llm("Mia", seed=0, max_new_tokens=9)
    assert again.tokenizer.encode("owls 日") == llm.tokenizer.encode("owls 日")
    assert {name: again.card[name] for name in llm.card} == llm.card and again.card["parameters"] == llm.model.config.n_parameters
    tied = again.model.lm_head.weight is again.model.embed_tokens.weight
    assert tied == llm.model.config.tie_embeddings and not again.model.training
    again.save(tmp_path / "twice")
    for name in FILES:
        assert (tmp_path / "twice" / name).read_bytes() == (folder / name).read_bytes()


def test_half_the_size(llm: LLM, tmp_path: Path) -> None:
    llm.save(tmp_path / "whole")
    llm.save(tmp_path / "half", dtype=torch.bfloat16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert 1.9 < sizes[0] / sizes[1] < 2.01
    rounded = load(tmp_path / "half", device="cpu").model.state_dict()
    for name, x in llm.model.state_dict().items():
        assert rounded[name].dtype == torch.float32 and torch.equal(rounded[name], x.to(torch.bfloat16).float())
    with pytest.raises(ValueError, match="dtype=torch.float16; expected torch.bfloat16"):
        llm.save(tmp_path / "other", dtype=torch.float16)
    assert not (tmp_path / "other").exists()


def test_every_damage_is_found(llm: LLM, tmp_path: Path) -> None:
    "Cut anywhere, a bit flipped anywhere, missing: an error that names the file, never another model."
    llm.save(tmp_path / "m")
    chance = random.Random(0)
    for name in FILES:
        whole = (tmp_path / "m" / name).read_bytes()
        for _ in range(12):
            data = bytearray(whole)
            if chance.random() < 0.5:
                del data[chance.randrange(len(data)) :]
            else:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            (tmp_path / "m" / name).write_bytes(data)
            try:
                again = load(tmp_path / "m", device="cpu")
            except ValueError as error:
                assert name in str(error) or name == "card.json", error
            else:  # a letter of the card's own words
                assert name == "card.json" and the_same(again, llm)
        (tmp_path / "m" / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"holds no whole model: {name} missing"):
            load(tmp_path / "m", device="cpu")
        (tmp_path / "m" / name).write_bytes(whole)
    assert the_same(load(tmp_path / "m", device="cpu"), llm)


def reseal(folder: Path) -> None:
    "Let the card say the hashes of what is there, as somebody who means it would."
    from minillm.llm import _hash

    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["files"] = {name: _hash(folder / name) for name in card["files"]}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")


def test_what_fits_not_together(llm: LLM, tmp_path: Path) -> None:
    "With right hashes: an unknown field, other sizes, another vocabulary, another format."
    cases: list[tuple[str, Any, str]] = [
        ("config.json", {"n_layres": 3}, "there is no field 'n_layres'. Did you mean 'n_layers'?"),
        ("config.json", {"width": 64}, "is (300, 32) float32, the model's (300, 64) float32"),
        ("config.json", {"n_layers": 3}, "it has no layers.2."),
        ("config.json", {"n_layers": 1}, "it has layers.1."),
        ("config.json", {"version": 9}, "this minillm reads version 1 alone"),
        ("config.json", {"vocab_size": 310}, "(300, 32) float32, the model's (310, 32)"),
        ("card.json", {"format": "minillm model, version 7"}, "its format is 'minillm model, version 7', this library reads"),
        ("card.json", {"files": {}}, "does not name the files of a model"),
    ]
    for number, (name, change, says) in enumerate(cases):
        folder = llm.save(tmp_path / str(number))
        document = json.loads((folder / name).read_text(encoding="utf-8")) | change
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
        if name != "card.json":
            reseal(folder)
        with pytest.raises(ValueError) as error:
            load(folder, device="cpu")
        assert says in str(error.value), (says, error.value)
    folder = llm.save(tmp_path / "other")
    small_llm(310).tokenizer.save(folder)
    reseal(folder)
    with pytest.raises(ValueError, match="the tokenizer has 310 tokens, the model was made for 300"):
        load(folder, device="cpu")
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickle")
    reseal(folder)
    with pytest.raises(ValueError, match="is no safetensors file"):
        load(folder, device="cpu")


def test_a_folder_of_others_is_left_alone(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds config.json and no card.json, so minillm did not write it"):
        llm.save(tmp_path)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == "{}" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "config.json").unlink()
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    llm.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("place", range(8))
def test_cut_off_while_saving(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "At each rename and each removal the program ends: the folder loads, as the old model or the new one."
    old, new = small_llm(seed=1), small_llm(seed=2, init_std=0.2)
    old.save(tmp_path)
    left = [place]

    def counted(real: Any) -> Any:
        def call(*words: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt  # what no handler of errors hides
            return real(*words, **more)

        return call

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", counted(os.replace))
        try:
            new.save(tmp_path)
        except KeyboardInterrupt:
            pass
    again = load(tmp_path, device="cpu")
    assert the_same(again, old) or the_same(again, new)
    if place > 4:
        assert the_same(again, new)
    old.save(tmp_path)
    assert the_same(load(tmp_path, device="cpu"), old) and not (tmp_path / _NEW).exists() and not (tmp_path / _READY).exists()


@pytest.mark.parametrize("moved", [0, 2])
def test_a_first_save_that_was_cut_off_counts(moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Once all files lie ready the model is there: for whoever loads, describes or saves next. Also where a run was."
    first, last, real = small_llm(seed=1), small_llm(seed=2), os.replace
    for call in (load, describe_model, last.save):
        folder, left = tmp_path / getattr(call, "__name__", "x"), [moved]

        def cut(source: Any, place: Any, left: list[int] = left) -> None:
            left[0] -= Path(source).parent.name == _READY
            if left[0] < 0:
                raise KeyboardInterrupt
            real(source, place)

        with monkeypatch.context() as patch:
            patch.setattr("os.replace", cut)
            with pytest.raises(KeyboardInterrupt):
                first.save(folder)
        assert (folder / _READY).is_dir()
        if call is load:
            (folder / "run.json").write_text("{}", encoding="utf-8")  # not an unfinished run: its model is here
            assert not is_unfinished(folder)
        call(folder)
        assert the_same(load(folder, device="cpu"), last if call == last.save else first)


def test_disk_full_and_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "What was there stays, and the error says what to do."
    old, new = small_llm(seed=1), small_llm(seed=2)
    old.save(tmp_path / "m")

    def full(*words: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("minillm.llm.save_file", "minillm.llm.write_whole", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            with pytest.raises(OSError, match="No space left on device.*Is the disk full"):
                new.save(tmp_path / "m")
        assert the_same(load(tmp_path / "m", device="cpu"), old), name
    if os.name == "posix" and os.geteuid():
        (tmp_path / "m").chmod(0o500)
        with pytest.raises(OSError, match="read-only"):
            new.save(tmp_path / "m")
        (tmp_path / "m").chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    "What safetensors says of a full disk is an OSError too; the model that was there stays."
    small_llm(seed=1).save(tmp_path / "m")
    program = (
        "import resource, signal, sys; import test_llm; one = test_llm.small_llm(seed=2); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: one.save(sys.argv[1])\n"
        "except OSError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "m"], capture_output=True, text=True, env=environment, timeout=100)
    assert "File too large" in done.stdout and "What was stored before is still there" in done.stdout, done.stderr
    assert the_same(load(tmp_path / "m", device="cpu"), small_llm(seed=1)) and sorted(os.listdir(tmp_path / "m")) == sorted(FILES)


# ---- names


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llm: LLM) -> None:
    "A shipped model by its name, a folder of that name first, near names for what is not there."
    monkeypatch.setattr("minillm.llm.files", lambda package: tmp_path / "package")
    assert shipped_models() == []
    with pytest.raises(FileNotFoundError, match="there is no model 'poet'.*none is shipped with this version"):
        load("poet")
    llm.save(tmp_path / "package" / "assets" / "storyteller")
    (tmp_path / "package" / "assets" / "corpus").mkdir()
    monkeypatch.chdir(tmp_path)
    assert shipped_models() == ["storyteller"] and the_same(load("storyteller", device="cpu"), llm)
    for wrong in ("storyteler", "Storyteller", "story-teller"):
        with pytest.raises(FileNotFoundError, match="did you mean 'storyteller'?"):
            load(wrong)
    small_llm(seed=3).save("my-model")
    with pytest.raises(FileNotFoundError, match="did you mean 'my-model'?"):
        load("my_model")
    small_llm(seed=3).save("storyteller")
    assert not the_same(load("storyteller", device="cpu"), llm), "the folder comes first"
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no whole model: config.json, model.safetensors, .* there is nothing"):
        load("empty")
    (tmp_path / "file.txt").write_text("x", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="file.txt is a file; expected a folder"):
        load("file.txt")
    with pytest.raises(FileNotFoundError, match="nowhere.*does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        load("")


def test_what_is_shipped_loads() -> None:
    for name in shipped_models():
        one = load(name, device="cpu")
        assert one("", max_new_tokens=20, seed=0) and one.card["parameters"] == one.model.config.n_parameters
        assert find_model(name).parent.name == "assets"


# ---- training


class StopAt(Callback):
    "Interrupts a run after a step, as Ctrl-C does, or with an error, as a bug does."

    def __init__(self, step: int, how: str = "signal") -> None:
        self.step, self.how = step, how

    def on_step(self, trainer: Any, record: Any) -> None:
        if record.step == self.step:
            if self.how == "signal":
                signal.raise_signal(signal.SIGINT)
            else:
                raise RuntimeError("the lights went out")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A run that nobody interrupted."
    out = tmp_path_factory.mktemp("whole") / "run"
    train_llm(STORIES, out=out, **SMALL)
    return out


def test_a_run_leaves_a_model(whole: Path) -> None:
    card, one = read_card(whole), load(whole, device="cpu")
    assert card["steps_done"] == card["steps"] == 12 and card["tokens_seen"] > 12 * 4 * 20 and card["ended"] == "finished"
    assert (card["lr"], card["optimizer"]) == (RECIPES["nano"].lr, RECIPES["nano"].optimizer) == (0.01, "muon") and card["preset"] == "nano" and card["device"] == "cpu" and card["seconds"] > 0
    assert card["versions"]["torch"] == torch.__version__ and card["training_documents"] == card["held_out_documents"] == 60  # of so few, tails are kept
    held = TokenStore.open(whole / "tokens" / "validation", tokenizer=one.tokenizer)
    found = evaluate_loss(one.model, packed_batches(held, 1, 32, seed=None, epochs=1), token_bytes=held.token_bytes)
    assert found.n_tokens == len(held) and math.isclose(found.bits_per_byte, card["bits_per_byte"], rel_tol=1e-4)
    assert card["bits_per_byte"] < 5 and card["measured_bytes"] == held.n_bytes
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in log if line["kind"] == "step"] == list(range(1, 13))
    assert one.model.config.width == 32 and one.model.config.context == 32


def test_two_runs_are_equal(whole: Path, tmp_path: Path) -> None:
    "The same call elsewhere gives the same weights, whatever torch's own chance was, which stays as it was."
    torch.manual_seed(99)
    state = torch.get_rng_state()
    train_llm(STORIES, out=tmp_path / "again", **SMALL)
    assert same(weights(whole), weights(tmp_path / "again")) and torch.equal(torch.get_rng_state(), state)
    train_llm(STORIES, out=tmp_path / "other", **SMALL | {"seed": 1})
    assert not same(weights(whole), weights(tmp_path / "other"))


@pytest.mark.parametrize("how", ["signal", "error"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 11])
def test_interrupted_and_gone_on(whole: Path, tmp_path: Path, step: int, how: str, capsys: pytest.CaptureFixture) -> None:
    "Stopped after any step, the same call ends with the same weights, to the bit; and says that it goes on."
    if how == "signal":
        part = train_llm(STORIES, out=tmp_path / "run", **SMALL | {"callbacks": [StopAt(step)], "progress": True})
        assert part.card["step"] == step and part.card["ended"] == "ended by SIGINT" and part("Mia", max_new_tokens=3) != ""
        said = capsys.readouterr().out
        assert f"run holds step {step} of 12; do the same again to go on" in said and "trainer.resume" not in said
        assert is_unfinished(tmp_path / "run") and same(load(tmp_path / "run", device="cpu").model.state_dict(), part.model.state_dict())
    else:
        with pytest.raises(RuntimeError, match="the lights went out"):
            train_llm(STORIES, out=tmp_path / "run", **SMALL | {"callbacks": [StopAt(step, how)]})
    llm = train_llm(STORIES, out=tmp_path / "run", **SMALL | {"progress": True})
    said = capsys.readouterr().out
    assert ("goes on from step" in said) == (how == "signal" or step > 1)
    if how == "signal":
        assert f"goes on from step {step}, saved in" in said
    assert same(weights(whole), weights(tmp_path / "run")) and llm.card["tokens_seen"] == read_card(whole)["tokens_seen"]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in log if line["kind"] == "step"] == list(range(1, 13))


def test_dropout_goes_on_too(tmp_path: Path) -> None:
    form = SMALL | {"changes": SMALL["changes"] | {"dropout": 0.3}, "steps": 7}
    train_llm(STORIES, out=tmp_path / "whole", **form)
    torch.manual_seed(5)
    train_llm(STORIES, out=tmp_path / "run", **form | {"callbacks": [StopAt(4)]})
    torch.manual_seed(6)
    train_llm(STORIES, out=tmp_path / "run", **form)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


@pytest.mark.parametrize("precision, optimizer", [("autocast", "adamw"), ("bf16", "adamw"), ("bf16", "muon"), ("fp32", "muon"), ("fp32", "lion")])
def test_other_precisions_and_rules_go_on_too(tmp_path: Path, precision: str, optimizer: str) -> None:
    form = SMALL | {"precision": precision, "steps": 6, "optimizer": optimizer}
    train_llm(STORIES, out=tmp_path / "whole", **form)
    part = train_llm(STORIES, out=tmp_path / "run", **form | {"callbacks": [StopAt(4)]})
    shown = load(tmp_path / "run", device="cpu")
    assert next(shown.model.parameters()).dtype == torch.float32 and part.card["step"] == 4
    train_llm(STORIES, out=tmp_path / "run", **form)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert all(x.dtype == torch.float32 for x in weights(tmp_path / "whole").values())
    card = read_card(tmp_path / "whole")
    assert (card["precision"], card["optimizer"]) == (precision, optimizer)
    assert optimizer == "adamw" or not same(weights(tmp_path / "whole"), train_llm(STORIES, out=tmp_path / "usual", **form | {"optimizer": "adamw"}).model.state_dict())


def test_a_model_without_its_checkpoints_is_not_lost(whole: Path, tmp_path: Path) -> None:
    "Removing checkpoints/ saves room; another run is refused all the same, and the same call gives the model."
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for data, change, says in (
        (STORIES, {"lr": 0.1}, "holds another run: lr was"),
        (STORIES[:40], {}, "the text changed"),
        (STORIES, {"steps": 20}, "its checkpoints were removed, so it cannot go on to steps=20. Say steps=12"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)):
            train_llm(data, out=tmp_path / "run", **SMALL | change)
    again = train_llm(STORIES, out=tmp_path / "run", **SMALL)
    assert the_same(again, load(whole, device="cpu"))
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_saving_into_a_run_that_is_not_finished(tmp_path: Path) -> None:
    part = train_llm(STORIES, out=tmp_path / "run", **SMALL | {"callbacks": [StopAt(4)]})
    with pytest.raises(FileExistsError, match="a run of train_llm that is not finished; nothing was changed. Go on"):
        part.save(tmp_path / "run")
    part.save(tmp_path / "mine")
    assert the_same(load(tmp_path / "mine", device="cpu"), part)


def test_finished_runs_and_more_steps(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    again = train_llm(STORIES, out=tmp_path / "run", **SMALL | {"progress": True})
    assert "was finished before: 12 steps" in capsys.readouterr().out and (tmp_path / "run" / "log.jsonl").read_bytes() == before
    assert same(again.model.state_dict(), load(whole, device="cpu").model.state_dict())
    with pytest.raises(ValueError, match="it was trained for 12 steps already, and steps=9 is less. Try steps=24"):
        train_llm(STORIES, out=tmp_path / "run", **SMALL | {"steps": 9})
    more = train_llm(STORIES, out=tmp_path / "run", **SMALL | {"steps": 20, "progress": True})
    assert "goes on from step 12" in capsys.readouterr().out
    assert more.card["steps_done"] == 20 and more.card["bits_per_byte"] < again.card["bits_per_byte"]
    shutil.copytree(whole, tmp_path / "part")
    train_llm(STORIES, out=tmp_path / "part", **SMALL | {"steps": 20, "callbacks": [StopAt(15)]})
    assert the_same(load(tmp_path / "part", device="cpu"), load(whole, device="cpu")), "until the new one is made, the old one speaks"
    train_llm(STORIES, out=tmp_path / "part", **SMALL | {"steps": 20})
    assert same(weights(tmp_path / "part"), weights(tmp_path / "run"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lr": 1e-3}, "lr was 0.01, is 0.001"),
        ({"batch_size": 5, "seed": 7}, "batch_size was 4, is 5; seed was 0, is 7"),
        ({"context": 16}, "context was 32, is 16"),
        ({"preset": "1M"}, "preset was 'nano', is '1M'"),
        ({"precision": "bf16"}, "precision was 'fp32', is 'bf16'"),
        ({"optimizer": "adamw"}, "lr was 0.01, is 0.004; optimizer was 'muon', is 'adamw'"),
        ({"changes": {"width": 64, "n_layers": 1, "n_heads": 2}}, "width was 32, is 64"),
        ({"vocab_size": 310}, "tokenizer was learned, 300 tokens, is learned, 310 tokens"),
        ({"validation": 0.2}, "validation was 0.1, is 0.2"),
    ],
)
def test_another_run_is_refused(whole: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    "What differs is named, and nothing was changed."
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(ValueError) as error:
        train_llm(STORIES, out=tmp_path / "run", **SMALL | change)
    assert says in str(error.value) and "name another folder out=" in str(error.value)
    both = [{path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()} for root in (whole, tmp_path / "run")]
    assert {str(p): d for p, d in both[0].items()} == {str(p): d for p, d in both[1].items()}


def test_other_data_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(ValueError, match="the text changed; nothing was changed. Go on with what the run was begun with"):
        train_llm(STORIES[:-1], out=tmp_path / "run", **SMALL)
    prepare(STORIES[:-1], tmp_path / "tokens", vocab_size=300)
    form = {name: value for name, value in SMALL.items() if name != "vocab_size"}
    with pytest.raises(ValueError, match="the data is another text; the tokenizer is another"):
        train_llm(tmp_path / "tokens", out=tmp_path / "run", **form)


def test_before_the_first_checkpoint_all_may_change(tmp_path: Path) -> None:
    "A run that was killed before it saved anything does not bind anybody."
    with pytest.raises(RuntimeError):
        train_llm(STORIES, out=tmp_path / "run", **SMALL | {"callbacks": [StopAt(1, "error")]})
    with pytest.raises(FileNotFoundError, match="has saved nothing yet; the same call of train_llm goes on"):
        load(tmp_path / "run")
    llm = train_llm(STORIES[:-5], out=tmp_path / "run", **SMALL | {"lr": 1e-3, "vocab_size": 310})
    assert llm.card["lr"] == 1e-3 and llm.tokenizer.vocab_size == 310 == load(tmp_path / "run", device="cpu").tokenizer.vocab_size


def test_damaged_checkpoint(whole: Path, tmp_path: Path) -> None:
    "The newest is cut: the one before is taken, and the end is the same."
    with pytest.raises(RuntimeError):
        train_llm(STORIES, out=tmp_path / "run", **SMALL | {"callbacks": [StopAt(8, "error")]})
    manager = CheckpointManager(tmp_path / "run" / "checkpoints")
    newest = next(manager.path(manager.steps()[-1]).glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="passed over"):
        train_llm(STORIES, out=tmp_path / "run", **SMALL)
    assert same(weights(whole), weights(tmp_path / "run"))


def test_best_weights_are_taken(tmp_path: Path) -> None:
    "Trained on little text with a high rate, validation gets worse: the weights are those of its best."
    form = SMALL | {"steps": 120, "lr": 3e-2, "validation": 0.5, "save_every": None, "batch_size": 8}
    llm = train_llm(STORIES[:3], out=tmp_path / "run", **form)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    seen = {line["step"]: line["bits_per_byte"] for line in log if line["kind"] == "validation"}
    best = min(seen, key=lambda step: seen[step])
    assert llm.card["step"] == best < 120 == llm.card["steps_done"]
    assert math.isclose(llm.card["bits_per_byte"], seen[best], rel_tol=1e-5)


def test_without_validation(tmp_path: Path) -> None:
    llm = train_llm(STORIES, out=tmp_path / "run", **SMALL | {"validation": 0})
    assert "bits_per_byte" not in llm.card and llm.card["step"] == 12 and llm.card["held_out_tokens"] == 0
    assert load(tmp_path / "run", device="cpu")("Mia", max_new_tokens=3) != ""


def test_prepared_data(tmp_path: Path, whole: Path) -> None:
    "What `prepare` made, or its folder, gives the same model as the text; a setting that contradicts it is refused."
    data = prepare(STORIES, tmp_path / "tokens", vocab_size=300)
    form = {name: value for name, value in SMALL.items() if name != "vocab_size"}
    for number, source in enumerate((data, tmp_path / "tokens", str(tmp_path / "tokens"))):
        train_llm(source, out=tmp_path / f"run{number}", **form)
        assert same(weights(tmp_path / f"run{number}"), weights(whole)) and not (tmp_path / f"run{number}" / "tokens").exists()
    with pytest.raises(ValueError, match="vocab_size=310, but .* was prepared with 300 tokens; leave vocab_size out"):
        train_llm(data, out=tmp_path / "x", **form, vocab_size=310)
    with pytest.raises(ValueError, match="validation=0.5, but .* was prepared with 0.1; leave validation out"):
        train_llm(data, out=tmp_path / "x", **form, validation=0.5)
    with pytest.raises(ValueError, match="was prepared with another tokenizer than this one"):
        train_llm(data, out=tmp_path / "x", **form, tokenizer=small_llm(310).tokenizer)
    own = train_llm(STORIES, out=tmp_path / "own", **form, tokenizer=data.tokenizer)
    assert same(weights(tmp_path / "own"), weights(whole)) and own.tokenizer.vocab_size == 300


def test_context_and_little_text(tmp_path: Path) -> None:
    few = ["the owl and the cat sang " * 6]
    form = {name: value for name, value in SMALL.items() if name != "context"} | {"vocab_size": 257}
    with pytest.raises(ValueError, match=r"context=4096, but the text has only \d+ tokens for training. Try context=\d+"):
        train_llm(few, out=tmp_path / "a", **form, context=4096)
    with pytest.warns(UserWarning, match=r"context=256, but the text has only \d+ tokens for training; it is trained with context=\d+"):
        llm = train_llm(few, out=tmp_path / "b", **form)
    assert 8 <= llm.model.config.context < 64
    with pytest.warns(UserWarning, match="it is trained with context="):
        train_llm(few, out=tmp_path / "b", **form | {"steps": 14})
    with pytest.raises(ValueError, match="holds no text"):
        train_llm(["  "], out=tmp_path / "c", **form)
    with pytest.raises(ValueError, match="too little text; try 0"):
        train_llm(["a"], out=tmp_path / "d", **form)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr": "0.1"}, "lr='0.1'; expected a number: try lr=0.003"),
        ({"lr": True}, "lr=True; expected a number"),
        ({"validation": None}, "validation=None; expected a number: try validation=0.1"),
        ({"callbacks": Callback()}, "callbacks is a Callback; expected a list: try callbacks=[Callback()]"),
        ({"changes": ["dropout"]}, "changes=['dropout']; expected names and values"),
    ],
)
def test_settings_of_another_type(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        train_llm(STORIES, out=tmp_path / "run", **SMALL | settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"preset": "nanno"}, "preset='nanno': did you mean 'nano'? There are nano, 1M"),
        ({"preset": "10m"}, "did you mean '10M'?"),
        ({"steps": 0}, "steps=0; expected at least 1: try steps=300"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"context": 0}, "context=0"),
        ({"vocab_size": 100}, "vocab_size=100; expected at least 257"),
        ({"save_every": 0}, "save_every=0"),
        ({"lr": 0}, "lr=0; expected a number above 0, such as lr=0.003"),
        ({"lr": math.inf}, "lr=inf"),
        ({"validation": 1}, "validation=1; expected a share from 0 to below 1"),
        ({"seed": -3}, "seed=-3"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"optimizer": "adam"}, "optimizer='adam': did you mean 'adamw'? There are adamw, muon, lion, sgd"),
        ({"device": "cpuu"}, "device='cpuu'"),
        ({"changes": {"context": 9}}, "changes has context=9, which is a setting itself: say context=9"),
        ({"changes": {"dropuot": 0.1}}, "there is no field 'dropuot'. Did you mean 'dropout'?"),
    ],
)
def test_train_settings_that_cannot_be(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        train_llm(STORIES, out=tmp_path / "run", **SMALL | settings)
    assert says in str(error.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_words_that_are_no_train_settings(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="there is no setting 'batchsize'; did you mean 'batch_size'?"):
        train_llm(STORIES, out=tmp_path / "run", batchsize=8)
    with pytest.raises(TypeError, match="steps='9'; expected a whole number"):
        train_llm(STORIES, out=tmp_path / "run", steps="9")
    with pytest.raises(ValueError, match="leave one of them out"):
        TrainSettings(vocab_size=300, tokenizer=small_llm().tokenizer)
    with pytest.raises(FileNotFoundError):
        train_llm(tmp_path / "no-such.txt", out=tmp_path / "run", **SMALL)


def test_foreign_folder_and_two_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("my only copy", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"is not empty \(thesis.txt\), and train_llm did not write that; nothing was changed"):
        train_llm(STORIES, out=tmp_path / "mine", **SMALL)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OSError):
        train_llm(STORIES, out=tmp_path / "file", **SMALL)

    class Second(Callback):
        def on_step(self, trainer: Any, record: Any) -> None:
            with pytest.raises(BlockingIOError, match="is being written by another process or thread"):
                train_llm(STORIES, out=tmp_path / "run", **SMALL)

    train_llm(STORIES, out=tmp_path / "run", **SMALL | {"steps": 1, "callbacks": [Second()]})


def test_a_run_can_be_heard_while_it_trains(tmp_path: Path) -> None:
    "Loading the folder of a running run gives its last checkpoint, or says that there is none yet."
    heard: list[Any] = []

    class Listen(Callback):
        def on_step(self, trainer: Any, record: Any) -> None:
            if record.step == 5:
                heard.append(load(tmp_path / "run", device="cpu"))

    train_llm(STORIES, out=tmp_path / "run", **SMALL | {"callbacks": [Listen()]})
    assert heard[0].card["step"] in (3, 4) and heard[0].card["ended"] == "not finished" and heard[0]("Mia", max_new_tokens=2) != ""


# ---- kill -9

PROGRAM = """
import os, signal, sys, time, torch
torch.set_num_threads(1)
import test_llm
test_llm.import_all()
for line in sys.stdin:
    out, seconds = line.split()
    if not (pid := os.fork()):
        status = 1
        try:
            slow = test_llm.Slow(0.01 if float(seconds) else 0.0)
            test_llm.train_llm(test_llm.STORIES, out=out, **test_llm.SMALL | {"steps": 30, "save_every": 5, "callbacks": [slow]})
            status = 0
        finally:
            os._exit(status)
    if float(seconds):
        time.sleep(float(seconds))
        os.kill(pid, signal.SIGKILL)  # if it has ended, its number is still its own until somebody waits for it
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def import_all() -> None:
    "What torch and others import at first use need not be imported in every process."
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    small_llm()


class Slow(Callback):
    "A step that takes its time, so that a kill may come anywhere."

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step(self, trainer: Any, record: Any) -> None:
        time.sleep(self.seconds)


def check_kills(folder: Path, times: int, seed: int) -> int:
    "Kill so many runs, at moments from reading the text to writing the model; each, gone on with, ends with the same weights. How many died."
    chance, killed = random.Random(seed), 0
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], text=True, env=environment, **pipes) as server:

        def run(out: Path, kill_after: float = 0.0) -> int:
            server.stdin.write(f"{out} {kill_after}\n")  # type: ignore[union-attr]
            server.stdin.flush()  # type: ignore[union-attr]
            return int(server.stdout.readline())  # type: ignore[union-attr]

        assert run(folder / "whole") == 0
        began = time.monotonic()
        assert run(folder / "again") == 0
        seconds = time.monotonic() - began
        assert same(weights(folder / "whole"), weights(folder / "again"))
        for number in range(times):
            out = folder / f"run{number}"
            killed += run(out, chance.uniform(0.05, 1.2) * seconds) == -signal.SIGKILL
            assert run(out) == 0 and same(weights(folder / "whole"), weights(out)), number
        server.stdin.close()  # type: ignore[union-attr]
    return killed


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_killed_anywhere(tmp_path: Path) -> None:
    assert check_kills(tmp_path, 3, seed=4) >= 2


def test_recipes_and_presets() -> None:
    "Each preset has a recipe that its model can be trained with."
    assert RECIPES.keys() == PRESETS.keys()
    for name, recipe in RECIPES.items():
        assert recipe.context <= PRESETS[name]["context"] and recipe.steps >= 100 and 1e-4 <= recipe.lr < 0.1
        assert choose_sizes(TrainSettings(preset=name), 10**9) == recipe
    assert types.MappingProxyType is type(RECIPES)
    assert GenerateSettings().max_new_tokens == 200


@pytest.mark.parametrize(
    ("preset", "rates"),
    [("nano", {"muon": 0.01, "adamw": 0.004, "lion": 0.002, "sgd": 0.3}), ("1M", {"adamw": 0.003, "muon": 0.0075, "lion": 0.0015, "sgd": 0.225})],
)
def test_a_rule_has_its_rate(preset: str, rates: dict[str, float]) -> None:
    "Another rule than the preset's own gets a rate that suits it; what is said stands; the run notes the rule that was taken."
    assert RECIPES[preset].optimizer == next(iter(rates))
    for rule, rate in rates.items():
        chosen = choose_sizes(TrainSettings(preset=preset, optimizer=rule, steps=7), 10**9)
        assert (chosen.optimizer, chosen.steps) == (rule, 7) and math.isclose(chosen.lr, rate)
        assert choose_sizes(TrainSettings(preset=preset, optimizer=rule, lr=0.5), 10**9).lr == 0.5


def test_describe(whole: Path, tmp_path: Path) -> None:
    "What a folder says without its weights, finished and not."
    found = describe_model(whole)
    assert found["folder"] == str(whole) and found["vocabulary"] == 300 and found["parameters"] == load(whole, device="cpu").card["parameters"]
    assert "files" not in found and found["ended"] == "finished" and json.dumps(found)
    train_llm(STORIES, out=tmp_path / "run", **SMALL | {"callbacks": [StopAt(5)]})
    found = describe_model(tmp_path / "run")
    assert (found["step"], found["steps"], found["ended"]) == (5, 12, "not finished") and found["parameters"] > 20_000
    with pytest.raises(FileNotFoundError):
        describe_model(tmp_path / "nothing" / "here")
