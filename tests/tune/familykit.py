"""Tiny models of every family, with a batch, for the tests of tuning methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import parity
import torch
from torch import Tensor

from pretune.batch import Batch, ragged
from pretune.find import variants
from pretune.models import build
from pretune.models.model import LanguageModel

LABELS = ("no", "yes")
_WIDTH = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
_GROUPED = {**_WIDTH, "num_key_value_heads": 2}
_SIDES = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "d_model": 32,
}
SHAPES: dict[str, dict[str, Any]] = {
    "albert": {**_WIDTH, "embedding_size": 16},
    "bart": _SIDES,
    "bert": _WIDTH,
    "bert2bert": {"encoder": _WIDTH, "decoder": _WIDTH},
    "distilbert": {"dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 48},
    "electra": {**_WIDTH, "embedding_size": 16},
    "gpt": {"n_embd": 32, "n_head": 4, "n_layer": 2},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2},
    "gpt3": {"hidden_size": 32, "num_heads": 4, "num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "llama": _GROUPED,
    "marian": _SIDES,
    "modernbert": _WIDTH,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "roberta": _WIDTH,
    "t5": {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2},
    "xlnet": {"d_model": 32, "n_head": 4, "d_head": 8, "n_layer": 2, "d_inner": 48},
}
FAMILIES = tuple(SHAPES)
assert set(FAMILIES) == set(variants("models"))
ENCODER_DECODERS = ("bart", "bert2bert", "marian", "t5")


def tiny(family: str, heads: tuple[str, ...] = ("classification",), **fields: Any) -> LanguageModel:
    """A model of two layers, 32 wide, with random values everywhere, in evaluation mode."""
    overrides = {"vocab_size": 50, **SHAPES[family], **fields}
    makes_classes = heads == ("classification",)  # not a standard head of Marian
    makers = (lambda model: {"classification": model.sequence_head(LABELS)}) if makes_classes else heads
    model = build(family, "tiny", makers, overrides).eval()
    parity.randomise(model)
    return model


def batch_of(model: LanguageModel) -> Batch:
    """Sequences of 6, 1 and 9 tokens, each with a source where the model has an encoder."""
    batch = ragged(parity.sequences(50, (6, 1, 9)))
    return replace(batch, source=ragged(parity.sequences(50, (4, 3, 7)))) if model.has_encoder else batch


def logits(model: LanguageModel, batch: Batch | None = None) -> Tensor:
    """The scores of the classes. Shape: return: (3, 2)"""
    batch = batch_of(model) if batch is None else batch
    output = model(batch)
    scores: Tensor = model.heads["classification"](output.last_hidden_state, output.layout)
    return scores


@torch.no_grad()
def answers(model: LanguageModel) -> Tensor:
    """The scores of a model in use: other kernels than in training, where some weights learn. Shape: return: (3, 2)"""
    return logits(model)


def loss(model: LanguageModel, batch: Batch | None = None) -> Tensor:
    """A loss that depends on all scores. Shape: return: ()"""
    scores = logits(model, batch)
    return torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 0]))


def learning(model: LanguageModel) -> set[str]:
    """Names of the parameters that learn."""
    return {name for name, weight in model.named_parameters() if weight.requires_grad}
