"""BERT to BERT: two BERTs joined, one reads and one writes, with attention from the second to the first.

The decoder is a BERT whose attention sees no later token and whose layers attend to the encoder after their own
attention; that cross-attention is in no BERT's files and begins with random weights. `join` makes such a model of two
encoders; `transformers` reads its folders as `EncoderDecoderModel`.

Source: Rothe et al. 2020, "Leveraging pre-trained checkpoints for sequence generation tasks" (arXiv 1907.12461).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from pretune import config as configuration
from pretune.errors import UsageError
from pretune.field_table import FieldTable, handed_on
from pretune.models import bert, model
from pretune.models.encoder_decoder import Encoder, EncoderDecoder
from pretune.models.init import initialise
from pretune.models.model import LanguageModel, construct
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.attention import Attention
from pretune.nn.block import DecoderBlock, Norms
from pretune.nn.feedforward import FeedForward
from pretune.nn.stack import Stack
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL


class Side(bert.Config):
    """Fields of one of the two BERTs."""

    model_type: Literal["bert"] = "bert"


class WritingSide(Side):
    """Fields of the BERT that writes."""

    is_decoder: Literal[True] = True  # type: ignore[assignment]
    add_cross_attention: Literal[True] = True  # type: ignore[assignment]


class Config(model.Config):
    """Fields of `config.json`.

    Attributes:
        vocab_size: of both sides, which read and write the same tokens.
    """

    vocab_size: int = Field(30522, ge=1, le=2**22)
    encoder: Side = Field(default_factory=Side)
    decoder: WritingSide = Field(default_factory=WritingSide)
    pad_token_id: int | None = Field(None, ge=0)
    bos_token_id: int | None = Field(101, ge=0)
    eos_token_id: int | None = Field(102, ge=0)
    decoder_start_token_id: int = Field(101, ge=0)
    is_encoder_decoder: Literal[True] = True

    @model_validator(mode="before")
    @classmethod
    def _same_vocabulary(cls, fields: Any) -> Any:
        """Gives the sides the vocabulary of the whole, or the whole that of its sides."""
        if not isinstance(fields, Mapping):
            return fields
        sides = {name: fields.get(name, {}) for name in ("encoder", "decoder")}
        if not all(isinstance(side, Mapping) for side in sides.values()):
            return fields
        size = fields.get("vocab_size", sides["decoder"].get("vocab_size", 30522))
        return {**fields, "vocab_size": size, **{name: {"vocab_size": size, **side} for name, side in sides.items()}}

    @model_validator(mode="after")
    def _check(self) -> Config:
        for name in ("vocab_size", "hidden_size", "max_position_embeddings"):
            one, other = getattr(self.encoder, name), getattr(self.decoder, name)
            if one != other:
                raise ValueError(f"encoder.{name} {one} and decoder.{name} {other} differ; join models of equal {name}")
        if self.vocab_size != self.encoder.vocab_size:
            raise ValueError(f"vocab_size {self.vocab_size} is not that of the sides, {self.encoder.vocab_size}")
        return self


def _size(name: str) -> dict[str, Any]:
    return {"encoder": dict(bert.SIZES[name]), "decoder": dict(bert.SIZES[name])}


MODEL_TYPE = "encoder-decoder"
NESTED: Mapping[str, str] = {"encoder": "bert", "decoder": "bert"}
"""Fields of `config.json` that are configurations of other families."""
SIZES: Mapping[str, Mapping[str, Any]] = {name: _size(name) for name in bert.SIZES}
FILE_FIELDS: FieldTable = {
    "forced_bos_token_id": handed_on("used by `generate`, see generation_config.json"),
}
SIZE_FIELDS: Mapping[str, SizeFields] = {}
PREFIX = ""
ATTENTION_DROPOUT = ""
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {"EncoderDecoderModel": ("clm",)}


def _side_names(ours: str, weights: Sequence[Weight], theirs: str) -> list[Weight]:
    """The names of a BERT that is one side, of which the map of its family says those that it has alone."""
    return [
        replace(weight, ours=ours + weight.ours, theirs=theirs + weight.theirs.removeprefix("bert."))
        for weight in weights
        if not weight.ours.startswith("heads.")
    ]


_BODY = [weight for weight in bert.WEIGHT_MAP if not weight.ours.startswith("heads.")]
_LAYER, _HEAD = "decoder.bert.encoder.layer.{}.crossattention", "decoder.cls.predictions"
WEIGHT_MAP: Sequence[Weight] = [
    *_side_names("encoder.", _BODY, "encoder."),
    *_side_names("", _BODY, "decoder.bert."),
    *weight_and_bias("stack.blocks.{}.cross.query", f"{_LAYER}.self.query"),
    *weight_and_bias("stack.blocks.{}.cross.key", f"{_LAYER}.self.key"),
    *weight_and_bias("stack.blocks.{}.cross.value", f"{_LAYER}.self.value"),
    *weight_and_bias("stack.blocks.{}.cross.output", f"{_LAYER}.output.dense"),
    *weight_and_bias("stack.blocks.{}.norms.after_cross", f"{_LAYER}.output.LayerNorm"),
    *weight_and_bias("heads.clm.transform.dense", f"{_HEAD}.transform.dense"),
    *weight_and_bias("heads.clm.transform.norm", f"{_HEAD}.transform.LayerNorm"),
    Weight("heads.clm.weight", f"{_HEAD}.decoder.weight", alias=True),
    Weight("heads.clm.bias", f"{_HEAD}.bias"),
    Weight("heads.clm.bias", f"{_HEAD}.decoder.bias", alias=True),
]


def build(config: Config) -> EncoderDecoder:
    """Builds two joined BERTs without heads."""
    reading, writing = bert.build(config.encoder), bert.build(config.decoder)
    stack = Stack([_decoder_block(config.decoder) for _ in range(config.decoder.num_hidden_layers)])
    parts = replace(writing.parts, pool_position="last", tied=config.tie_word_embeddings, model_pooler=None)
    return EncoderDecoder(
        "bert2bert",
        config,
        Encoder(reading.embedding, reading.stack),
        writing.embedding,
        stack,
        parts,
        start=config.decoder_start_token_id,
        std=config.decoder.initializer_range,
    )


def _decoder_block(config: WritingSide) -> DecoderBlock:
    norms = {name: bert.norm_of(config) for name in ("after_attention", "after_cross", "after_feedforward")}
    own, cross = (
        Attention(
            config.hidden_size, config.num_attention_heads, structure, dropout=config.attention_probs_dropout_prob
        )
        for structure in (CAUSAL, BIDIRECTIONAL)
    )
    feedforward = FeedForward(config.hidden_size, config.intermediate_size, activation(config.hidden_act))
    return DecoderBlock(own, cross, feedforward, Norms(**norms), dropout=config.hidden_dropout_prob)


@torch.no_grad()
def join(
    encoder: LanguageModel, decoder: LanguageModel, ids: Mapping[str, int | None], seed: int = 0
) -> EncoderDecoder:
    """Joins two BERTs: the first reads, the second writes.

    The weights are copied. Cross-attention is new; so is the transform before the vocabulary where the decoder has no
    masked language head.

    Args:
        ids: the fields of `Config` that are tokens, such as `decoder_start_token_id`.
        seed: of the new weights.

    Returns:
        The joined model with its head `clm`; `new_weights` lists what began with random weights.

    Raises:
        UsageError: models of other families, or whose widths, positions or vocabularies differ.
    """
    for side, part in (("encoder", encoder), ("decoder", decoder)):
        if part.family != NESTED[side]:
            raise UsageError(f"the {side} is a {part.family}; two models of the family bert can be joined")
    sides = {"encoder": encoder.config.model_dump(), "decoder": decoder.config.model_dump()}
    sides["decoder"] |= {"is_decoder": True, "add_cross_attention": True}
    known = {name: value for name, value in ids.items() if name in Config.model_fields}
    config = configuration.validate(Config, {**sides, **known}, "the joined model")
    model = construct("bert2bert", config, ["clm"])
    assert isinstance(model, EncoderDecoder)
    initialise(model, seed)
    parameters = dict(model.named_parameters())
    for ours, tensor in _joined_weights(encoder, decoder).items():
        if ours in parameters:
            parameters[ours].copy_(tensor)
    return model


def new_weights(model: EncoderDecoder, decoder: LanguageModel) -> list[str]:
    """Lists the parameters of a joined model that the model joined as its decoder does not have."""
    known = _joined_weights(model, decoder)
    return [name for name, _ in model.named_parameters() if not name.startswith("encoder.") and name not in known]


def _joined_weights(encoder: LanguageModel, decoder: LanguageModel) -> Mapping[str, torch.Tensor]:
    """The weights of two models by the names that a joined one has for them."""
    reading = {
        f"encoder.{name}": tensor for name, tensor in encoder.named_parameters() if not name.startswith("heads.")
    }
    writing = {name.replace("heads.mlm.", "heads.clm."): tensor for name, tensor in decoder.named_parameters()}
    return reading | writing
