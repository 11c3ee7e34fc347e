"""minillm: the book about language models that you can import.

Names are looked up when they are used, so that `import minillm` costs nothing: `minillm.Tokenizer` imports `minillm.tokenizer` then.
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import Any

# public name → the module that defines it; a test compares this table with the modules
_HOME = {
    "StoryWorld": "storyworld",
    "answer_question": "storyworld",
    "check_story": "storyworld",
    "plant_contradiction": "storyworld",
    "Cleaner": "corpus",
    "Deduplicator": "corpus",
    "clean_text": "corpus",
    "corpus_version": "corpus",
    "deduplicate": "corpus",
    "download_corpus": "corpus",
    "iter_documents": "corpus",
    "load_corpus": "corpus",
    "quality_report": "corpus",
    "split_corpus": "corpus",
    "split_of": "corpus",
    "sample_sentences": "corpus",
    "GPT2_PATTERN": "bpe",
    "GPT4_PATTERN": "bpe",
    "explore_merges": "bpe",
    "merge_chunk": "bpe",
    "split_text": "bpe",
    "train_bpe": "bpe",
    "Tokenizer": "tokenizer",
    "explore_tokens": "tokenizer",
    "Batch": "batches",
    "Prepared": "batches",
    "TokenStore": "batches",
    "bucketed_batches": "batches",
    "explore_batch": "batches",
    "packed_batches": "batches",
    "prefetch": "batches",
    "prepare": "batches",
    "random_batches": "batches",
    "Bigram": "bigram",
    "NGram": "bigram",
    "bits_per_byte": "bigram",
    "count_bigrams": "bigram",
    "perplexity": "bigram",
    "Embedding": "embedding",
    "LearnedPositions": "embedding",
    "RelativeBias": "embedding",
    "SinusoidalPositions": "embedding",
    "explore_embedding": "embedding",
    "causal_mask": "attention",
    "document_mask": "attention",
    "explore_attention": "attention",
    "flash_attention": "attention",
    "padding_mask": "attention",
    "scaled_dot_product_attention": "attention",
    "ALiBi": "rope",
    "RoPE": "rope",
    "explore_rope": "rope",
    "GroupedQueryAttention": "gqa",
    "fused_attention": "gqa",
    "kv_cache_bytes": "gqa",
    "Block": "block",
    "LayerNorm": "block",
    "MLP": "block",
    "RMSNorm": "block",
    "SwiGLU": "block",
    "LanguageModel": "model",
    "ModelConfig": "model",
    "draw_model": "model",
    "cross_entropy": "loss",
    "evaluate_loss": "loss",
    "linear_cross_entropy": "loss",
    "next_token_loss": "loss",
    "choose_device": "precision",
    "choose_precision": "precision",
    "MasterWeights": "precision",
    "AdamW": "optim",
    "Lion": "optim",
    "Muon": "optim",
    "SGD": "optim",
    "clip_grad_norm": "optim",
    "constant_schedule": "optim",
    "cosine_schedule": "optim",
    "explore_optimizers": "optim",
    "make_optimizer": "optim",
    "wsd_schedule": "optim",
    "CheckpointManager": "checkpoint",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "Callback": "train",
    "LiveCurve": "train",
    "Trainer": "train",
    "read_log": "train",
    "Sampler": "sampling",
    "explore_sampling": "sampling",
    "stream_ids": "generate",
    "stream_text": "generate",
    "GenerateSettings": "llm",
    "LLM": "llm",
    "TrainSettings": "llm",
    "load": "llm",
    "shipped_models": "llm",
    "show_surprise": "llm",
    "train_llm": "llm",
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    "Import the module that owns `name`, once."
    if name in _HOME:
        value = globals()[name] = getattr(import_module(f"minillm.{_HOME[name]}"), name)
        return value
    raise AttributeError(f"minillm has no name {name!r}; `dir(minillm)` lists the names, `minillm info` the modules")


def __dir__() -> list[str]:
    "The public names, loaded or not."
    return sorted({*globals(), *_HOME})
