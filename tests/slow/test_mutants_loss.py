"""Wrong versions of chapter 31, each of which tests/test_loss.py must notice."""

from pathlib import Path

import pytest
from mutants import assert_caught, assert_passes

MODULE = "loss"
MUTANTS = {  # name: (line, what stands there instead)
    "largest not taken out": ("    return (x - highest).exp()", "    return x.exp()"),
    "largest not put back": (".log() + highest.squeeze(dim)", ".log()"),
    "nothing but −inf": ("highest.where(highest.isfinite(), 0.0)", "highest"),
    "16 bits stay": ("    x = x.to(torch.promote_types(x.dtype, torch.float32))\n    highest", "    highest"),
    "ignored are counted": ("    counted = (targets != IGNORED).to(wide)", "    counted = torch.ones_like(targets).to(wide)"),
    "weights of ignored are counted": (".reshape(-1).to(wide) * counted", ".reshape(-1).to(wide)"),
    "what does not count stays": (
        "    return (x, targets, weight) if kept.all() else (x[kept], targets[kept], weight[kept])",
        "    return x, targets.clamp(min=0), weight",
    ),
    "weights are lost": ("    return (weight * loss).sum() / _at_least_tiny(total)", "    return loss.sum() / _at_least_tiny(total)"),
    "divided by all": ("    total = weight.sum()\n", "    total = weight.new_tensor(float(weight.numel()))\n"),
    "0/0": ("    return total.clamp_min(torch.finfo(total.dtype).tiny)", "    return total"),
    "smoothing without its mean": ("smoothing * (log_sum - logits.mean(-1))", "smoothing * log_sum"),
    "z-loss of the shifted": ("z_loss * (log_sum + highest[:, 0]) ** 2", "z_loss * log_sum ** 2"),
    "z-loss not squared": ("loss = loss + z_loss * log_z**2", "loss = loss + z_loss * log_z"),
    "z-loss without the 2": ("gradient *= (1 + 2 * z_loss", "gradient *= (1 + z_loss"),
    "smoothing with the wrong sign": ("gradient -= smoothing / logits.shape[-1]", "gradient += smoothing / logits.shape[-1]"),
    "p − y with all of y": ("gradient.new_full(at.shape, smoothing - 1)", "gradient.new_full(at.shape, -1)"),
    "chunk's weights are lost": ("            gradient *= w[:, None]", "            pass"),
    "a sum in 16 bits": ("torch.zeros_like(head, dtype=weight.dtype)", "torch.zeros_like(head)"),
    "only the last chunk": ("        total.addmm_(a, b)", "        total.copy_(a @ b)"),
    "gradient not scaled": ("None if x is None else x * grad", "None if x is None else x"),
    "gradient scaled in place": ("None if x is None else x * grad", "None if x is None else x.mul_(grad)"),
    "everything is wanted": ("[on and needed for needed in ctx.needs_input_grad[:2]]", "[True, True]"),
    "autocast is not seen": ("        narrow, matrix, _ = _autocast(hidden, head, head)", "        narrow, matrix = hidden, head"),
    "a wrapped head is not seen": ("type(head) is nn.Linear and head.bias is None", "isinstance(head, nn.Linear)"),
    "documents are forgotten": ('"documents": batch.documents}', '"documents": None}'),
    "positions are forgotten": ('{"positions": batch.positions', '{"positions": None'),
    "all logits": ("    if hasattr(model, \"hidden\")", "    if False and hasattr(model, \"hidden\")"),
    "modes are not restored": ("            part.training = mode", "            pass"),
    "mode of the whole only": ("            part.training = mode", "            part.train(mode)"),
    "dropout stays on": ("            model.eval()\n", ""),
    "a batch too many": ("in islice(batches, max_batches):", "in (b for n, b in enumerate(batches) if max_batches is None or n < max_batches):"),
    "accuracy without weights": ("(weight[part] * (logits.argmax(-1) == targets[part]))", "(1.0 * (logits.argmax(-1) == targets[part]))"),
    "bytes without weights": ("(weight * sizes[targets])", "sizes[targets]"),
    "two chunks at once": ("        del gradient  # before", "        # before"),
    "weights are learned": ("weight.detach().reshape(-1)", "weight.reshape(-1)"),
    "z-loss of ln p": ("highest - log_p.amax(-1)", "highest + log_p.amax(-1)"),
    "mean per token": ("nats / self.weight", "nats / self.n_tokens"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_caught(name: str, tmp_path: Path) -> None:
    assert_caught(MODULE, MUTANTS[name], tmp_path)


@pytest.mark.minutes(1)
def test_nothing_changed_passes(tmp_path: Path) -> None:
    assert_passes(MODULE, tmp_path)
