"Reading text: broken, odd and huge files, and what the sample must hold."

import tracemalloc
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.corpus import (
    SEPARATOR,
    describe_bad_bytes,
    find_bad_byte,
    iter_documents,
    load_corpus,
    read_lines,
    sample_sentences,
    split_documents,
    text_files,
)

ASSETS = Path(__file__).parent.parent / "minillm" / "assets" / "corpus"


def write(folder: Path, data: bytes, name: str = "some.txt") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_the_sample_is_what_the_chapters_count_on():
    data = (ASSETS / "sample.txt").read_bytes()
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) <= 200_000
    assert b"\r" not in data and data.endswith(b"\n") and not data.endswith(b"\n\n")
    documents = load_corpus()
    assert len(documents) == len(set(documents)) == data.count(SEPARATOR.encode()) + 1
    text = "\n".join(documents)
    assert unicodedata.normalize("NFC", text) == text  # one spelling for each word
    for piece in ["def ", "didn't", "😀", "月", "2024", "Katze", "кошка", "γάτα", "고양이", "แมว", "📱"]:
        assert piece in text


def test_the_sentences():
    sentences = sample_sentences()
    assert len(sentences) >= 12
    assert len(set(sentences.values())) == len(sentences)
    scripts = {unicodedata.name(c).split()[0] for s in sentences.values() for c in s if c.isalpha()}
    assert {"LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "THAI", "CJK", "HANGUL"} <= scripts
    sample = "\n".join(load_corpus())
    for sentence in sentences.values():
        assert unicodedata.normalize("NFC", sentence) == sentence
        assert sentence not in sample


@pytest.mark.parametrize("data", [b"", b"\n", b" \t\r\n \n", b"\xef\xbb\xbf", SEPARATOR.encode() + b"\n"])
def test_nothing_to_read(tmp_path, data):
    path = write(tmp_path, data)
    assert list(iter_documents(path)) == []
    with pytest.raises(ValueError, match="holds no text"):
        load_corpus(path)


@pytest.mark.parametrize(
    ("data", "documents"),
    [
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\r\n<|endoftext|>\r\nb\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfa", ["a"]),
        (b"a\n\n<|endoftext|>\n\n\nb", ["a\n", "\n\nb"]),
        (b"<|endoftext|>\n<|endoftext|>\na", ["a"]),
        (b"a <|endoftext|>\n <|endoftext|>\n<|endoftext|>b", ["a <|endoftext|>\n <|endoftext|>\n<|endoftext|>b"]),
        ("\u2028\x0b\x0c\x85é😀".encode(), ["\u2028\x0b\x0c\x85é😀"]),  # other line ends are not ours
    ],
)
def test_small_files(tmp_path, data, documents):
    path = write(tmp_path, data)
    assert load_corpus(path) == load_corpus(str(path)) == documents


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"caf\xe9", ["line 1", "0xe9", "offset 3", "cp1252"]),
        (b"one\ntwo\nna\xefve\n", ["line 3", "offset 10"]),
        ("né".encode("utf-16"), ["UTF-16", "utf-16"]),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ["0x89", "offset 0"]),
        (b"MZ\x90\0", ["offset 2"]),
        (b"a\0\xff", ["zero", "offset 1"]),
        (b"PK\3\4\0", ["zero", "archive"]),
        (b"\xed\xa0\x80", ["0xed", "offset 0"]),  # a lone surrogate
        (b"\xc0\x80", ["0xc0", "offset 0"]),  # an overlong zero
        ("é".encode()[:1], ["0xc3", "offset 0"]),  # cut off
        (b"x" * 65535 + b"\xc3x", ["offset 65535"]),  # cut across two blocks
        ("é".encode() * 70_000 + b"\n\xff", ["line 2", "offset 140001"]),
    ],
)
def test_bytes_that_are_no_text(tmp_path, data, words):
    path = write(tmp_path, data)
    for read in (load_corpus, lambda path: list(iter_documents(path))):
        with pytest.raises(ValueError) as error:
            read(path)
        assert str(path) in str(error.value)
        for word in words:
            assert word in str(error.value)


@given(st.binary(max_size=60), st.integers(65520, 65540))
@settings(max_examples=200, deadline=None)
def test_the_bad_byte_is_found(tmp_path_factory, data, padding):
    path = write(tmp_path_factory.mktemp("bad"), b"x" * padding + data)
    zero, wrong = data.find(b"\0"), -1
    try:
        data.decode()
    except UnicodeDecodeError as error:
        wrong = error.start
    places = [place for place in (zero, wrong) if place >= 0]
    if not places:
        assert find_bad_byte(path) is None
        assert "changed" in describe_bad_bytes(path)
    else:
        first = min(places)
        assert find_bad_byte(path) == (padding + first, 1 + data[:first].count(b"\n"), data[first])


words = st.lists(
    st.sampled_from(["a", "\n", "\n\n", SEPARATOR, SEPARATOR + "\n", "\n" + SEPARATOR, " ", "é😀", "x" * 20])
)


@given(words, st.integers(14, 40))
@settings(max_examples=300, deadline=None)
def test_documents_agree_with_a_second_derivation(tmp_path_factory, parts, max_chars):
    text = "".join(parts)
    path = write(tmp_path_factory.mktemp("docs"), text.encode())
    whole, held = [], []
    for line in text.split("\n"):
        if line == SEPARATOR:
            whole.append("\n".join(held))
            held = []
        else:
            held.append(line)
    if held and not held[-1]:  # the file ended in a line end
        held.pop()
    whole.append("\n".join(held))
    assert list(iter_documents(path)) == [text for text in whole if text.strip()]
    pieces = list(split_documents(read_lines(path, max_chars), max_chars))
    assert max(map(len, pieces)) <= max_chars
    if SEPARATOR not in text:
        assert "".join(pieces) == text.removesuffix("\n")


def test_a_file_that_is_one_line_of_50_mb(tmp_path):
    path = tmp_path / "long.txt"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(50):
            file.write("abcdé " * 166_667)
    tracemalloc.start()
    length = sum(len(piece) for piece in iter_documents(path, max_chars=100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.unlink()
    assert length == 50 * 6 * 166_667
    assert peak < 2_000_000


def test_a_separator_inside_a_long_line_is_text(tmp_path):
    path = write(tmp_path, b"x" * 20 + SEPARATOR.encode() + b"\nend")
    assert "".join(iter_documents(path, max_chars=20)) == path.read_text(encoding="utf-8")


def test_folders(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "empty.txt").mkdir()  # a folder with the name of a text
    write(tmp_path / "deep" / "er", b"second", "a.txt")
    write(tmp_path, b"third", "z.TXT")
    write(tmp_path, b"first", "b.txt")
    write(tmp_path, b"\xff", "picture.png")
    assert load_corpus(tmp_path) == ["first", "second", "third"]
    with pytest.raises(ValueError, match="holds no .txt file"):
        load_corpus(tmp_path / "empty.txt")


@pytest.mark.parametrize("name", ["smaple", "Sample", "samples"])
def test_near_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="Did you mean 'sample'"):
        load_corpus(name)


def test_unknown_paths(tmp_path):
    write(tmp_path, b"a", "stories.txt")
    with pytest.raises(FileNotFoundError, match="Did you mean 'stories.txt'"):
        text_files(tmp_path / "storys.txt")
    with pytest.raises(FileNotFoundError, match="With minillm come: sample"):
        load_corpus(tmp_path / "nowhere" / "qqqqqqqqq")
    with pytest.raises(FileNotFoundError, match="seen from"):
        load_corpus("nowhere/qqqqqqqqq")
    with pytest.raises(ValueError, match="empty"):
        load_corpus(" ")
    with pytest.raises(ValueError, match="max_chars=3"):
        iter_documents(tmp_path, max_chars=3)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write(tmp_path, b"secret")

    def refuse(*arguments, **keywords):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"cannot read .*Permission denied.*may you read it"):
        load_corpus(path)


def test_a_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sample").mkdir()
    write(Path("sample"), b"mine")
    assert len(load_corpus("sample")) > 200
    assert load_corpus(Path("sample")) == load_corpus("./sample/") == ["mine"]
