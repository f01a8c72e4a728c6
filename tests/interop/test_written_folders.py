"""Folders of ours with random fields, heads and tokenizers, opened by `transformers`: the same, or refused by name."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import parity
import pytest
from test_model_tokenizer import LINES, last_pad

from pretune.errors import DataError, UsageError
from pretune.evaluate.uses import USES
from pretune.find import variants
from pretune.interop.export import export_model
from pretune.interop.model_tokenizer import resolve_token_ids
from pretune.models import build
from pretune.models.model import get_family
from pretune.text.tokenizer.extend import ExtendConfig, extend_tokenizer
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

ACTIVATIONS = ["gelu", "relu", "gelu_new", "silu"]
BOTH = [True, False]
EPSILONS = [1e-12, 1e-5, 1e-3]
FIELDS: dict[str, list[Any]] = {
    "hidden_act": ACTIVATIONS,
    "hidden_activation": ACTIVATIONS,
    "activation_function": ACTIVATIONS,
    "classifier_activation": ACTIVATIONS,
    "activation": ACTIVATIONS[:2],
    "ff_activation": ACTIVATIONS[:2],
    "layer_norm_eps": EPSILONS,
    "rms_norm_eps": EPSILONS,
    "layer_norm_epsilon": EPSILONS,
    "norm_eps": EPSILONS,
    "attention_bias": BOTH,
    "mlp_bias": BOTH,
    "norm_bias": BOTH,
    "decoder_bias": BOTH,
    "classifier_bias": BOTH,
    "scale_embedding": BOTH,
    "tie_word_embeddings": BOTH,
    "scale_attn_by_inverse_layer_idx": BOTH,
    "feed_forward_proj": ["relu", "gated-gelu", "gated-silu"],
    "type_vocab_size": [1, 2, 4],
    "classifier_pooling": ["cls", "mean"],
    "local_attention": [4, 16],
    "embedding_size": [64, 128],
}
TOKENIZERS: list[dict[str, Any]] = [
    {"kind": "wordpiece"},
    {"kind": "wordpiece", "lowercase": False, "sentinels": 3},
    {"kind": "bpe"},
    {"kind": "bpe", "special_tokens": "roberta"},
    {"kind": "bpe", "special_tokens": "bert", "sentinels": 2},
    {"kind": "unigram"},
    {"kind": "unigram", "byte_fallback": True},
]
FOLDERS = 500
SAMPLE = 16


@cache
def tokenizer_of(number: int) -> Tokenizer:
    if number == len(TOKENIZERS):
        return last_pad()
    tokenizer = train_tokenizer(LINES * 30, TokenizerConfig.model_validate({"vocab_size": 700, **TOKENIZERS[number]}))
    if number in (0, 2):  # with words of a domain behind the vocabulary
        texts = ["aspirin ibuprofen paracetamol"] * 9
        tokenizer = extend_tokenizer(tokenizer, texts, ExtendConfig(tokens=3)).tokenizer
    return tokenizer


def folder(number: int, path: Path) -> str:
    """Writes one, as the number decides; what became of it."""
    rng = random.Random(number)
    family = variants("models")[number % len(variants("models"))]
    module = get_family(family)
    tokenizer = tokenizer_of(rng.randrange(len(TOKENIZERS) + 1))
    name, roles = rng.choice(list(module.ARCHITECTURES.items()))
    known = [field for field in FIELDS if field in module.Config.model_fields]
    overrides = {field: rng.choice(FIELDS[field]) for field in rng.sample(known, min(len(known), 3))}
    labels = [f"label {n}" for n in range(rng.randrange(2, 5))]
    labelled = {"classification", "token_classification"} & set(roles)
    try:
        fields, _ = resolve_token_ids(family, "tiny", overrides, tokenizer)
        model = build(family, "tiny", list(roles), fields, labels=labels if labelled else None).eval()
    except (UsageError, DataError) as error:
        return f"refused: {error}"
    parity.randomise(model)
    foreign = export_model(model, path, tokenizer, uses=USES).foreign
    assert foreign.reader, foreign
    assert foreign.lines > 900
    assert foreign.outputs == 3 * (1 + len(roles)), name
    return "the same"


def names_what(outcome: str) -> bool:
    """A refusal says which field, or which token."""
    return outcome == "the same" or any(word in outcome for word in ("field '", "pad token"))


@pytest.mark.parametrize("number", range(SAMPLE))
def test_a_folder_is_read_as_it_was_written(number: int, tmp_path: Path) -> None:
    outcome = folder(number, tmp_path / "out")
    assert names_what(outcome), outcome


@pytest.mark.slow
def test_five_hundred_folders(tmp_path: Path) -> None:
    outcomes = [folder(number, tmp_path / "out" / str(number)) for number in range(SAMPLE, FOLDERS)]
    assert all(map(names_what, outcomes))
    assert outcomes.count("the same") > 0.8 * len(outcomes)
