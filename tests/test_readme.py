"""The README tells the truth: its example prints what it says, its table is in step, its links lead somewhere."""

import contextlib
import io
import json
import re
import socket
from pathlib import Path

import pytest
import readme
from chapters import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(text: str) -> tuple[str, str]:
    "The README's Python block and the output block that follows it."
    match = re.search(r"```python\n(.*?)```\n+```text\n(.*?)```", text, re.S)
    assert match, "README.md has no ```python block followed by a ```text block"
    return match[1], match[2]


def printed(code: str) -> str:
    "What a piece of code prints."
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme_example"})
    return out.getvalue()


def test_the_example_prints_what_it_says() -> None:
    code, output = example(README)
    assert printed(code) == output
    assert len([line for line in code.splitlines() if line.strip()]) <= 10, "the example is ten lines"


def test_a_wrong_output_would_be_seen() -> None:
    code, output = example("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    assert printed(code) != output


def test_the_table_of_chapters_is_in_step() -> None:
    assert readme.with_table(README, readme.table()) == README, "run `python tools/readme.py`"


def test_the_table_says_what_the_sources_say(tmp_path: Path) -> None:
    (tmp_path / "nbs").mkdir()
    toc = 'root: nbs/00_one\nparts:\n  - caption: "Part 1 · Text"\n    chapters:\n      - file: nbs/12_two\n      - file: book/page\n'
    (tmp_path / "_toc.yml").write_text(toc, encoding="utf-8")
    (tmp_path / "budget.json").write_text('{"chapters": {"00_one": 3.4, "12_two": 80}}', encoding="utf-8")
    for name, source in (("00_one", ["# One\n"]), ("12_two", ["# Two\n", "\n", "> Two is\n", "> more.\n"])):
        code = {"cell_type": "code", "source": ["#| default_exp two\n"]}
        cells = [{"cell_type": "markdown", "source": source}, code]
        (tmp_path / "nbs" / f"{name}.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    rows = readme.table(tmp_path).splitlines()
    assert rows[3] == "| [One](nbs/00_one.ipynb) |  | `two` | 3 s |"
    assert rows[4:6] == [
        "| **Part 1 · Text** | | | |",
        "| [Two](nbs/12_two.ipynb) | Two is more. | `two` | 1 min 20 s |",
    ]
    assert "1 min 23 s" in rows[6]
    with pytest.raises(ValueError, match="once each"):
        readme.with_table("no marks", "table")


def test_tests_cannot_use_the_network() -> None:
    "The README says so."
    with pytest.raises(OSError, match="must not use the network"):
        socket.create_connection(("example.org", 80), timeout=1)
    with socket.socket() as one, pytest.raises(OSError, match="must not use the network"):
        one.connect(("192.0.2.1", 80))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), (
            f"README.md links to {target}, which is not there"
        )


def test_no_address_is_guessed() -> None:
    "The project has no public address yet (settings.ini, git_url); nothing may send readers to a guessed one."
    assert not re.search(r"(github|gitlab|codeberg)\.(com|org|io)/", README)


def test_the_picture_is_described_and_safe() -> None:
    assert re.search(r"!\[[^\]]{60,}\]\(book/_static/dataflow.svg\)", README)
    svg = (ROOT / "book" / "_static" / "dataflow.svg").read_text(encoding="utf-8")
    assert "<title" in svg and "<desc" in svg
    assert not re.search(r"<script|\bhref=|background", svg.replace("the figure has no background of its own", ""))
