"""Qwen3: Llama with a head width of its own, and normed queries and keys.

Source: Yang et al. 2025, arXiv 2505.09388.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator

from pretune.models import llama
from pretune.models.head_table import standard_classes
from pretune.models.llama import size
from pretune.models.model import LanguageModel
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import Weight


class Config(llama.WindowConfig):
    """Fields of `config.json`: Llama's, and windows."""

    vocab_size: int = Field(151936, ge=1, le=2**22)
    max_position_embeddings: int = Field(32768, ge=1, le=2**24)
    mlp_bias: Literal[False] = False
    bos_token_id: int | None = Field(None, ge=0)
    eos_token_id: int | None = Field(None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _heads(cls, tree: Any) -> Any:
        """A head's width does not follow from the model's."""
        return {"head_dim": 128, **tree} if isinstance(tree, Mapping) else tree


_TIED = {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": size(2, 128, 2, 1, 352),
    "mini": size(4, 256, 4, 2, 704),
    "0.6b": {**size(28, 1024, 16, 8, 3072, head=128), **_TIED},
    "1.7b": {**size(28, 2048, 16, 8, 6144, head=128), **_TIED},
}
FILE_FIELDS = llama.FILE_FIELDS
FILE_DEFAULTS: Mapping[str, Any] = {"num_key_value_heads": 32, "intermediate_size": 22016}
SIZE_FIELDS: Mapping[str, SizeFields] = {
    "stack": replace(llama.SIZE_FIELDS["stack"], by_layer=Config.types_of),
}
PREFIX, ATTENTION_DROPOUT = llama.PREFIX, llama.ATTENTION_DROPOUT
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "Qwen3ForCausalLM": ("clm",),
    **standard_classes("Qwen3", "classification", "token_classification", "question_answering"),
    "Qwen3Model": (),
}
HEAD_NAMES = llama.HEAD_NAMES
PREFIXES: Mapping[str, str] = {"Qwen3ForQuestionAnswering": "transformer."}
WEIGHT_MAP: Sequence[Weight] = [
    *llama.WEIGHT_MAP,
    Weight("stack.blocks.{}.attention.query_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    Weight("stack.blocks.{}.attention.key_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
]


def build(config: Config) -> LanguageModel:
    """Builds a Qwen3 without heads."""
    attention = llama.attention_of(config, bias=config.attention_bias, normed=True)
    return llama.assemble("qwen3", config, attention)
