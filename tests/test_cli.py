"""The command line, run as a command: what it writes, what it says when something is wrong, and its exit status."""

import json
import os
import platform
import select
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from minillm import __version__
from minillm.cli import build_parser, default_tokenizer_path, main
from minillm.corpus import sample_sentences
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
        (["xyzzy"], "command: there is no 'xyzzy'; there are tokenize, info"),
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
    assert "vocab_size" in nothing
    few = command("tokenize", "--train-on", str(story), "--vocab-size", "4000", "--ids", "the", env={"PYTHONWARNINGS": "ignore"})
    assert few.returncode == 0 and few.stderr.startswith(b"minillm: note: no pair is left") and few.stderr.count(b"\n") == 1
    assert "does not exist" in complaint(
        1, "tokenize", "--train-on", str(story), "--vocab-size", "260", "--save", str(tmp_path / "no" / "x.json"), "x"
    )


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
    for words in (["--help"], ["tokenize", "--help"], ["tokenize", "--ids", "owl"], ["--version"]):
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
    for words in ("tokenize", "info"):
        one = parser.parse_args([words]).parser
        assert all(action.help for action in one._actions), words


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def press(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minillm.cli.info", press)
    assert main(["info"]) == 130 and capsys.readouterr().err == ""
