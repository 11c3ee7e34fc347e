"""The explorer kit without a browser: whatever text comes in, the page's structure stays; tests/book moves the explorers."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.explorers import POLICY, Explorer, asset, document, to_json

ASSETS = Path(__file__).resolve().parents[1] / "minillm" / "assets" / "explorers"
DANGEROUS = ["</script>", "</SCRIPT >", "<!--", "<script>", "-->", "</style>", "]]>", "\u2028", "\u2029", "\x00", "\\", '"', "'", "&quot;", "`${"]
TEXT = st.text() | st.lists(st.sampled_from(DANGEROUS) | st.text(max_size=3)).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


class Tags(HTMLParser):
    "The tags of a page, in order, and the first JSON in it."

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attributes))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1] if self.tags else "", data))


@given(JSON)
def test_json_comes_back_and_cannot_end_a_script(data):
    text = to_json(data)
    assert json.loads(text) == data
    assert text.isascii() and not re.search(r"[<>&\x00-\x1f\x7f]", text)


@given(TEXT, TEXT, TEXT)
def test_text_adds_no_element(title, description, text):
    calm = Tags(document("demo", "a", "b", "c", "'script'"))
    page = Tags(document("demo", title, description, text, f"/*{text.replace('*/', '')}*/", f"/*{text.replace('*/', '')}*/"))
    assert page.tags == calm.tags == ["html", "head", "meta", "meta", "title", "style", "body", "main", "h1", "p", "script", "script", "script"]
    data = next(text for tag, text in page.texts if tag == "script")
    assert json.loads(data) == text


def test_a_script_cannot_open_a_comment():
    "After <!-- and <script a browser looks for another end of the script; Python's parser does not know this rule."
    page = document("demo", "t", "d", 0, "const a = '<!--<script>', b = '</SCRIPT>';")
    assert "<!--" not in page and r"const a = '\x3C!--<script>', b = '\x3C/SCRIPT>';" in page


def test_a_style_cannot_end_early():
    assert Tags(document("demo", "t", "d", 0, "0", "/*</style><img></STYLE ><b>*/")).tags == Tags(document("demo", "t", "d", 0, "0")).tags


@given(TEXT.filter(str.strip))
def test_the_figure_keeps_its_shape(words):
    explorer = Explorer("demo", title=words, description=words, data=words, still="<svg></svg>", caption=words, script="0")
    seen = Tags(explorer._repr_html_())
    assert seen.tags == ["figure", "style", "iframe", "div", "svg", "noscript", "style", "script", "figcaption", "span"]
    frame = seen.attributes[seen.tags.index("iframe")]
    assert frame["sandbox"] == "allow-scripts" and frame["title"] == words and frame["srcdoc"] == explorer.page
    assert seen.attributes[seen.tags.index("div")]["aria-label"] == words


@pytest.mark.parametrize("data", [np.arange(3), torch.arange(3), [np.int64(0), np.float32(1), torch.tensor(2)], (0, 1, 2)])
def test_arrays_and_tensors_become_lists(data):
    assert json.loads(to_json(data)) == [0, 1, 2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), np.array([1.0, np.nan]), {"deep": [[float("nan")]]}])
def test_no_number_means_an_error(bad):
    with pytest.raises(ValueError, match="write None"):
        to_json(bad)


def test_a_ring_is_an_error():
    ring: list = []
    ring.append(ring)
    with pytest.raises(ValueError, match="Circular"):
        to_json(ring)


@pytest.mark.parametrize("bad, kind", [(b"bytes", "bytes"), ({1, 2}, "set"), (object(), "object"), (1j, "complex")])
def test_what_json_cannot_hold_is_named(bad, kind):
    with pytest.raises(TypeError, match=f"data holds a {kind}"):
        to_json(bad)


@pytest.mark.parametrize("field", ["title", "description", "caption"])
def test_words_are_required(field):
    words = {"title": "t", "description": "d", "caption": "c"} | {field: " \n"}
    with pytest.raises(ValueError, match=f"{field} is empty"):
        Explorer("demo", **words, data=0, still="<svg></svg>", script="0")


@pytest.mark.parametrize("name", ["../kit.js", "kit", "", "kit.js/", "KIT.js", "missing.js", "kit.jsx"])
def test_only_assets_are_read(name):
    with pytest.raises(ValueError, match="there is no"):
        asset(name)


def test_a_label_is_checked():
    explorer = Explorer("demo", title="t", description="d", data=0, still="<svg></svg>", caption="c", label="Figure 1", script="0")
    with pytest.raises(ValueError, match="fig-some-words"):
        explorer._repr_html_()


def test_the_frame_asks_for_nothing():
    "Its policy forbids every source but itself, and no script names an address."
    assert POLICY.startswith("default-src 'none'") and "connect-src" not in POLICY and "http" not in POLICY
    for path in ASSETS.iterdir():
        code = re.sub(r"http://www\.w3\.org/\S+", "", path.read_text(encoding="utf-8"))  # names of XML vocabularies
        assert not re.search(r"https?://|\bimport\s*\(|\burl\(", code), path.name


def test_a_frame_is_light():
    "Everything but the data, escaped for the attribute, stays below 64 KB a figure."
    explorer = Explorer("demo", title="t", description="d", data=0, still="", caption="c", script="0")
    assert len(explorer._repr_html_().encode()) < 64_000


def test_reader_sees_words_without_html():
    explorer = Explorer("demo", title="Title", description="What it shows.", data=0, still="<svg></svg>", caption="c", script="0")
    assert repr(explorer) == "Title. What it shows."


def test_the_kit_costs_no_torch():
    code = "import sys, minillm.explorers; sys.exit('torch' in sys.modules or 'IPython' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_each_script_is_one_call():
    "A script of an explorer keeps its names to itself."
    for path in ASSETS.glob("*.js"):
        if path.name not in {"kit.js", "bridge.js"}:
            code = re.sub(r"^\s*//[^\n]*\n", "", path.read_text(encoding="utf-8"), flags=re.M).strip()
            assert code.startswith("minillm.explorer(") and code.endswith("});"), f"{path.name} must be one call of minillm.explorer"
