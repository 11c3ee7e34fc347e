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


def check_batch(frame: Frame) -> None:
    "Who sees whom in the given batch, with and without documents and restarted positions, and in texts of the reader's own."
    import torch

    from minillm.attention import mask_rule
    from minillm.batches import cut_pieces, pack_best_fit, pack_sequential

    data = data_of(frame)
    box, how, width = frame.get_by_label("Your own texts"), frame.get_by_label("How your texts share rows"), frame.get_by_label("Tokens in your rows")
    number, apart, again = frame.get_by_role("slider", name="Row", exact=True), frame.get_by_label("Use documents"), frame.get_by_label("Positions start again")
    cursor = frame.locator("[data-chips] [role=option][tabindex='0']")

    def shown_mask() -> list[list[int]]:
        cells = frame.locator("[data-grid] [data-value]").evaluate_all("all => all.map((e) => [e.dataset.row, e.dataset.column, e.dataset.value].map(Number))")
        size = max(row for row, _, _ in cells) + 1
        assert [cell[:2] for cell in cells] == [[t, s] for t in range(size) for s in range(size)]
        return [[value for row, _, value in cells if row == t] for t in range(size)]

    def compare(rows: list[list[dict]]) -> None:
        "The grid and the numbers against chapter 22's masks."
        row = rows[int(number.input_value())]
        place = torch.tensor([slot["position"] if again.is_checked() or slot["position"] < 0 else t for t, slot in enumerate(row)])
        text = torch.tensor([slot["document"] for slot in row])
        mask = mask_rule(place, documents=text if apart.is_checked() else None)(slice(None), slice(None))
        assert shown_mask() == mask.int().tolist()
        assert chips(frame, "Tokens of the row, with their positions: choose a query") == [slot["token"] for slot in row]
        notes = frame.locator("[data-chips] [role=option] small").evaluate_all("all => all.map((e) => Number(e.textContent))")
        assert notes == place.tolist()
        t = frame.locator("[data-chips] [role=option]").evaluate_all("all => all.findIndex((e) => e.getAttribute('aria-selected') === 'true')")
        assert readout(frame, "Keys it sees") == mask[t].sum() and readout(frame, "Its weight") == row[t]["weight"]
        target = frame.locator("[data-readout='Its target']").get_attribute("data-value")
        assert target == (row[t]["target"].replace(" ", "␣").replace("\n", "↵") if row[t]["weight"] else "none")
        assert readout(frame, "Pairs in the row") == mask.sum()
        assert readout(frame, "Pairs across texts") == (mask & (text[:, None] != text)).sum()
        assert readout(frame, "Pairs that look ahead") == mask.triu(1).sum()

    compare(data["rows"])
    for key in ("End", "Home", "ArrowRight", "ArrowRight"):
        cursor.press(key)
        compare(data["rows"])
    for control in (apart, again, apart, again):
        control.press("Space")
        compare(data["rows"])
    frame.locator("[data-grid] [tabindex='0']").press("ArrowDown")
    compare(data["rows"])
    number.press("End")
    compare(data["rows"])

    texts = ["Mia took the lamp", "It rained all day and all night long", "Hello", "Tom ran home"]
    box.fill("\n".join(["", *texts, "  "]))
    for _ in range(3):
        T, way = int(width.input_value()), how.input_value()
        words = [line.split() for line in texts]
        lengths = [len(ids) + 1 for ids in words]
        pieces = cut_pieces(lengths, T)
        packed = {"one text a row": [[p] for p in pieces], "sequential": pack_sequential(cut_pieces(lengths, 99), T), "best fit": pack_best_fit(pieces, T)}[way]
        rows = []
        for row in packed:
            slots = []
            for document, (k, start, stop) in enumerate(row):
                ids = [data["end"], *words[k], data["end"]]
                slots += [{"token": ids[t], "target": ids[t + 1], "document": document, "position": t - start, "weight": 1} for t in range(start, stop)]
            rows.append(slots + [{"token": "", "target": "", "document": -1, "position": -1, "weight": 0}] * (T - len(slots)))
        for key in ("Home", "End"):
            number.press(key)
            compare(rows)
        how.select_option({"one text a row": "sequential", "sequential": "best fit", "best fit": "one text a row"}[way])
        width.press("ArrowLeft")
    box.fill("")
    number.press("Home")
    compare(data["rows"])


def check_rope(frame: Frame) -> None:
    "Both positions, alone and together, every pair and base: what each pair adds, its angle and the score."
    import torch

    from minillm.rope import RoPE

    data = data_of(frame)
    query, key = (torch.tensor(data[name], dtype=torch.float64).flatten() for name in ("query", "key"))  # neighbouring pairs
    t, s, pair, base = (frame.get_by_label(name, exact=True) for name in ("Position of the query", "Position of the key", "Pair", "Base"))
    together, longest = frame.get_by_label("Move both together"), data["longest"]

    def place(slider) -> int:
        return int(float(slider.input_value()))

    def compare() -> float:
        rope = RoPE(len(query), base=data["bases"][place(base)], pairing="interleaved")
        a, b = (rope(x[None], torch.tensor([place(p)]))[0].unflatten(0, (-1, 2)) for x, p in ((query, t), (key, s)))
        added = ((a * b).sum(-1) / len(query) ** 0.5).tolist()
        assert bar_values(frame, "What each pair adds to the score") == pytest.approx(added, rel=1e-5, abs=1e-5)
        assert readout(frame, "Score of all pairs") == pytest.approx(sum(added), rel=1e-5, abs=1e-5)
        assert readout(frame, "This pair adds") == pytest.approx(added[place(pair)], rel=1e-5, abs=1e-5)
        (x, y), (u, v) = a[place(pair)].tolist(), b[place(pair)].tolist()
        angle = math.degrees(math.atan2(y * u - x * v, x * u + y * v))
        turned = (readout(frame, "Angle from key to query") - angle + 180) % 360 - 180
        assert abs(turned) < 0.01
        assert readout(frame, "Distance") == place(t) - place(s)
        return readout(frame, "Score of all pairs")

    start = compare()
    together.press("Space")  # both move, and the score stays
    for slider, key_pressed in ((t, "ArrowRight"), (s, "ArrowRight"), (t, "PageUp"), (s, "ArrowLeft"), (t, "End"), (s, "Home")):
        before = place(t) - place(s)
        slider.press(key_pressed)
        assert place(t) - place(s) == before and compare() == pytest.approx(start, rel=1e-9)
    t.press("End")
    assert place(t) == longest - 1
    together.press("Space")  # alone again: the score moves
    t.press("Home")
    s.press("End")
    assert (place(t), place(s)) == (0, longest - 1) and compare() != pytest.approx(start, rel=1e-3)
    for slider in (pair, base):
        for key_pressed in ("Home", "End", "ArrowLeft"):
            slider.press(key_pressed)
            compare()
    frame.get_by_role("button", name="Choose pair 2").press("Enter")
    assert place(pair) == 2
    compare()


def check_optimizers(frame: Frame) -> None:
    "Every rule, straight and turned, at several rates, momenta, steepnesses and steps: where the ball is, and how high."
    import torch

    from minillm.optim import _valley_path

    data = data_of(frame)
    rule, turned = frame.get_by_label("Optimiser"), frame.get_by_label("Turn the valley")
    rate, momentum, steep = (frame.get_by_role("slider", name=name, exact=True) for name in ("Learning rate", "Momentum", "Steepness"))
    made = frame.get_by_role("slider", name="Steps made")

    def place(slider) -> float:
        return float(slider.input_value())

    def compare() -> float:
        steepness = data["steepnesses"][int(place(steep))]
        options = {"turned": turned.is_checked(), "steps": int(place(made)), "start": tuple(data["start"])}
        path = _valley_path(rule.input_value(), data["rates"][int(place(rate))], place(momentum), steepness, **options)
        if turned.is_checked():  # back to the valley's own axes
            path = path @ torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / 2**0.5
        heights = ((path[:, 0] ** 2 + steepness * path[:, 1] ** 2) / 2).tolist()
        assert readout(frame, "Height") == pytest.approx(heights[-1], rel=1e-6, abs=1e-12)
        assert readout(frame, "Lowest so far") == pytest.approx(min(heights), rel=1e-6, abs=1e-12)
        for axis, label in enumerate(("Along the valley", "Across the valley")):
            assert readout(frame, label) == pytest.approx(path[-1, axis].item(), rel=1e-6, abs=1e-9)
        swings = sum(a * b < 0 for a, b in zip(path[:-1, 1].tolist(), path[1:, 1].tolist()))
        words = frame.locator(".ml-note").inner_text()
        assert words.startswith(f"After {options['steps']} steps the ball has crossed the valley {swings} times.")
        assert ("higher" in words) == (heights[-1] > heights[0])
        return readout(frame, "Height")

    for name in ("sgd", "adamw", "lion"):
        rule.select_option(name)
        straight = compare()
        turned.press("Space")
        across = compare()
        assert (across == pytest.approx(straight, rel=1e-6)) == (name == "sgd")  # a gradient knows no axes
        for slider, key in ((momentum, "End"), (momentum, "PageDown"), (rate, "ArrowLeft"), (rate, "ArrowLeft"), (made, "End")):
            slider.press(key)
            compare()
        turned.press("Space")
        for slider, key in ((steep, "Home"), (steep, "End"), (momentum, "Home"), (rate, "Home"), (made, "Home"), (made, "ArrowRight")):
            slider.press(key)
            compare()
        for slider, key in ((rate, "End"), (made, "End"), (steep, "ArrowLeft"), (rate, "PageDown"), (made, "PageDown")):
            slider.press(key)
            compare()
    rule.select_option("sgd")
    for slider, key in ((rate, "End"), (steep, "End"), (momentum, "End"), (made, "End")):
        slider.press(key)
    assert compare() > 1e100  # it explodes, and is still a number


def check_sampling(frame: Frame) -> None:
    "Bars and numbers of every place under each control, alone and together, against the library's sampler."
    import torch

    from minillm.sampling import MinP, Sampler, Temperature, TopK, TopP, entropy

    data = data_of(frame)
    place, last = frame.get_by_label("The text so far"), frame.get_by_label("Temperature last")
    knobs = {name: frame.get_by_role("slider", name=name, exact=True) for name in ("Temperature", "Top-k", "Top-p", "Min-p")}

    def compare() -> float:
        context = data["contexts"][int(place.input_value())]
        t, k, p, m = (float(knob.input_value()) for knob in knobs.values())
        logits = torch.tensor([context["logits"]])
        cuts = [*([TopK(int(k))] if k else []), TopP(p), MinP(m)]
        tools = [*cuts, Temperature(t)] if last.is_checked() else [Temperature(t), *cuts]
        cut, found = logits, Sampler(processors=tools).probabilities(logits)[0].double()
        for tool in tools:
            cut = tool(cut, None)
        kept = cut[0].isfinite()  # not found > 0: at a low temperature some are too small for float32
        shown = len(context["tokens"])
        expected = found[:shown].tolist() + ([found[shown:].sum().item()] if len(found) > shown else [])
        assert bar_values(frame, "Probability of the next token") == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert readout(frame, "Tokens left") == kept.sum()
        assert readout(frame, "The model gave them") == pytest.approx(logits.double().softmax(-1)[0][kept].sum().item(), rel=1e-4)
        assert readout(frame, "Entropy") == pytest.approx(entropy(found).item(), rel=1e-3, abs=1e-4)
        assert readout(frame, "As wide as") == pytest.approx(2 ** entropy(found).item(), rel=1e-3)
        return readout(frame, "Tokens left")

    whole = compare()
    for key in ("Home", "ArrowRight", "End", "ArrowLeft"):
        knobs["Temperature"].press(key)
        compare()
    for name, keys in (("Top-k", ("ArrowRight", "ArrowRight", "End")), ("Top-p", ("ArrowLeft", "PageDown", "Home")), ("Min-p", ("ArrowRight", "PageUp"))):
        for key in keys:
            knobs[name].press(key)
            compare()
        last.press("Space")
        compare()
        knobs[name].press("End" if name == "Top-p" else "Home")
    knobs["Temperature"].press("End")
    for name, key in (("Top-k", "End"), ("Top-p", "PageDown"), ("Min-p", "ArrowRight")):
        knobs[name].press(key)
    for option in range(len(data["contexts"])):
        place.select_option(str(option))
        for _ in range(2):
            assert compare() < whole
            last.press("Space")


CHECKED = {
    "temperature": check_temperature,
    "bpe_merges": check_bpe_merges,
    "tokens": check_tokens,
    "attention": check_attention,
    "embedding": check_embedding,
    "batch": check_batch,
    "rope": check_rope,
    "optimizers": check_optimizers,
    "sampling": check_sampling,
}
