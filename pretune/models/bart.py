"""BART: an encoder as BERT's and a decoder as GPT's, post-norm, with a shared vocabulary.

Source: Lewis et al. 2019, arXiv 1910.13461.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import nn

from pretune.field_table import FieldTable, handed_on, no_effect, refused
from pretune.models import model
from pretune.models.encoder_decoder import Encoder, EncoderDecoder
from pretune.models.head_table import standard_classes
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import Squeeze, Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block, DecoderBlock, Norms
from pretune.nn.embedding import Embedding, Learned, Sinusoidal
from pretune.nn.feedforward import FeedForward
from pretune.nn.head_parts import HeadParts
from pretune.nn.heads import Pooler
from pretune.nn.model_protocol import GenerationConstraints
from pretune.nn.stack import Stack
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL, Structure
from pretune.nn.vocabulary import Vocabulary

Token = Annotated[int, Field(ge=0)]


class Config(model.Config):
    """Fields of `config.json`. Attention dropout is 0 unless asked for: above it, attention leaves the fast kernels."""

    vocab_size: int = Field(50265, ge=1, le=2**22)
    max_position_embeddings: int = Field(1024, ge=1, le=2**20)
    d_model: int = Field(1024, ge=1, le=2**16)
    encoder_layers: int = Field(12, ge=1, le=512)
    encoder_ffn_dim: int = Field(4096, ge=1, le=2**18)
    encoder_attention_heads: int = Field(16, ge=1, le=1024)
    decoder_layers: int = Field(12, ge=1, le=512)
    decoder_ffn_dim: int = Field(4096, ge=1, le=2**18)
    decoder_attention_heads: int = Field(16, ge=1, le=1024)
    activation_function: str = "gelu"
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    classifier_dropout: float = Field(0.0, ge=0, lt=1)
    init_std: float = Field(0.02, ge=0, le=10)
    scale_embedding: bool = False
    pad_token_id: int = Field(1, ge=0)
    bos_token_id: int | None = Field(0, ge=0)
    eos_token_id: int = Field(2, ge=0)
    decoder_start_token_id: int = Field(2, ge=0)
    forced_bos_token_id: int | None = Field(None, ge=0)
    forced_eos_token_id: Token | tuple[Token, ...] | None = 2
    bad_words_ids: tuple[Annotated[tuple[Token, ...], Field(min_length=1)], ...] | None = None
    is_encoder_decoder: Literal[True] = True
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _check(self) -> Config:
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"{side}_attention_heads")
            if self.d_model % heads:
                raise ValueError(f"d_model {self.d_model} is not a multiple of {side}_attention_heads {heads}")
        activation(self.activation_function)
        return self


def size(layers: int, width: int) -> dict[str, int]:
    """Fields of a size whose encoder and decoder have the same shape."""
    fields = {"layers": layers, "attention_heads": width // 64, "ffn_dim": 4 * width}
    both = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in fields.items()}
    return {"d_model": width, **both}


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": size(2, 128),
    "mini": size(4, 256),
    "base": size(6, 768),
    "large": size(12, 1024),
}
OTHER_NAMES: Mapping[str, str] = {
    "num_attention_heads": "encoder_attention_heads",
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
}
_DROPPED = handed_on("is not dropped in training here", types=(float,), note_unless=(None, 0, 0.0), training=True)
FILE_FIELDS: FieldTable = {
    **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop", "activation_dropout"), _DROPPED),
    "is_decoder": refused("a decoder alone is not built", "use the whole model"),
    "classif_dropout": handed_on("an older setting, beside which `classifier_dropout` stands"),
    "normalize_before": handed_on("an older setting, which transformers does not read"),
    "normalize_embedding": handed_on("an older setting, which transformers does not read"),
    "add_bias_logits": handed_on("an older setting, which transformers does not read"),
    "add_final_layer_norm": handed_on("an older setting, which transformers does not read"),
    "static_position_embeddings": handed_on("an older setting, which transformers does not read"),
    "extra_pos_embeddings": handed_on("an older setting, which transformers does not read"),
    "force_bos_token_to_be_generated": handed_on("an older name of `forced_bos_token_id`"),
    "output_past": no_effect("what is recorded of a forward"),
}
SIZE_FIELDS: Mapping[str, SizeFields] = {
    "encoder.stack": SizeFields("encoder_layers", "encoder_ffn_dim"),
    "stack": SizeFields("decoder_layers", "decoder_ffn_dim"),
}
PREFIX = "model."
ATTENTION_DROPOUT = "attention_dropout"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "BartForConditionalGeneration": ("clm",),
    **standard_classes("Bart", "classification", "question_answering"),
    "BartModel": (),
}
HEAD_NAMES: Mapping[str, str] = {"classification": "classification_head.out_proj"}


def attention_names(ours: str, theirs: str) -> list[Weight]:
    """Names of the four projections of an attention."""
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    return [key for own, other in parts.items() for key in weight_and_bias(f"{ours}.{own}", f"{theirs}.{other}")]


def layer_names(ours: str, theirs: str) -> list[Weight]:
    """Names of what the layers of encoder and decoder have in common."""
    return [
        *attention_names(f"{ours}.attention", f"{theirs}.self_attn"),
        *weight_and_bias(f"{ours}.norms.after_attention", f"{theirs}.self_attn_layer_norm"),
        *weight_and_bias(f"{ours}.feedforward.up", f"{theirs}.fc1"),
        *weight_and_bias(f"{ours}.feedforward.down", f"{theirs}.fc2"),
        *weight_and_bias(f"{ours}.norms.after_feedforward", f"{theirs}.final_layer_norm"),
    ]


BODY: Sequence[Weight] = [
    Weight("embedding.word.weight", "model.shared.weight"),
    Weight("embedding.word.weight", "model.encoder.embed_tokens.weight", alias=True),
    Weight("embedding.word.weight", "model.decoder.embed_tokens.weight", alias=True),
    *layer_names("encoder.stack.blocks.{}", "model.encoder.layers.{}"),
    *layer_names("stack.blocks.{}", "model.decoder.layers.{}"),
    *attention_names("stack.blocks.{}.cross", "model.decoder.layers.{}.encoder_attn"),
    *weight_and_bias("stack.blocks.{}.norms.after_cross", "model.decoder.layers.{}.encoder_attn_layer_norm"),
    Weight("heads.clm.weight", "lm_head.weight", alias=True),
    Weight("heads.clm.bias", "final_logits_bias", (Squeeze(1),), optional=True),
]
WEIGHT_MAP: Sequence[Weight] = [
    *BODY,
    Weight("encoder.embedding.position.weight", "model.encoder.embed_positions.weight"),
    *weight_and_bias("encoder.embedding.norm", "model.encoder.layernorm_embedding"),
    Weight("embedding.position.weight", "model.decoder.embed_positions.weight"),
    *weight_and_bias("embedding.norm", "model.decoder.layernorm_embedding"),
    *weight_and_bias("heads.classification.pooler.dense", "classification_head.dense"),
]


def build(config: Config) -> EncoderDecoder:
    """Builds a BART without heads."""
    width, length = config.d_model, config.max_position_embeddings
    return assemble("bart", config, lambda: Learned(length, width, offset=2), normed=True)


def assemble(
    family: str,
    config: Config,
    position: Callable[[], Learned | Sinusoidal],
    *,
    normed: bool,
) -> EncoderDecoder:
    """Builds an encoder-decoder with BART's layers.

    Args:
        position: makes the position embedding of the encoder or of the decoder.
        normed: the embeddings end with a norm.
    """
    width, dropout = config.d_model, config.dropout
    word = Vocabulary(config.vocab_size, width)

    def embedding() -> Embedding:
        scale = width**0.5 if config.scale_embedding else 1.0
        norm = nn.LayerNorm(width) if normed else None
        return Embedding(
            config.vocab_size, width, word=word, position=position(), scale=scale, norm=norm, dropout=dropout
        )

    encoder = Encoder(embedding(), Stack([_encoder_block(config) for _ in range(config.encoder_layers)]))
    writing, stack = embedding(), Stack([_decoder_block(config) for _ in range(config.decoder_layers)])
    parts = HeadParts(
        width,
        "last",
        config.tie_word_embeddings,
        vocabulary_bias=True,
        activation=activation(config.activation_function),
        pooler=lambda: Pooler(width, dropout=config.classifier_dropout),
        dropout=config.classifier_dropout,
    )
    last = config.forced_eos_token_id
    ends = last if isinstance(last, tuple) else () if last is None else (last,)
    constraints = GenerationConstraints(config.forced_bos_token_id, ends, config.bad_words_ids or ())
    start, std = config.decoder_start_token_id, config.init_std
    return EncoderDecoder(family, config, encoder, writing, stack, parts, start=start, constraints=constraints, std=std)


def _attention(config: Config, side: str, structure: Structure) -> Attention:
    heads = getattr(config, f"{side}_attention_heads")
    return Attention(config.d_model, heads, structure, dropout=config.attention_dropout)


def _feedforward(config: Config, side: str) -> FeedForward:
    return FeedForward(config.d_model, getattr(config, f"{side}_ffn_dim"), activation(config.activation_function))


def _encoder_block(config: Config) -> Block:
    width = config.d_model
    return Block(
        _attention(config, "encoder", BIDIRECTIONAL),
        _feedforward(config, "encoder"),
        Norms(after_attention=nn.LayerNorm(width), after_feedforward=nn.LayerNorm(width)),
        dropout=config.dropout,
    )


def _decoder_block(config: Config) -> DecoderBlock:
    norms = {name: nn.LayerNorm(config.d_model) for name in ("after_attention", "after_cross", "after_feedforward")}
    return DecoderBlock(
        _attention(config, "decoder", CAUSAL),
        _attention(config, "decoder", BIDIRECTIONAL),
        _feedforward(config, "decoder"),
        Norms(**norms),
        dropout=config.dropout,
    )
