"""Llama: pre-norm with RMSNorm, rotary positions, gated feed-forward, no biases, grouped-query attention.

Source: Touvron et al. 2023, arXiv 2302.13971; Grattafiori et al. 2024, arXiv 2407.21783.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from pretune.field_table import FieldTable, no_effect, refused
from pretune.models import model
from pretune.models.head_table import standard_classes
from pretune.models.init import branch_ends
from pretune.models.model import LanguageModel
from pretune.models.rope import RopeConfig, rope_fields
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block, Norms
from pretune.nn.embedding import Embedding
from pretune.nn.feedforward import GatedFeedForward
from pretune.nn.head_parts import HeadParts
from pretune.nn.stack import Stack
from pretune.nn.structure import CAUSAL, SlidingWindow, Structure


class Config(model.Config):
    """Fields of `config.json`; older files say `rope_parameters` as `rope_theta` and `rope_scaling`."""

    OLDER_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"rope_theta", "rope_scaling", "original_max_position_embeddings"}
    )
    vocab_size: int = Field(32000, ge=1, le=2**22)
    hidden_size: int = Field(4096, ge=1, le=2**16)
    intermediate_size: int = Field(11008, ge=1, le=2**18)
    num_hidden_layers: int = Field(32, ge=1, le=512)
    num_attention_heads: int = Field(32, ge=1, le=1024)
    num_key_value_heads: int = Field(32, ge=1, le=1024)
    head_dim: int = Field(128, ge=2, le=4096)
    hidden_act: str = "silu"
    max_position_embeddings: int = Field(2048, ge=1, le=2**24)
    initializer_range: float = Field(0.02, ge=0, le=10)
    rms_norm_eps: float = Field(1e-6, ge=0, le=1)
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    rope_parameters: RopeConfig = Field(default_factory=RopeConfig)
    tie_word_embeddings: bool = False
    bos_token_id: int | None = Field(1, ge=0)
    eos_token_id: int | None = Field(2, ge=0)
    pad_token_id: int | None = Field(None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, tree: Any) -> Any:
        """Fills in what older files leave out."""
        if not isinstance(tree, Mapping):
            return tree
        out = {name: value for name, value in tree.items() if name not in cls.OLDER_FIELDS}
        heads, width = out.get("num_attention_heads", 32), out.get("hidden_size", 4096)
        if out.get("num_key_value_heads") is None:
            out["num_key_value_heads"] = heads
        if out.get("head_dim") is None and isinstance(heads, int) and isinstance(width, int) and heads > 0:
            out["head_dim"] = width // heads
        return {**out, "rope_parameters": rope_fields(tree)}

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd: rotary positions rotate pairs")
        activation(self.hidden_act)
        return self

    def structure(self, layer: int) -> Structure:
        """What a token may see in a layer: everything before it."""
        return CAUSAL


class WindowConfig(Config):
    """Fields of a configuration whose last layers may look at a window of tokens alone, as Qwen's may."""

    use_sliding_window: bool = False
    sliding_window: int | None = Field(None, ge=1, le=2**24)
    max_window_layers: int = Field(28, ge=0)
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] | None = None

    @model_validator(mode="after")
    def _windows(self) -> WindowConfig:
        types = self.layer_types
        if types is not None and len(types) != self.num_hidden_layers:
            raise ValueError(f"{len(types)} layer_types for num_hidden_layers {self.num_hidden_layers}")
        if self.window is None and "sliding_attention" in (types or ()):
            raise ValueError("layer_types name 'sliding_attention' without use_sliding_window and sliding_window")
        return self

    @property
    def window(self) -> int | None:
        """Tokens that a layer with a window sees, the token itself included."""
        return self.sliding_window if self.use_sliding_window else None

    def types_of(self, layers: Sequence[int]) -> dict[str, Any]:
        """The field that says what a token may see in each of some layers, which are those of a smaller model."""
        if self.layer_types is None and self.window is None:
            return {}
        windows = ["full_attention" if self.structure(layer) == CAUSAL else "sliding_attention" for layer in layers]
        return {"layer_types": windows}

    def structure(self, layer: int) -> Structure:
        """What a token may see in a layer."""
        if self.layer_types is None:
            sliding = layer >= self.max_window_layers
        else:
            sliding = self.layer_types[layer] == "sliding_attention"
        return CAUSAL if self.window is None or not sliding else SlidingWindow(self.window - 1, 0)


def size(layers: int, width: int, heads: int, keys: int, inner: int, head: int | None = None) -> dict[str, int]:
    """Fields of a size."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "intermediate_size": inner,
        "head_dim": head or width // heads,
    }


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": size(2, 128, 2, 1, 352),
    "mini": size(4, 256, 4, 2, 704),
    "nano": size(6, 384, 6, 2, 1024),
    "135m": {**size(30, 576, 9, 3, 1536), "vocab_size": 49152, "tie_word_embeddings": True},
    "7b": size(32, 4096, 32, 32, 11008),
    "13b": size(40, 5120, 40, 40, 13824),
    "65b": size(80, 8192, 64, 64, 22016),
}
FILE_FIELDS: FieldTable = {
    "pretraining_tp": no_effect("the same product in parts"),
    "partial_rotary_factor": refused(
        "heads that rotate in part are not built", "use the model without", allowed=(None, 1)
    ),
    "is_llama_config": no_effect("a record"),
    "use_mrope": refused("positions of images are not built", "use the model without them"),
    "rope_interleaved": refused("another order of the pairs is not built", "use the model without it"),
}
SIZE_FIELDS: Mapping[str, SizeFields] = {
    "stack": SizeFields("num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")
}
PREFIX = "model."
ATTENTION_DROPOUT = "attention_dropout"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "LlamaForCausalLM": ("clm",),
    **standard_classes("Llama", "classification", "token_classification", "question_answering"),
    "LlamaModel": (),
}
HEAD_NAMES: Mapping[str, str] = {"classification": "score", "token_classification": "score"}
PREFIXES: Mapping[str, str] = {"LlamaForQuestionAnswering": "transformer."}


WEIGHT_MAP: Sequence[Weight] = [
    Weight("embedding.word.weight", "model.embed_tokens.weight"),
    Weight("stack.blocks.{}.norms.before_attention.weight", "model.layers.{}.input_layernorm.weight"),
    *weight_and_bias("stack.blocks.{}.attention.query", "model.layers.{}.self_attn.q_proj"),
    *weight_and_bias("stack.blocks.{}.attention.key", "model.layers.{}.self_attn.k_proj"),
    *weight_and_bias("stack.blocks.{}.attention.value", "model.layers.{}.self_attn.v_proj"),
    *weight_and_bias("stack.blocks.{}.attention.output", "model.layers.{}.self_attn.o_proj"),
    Weight("stack.blocks.{}.norms.before_feedforward.weight", "model.layers.{}.post_attention_layernorm.weight"),
    *weight_and_bias("stack.blocks.{}.feedforward.gate", "model.layers.{}.mlp.gate_proj"),
    *weight_and_bias("stack.blocks.{}.feedforward.value", "model.layers.{}.mlp.up_proj"),
    *weight_and_bias("stack.blocks.{}.feedforward.down", "model.layers.{}.mlp.down_proj"),
    Weight("stack.norm.weight", "model.norm.weight"),
    Weight("heads.clm.weight", "lm_head.weight", alias=True),
]


def build(config: Config) -> LanguageModel:
    """Builds a Llama without heads."""
    return assemble("llama", config, attention_of(config, bias=config.attention_bias))


def assemble(family: str, config: Config, attention: Callable[[Structure], Attention]) -> LanguageModel:
    """Builds a decoder with Llama's layers.

    Args:
        attention: makes the attention of one layer, by what a token may see in it.
    """
    width = config.hidden_size
    embedding = Embedding(config.vocab_size, width)
    blocks = [_block(config, attention(config.structure(layer))) for layer in range(config.num_hidden_layers)]
    stack = Stack(blocks, norm_of(config, width))
    parts = HeadParts(width, "last", config.tie_word_embeddings, sequence_bias=False, token_dropout=0.1)
    std = config.initializer_range
    return LanguageModel(
        family,
        config,
        embedding,
        stack,
        parts,
        std=std,
        place_stds=branch_ends(std, config.num_hidden_layers),
        positions=config.max_position_embeddings,
    )


def attention_of(
    config: Config, *, bias: bool, output_bias: bool | None = None, normed: bool = False
) -> Callable[[Structure], Attention]:
    """Gives a function that makes the attention of one layer.

    Args:
        bias, output_bias: of the projections into it and out of it.
        normed: heads of queries and keys have a norm.
    """
    return lambda structure: Attention(
        config.hidden_size,
        config.num_attention_heads,
        structure,
        key_heads=config.num_key_value_heads,
        head_width=config.head_dim,
        dropout=config.attention_dropout,
        bias=bias,
        output_bias=output_bias,
        rotary=config.rope_parameters.rotary(config.head_dim),
        norms=(norm_of(config, config.head_dim), norm_of(config, config.head_dim)) if normed else None,
    )


def norm_of(config: Config, width: int) -> nn.RMSNorm:
    """Builds an RMSNorm."""
    return nn.RMSNorm(width, eps=config.rms_norm_eps)


def _block(config: Config, attention: Attention) -> Block:
    width = config.hidden_size
    return Block(
        attention,
        GatedFeedForward(width, config.intermediate_size, activation(config.hidden_act), bias=config.mlp_bias),
        Norms(before_attention=norm_of(config, width), before_feedforward=norm_of(config, width)),
    )
