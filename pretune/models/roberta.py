"""RoBERTa: BERT's layers without token types, with positions that begin at the third row of their table.

Its classifier has a dense layer of its own instead of a pooler.

Source: Liu et al. 2019, arXiv 1907.11692.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator
from torch import nn

from pretune.models import bert
from pretune.models.bert import block_of, embedding_names, layer_names, norm_of
from pretune.models.head_table import standard_classes
from pretune.models.model import LanguageModel
from pretune.models.weight_map import Weight, weight_and_bias
from pretune.nn.embedding import Embedding, Learned
from pretune.nn.head_parts import HeadParts
from pretune.nn.heads import Pooler, Transform
from pretune.nn.stack import Stack


class Config(bert.Config):
    """Fields of `config.json`: BERT's, with RoBERTa's values. Positions include the rows that no token uses."""

    vocab_size: int = Field(50265, ge=1, le=2**22)
    max_position_embeddings: int = Field(514, ge=1, le=2**20)
    type_vocab_size: int = Field(1, ge=1, le=1024)
    layer_norm_eps: float = Field(1e-5, ge=0, le=1)
    pad_token_id: int = Field(1, ge=0)

    @model_validator(mode="after")
    def _positions(self) -> Config:
        if self.max_position_embeddings <= self.pad_token_id + 1:
            raise ValueError(
                f"max_position_embeddings {self.max_position_embeddings} leaves no position: the first "
                f"{self.pad_token_id + 1} (pad_token_id + 1) are not used"
            )
        return self


SIZES: Mapping[str, Mapping[str, Any]] = bert.SIZES
FILE_DEFAULTS: Mapping[str, Any] = {"max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
FILE_FIELDS = bert.FILE_FIELDS
SIZE_FIELDS = bert.SIZE_FIELDS
PREFIX = "roberta."
ATTENTION_DROPOUT = bert.ATTENTION_DROPOUT
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "RobertaForMaskedLM": ("mlm",),
    **standard_classes("Roberta"),
    "RobertaModel": ("pooler",),
}
HEAD_NAMES: Mapping[str, str] = {"classification": "classifier.out_proj"}
WEIGHT_MAP: Sequence[Weight] = [
    *embedding_names("roberta.embeddings"),
    *layer_names("roberta.encoder.layer.{}"),
    *weight_and_bias("heads.pooler.dense", "roberta.pooler.dense"),
    *weight_and_bias("heads.mlm.transform.dense", "lm_head.dense"),
    *weight_and_bias("heads.mlm.transform.norm", "lm_head.layer_norm"),
    Weight("heads.mlm.weight", "lm_head.decoder.weight", alias=True),
    Weight("heads.mlm.bias", "lm_head.bias"),
    Weight("heads.mlm.bias", "lm_head.decoder.bias", alias=True),
    *weight_and_bias("heads.classification.pooler.dense", "classifier.dense"),
    *weight_and_bias("heads.multiple_choice.pooler.dense", "roberta.pooler.dense"),
]


def with_pad(config: Config, pad: int) -> Config:
    """The configuration of the same positions behind another pad token."""
    length = config.max_position_embeddings + pad - config.pad_token_id
    return config.model_copy(update={"pad_token_id": pad, "max_position_embeddings": length})


def build(config: Config) -> LanguageModel:
    """Builds a RoBERTa without heads."""
    width, dropout = config.hidden_size, config.hidden_dropout_prob
    unused = config.pad_token_id + 1
    embedding = Embedding(
        config.vocab_size,
        width,
        position=Learned(config.max_position_embeddings - unused, width, offset=unused),
        segments=config.type_vocab_size,
        norm=norm_of(config),
        dropout=dropout,
    )
    stack = Stack([block_of(config) for _ in range(config.num_hidden_layers)])
    head_dropout = dropout if config.classifier_dropout is None else config.classifier_dropout
    parts = HeadParts(
        width,
        "first",
        config.tie_word_embeddings,
        vocabulary_bias=True,
        vocabulary_transform=lambda: Transform(width, nn.functional.gelu, norm_of(config)),
        pooler=lambda: Pooler(width, dropout=head_dropout),
        model_pooler=lambda: Pooler(width),
        choice_pooler=lambda: Pooler(width),
        dropout=head_dropout,
        choice_dropout=dropout,
    )
    return LanguageModel("roberta", config, embedding, stack, parts, std=config.initializer_range)
