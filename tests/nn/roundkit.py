"""Rounds models for tests: every matrix in layers, and the vocabulary, to the nearest."""

from __future__ import annotations

from typing import Any

from torch import nn

from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.nn.formats.format import find_format
from pretune.nn.projection import Projection
from pretune.nn.rounded import RoundedProjection, RoundedVocabulary
from pretune.nn.vocabulary import VocabularyBrick
from pretune.tune.surgery import projection_sites, vocabulary_sites

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "bert": {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
    },
    "llama": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    },
    "t5": {"d_model": 64, "d_kv": 32, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2},
}


def small(family: str = "gpt2", heads: tuple[str, ...] | None = None, **overrides: Any) -> LanguageModel:
    """A small model with random weights."""
    usual = ("mlm",) if family == "bert" else ("clm",)
    fields = {"vocab_size": 90, **SHAPES[family], **overrides}
    return build(family, next(iter(_sizes(family))), usual if heads is None else heads, fields).eval()


def _sizes(family: str) -> Any:
    from pretune.models.model import get_family

    return get_family(family).SIZES


def round_all(model: LanguageModel, name: str = "q8_0", vocabulary: str | None = None, inputs: Any = "exact") -> Any:
    """Rounds a model in place, and gives it back."""
    format, table = find_format(name), find_format(vocabulary or name)
    for site in projection_sites(model):
        if site.layer is not None and isinstance(site.brick, Projection):
            site.replace(RoundedProjection.of(format, site.brick.weight.detach(), site.brick.bias, inputs))
    for site in vocabulary_sites(model):
        assert isinstance(site.brick, VocabularyBrick)
        assert isinstance(site.brick, nn.Module)
        site.replace(RoundedVocabulary.of(table, site.brick.dense().detach(), inputs))
    return model
