"""Makes a model in memory a new one with other heads, as if its files were read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pretune.interop.description import describe, interpret
from pretune.interop.read_model import read_model
from pretune.interop.safety import parse_object
from pretune.interop.weight_names import export_weights
from pretune.interop.weights import TensorsInMemory
from pretune.models.model import LanguageModel, MakeHeads


def rebuild(
    model: LanguageModel, where: Path, heads: MakeHeads, overrides: Mapping[str, Any], seed: int = 0
) -> LanguageModel:
    """Builds what `load_model` would read of the files of a model without surgery, which are never written.

    Args:
        where: the model comes from, for messages.
        heads, overrides, seed: as of `load_model`.

    Raises:
        DataError, UsageError: as `load_model`.
    """
    tensors = export_weights(model)
    config, generation = describe(model, None)
    path = where / "config.json"
    fields = parse_object(json.dumps(config).encode(), str(path))
    description = interpret(path, fields, tensors, overrides, generation)
    built = read_model(where, TensorsInMemory(tensors), description, heads, None, {}, torch.float32, overrides, seed)
    built.vectors, built.carried, built.generation = model.vectors, model.carried, model.generation
    return built
