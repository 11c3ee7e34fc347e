"What the book's extension does to text and to stale chapters, without building a book."

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from chapter import Chapter, Library, imported_modules, read_cell  # noqa: E402
from convention import Convention, blocks, format_value, from_record, glossary_terms, map_prose, quoted  # noqa: E402


@pytest.fixture
def project(tmp_path: Path) -> Path:
    "A tiny project: two modules, one importing the other, an asset, a record, a glossary and a bibliography."
    for folder in ("nbs", "minillm/assets/corpus", "minillm/assets/exercises", "results", "book"):
        (tmp_path / folder).mkdir(parents=True)
    write = lambda name, text: (tmp_path / name).write_text(text, encoding="utf-8")
    write("minillm/low.py", 'FILE = "tiny.txt"\n')
    write("minillm/high.py", "def f():\n    from .low import FILE\n    return FILE\n")
    write("minillm/other.py", "x = 1\n")
    write("minillm/assets/corpus/tiny.txt", "text")
    write("minillm/assets/corpus/unused.txt", "text")
    write("results/run.json", json.dumps({"accuracy": 0.714, "seeds": [{"loss": 1.5}]}))
    write("constraints.txt", "torch==1\n")
    write(
        "book/glossary.md",
        "# Glossary\n\n```{glossary}\nbyte-pair encoding\n  Merging pairs.\n\nlogit\n  A score.\n```\n",
    )
    write("book/references.bib", "@article{su2021,\n title={RoFormer}\n}\n")
    return tmp_path


def chapter(project: Path, *cells: tuple[str, str]) -> Chapter:
    raw = [
        {"cell_type": kind, "id": f"c{k}", "metadata": {}, "source": text}
        for k, (kind, text) in enumerate(cells)
    ]
    path = project / "nbs" / "12_x.ipynb"
    path.write_text(json.dumps({"cells": raw}), encoding="utf-8")
    return Chapter.read(path, Library(project))


def key_after(project: Path, name: str, text: str) -> bool:
    "Whether a chapter that imports `high` gets another key when a file changes."
    cells = [("code", "from minillm.high import f\nf()"), ("markdown", "prose")]
    before = chapter(project, *cells).key
    (project / name).write_text(text, encoding="utf-8")
    return chapter(project, *cells).key != before


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        ("minillm/high.py", True),  # imported
        ("minillm/low.py", True),  # imported by what is imported, inside a function
        ("minillm/other.py", False),  # not imported
        ("minillm/assets/corpus/tiny.txt", True),  # opened by an imported module
        ("minillm/assets/corpus/unused.txt", False),
        ("results/run.json", False),
        ("constraints.txt", True),
        ("minillm/assets/exercises/12_x.py", True),
        ("minillm/assets/exercises/13_y.py", False),
        ("book/glossary.md", False),
    ],
)
def test_a_change_reruns_what_depends_on_it_and_nothing_else(project: Path, name: str, stale: bool) -> None:
    old = (project / name).read_text(encoding="utf-8") if (project / name).exists() else ""
    assert key_after(project, name, old + "\n# changed\n") is stale


def test_prose_does_not_rerun_a_chapter_but_a_new_number_does(project: Path) -> None:
    code = ("code", "x = 1")
    assert chapter(project, code, ("markdown", "a")).key == chapter(project, code, ("markdown", "b")).key
    assert (
        chapter(project, code, ("markdown", "a")).key
        != chapter(project, code, ("markdown", "[1](#number/x/d)")).key
    )
    assert chapter(project, code).key != chapter(project, ("code", "x = 2")).key


def test_imports_are_found_at_any_depth() -> None:
    code = "import minillm.a\nfrom minillm import b, c\ndef f():\n    from minillm.d.e import g\n    from .h import i\nimport torch"
    assert imported_modules(code) == {"a", "b", "c", "d", "h"}
    assert imported_modules("import minillm") == {"*"}


def test_directives_become_tags_and_roles() -> None:
    cell = lambda source, **metadata: read_cell(
        {"cell_type": "code", "id": "x", "source": source, "metadata": metadata}
    )
    assert cell("#| export\n\ndef f(): ...").source == "def f(): ..."
    assert cell("#| export\ndef f(): ...").role == "export"
    assert cell("assert f() is None").role == "test"
    assert cell("with raises(ValueError, 'x'):\n    f()").role == "test"
    assert cell("print('assertion')").role == ""
    assert cell("#| hide\nx = 1").tags == {"remove-cell"}
    assert cell("#| default_exp bpe").tags == {"remove-cell"}
    assert cell("#| eval: false\nx").tags == {"skip-execution"}
    assert cell("def f(): ...", nbgrader={"solution": True}).role == "solution"
    assert cell("check('12-a', f)", nbgrader={"grade": True}).role == "check"


def test_quoted_blocks_become_directives_and_other_quotes_stay() -> None:
    text = "> **Predict first.** How many?\n> Two lines.\n\n> an ordinary quote\n\n> **Exercise 12-c · Ties.** Do `x`."
    made = blocks(text)
    assert "```{admonition} Predict first\n:class: ml-predict\n\nHow many?\nTwo lines.\n```" in made
    assert "> an ordinary quote" in made
    assert "```{admonition} Exercise 12-c · Ties\n:class: ml-exercise\n:name: exercise-12-c" in made
    assert blocks("> **Answer.** As in\n> ```python\n> x\n> ```").startswith(
        "````{ml-fold} Answer\n:class: ml-answer"
    )


def test_code_is_left_alone() -> None:
    fenced = "before\n\n```text\n[1](#number/x/d)\n```\n\nafter"
    assert map_prose(fenced, str.upper) == "BEFORE\n\n```text\n[1](#number/x/d)\n```\n\nAFTER"


def test_links_resolve_or_are_reported(project: Path) -> None:
    convention = Convention(project)
    good = "[Su et al. 2021](#su2021) [BPE](#term-byte-pair-encoding) [3](#number/n/d) [71 %](#record/run.json/accuracy/.0%) [`f`](#see/high.f)"
    text, troubles = convention.prose(good, {"n": 3})
    assert not troubles
    assert (
        text
        == "{cite:t}`su2021` {term}`BPE <byte-pair encoding>` {ml-number}`3` {ml-number}`71 %` [`f`](#api-high-f)"
    )
    named = "[a](#see/high.f) [b](#see/high.F) [c](#see/high.C.f) [d](#see/high)"
    assert convention.prose(named, {}) == ("[a](#api-high-f) [b](#api-high-f-upper) [c](#api-high-c-f-upper) [d](#api-high-)", [])
    bad = [
        "[x](#nobody2020)",
        "[x](#term-nothing)",
        "[4](#number/n/d)",
        "[1](#number/m/d)",
        "[70 %](#record/run.json/accuracy/.0%)",
    ]
    bad += ["[1](#record/none.json/a/d)", "[1](#record/run.json/seeds.3.loss/d)"]
    for link in bad:
        assert len(convention.prose(link, {"n": 3})[1]) == 1, link


def test_numbers_say_what_was_measured() -> None:
    assert quoted("1,024", 1024, ",d") == "1,024"
    assert quoted("71 %", 0.714, ".0%") == "71 %"
    assert quoted("3", 5.4, ".0f~") == "5", "a drifting value shows what was measured"
    assert quoted("3", 12, ".0f~") == "12", "no build fails because a machine is slow"
    with pytest.raises(ValueError, match="the value is '12'"):
        quoted("a few", 12, ".0f~")
    with pytest.raises(ValueError, match="the value is '1.25'"):
        quoted("1.24", 1.25, ".2f")
    assert format_value(0.5, ".0%") == "50 %"


def test_records_and_terms_are_read(project: Path) -> None:
    assert from_record(project, "run.json/seeds.0.loss") == 1.5
    assert glossary_terms((project / "book/glossary.md").read_text(encoding="utf-8")) == {
        "byte-pair-encoding": "byte-pair encoding",
        "logit": "logit",
    }
