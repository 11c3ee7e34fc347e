"""The command line, run as a command: what it writes, what it says when something is wrong, and its exit status."""

import contextlib
import gzip
import io
import itertools
import json
import math
import os
import platform
import re
import select
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from minillm import __version__
from minillm.batches import Prepared
from minillm.bigram import NGram
from minillm.cli import build_parser, default_tokenizer_path, main, watched
from minillm.corpus import iter_documents, sample_sentences
from minillm.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
POSIX = pytest.mark.skipif(os.name != "posix", reason="about pipes and bytes of POSIX systems")


def command(
    *words: str | bytes, input: bytes = b"", env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    "Run `minillm …` in a process of its own."
    environment = {**os.environ, "PYTHONUTF8": "1", **(env or {})}
    start = [sys.executable, "-m", "minillm"]
    return subprocess.run([*start, *words], input=input, capture_output=True, env=environment, cwd=cwd, timeout=60)


def answer(*words: str | bytes, input: bytes = b"", **options) -> bytes:
    "What a command writes that must succeed in silence."
    done = command(*words, input=input, **options)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    return done.stdout


def complaint(status: int, *words: str | bytes, input: bytes = b"", **options) -> str:
    "The one line with which a command fails, with this status and without output."
    done = command(*words, input=input, **options)
    text = done.stderr.decode()
    assert done.returncode == status and done.stdout == b"", (done.returncode, text, done.stdout[:200])
    assert text.startswith("minillm: ") and text.count("\n") == 1 and text.endswith("\n"), text
    return text.removeprefix("minillm: ").rstrip("\n")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(default_tokenizer_path())


# ---- the tokenizer that comes with minillm


def test_shipped_tokenizer_is_what_the_sample_gives(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "build_tokenizer.py", tmp_path / "again.json"], check=True, timeout=60)
    same = (tmp_path / "again.json").read_bytes() == default_tokenizer_path().read_bytes()
    assert same, "the sample corpus or training changed: run `python tools/build_tokenizer.py`"


def test_shipped_tokenizer(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 2048 and list(tokenizer.special_tokens) == ["<|endoftext|>"]


# ---- there and back


NASTY = {
    "emoji": "owl 🦉 family 👩‍👩‍👧‍👦 flag 🇩🇪 thumb 👍🏽",
    "control": "".join(map(chr, range(32))) + "\x7f\x80\x9f\u2028\ufeff",
    "line ends": "a\r\nb\rc\n\n\n",
    "marks": unicodedata.normalize("NFD", "naïve Ångström") + " e\u0301\u0301",
    "spaces": "  two   three\u00a0hard\u3000wide\t",
    "edge of planes": "\uffff\U00010000\U0010ffff",
    "special": "<|endoftext|>",
    "one byte": "a",
    "nothing": "",
}
TEXTS = {**sample_sentences(), **NASTY}


def test_enough_scripts() -> None:
    scripts = {unicodedata.name(letter).split()[0] for text in sample_sentences().values() for letter in text if letter.isalpha()}
    assert len(sample_sentences()) >= 12 and {"LATIN", "CYRILLIC", "CJK", "ARABIC", "DEVANAGARI"} <= scripts


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in TEXTS.items()])
def test_there_and_back(text: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    "The ids are the library's, whether the text comes by a pipe or a file; decoding gives the same bytes."
    data = text.encode()
    ids = answer("tokenize", "--ids", input=data)
    assert list(map(int, ids.split())) == tokenizer.encode(text) and ids.count(b"\n") == 1
    file = tmp_path / "text é.txt"
    file.write_bytes(data)
    assert answer("tokenize", "--json", "--file", str(file)).count(b"\n") == len(tokenizer.encode(text))
    assert answer("tokenize", "--decode", input=ids) == data


def test_text_as_words(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Füchse und 🦉")
    assert list(map(int, answer("tokenize", "--ids", "Füchse und 🦉").split())) == ids
    assert list(map(int, answer("tokenize", "Füchse", "--ids", "und", "🦉").split())) == ids
    assert answer("tokenize", "--ids", "--", "--ids").split() == [b"%d" % i for i in tokenizer.encode("--ids")]
    assert answer("tokenize", "--ids", "-", input=b"owl") == answer("tokenize", "--ids", "owl")
    assert answer("tokenize", "--ids", "--file", "-", input=b"owl") == answer("tokenize", "--ids", "owl")
    assert answer("tokenize", "--decode", *map(str, ids)).decode() == "Füchse und 🦉"
    assert answer("tokenize", "--decode", json.dumps(ids)).decode() == "Füchse und 🦉"


def test_forms(tokenizer: Tokenizer) -> None:
    text = "The 日 \x1b[31m ¿"
    rows = [json.loads(line) for line in answer("tokenize", "--json", text).splitlines()]
    assert [row["id"] for row in rows] == tokenizer.encode(text)
    assert bytes.fromhex("".join(row["bytes"] for row in rows)).decode() == text
    assert rows[0]["text"] == "The" and None in [row["text"] for row in rows]
    pieces = answer("tokenize", text)
    assert answer("tokenize", "--pieces", text) == pieces
    assert b"\x1b" not in pieces and rb"'\x1b'" in pieces and b"'The'" in pieces and rb"b'\xe6'" in pieces
    counts = dict(line.rsplit(maxsplit=1) for line in answer("tokenize", "--count", text).decode().splitlines())
    length = len(text.encode())
    assert counts == {
        "tokens": str(len(rows)),
        "bytes": str(length),
        "characters": str(len(text)),
        "bytes per token": f"{length / len(rows):.2f}",
    }
    assert answer("tokenize", "--count").split() == b"tokens 0 bytes 0 characters 0 bytes per token -".split()


def test_ids_of_a_long_text(tokenizer: Tokenizer) -> None:
    text = "the owl and the 日本 cat\n" * 1_000
    assert list(map(int, answer("tokenize", "--ids", input=text.encode()).split(b" "))) == tokenizer.encode(text)
    assert answer("tokenize", "--pieces", input=text.encode()).count(b"\n") == len(tokenizer.encode(text)) > 5_000


def test_special_tokens_only_when_asked(tokenizer: Tokenizer) -> None:
    plain = list(map(int, answer("tokenize", "--ids", "a<|endoftext|>").split()))
    special = list(map(int, answer("tokenize", "--ids", "--special", "a<|endoftext|>").split()))
    assert 2047 not in plain and special == [97, 2047]
    assert answer("tokenize", "--decode", *map(str, special)) == b"a<|endoftext|>"


# ---- bytes that are no text


def test_latin1(tmp_path: Path) -> None:
    file = tmp_path / "menu.txt"
    file.write_bytes("ein süßes Menü".encode("latin-1"))
    said = complaint(1, "tokenize", "--file", str(file))
    assert f"{file}: byte 0xfc at offset 5 is not utf-8 (invalid start byte); try --encoding latin-1" in said
    wanted = answer("tokenize", "--ids", "ein süßes Menü")
    assert answer("tokenize", "--ids", "--encoding", "latin-1", "--file", str(file)) == wanted
    assert "�" in answer("tokenize", "--decode", input=answer("tokenize", "--ids", "--errors", "replace", "--file", str(file))).decode()


def test_offset_far_into_a_stream() -> None:
    data = "naïve 日本語 ".encode() * 20_000
    for cut in (100_000, 65_535, 65_537):
        good = data[:cut].decode(errors="ignore").encode()
        assert f"at offset {len(good)} is not utf-8" in complaint(1, "tokenize", "--count", input=good + b"\xff" + data)


def test_binary_and_other_encodings(tmp_path: Path) -> None:
    assert "byte 0xff at offset 0" in complaint(1, "tokenize", "--ids", input=bytes(range(256))[::-1])
    assert "try --encoding utf-16" in complaint(1, "tokenize", "--ids", input="owl".encode("utf-16"))
    assert answer("tokenize", "--ids", "--encoding", "utf-16", input="日本 🦉".encode("utf-16")) == answer("tokenize", "--ids", "日本 🦉")
    assert "unexpected end of data" in complaint(1, "tokenize", "--ids", input="日".encode()[:2])
    assert answer("tokenize", "--decode", input=answer("tokenize", "--ids", input=b"a\0\0b")) == b"a\0\0b"
    assert "lone surrogate" in complaint(1, "tokenize", "--ids", "--encoding", "utf-7", input=b"+2AA-")


@POSIX
def test_argument_that_is_no_text() -> None:
    assert "TEXT: byte 0xff at offset 3" in complaint(1, "tokenize", b"owl\xff")
    assert answer("tokenize", "--ids", "--encoding", "latin-1", b"owl\xff") == answer("tokenize", "--ids", "owlÿ")


def test_old_terminal(tokenizer: Tokenizer) -> None:
    "An output that cannot write a character shows its code instead of stopping."
    old = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    texts = [data.decode("utf-8", "ignore") for data in tokenizer.token_bytes]
    strange = next(text for text in texts if len(text) == 1 and not text.isascii() and text.isprintable()).encode()
    shown = answer("tokenize", input=strange, env=old)
    assert shown.isascii() and (rb"\x" in shown or rb"\u" in shown)
    assert answer("tokenize", "--json", input=strange, env=old) == answer("tokenize", "--json", input=strange)
    assert answer("tokenize", "--decode", "230", "151", "165", env=old) == "日".encode()
    assert complaint(1, "tokenize", "--file", "日本.txt", env=old)


# ---- what is not there, or not as it should be


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("owl", encoding="utf-8")
    said = complaint(1, "tokenize", "--file", str(tmp_path / "stroy.txt"))
    assert said == f"cannot read {tmp_path / 'stroy.txt'}: No such file or directory; did you mean {tmp_path / 'story.txt'}?"
    assert complaint(1, "tokenize", "--file", "no/where.txt", cwd=tmp_path).endswith("No such file or directory")
    if os.name == "posix":
        assert complaint(1, "tokenize", "--file", str(tmp_path)) == f"cannot read {tmp_path}: Is a directory"
    assert "No such file" in complaint(1, "tokenize", "--tokenizer", "lost.json", "x")
    assert "No such file" in complaint(1, "tokenize", "--tokenizer", str(tmp_path), "x")
    said = complaint(1, "tokenize", "--gpt2", str(tmp_path), "x")
    assert f"{tmp_path / 'vocab.json'} does not exist" in said and "https://" in said
    assert "no file, folder or corpus" in complaint(1, "tokenize", "--train-on", str(tmp_path / "lost.txt"), "x")


def test_forbidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    "Root may read everything, so the refusal is planted where Python opens files."
    (tmp_path / "secret.txt").write_text("owl", encoding="utf-8")

    def refuse(file, *words, **options):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("builtins.open", refuse)
    status = main(["tokenize", "--file", str(tmp_path / "secret.txt")])
    monkeypatch.undo()
    assert status == 1 and "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"model": {"type": "WordPiece"}}', b"\xff\xfe", b"[" * 100_000],
    ids=lambda content: repr(content[:8]),
)
def test_foreign_tokenizers(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "foreign.json").write_bytes(content)
    assert "foreign.json" in complaint(1, "tokenize", "--tokenizer", str(tmp_path / "foreign.json"), "x")
    assert "foreign.json" in complaint(1, "info", str(tmp_path / "foreign.json"))


def test_wrong_ids() -> None:
    assert complaint(1, "tokenize", "--decode", "17 five") == "'five' is no id; --decode takes whole numbers, such as --ids writes"
    assert "ids of this tokenizer run from 0 to 2047" in complaint(1, "tokenize", "--decode", "2048")
    assert "is no id" in complaint(1, "tokenize", "--decode", input=b"1" * 1_000_000)
    assert answer("tokenize", "--decode", input=b"") == b""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokenise", "x"], "command: there is no 'tokenise'; did you mean tokenize?"),
        (["xyzzy"], "command: there is no 'xyzzy'; there are tokenize, prepare, train, generate, info"),
        (["tokenize", "--idz", "x"], "unknown option --idz; did you mean --ids?"),
        (["tokenize", "--zzzzz", "x"], "unknown option --zzzzz; there are --count,"),
        (["--versoin"], "unknown option --versoin; did you mean --version?"),
        (["tokenize", "--id", "x"], "unknown option --id; did you mean --ids?"),
        (["tokenize", "--ids", "--json", "x"], "not allowed with argument"),
        (["tokenize", "--tokenizer", "a", "--gpt2", "b", "x"], "not allowed with argument"),
        (["tokenize", "--errors", "ignore", "x"], "--errors: there is no 'ignore'; there are strict, replace, backslashreplace"),
        (["tokenize", "--encoding", "latin-9x", "x"], "there is no encoding 'latin-9x'; did you mean latin-1?"),
        (["tokenize", "--encoding", "hex", "x"], "there is no encoding 'hex'"),
        (["tokenize", "--file"], "expected one argument"),
        (["tokenize", "--file", "a", "b"], "there is a text and a --file"),
        (["tokenize", "--save", "a.json", "x"], "belong to --train-on"),
        (["tokenize", "--vocab-size", "300", "x"], "belong to --train-on"),
        (["tokenize", "--vocab-size", "many", "--train-on", "sample", "x"], "invalid int value: 'many'"),
        (["info", "a", "b"], "'b' is one word too many"),
        (["prepare"], "the following arguments are required: DATA, --out"),
        (["prepare", "sample"], "the following arguments are required: --out"),
        (["prepare", "sample", "more", "--out", "x"], "'more' is one word too many"),
        (["prepare", "sample", "--out", "x", "--vocab-siez", "300"], "unknown option --vocab-siez; did you mean --vocab-size?"),
        (["prepare", "sample", "--out", "x", "--validation", "1"], "--validation 1 is no share from 0 to below 1; try 0.1"),
        (["prepare", "sample", "--out", "x", "--validation", "-0.1"], "--validation -0.1 is no share"),
        (["prepare", "sample", "--out", "x", "--validation", "nan"], "--validation nan is no share"),
        (["prepare", "sample", "--out", "x", "--validation", "ten"], "invalid float value: 'ten'"),
        (["prepare", "sample", "--out", "x", "--vocab-size", "256"], "is not from 257 to 1000000 (256 bytes and the end token are 257)"),
        (["prepare", "sample", "--out", "x", "--vocab-size", "many"], "invalid int value: 'many'"),
        (["prepare", "sample", "--out", "x", "--vocab-size", "300", "--tokenizer", "y"], "leave one out"),
        (["prepare", "-", "--out", "x"], "it cannot come by a pipe; save it to a file"),
    ],
)
def test_wrong_commands(words: list[str], said: str) -> None:
    assert said in complaint(2, *words)


# ---- a tokenizer of one's own


def test_train_save_use(tmp_path: Path) -> None:
    story = tmp_path / "story.txt"
    story.write_text("the owl and the cat and the moon\n" * 50, encoding="utf-8")
    done = command("tokenize", "--train-on", "story.txt", "--vocab-size", "270", "--save", "mine.json", "--ids", "the cat", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"minillm: saved 270 tokens to mine.json\n")
    mine = Tokenizer.load(tmp_path / "mine.json")
    assert list(map(int, done.stdout.split())) == mine.encode("the cat")
    assert answer("tokenize", "--tokenizer", "mine.json", "--ids", "the cat", cwd=tmp_path) == done.stdout
    assert answer("tokenize", "--tokenizer", str(tmp_path / "mine.json"), "--decode", *done.stdout.decode().split()) == b"the cat"
    facts = dict(line.split(maxsplit=1) for line in answer("info", str(tmp_path / "mine.json")).decode().splitlines())
    assert facts["tokens"] == "270"
    again = command(
        "tokenize", "--train-on", str(story), "--train-on", str(story), "--vocab-size", "270", "--save", str(tmp_path / "b.json")
    )
    assert again.returncode == 0 and again.stdout == b""  # input is empty, and that is no text to cut
    nothing = complaint(1, "tokenize", "--train-on", str(story), "--vocab-size", "100", "x")
    assert "--vocab-size 100, expected 257" in nothing
    few = command("tokenize", "--train-on", str(story), "--vocab-size", "4000", "--ids", "the", env={"PYTHONWARNINGS": "ignore"})
    assert few.returncode == 0 and few.stderr.startswith(b"minillm: note: no pair is left") and few.stderr.count(b"\n") == 1
    assert "does not exist" in complaint(
        1, "tokenize", "--train-on", str(story), "--vocab-size", "260", "--save", str(tmp_path / "no" / "x.json"), "x"
    )


# ---- text made ready for training


def inside(*words: str | Path, cwd: Path | None = None) -> tuple[int, str, str]:
    "Status, output and error stream of a command, run in this process: PyTorch takes seconds to import."
    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as errors,
        contextlib.chdir(cwd or Path.cwd()),
    ):
        status = main(list(map(str, words)))
    return status, output.getvalue(), errors.getvalue()


def prepared(*words: str | Path) -> dict:
    "What `minillm prepare … --json` says; the error stream holds a line for each pass and one for the end."
    status, output, errors = inside("prepare", *words, "--json")
    said = errors.splitlines()
    assert status == 0, said
    assert all(line.startswith("minillm: ") for line in said) and said[-1].endswith(("was up to date", f"made {words[2]}"))
    return json.loads(output)


def refused(status: int, *words: str | Path, **options) -> str:
    "The last line of a command that must fail with this status and write nothing; before it, passes at most."
    got, output, errors = inside(*words, **options)
    lines = errors.splitlines()
    assert (got, output) == (status, "") and lines[-1].startswith("minillm: "), (got, output, lines)
    assert sum(" pass " not in line for line in lines) == 1, lines
    return lines[-1].removeprefix("minillm: ")


def contents(folder: Path) -> dict[str, bytes]:
    "Every file in a folder."
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Three hundred documents in a file."
    file = tmp_path_factory.mktemp("text") / "stories.txt"
    texts = [f"The owl number {i} sees {i * 7 % 13} mice and a naïve cat in the 日本 garden.\n" * (1 + i % 3) for i in range(300)]
    file.write_text("<|endoftext|>\n".join(texts), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def tokens(stories: Path) -> Path:
    "The same, prepared."
    out = stories.parent / "tokens"
    prepared(stories, "--out", out, "--vocab-size", "400")
    return out


def test_prepare_from_the_shell(stories: Path, tokens: Path, tmp_path: Path) -> None:
    "In a process of its own, the output for people: report, then lines; each pass has its line on the error stream."
    done = command("prepare", str(stories), "--out", "out", "--vocab-size", "400", cwd=tmp_path)
    said = done.stderr.decode().splitlines()
    assert done.returncode == 0 and [" pass " in line for line in said] == [True] * (len(said) - 1) + [False]
    size = f"{300:,} documents, {sum(map(len, iter_documents(stories))):,} characters"
    assert said[0] == f"minillm: pass 1 over {stories}: {size}" and said[-1] == "minillm: made out"
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith(size) and lines[-1].split() == ["vocabulary", "400"]
    assert contents(tmp_path / "out") == contents(tokens), "the same bytes as made in another process"


def test_prepare_writes_what_the_library_says(stories: Path, tokens: Path) -> None:
    "Both parts, decoded, are all documents; each id is the tokenizer's; nothing is lost between the commands."
    data, mine = Prepared.open(tokens), Tokenizer.load(tokens)
    found = [[list(map(int, store.document(i))) for i in range(store.n_documents)] for store in (data.train, data.validation)]
    texts = list(iter_documents(stories))
    assert sorted(mine.decode(ids) for part in found for ids in part) == sorted(texts)
    assert all(mine.encode(mine.decode(ids)) == ids for part in found for ids in part) and 10 < len(found[1]) < 60
    assert data.report["text"]["documents"] == 300 and mine.vocab_size == 400
    first = " ".join(map(str, found[0][0]))
    assert answer("tokenize", "--tokenizer", str(tokens), "--decode", first).decode() == mine.decode(found[0][0])


def test_info_of_a_prepared_folder(tokens: Path) -> None:
    facts = json.loads(inside("info", tokens, "--json")[1])
    data = Prepared.open(tokens)
    numbers = {name: facts[name] for name in ("training_tokens", "training_bytes", "validation_documents", "vocabulary")}
    assert numbers == {
        "training_tokens": len(data.train), "training_bytes": data.train.n_bytes,
        "validation_documents": data.validation.n_documents, "vocabulary": 400,
    }  # fmt: skip
    ids = [[int(i) for i in store.ids] for store in (data.train, data.validation)]
    end = data.tokenizer.special_tokens["<|endoftext|>"]
    model = NGram(400, 2, end=end).fit(ids[0])
    bits = sum(-math.log2(model.probabilities(ids[1][:t][-3:])[ids[1][t]]) for t in range(len(ids[1])))
    assert facts["bigram_bits_per_byte"] == pytest.approx(bits / data.validation.n_bytes)
    without_ends = sum(len(part) - part.count(end) for part in ids)
    assert facts["bytes_per_token"] == pytest.approx((data.train.n_bytes + data.validation.n_bytes) / without_ends)
    spoken = dict(re.split(r"  +| (?=[\d.]+$)", line, maxsplit=1) for line in inside("info", tokens)[1].splitlines())
    assert spoken["training tokens"] == f"{len(data.train):,}" and spoken["tokenizer hash"] == data.train.header.tokenizer
    assert float(spoken["bigram bits per byte"]) == pytest.approx(facts["bigram_bits_per_byte"], abs=6e-4)


def test_prepared_again_is_used_again(stories: Path, tokens: Path) -> None:
    before, times = contents(tokens), {path: path.stat().st_mtime_ns for path in tokens.rglob("*")}
    again = prepared(stories, "--out", tokens, "--vocab-size", "400")
    assert again["made_now_because"] is None and contents(tokens) == before
    assert {path: path.stat().st_mtime_ns for path in tokens.rglob("*")} == times


def test_other_text_or_settings_replace_nothing_unasked(stories: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_bytes(stories.read_bytes())
    prepared(text, "--out", out, "--vocab-size", "300")
    before = contents(out)
    for words in (["--vocab-size", "310"], ["--vocab-size", "300", "--validation", "0.2"], ["--tokenizer", default_tokenizer_path()]):
        said = refused(1, "prepare", text, "--out", out, *words)
        assert " was " in said and "; nothing was changed. Add --replace to" not in said and "nothing was changed. Add --replace, or name another --out" in said
        assert contents(out) == before and {path.name for path in out.iterdir()} == {"report.json", "tokenizer.json", "train", "validation"}
    with text.open("a", encoding="utf-8") as file:
        file.write("<|endoftext|>\nOne more story.\n")
    assert "Add --replace" in refused(1, "prepare", text, "--out", out, "--vocab-size", "300")
    assert contents(out) == before
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    facts = prepared(text, "--out", out, "--vocab-size", "300", "--replace")
    assert "text" in facts["made_now_because"] and facts["report"]["documents"] == 301
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("there", [["thesis.txt"], ["tokenizer.json"], ["report.json"], ["train/ids.bin", "report.json"], [".hidden"]])
def test_a_folder_of_somebody_else_is_left_alone(there: list[str], stories: Path, tmp_path: Path) -> None:
    for name in there:
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "out" / name).write_text('{"text": "mine"}', encoding="utf-8")
    before = contents(tmp_path / "out")
    for words in ([], ["--replace"]):
        said = refused(1, "prepare", stories, "--out", tmp_path / "out", *words)
        assert "is not empty" in said and f"prepare did not write that; nothing was changed. Name a new folder, such as --out {tmp_path}" in said
    assert contents(tmp_path / "out") == before


def test_out_is_a_file_or_empty(stories: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine", encoding="utf-8")
    assert "a.txt is a file; --out names a folder" in refused(1, "prepare", stories, "--out", tmp_path / "a.txt")
    (tmp_path / "empty").mkdir()
    prepared(stories, "--out", tmp_path / "empty", "--vocab-size", "260")
    prepared(stories, "--out", tmp_path / "deep" / "er", "--vocab-size", "260")


def test_prepare_every_kind_of_data(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i} and {i}?", "answer": f"{2 * i}, naïve owl.", "text": f"Row {i}."} for i in range(40)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as packed:
        packed.write(lines)
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a.txt", "b.md"):
        (folder / name).write_text(f"# {name}\nThe owl.\n" * 20, encoding="utf-8")
    short = ["--vocab-size", "300"]
    plain = prepared(tmp_path / "rows.jsonl", "--out", tmp_path / "1", *short)
    packed = prepared(tmp_path / "rows.jsonl.gz", "--out", tmp_path / "2", *short)
    assert plain["report"] == packed["report"] and plain["report"]["documents"] == 40
    both = prepared(tmp_path / "rows.jsonl", "--out", tmp_path / "3", "--field", "question", "--field", "answer", "--validation", "0", *short)
    data = Prepared.open(tmp_path / "3")
    assert data.tokenizer.decode(list(map(int, data.train.document(0)))).startswith("What is ")
    assert "naïve owl." in data.tokenizer.decode(list(map(int, data.train.document(0)))) and both["report"]["bytes"] > plain["report"]["bytes"]
    assert prepared(folder, "--out", tmp_path / "4", *short, "--validation", "0")["validation_tokens"] == 0
    assert "bigram bits per byte -\n" in inside("info", tmp_path / "4")[1]
    facts = prepared(folder, "--out", tmp_path / "5", "--tokenizer", default_tokenizer_path())
    assert facts["vocabulary"] == 2048 and (tmp_path / "5" / "tokenizer.json").read_bytes() == default_tokenizer_path().read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.txt", b" \n\n", "holds no text"),
        ("a.txt", "süß".encode("latin-1"), "byte 0xfc at offset 1"),
        ("a.txt", bytes(range(256)), "is zero, which text never has"),
        ("a.jsonl", b'{"text": "owl"}\n{"text": \n', "line 2"),
        ("a.jsonl", b'{"question": "owl"}\n', "its fields are 'question'. Try --field question"),
        ("a.jsonl", b"[1, 2]\n", "line 1"),
        ("a.txt.gz", b"no gzip", "a.txt.gz"),
        ("a/b.csv", b"x", "holds no .txt, .md or .jsonl file"),
    ],
)
def test_bad_data(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    "One line, status 1, and no folder that looks finished."
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    data = tmp_path / name.split("/")[0]
    assert said in refused(1, "prepare", data, "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "report.json").exists()
    assert "No such file" in refused(1, "info", tmp_path / "out")


def test_missing_data(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("owl", encoding="utf-8")
    assert "Did you mean 'story.txt'?" in refused(1, "prepare", "stroy.txt", "--out", "out", cwd=tmp_path)
    assert "Did you mean 'sample'?" in refused(1, "prepare", "smaple", "--out", "out", cwd=tmp_path)
    assert "lost.json" in refused(1, "prepare", "sample", "--out", "out", "--tokenizer", "lost.json", cwd=tmp_path)
    assert not (tmp_path / "out").exists()


def test_damage_is_told(tokens: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    shutil.copytree(tokens, out)
    ids = out / "train" / "ids.bin"
    ids.write_bytes(ids.read_bytes()[:-10])
    assert "ids.bin" in refused(1, "info", out)


def test_damage_is_named_and_replaced_on_demand(stories: Path, tokens: Path, tmp_path: Path) -> None:
    for name, said in (("train/ids.bin", "checksum differs"), ("report.json", "this is no JSON")):
        out = tmp_path / name[:5]
        shutil.copytree(tokens, out)
        data = bytearray((out / name).read_bytes())
        data[0] ^= 1
        (out / name).write_bytes(data)
        words = (stories, "--out", out, "--vocab-size", "400")
        assert said in (line := refused(1, "prepare", *words)) and "Add --replace" in line
        assert said in prepared(*words, "--replace")["made_now_because"]
        assert contents(out) == contents(tokens)


@pytest.mark.parametrize("names", [["thesis.txt", ".ready/thesis.txt"], [".new/chapter.txt"], [".minillm-new/chapter.txt"], [".minillm-ready/a"]])
def test_hidden_folders_of_somebody_else(names: list[str], stories: Path, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    before = contents(tmp_path)
    refused(1, "info", tmp_path)
    for words in ([], ["--replace"]):
        assert "prepare did not write that" in refused(1, "prepare", stories, "--out", tmp_path, *words)
    assert contents(tmp_path) == before


def test_a_changed_report(tokens: Path, tmp_path: Path) -> None:
    for number, change in enumerate(({"split": 3}, {"plan": "x"}, {"text": {}})):
        out = tmp_path / str(number)
        shutil.copytree(tokens, out)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        (out / "report.json").write_text(json.dumps(report | change), encoding="utf-8")
        assert "is not as this version of prepare writes it" in refused(1, "info", out)


def test_hostile_words(stories: Path, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n", encoding="utf-8")
    assert "holds no text" in (said := refused(1, "prepare", tmp_path / "blank.txt", "--out", tmp_path / "out")) and "<function" not in said
    assert not (tmp_path / "out").exists()
    assert "--out is empty; name a folder" in refused(2, "prepare", stories, "--out", "")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        assert "it cannot come by a pipe" in refused(2, "prepare", tmp_path / "fifo", "--out", tmp_path / "out")
    assert "\x1b" not in refused(1, "prepare", stories, "--out", f"{tmp_path}/blank.txt/\x1b[31mred")


def test_a_killed_prepare_leaves_what_was_there(stories: Path, tmp_path: Path) -> None:
    "Killed after the tokenizer was learned, and after both parts were written: what was there is whole, or what is new is, and the next run finishes."
    out = tmp_path / "out"
    prepared(stories, "--out", out, "--vocab-size", "300")
    old = contents(out)
    words = ["prepare", str(stories), "--out", str(out), "--vocab-size", "350", "--replace"]
    for number in (2, 4):
        process = subprocess.Popen([sys.executable, "-m", "minillm", *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        with process:
            for line in process.stderr:
                if f"pass {number}" in line:
                    process.kill()
                    break
        kept = {name: data for name, data in contents(out).items() if not name.startswith(".")}
        assert kept == old, f"after pass {number}"
        assert json.loads(inside("info", out, "--json")[1])["vocabulary"] == 300
    assert prepared(*words[1:])["vocabulary"] == 350
    fresh = tmp_path / "fresh"
    prepared(stories, "--out", fresh, "--vocab-size", "350")
    assert contents(out) == contents(fresh)


def test_an_interrupt_is_quiet(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def press(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("minillm.batches.prepare", press)
    assert main(["prepare", str(stories), "--out", str(tmp_path / "out")]) == 130 and capsys.readouterr().err == ""
    assert not (tmp_path / "out").exists()


def test_progress_at_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    "A line that counts along is erased before anything else is written."
    clock = itertools.count()
    monkeypatch.setattr("minillm.cli.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(watched(["owl", "cat"], "pass 1")) == ["owl", "cat"]
    said = capsys.readouterr().err
    assert said == "pass 1: 1 documents, 3 characters\rpass 1: 2 documents, 6 characters\r\x1b[Kminillm: pass 1: 2 documents, 6 characters\n"
    stream = watched(["owl", "cat"], "pass 1")
    next(stream)
    stream.close()
    assert capsys.readouterr().err.endswith("\x1b[K")


# ---- pipes, size, weight


@POSIX
def test_closed_pipe() -> None:
    for words in ("tokenize --pieces", "tokenize --ids", "tokenize --json"):
        line = f"yes the old man | head -c 2000000 | {sys.executable} -m minillm {words} | head -c 5 >/dev/null; echo ${{PIPESTATUS[2]}}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == ("141\n", ""), words
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m minillm --help | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert done.stderr == "" and done.stdout in ("141\n", "0\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk() -> None:
    line = f"{sys.executable} -m minillm tokenize owl > /dev/full"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "minillm: cannot write the output: No space left on device\n")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_long_line_in_bounded_memory() -> None:
    "One line of 1 MB or 10 MB needs the same memory."
    words = "the old man read a book to the owl and the cat, naïve as ever. "
    program = (
        "import re, sys; from minillm.cli import main; main(['tokenize', '--count']); "
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1], file=sys.stderr)"
    )
    peaks = []
    for repeats in (16_000, 160_000):
        text = words * repeats
        done = subprocess.run([sys.executable, "-c", program], input=text.encode(), capture_output=True, timeout=120)
        peaks.append(int(done.stderr))
        assert f"bytes            {len(text.encode())}\ncharacters       {len(text)}\n".encode() in done.stdout
    assert peaks[1] - peaks[0] < 2_000, f"{peaks} kB"


@POSIX
def test_a_stream_is_answered_before_it_ends() -> None:
    "Blocks are taken as they come: a first part gets through although the input stays open."
    program = [sys.executable, "-c", "from minillm.cli import file_blocks\nfor b in file_blocks('-'): print(len(b), flush=True)"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"owl")
        process.stdin.flush()
        came, _, _ = select.select([process.stdout], [], [], 20)
        process.stdin.close()
        assert came and process.stdout.readline() == b"3\n" and process.wait(timeout=20) == 0


def test_light() -> None:
    "Neither --help nor tokenize imports PyTorch; help, version and examples are there."
    program = (
        "import sys; from minillm.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    for words in (["--help"], ["prepare", "--help"], ["tokenize", "--help"], ["tokenize", "--ids", "owl"], ["--version"]):
        subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True)
    assert answer("--version").decode() == f"minillm {__version__}\n"
    assert answer() == answer("--help") and b"minillm tokenize" in answer("--help") and b"examples:" in answer("tokenize", "--help")


def test_info() -> None:
    lines = dict(line.split(maxsplit=1) for line in answer("info").decode().splitlines())
    assert lines["minillm"].startswith(__version__) and lines["Python"].startswith(platform.python_version())
    assert "device" in lines["torch"] and "threads" in lines["torch"] and lines["assets/tokenizer"].endswith("kB in 1")


def test_nothing_to_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    "At a terminal, without a text, the command says so instead of waiting; training and saving needs none."
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("minillm.cli.file_blocks", lambda path: [b"this would wait for the keyboard"])
    assert main(["tokenize"]) == 2 and "there is no text; try: minillm tokenize" in capsys.readouterr().err
    assert main(["tokenize", "--train-on", "sample", "--vocab-size", "260", "--save", str(tmp_path / "x.json")]) == 0
    assert capsys.readouterr().out == "" and (tmp_path / "x.json").exists()


def test_every_option_is_explained() -> None:
    parser = build_parser()
    for words in ("tokenize", "info", "prepare x --out y", "train --data x --out y", "generate --model x"):
        one = parser.parse_args(words.split()).parser
        assert all(action.help for action in one._actions), words


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def press(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minillm.cli.info", press)
    assert main(["info"]) == 130 and capsys.readouterr().err == ""
