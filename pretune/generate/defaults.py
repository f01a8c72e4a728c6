"""How a model writes: what the user asks for, over what the model's files say, over our own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretune import config as configuration
from pretune.errors import DataError, UsageError
from pretune.generate.options import GenerateConfig, GenerateOptions
from pretune.models.generation_fields import GenerationFields, tokens_of
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import GenerationConstraints

_TOP_K = 50  # of transformers, where a file samples without saying among how many
_ALWAYS = {
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size": "prompt_no_repeat_ngram_size",
    "min_new_tokens": "min_new_tokens",
    "min_length": "min_length",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "stop_strings": "stop",
}


def resolve_options(model: LanguageModel, options: GenerateOptions) -> GenerateConfig:
    """The decoding options of a call: those that are given, else those of the model's files, else ours.

    Raises:
        UsageError: an option out of range, or options that exclude each other.
        DataError: the files ask for something that is not built and would change the text.
    """
    stated = model.generation or GenerationFields()
    given = {name: (value,) if name == "stop" and isinstance(value, str) else value for name, value in options.items()}
    defaults = _defaults(stated, given)
    try:
        config = configuration.validate(GenerateConfig, defaults | given, "generate")
    except UsageError as error:
        if not any(f"field {name!r}" in str(error) for name in defaults):
            raise
        raise DataError(f"{stated.file}: {error}; correct the file, or give another value yourself") from None
    refusals = stated.refusals(samples=config.temperature > 0, searches=config.beams > 1)
    if refusals:
        raise DataError("\n".join(refusals))
    return config


def stated_options(model: LanguageModel, options: GenerateOptions) -> dict[str, Any]:
    """The decoding options that the model's files decide, as far as they differ from our own defaults."""
    stated = _defaults(model.generation or GenerationFields(), options)
    own = {name: field.default for name, field in GenerateConfig.model_fields.items()}
    return {name: value for name, value in stated.items() if value != own[name]}


def _defaults(stated: GenerationFields, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the files say, as far as the user says nothing that stands against it."""
    fields = {name: value for name, value in stated.fields.items() if value is not None}
    out = {ours: fields[theirs] for theirs, ours in _ALWAYS.items() if theirs in fields}
    if isinstance(out.get("stop"), str):
        out["stop"] = (out["stop"],)
    if "min_new_tokens" in given:
        out.pop("min_length", None)
    if "max_new_tokens" not in given and "max_length" not in given:
        name = "max_new_tokens" if "max_new_tokens" in fields else "max_length"
        out |= {name: fields[name]} if name in fields else {}
    samples, beams = fields.get("do_sample") is True, fields.get("num_beams", 1)
    if "temperature" not in given and "beams" not in given and samples and beams > 1:
        raise DataError(
            f"{stated.file}: fields 'do_sample' = true and 'num_beams' = {beams}: beam search that samples is not "
            "built; give --beams or --temperature"
        )
    if "beams" not in given and not given.get("temperature"):
        out["beams"] = beams
    draws = given["temperature"] != 0 if "temperature" in given else samples
    if draws and given.get("beams", 1) == 1:
        out["beams"] = 1
        out |= {"temperature": float(fields.get("temperature", 1.0)), "top_k": _TOP_K} if samples else {}
        out |= {name: fields[name] for name in ("top_k", "top_p", "min_p") if name in fields}
    return {name: value for name, value in out.items() if name not in given}


def stated_constraints(model: LanguageModel) -> GenerationConstraints:
    """What the model's files force and forbid; of a model built anew, what its configuration does."""
    if model.generation is None:
        return model.constraints
    fields = model.generation.fields
    ends = model.generation.end_tokens
    words = [tuple(word) if isinstance(word, list) else (word,) for word in fields.get("bad_words_ids") or ()]
    return GenerationConstraints(
        first=fields.get("forced_bos_token_id"),
        last=tokens_of(fields.get("forced_eos_token_id")),
        bad_words=tuple(word for word in words if word and not (len(word) == 1 and word[0] in ends)),
        suppressed=tokens_of(fields.get("suppress_tokens")),
        suppressed_first=tokens_of(fields.get("begin_suppress_tokens")),
    )


def end_tokens(model: LanguageModel, ending: int | None, size: int) -> frozenset[int]:
    """The tokens that end a text: those that the model's files name, else the tokenizer's.

    Args:
        ending: the tokenizer's.
        size: tokens of the tokenizer; an end token that it does not have never comes.
    """
    stated = () if model.generation is None else model.generation.end_tokens
    known = [token for token in stated if token < size]
    return frozenset(known if known else () if ending is None else (ending,))
