"""GPT, the first: causal as GPT-2, but with BERT's norms after the branches and none at the end.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator
from torch import nn

from pretune.field_table import FieldTable, handed_on
from pretune.models import model
from pretune.models.head_table import standard_classes
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
    """Fields of `config.json`. `afn = "gelu"` is GELU by tanh, as the authors had it."""

    vocab_size: int = Field(40478, ge=1, le=2**22)
    n_positions: int = Field(512, ge=1, le=2**20)
    n_embd: int = Field(768, ge=1, le=2**16)
    n_layer: int = Field(12, ge=1, le=512)
    n_head: int = Field(12, ge=1, le=1024)
    afn: str = "gelu"
    resid_pdrop: float = Field(0.1, ge=0, lt=1)
    embd_pdrop: float = Field(0.1, ge=0, lt=1)
    attn_pdrop: float = Field(0.0, ge=0, lt=1)
    layer_norm_epsilon: float = Field(1e-5, ge=0, le=1)
    initializer_range: float = Field(0.02, ge=0, le=10)
    bos_token_id: int | None = Field(None, ge=0)
    eos_token_id: int | None = Field(None, ge=0)
    pad_token_id: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        activation(self.afn)
        return self


def _size(layers: int, width: int) -> dict[str, int]:
    return {"n_layer": layers, "n_embd": width, "n_head": width // 64}


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _size(2, 128),
    "mini": _size(4, 256),
    "base": _size(12, 768),
}
MODEL_TYPE = "openai-gpt"
_WHY = "read by heads that are not built (...DoubleHeadsModel)"
SUMMARY_FIELDS: FieldTable = {
    **{f"summary_{name}": handed_on(_WHY, types=(str,)) for name in ("type", "activation")},
    **{f"summary_{name}": handed_on(_WHY, types=(bool,)) for name in ("use_proj", "proj_to_labels")},
    "summary_first_dropout": handed_on(_WHY, types=(float,)),
}
"""Of the summaries that the files of every GPT name."""
OTHER_NAMES: Mapping[str, str] = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
}
FILE_FIELDS: FieldTable = {
    **SUMMARY_FIELDS,
    "n_ctx": handed_on("an older name of `n_positions`, beside which it stands"),
    "predict_special_tokens": handed_on("an older setting without effect"),
    "n_special": handed_on("an older setting without effect"),
}
SIZE_FIELDS: Mapping[str, SizeFields] = {"stack": SizeFields("n_layer")}
EMBEDS_SEGMENTS_AS_TOKENS = True
"""Its classes in `transformers` add the vector of a token for each segment id that a tokenizer gives."""
PREFIX = "transformer."
ATTENTION_DROPOUT = "attn_pdrop"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "OpenAIGPTLMHeadModel": ("clm",),
    **standard_classes("OpenAIGPT", "classification"),
    "OpenAIGPTModel": (),
}
HEAD_NAMES: Mapping[str, str] = {"classification": "score"}
WEIGHT_MAP: Sequence[Weight] = [
    Weight("embedding.word.weight", "transformer.tokens_embed.weight"),
    Weight("embedding.position.weight", "transformer.positions_embed.weight"),
    *weight_and_bias("stack.blocks.{}.attention.query", "transformer.h.{}.attn.c_attn", Transpose(), Slice(0, 3)),
    *weight_and_bias("stack.blocks.{}.attention.key", "transformer.h.{}.attn.c_attn", Transpose(), Slice(1, 3)),
    *weight_and_bias("stack.blocks.{}.attention.value", "transformer.h.{}.attn.c_attn", Transpose(), Slice(2, 3)),
    *weight_and_bias("stack.blocks.{}.attention.output", "transformer.h.{}.attn.c_proj", Transpose()),
    *weight_and_bias("stack.blocks.{}.norms.after_attention", "transformer.h.{}.ln_1"),
    *weight_and_bias("stack.blocks.{}.feedforward.up", "transformer.h.{}.mlp.c_fc", Transpose()),
    *weight_and_bias("stack.blocks.{}.feedforward.down", "transformer.h.{}.mlp.c_proj", Transpose()),
    *weight_and_bias("stack.blocks.{}.norms.after_feedforward", "transformer.h.{}.ln_2"),
    Weight("heads.clm.weight", "lm_head.weight", alias=True),
]


def build(config: Config) -> LanguageModel:
    """Builds a GPT without heads."""
    width = config.n_embd
    position = Learned(config.n_positions, width)
    embedding = Embedding(config.vocab_size, width, position=position, dropout=config.embd_pdrop)
    stack = Stack([_block(config) for _ in range(config.n_layer)])
    parts = HeadParts(width, "last", config.tie_word_embeddings, sequence_bias=False)
    return LanguageModel("gpt", config, embedding, stack, parts, std=config.initializer_range)


def _block(config: Config) -> Block:
    width, act = config.n_embd, "gelu_new" if config.afn == "gelu" else config.afn
    return Block(
        Attention(width, config.n_head, CAUSAL, dropout=config.attn_pdrop),
        FeedForward(width, 4 * width, activation(act)),
        Norms(
            after_attention=nn.LayerNorm(width, eps=config.layer_norm_epsilon),
            after_feedforward=nn.LayerNorm(width, eps=config.layer_norm_epsilon),
        ),
        dropout=config.resid_pdrop,
    )
