"""The token explorer encodes in the page: its JavaScript, run by node, must give the ids that Python gives."""

import json
import random
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest

from minillm.bpe import GPT2_PATTERN, GPT4_PATTERN
from minillm.corpus import load_corpus, sample_sentences
from minillm.tokenizer import END_OF_TEXT, Tokenizer, explore_tokens

SCRIPT = Path(__file__).resolve().parents[2] / "minillm" / "assets" / "explorers" / "tokens.js"
# a page of stand-ins: the text and the switch are set from outside, and the chips are read
RUN = """
const { script, data, cases } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const box = { value: "" }, allow = { value: false };
let shown = [], setup;
const chips = { value: -1, select() {}, set(all) { shown = all; } };
const readout = () => ({ set() {} });
const ui = { text: () => box, group: () => ({ toggle: () => allow, readout }), chips: () => chips, note: readout };
const minillm = {
  explorer: (given) => { setup = given; },
  bytes: (text) => Array.from(new TextEncoder().encode(text)),
  visible: (text) => text,
};
require("vm").runInNewContext(script, { minillm, TextDecoder, TextEncoder, Uint8Array });
const draw = setup({ data, ui });
const answers = cases.map(([text, allowed]) => {
  box.value = text;
  allow.value = allowed;
  draw();
  return shown.map((chip) => chip.note);
});
process.stdout.write(JSON.stringify(answers));
"""
SPECIAL = [END_OF_TEXT, "<|a|>", "<|a|><|b|>"]
TRAPS = [*"aéЖ字ัK’' \n\r\t.,!-_12½٣ſSsLlReVeDmT<|>", "\x85", "\x1c", "\ufeff", "\u3000", "\u00a0", "\u0301", "🦜"]
TRAPS += ["'re", "'LL", "'ſ", "  ", "\r\n", "12345", " the", "'ſthe", "<|a", "|>", *SPECIAL]


def borders() -> list[str]:
    "The assigned characters whose category is another than that of the one before: where tables would disagree."
    known = [chr(code) for code in range(0x30000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    kinds = [unicodedata.category(character) for character in known]
    return [known[i] for i in range(1, len(known)) if kinds[i] != kinds[i - 1]]


def cases() -> list[tuple[str, bool]]:
    "(text, are special tokens read in it)"
    chance = random.Random(3)
    texts = [*load_corpus("sample")[:40], *sample_sentences().values(), ""]
    texts += [f"{character}'s1{character}1 {character}{character}" for character in borders()]
    traps = ["".join(chance.choices(TRAPS, k=chance.randrange(14))) for _ in range(3000)]
    return [(text, False) for text in texts] + [(text, chance.random() < 0.5) for text in traps]


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN], ids=["gpt2", "gpt4"])
def test_javascript_gives_the_ids_of_python(pattern: str) -> None:
    if not (node := shutil.which("node")):
        pytest.fail("this test needs node, as `make test-book` does")
    texts = [*load_corpus("sample"), "ſthe " * 99]  # merges with the long s show whether 'ſ is cut off as a chunk
    tokenizer = Tokenizer.train(texts, 2048, pattern=pattern, special_tokens=SPECIAL)
    tried = cases()
    assert len(tried) > 5000
    job = {"script": SCRIPT.read_text(encoding="utf-8"), "data": explore_tokens("x", tokenizer).data, "cases": tried}
    done = subprocess.run([node, "-e", RUN], input=json.dumps(job), capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    for (text, allowed), ids in zip(tried, json.loads(done.stdout), strict=True):
        assert ids == tokenizer.encode(text, allowed_special="all" if allowed else ()), f"{text!r}, special tokens allowed: {allowed}"
