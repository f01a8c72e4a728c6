"""ALBERT: BERT with one set of layer weights, or a few, used again and again, over narrow word vectors.

Source: Lan et al. 2019, arXiv 1909.11942.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from pretune.field_table import FieldTable, handed_on
from pretune.models import bert
from pretune.models.bert import block_of, embedding_names
from pretune.models.head_table import standard_classes
from pretune.models.model import LanguageModel
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.embedding import Embedding, Learned
from pretune.nn.head_parts import HeadParts
from pretune.nn.heads import Pooler, Transform
from pretune.nn.projection import Projection
from pretune.nn.stack import Stack


class Config(bert.Config):
    """Fields of `config.json`: BERT's, the width of the word vectors, and how many groups of layers share weights."""

    vocab_size: int = Field(30000, ge=1, le=2**22)
    embedding_size: int = Field(128, ge=1, le=2**16)
    hidden_size: int = Field(4096, ge=1, le=2**16)
    num_hidden_groups: int = Field(1, ge=1, le=512)
    inner_group_num: Literal[1] = 1
    num_attention_heads: int = Field(64, ge=1, le=1024)
    intermediate_size: int = Field(16384, ge=1, le=2**18)
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = Field(0.0, ge=0, lt=1)
    classifier_dropout_prob: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _groups(self) -> Config:
        if self.num_hidden_groups > self.num_hidden_layers:
            raise ValueError(
                f"{self.num_hidden_groups} num_hidden_groups for num_hidden_layers {self.num_hidden_layers}"
            )
        return self


def _size(layers: int, width: int, heads: int | None = None) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads or width // 64,
        "intermediate_size": 4 * width,
    }


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _size(2, 128),
    "mini": _size(4, 256),
    "base": _size(12, 768),
    "large": _size(24, 1024),
    "xlarge": _size(24, 2048, 16),
    "xxlarge": _size(12, 4096),
}
FILE_FIELDS: FieldTable = {
    **bert.FILE_FIELDS,
    **dict.fromkeys(
        ("down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks", "layers_to_keep"),
        handed_on("an older setting without effect"),
    ),
}
SIZE_FIELDS: Mapping[str, SizeFields] = {
    "stack": SizeFields(inner="intermediate_size", reasons={"layers": "its layers share their weights"})
}
PREFIX = "albert."
ATTENTION_DROPOUT = bert.ATTENTION_DROPOUT
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "AlbertForPreTraining": ("mlm", "sop"),
    "AlbertForMaskedLM": ("mlm",),
    **standard_classes("Albert"),
    "AlbertModel": ("pooler",),
}
_LAYER = "albert.encoder.albert_layer_groups.{}.albert_layers.0"
WEIGHT_MAP: Sequence[Weight] = [
    *embedding_names("albert.embeddings"),
    *weight_and_bias("embedding.project", "albert.encoder.embedding_hidden_mapping_in"),
    *weight_and_bias("stack.blocks.{}.attention.query", f"{_LAYER}.attention.query"),
    *weight_and_bias("stack.blocks.{}.attention.key", f"{_LAYER}.attention.key"),
    *weight_and_bias("stack.blocks.{}.attention.value", f"{_LAYER}.attention.value"),
    *weight_and_bias("stack.blocks.{}.attention.output", f"{_LAYER}.attention.dense"),
    *weight_and_bias("stack.blocks.{}.norms.after_attention", f"{_LAYER}.attention.LayerNorm"),
    *weight_and_bias("stack.blocks.{}.feedforward.up", f"{_LAYER}.ffn"),
    *weight_and_bias("stack.blocks.{}.feedforward.down", f"{_LAYER}.ffn_output"),
    *weight_and_bias("stack.blocks.{}.norms.after_feedforward", f"{_LAYER}.full_layer_layer_norm"),
    *weight_and_bias("heads.pooler.dense", "albert.pooler"),
    *weight_and_bias("heads.sop.pooler.dense", "albert.pooler"),
    *weight_and_bias("heads.classification.pooler.dense", "albert.pooler"),
    *weight_and_bias("heads.multiple_choice.pooler.dense", "albert.pooler"),
    *weight_and_bias("heads.mlm.transform.dense", "predictions.dense"),
    *weight_and_bias("heads.mlm.transform.norm", "predictions.LayerNorm"),
    Weight("heads.mlm.weight", "predictions.decoder.weight", alias=True),
    Weight("heads.mlm.bias", "predictions.bias"),
    Weight("heads.mlm.bias", "predictions.decoder.bias", alias=True),
    *weight_and_bias("heads.sop.linear", "sop_classifier.classifier"),
]


def build(config: Config) -> LanguageModel:
    """Builds an ALBERT without heads."""
    word_width, width, groups = config.embedding_size, config.hidden_size, config.num_hidden_groups
    embedding = Embedding(
        config.vocab_size,
        word_width,
        position=Learned(config.max_position_embeddings, word_width),
        segments=config.type_vocab_size,
        norm=nn.LayerNorm(word_width, eps=config.layer_norm_eps),
        dropout=config.hidden_dropout_prob,
        project=Projection(word_width, width),
    )
    order = [layer * groups // config.num_hidden_layers for layer in range(config.num_hidden_layers)]
    stack = Stack([block_of(config) for _ in range(groups)], order=order)
    pooler = Pooler(width)
    parts = HeadParts(
        width,
        "first",
        config.tie_word_embeddings,
        vocabulary_bias=True,
        vocabulary_transform=lambda: _transform(config),
        activation=activation(config.hidden_act),
        pooler=lambda: pooler,
        model_pooler=lambda: pooler,
        dropout=config.classifier_dropout_prob,
    )
    return LanguageModel("albert", config, embedding, stack, parts, std=config.initializer_range)


def _transform(config: Config) -> Transform:
    """Builds the transform before the vocabulary, whose vectors are narrower than the layers."""
    norm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
    return Transform(config.hidden_size, activation(config.hidden_act), norm, out=config.embedding_size)
