"""Wrong versions of chapter 42, each of which a visible test of the chapter must notice."""

import pytest
from test_chapters import assert_noticed

MODULE = "generate"
MUTANTS = {
    "padded on the right": ("[[pad] * (T - len(text)) + [*text] for text in texts]", "[[*text] + [pad] * (T - len(text)) for text in texts]"),
    "positions count padding": ("(torch.arange(T) - empty[:, None]).clamp(min=-1)", "torch.arange(T).expand(len(texts), T)"),
    "padding at position 0": (".clamp(min=-1)", ".clamp(min=0)"),
    "dropout left on": ("    model.eval()\n", ""),
    "modes not restored": ("            module.training = True", "            pass"),
    "head on all columns": ("model.lm_head(model.hidden(ids, **where)[:, -1])", "model.lm_head(model.hidden(ids, **where))[:, -1]"),
    "positions not told": ('{"positions": positions, "cache": cache}', '{"cache": cache}'),
    "seeds that overlap": ("return torch.randint(2**62, (n,), generator=generator).tolist()", "return [*range(seed or 0, (seed or 0) + n)]"),
    "one chance for all": ("generator=[row.generator for row in going]", "generator=going[0].generator"),
    "the stop id is kept": ('            self.why = "stop"\n            return None\n', '            self.why = "stop"\n'),
    "one id too many": ("len(self.ids) - self.n_prompt >= max_new_tokens", "len(self.ids) - self.n_prompt > max_new_tokens"),
    "the end of the context is one off": ("needed > self.context", "needed > self.context + 1"),
    "the context never ends": ("start = None if self.context is None else -self.context", "start = None"),
    "rows that ended are drawn for": ("row.take(next(tokens), *limits) if row.why is None else None", "row.take(next(tokens), *limits)"),
    "any cache will do": ("            _check_empty(cache, positions)\n", ""),
    "the cache reads all again": ("if self.columns:\n            ids = torch.tensor([row.ids[-1:]", "if self.columns:\n            ids = torch.tensor([row.ids[-2:]"),
    "stop strings let through": ("self.held[: end - len(self.found)]", "self.held[:end]"),
    "nothing is held back": ("cut = len(self.held) - _waiting(self.held, self.strings)", "cut = len(self.held)"),
    "everything is held back": ("cut = len(self.held) - _waiting(self.held, self.strings)", "cut = 0"),
    "what begins first wins": ("(self.held.find(one) + len(one), -len(one), one)", "(self.held.find(one), -len(one), one)"),
    "the end token forgotten": ("[tokenizer.special_tokens[END_OF_TEXT], *tokenizer.encode(text)]", "tokenizer.encode(text)"),
    "a broken character is swallowed": ("self.stops.push(self.decoder.finish()) + self.stops.finish()", "self.stops.finish()"),
    "a stream goes on behind a stop string": ('                self.stream.stop(0, "stop string")\n', "                pass\n"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(monkeypatch, f"42_{MODULE}", MUTANTS[name])
