"""Writes decoding options into what a model's files say of how it writes, so that other software writes alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pretune.generate.options import GenerateConfig
from pretune.models.generation_fields import GenerationFields
from pretune.models.model import LanguageModel
from pretune.text.tokenizer.vocabulary import Vocabulary

_FIELDS = {
    "max_new_tokens": "max_new_tokens",
    "beams": "num_beams",
    "length_penalty": "length_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "repetition_penalty": "repetition_penalty",
    "min_new_tokens": "min_new_tokens",
    "early_stopping": "early_stopping",
}
_REPLACED = ("max_length", "min_length", "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p")
_OF_MODEL = ("forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "decoder_start_token_id")


def record_options(model: LanguageModel, vocabulary: Vocabulary, config: GenerateConfig) -> None:
    """Lets `generation_config.json` ask for these options; what it says of tokens stays.

    Args:
        vocabulary: whose special tokens the file names, where it did not before.
    """
    own = {name: getattr(config, name) for name in _FIELDS}
    usual = {name: field.default for name, field in GenerateConfig.model_fields.items()}
    options = {
        _FIELDS[name]: value
        for name, value in own.items()
        if value != usual[name] or name in ("max_new_tokens", "beams")
    }
    before = _tokens(model, vocabulary) if model.generation is None else dict(model.generation.fields)
    kept = {name: value for name, value in before.items() if name not in (*_REPLACED, *_FIELDS.values())}
    file = "generation_config.json" if model.generation is None else model.generation.file
    model.generation = GenerationFields(file, {**kept, "do_sample": False, **options})


def record_ends(model: LanguageModel, ends: Sequence[int], stop: Sequence[str]) -> None:
    """Lets `generation_config.json` name what ends a text beside the tokens that it names.

    Args:
        ends: further tokens.
        stop: texts; the file then names these alone.
    """
    written = model.generation or GenerationFields()
    fields = dict(written.fields)
    if ends:
        fields["eos_token_id"] = list(dict.fromkeys([*written.end_tokens, *ends]))
    if stop:
        fields["stop_strings"] = list(stop)
    model.generation = GenerationFields(written.file, fields)


def _tokens(model: LanguageModel, vocabulary: Vocabulary) -> dict[str, Any]:
    """The tokens that the file of a model built anew names."""
    config = model.config.model_dump(mode="json")
    roles = {"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.ending, "pad_token_id": vocabulary.pad}
    fields = {**roles, **{name: config.get(name) for name in _OF_MODEL}}
    return {name: value for name, value in fields.items() if value is not None}
