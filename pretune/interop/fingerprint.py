"""Fingerprints of weights: SHA-256 over their names, shapes and values, whatever files they lie in.

A delta belongs to one base, which is told by the fingerprint of its body. Names are ours and values fp32, so that
shards, their order, and dtypes that hold the same numbers make no difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pretune.interop.huggingface import open_files
from pretune.interop.read_model import assemble
from pretune.interop.sealed_model import checks_model
from pretune.interop.weight_check import tie_as_in_files
from pretune.interop.weight_names import FileTable
from pretune.models.model import LanguageModel
from pretune.nn.rounded import rounded_tensors

Value = Tensor | Callable[[], Tensor]


def fingerprint(weights: Iterable[tuple[str, Value]]) -> str:
    """SHA-256 over names, shapes and values, in the order of the names.

    Args:
        weights: tensors, or functions that give them, so that no two need to be in memory at once.
    """
    digest = hashlib.sha256()
    for name, value in sorted(weights, key=lambda weight: weight[0]):
        tensor = (value if isinstance(value, Tensor) else value()).detach().cpu().contiguous()
        if tensor.is_floating_point():
            tensor = tensor.float()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def body_fingerprint(model: LanguageModel) -> str:
    """The fingerprint of a model without its heads, before surgery."""
    named = [*model.named_parameters(), *rounded_tensors(model).items()]
    return fingerprint((name, weight) for name, weight in named if not name.startswith("heads."))


def model_fingerprint(model: LanguageModel) -> str:
    """The fingerprint of all that a model in use computes with: its weights, heads too, and those of its vectors.

    Weights that its files lack, and that nothing says again, are left out.
    """
    lacking = set() if model.loaded is None else {*model.loaded.initialised}
    named: list[tuple[str, Value]] = [*model.named_parameters(), *rounded_tensors(model).items()]
    bricks = [] if model.vectors is None else model.vectors.bricks
    named += [
        (f"vectors.{n}.{name}", each) for n, brick in enumerate(bricks) for name, each in brick.named_parameters()
    ]
    return fingerprint((name, weight) for name, weight in named if name not in lacking)


@checks_model
def fingerprint_of_files(path: Path | str) -> str:
    """The fingerprint of the body that a model folder or a `.gguf` file holds; one tensor is in memory at a time.

    Raises:
        MissingInputError, DataError: as `load_model`.
    """
    weights, description = open_files(Path(path))
    table = FileTable(str(path), description.family, weights)
    tie_as_in_files(description, table)
    model = assemble(description, table, lambda body: {}, None, {})
    sources = table.sources(model)
    table.check(model, sources)

    def reader(ours: str, shape: torch.Size) -> Callable[[], Tensor]:
        if ours not in sources:  # zero where the files lack it
            return lambda: torch.zeros(shape)
        name, weight = sources[ours]
        return lambda: weight.read(weights.read(name), model.config)

    plain = [(name, reader(name, weight.shape)) for name, weight in model.named_parameters()]
    rounded = [(name, partial(weights.read, name)) for name in rounded_tensors(model)]
    return fingerprint([*plain, *rounded])
