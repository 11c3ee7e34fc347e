# Generated from nbs/32_precision.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import torch
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from time import perf_counter, process_time
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing import Any
from minillm.attention import TileRule, _ask, _autocast, _check_tiles, _cut, _no_autocast, _scale
from minillm.block import Block, RMSNorm, SwiGLU, gated_hidden
from minillm.gqa import GroupedQueryAttention, _check_causal, _check_groups, fused_attention, repeat_heads, takes_groups
from minillm.rope import RoPE
from minillm.precision import FloatParts, MasterWeights, Precision, choose_device, choose_precision, float_parts, half_attention, precision_seconds

# %% exercise 32-a {"title": "Round by hand", "answer": "def to_bf16_bits(bits: int) -> int: ...", "returns": true}
import random
import struct

import torch

from minillm.exercises import expect, mistake

hints = [
    "`bits >> 16` keeps the upper half, `bits & 0xFFFF` is what is cut off. 0x8000 is exactly half.",
    "More than half: one up. Exactly half: up only if the kept number is odd. A carry into the exponent is right.",
]


def right_bits(bits):
    number = torch.tensor([bits - 2**32 if bits >= 2**31 else bits], dtype=torch.int32)
    return int(number.view(torch.float32).to(torch.bfloat16).view(torch.int16)) % 2**16


def checks(to_bf16_bits):
    dice = random.Random(0)
    chosen = [0x3F800000, 0x3F808000, 0x3F818000, 0x3F80FFFF, 0x3F8080FF, 0x3F807FFF, 0x3FFFFFFF, 0xBF818000, 0]
    chosen += [0x7F7FFFFF, 0x00008001, 0x80000000, 0xC2F78001]
    drawn = [struct.unpack("<I", struct.pack("<f", dice.uniform(-1e3, 1e3)))[0] for _ in range(1000)]
    for bits in [*chosen, *drawn]:
        got, right = to_bf16_bits(bits), right_bits(bits)
        where = f"for 0x{bits:08X}"
        whole = isinstance(got, int) and not isinstance(got, bool)
        expect(whole, f"{where} expected a whole number, got {got!r}")
        if got == bits >> 16 != right:
            mistake(f"{where} you cut the bits off; the nearest is one higher")
        if bits & 0xFFFF == 0x8000 and got == (bits >> 16) + 1 != right:
            mistake(f"{where} both are equally near; the one whose last bit is 0 is the lower one here")
        if bits & 0xFFFF == 0x8000 and got == bits >> 16 != right:
            mistake(f"{where} both are equally near; the one whose last bit is 0 is the upper one here")
        expect(got == right, f"{where} it is 0x{right:04X}; yours 0x{got:04X}")


def wrong_cut_off(bits):
    return bits >> 16


def wrong_half_up(bits):
    return (bits + 0x8000) >> 16


def wrong_half_down(bits):
    return (bits + 0x7FFF) >> 16


def wrong_no_carry(bits):
    kept, rest = bits >> 16, bits & 0xFFFF
    up = rest > 0x8000 or (rest == 0x8000 and kept & 1)
    return (kept & ~0x7F) | ((kept + up) & 0x7F)


planted = {
    wrong_cut_off: "cut the bits off",
    wrong_half_up: "equally near",
    wrong_half_down: "cut the bits off",
    wrong_no_carry: "it is 0x4000",
}

# %% exercise 32-b {"title": "Rounding by dice", "answer": "def round_by_dice(x: Tensor, generator: torch.Generator) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "`x.view(torch.int32)` are the bits. The last 16 say how far it is to the next bf16, in 65536ths.",
    "Add a random whole number from 0 to 65535 to the bits, then cut the last 16 off: `& ~0xFFFF`.",
    "What is left, viewed as float32 again, is exactly a bf16.",
]


def checks(round_by_dice):
    dice = lambda seed=0: torch.Generator().manual_seed(seed)
    exact = torch.tensor([1.0, -2.5, 0.0, 96.0])
    got = round_by_dice(exact.clone(), dice())
    expect(getattr(got, "dtype", None) == torch.bfloat16, "the result should be bf16")
    same = got.shape == exact.shape and torch.equal(got.float(), exact)
    expect(same, "what bf16 holds exactly should stay as it is")
    for value in (1.001, -1.001, 0.1, -300.3):
        x = torch.full((200, 200), value)
        got = round_by_dice(x.clone(), dice()).float()
        near = x[0, 0].to(torch.bfloat16).float().item()
        up = 2.0 ** torch.tensor(abs(value)).log2().floor().item() / 128  # a step of bf16 here
        if (got == near).all():
            mistake(f"{value} always becomes {near}, the nearest; sometimes the other neighbour is due")
        within = ((got - value).abs() < up).all() and got.unique().numel() <= 2
        expect(within, f"{value} should become one of its two neighbours; yours are {got.unique().tolist()[:4]}")
        off = (got.mean().item() - value) / up
        if abs(off) > 0.02 and abs((got == near).float().mean().item() - 0.5) < 0.02:
            mistake(f"{value} goes up and down equally often; the chance should be its share of the way")
        expect(abs(off) < 0.02, f"the mean of many {value} is {got.mean().item():.5f}: not right on average")
    a, b = (round_by_dice(torch.full((999,), 1.001), dice(3)) for _ in range(2))
    expect(torch.equal(a, b), "the same generator should give the same numbers: draw from it, not elsewhere")
    weight = torch.ones(64, dtype=torch.bfloat16)
    generator = dice(1)
    for _ in range(1000):
        weight = round_by_dice(weight.float() + 0.001, generator)
    mean = weight.float().mean().item()
    expect(1.95 < mean < 2.05, f"after a thousand steps of 0.001 weights of 1 are {mean:.3f} on average, not 2")


def wrong_nearest(x, generator):
    return x.to(torch.bfloat16)


def wrong_coin(x, generator):
    down = (x.view(torch.int32) & ~0xFFFF).view(torch.float32)
    up = ((x.view(torch.int32) + 0xFFFF) & ~0xFFFF).view(torch.float32)
    return torch.where(torch.rand(x.shape, generator=generator) < 0.5, down, up).to(torch.bfloat16)


def wrong_own_dice(x, generator):
    dice = torch.randint(2**16, x.shape, dtype=torch.int32)
    return ((x.view(torch.int32) + dice) & ~0xFFFF).view(torch.float32).to(torch.bfloat16)


def wrong_noise(x, generator):
    noise = (torch.rand(x.shape, generator=generator) - 0.5) / 128
    return (x + noise).to(torch.bfloat16)


def wrong_too_little(x, generator):
    dice = torch.randint(2**15, x.shape, generator=generator, dtype=torch.int32)
    return ((x.view(torch.int32) + dice) & ~0xFFFF).view(torch.float32).to(torch.bfloat16)


planted = {
    wrong_nearest: "always becomes",
    wrong_coin: "equally often",
    wrong_own_dice: "the same generator",
    wrong_noise: "should",
    wrong_too_little: "always becomes",
}

# %% exercise 32-c {"title": "Mend it", "answer": "def train_step(weight: Tensor, gradient: Tensor, master: Tensor, rate: float) -> None: ...", "returns": false}
import torch

from minillm.exercises import expect, mistake

may_change_input = True
hints = [
    "After `weight.copy_(master)` the weight has 8 bits of the master's 24. What does the next step do first?",
    "The master is never read back from the weight: leave that line out.",
    "`rate * gradient` is bf16 as long as the gradient is: `gradient.float()` first.",
]


def checks(train_step):
    for rate, scale in ((0.1, 1.0), (0.001, 1.0), (0.003, 0.37)):
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(50, generator=generator)
        master, weight, right = start.clone(), start.to(torch.bfloat16), start.clone()
        back = start
        for _ in range(100):
            gradient = (scale * (torch.rand(50, generator=generator) + 0.5)).to(torch.bfloat16)
            train_step(weight, gradient.clone(), master, rate)
            right -= rate * gradient.float()
            back = back.to(torch.bfloat16).float() - rate * gradient.float()
        where = f"after 100 steps at a rate of {rate}"
        kept = weight.dtype == torch.bfloat16 and master.dtype == torch.float32
        expect(kept, "the types should stay: bf16 and float32")
        if torch.equal(master, start):
            mistake(f"{where} the master has not moved; change it in place: master -= …")
        if torch.equal(weight, start.to(torch.bfloat16)):
            mistake(f"{where} the weight has not moved; round the master into it: weight.copy_(master)")
        if torch.equal(master, back) or torch.equal(master, weight.float()):
            mistake(f"{where} the master remembers no more than the weight: it is still read back from it")
        close = (master - right).abs().max().item()
        if close > 0 and close < 0.01 * (right - start).abs().max().item():
            mistake(f"{where} the master is off by {close:.1e}: was the gradient multiplied in bf16?")
        expect(close == 0, f"{where} the master is off by {close:.1e} from float32")
        expect(torch.equal(weight, right.to(torch.bfloat16)), f"{where} the weight is not the master, rounded")


def wrong_read_back(weight, gradient, master, rate):
    master.copy_(weight).sub_(rate * gradient.float())
    weight.copy_(master)


def wrong_order(weight, gradient, master, rate):
    weight.copy_(master)
    master -= rate * gradient.float()


def wrong_short_product(weight, gradient, master, rate):
    master -= rate * gradient
    weight.copy_(master)


def wrong_not_published(weight, gradient, master, rate):
    master -= rate * gradient.float()


def wrong_new_master(weight, gradient, master, rate):
    master = master - rate * gradient.float()
    weight.copy_(master)


planted = {
    wrong_read_back: "read back",
    wrong_order: "not the master, rounded",
    wrong_short_product: "multiplied in bf16",
    wrong_not_published: "the weight has not moved",
    wrong_new_master: "master has not moved",
}
