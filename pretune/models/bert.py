"""BERT: bidirectional, post-norm, segments, a pooler over the first token.

Source: Devlin et al. 2018, arXiv 1810.04805; the small sizes: Turc et al. 2019, arXiv 1908.08962.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from pretune.field_table import FieldTable, handed_on
from pretune.models import model
from pretune.models.head_table import standard_classes
from pretune.models.model import LanguageModel
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block, Norms
from pretune.nn.embedding import Embedding, Learned
from pretune.nn.feedforward import FeedForward
from pretune.nn.head_parts import HeadParts
from pretune.nn.heads import Pooler, Transform
from pretune.nn.stack import Stack
from pretune.nn.structure import BIDIRECTIONAL


class Config(model.Config):
    """Fields of `config.json`. Attention dropout is 0 unless asked for: above it, attention leaves the fast kernels."""

    vocab_size: int = Field(30522, ge=1, le=2**22)
    hidden_size: int = Field(768, ge=1, le=2**16)
    num_hidden_layers: int = Field(12, ge=1, le=512)
    num_attention_heads: int = Field(12, ge=1, le=1024)
    intermediate_size: int = Field(3072, ge=1, le=2**18)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = Field(0.1, ge=0, lt=1)
    attention_probs_dropout_prob: float = Field(0.0, ge=0, lt=1)
    max_position_embeddings: int = Field(512, ge=1, le=2**20)
    type_vocab_size: int = Field(2, ge=1, le=1024)
    initializer_range: float = Field(0.02, ge=0, le=10)
    layer_norm_eps: float = Field(1e-12, ge=0, le=1)
    pad_token_id: int | None = Field(0, ge=0)
    classifier_dropout: float | None = Field(None, ge=0, lt=1)
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        activation(self.hidden_act)
        return self


def _size(layers: int, width: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _size(2, 128),
    "mini": _size(4, 256),
    "small": _size(4, 512),
    "medium": _size(8, 512),
    "base": _size(12, 768),
    "large": _size(24, 1024),
}
_GOOGLE = handed_on("an older setting without effect")
FILE_FIELDS: FieldTable = {
    **dict.fromkeys(
        ("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"), _GOOGLE
    ),
    **dict.fromkeys(("pooler_size_per_head", "pooler_type"), _GOOGLE),
}
SIZE_FIELDS: Mapping[str, SizeFields] = {"stack": SizeFields("num_hidden_layers", "intermediate_size")}
PREFIX = "bert."
ATTENTION_DROPOUT = "attention_probs_dropout_prob"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "BertForPreTraining": ("mlm", "nsp"),
    "BertForMaskedLM": ("mlm",),
    "BertForNextSentencePrediction": ("nsp",),
    **standard_classes("Bert"),
    "BertModel": ("pooler",),
}


def embedding_names(theirs: str) -> list[Weight]:
    """Names of the embeddings of words, positions and segments, and of their norm."""
    return [
        Weight("embedding.word.weight", f"{theirs}.word_embeddings.weight"),
        Weight("embedding.position.weight", f"{theirs}.position_embeddings.weight"),
        Weight("embedding.segment.weight", f"{theirs}.token_type_embeddings.weight"),
        *weight_and_bias("embedding.norm", f"{theirs}.LayerNorm"),
    ]


def layer_names(theirs: str) -> list[Weight]:
    """Names of a layer, whose number `{}` stands for."""
    return [
        *weight_and_bias("stack.blocks.{}.attention.query", f"{theirs}.attention.self.query"),
        *weight_and_bias("stack.blocks.{}.attention.key", f"{theirs}.attention.self.key"),
        *weight_and_bias("stack.blocks.{}.attention.value", f"{theirs}.attention.self.value"),
        *weight_and_bias("stack.blocks.{}.attention.output", f"{theirs}.attention.output.dense"),
        *weight_and_bias("stack.blocks.{}.norms.after_attention", f"{theirs}.attention.output.LayerNorm"),
        *weight_and_bias("stack.blocks.{}.feedforward.up", f"{theirs}.intermediate.dense"),
        *weight_and_bias("stack.blocks.{}.feedforward.down", f"{theirs}.output.dense"),
        *weight_and_bias("stack.blocks.{}.norms.after_feedforward", f"{theirs}.output.LayerNorm"),
    ]


WEIGHT_MAP: Sequence[Weight] = [
    *embedding_names("bert.embeddings"),
    *layer_names("bert.encoder.layer.{}"),
    *weight_and_bias("heads.pooler.dense", "bert.pooler.dense"),
    *weight_and_bias("heads.nsp.pooler.dense", "bert.pooler.dense"),
    *weight_and_bias("heads.classification.pooler.dense", "bert.pooler.dense"),
    *weight_and_bias("heads.multiple_choice.pooler.dense", "bert.pooler.dense"),
    *weight_and_bias("heads.mlm.transform.dense", "cls.predictions.transform.dense"),
    *weight_and_bias("heads.mlm.transform.norm", "cls.predictions.transform.LayerNorm"),
    Weight("heads.mlm.weight", "cls.predictions.decoder.weight", alias=True),
    Weight("heads.mlm.bias", "cls.predictions.bias"),
    Weight("heads.mlm.bias", "cls.predictions.decoder.bias", alias=True),
    *weight_and_bias("heads.nsp.linear", "cls.seq_relationship"),
]


def build(config: Config) -> LanguageModel:
    """Builds a BERT without heads."""
    width, dropout = config.hidden_size, config.hidden_dropout_prob
    embedding = Embedding(
        config.vocab_size,
        width,
        position=Learned(config.max_position_embeddings, width),
        segments=config.type_vocab_size,
        norm=norm_of(config),
        dropout=dropout,
    )
    stack = Stack([block_of(config) for _ in range(config.num_hidden_layers)])
    pooler = Pooler(width)
    parts = HeadParts(
        width,
        "first",
        config.tie_word_embeddings,
        vocabulary_bias=True,
        vocabulary_transform=lambda: Transform(width, activation(config.hidden_act), norm_of(config)),
        activation=activation(config.hidden_act),
        pooler=lambda: pooler,
        model_pooler=lambda: pooler,
        dropout=dropout if config.classifier_dropout is None else config.classifier_dropout,
    )
    return LanguageModel("bert", config, embedding, stack, parts, std=config.initializer_range)


def norm_of(config: Config) -> nn.LayerNorm:
    """Builds a norm of the hidden states."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def block_of(config: Config) -> Block:
    """Builds one layer."""
    attention = Attention(
        config.hidden_size, config.num_attention_heads, BIDIRECTIONAL, dropout=config.attention_probs_dropout_prob
    )
    return Block(
        attention,
        FeedForward(config.hidden_size, config.intermediate_size, activation(config.hidden_act)),
        Norms(after_attention=norm_of(config), after_feedforward=norm_of(config)),
        dropout=config.hidden_dropout_prob,
    )
