"""Wrong versions of chapter 46, each of which a visible test of the chapter must notice."""

import pytest
from test_chapters import assert_noticed

MODULE = "llm"
MUTANTS = {
    "what was held back is lost": (" + stops.push(decoder.finish()) + stops.finish() for", " for"),
    "rows share a decoder": ("rows = [(tokenizer.stream_decoder(), StopStrings(settings.stop), [\"\"]) for _ in prompts]", "rows = [(tokenizer.stream_decoder(), StopStrings(settings.stop), [\"\"])] * len(prompts)"),
    "the sampler is forgotten": ('"sampler": settings.sampler()}', '"sampler": None}'),
    "windows do not overlap": ("start = max(0, len(found) - context // 2)", "start = len(found)"),
    "nats for bits": (" / math.log(2)).tolist()", ").tolist()"),
    "shown text is not escaped": ("{html.escape(_visible(token))}</span>", "{_visible(token)}</span>"),
    "tied weights twice": ("        if x.numel() and place in seen:\n            continue\n", ""),
    "another format is ignored": ("x.to(dtype) if dtype and x.is_floating_point() else x", "x"),
    "files are written in place": ("            _write_parts(work, model, tokenizer, card, dtype)\n", "            _write_parts(folder, model, tokenizer, card, dtype)\n            _write_parts(work, model, tokenizer, card, dtype)\n"),
    "hashes are not compared": ("    _check_parts(folder, card)\n", ""),
    "the card may be alone": ("if lost := [name for name in (*_PARTS, _CARD) if not (folder / name).is_file()]:", "if lost := []:"),
    "a stale head": ("            found[name] = weights[first]\n", "            pass\n"),
    "any tokenizer will do": ("    if tokenizer.vocab_size != vocab_size:\n", "    if False:\n"),
    "the end does not count": ("for _, bits in self.surprise(text, end=True))", "for _, bits in self.surprise(text))"),
    "the recipe wins": ("return replace(usual, context=context, **{name: value for name, value in said.items() if value is not None})", "return replace(usual, context=context)"),
    "a long context is taken": ("    if context > n_tokens:\n", "    if False:\n"),
    "always windows": ("    if len(store) > context * store.n_documents:\n", "    if True:\n"),
    "always packed": ("    if len(store) > context * store.n_documents:\n", "    if False:\n"),
    "prepared data is read as text": ("    if isinstance(data, str | Path) and Prepared.is_in(data):\n        data = Prepared.open(data)\n", ""),
    "differences in the model are missed": ("    pairs += [(name, old.get(name), new.get(name)) for name in {**old, **new} if name not in now]\n", ""),
    "another rate is the same run": ('    free = ("format", "data", "steps", "config")', '    free = ("format", "data", "steps", "config", "lr")'),
    "fewer steps are begun": ('    if plan["steps"] < done:\n', "    if False:\n"),
    "the plan is not noted": ("    if before != plan:\n", "    if before is None:\n"),
    "the last weights are taken": ("    if best is None or best == trainer.checkpoints.path(trainer.step):", "    if True:"),
    "seconds are not counted": ("self.seconds + record.seconds", "self.seconds"),
    "the count is not kept": ('        self.tokens, self.seconds = state["tokens"], state["seconds"]', "        pass"),
    "others' folders are written into": ("    _refuse_foreign(out)\n    with _one_writer(out):", "    with _one_writer(out):"),
    "torch's own chance is used up": ("    with torch.random.fork_rng(cuda):\n        torch.default_generator", "    if True:\n        torch.default_generator"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(monkeypatch, f"46_{MODULE}", MUTANTS[name])
