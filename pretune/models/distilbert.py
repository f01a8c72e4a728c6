"""DistilBERT: every second layer of a BERT, no segments, no pooler; the classifier has a dense layer with ReLU.

Source: Sanh et al. 2019, arXiv 1910.01108.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator
from torch import nn

from pretune.field_table import FieldTable, no_effect
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
    """Fields of `config.json`. Sinusoidal positions of a file are a table there, and are read as one that may learn."""

    vocab_size: int = Field(30522, ge=1, le=2**22)
    max_position_embeddings: int = Field(512, ge=1, le=2**20)
    sinusoidal_pos_embds: bool = False
    n_layers: int = Field(6, ge=1, le=512)
    n_heads: int = Field(12, ge=1, le=1024)
    dim: int = Field(768, ge=1, le=2**16)
    hidden_dim: int = Field(3072, ge=1, le=2**18)
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    activation: str = "gelu"
    initializer_range: float = Field(0.02, ge=0, le=10)
    qa_dropout: float = Field(0.1, ge=0, lt=1)
    seq_classif_dropout: float = Field(0.2, ge=0, lt=1)
    pad_token_id: int | None = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.dim % self.n_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of n_heads {self.n_heads}")
        activation(self.activation)
        return self


def _size(layers: int, width: int) -> dict[str, int]:
    return {"n_layers": layers, "dim": width, "n_heads": width // 64, "hidden_dim": 4 * width}


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _size(1, 128),
    "mini": _size(2, 256),
    "small": _size(2, 512),
    "base": _size(6, 768),
}
OTHER_NAMES: Mapping[str, str] = {
    "hidden_size": "dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
}
FILE_FIELDS: FieldTable = {
    "tie_weights_": no_effect("`tie_word_embeddings` says it"),
    "n_epochs": no_effect("a record"),
}
SIZE_FIELDS: Mapping[str, SizeFields] = {"stack": SizeFields("n_layers", "hidden_dim")}
PREFIX = "distilbert."
ATTENTION_DROPOUT = "attention_dropout"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "DistilBertForMaskedLM": ("mlm",),
    **standard_classes("DistilBert"),
    "DistilBertModel": (),
}
_LAYER = "distilbert.transformer.layer.{}"
WEIGHT_MAP: Sequence[Weight] = [
    Weight("embedding.word.weight", "distilbert.embeddings.word_embeddings.weight"),
    Weight("embedding.position.weight", "distilbert.embeddings.position_embeddings.weight"),
    *weight_and_bias("embedding.norm", "distilbert.embeddings.LayerNorm"),
    *weight_and_bias("stack.blocks.{}.attention.query", f"{_LAYER}.attention.q_lin"),
    *weight_and_bias("stack.blocks.{}.attention.key", f"{_LAYER}.attention.k_lin"),
    *weight_and_bias("stack.blocks.{}.attention.value", f"{_LAYER}.attention.v_lin"),
    *weight_and_bias("stack.blocks.{}.attention.output", f"{_LAYER}.attention.out_lin"),
    *weight_and_bias("stack.blocks.{}.norms.after_attention", f"{_LAYER}.sa_layer_norm"),
    *weight_and_bias("stack.blocks.{}.feedforward.up", f"{_LAYER}.ffn.lin1"),
    *weight_and_bias("stack.blocks.{}.feedforward.down", f"{_LAYER}.ffn.lin2"),
    *weight_and_bias("stack.blocks.{}.norms.after_feedforward", f"{_LAYER}.output_layer_norm"),
    *weight_and_bias("heads.mlm.transform.dense", "vocab_transform"),
    *weight_and_bias("heads.mlm.transform.norm", "vocab_layer_norm"),
    Weight("heads.mlm.weight", "vocab_projector.weight", alias=True),
    Weight("heads.mlm.bias", "vocab_projector.bias"),
    *weight_and_bias("heads.classification.pooler.dense", "pre_classifier"),
    *weight_and_bias("heads.multiple_choice.pooler.dense", "pre_classifier"),
]


def build(config: Config) -> LanguageModel:
    """Builds a DistilBERT without heads."""
    width = config.dim
    embedding = Embedding(
        config.vocab_size,
        width,
        position=Learned(config.max_position_embeddings, width),
        norm=_norm(width),
        dropout=config.dropout,
    )
    stack = Stack([_block(config) for _ in range(config.n_layers)])
    parts = HeadParts(
        width,
        "first",
        config.tie_word_embeddings,
        vocabulary_bias=True,
        vocabulary_transform=lambda: Transform(width, activation(config.activation), _norm(width)),
        activation=activation(config.activation),
        pooler=lambda: Pooler(width, nn.functional.relu),
        dropout=config.seq_classif_dropout,
        token_dropout=config.dropout,
        span_dropout=config.qa_dropout,
    )
    return LanguageModel("distilbert", config, embedding, stack, parts, std=config.initializer_range)


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-12)


def _block(config: Config) -> Block:
    return Block(
        Attention(config.dim, config.n_heads, BIDIRECTIONAL, dropout=config.attention_dropout),
        FeedForward(config.dim, config.hidden_dim, activation(config.activation)),
        Norms(after_attention=_norm(config.dim), after_feedforward=_norm(config.dim)),
        dropout=config.dropout,
    )
