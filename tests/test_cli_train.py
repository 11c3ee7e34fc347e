"""`minillm train`, `generate` and `info` for a model, run as commands: what they write, where, with which exit status; interrupted, gone on with,
refused; bad arguments on one line.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_cli import command, complaint

from minillm.cli import build_parser, in_shell_words, main, spelled_out
from minillm.llm import GenerateSettings, TrainSettings, load, train_llm
from minillm.model import PRESETS
from minillm.storyworld import StoryWorld

TINY = ["--steps", "6", "--batch-size", "2", "--context", "16", "--vocab-size", "300", "--device", "cpu", "--precision", "fp32"]
CALLED: dict[str, Any] = {"steps": 6, "batch_size": 2, "context": 16, "vocab_size": 300, "device": "cpu", "precision": "fp32"}  # TINY, for the library
POSIX = pytest.mark.skipif(os.name != "posix", reason="about signals and pipes of POSIX systems")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "stories.txt"
    file.write_text("\n<|endoftext|>\n".join(story.text for story in StoryWorld(seed=0).stories(40)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def model(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    "What `minillm train` makes, as a process."
    out = tmp_path_factory.mktemp("model") / "my model"
    done = command("train", "--data", str(text), "--out", str(out), *TINY)
    assert done.returncode == 0, done.stderr.decode()
    facts = dict(line.split(maxsplit=1) for line in done.stdout.decode().replace("bits per byte", "bits_per_byte").splitlines())
    assert 1 < float(facts["bits_per_byte"]) < 9 and facts["preset"] == "nano" and facts["data"] == str(text)
    said = done.stderr.decode()
    assert "step 6/6" in said and "saved in" in said and "bits a byte" in said and f"reads {text}" in said
    return out


def inside(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    "Status, output and error of a command, in this process."
    capsys.readouterr()
    status = main(list(map(str, words)))
    found = capsys.readouterr()
    return status, found.out, found.err


def refused(capsys: pytest.CaptureFixture, status: int, *words: object) -> str:
    "The one line with which a command fails."
    found, out, err = inside(capsys, *words)
    assert found == status and out == "" and err.startswith("minillm: ") and err.count("\n") == 1, (found, out, err)
    assert "Traceback" not in err
    return err


# ---- train


def test_the_command_is_train_llm(model: Path, text: Path, tmp_path: Path) -> None:
    "The same weights as the library's call, and a card that says as much."
    llm = train_llm(text, out=tmp_path / "run", **CALLED, progress=False)
    ours, theirs = load_file(model / "model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    different = {"seconds", "folder"}
    card = load(model, device="cpu").card
    assert {k: v for k, v in card.items() if k in llm.card and k not in different} == {k: v for k, v in llm.card.items() if k not in different}


def test_dropout_and_the_rule(model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    "Both options reach the run: the folder's configuration and card say so, and the weights are the library's."
    out = tmp_path / "run"
    assert inside(capsys, "train", "--data", text, "--out", out, *TINY, "--dropout", "0.25", "--optimizer", "lion", "--quiet")[0] == 0
    one = load(out, device="cpu")
    assert (one.model.config.dropout, one.card["optimizer"], one.card["lr"]) == (0.25, "lion", 0.002)
    llm = train_llm(text, out=tmp_path / "called", **CALLED, changes={"dropout": 0.25}, optimizer="lion", progress=False)
    pairs = [*zip(one.model.parameters(), llm.model.parameters(), strict=True)]
    assert all(torch.equal(a, b) for a, b in pairs) and load(model, device="cpu").model.config.dropout == 0.0


def test_the_same_command_again(model: Path, text: Path, capsys: pytest.CaptureFixture) -> None:
    before = (model / "model.safetensors").read_bytes()
    status, out, err = inside(capsys, "train", "--data", text, "--out", model, *TINY, "--json")
    facts = json.loads(out)
    assert status == 0 and "was finished before: 6 steps" in err and facts["steps_done"] == 6 and facts["versions"]["torch"] == torch.__version__
    assert (model / "model.safetensors").read_bytes() == before
    said = refused(capsys, 1, "train", "--data", text, "--out", model, *TINY, "--lr", "0.1", "--quiet")
    assert "holds another run: lr was 0.01, is 0.1. Go on with what the run was begun with, or name another --out" in said
    said = refused(capsys, 1, "train", "--data", "sample", "--out", model, *TINY, "--quiet")
    assert "the text changed; nothing was changed." in said and "name another --out" in said
    said = refused(capsys, 1, "train", "--data", text, "--out", model, *[*TINY, "--steps", "3"], "--quiet")
    assert "it was trained for 6 steps already, and --steps 3 is less. Try --steps 12, or name another --out" in said


def test_quiet_and_json(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    status, out, err = inside(capsys, "train", "--data", text, "--out", tmp_path / "m", *TINY, "--quiet", "--json", "--validation", "0")
    facts = json.loads(out)
    assert (status, err) == (0, "") and "bits_per_byte" not in facts and facts["steps_done"] == 6 and facts["parameters"] > 10_000


def test_prepared_folder_and_fields(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [{"question": f"Who has the lamp number {k}?", "answer": f"Mia has lamp {k}, and the owl has none."} for k in range(60)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fields = ["--field", "question", "--field", "answer"]
    assert inside(capsys, "train", "--data", tmp_path / "q.jsonl", *fields, "--out", tmp_path / "a", *TINY)[0] == 0
    assert inside(capsys, "prepare", tmp_path / "q.jsonl", *fields, "--out", tmp_path / "tokens", "--vocab-size", "300")[0] == 0
    own = [word for word in TINY if word not in ("--vocab-size", "300")]
    assert inside(capsys, "train", "--data", tmp_path / "tokens", "--out", tmp_path / "b", *own)[0] == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    said = refused(capsys, 1, "train", "--data", tmp_path / "q.jsonl", "--out", tmp_path / "c", *TINY, "--quiet")
    assert "--field" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--preset", "nanno"], "--preset nanno: did you mean 'nano'?"),
        (["--preset", "2B"], "there are nano, 1M"),
        (["--steps", "0"], "--steps 0; expected at least 1: try --steps 300"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--batch-size", "-4"], "--batch-size -4; expected at least 1"),
        (["--lr", "0"], "--lr 0.0; expected a number above 0, such as --lr 0.003"),
        (["--vocab-size", "100"], "--vocab-size 100; expected at least 257"),
        (["--validation", "1"], "--validation 1.0; expected a share from 0 to below 1"),
        (["--seed", "-1"], "--seed -1; expected a whole number from 0"),
        (["--precision", "half"], "--precision half; there is fp32, autocast and bf16"),
        (["--device", "gpu"], "--device gpu, but that is no device this book knows"),
        (["--out", ""], "--out is empty; name a folder"),
        (["--stpes", "3"], "unknown option --stpes; did you mean --steps?"),
        (["extra"], "'extra' is one word too many"),
    ],
)
def test_a_wrong_command(words: list[str], says: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said = refused(capsys, 2, "train", "--data", text, "--out", tmp_path / "m", *words)
    assert says.lower() in said.lower() and not (tmp_path / "m").exists()


def test_what_is_missing(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture) -> None:
    assert "the following arguments are required: --data, --out" in refused(capsys, 2, "train")
    assert "--model" in refused(capsys, 2, "generate")
    if not torch.cuda.is_available():
        assert "--device cuda, but torch sees none here; there is" in refused(capsys, 2, "train", "--data", text, "--out", tmp_path / "m", "--device", "cuda")
        assert "--device cuda, but torch sees none here" in refused(capsys, 2, "generate", "--model", "x", "--device", "cuda")


def test_input_at_fault(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture) -> None:
    out, quiet = tmp_path / "m", "--quiet"
    assert "stories.tx" in (said := refused(capsys, 1, "train", "--data", text.with_suffix(".tx"), "--out", out, quiet)) and "Did you mean" in said
    (tmp_path / "blank.txt").write_text("  \n", encoding="utf-8")
    assert "holds no text" in refused(capsys, 1, "train", "--data", tmp_path / "blank.txt", "--out", out, quiet)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused(capsys, 1, "train", "--data", tmp_path / "bytes.txt", "--out", out, quiet)
    said = refused(capsys, 1, "train", "--data", text, "--out", out, *TINY, quiet, "--context", "100000")
    assert re.search(r"--context 100000, but the text has only [\d,]+ tokens for training. Try --context \d+", said)
    (tmp_path / "short.txt").write_text("the owl and the cat sang " * 9, encoding="utf-8")
    words = [word for word in TINY if word not in ("--context", "16")]
    status, _, err = inside(capsys, "train", "--data", tmp_path / "short.txt", "--out", out, *words, "--vocab-size", "257", quiet)
    assert status == 0 and re.fullmatch(r"minillm: note: --context 256, but the text has only \d+ tokens for training; it is trained with --context \d+\n", err)
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.txt").write_text("my only copy", encoding="utf-8")
    said = refused(capsys, 1, "train", "--data", text, "--out", thesis, *TINY, quiet)
    assert "is not empty (thesis.txt), and minillm train did not write that; nothing was changed" in said


@POSIX
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(model: Path, text: Path, tmp_path: Path, sent: signal.Signals, capsys: pytest.CaptureFixture) -> None:
    "The step is finished and saved, the status is that of the signal, the same command goes on, and ends with the same weights."
    words = ["train", "--data", str(text), "--out", str(tmp_path / "m"), *TINY, "--steps", "400"]
    start = [sys.executable, "-m", "minillm"]
    with subprocess.Popen([*start, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        log = tmp_path / "m" / "log.jsonl"
        while process.poll() is None and not (log.exists() and '"step": 3,' in log.read_text(encoding="utf-8")):
            time.sleep(0.05)
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + sent and out == "", err
    if sent == signal.SIGINT:
        far = re.search(r"m holds step (\d+) of 400; do the same again to go on", err)
        assert far and "Traceback" not in err and "trainer" not in err
        status, told, _ = inside(capsys, "info", tmp_path / "m", "--json")
        assert status == 0 and json.loads(told)["step"] == int(far[1]) and json.loads(told)["ended"] == "not finished"
        assert inside(capsys, "generate", "--model", tmp_path / "m", "--max-new-tokens", "3")[0] == 0
        shorter = [*words[:-1], str(int(far[1]) + 3)]
        status, _, err = inside(capsys, *shorter)
        assert status == 0 and f"goes on from step {far[1]}" in err


# ---- generate


def test_generate(model: Path, capsys: pytest.CaptureFixture) -> None:
    llm, words = load(model, device="cpu"), ["generate", "--model", model, "--device", "cpu", "--max-new-tokens", "12", "--seed", "5"]
    for prompt in ("", "Mia", "日本語 🦉", "the owl " * 60):
        text = llm(prompt, max_new_tokens=12, seed=5)
        assert inside(capsys, *words, "--prompt", prompt) == (0, f"{prompt}{text}\n", "")
        assert inside(capsys, *words, "--prompt", prompt, "--no-prompt") == (0, f"{text}\n", "")
    settings: dict[str, Any] = {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3, "stop": ["e", "q"]}
    options = ["--temperature", "1.5", "--top-k", "40", "--top-p", "0.9", "--min-p", "0.01", "--repetition-penalty", "1.3", "--stop", "e", "--stop", "q"]
    text = llm("Mia", max_new_tokens=12, seed=5, **settings)
    assert inside(capsys, *words, "--prompt", "Mia", *options) == (0, f"Mia{text}\n", "")
    texts = llm(["Mia"] * 3, max_new_tokens=12, seed=5)
    assert inside(capsys, *words, "--prompt", "Mia", "--n", "3", "--no-prompt") == (0, "\n<|endoftext|>\n".join(texts) + "\n", "")
    greedy = llm("Mia", max_new_tokens=12, temperature=0)
    for same in (["--temperature", "0"], ["--top-p", "0"], ["--top-k", "1"]):
        assert inside(capsys, *words, "--no-prompt", "--prompt", "Mia", *same)[1] == greedy + "\n"
    assert inside(capsys, *words, "--top-k", "1000000")[0] == 0


def test_prompt_from_a_file_and_a_pipe(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    llm, words = load(model, device="cpu"), ["generate", "--model", str(model), "--device", "cpu", "--max-new-tokens", "5", "--seed", "1"]
    (tmp_path / "start.txt").write_bytes("Mia é\n".encode())
    right = "Mia é\n" + llm("Mia é\n", max_new_tokens=5, seed=1) + "\n"
    assert inside(capsys, *words, "--prompt-file", tmp_path / "start.txt") == (0, right, "")
    done = command(*words, "--prompt-file", "-", input="Mia é\n".encode())
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, right, b"")
    assert "cannot read" in refused(capsys, 1, *words, "--prompt-file", tmp_path / "strat.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "latin.txt: byte 0xe9 at offset 3 is not utf-8" in refused(capsys, 1, *words, "--prompt-file", tmp_path / "latin.txt")
    if os.name == "posix":
        assert "byte 0xff at offset 0" in complaint(1, *words, "--prompt", b"\xff")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--temperature", "-1"], "--temperature -1"),
        (["--top-k", "0"], "--top-k 0"),
        (["--top-p", "1.5"], "--top-p 1.5"),
        (["--min-p", "-1"], "--min-p -1"),
        (["--repetition-penalty", "0"], "--repetition-penalty 0"),
        (["--max-new-tokens", "-1"], "--max-new-tokens -1; expected at least 0: try --max-new-tokens 200"),
        (["--n", "0"], "--n 0 is no number of texts; try --n 3"),
        (["--seed", "-1"], "--seed -1"),
        (["--stop", ""], "stop strings are"),
        (["--prompt", "a", "--prompt-file", "b"], "not allowed with argument"),
        (["--temprature", "1"], "did you mean --temperature?"),
    ],
)
def test_a_wrong_way_to_generate(words: list[str], says: str, capsys: pytest.CaptureFixture) -> None:
    assert says in refused(capsys, 2, "generate", "--model", "x", *words)


def test_models_that_are_not_there(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assert "there is no model 'my-model', neither a folder nor a shipped one" in (said := refused(capsys, 1, "generate", "--model", "my-model"))
    assert "did you mean 'my model'?" in said and "minillm train … --out DIR" in said
    assert "does not exist" in refused(capsys, 1, "generate", "--model", tmp_path / "nowhere")
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model.iterdir():
        if path.is_file():
            (broken / path.name).write_bytes(path.read_bytes())
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[:-5])
    assert "is not as it was saved" in refused(capsys, 1, "generate", "--model", broken)
    (broken / "model.safetensors").unlink()
    assert "model.safetensors missing" in refused(capsys, 1, "info", broken)


@POSIX
def test_streaming(model: Path) -> None:
    "The first piece arrives while the rest is being written; a reader that leaves ends it quietly, with 141."
    words = f"{sys.executable} -m minillm generate --model '{model}' --prompt Mia --max-new-tokens 100000 --seed 1"
    done = subprocess.run(["bash", "-c", f"{words} | head -c 5; s=${{PIPESTATUS[0]}}; echo; echo $s"], capture_output=True, text=True, timeout=100)
    assert (done.stdout[:3], done.stdout.split("\n")[-2], done.stderr) == ("Mia", "141", "")


def test_control_characters() -> None:
    assert spelled_out("a\x1b[2Jé\n\t\x07\x9b🦉") == "a\\x1b[2Jé\n\t\\x07\\x9b🦉"


# ---- info, help


def test_info(model: Path, capsys: pytest.CaptureFixture) -> None:
    status, out, err = inside(capsys, "info", model)
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines() if "  " in line)
    assert (status, err) == (0, "") and facts["folder"] == str(model) and facts["steps done"] == "6" and (facts["lr"], facts["optimizer"]) == ("0.01", "muon")
    assert facts["vocabulary"] == "300" and float(facts["bits per byte"]) > 1 and facts["ended"] == "finished"
    card = json.loads((model / "card.json").read_text(encoding="utf-8"))
    told = json.loads(inside(capsys, "info", model, "--json")[1])
    assert told["bits_per_byte"] == card["bits_per_byte"] and told["parameters"] == card["parameters"]
    assert inside(capsys, "tokenize", "--tokenizer", model, "--count", "Mia")[0] == 0, "a model's folder holds its tokenizer"


def test_help_is_light_and_whole() -> None:
    "Neither help nor a mistake that argparse sees imports PyTorch; each option is explained; the presets are all named."
    program = "import sys; from minillm.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    for words in (["--help"], ["train", "--help"], ["generate", "--help"], ["train", "--steps", "x"]):
        subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True)
    for words in (["train", "--data", "x", "--out", "y"], ["generate", "--model", "x"]):
        one = build_parser().parse_args(words).parser
        assert all(action.help for action in one._actions) and "examples:" in one.format_help()
    told = re.sub(r"\s+", " ", build_parser().parse_args(["train", "--data", "x", "--out", "y"]).parser.format_help())
    assert ", ".join(PRESETS) in told


def test_options_are_the_settings() -> None:
    "Defaults on the command line are the library's, so that neither drifts."
    train = build_parser().parse_args(["train", "--data", "x", "--out", "y"])
    for name in ("preset", "steps", "batch_size", "context", "lr", "vocab_size", "validation", "seed", "device", "precision", "save_every"):
        assert getattr(train, name) == getattr(TrainSettings(), name), name
    speak = build_parser().parse_args(["generate", "--model", "x"])
    for name in ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"):
        assert getattr(speak, name) == getattr(GenerateSettings(), name), name


def test_shell_words() -> None:
    for said, shell in {
        "top_k=0; try top_k=5, or None": "--top-k 0; try --top-k 5, or None",
        "lr=-1e-05.": "--lr -1e-05.",
        "preset='10m': did you mean '10M'?": "--preset 10m: did you mean '10M'?",
        "n_layers=3 is of the model": "n_layers=3 is of the model",
        "the same call of train_llm goes on": "the same command goes on",
    }.items():
        assert in_shell_words(said) == shell


@pytest.fixture(autouse=True)
def _restore_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before
