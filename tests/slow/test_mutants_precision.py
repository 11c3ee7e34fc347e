"""Wrong versions of chapter 32, each of which tests/test_precision.py must notice."""

from pathlib import Path

import pytest
from mutants import assert_caught, assert_passes

MODULE = "precision"
MUTANTS = {  # name: (line, what stands there instead)
    "step of the number itself": ("torch.tensor([number + 1])", "torch.tensor([number - 1])"),
    "sign is lost": ("number = int(kept.view(whole).item()) % 2**size", "number = abs(int(kept.view(whole).item()))"),
    "not rounded": ("value, step = kept.item(),", "value, step = float(value),"),
    "master is the weight": (", copy=True)", ")"),
    "master is short": ("torch.promote_types(weight.dtype, torch.float32)", "dtype"),
    "frozen ones move": ("requires_grad=weight.requires_grad", "requires_grad=True"),
    "gradients replace": ("grad if master.grad is None else master.grad.add_(grad)", "grad"),
    "gradients stay": ("                weight.grad = None\n", ""),
    "gradients in 16 bits": ("grad = weight.grad.to(master.dtype)", "grad = weight.grad.to(master.dtype) if master.grad is None else (master.grad.to(weight.dtype) + weight.grad).to(master.dtype) - master.grad"),
    "nothing is published": ("            weight.copy_(self._masters[name])", "            pass"),
    "wide weights are the masters": ("self._masters[name].detach().clone(), None", "self._masters[name].detach(), None"),
    "wide weights from short ones": ("self._masters[name].detach().clone(), None", "weight.detach().float(), None"),
    "loaded, not published": ("            master.copy_(state[name])\n        self.publish()", "            master.copy_(state[name])"),
    "unknown names pass": ("for name in [*masters, *state]:", "for name in masters:"),
    "shapes pass": ("masters[name].shape != state[name].shape or ", ""),
    "formats pass": (" or masters[name].dtype != state[name].dtype", ""),
    "any device": ("    if asked in there or", "    if True or"),
    "autocast for all": ('if self.name == "autocast" else nullcontext()', "if True else nullcontext()"),
    "16 bits for 8 %": ("seconds[name] < 0.9 * seconds", "seconds[name] < 0.95 * seconds"),
    "bf16 for 2 %": ('seconds["bf16"] < 0.95 *', 'seconds["bf16"] <'),
    "widest is narrowest": ("max(linear, default=None)", "min(linear, default=None)"),
    "the generator moves": ("with torch.random.fork_rng(devices=[]):", "if True:"),
    "GPU without bf16": ("not torch.cuda.is_bf16_supported(including_emulation=False)", "False"),
    "mask of the first text": ("            if b < len(allowed):", "            if b < 1:"),
    "keys from the start": ("slice(int(seen[0]), int(seen[-1]) + 1)", "slice(int(seen[0]), int(seen[-1]))"),
    "empty rows give a mean": ("none = empty if empty.any() else None", "none = None"),
    "an empty row is nan": ("hidden = ~(part | empty)", "hidden = ~part"),
    "no scale": ("torch.baddbmm(added, q, k.mT, alpha=scale)", "torch.baddbmm(added, q, k.mT)"),
    "no mask": ("torch.baddbmm(added, q, k.mT, alpha=scale)", "torch.baddbmm(added, q, k.mT, alpha=scale, beta=0)"),
    "heads of keys mixed up": ("x.unflatten(0, (-1, G)).sum(1)", "x.unflatten(0, (G, -1)).sum(0)"),
    "last rows are lost": ("min(start + _ROWS, q.shape[-2])", "min(start + _ROWS, q.shape[-2] - 1)"),
    "dq without scale": ("torch.bmm(dscores, keys).mul_(ctx.scale)", "torch.bmm(dscores, keys)"),
    "dk without scale": ("torch.bmm(dscores.mT, asked), G).mul_(ctx.scale)", "torch.bmm(dscores.mT, asked), G)"),
    "dk of the last rows": ("dk[b, :, s] += ", "dk[b, :, s] = "),
    "dv of the last rows": ("dv[b, :, s] += ", "dv[b, :, s] = "),
    "gradient of empty rows": ("g = g if empty is None else g.masked_fill(empty, 0.0)", "pass"),
    "bias is forgotten": ("if bias is not None or not ours:", "if not ours:"),
    "autocast is not seen": ("    q, k, v = _autocast(q, k, v)\n    ours", "    ours"),
    "shapes are not looked at": ("    _check_groups(q, k, v)\n", ""),
    "lengths are not looked at": ("    _check_causal(mask, q.shape[-2], k.shape[-2])\n", ""),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_caught(name: str, tmp_path: Path) -> None:
    assert_caught(MODULE, MUTANTS[name], tmp_path)


@pytest.mark.minutes(1)
def test_nothing_changed_passes(tmp_path: Path) -> None:
    assert_passes(MODULE, tmp_path)
