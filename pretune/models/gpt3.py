"""GPT-3's shapes: GPT-2, but every second layer attends locally; in the files of GPT-Neo, its replica.

As there, scores are not scaled, and queries, keys and values have no biases.

Source: Brown et al. 2020 (arXiv 2005.14165), section 2.1 and table 2.1; Black et al. 2021, GPT-Neo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from pretune.field_table import FieldTable, no_effect
from pretune.models import gpt, model
from pretune.models.head_table import standard_classes
from pretune.models.init import branch_ends
from pretune.models.model import LanguageModel
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block, Norms
from pretune.nn.embedding import Embedding, Learned
from pretune.nn.feedforward import FeedForward
from pretune.nn.head_parts import HeadParts
from pretune.nn.stack import Stack
from pretune.nn.structure import CAUSAL, SlidingWindow

Reach = Literal["global", "local"]


class Config(model.Config):
    """Fields of `config.json`. `attention_types` lists patterns and how often each is repeated."""

    vocab_size: int = Field(50257, ge=1, le=2**22)
    max_position_embeddings: int = Field(2048, ge=1, le=2**20)
    hidden_size: int = Field(2048, ge=1, le=2**16)
    num_layers: int = Field(24, ge=1, le=512)
    num_heads: int = Field(16, ge=1, le=1024)
    intermediate_size: int | None = Field(None, ge=1, le=2**18)
    attention_types: tuple[tuple[tuple[Reach, ...], int], ...] = ()
    window_size: int = Field(256, ge=1, le=2**20)
    activation_function: str = "gelu_new"
    resid_dropout: float = Field(0.0, ge=0, lt=1)
    embed_dropout: float = Field(0.0, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    layer_norm_epsilon: float = Field(1e-5, ge=0, le=1)
    classifier_dropout: float = Field(0.1, ge=0, lt=1)
    initializer_range: float = Field(0.02, ge=0, le=10)
    bos_token_id: int | None = Field(None, ge=0)
    eos_token_id: int | None = Field(None, ge=0)
    pad_token_id: int | None = Field(None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, tree: Any) -> Any:
        """Every layer attends globally unless the file says otherwise."""
        if not isinstance(tree, Mapping) or tree.get("attention_types"):
            return tree
        return {**tree, "attention_types": [[["global"], tree.get("num_layers", 24)]]}

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if len(self.reaches) != self.num_layers:
            raise ValueError(f"attention_types make {len(self.reaches)} layers, num_layers is {self.num_layers}")
        activation(self.activation_function)
        return self

    @property
    def reaches(self) -> list[Reach]:
        """Whether each layer attends globally or locally."""
        return [reach for pattern, times in self.attention_types for reach in list(pattern) * min(times, 512)]


def _size(layers: int, width: int, heads: int) -> dict[str, int]:
    return {"num_layers": layers, "hidden_size": width, "num_heads": heads}


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _size(2, 128, 2),
    "mini": _size(4, 256, 4),
    "small": _size(12, 768, 12),
    "medium": _size(24, 1024, 16),
    "large": _size(24, 1536, 16),
    "xl": _size(24, 2048, 16),  # the table's 24 heads of 128 are not 2048
    "2.7b": _size(32, 2560, 32),
    "6.7b": _size(32, 4096, 32),
    "13b": _size(40, 5120, 40),  # the table's 5140 is not a multiple of its 40 heads
    "175b": _size(96, 12288, 96),
}
MODEL_TYPE = "gpt_neo"
OTHER_NAMES: Mapping[str, str] = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
FILE_DEFAULTS: Mapping[str, Any] = {"attention_types": [[["global", "local"], 12]]}
FILE_FIELDS: FieldTable = {
    "attention_layers": no_effect("follows from `attention_types`", types=(list,)),
    **gpt.SUMMARY_FIELDS,
    "gradient_checkpointing": no_effect("memory"),
    "tokenizer_type": no_effect("a record"),
}


def _reaches(config: Config, layers: Sequence[int]) -> dict[str, Any]:
    """Which of the layers that stay attend globally."""
    return {"attention_types": [[[config.reaches[layer] for layer in layers], 1]]}


SIZE_FIELDS: Mapping[str, SizeFields] = {"stack": SizeFields("num_layers", "intermediate_size", by_layer=_reaches)}
EMBEDS_SEGMENTS_AS_TOKENS = True
PREFIX = "transformer."
ATTENTION_DROPOUT = "attention_dropout"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "GPTNeoForCausalLM": ("clm",),
    **standard_classes("GPTNeo", "classification", "token_classification", "question_answering"),
    "GPTNeoModel": (),
}
HEAD_NAMES: Mapping[str, str] = {"classification": "score"}
_ATTENTION = "transformer.h.{}.attn.attention"
WEIGHT_MAP: Sequence[Weight] = [
    Weight("embedding.word.weight", "transformer.wte.weight"),
    Weight("embedding.position.weight", "transformer.wpe.weight"),
    *weight_and_bias("stack.blocks.{}.norms.before_attention", "transformer.h.{}.ln_1"),
    Weight("stack.blocks.{}.attention.query.weight", f"{_ATTENTION}.q_proj.weight"),
    Weight("stack.blocks.{}.attention.key.weight", f"{_ATTENTION}.k_proj.weight"),
    Weight("stack.blocks.{}.attention.value.weight", f"{_ATTENTION}.v_proj.weight"),
    *weight_and_bias("stack.blocks.{}.attention.output", f"{_ATTENTION}.out_proj"),
    *weight_and_bias("stack.blocks.{}.norms.before_feedforward", "transformer.h.{}.ln_2"),
    *weight_and_bias("stack.blocks.{}.feedforward.up", "transformer.h.{}.mlp.c_fc"),
    *weight_and_bias("stack.blocks.{}.feedforward.down", "transformer.h.{}.mlp.c_proj"),
    *weight_and_bias("stack.norm", "transformer.ln_f"),
    Weight("heads.clm.weight", "lm_head.weight", alias=True),
]


def build(config: Config) -> LanguageModel:
    """Builds a GPT-3 without heads."""
    width = config.hidden_size
    position = Learned(config.max_position_embeddings, width)
    embedding = Embedding(config.vocab_size, width, position=position, dropout=config.embed_dropout)
    stack = Stack([_block(config, reach) for reach in config.reaches], _norm(config))
    parts = HeadParts(
        width, "last", config.tie_word_embeddings, sequence_bias=False, token_dropout=config.classifier_dropout
    )
    std = config.initializer_range
    return LanguageModel(
        "gpt3", config, embedding, stack, parts, std=std, place_stds=branch_ends(std, config.num_layers)
    )


def _norm(config: Config) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)


def _block(config: Config, reach: Reach) -> Block:
    width = config.hidden_size
    return Block(
        Attention(
            width,
            config.num_heads,
            CAUSAL if reach == "global" else SlidingWindow(config.window_size - 1, 0),
            dropout=config.attention_dropout,
            scale=1.0,
            bias=False,
            output_bias=True,
        ),
        FeedForward(width, config.intermediate_size or 4 * width, activation(config.activation_function)),
        Norms(before_attention=_norm(config), before_feedforward=_norm(config)),
        dropout=config.resid_dropout,
    )
