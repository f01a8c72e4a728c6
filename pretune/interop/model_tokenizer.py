"""Fits a tokenizer and a model to each other: special tokens around a text, their ids in `config.json`, positions.

What stands around a text is a property of the model that was trained, not of the kind of tokenizer: a decoder reads a
text alone, an encoder-decoder one that ends, an encoder what the tokenizer says. `fit_tokenizer` writes that into the
tokenizer, so that whoever reads its files sees texts as the model did; `resolve_token_ids` writes the tokenizer's ids
into a configuration before the model is built, as some of them decide its arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pretune.errors import DataError, UsageError
from pretune.interop.description import model_type
from pretune.models.model import Config, Family, LanguageModel, construct, get_family
from pretune.models.size_fields import configure
from pretune.nn.embedding import Learned
from pretune.text.tokenizer.class_table import is_overruled
from pretune.text.tokenizer.files import AS_WRITTEN, KEEP_AS_WRITTEN
from pretune.text.tokenizer.template import Template, bert_templates, plain_template, split_template, without_segments
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary


def fit_tokenizer(tokenizer: Tokenizer, model: LanguageModel) -> Tokenizer:
    """A tokenizer whose files put around a text what a model reads there, and give no segments that it lacks.

    A model that was built anew decides what stands around a text; one that was read keeps what its files say.

    Args:
        model: with or without its heads.
    """
    vocabulary = tokenizer.vocabulary
    single, pair = vocabulary.templates if model.loaded is not None else _templates(model, vocabulary)
    templates = (_fitted(single, model), _fitted(pair, model))
    settings = dict(tokenizer.settings)
    inputs = ["input_ids", *(["token_type_ids"] if model.segments > 1 else []), "attention_mask"]
    settings["model_input_names"] = inputs
    if vocabulary.pad is None and vocabulary.ending is not None:
        settings["pad_token"] = tokenizer.token(vocabulary.ending)
    if model.pool_position == "last" and not model.is_causal and not model.has_encoder:
        settings["padding_side"] = "left"  # the last token stands for the text
    settings.pop("auto_map", None)
    if is_overruled(model_type(model.family)):
        settings["auto_map"] = KEEP_AS_WRITTEN
    settings["tokenizer_class"] = AS_WRITTEN
    return tokenizer.with_templates(templates, settings)


def _templates(model: LanguageModel, vocabulary: Vocabulary) -> tuple[Template, Template]:
    """What a model that is built anew reads around a text, and around the two of a pair."""
    single, pair = vocabulary.templates
    if not vocabulary.overhead(pair=True):
        cls, sep = ([] if token is None else [token] for token in (vocabulary.cls, vocabulary.sep))
        single, pair = bert_templates(cls, sep)
    end = () if vocabulary.ending is None else (vocabulary.ending,)
    if model.has_encoder:
        if not split_template(single)[1]:
            single, pair = (*single, (end, 0)), (*single, (end, 0), (None, 0), (end, 0))
    elif model.is_causal:
        single, pair = ((None, 0),), ((None, 0), (end, 0), (None, 0))
    return single, pair


def _fitted(template: Template, model: LanguageModel) -> Template:
    return plain_template(without_segments(template, model.segments))


def resolve_token_ids(
    family: str, size: str, overrides: Mapping[str, Any], tokenizer: Tokenizer
) -> tuple[dict[str, Any], Tokenizer]:
    """The fields of a new model's configuration with the tokenizer's ids, and the tokenizer fitted to it.

    Args:
        overrides: fields that the user wants changed; those of tokens that the tokenizer names must be its own.

    Returns:
        `overrides` and the ids, and the tokenizer with what the model reads around a text.

    Raises:
        UsageError: a field that contradicts the tokenizer, or any that the family does not take.
        DataError: a family whose positions begin behind the pad token, and a tokenizer without one of its own.
    """
    module = get_family(family)
    fields = {"vocab_size": tokenizer.vocabulary.size, **overrides}
    body = construct(family, _valid(module, size, fields, overrides))
    fitted = fit_tokenizer(tokenizer, body)
    ids = token_ids(type(body.config), fitted.vocabulary)
    for name, value in overrides.items():
        if name in ids and name.removesuffix("_token_id") in _ROLES and value != ids[name]:
            raise UsageError(
                f"recipe: field 'model.overrides.{name}' = {value!r}: the tokenizer says {ids[name]}; leave the field "
                "out, or name another token in the tokenizer's tokenizer_config.json"
            )
    if hasattr(module, "with_pad"):
        pad = _own_pad(family, fitted)
        moved = module.with_pad(body.config, pad)
        if "max_position_embeddings" not in overrides:
            ids["max_position_embeddings"] = moved.max_position_embeddings
    return {**fields, **ids, **overrides}, fitted


def _valid(module: Family, size: str, fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> Config:
    return configure(module, size, {n: v for n, v in fields.items() if not n.endswith("_token_id") or n in overrides})


def _own_pad(family: str, tokenizer: Tokenizer) -> int:
    """The pad token of a tokenizer for a model whose positions begin behind it.

    Raises:
        DataError: it has none, or one that stands around texts.
    """
    vocabulary = tokenizer.vocabulary
    around = {token for template in vocabulary.templates for tokens, _ in template for token in tokens or ()}
    if vocabulary.pad is None or vocabulary.pad in around:
        raise DataError(
            f"{family} counts positions from its pad token, and this tokenizer has none that is that alone; train one "
            "with `pretune tokenizer train --kind bpe --special_tokens roberta`, or name a pad_token in its "
            "tokenizer_config.json"
        )
    return vocabulary.pad


_ROLES = ("pad", "bos", "eos", "cls", "sep", "mask")


def token_ids(schema: type[Config], vocabulary: Vocabulary) -> dict[str, Any]:
    """The fields of a family's configuration that are ids of tokens, as a tokenizer has them.

    The decoder begins with what it begins with in the published models: pad, end, or what stands before a text; what
    they force, is forced.
    """
    roles = {role: getattr(vocabulary, role) for role in _ROLES} | {"eos": vocabulary.ending}
    usual = {name: field.default for name, field in schema.model_fields.items() if name.endswith("_token_id")}
    first = usual.get("decoder_start_token_id")
    if first == usual.get("bos_token_id"):
        roles["decoder_start"] = roles["bos"] if roles["bos"] is not None else roles["cls"]
    else:
        roles["decoder_start"] = roles["pad"] if first == usual.get("pad_token_id") else roles["eos"]
    roles["forced_bos"], roles["forced_eos"] = (
        roles[role] if usual.get(f"forced_{role}_token_id") is not None else None for role in ("bos", "eos")
    )
    ids = {name: roles.get(name.removesuffix("_token_id"), default) for name, default in usual.items()}
    optional = {name for name, default in usual.items() if _takes_none(schema, name)}
    return {name: value for name, value in ids.items() if value is not None or name in optional}


def _takes_none(schema: type[Config], name: str) -> bool:
    return type(None) in getattr(schema.model_fields[name].annotation, "__args__", ())


def move_positions(model: LanguageModel, tokenizer: Tokenizer) -> None:
    """Gives a model whose positions begin behind its pad token those behind the tokenizer's; its outputs stay.

    Raises:
        DataError: the tokenizer's pad token is none of the model's.
    """
    module, pad = get_family(model.family), tokenizer.vocabulary.pad
    table = model.embedding.position
    if not hasattr(module, "with_pad") or not isinstance(table, Learned) or pad is None:
        return
    old = table.offset
    model.config = module.with_pad(model.config, pad)
    table.offset = pad + 1
    if table.offset != old:
        rows = table.weight.detach()[old:]
        unused = rows.new_zeros(table.offset, rows.shape[1])
        table.weight = nn.Parameter(torch.cat([unused, rows]), requires_grad=table.weight.requires_grad)
        table.num_embeddings = len(table.weight)
