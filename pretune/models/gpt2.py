"""GPT-2: causal, pre-norm, GELU by tanh, a fused and transposed query-key-value in its files.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from pretune.field_table import FieldTable, handed_on, no_effect
from pretune.models import gpt, model
from pretune.models.head_table import standard_classes
from pretune.models.init import branch_ends
from pretune.models.model import LanguageModel
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import Slice, Transpose, Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block, Norms
from pretune.nn.embedding import Embedding, Learned
from pretune.nn.feedforward import FeedForward
from pretune.nn.head_parts import HeadParts
from pretune.nn.stack import Stack
from pretune.nn.structure import CAUSAL


class Config(model.Config):
    """Fields of `config.json`. Attention dropout is 0 unless asked for: above it, attention leaves the fast kernels."""

    vocab_size: int = Field(50257, ge=1, le=2**22)
    n_positions: int = Field(1024, ge=1, le=2**20)
    n_embd: int = Field(768, ge=1, le=2**16)
    n_layer: int = Field(12, ge=1, le=512)
    n_head: int = Field(12, ge=1, le=1024)
    n_inner: int | None = Field(None, ge=1, le=2**18)
    activation_function: str = "gelu_new"
    resid_pdrop: float = Field(0.1, ge=0, lt=1)
    embd_pdrop: float = Field(0.1, ge=0, lt=1)
    attn_pdrop: float = Field(0.0, ge=0, lt=1)
    layer_norm_epsilon: float = Field(1e-5, ge=0, le=1)
    initializer_range: float = Field(0.02, ge=0, le=10)
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    bos_token_id: int | None = Field(None, ge=0)
    eos_token_id: int | None = Field(None, ge=0)
    pad_token_id: int | None = Field(None, ge=0)
    add_cross_attention: Literal[False] = False

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        activation(self.activation_function)
        return self


def _size(layers: int, width: int, heads: int) -> dict[str, int]:
    return {"n_layer": layers, "n_embd": width, "n_head": heads}


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _size(2, 128, 2),
    "mini": _size(4, 256, 4),
    "nano": _size(6, 384, 6),
    "small": _size(12, 768, 12),
    "medium": _size(24, 1024, 16),
    "large": _size(36, 1280, 20),
    "xl": _size(48, 1600, 25),
}
OTHER_NAMES = gpt.OTHER_NAMES
FILE_FIELDS: FieldTable = {
    **gpt.SUMMARY_FIELDS,
    "n_ctx": handed_on("an older name of `n_positions`, beside which it stands"),
    "predict_special_tokens": handed_on("an older setting without effect"),
    "reorder_and_upcast_attn": no_effect("the precision of scores, which here is fp32"),
}
SIZE_FIELDS: Mapping[str, SizeFields] = {"stack": SizeFields("n_layer", "n_inner")}
EMBEDS_SEGMENTS_AS_TOKENS = True
PREFIX = "transformer."
ATTENTION_DROPOUT = "attn_pdrop"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "GPT2LMHeadModel": ("clm",),
    **standard_classes("GPT2", "classification", "token_classification", "question_answering"),
    "GPT2Model": (),
}
HEAD_NAMES: Mapping[str, str] = {"classification": "score"}


WEIGHT_MAP: Sequence[Weight] = [
    Weight("embedding.word.weight", "transformer.wte.weight"),
    Weight("embedding.position.weight", "transformer.wpe.weight"),
    *weight_and_bias("stack.blocks.{}.norms.before_attention", "transformer.h.{}.ln_1"),
    *weight_and_bias("stack.blocks.{}.attention.query", "transformer.h.{}.attn.c_attn", Transpose(), Slice(0, 3)),
    *weight_and_bias("stack.blocks.{}.attention.key", "transformer.h.{}.attn.c_attn", Transpose(), Slice(1, 3)),
    *weight_and_bias("stack.blocks.{}.attention.value", "transformer.h.{}.attn.c_attn", Transpose(), Slice(2, 3)),
    *weight_and_bias("stack.blocks.{}.attention.output", "transformer.h.{}.attn.c_proj", Transpose()),
    *weight_and_bias("stack.blocks.{}.norms.before_feedforward", "transformer.h.{}.ln_2"),
    *weight_and_bias("stack.blocks.{}.feedforward.up", "transformer.h.{}.mlp.c_fc", Transpose()),
    *weight_and_bias("stack.blocks.{}.feedforward.down", "transformer.h.{}.mlp.c_proj", Transpose()),
    *weight_and_bias("stack.norm", "transformer.ln_f"),
    Weight("heads.clm.weight", "lm_head.weight", alias=True),
]


def build(config: Config) -> LanguageModel:
    """Builds a GPT-2 without heads."""
    position = Learned(config.n_positions, config.n_embd)
    embedding = Embedding(config.vocab_size, config.n_embd, position=position, dropout=config.embd_pdrop)
    stack = Stack([_block(config, layer) for layer in range(config.n_layer)], _norm(config))
    parts = HeadParts(config.n_embd, "last", config.tie_word_embeddings, sequence_bias=False, token_dropout=0.1)
    std = config.initializer_range
    return LanguageModel("gpt2", config, embedding, stack, parts, std=std, place_stds=branch_ends(std, config.n_layer))


def _norm(config: Config) -> nn.LayerNorm:
    return nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)


def _block(config: Config, layer: int) -> Block:
    scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
    if config.scale_attn_by_inverse_layer_idx:
        scale /= layer + 1
    return Block(
        Attention(config.n_embd, config.n_head, CAUSAL, dropout=config.attn_pdrop, scale=scale),
        FeedForward(config.n_embd, config.n_inner or 4 * config.n_embd, activation(config.activation_function)),
        Norms(before_attention=_norm(config), before_feedforward=_norm(config)),
        dropout=config.resid_pdrop,
    )
