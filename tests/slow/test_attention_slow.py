"""Attention at lengths and in numbers that take long: equality over many random cases, memory of a whole process, the experiment."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import results as tool
from minillm.attention import causal_mask, flash_attention, mask_rule, scaled_dot_product_attention

PROGRAM = """
import sys, torch
from pathlib import Path
from minillm.attention import causal_mask, flash_attention, mask_rule, scaled_dot_product_attention
torch.set_num_threads(1)
T, place = int(sys.argv[2]), torch.arange(int(sys.argv[2]))
q, k, v = (torch.randn(1, 2, T, 64, requires_grad=True) for _ in range(3))
if sys.argv[1] == "warm":
    flash_attention(q[..., :64, :], k[..., :64, :], v[..., :64, :]).sum().backward()
elif sys.argv[1] == "tiled":
    flash_attention(q, k, v, mask=mask_rule(place)).sum().backward()
else:
    scaled_dot_product_attention(q, k, v, mask=causal_mask(place)).sum().backward()
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def peak_kib(which: str, T: int) -> int:
    "The most memory that a fresh process held."
    run = subprocess.run([sys.executable, "-c", PROGRAM, which, str(T)], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_a_whole_process() -> None:
    "What the operating system sees, with all that torch uses inside its operations: T=4096, two heads."
    idle = peak_kib("warm", 4096)
    tiled, plain = peak_kib("tiled", 4096) - idle, peak_kib("plain", 4096) - idle
    scores = 4 * 2 * 4096 * 4096 / 1024  # KiB of one matrix of scores
    assert tiled < scores / 2
    assert plain > 2 * scores


@pytest.mark.parametrize("seed", range(40))
def test_equal_to_torch_at_length(seed: int) -> None:
    "Lengths of several tiles, float32, windows and documents: result and gradients near torch's in float64."
    generator = torch.Generator().manual_seed(seed)
    low, high = 130, 700
    T, S = (int(torch.randint(low, high, (), generator=generator)) for _ in range(2))
    q, k, v = (torch.randn(2, 2, n, 16, generator=generator).requires_grad_() for n in (T, S, S))
    window = [None, 50, 200][seed % 3]
    first = max(S - T, 0)
    texts = torch.randint(0, 3, (2, max(T + first, S)), generator=generator).sort(-1).values
    rule = mask_rule(
        torch.arange(first, first + T), torch.arange(S), texts[:, first : first + T], texts[:, :S], window=window
    )
    mask = rule(slice(0, T), slice(0, S))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    right = F.scaled_dot_product_attention(*exact, attn_mask=mask)
    grad = torch.randn(right.shape, generator=generator)
    expected = (right, *torch.autograd.grad(right, exact, grad.double()))
    for attend, given in ((flash_attention, rule), (scaled_dot_product_attention, mask)):
        out = attend(q, k, v, mask=given)
        for got, want in zip((out, *torch.autograd.grad(out, (q, k, v), grad)), expected):
            torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


def test_long_and_sharp() -> None:
    "4000 keys whose scores run to a thousand, rising: the running maximum changes in each tile."
    k = torch.linspace(0, 1000, 4000)[:, None]
    q, v = torch.ones(1, 1), torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    for order in (slice(None), torch.arange(3999, -1, -1)):
        right = F.scaled_dot_product_attention(q[None].double(), k[order][None].double(), v[order][None].double())[0]
        torch.testing.assert_close(flash_attention(q, k[order], v[order]).double(), right, rtol=1e-4, atol=1e-4)


def test_the_experiment_repeats() -> None:
    "One seed of results/attention_copy.py run again learns the task, as its record says."
    module = tool.load("attention_copy")
    found = module.run(module.SEEDS[-1])
    assert found["accuracy"] > 0.99 and min(found["right"][1]) > 0.8 and max(found["before"][0]) > 0.3


def test_causal_at_both_ends() -> None:
    "Every T and S up to 40 with tiles of 16: no row sees beyond itself."
    for T in range(1, 41, 3):
        for S in range(T, 41, 4):
            places = torch.arange(S - T, S)
            v = torch.eye(S)[None]
            zero = torch.zeros(1, S, 2)
            out = flash_attention(zero[:, :T], zero, v, mask=mask_rule(places, torch.arange(S)), tile=16)
            assert torch.equal(out[0] > 0, causal_mask(places, torch.arange(S)))
