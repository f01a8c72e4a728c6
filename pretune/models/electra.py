"""ELECTRA: BERT's layers over word vectors that may be narrower; its discriminator says which tokens were replaced.

A generator is the same family with the head `mlm`. Training both together is the objective `rtd`.

Source: Clark et al. 2020, arXiv 2003.10555; sizes: google-research/electra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field
from torch import nn

from pretune.models import bert
from pretune.models.bert import block_of, embedding_names, layer_names
from pretune.models.head_table import standard_classes
from pretune.models.model import LanguageModel
from pretune.models.weight_map import Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.embedding import Embedding, Learned
from pretune.nn.head_parts import HeadParts
from pretune.nn.heads import Activate, Pooler, Transform
from pretune.nn.projection import Projection
from pretune.nn.stack import Stack


class Config(bert.Config):
    """Fields of `config.json`: BERT's, and the width of the word vectors."""

    embedding_size: int = Field(128, ge=1, le=2**16)
    hidden_size: int = Field(256, ge=1, le=2**16)
    num_attention_heads: int = Field(4, ge=1, le=1024)
    intermediate_size: int = Field(1024, ge=1, le=2**18)
    summary_type: Literal["first", "last", "mean"] = "first"
    summary_use_proj: bool = True
    summary_activation: str | None = "gelu"
    summary_last_dropout: float = Field(0.1, ge=0, lt=1)


def _size(layers: int, width: int, embedding: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "embedding_size": embedding,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _size(2, 128, 128),
    "mini": _size(4, 256, 128),
    "small": _size(12, 256, 128),
    "base": _size(12, 768, 768),
    "large": _size(24, 1024, 1024),
}
FILE_FIELDS = bert.FILE_FIELDS
SIZE_FIELDS = bert.SIZE_FIELDS
PREFIX = "electra."
ATTENTION_DROPOUT = bert.ATTENTION_DROPOUT
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "ElectraForPreTraining": ("rtd",),
    "ElectraForMaskedLM": ("mlm",),
    **standard_classes("Electra"),
    "ElectraModel": (),
}
HEAD_NAMES: Mapping[str, str] = {"classification": "classifier.out_proj"}
WEIGHT_MAP: Sequence[Weight] = [
    *embedding_names("electra.embeddings"),
    *weight_and_bias("embedding.project", "electra.embeddings_project"),
    *layer_names("electra.encoder.layer.{}"),
    *weight_and_bias("heads.rtd.dense", "discriminator_predictions.dense"),
    *weight_and_bias("heads.rtd.linear", "discriminator_predictions.dense_prediction"),
    *weight_and_bias("heads.mlm.transform.dense", "generator_predictions.dense"),
    *weight_and_bias("heads.mlm.transform.norm", "generator_predictions.LayerNorm"),
    Weight("heads.mlm.weight", "generator_lm_head.weight", alias=True),
    Weight("heads.mlm.bias", "generator_lm_head.bias"),
    *weight_and_bias("heads.classification.pooler.dense", "classifier.dense"),
    *weight_and_bias("heads.multiple_choice.pooler.dense", "sequence_summary.summary"),
]


def build(config: Config) -> LanguageModel:
    """Builds an ELECTRA without heads."""
    word_width, width, dropout = config.embedding_size, config.hidden_size, config.hidden_dropout_prob
    embedding = Embedding(
        config.vocab_size,
        word_width,
        position=Learned(config.max_position_embeddings, word_width),
        segments=config.type_vocab_size,
        norm=nn.LayerNorm(word_width, eps=config.layer_norm_eps),
        dropout=dropout,
        project=None if word_width == width else Projection(word_width, width),
    )
    stack = Stack([block_of(config) for _ in range(config.num_hidden_layers)])
    head_dropout = dropout if config.classifier_dropout is None else config.classifier_dropout
    parts = HeadParts(
        width,
        "first",
        config.tie_word_embeddings,
        vocabulary_bias=True,
        vocabulary_transform=lambda: _transform(config),
        activation=activation(config.hidden_act),
        pooler=lambda: Pooler(width, nn.functional.gelu, head_dropout),
        choice_pooler=lambda: _summary(config),
        choice_position=config.summary_type,
        dropout=head_dropout,
        choice_dropout=config.summary_last_dropout,
    )
    return LanguageModel("electra", config, embedding, stack, parts, std=config.initializer_range)


def _summary(config: Config) -> nn.Module:
    """Builds what stands between the row of a choice and its score."""
    act = activation(config.summary_activation or "linear")
    return Pooler(config.hidden_size, act) if config.summary_use_proj else Activate(act)


def narrower(config: Config, ratio: float) -> Config:
    """A generator's configuration: the same depth and word vectors, fewer heads, narrower layers."""
    heads = max(1, round(config.num_attention_heads * ratio))
    width = heads * (config.hidden_size // config.num_attention_heads)
    inner = max(1, round(config.intermediate_size * ratio))
    fields = {"num_attention_heads": heads, "hidden_size": width, "intermediate_size": inner}
    return config.model_copy(update=fields)


def _transform(config: Config) -> Transform:
    """Builds the transform before the vocabulary, whose vectors are narrower than the layers."""
    norm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
    return Transform(config.hidden_size, nn.functional.gelu, norm, out=config.embedding_size)
