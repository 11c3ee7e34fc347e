"""Acceptance: logits and gradients equal to transformers' Llama, Qwen3, Mistral, Gemma and GPT-2 with the same random weights, over random configurations.

The weights are mapped here, by name. Every weight of either side must be used.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from chapters import Run, load_chapters
from torch import Tensor, nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from minillm.model import LanguageModel, ModelConfig
from minillm.rope import LinearScaling, Llama3Scaling, YaRNScaling

CASES = 12


def random_llama(rng: random.Random) -> ModelConfig:
    "Grouped heads, biases, tied or not, with another base of RoPE."
    K, G, H = rng.choice([1, 2, 3]), rng.choice([1, 2, 3]), rng.choice([2, 4, 6, 8])
    return ModelConfig(
        vocab_size=rng.randint(5, 60), width=K * G * H, n_layers=rng.randint(1, 3), n_heads=K * G, n_kv_heads=K, hidden=rng.randint(3, 40),
        context=64, rope_base=rng.choice([100.0, 10_000.0, 500_000.0]), norm_eps=rng.choice([1e-6, 1e-5, 1e-2]),
        activation=rng.choice(["silu", "relu", "gelu", "gelu_tanh"]), tie_embeddings=rng.random() < 0.5,
    )  # fmt: skip


HF_ACTIVATIONS = {"silu": "silu", "relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def llama_fields(c: ModelConfig) -> dict[str, Any]:
    "The fields that all of Llama's kin share, by their names there."
    return {
        "vocab_size": c.vocab_size, "hidden_size": c.width, "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads, "head_dim": c.head_width, "intermediate_size": c.hidden, "max_position_embeddings": c.context,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_base}, "rms_norm_eps": c.norm_eps,
        "hidden_act": HF_ACTIVATIONS[c.activation], "tie_word_embeddings": c.tie_embeddings,
    }  # fmt: skip


def llama(rng: random.Random) -> tuple[ModelConfig, nn.Module]:
    c = random_llama(rng)
    both, mlp = rng.random() < 0.5, rng.random() < 0.5
    c = c.change(bias=both, out_bias=both, mlp_bias=mlp)
    return c, LlamaForCausalLM(LlamaConfig(**llama_fields(c), attention_bias=both, mlp_bias=mlp))


def qwen3(rng: random.Random) -> tuple[ModelConfig, nn.Module]:
    "QK-norm, and heads whose widths do not add up to the model's."
    c = random_llama(rng)
    c = c.change(qk_norm=True, width=rng.choice([10, 14, 22]), head_width=c.head_width)
    return c, Qwen3ForCausalLM(Qwen3Config(**llama_fields(c)))


def mistral(rng: random.Random) -> tuple[ModelConfig, nn.Module]:
    "A window shorter than the texts."
    c = random_llama(rng).change(window=rng.randint(1, 6))
    return c, MistralForCausalLM(MistralConfig(**llama_fields(c), sliding_window=c.window))


def gemma(rng: random.Random) -> tuple[ModelConfig, nn.Module]:
    "Embeddings times √D, one key/value head or more, and norms whose weight is stored less 1."
    c = random_llama(rng).change(scale_embeddings=True, activation="gelu_tanh", tie_embeddings=True)
    return c, GemmaForCausalLM(GemmaConfig(**llama_fields(c), pad_token_id=None))  # else id 0 gets no gradient as an input


def gpt2(rng: random.Random) -> tuple[ModelConfig, nn.Module]:
    N, H = rng.choice([1, 2, 3]), rng.choice([3, 4, 5])
    c = ModelConfig.gpt2(
        vocab_size=rng.randint(5, 60), width=N * H, n_layers=rng.randint(1, 3), n_heads=N, hidden=rng.choice([7, 4 * N * H]), context=16,
        norm_eps=rng.choice([1e-5, 1e-2]), activation=rng.choice(["relu", "gelu", "gelu_tanh"]),
    )  # fmt: skip
    names = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
    form = {"activation_function": names[c.activation], "layer_norm_epsilon": c.norm_eps, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return c, GPT2LMHeadModel(
        GPT2Config(vocab_size=c.vocab_size, n_embd=c.width, n_layer=c.n_layers, n_head=c.n_heads, n_inner=c.hidden, n_positions=c.context, **form)
    )


def from_llama(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    "Their name without `model.` is ours."
    yield name.removeprefix("model."), weight


GPT2_NAMES = {
    "transformer.": "", "h.": "layers.", "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "ln_f": "norm", "wte": "embed_tokens",
    "wpe": "embed_positions", "attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj",
}  # fmt: skip


def from_gpt2(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    "Their matrices are (in, out), ours (out, in); theirs hold queries, keys and values side by side."
    turned = weight.T if name.split(".")[-2].startswith("c_") and weight.ndim == 2 else weight
    for theirs, ours in GPT2_NAMES.items():
        name = name.replace(theirs, ours)
    if "attn.c_attn" in name:
        for part, piece in zip("qkv", turned.chunk(3)):
            yield name.replace("attn.c_attn", f"self_attn.{part}_proj"), piece
    else:
        yield name, turned


def copy_weights(theirs: nn.Module, ours: nn.Module, rename: Callable[[str, Tensor], Iterator[tuple[str, Tensor]]]) -> None:
    "All of theirs into ours; both sides must be used up."
    wanted, less = dict(ours.named_parameters()), isinstance(theirs, GemmaForCausalLM)
    for name, weight in theirs.named_parameters():
        for new, piece in rename(name, weight.detach()):
            wanted.pop(new).data.copy_(piece + (less and "norm" in new))
    assert not wanted, f"nothing came for {list(wanted)}"


def randomise(model: nn.Module, seed: int) -> None:
    "Every weight random, norms and biases too, so that none can be forgotten."
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2 + ("norm" in name or "ln_" in name))


FAMILIES = {"llama": (llama, from_llama), "qwen3": (qwen3, from_llama), "mistral": (mistral, from_llama), "gemma": (gemma, from_llama), "gpt2": (gpt2, from_gpt2)}


def pair(family: str, seed: int) -> tuple[ModelConfig, LanguageModel, nn.Module, Callable]:
    make, rename = FAMILIES[family]
    c, theirs = make(random.Random(f"{family} {seed}"))
    assert theirs.config._attn_implementation == "sdpa"
    randomise(theirs, seed)
    ours = LanguageModel(c)
    copy_weights(theirs, ours, rename)
    return c, ours, theirs, rename


def some_ids(c: ModelConfig, seed: int, B: int = 3, T: int = 11) -> Tensor:
    return torch.randint(c.vocab_size, (B, T), generator=torch.Generator().manual_seed(seed))


def compare_gradients(ours: nn.Module, theirs: nn.Module, rename: Callable) -> None:
    "Each of their gradients, renamed, against ours."
    mine = {name: weight.grad for name, weight in ours.named_parameters()}
    seen = set()
    for name, weight in theirs.named_parameters():
        for new, piece in rename(name, weight.grad):
            seen.add(new)
            torch.testing.assert_close(mine[new], piece, rtol=1e-4, atol=1e-5, msg=lambda text, new=new: f"{new}: {text}")
    assert seen == set(mine)


@pytest.mark.parametrize("seed", range(CASES))
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients(family: str, seed: int) -> None:
    c, ours, theirs, rename = pair(family, seed)
    ids, targets = some_ids(c, seed), some_ids(c, seed + 100)
    mine, right = ours(ids), theirs(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-5)
    assert right.std() > 0.1  # weights that do something
    for logits in (mine, right):
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    compare_gradients(ours, theirs, rename)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding(family: str) -> None:
    "Texts of different lengths, padded at the left as for generation: their attention mask, our positions of −1."
    c, ours, theirs, _ = pair(family, 50)
    ids = some_ids(c, 1, B=3, T=9)
    real = torch.arange(9)[None] >= torch.tensor([0, 2, 5])[:, None]  # (B,T)
    positions = (real.cumsum(-1) - 1).masked_fill(~real, -1)
    right = theirs(input_ids=ids, attention_mask=real.long(), position_ids=positions.clamp(min=0), use_cache=False).logits
    torch.testing.assert_close(ours(ids, positions=positions)[real], right[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_number_of_parameters(family: str) -> None:
    for seed in range(CASES):
        c, _, theirs, _ = pair(family, seed)
        assert c.n_parameters == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LinearScaling(4.0), {"rope_type": "linear", "factor": 4.0}),
        (YaRNScaling(4.0, 16), {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
        (
            Llama3Scaling(factor=8.0, context=32),
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
        ),
    ],
    ids=["linear", "yarn", "llama3"],
)
def test_scaled_rotations(ours: Any, theirs: dict[str, Any]) -> None:
    c = random_llama(random.Random(3)).change(rope_scaling=ours, head_width=16, rope_base=10_000.0)
    fields = llama_fields(c) | {"rope_parameters": {"rope_theta": c.rope_base, **theirs}}
    right = Qwen3ForCausalLM(Qwen3Config(**fields))
    mine = LanguageModel(c.change(qk_norm=True))
    randomise(right, 1)
    copy_weights(right, mine, from_llama)
    ids = some_ids(c, 0, T=60)
    torch.testing.assert_close(mine(ids), right(input_ids=ids, use_cache=False).logits, rtol=1e-5, atol=1e-5)


def test_greedy_continuation() -> None:
    "The same 12 tokens as their `generate`, by asking again for the whole text each time."
    c, ours, theirs, _ = pair("llama", 3)
    ids = some_ids(c, 2, B=2, T=4)
    right = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None)
    for _ in range(12):
        ids = torch.cat([ids, ours(ids)[:, -1:].argmax(-1)], -1)
    assert torch.equal(ids, right)


def test_a_wrong_model_is_noticed() -> None:
    "The comparison itself: another base, eps, activation or window must not pass."
    c, ours, theirs, rename = pair("mistral", 0)
    ids = some_ids(c, 0)
    right = theirs(input_ids=ids, use_cache=False).logits
    other = "gelu" if c.activation != "gelu" else "relu"
    for change in ({"rope_base": 50.0}, {"norm_eps": 0.1}, {"activation": other}, {"window": c.window + 1}):
        wrong = LanguageModel(c.change(**change))
        copy_weights(theirs, wrong, rename)
        assert not torch.allclose(wrong(ids), right, rtol=1e-5, atol=1e-5), change


def test_the_names_in_the_chapters_table_exist() -> None:
    "Our fields are all there; theirs are fields of LlamaConfig and GPT2Config, or written in words."
    rows = [line.split("|")[1:-1] for cell in table_cells() for line in cell.splitlines() if line.startswith("| `")]
    mine, llama_names, gpt2_names = ([[word for word in cell.split("`")[1::2]] for cell in column] for column in zip(*rows))
    assert [names[0] for names in mine] == list(ModelConfig.__dataclass_fields__)
    for names, known in ((llama_names, LlamaConfig()), (gpt2_names, GPT2Config())):
        for name in sum(names, []):
            assert hasattr(known, name) or hasattr(Qwen3Config(), name) or hasattr(MistralConfig(), name) or name in known.rope_parameters, name


def published(sizes: tuple[int, ...], base: float, eps: float, act: str, context: int, tied: bool, **more: Any) -> dict[str, Any]:
    "The numbers of a config.json, in the order V, D, L, N, K, H, F."
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
    rest = {"rope_theta": base, "rms_norm_eps": eps, "hidden_act": act, "max_position_embeddings": context, "tie_word_embeddings": tied}
    return dict(zip(names, sizes)) | rest | {"sliding_window": None} | more


PUBLISHED = {  # meta-llama/Llama-2-7b-hf, mistralai/Mistral-7B-v0.1, google/gemma-2b, meta-llama/Llama-3.2-1B, Qwen/Qwen3-0.6B
    "Llama 2 7B": published((32_000, 4_096, 32, 32, 32, 128, 11_008), 1e4, 1e-5, "silu", 4_096, False),
    "Mistral 7B": published((32_000, 4_096, 32, 32, 8, 128, 14_336), 1e4, 1e-5, "silu", 32_768, False, sliding_window=4_096),
    "Gemma 2B": published((256_000, 2_048, 18, 8, 1, 256, 16_384), 1e4, 1e-6, "gelu_pytorch_tanh", 8_192, True),
    "Llama 3.2 1B": published((128_256, 2_048, 16, 32, 8, 64, 8_192), 5e5, 1e-5, "silu", 131_072, True),
    "Qwen3 0.6B": published((151_936, 1_024, 28, 16, 8, 128, 3_072), 1e6, 1e-6, "silu", 40_960, True),
}


def test_known_models_of_the_chapter() -> None:
    "Fields as published, and counts as those of transformers' classes at these sizes, built without memory."
    run = Run(next(chapter for chapter in load_chapters() if chapter.module == "model"))
    run.through("today-counts")
    classes = {"Mistral 7B": (MistralConfig, MistralForCausalLM), "Gemma 2B": (GemmaConfig, GemmaForCausalLM), "Qwen3 0.6B": (Qwen3Config, Qwen3ForCausalLM)}
    for name, (c, count) in run.scope.known.items():
        if name != "GPT-2 small":
            ours = llama_fields(c) | {"sliding_window": c.window, "rope_theta": c.rope_base}
            assert {field: ours[field] for field in PUBLISHED[name]} == PUBLISHED[name], name
        make, build = classes.get(name, (LlamaConfig, LlamaForCausalLM))
        with torch.device("meta"):
            theirs = GPT2LMHeadModel(GPT2Config()) if name == "GPT-2 small" else build(make(**llama_fields(c)))
        assert sum(p.numel() for p in theirs.parameters()) == count == c.n_parameters, name


def table_cells() -> list[str]:
    "The cell of chapter 26 with the table of names."
    return [cell.source for chapter in load_chapters() if chapter.module == "model" for cell in chapter.cells if cell.id == "config-names"]
