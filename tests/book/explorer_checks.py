"""For each explorer of the book: move it by keyboard, and compare what it shows with what the library computes.

A new explorer needs an entry in CHECKED; without one the page it stands on fails its test.
"""

import json
import math
import warnings

import pytest
from playwright.sync_api import Frame


def data_of(frame: Frame) -> dict:
    "What Python sent to an explorer."
    return json.loads(frame.evaluate("document.getElementById('ml-data').textContent"))


def number(frame: Frame, selector: str) -> float:
    "The exact number that an element shows."
    return float(frame.locator(selector).get_attribute("data-value"))


def readout(frame: Frame, label: str) -> float:
    return number(frame, f"[data-readout='{label}']")


def chips(frame: Frame, label: str) -> list[str]:
    "The texts of the chips, as they are."
    return frame.locator(f"[data-chips='{label}'] [data-text]").evaluate_all("all => all.map((e) => e.dataset.text)")


def bar_values(frame: Frame, label: str) -> list[float]:
    return frame.locator(f"[data-bars='{label}'] [data-value]").evaluate_all("all => all.map((e) => Number(e.dataset.value))")


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / math.fsum(powers) for power in powers]


def check_temperature(frame: Frame) -> None:
    "The slider at its ends and between: bars and entropy."
    data = data_of(frame)
    slider = frame.get_by_label("Temperature")
    for key, t in (("Home", 0.1), ("End", 3.0), ("ArrowLeft", 2.9), ("ArrowDown", 2.8), ("ArrowUp", 2.9)):
        slider.press(key)
        expected = softmax([x / t for x in data["logits"]])
        assert bar_values(frame, "Probability of each word") == pytest.approx(expected, rel=1e-9)
        entropy = -sum(p * math.log2(p) for p in expected)
        assert readout(frame, "Entropy") == pytest.approx(entropy, rel=1e-9)
        assert frame.locator("[data-readout=Entropy]").inner_text() == f"Entropy {entropy:.3f} bits"


def shown(token: bytes) -> str:
    "A token as the merge explorer writes it: bytes that are no whole character as ‹e6›."
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 128 else f"‹{byte:x}›" for byte in token)


def check_bpe_merges(frame: Frame) -> None:
    "Tokens of both texts after 0, 1, 2 and all merges, and on a text of the reader's own."
    from minillm.bpe import merge_chunk, split_text, train_bpe

    data = data_of(frame)
    steps = frame.get_by_role("slider", name="Merges made")
    own, other = frame.get_by_label("Text to learn from"), frame.get_by_label("Another text")

    def compare() -> None:
        step = int(steps.input_value())
        text, second = own.input_value(), other.input_value()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fewer merges than asked for
            _, merges = train_bpe([text], 256 + step, pattern=data["pattern"])
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        for label, count, piece in (("The text in tokens", "Tokens", text), ("The other text in tokens", "Tokens in the other text", second)):
            chunks = split_text(piece, data["pattern"])
            tokens = [token for chunk in chunks for token in merge_chunk(chunk.encode("utf-8"), ranks)]
            assert chips(frame, label) == [shown(token) for token in tokens], f"after {step} merges"
            assert readout(frame, count) == len(tokens)
        assert readout(frame, "Vocabulary") == 256 + len(merges)

    steps.press("Home")
    compare()
    for _ in range(2):
        frame.get_by_role("button", name="Next step").press("Enter")
        compare()
    steps.press("End")
    compare()
    own.fill("low lower lowest\n\nnew  newer newest 日本語 日本 🙂🙂\u00a0…")
    other.fill("lowest 日本")
    compare()
    steps.press("End")
    compare()


def check_tokens(frame: Frame) -> None:
    "Ids of several texts, with special tokens read as text and as control tokens, and the bytes of a chosen token."
    from minillm.bpe import GPT2_PATTERN, GPT4_PATTERN
    from minillm.tokenizer import Tokenizer

    data = data_of(frame)
    byte_of = {letter: byte for byte, letter in enumerate(data["letters"])}
    vocab = {i: bytes(byte_of[c] for c in token) for i, token in enumerate(data["tokens"]) if i not in data["special"].values()}
    merges = [tuple(bytes(byte_of[c] for c in half) for half in pair.split(" ")) for pair in data["merges"]]
    pattern = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN}[data["pattern"]]
    tokenizer = Tokenizer(vocab, merges, data["special"], pattern=pattern)

    box, allow = frame.get_by_label("Your text"), frame.get_by_role("checkbox")
    special = " ".join(data["special"])
    texts = [data["text"], "", "  two  spaces\n\n\tand a tab ", "naïve café, 日本語 Ελληνικά 🙂👩‍👩‍👧", "it's 12345 IT'S\u0085\ufeff\u2028x", f"a{special}b{special}"]
    for text in texts:
        box.fill(text)
        for _ in range(2):
            allowed = "all" if allow.is_checked() else ()
            ids = tokenizer.encode(box.input_value(), allowed_special=allowed)
            found = frame.locator("[data-chips] small").evaluate_all("all => all.map((e) => Number(e.textContent))")
            assert found == ids, f"{text!r}, special tokens {allowed!r}"
            assert readout(frame, "Tokens") == len(ids)
            assert readout(frame, "Bytes") == len(text.encode("utf-8")) and readout(frame, "Characters") == len(text)
            allow.press("Space")
    box.fill(data["text"])
    ids = tokenizer.encode(data["text"])
    frame.locator("[data-chips] [role=option][tabindex='0']").press("End")
    spelt = "".join(f"\\x{byte:02x}" for byte in tokenizer.token_bytes[ids[-1]])
    assert frame.locator(".ml-note").inner_text() == f"Token {len(ids)} of {len(ids)}: id {ids[-1]}, bytes {spelt}."


def check_attention(frame: Frame) -> None:
    "The weights of several queries, with and without scale and mask, at two temperatures and in every head."
    data = data_of(frame)
    query, head = frame.locator("[data-chips] [role=option]"), frame.get_by_label("Head")
    temperature, scaled, causal = frame.get_by_label("Temperature"), frame.get_by_label("Divide by"), frame.get_by_label("Causal mask")

    def compare() -> None:
        t = int(frame.locator("[data-chips] [aria-selected=true] small").inner_text())
        dots = data["products"][int(head.input_value())][t]
        scale = (data["width"] ** -0.5 if scaled.is_checked() else 1) / float(temperature.input_value())
        allowed = t + 1 if causal.is_checked() else len(dots)
        expected = softmax([dot * scale for dot in dots[:allowed]]) + [0.0] * (len(dots) - allowed)
        assert bar_values(frame, "Weight of each key") == pytest.approx(expected, rel=1e-9, abs=1e-300)
        assert readout(frame, "Its weight") == pytest.approx(max(expected), rel=1e-9)
        assert readout(frame, "Its dot product") == dots[expected.index(max(expected))]

    compare()
    for key in ("Home", "ArrowRight", "End", "ArrowLeft"):
        frame.locator("[data-chips] [role=option][tabindex='0']").press(key)
        compare()
    assert query.count() == len(data["tokens"])
    for control in (scaled, causal, scaled):
        control.press("Space")
        compare()
    temperature.press("Home")
    compare()
    for _ in data["products"][1:]:
        head.press("ArrowDown")
        compare()
    assert int(head.input_value()) == len(data["products"]) - 1


def check_embedding(frame: Frame) -> None:
    "The nearest tokens of several tokens, with one number, some and all of them."
    data = data_of(frame)
    tokens, vectors = data["tokens"], data["vectors"]
    slider = frame.get_by_role("slider", name="Numbers that count")

    def compare() -> None:
        d = int(slider.input_value())
        i = frame.locator("[data-chips] [role=option]").evaluate_all("all => all.findIndex((e) => e.getAttribute('aria-selected') === 'true')")
        cut = [row[:d] for row in vectors]
        lengths = [math.hypot(*row) or 1 for row in cut]
        cosines = [(math.fsum(a * b for a, b in zip(row, cut[i])) / n / lengths[i], -j) for j, (row, n) in enumerate(zip(cut, lengths)) if j != i]
        best = sorted(cosines, reverse=True)[:8]
        assert bar_values(frame, "Cosine of the eight nearest tokens") == pytest.approx([max(c, 0) for c, _ in best], abs=1e-9)
        assert readout(frame, "Its cosine") == pytest.approx(best[0][0], abs=1e-9)
        if best[0][0] - best[1][0] > 1e-9:
            assert frame.locator("[data-readout=Nearest]").inner_text() == f"Nearest {tokens[-best[0][1]]}"

    compare()
    for key in ("Home", "ArrowRight", "ArrowRight", "End"):
        slider.press(key)
        compare()
    for key in ("Home", "ArrowRight", "End"):
        frame.locator("[data-chips] [role=option][tabindex='0']").press(key)
        compare()


CHECKED = {
    "temperature": check_temperature,
    "bpe_merges": check_bpe_merges,
    "tokens": check_tokens,
    "attention": check_attention,
    "embedding": check_embedding,
}
