"""T5: pre-norm with RMSNorm, no biases, relative position biases instead of positions.

Version 1.1 and after have a gated feed-forward and a vocabulary of their own for the output. Scores are not scaled: the
initial weights of queries are.

Source: Raffel et al. 2019, arXiv 1910.10683; Shazeer 2020, arXiv 2002.05202, for the gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator
from torch import nn

from pretune.field_table import FieldTable, handed_on, no_effect, refused
from pretune.models import model
from pretune.models.encoder_decoder import Encoder, EncoderDecoder
from pretune.models.head_table import standard_classes
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block, DecoderBlock, Norms
from pretune.nn.embedding import Embedding
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.head_parts import HeadParts
from pretune.nn.heads import Pooler
from pretune.nn.relative import RelativeBias
from pretune.nn.scaling import Scale
from pretune.nn.stack import Stack
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL, Structure
from pretune.nn.vocabulary import Vocabulary

_GATED = "gated-"


class Config(model.Config):
    """Fields of `config.json`. Without `is_encoder_decoder` there is an encoder alone."""

    vocab_size: int = Field(32128, ge=1, le=2**22)
    d_model: int = Field(512, ge=1, le=2**16)
    d_kv: int = Field(64, ge=1, le=4096)
    d_ff: int = Field(2048, ge=1, le=2**18)
    num_layers: int = Field(6, ge=1, le=512)
    num_decoder_layers: int = Field(6, ge=1, le=512)
    num_heads: int = Field(8, ge=1, le=1024)
    relative_attention_num_buckets: int = Field(32, ge=4, le=4096)
    relative_attention_max_distance: int = Field(128, ge=2, le=2**20)
    dropout_rate: float = Field(0.1, ge=0, lt=1)
    classifier_dropout: float = Field(0.0, ge=0, lt=1)
    layer_norm_epsilon: float = Field(1e-6, ge=0, le=1)
    initializer_factor: float = Field(1.0, ge=0, le=100)
    feed_forward_proj: str = "relu"
    scale_decoder_outputs: bool = True
    pad_token_id: int = Field(0, ge=0)
    eos_token_id: int = Field(1, ge=0)
    decoder_start_token_id: int = Field(0, ge=0)
    is_encoder_decoder: bool = True

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, tree: Any) -> Any:
        """Defaults: the decoder is as deep as the encoder; outputs are scaled if the vocabularies are tied."""
        if not isinstance(tree, Mapping):
            return tree
        out = dict(tree)
        if out.get("num_decoder_layers") is None:
            out["num_decoder_layers"] = out.get("num_layers", 6)
        out.setdefault("scale_decoder_outputs", out.get("tie_word_embeddings", True))
        return out

    @model_validator(mode="after")
    def _check(self) -> Config:
        activation(self.activation)
        return self

    @property
    def activation(self) -> str:
        """The activation of the feed-forward; `gated-gelu` is GELU by tanh, as the authors had it."""
        name = self.feed_forward_proj.removeprefix(_GATED)
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else name


def _size(layers: int, width: int, heads: int, inner: int) -> dict[str, int]:
    return {"num_layers": layers, "num_decoder_layers": layers, "d_model": width, "num_heads": heads, "d_ff": inner}


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _size(2, 128, 2, 512),
    "mini": _size(4, 256, 4, 1024),
    "small": _size(6, 512, 8, 2048),
    "base": _size(12, 768, 12, 3072),
    "large": _size(24, 1024, 16, 4096),
}
OTHER_NAMES: Mapping[str, str] = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}
ALWAYS_TIED = True
FILE_FIELDS: FieldTable = {
    **dict.fromkeys(("dense_act_fn", "is_gated_act"), no_effect("follows from `feed_forward_proj`")),
    "is_decoder": refused("a decoder alone is not built", "use the whole model"),
    "n_positions": handed_on("an older setting without effect: distances have no limit"),
    "max_position_embeddings": handed_on("an older setting without effect: distances have no limit"),
}
SIZE_FIELDS: Mapping[str, SizeFields] = {
    "encoder.stack": SizeFields("num_layers", "d_ff", "num_heads"),
    "stack": SizeFields("num_decoder_layers", "d_ff", "num_heads"),
}
PREFIX = ""
ATTENTION_DROPOUT = "attention_dropout"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "T5ForConditionalGeneration": ("clm",),
    **standard_classes("T5", "classification", "token_classification", "question_answering"),
    "T5Model": (),
    "T5EncoderModel": (),
}
ENCODER_CLASS = "T5EncoderModel"
HEAD_NAMES: Mapping[str, str] = {"classification": "classification_head.out_proj"}
PREFIXES: Mapping[str, str] = dict.fromkeys(
    standard_classes("T5", "classification", "token_classification"), "transformer."
)


def _attention_names(ours: str, theirs: str) -> list[Weight]:
    parts = {"query": "q", "key": "k", "value": "v", "output": "o"}
    return [Weight(f"{ours}.{own}.weight", f"{theirs}.{other}.weight") for own, other in parts.items()]


def _layer_names(ours: str, theirs: str, last: int) -> list[Weight]:
    """Names of what layers of encoder and decoder have in common; `last` is the number of the feed-forward."""
    dense = f"{theirs}.layer.{last}.DenseReluDense"
    return [
        *_attention_names(f"{ours}.attention", f"{theirs}.layer.0.SelfAttention"),
        Weight(f"{ours}.norms.before_attention.weight", f"{theirs}.layer.0.layer_norm.weight"),
        Weight(f"{ours}.feedforward.gate.weight", f"{dense}.wi_0.weight"),
        Weight(f"{ours}.feedforward.value.weight", f"{dense}.wi_1.weight"),
        Weight(f"{ours}.feedforward.up.weight", f"{dense}.wi.weight"),
        Weight(f"{ours}.feedforward.down.weight", f"{dense}.wo.weight"),
        Weight(f"{ours}.norms.before_feedforward.weight", f"{theirs}.layer.{last}.layer_norm.weight"),
    ]


_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
WEIGHT_MAP: Sequence[Weight] = [
    Weight("embedding.word.weight", "shared.weight"),
    Weight("embedding.word.weight", "encoder.embed_tokens.weight", alias=True),
    Weight("embedding.word.weight", "decoder.embed_tokens.weight", alias=True),
    Weight("encoder.stack.blocks.0.attention.relative.table.weight", f"encoder.block.0.{_BIAS}"),
    *_layer_names("encoder.stack.blocks.{}", "encoder.block.{}", 1),
    Weight("encoder.stack.norm.weight", "encoder.final_layer_norm.weight"),
    Weight("stack.blocks.0.attention.relative.table.weight", f"decoder.block.0.{_BIAS}"),
    *_layer_names("stack.blocks.{}", "decoder.block.{}", 2),
    *_attention_names("stack.blocks.{}.cross", "decoder.block.{}.layer.1.EncDecAttention"),
    Weight("stack.blocks.{}.norms.before_cross.weight", "decoder.block.{}.layer.1.layer_norm.weight"),
    Weight("stack.norm.weight", "decoder.final_layer_norm.weight"),
    Weight("heads.clm.weight", "lm_head.weight", alias=True),
    *weight_and_bias("heads.classification.pooler.dense", "classification_head.dense"),
]


def build(config: Config) -> EncoderDecoder:
    """Builds a T5 without heads."""
    width, dropout = config.d_model, config.dropout_rate
    word = Vocabulary(config.vocab_size, width)
    reading, writing = (
        RelativeBias(
            config.num_heads,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            both=both,
        )
        for both in (True, False)
    )
    encoder = Encoder(
        Embedding(config.vocab_size, width, word=word, dropout=dropout),
        Stack([_encoder_block(config, reading) for _ in range(config.num_layers)], _norm(config)),
    )
    stack = Stack([_decoder_block(config, writing) for _ in range(config.num_decoder_layers)], _norm(config))
    embedding = Embedding(config.vocab_size, width, word=word, dropout=dropout)
    parts = HeadParts(
        width,
        "last",
        config.tie_word_embeddings,
        vocabulary_transform=(lambda: Scale(width**-0.5)) if config.scale_decoder_outputs else nn.Identity,
        activation=activation(config.activation),
        pooler=lambda: Pooler(width, dropout=config.classifier_dropout),
        dropout=config.classifier_dropout,
        tokens_read_encoder=True,
    )
    model = EncoderDecoder(
        "t5", config, encoder, embedding, stack, parts, **_initial(config), start=config.decoder_start_token_id
    )
    if not config.is_encoder_decoder:
        model.drop_decoder()
    return model


def _initial(config: Config) -> dict[str, Any]:
    """Sizes of initial weights: what a projection gives is as large as what it reads, and scores begin near 1.

    Source: `T5PreTrainedModel._init_weights` of transformers 5.23, but for an untied head, which it draws at 1.
    """
    factor, width, inner = config.initializer_factor, config.d_model, config.num_heads * config.d_kv
    stds = {"query": (width * config.d_kv) ** -0.5, "output": inner**-0.5}
    places = {f"{kind}.{name}": std for kind in ("attention", "cross") for name, std in stds.items()}
    places |= {"feedforward.down": config.d_ff**-0.5, "embedding.word": 1.0}
    return {"std": factor * width**-0.5, "place_stds": {place: factor * std for place, std in places.items()}}


def _norm(config: Config) -> nn.RMSNorm:
    return nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)


def _attention(config: Config, structure: Structure, relative: RelativeBias | None = None) -> Attention:
    return Attention(
        config.d_model, config.num_heads, structure, head_width=config.d_kv, scale=1.0, bias=False, relative=relative
    )


def _feedforward(config: Config) -> FeedForward | GatedFeedForward:
    feedforward = GatedFeedForward if config.feed_forward_proj.startswith(_GATED) else FeedForward
    return feedforward(config.d_model, config.d_ff, activation(config.activation), bias=False)


def _encoder_block(config: Config, relative: RelativeBias) -> Block:
    return Block(
        _attention(config, BIDIRECTIONAL, relative),
        _feedforward(config),
        Norms(before_attention=_norm(config), before_feedforward=_norm(config)),
        dropout=config.dropout_rate,
    )


def _decoder_block(config: Config, relative: RelativeBias) -> DecoderBlock:
    return DecoderBlock(
        _attention(config, CAUSAL, relative),
        _attention(config, BIDIRECTIONAL),
        _feedforward(config),
        Norms(before_attention=_norm(config), before_cross=_norm(config), before_feedforward=_norm(config)),
        dropout=config.dropout_rate,
    )
