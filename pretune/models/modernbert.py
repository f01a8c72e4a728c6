"""ModernBERT: pre-norm, rotary positions, gated feed-forward, no biases; two of three layers use a sliding window.

The first layer has no norm before its attention: the embedding ends with one.

Source: Warner et al. 2024, arXiv 2412.13663.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from pretune.field_table import FieldTable, handed_on, no_effect, refused
from pretune.models import model
from pretune.models.head_table import standard_classes
from pretune.models.init import branch_ends
from pretune.models.model import LanguageModel
from pretune.models.rope import RopeConfig, complete
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import Slice, Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block, Norms
from pretune.nn.embedding import Embedding
from pretune.nn.feedforward import GatedFeedForward
from pretune.nn.head_parts import HeadParts
from pretune.nn.heads import Transform
from pretune.nn.stack import Stack
from pretune.nn.structure import BIDIRECTIONAL, SlidingWindow

LayerType = Literal["full_attention", "sliding_attention"]


class Config(model.Config):
    """Fields of `config.json`; `global_attn_every_n_layers` and the two thetas are how older files say it."""

    vocab_size: int = Field(50368, ge=1, le=2**22)
    hidden_size: int = Field(768, ge=1, le=2**16)
    num_hidden_layers: int = Field(22, ge=1, le=512)
    num_attention_heads: int = Field(12, ge=1, le=1024)
    intermediate_size: int = Field(1152, ge=1, le=2**18)
    hidden_activation: str = "gelu"
    max_position_embeddings: int = Field(8192, ge=1, le=2**20)
    initializer_range: float = Field(0.02, ge=0, le=10)
    norm_eps: float = Field(1e-5, ge=0, le=1)
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    decoder_bias: bool = True
    classifier_bias: bool = False
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    embedding_dropout: float = Field(0.0, ge=0, lt=1)
    classifier_dropout: float = Field(0.0, ge=0, lt=1)
    classifier_pooling: Literal["cls", "mean"] = "cls"
    classifier_activation: str = "gelu"
    local_attention: int = Field(128, ge=2, le=2**20)
    global_attn_every_n_layers: int = Field(3, ge=1)
    global_rope_theta: float = Field(160_000.0, gt=1, le=1e9)
    local_rope_theta: float = Field(10_000.0, gt=1, le=1e9)
    layer_types: tuple[LayerType, ...] = ()
    rope_parameters: dict[LayerType, RopeConfig] = Field(default_factory=dict)
    pad_token_id: int | None = Field(50283, ge=0)
    bos_token_id: int | None = Field(50281, ge=0)
    eos_token_id: int | None = Field(50282, ge=0)
    cls_token_id: int | None = Field(50281, ge=0)
    sep_token_id: int | None = Field(50282, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _either_form(cls, tree: Any) -> Any:
        """Say in both forms what is said in one; of two the newer holds."""
        if not isinstance(tree, Mapping):
            return tree
        out = dict(tree)
        every, layers = out.get("global_attn_every_n_layers", 3), out.get("num_hidden_layers", 22)
        if not out.get("layer_types") and isinstance(every, int) and isinstance(layers, int) and every > 0:
            out["layer_types"] = ["sliding_attention" if n % every else "full_attention" for n in range(layers)]
        stated = out.get("rope_parameters") or {}
        if not isinstance(stated, Mapping):
            return out
        rotary = dict(stated)
        for layer_type, name, usual in (("full", "global", 160_000.0), ("sliding", "local", 10_000.0)):
            fields = rotary.get(f"{layer_type}_attention") or {}
            if isinstance(fields, Mapping):
                rotary[f"{layer_type}_attention"] = complete(fields, out, out.get(f"{name}_rope_theta") or usual)
        return {**out, "rope_parameters": rotary}

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} over num_attention_heads {self.num_attention_heads} is not an even "
                "number, as rotary positions need"
            )
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(f"{len(self.layer_types)} layer_types for num_hidden_layers {self.num_hidden_layers}")
        activation(self.hidden_activation)
        activation(self.classifier_activation)
        return self


def _size(layers: int, width: int, inner: int, every: int = 3) -> dict[str, int | str]:
    """The released models classify by the mean of all rows, though the class of `transformers` reads the first one."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "intermediate_size": inner,
        "global_attn_every_n_layers": every,
        "classifier_pooling": "mean",
    }


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _size(2, 128, 192, every=1),
    "mini": _size(4, 256, 384),
    "small": _size(7, 512, 768),
    "base": _size(22, 768, 1152),
    "large": _size(28, 1024, 2624),
}
_LOSS = no_effect("how its own training computes the loss")
FILE_FIELDS: FieldTable = {
    "deterministic_flash_attn": no_effect("which kernel computes the same attention"),
    "mlp_dropout": handed_on(
        "is not dropped in training here", types=(float,), note_unless=(None, 0, 0.0), training=True
    ),
    "reference_compile": no_effect("speed"),
    "repad_logits_with_grad": _LOSS,
    "sparse_prediction": _LOSS,
    "sparse_pred_ignore_index": _LOSS,
    "initializer_cutoff_factor": handed_on("initial weights", types=(float,)),
    "layer_norm_eps": no_effect("`norm_eps` says it"),
    "rope_scaling": refused(
        "a scaling for all layers is not read", "write it into rope_parameters", allowed=(None, {})
    ),
    "sliding_window": refused("`local_attention` says it, twice as large", "leave the field out"),
}


def _layer_types(config: Config, layers: Sequence[int]) -> dict[str, Any]:
    """The types of fewer layers: of the same pattern, all that some readers know, or those of the layers that stay."""
    every = config.global_attn_every_n_layers
    pattern = ["sliding_attention" if n % every else "full_attention" for n in range(config.num_hidden_layers)]
    types = list(config.layer_types)
    return {"layer_types": pattern[: len(layers)] if types == pattern else [types[layer] for layer in layers]}


SIZE_FIELDS: Mapping[str, SizeFields] = {
    "stack": SizeFields("num_hidden_layers", "intermediate_size", by_layer=_layer_types)
}
PREFIX = "model."
ATTENTION_DROPOUT = "attention_dropout"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "ModernBertForMaskedLM": ("mlm",),
    **standard_classes("ModernBert"),
    "ModernBertModel": (),
}
HEAD_NAMES: Mapping[str, str] = {"question_answering": "classifier"}


def _transform_names(*modules: str) -> list[Weight]:
    """The transform before every head, where each of them has it."""
    return [
        weight
        for module in modules
        for part in ("dense", "norm")
        for weight in weight_and_bias(f"heads.{module}.{part}", f"head.{part}")
    ]


WEIGHT_MAP: Sequence[Weight] = [
    Weight("embedding.word.weight", "model.embeddings.tok_embeddings.weight"),
    *weight_and_bias("embedding.norm", "model.embeddings.norm"),
    *weight_and_bias("stack.blocks.{}.norms.before_attention", "model.layers.{}.attn_norm"),
    *weight_and_bias("stack.blocks.{}.attention.query", "model.layers.{}.attn.Wqkv", Slice(0, 3)),
    *weight_and_bias("stack.blocks.{}.attention.key", "model.layers.{}.attn.Wqkv", Slice(1, 3)),
    *weight_and_bias("stack.blocks.{}.attention.value", "model.layers.{}.attn.Wqkv", Slice(2, 3)),
    *weight_and_bias("stack.blocks.{}.attention.output", "model.layers.{}.attn.Wo"),
    *weight_and_bias("stack.blocks.{}.norms.before_feedforward", "model.layers.{}.mlp_norm"),
    *weight_and_bias("stack.blocks.{}.feedforward.gate", "model.layers.{}.mlp.Wi", Slice(0, 2)),
    *weight_and_bias("stack.blocks.{}.feedforward.value", "model.layers.{}.mlp.Wi", Slice(1, 2)),
    *weight_and_bias("stack.blocks.{}.feedforward.down", "model.layers.{}.mlp.Wo"),
    *weight_and_bias("stack.norm", "model.final_norm"),
    *_transform_names("mlm.transform"),
    *_transform_names("classification.pooler", "multiple_choice.pooler"),
    *_transform_names("token_classification.transform", "question_answering.transform"),
    Weight("heads.mlm.weight", "decoder.weight", alias=True),
    Weight("heads.mlm.bias", "decoder.bias"),
]


def build(config: Config) -> LanguageModel:
    """Builds a ModernBERT without heads."""
    width = config.hidden_size
    embedding = Embedding(config.vocab_size, width, norm=_norm(config), dropout=config.embedding_dropout)
    stack = Stack([_block(config, layer) for layer in range(config.num_hidden_layers)], _norm(config))
    transform = Transform(width, activation(config.classifier_activation), _norm(config), bias=config.classifier_bias)
    parts = HeadParts(
        width,
        "mean" if config.classifier_pooling == "mean" else "first",
        config.tie_word_embeddings,
        vocabulary_bias=config.decoder_bias,
        vocabulary_transform=lambda: transform,
        activation=activation(config.classifier_activation),
        pooler=lambda: transform,
        row_transform=lambda: transform,
        dropout=config.classifier_dropout,
        span_dropout=config.classifier_dropout,
    )
    std = config.initializer_range
    return LanguageModel(
        "modernbert",
        config,
        embedding,
        stack,
        parts,
        std=std,
        place_stds=branch_ends(std, config.num_hidden_layers),
        positions=config.max_position_embeddings,
    )


def _norm(config: Config) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


def _block(config: Config, layer: int) -> Block:
    layer_type, reach = config.layer_types[layer], config.local_attention // 2
    attention = Attention(
        config.hidden_size,
        config.num_attention_heads,
        BIDIRECTIONAL if layer_type == "full_attention" else SlidingWindow(reach, reach),
        dropout=config.attention_dropout,
        bias=config.attention_bias,
        rotary=config.rope_parameters[layer_type].rotary(config.hidden_size // config.num_attention_heads),
    )
    return Block(
        attention,
        GatedFeedForward(
            config.hidden_size, config.intermediate_size, activation(config.hidden_activation), bias=config.mlp_bias
        ),
        Norms(before_attention=_norm(config) if layer else None, before_feedforward=_norm(config)),
    )
