"""Qwen2 and Qwen2.5: Llama with biases in the projections of queries, keys and values.

Source: Yang et al. 2024, arXiv 2407.10671.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from pretune.models import llama
from pretune.models.head_table import standard_classes
from pretune.models.llama import size
from pretune.models.model import LanguageModel
from pretune.models.size_fields import SizeFields


class Config(llama.WindowConfig):
    """Fields of `config.json`: Llama's, and windows."""

    vocab_size: int = Field(151936, ge=1, le=2**22)
    max_position_embeddings: int = Field(32768, ge=1, le=2**24)
    mlp_bias: Literal[False] = False
    bos_token_id: int | None = Field(None, ge=0)
    eos_token_id: int | None = Field(None, ge=0)


_TIED = {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": size(2, 128, 2, 1, 352),
    "mini": size(4, 256, 4, 2, 704),
    "0.5b": {**size(24, 896, 14, 2, 4864), **_TIED},
    "1.5b": {**size(28, 1536, 12, 2, 8960), **_TIED},
}
FILE_FIELDS = llama.FILE_FIELDS
FILE_DEFAULTS: Mapping[str, Any] = {"num_key_value_heads": 32, "intermediate_size": 22016}
SIZE_FIELDS: Mapping[str, SizeFields] = {
    "stack": replace(llama.SIZE_FIELDS["stack"], by_layer=Config.types_of),
}
PREFIX, ATTENTION_DROPOUT, WEIGHT_MAP = llama.PREFIX, llama.ATTENTION_DROPOUT, llama.WEIGHT_MAP
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "Qwen2ForCausalLM": ("clm",),
    **standard_classes("Qwen2", "classification", "token_classification", "question_answering"),
    "Qwen2Model": (),
}
HEAD_NAMES = llama.HEAD_NAMES
PREFIXES: Mapping[str, str] = {"Qwen2ForQuestionAnswering": "transformer."}


def build(config: Config) -> LanguageModel:
    """Builds a Qwen2 without heads."""
    attention = llama.attention_of(config, bias=True, output_bias=False)
    return llama.assemble("qwen2", config, attention)
