# Generated from nbs/26_model.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import difflib
import json
import math
import torch
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from numbers import Real
from pathlib import Path
from torch import Generator, Tensor, nn
from types import MappingProxyType, NoneType, SimpleNamespace
from typing import Any, get_args
from minillm.attention import Attend, Cache
from minillm.block import MLP, Block, LayerNorm, RMSNorm, SwiGLU, activation, gated_hidden
from minillm.embedding import Embedding, LearnedPositions, RelativeBias, SinusoidalPositions
from minillm.gqa import GroupedQueryAttention, _check_place, fused_attention
from minillm.rope import ALiBi, Llama3Scaling, LinearScaling, NTKScaling, RoPE, YaRNScaling, rope_frequencies
from minillm.tokenizer import write_whole
from minillm.model import LanguageModel, ModelConfig, PRESETS, activation_bytes, draw_model, flops_by_part, init_weights, parameters_by_part, saved_bytes, training_bytes

# %% exercise 26-a {"title": "Count Llama", "answer": "def count_parameters(V: int, D: int, L: int, N: int, K: int, F: int) -> int: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Five places: embedding, attention, feed-forward, norms, head.",
    "Queries and output are (D,D) each; keys and values go to K heads of width D/N only.",
    "A gated feed-forward has three matrices; each block has two norms, and one stands before the head.",
]


def count(V, D, L, N, K, F, matrices=3, heads=2, final=1, norms=2, ends=2):
    H = D // N
    attention = 2 * D * D + 2 * D * (K if heads == 2 else N) * H
    return ends * V * D + L * (attention + matrices * D * F + norms * D) + final * D


def checks(count_parameters):
    for sizes in ((100, 12, 3, 6, 2, 40), (50, 16, 2, 4, 1, 24), (32_000, 4_096, 32, 32, 32, 11_008)):
        check_sizes(count_parameters(*sizes), sizes)


def check_sizes(got, sizes):
    where = "for V={}, D={}, L={}, N={}, K={}, F={}".format(*sizes)
    slips = {
        "the feed-forward is gated: gate, up and down are three matrices": {"matrices": 2},
        "the final norm before the head is missing": {"final": 0},
        "the norms of the blocks are missing: two each": {"norms": 0},
        "each block has two norms, you counted one": {"norms": 1},
        "the head has a matrix of its own here": {"ends": 1},
    }
    if sizes[3] != sizes[4]:
        slips["keys and values have K heads, not N"] = {"heads": 1}
    for says, slip in slips.items():
        if got == count(*sizes, **slip):
            mistake(f"{where}: {says}")
    expect(got == count(*sizes), f"{where} there are {count(*sizes):,} parameters, yours are {got:,}")


def wrong_two_matrices(V, D, L, N, K, F):
    return 2 * V * D + L * (2 * D * D + 2 * D * K * (D // N) + 2 * D * F + 2 * D) + D


def wrong_all_heads(V, D, L, N, K, F):
    return 2 * V * D + L * (4 * D * D + 3 * D * F + 2 * D) + D


def wrong_no_final_norm(V, D, L, N, K, F):
    return 2 * V * D + L * (2 * D * D + 2 * D * K * (D // N) + 3 * D * F + 2 * D)


def wrong_tied(V, D, L, N, K, F):
    return V * D + L * (2 * D * D + 2 * D * K * (D // N) + 3 * D * F + 2 * D) + D


def wrong_biases(V, D, L, N, K, F):
    return 2 * V * D + L * (2 * D * D + 2 * D * K * (D // N) + 3 * D * F + 6 * D) + D


planted = {
    wrong_two_matrices: "three matrices",
    wrong_all_heads: "K heads, not N",
    wrong_no_final_norm: "final norm",
    wrong_tied: "matrix of its own",
    wrong_biases: "there are",
}

# %% exercise 26-b {"title": "Where scores take over", "answer": "def crossover(D: int, N: int, K: int, H: int, F: int) -> float: ...", "returns": true}
from math import isclose

from minillm.exercises import expect, mistake

hints = [
    "A token costs 2 operations for each parameter in a matrix, and each query meets T keys, then T values.",
    "Matrices: 2·(D·H·(2N + 2K) + 3·D·F) a token. Scores: 2·2·T·N·H a token. Set them equal.",
]
well_done = "6·D for the usual shape: 768-wide models are ruled by scores from about 4,600 tokens on."


def checks(crossover):
    usual = ((768, 12, 12, 64, 2048), (64, 4, 1, 16, 100), (4096, 32, 8, 128, 14336))
    for sizes in (*usual, (14, 6, 1, 4, 40), (10, 5, 5, 6, 31)):
        check_block(crossover(*sizes), *sizes)


def check_block(got, D, N, K, H, F):
    right = (D * H * (2 * N + 2 * K) + 3 * D * F) / (2 * N * H)
    where = f"for D={D}, N={N}, K={K}, H={H}, F={F}"
    if N * H != D and isclose(got, right * N * H / D):
        mistake(f"{where}: scores cost 2·2·T·N·H, not 2·2·T·D; all heads together need not be D wide")
    if right != round(right) and got == round(right):
        mistake(f"{where}: the number is not to be rounded")
    if isclose(got, 2 * right):
        mistake(
            f"{where}: twice too long; the weights meet T values too, so there are two products of T·H a head"
        )
    if isclose(got, right / 2):
        mistake(f"{where}: half as long as it should be; a matrix costs 2 operations for each of its numbers")
    if isclose(got, (D * H * (2 * N + 2 * K) + 2 * D * F) / (2 * N * H)):
        mistake(f"{where}: a gated feed-forward has three matrices")
    if isclose(got, (D * H * (2 * N + 2 * K) + 3 * D * F) / (2 * K * H)) and K != N:
        mistake(f"{where}: each of the N query heads has scores; sharing keys does not save operations")
    if isclose(got, (4 * D * H * N + 3 * D * F) / (2 * N * H)) and K != N:
        mistake(f"{where}: the matrices of keys and values have K heads")
    expect(isclose(got, right), f"{where} they are equal at T = {right:.1f}; yours is {got:.1f}")


def wrong_one_product(D, N, K, H, F):
    return 2 * (D * H * (2 * N + 2 * K) + 3 * D * F) / (2 * N * H)


def wrong_products_only(D, N, K, H, F):
    return (D * H * (2 * N + 2 * K) + 3 * D * F) / (4 * N * H)


def wrong_no_gate(D, N, K, H, F):
    return (D * H * (2 * N + 2 * K) + 2 * D * F) / (2 * N * H)


def wrong_shared_scores(D, N, K, H, F):
    return (D * H * (2 * N + 2 * K) + 3 * D * F) / (2 * K * H)


def wrong_width(D, N, K, H, F):
    return (D * H * (2 * N + 2 * K) + 3 * D * F) / (2 * D)


def wrong_rounded(D, N, K, H, F):
    return round((D * H * (2 * N + 2 * K) + 3 * D * F) / (2 * N * H))


planted = {
    wrong_width: "not 2·2·T·D",
    wrong_rounded: "not to be rounded",
    wrong_one_product: "two products",
    wrong_products_only: "2 operations",
    wrong_no_gate: "three matrices",
    wrong_shared_scores: "sharing keys",
}

# %% exercise 26-c {"title": "Twice as deep", "answer": "def deepen(model: LanguageModel) -> LanguageModel: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake
from minillm.model import LanguageModel, ModelConfig

hints = [
    "`model.config.change(n_layers=…)` gives the new record; `load_state_dict` copies a part at a time.",
    "x + f(x) leaves x alone when f(x) is 0. What is the last matrix of each part?",
    "Zero `o_proj` and `down_proj` of the fresh blocks, and nothing else: two zeros in a row stop the gradient.",
]


def trained(config, seed):
    generator = torch.Generator().manual_seed(seed)
    model = LanguageModel(config)
    for weight in model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model


def checks(deepen):
    plain = ModelConfig(vocab_size=11, width=8, n_layers=2, n_heads=2)
    gpt2 = ModelConfig.gpt2(vocab_size=11, width=8, n_layers=3, n_heads=2, context=6)
    for config in (plain, gpt2, plain.change(tie_embeddings=False)):
        check_model(deepen, trained(config, config.n_layers))


def check_model(deepen, model):
    L, ids = model.config.n_layers, torch.tensor([[1, 5, 2, 9]])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    right = model(ids)
    deep = deepen(model)
    expect(len(getattr(deep, "layers", ())) == 2 * L, f"expected a LanguageModel of {2 * L} blocks")
    unchanged = all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    expect(unchanged, "the old model changed; give back a new one")
    if deep.config.n_layers != 2 * L:
        mistake("the record still says the old number of blocks: model.config.change(n_layers=…)")
    copied = all(
        torch.equal(a, b)
        for i in range(L)
        for a, b in zip(model.layers[i].state_dict().values(), deep.layers[2 * i].state_dict().values())
    )
    ahead = all(
        torch.equal(a, b) for a, b in zip(model.layers[-1].parameters(), deep.layers[L - 1].parameters())
    )
    if not copied and ahead and L > 1:
        mistake("the old blocks came first and the fresh ones on top; block 2i should be old block i")
    expect(copied, "block 2i of the deep model should hold the weights of old block i")
    check_learning(deep, ids, right, {p.data_ptr() for p in model.parameters()})


def check_learning(deep, ids, right, old):
    if old & {p.data_ptr() for p in deep.parameters()}:
        mistake("old and new model share weights; training one would change the other: copy them")
    if deep.config.tie_embeddings != (deep.lm_head.weight is deep.embed_tokens.weight):
        mistake(
            "the head is tied to the embedding where the record says that it is not, or the other way round"
        )
    logits = deep(ids)
    if not torch.allclose(logits, right, atol=1e-5):
        doubled = torch.equal(deep.layers[0].mlp.down_proj.weight, deep.layers[1].mlp.down_proj.weight)
        if doubled:
            mistake("the fresh blocks are copies too, so everything is added twice; they should add nothing")
        mistake(
            "other logits than the old model's: a fresh block still adds something, or a part was not copied"
        )
    logits.square().sum().backward()
    for i, layer in enumerate(deep.layers):
        for name in ("self_attn", "mlp") if i % 2 else ():
            weights = [
                p for p in layer.get_submodule(name).parameters() if p.ndim == 2
            ]  # a bias is not enough
            if not any(p.grad is not None and p.grad.any() for p in weights):
                mistake(f"fresh block {i} cannot learn: no matrix of its {name} gets a gradient")


def build(model, order, zero=("self_attn.o_proj", "mlp.down_proj")):
    deep = LanguageModel(model.config.change(n_layers=2 * model.config.n_layers))
    rest = {name: weight for name, weight in model.state_dict().items() if not name.startswith("layers.")}
    deep.load_state_dict(rest, strict=False)
    for i, layer in enumerate(model.layers):
        old, fresh = order(i)
        deep.layers[old].load_state_dict(layer.state_dict())
        for name in zero:
            for weight in deep.layers[fresh].get_submodule(name).parameters():
                weight.data.zero_()
    return deep


def wrong_on_top(model):
    return build(model, lambda i: (i, i + model.config.n_layers))


def wrong_all_zero(model):
    return build(model, lambda i: (2 * i, 2 * i + 1), ("",))


def wrong_half(model):
    return build(model, lambda i: (2 * i, 2 * i + 1), ("self_attn.o_proj",))


def wrong_copies(model):
    deep = build(model, lambda i: (2 * i, 2 * i + 1), ())
    for i, layer in enumerate(model.layers):
        deep.layers[2 * i + 1].load_state_dict(layer.state_dict())
    return deep


def right_deep(model):
    return build(model, lambda i: (2 * i, 2 * i + 1))


def wrong_dead_from_the_second(model):
    deep = right_deep(model)
    for layer in deep.layers[3::2]:
        for weight in layer.parameters():
            weight.data.zero_()
    return deep


def wrong_no_head(model):
    deep = right_deep(model)
    if not model.config.tie_embeddings:
        deep.lm_head.reset_parameters()
    return deep


def wrong_untied(model):
    deep = right_deep(model)
    deep.lm_head.weight = torch.nn.Parameter(deep.lm_head.weight.detach().clone())
    return deep


planted = {
    wrong_dead_from_the_second: "fresh block 3 cannot learn",
    wrong_no_head: "a part was not copied",
    wrong_untied: "tied to the embedding",
    wrong_on_top: "came first",
    wrong_all_zero: "cannot learn",
    wrong_half: "still adds something",
    wrong_copies: "copies too",
}

# %% exercise 26-d {"title": "Four bugs", "answer": "def logits_of(model: LanguageModel, ids: Tensor, positions: Tensor | None=None, documents: Tensor | None=None) -> Tensor: ...", "returns": true}
import torch

from minillm.exercises import expect, mistake
from minillm.model import LanguageModel, ModelConfig

hints = [
    "Read `LanguageModel.hidden` and `forward` beside it, line by line.",
    "What stands between the last block and the head? Whose matrix is the head's?",
    "Which of `positions` and `documents` reaches which line?",
]


def some_model(form, **changes):
    generator = torch.Generator().manual_seed(5)
    model = LanguageModel(form(vocab_size=13, width=8, n_layers=2, n_heads=2, context=9, **changes)).eval()
    for weight in model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
    return model


IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
PACKED = {"positions": torch.tensor([0, 1, 2, 3, 0, 1, 2]), "documents": torch.tensor([0, 0, 0, 0, 1, 1, 1])}


def checks(logits_of):
    llama, gpt2 = ModelConfig, ModelConfig.gpt2
    cases = (
        (some_model(llama), {}, "the final norm before the head is missing"),
        (
            some_model(llama, tie_embeddings=False),
            {},
            "this model's head has a matrix of its own: use model.lm_head",
        ),
        (
            some_model(gpt2),
            {},
            "GPT-2's form, one text a row: its learned positions are added to the embeddings",
        ),
        (some_model(llama), PACKED, "documents do not reach the layers, so the second text sees the first"),
        (some_model(gpt2), PACKED, "learned positions run on: the second document must start again at 0"),
        (
            some_model(llama),
            {"positions": torch.tensor([2, 3, 4, 5, 6, 7, -1])},
            "positions do not reach the layers",
        ),
    )
    for model, where, says in cases:
        got, right = logits_of(model, IDS.clone(), **where), model(IDS, **where)
        expect(getattr(got, "shape", None) == right.shape, f"expected logits (B,T,V) = {tuple(right.shape)}")
        if not torch.allclose(got, right, atol=1e-5):
            mistake(says)


def forward(model, ids, positions, documents, norm=True, head=True, places=True, texts=True):
    x = model.embed_tokens(ids)
    if model.embed_positions is not None:
        x = x + model.embed_positions(
            positions if places and positions is not None else torch.arange(ids.shape[1])
        )
    for layer in model.layers:
        x = layer(x, positions=positions, documents=documents if texts else None)
    x = model.norm(x) if norm else x
    return model.lm_head(x) if head else x @ model.embed_tokens.weight.T


def wrong_as_found(model, ids, positions=None, documents=None):
    return forward(model, ids, positions, documents, norm=False, head=False, places=False, texts=False)


def wrong_no_norm(model, ids, positions=None, documents=None):
    return forward(model, ids, positions, documents, norm=False)


def wrong_head(model, ids, positions=None, documents=None):
    return forward(model, ids, positions, documents, head=False)


def wrong_places(model, ids, positions=None, documents=None):
    return forward(model, ids, positions, documents, places=False)


def wrong_texts(model, ids, positions=None, documents=None):
    return forward(model, ids, positions, documents, texts=False)


planted = {
    wrong_as_found: "final norm",
    wrong_no_norm: "final norm",
    wrong_head: "matrix of its own",
    wrong_places: "start again at 0",
    wrong_texts: "sees the first",
}
