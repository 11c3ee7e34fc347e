# Generated from nbs/24_gqa.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import torch
import torch.nn.functional as F
from collections.abc import Callable
from dataclasses import dataclass
from torch import Tensor, nn
from typing import TypeAlias
from minillm.attention import Attend, Cache, LayerCache, TileRule, _autocast, _check_qkv, _check_tiles, _no_autocast, _scale, mask_rule, merge_heads, split_heads
from minillm.gqa import CausalRule, GroupedQueryAttention, HeadProjections, PositionBias, fused_attention, kv_cache_bytes, pool_heads, repeat_heads, takes_groups

# %% exercise 24-a {"title": "A mixed suitcase", "answer": "def mixed_cache_bytes(n_full: int, n_windowed: int, window: int, n_kv_heads: int, head_width: int, length: int) -> int: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "A layer keeps a key and a value for each token and each of the K heads: 2·K·H numbers.",
    "A layer with a window keeps min(length, window) tokens. Add the tokens of all layers up first.",
]


def checks(mixed_cache_bytes):
    sizes = (1, 2, 5, 2, 3, 7), (2, 3, 4, 3, 5, 11), (5, 25, 1024, 8, 128, 100)
    for n_full, n_windowed, window, K, H, length in sizes:
        got = mixed_cache_bytes(n_full, n_windowed, window, K, H, length)
        kept = n_full * length + n_windowed * min(length, window)
        where = f"for {n_full} full layers, {n_windowed} with a window of {window}, K={K}, H={H}, {length} tokens"
        if got == 2 * kept * K * H:
            mistake(f"{where} you have half: a key and a value, and each number has 2 bytes")
        if got == 4 * (n_full + n_windowed) * length * K * H and n_windowed and length > window:
            mistake(f"{where} the layers with a window keep everything in yours; they keep {window} tokens")
        if got == 4 * (n_full * length + n_windowed * window) * K * H and length < window:
            mistake(f"{where} the text is shorter than the window, and a layer cannot keep more than there is")
        expect(got == 4 * kept * K * H, f"{where} it is {4 * kept * K * H} bytes; yours {got}")


def wrong_keys_only(n_full, n_windowed, window, n_kv_heads, head_width, length):
    return 2 * (n_full * length + n_windowed * min(length, window)) * n_kv_heads * head_width


def wrong_no_window(n_full, n_windowed, window, n_kv_heads, head_width, length):
    return 4 * (n_full + n_windowed) * length * n_kv_heads * head_width


def wrong_always_window(n_full, n_windowed, window, n_kv_heads, head_width, length):
    return 4 * (n_full * length + n_windowed * window) * n_kv_heads * head_width


def wrong_all_windowed(n_full, n_windowed, window, n_kv_heads, head_width, length):
    return 4 * (n_full + n_windowed) * min(length, window) * n_kv_heads * head_width


planted = {
    wrong_keys_only: "you have half",
    wrong_no_window: "keep everything",
    wrong_always_window: "shorter than the window",
    wrong_all_windowed: "bytes; yours",
}

# %% exercise 24-b {"title": "Without copying", "answer": "def grouped_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...", "returns": true}
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minillm.exercises import expect, mistake

hints = [
    "Query heads 0 to G−1 ask key head 0, the next G ask key head 1: q.reshape(B, K, G, T, H) puts them in order.",
    "G questions of T tokens are G·T rows of one product: q.reshape(B, K, G * T, H) @ k.mT is (B,K,G·T,S).",
    "Softmax over the last axis, times v, and reshape back to (B,N,T,H).",
]


class Weighed(TorchDispatchMode):
    "Adds up the elements of all storages that are new, and notes whether torch's attention was called."

    def __init__(self, *given):
        super().__init__()
        self.made, self.kernel, self.kept = 0, False, [*given]
        self.known = {x.untyped_storage().data_ptr() for x in given}

    def weigh(self, tree):
        for x in tree_leaves(tree):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.known:
                self.made += x.untyped_storage().nbytes() // x.element_size()
                self.known.add(x.untyped_storage().data_ptr())
                self.kept.append(x)  # lives on, so that no later storage gets its address

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.kernel |= "scaled_dot_product" in str(operation)
        self.weigh((args, kwargs))  # what came from elsewhere, such as numpy
        out = operation(*args, **(kwargs or {}))
        self.weigh(out)
        return out


def right_answer(q, k, v, order="interleave", scale=True):
    G = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(G, 1) if order == "interleave" else x.repeat(1, G, 1, 1) for x in (k, v))
    return torch.softmax(q @ k.mT * (q.shape[-1] ** -0.5 if scale else 1.0), -1) @ v


def checks(grouped_attention):
    for sizes in ((1, 6, 2, 1, 50, 64), (2, 4, 1, 3, 40, 128), (2, 6, 3, 2, 60, 96)):
        check_size(grouped_attention, *sizes)


def check_size(grouped_attention, B, N, K, T, S, H):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, n, heads, H, generator=generator) for n, heads in ((T, N), (S, K), (S, K)))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B,T,N,H) → (B,N,T,H), as `split_heads` does
    given = q.clone(), k.contiguous(), v.contiguous()  # a cache keeps its keys in order
    with Weighed(*given) as meter:
        got = grouped_attention(*given)
    where = f"for B={B}, N={N}, K={K}, T={T}, S={S}, H={H}"
    expect(getattr(got, "shape", None) == q.shape, f"{where} the result should be (B,N,T,H) = {tuple(q.shape)}")
    same = lambda **bug: torch.allclose(got, right_answer(q, k, v, **bug), atol=1e-5)
    if K > 1 and same(order="repeat"):
        mistake(f"{where} query head n asks key head n % K; neighbours share: it is n // G with G = N/K")
    if same(scale=False):
        mistake(f"{where} the scale 1/√H is missing")
    expect(same(), f"{where} the numbers differ from attention with repeated keys")
    if meter.kernel:
        mistake(f"{where} torch's attention was called; write it with products and softmax")
    if meter.made >= B * N * S * H:
        mistake(f"{where} new tensors have {meter.made} numbers, as many as the repeated keys: copy nothing")


def wrong_copies(q, k, v):
    G = q.shape[1] // k.shape[1]
    return torch.softmax(q @ k.repeat_interleave(G, 1).mT / q.shape[-1] ** 0.5, -1) @ v.repeat_interleave(G, 1)


def wrong_expand(q, k, v):
    B, N, T, H = q.shape
    K = k.shape[1]
    k, v = (x[:, :, None].expand(-1, -1, N // K, -1, -1) for x in (k, v))
    return (torch.softmax(q.reshape(B, K, N // K, T, H) @ k.mT / H**0.5, -1) @ v).reshape(B, N, T, H)


def wrong_piece_by_piece(q, k, v):
    G = q.shape[1] // k.shape[1]
    k, v = ([x[:, n // G].clone() for n in range(q.shape[1])] for x in (k, v))
    weights = [torch.softmax(q[:, n] @ k[n].mT / q.shape[-1] ** 0.5, -1) for n in range(q.shape[1])]
    return torch.stack([weights[n] @ v[n] for n in range(q.shape[1])], 1)


def wrong_through_numpy(q, k, v):
    G = q.shape[1] // k.shape[1]
    k, v = (torch.from_numpy(x.numpy().repeat(G, 1)) for x in (k, v))
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


def wrong_ready_made(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def wrong_order(q, k, v):
    B, N, T, H = q.shape
    K = k.shape[1]
    rows = q.reshape(B, N // K, K, T, H)
    weights = torch.softmax(torch.einsum("bgkth,bksh->bgkts", rows, k) / H**0.5, -1)
    return torch.einsum("bgkts,bksh->bgkth", weights, v).reshape(B, N, T, H)


def wrong_no_scale(q, k, v):
    B, N, T, H = q.shape
    rows = q.reshape(B, k.shape[1], -1, H)
    return (torch.softmax(rows @ k.mT, -1) @ v).reshape(B, N, T, H)


planted = {
    wrong_copies: "as many as the repeated keys",
    wrong_expand: "as many as the repeated keys",
    wrong_piece_by_piece: "as many as the repeated keys",
    wrong_through_numpy: "as many as the repeated keys",
    wrong_ready_made: "torch's attention was called",
    wrong_order: "n // G",
    wrong_no_scale: "scale",
}

# %% exercise 24-c {"title": "How far back", "answer": "def reach(position: int, windows: list[int | None]) -> int: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "A layer with a window w sees itself and w − 1 before it. What has the earliest of these seen, a layer down?",
    "Each layer adds w − 1; the token itself counts once. No text begins before position 0.",
    "One layer that sees everything is enough to reach the start.",
]


def by_steps(position, windows):
    seen = {position}
    for window in windows:
        low = lambda t, window=window: 0 if window is None else max(0, t - window + 1)
        seen = {s for t in seen for s in range(low(t), t + 1)}
    return len(seen)


def checks(reach):
    cases = (50, [3, 3, 3, 3]), (50, [1, 1]), (50, [2, 5, 9]), (6, [4, 4, 4]), (40, [3, None, 2]), (9, [])
    for position, windows in cases:
        got, right = reach(position, list(windows)), by_steps(position, windows)
        where = f"for position {position} and windows {windows}"
        if windows and None not in windows and got == sum(windows) != right:
            mistake(f"{where} you counted each layer's own token again: a layer adds window − 1")
        if None not in windows and got == sum(w - 1 for w in windows) and got != right:
            mistake(f"{where} the token itself is missing")
        if got == max((w for w in windows if w), default=1) and got != right:
            mistake(f"{where} you took the widest layer alone; what it sees has itself seen more, a layer down")
        if None not in windows and got > position + 1:
            mistake(f"{where} there are only {position + 1} tokens up to that position")
        expect(got == right, f"{where} it is {right}; yours {got}")


def wrong_sum(position, windows):
    return position + 1 if None in windows else min(position + 1, sum(windows))


def wrong_without_itself(position, windows):
    return position + 1 if None in windows else min(position + 1, sum(w - 1 for w in windows))


def wrong_past_the_start(position, windows):
    return position + 1 if None in windows else 1 + sum(w - 1 for w in windows)


def wrong_widest(position, windows):
    return max((w for w in windows if w), default=1)


def wrong_ignores_full(position, windows):
    return min(position + 1, 1 + sum(w - 1 for w in windows if w))


planted = {
    wrong_sum: "own token again",
    wrong_without_itself: "itself is missing",
    wrong_past_the_start: "only 7 tokens",
    wrong_widest: "widest layer alone",
    wrong_ignores_full: "it is 41",
}

# %% exercise 24-d {"title": "Mend it", "answer": "def serve(x: Tensor, times: int) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake

hints = [
    "`repeat` lays the whole list of heads down again: 0 1 0 1. Neighbouring query heads must share: 0 0 1 1.",
    "torch has a function for each element several times in a row: `repeat_interleave(times, dim=…)`.",
]


def checks(serve):
    for K, times in ((2, 3), (3, 2), (1, 4), (4, 1)):
        x = torch.arange(float(K)).view(1, K, 1, 1).expand(2, K, 5, 3).clone()
        got = serve(x.clone(), times)
        where = f"for K={K} and times={times}"
        shape = (2, K * times, 5, 3)
        expect(getattr(got, "shape", None) == shape, f"{where} the shape should be (B,K·times,S,H) = {shape}")
        served, wanted = got[0, :, 0, 0].tolist(), [n // times for n in range(K * times)]
        if K > 1 and times > 1 and served == [n % K for n in range(K * times)]:
            mistake(f"{where} query heads get {[int(m) for m in served]}: neighbours should share, {wanted}")
        expect(served == wanted, f"{where} query heads get {served}; they should get {wanted}")
    y = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    right = torch.stack([y[:, n // 2] for n in range(6)], 1)
    expect(torch.equal(serve(y.clone(), 2), right), "the numbers inside a head should stay where they are")


def wrong_repeat(x, times):
    return x.repeat(1, times, 1, 1)


def wrong_backwards(x, times):
    return x.flip(1).repeat_interleave(times, dim=1)


def wrong_mixed_up(x, times):
    B, K, S, H = x.shape
    return x.repeat_interleave(times, dim=2).reshape(B, K * times, S, H)


def wrong_first_head_reversed(x, times):
    x = x.repeat_interleave(times, dim=1)
    return torch.cat([x[:, :1].flip(2), x[:, 1:]], 1)


planted = {
    wrong_first_head_reversed: "stay where they are",
    wrong_repeat: "neighbours should share",
    wrong_backwards: "they should get",
    wrong_mixed_up: "stay where they are",
}
