"""Rehearses saving, so that a run that could not keep what it trains refuses before its first step: `check_savable`.

Everything that saving, loading and exporting would do is done on tensors without memory: the weights get their names in
files, `config.json` is written and read again, and the model that it describes is built and compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from pretune.errors import DataError, PretuneError
from pretune.interop.description import describe, interpret
from pretune.interop.huggingface import check_vocabulary
from pretune.interop.read_model import assemble
from pretune.interop.recorded_heads import HeadMakers
from pretune.interop.safety import parse_object
from pretune.interop.weight_names import FileTable, join_weights
from pretune.interop.weights import TensorsInMemory
from pretune.models.model import LanguageModel, get_family
from pretune.text.tokenizer.tokenizer import Tokenizer


def check_savable(
    model: LanguageModel,
    tokenizer: Tokenizer | None,
    directory: Path,
    makers: HeadMakers = MappingProxyType({}),
) -> None:
    """Checks that a model can be saved, read again and exported, without touching the disk.

    Args:
        model: as it will be saved: its `metadata` and its `extra_weights` set, its heads in place.
        directory: where it will be saved.
        makers: what makes heads that are not standard, when the folder is read: the method `heads` of the run's task,
            and of its objectives.

    Raises:
        PretuneError: what would go wrong after the last step; nothing was written.
    """
    try:
        _rehearse(model, tokenizer, directory, makers)
    except PretuneError as error:
        raise type(error)(f"what this run trains could not be saved and used: {error}") from None


def _rehearse(model: LanguageModel, tokenizer: Tokenizer | None, directory: Path, makers: HeadMakers) -> None:
    check_vocabulary(model, tokenizer)
    parameters = {name: _without_memory(parameter) for name, parameter in model.named_parameters()}
    tensors = {name: _without_memory(tensor) for name, tensor in join_weights(model, parameters).items()}
    config, generation = describe(model, tokenizer)
    path = directory / "config.json"
    fields = parse_object(_json(config, path), str(path))
    parse_object(_json(generation, path), str(path))
    rate = getattr(get_family(model.family), "ATTENTION_DROPOUT", None)  # which reading sets to 0 by default
    overrides = {} if rate is None else {rate: getattr(model.config, rate, 0.0)}
    description = interpret(path, fields, tensors, {n: v for n, v in overrides.items() if n in fields})
    table = FileTable(str(directory), description.family, TensorsInMemory(tensors))
    again = assemble(description, table, None, None, makers)
    sources = table.sources(again)
    table.check(again, sources)
    read = {name: tuple(parameter.shape) for name, parameter in again.named_parameters()}
    for name, parameter in parameters.items():
        if read.get(name) != tuple(parameter.shape) or name not in sources:
            raise DataError(
                f"weight {name!r} of shape {list(parameter.shape)} would be lost: the model that is read from the "
                f"files has {list(read[name]) if name in read else 'no such weight'}"
            )
    _same_config(model, again)


def _same_config(model: LanguageModel, again: LanguageModel) -> None:
    """Compares configurations, but for special tokens, which the tokenizer decides when a model is saved."""
    ours, theirs = model.config.model_dump(mode="json"), again.config.model_dump(mode="json")
    for name, value in ours.items():
        if not name.endswith("_token_id") and theirs.get(name) != value:
            raise DataError(
                f"field {name!r} of the configuration is {str(value)[:80]!r}, and {str(theirs.get(name))[:80]!r} when "
                "it is read from config.json; a field of a family's Config must be the same after a round through JSON"
            )


def _without_memory(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _json(fields: Mapping[str, object], path: Path) -> bytes:
    try:
        return json.dumps(fields, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: a field that JSON cannot hold: {error}") from None
