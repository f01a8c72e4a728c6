"""GPT-NeoX, outside the tree: parallel branches, rotary positions over a quarter of each head, a vocabulary of its own.

Its files hold queries, keys and values in one matrix, head by head.

Source: Black et al. 2022, arXiv 2204.06745; the sizes of Pythia: Biderman et al. 2023, arXiv 2304.01373.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator
from torch import nn

from pretune.models import model
from pretune.models.head_table import standard_classes
from pretune.models.model import LanguageModel
from pretune.models.rope import RopeConfig
from pretune.models.weight_map import Interleave, Slice, Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block, Norms, ParallelBlock
from pretune.nn.embedding import Embedding
from pretune.nn.feedforward import FeedForward
from pretune.nn.head_parts import HeadParts
from pretune.nn.rotary import PartialRotary
from pretune.nn.stack import Stack
from pretune.nn.structure import CAUSAL


class Rope(RopeConfig):
    """Base and scaling of the rotation, and the part of a head that is rotated."""

    partial_rotary_factor: float = Field(0.25, gt=0, le=1)


class Config(model.Config):
    """Fields of `config.json`; older files say `rope_parameters` as `rotary_pct` and `rotary_emb_base`."""

    OLDER_FIELDS: ClassVar[frozenset[str]] = frozenset({"rotary_pct", "rotary_emb_base", "rope_scaling"})
    vocab_size: int = Field(50432, ge=1, le=2**22)
    hidden_size: int = Field(6144, ge=1, le=2**16)
    num_hidden_layers: int = Field(44, ge=1, le=512)
    num_attention_heads: int = Field(64, ge=1, le=1024)
    intermediate_size: int = Field(24576, ge=1, le=2**18)
    hidden_act: str = "gelu"
    attention_bias: bool = True
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    hidden_dropout: float = Field(0.0, ge=0, lt=1)
    classifier_dropout: float = Field(0.1, ge=0, lt=1)
    max_position_embeddings: int = Field(2048, ge=1, le=2**24)
    initializer_range: float = Field(0.02, ge=0, le=10)
    layer_norm_eps: float = Field(1e-5, ge=0, le=1)
    use_parallel_residual: bool = True
    rope_parameters: Rope = Field(default_factory=Rope)
    tie_word_embeddings: bool = False
    bos_token_id: int | None = Field(0, ge=0)
    eos_token_id: int | None = Field(2, ge=0)
    pad_token_id: int | None = Field(None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _older(cls, tree: Any) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        rope = dict(tree.get("rope_parameters") or tree.get("rope_scaling") or {})
        for old, new in (("rotary_pct", "partial_rotary_factor"), ("rotary_emb_base", "rope_theta")):
            if old in tree:
                rope.setdefault(new, tree[old])
        fields = {name: value for name, value in tree.items() if name not in cls.OLDER_FIELDS}
        return {**fields, "rope_parameters": rope}

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        activation(self.hidden_act)
        return self

    @property
    def rotary_width(self) -> int:
        """The values of a head that are rotated."""
        return int(self.hidden_size // self.num_attention_heads * self.rope_parameters.partial_rotary_factor)


def _size(layers: int, width: int, heads: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


SIZES = {"tiny": _size(2, 128, 2), "70m": _size(6, 512, 8), "160m": _size(12, 768, 12), "20b": _size(44, 6144, 64)}
MODEL_TYPE = "gpt_neox"
PREFIX = "gpt_neox."
ATTENTION_DROPOUT = "attention_dropout"
ARCHITECTURES = {
    "GPTNeoXForCausalLM": ("clm",),
    **standard_classes("GPTNeoX", "classification", "token_classification", "question_answering"),
    "GPTNeoXModel": (),
}
HEAD_NAMES = {"classification": "score"}
_OURS, _THEIRS, _PER_HEAD = "stack.blocks.{}", "gpt_neox.layers.{}", Interleave("num_attention_heads", 3)
WEIGHT_MAP = [
    Weight("embedding.word.weight", "gpt_neox.embed_in.weight"),
    *weight_and_bias(f"{_OURS}.norms.before_attention", f"{_THEIRS}.input_layernorm"),
    *weight_and_bias(f"{_OURS}.norms.before_feedforward", f"{_THEIRS}.post_attention_layernorm"),
    *(
        weight
        for part, name in enumerate(("query", "key", "value"))
        for weight in weight_and_bias(
            f"{_OURS}.attention.{name}", f"{_THEIRS}.attention.query_key_value", _PER_HEAD, Slice(part, 3)
        )
    ),
    *weight_and_bias(f"{_OURS}.attention.output", f"{_THEIRS}.attention.dense"),
    *weight_and_bias(f"{_OURS}.feedforward.up", f"{_THEIRS}.mlp.dense_h_to_4h"),
    *weight_and_bias(f"{_OURS}.feedforward.down", f"{_THEIRS}.mlp.dense_4h_to_h"),
    *weight_and_bias("stack.norm", "gpt_neox.final_layer_norm"),
    Weight("heads.clm.weight", "embed_out.weight", alias=True),
]


def build(config: Config) -> LanguageModel:
    """The modules of a GPT-NeoX."""
    width = config.hidden_size
    return LanguageModel(
        "neox",
        config,
        Embedding(config.vocab_size, width, dropout=config.hidden_dropout),
        Stack([_block(config) for _ in range(config.num_hidden_layers)], _norm(config)),
        HeadParts(
            width, "last", config.tie_word_embeddings, sequence_bias=False, token_dropout=config.classifier_dropout
        ),
        std=config.initializer_range,
        positions=config.max_position_embeddings,
    )


def _norm(config: Config) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def _block(config: Config) -> Block:
    attention = Attention(
        config.hidden_size,
        config.num_attention_heads,
        CAUSAL,
        dropout=config.attention_dropout,
        bias=config.attention_bias,
        rotary=PartialRotary(
            config.rotary_width, config.rope_parameters.rope_theta, config.rope_parameters.rotary(2).scaling
        ),
    )
    block = ParallelBlock if config.use_parallel_residual else Block
    return block(
        attention,
        FeedForward(config.hidden_size, config.intermediate_size, activation(config.hidden_act)),
        Norms(before_attention=_norm(config), before_feedforward=_norm(config)),
        dropout=config.hidden_dropout,
    )
