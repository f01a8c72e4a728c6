"""Files of a tuned model without its base: what the method learned, heads, tokenizer, and which base it is.

A folder of deltas holds `delta.safetensors`, with the parameters that learned under our own names, `delta.json` and the
tokenizer. See `tuned_model` for how they are put on their base again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from pretune import config as configuration
from pretune.disk import storage_errors
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.interop.fingerprint import fingerprint
from pretune.interop.head_labels import class_labels, labelled_role
from pretune.interop.model_tokenizer import fit_tokenizer
from pretune.interop.safety import read_header, read_json
from pretune.interop.weights import write_json, write_safetensors
from pretune.models.metadata import HeadSource, Metadata, VariantRecord
from pretune.models.model import LanguageModel
from pretune.models.text_vectors import TextVectors
from pretune.new_folder import NewFolder
from pretune.nn.heads import SINGLE_LABEL, ProblemType
from pretune.nn.vectors import PoolingMode
from pretune.seals import check, checked, write_seal
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.tune.method import TuningMethod

RECORD = "delta.json"
TENSORS = "delta.safetensors"
VERSION = 1
_DIGEST = r"^[0-9a-f]{64}$"


class DeltaRecord(configuration.Config):
    """What `delta.json` says.

    Attributes:
        version: of this form.
        method: the tuning method, with its settings.
        base: folder of the model that was tuned, as an absolute path; None for one that was built from random weights.
        relative: the same from the folder of the deltas, for both moved together.
        fingerprint: of the base's body.
        heads: fingerprint of those weights of heads that the base gave and that did not learn; None without any.
        overrides: fields of the base's configuration that were changed.
        tokenizer: SHA-256 of the tokenizer; None where none stands beside the deltas.
        labels: names of the classes of a standard head, in the order of its scores.
        problem_type: what the scores of a classification head are.
        pooling: what makes one vector of a sequence's rows; None where that is as with the base.
        sparse: its vectors are those of the vocabulary, by SPLADE.
        metadata: what the model says of itself, such as who makes its heads.
    """

    version: int = Field(VERSION, ge=1)
    method: VariantRecord
    base: str | None
    relative: str | None = None
    fingerprint: str = Field(pattern=_DIGEST)
    heads: str | None = Field(None, pattern=_DIGEST)
    overrides: dict[str, Any] = Field(default_factory=dict)
    tokenizer: str | None = Field(None, pattern=_DIGEST)
    labels: tuple[str, ...] | None = None
    problem_type: ProblemType = SINGLE_LABEL
    pooling: PoolingMode | None = None
    sparse: bool = False
    metadata: Metadata = Metadata()


def learned(model: nn.Module, also: Collection[str] = ()) -> dict[str, Tensor]:
    """What a model after surgery has that its base has not.

    These are the parameters that learn, what bricks keep beside them (persistent buffers), and frozen weights that no
    file of the base holds, such as those of a new head under a low-rank change.

    Args:
        also: names of frozen parameters that the method changes.
    """
    return {name: value.detach().cpu().contiguous() for name, value in _learned(model, also).items()}


def learned_shapes(model: nn.Module, also: Collection[str] = ()) -> dict[str, torch.Size]:
    """The shapes of `learned`, of a model that may be without memory."""
    return {name: value.shape for name, value in _learned(model, also).items()}


def _learned(model: nn.Module, also: Collection[str]) -> dict[str, Tensor]:
    persistent = model.state_dict().keys() - _training_buffers(model)
    buffers = {name: value for name, value in model.named_buffers() if name in persistent}
    kept = {*also, *getattr(model, "kept", ())}
    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad or name in kept}
    return {**parameters, **buffers}


def _training_buffers(model: nn.Module) -> set[str]:
    """The names of buffers that only further steps of the same run would read: see `nn.singular`."""
    return {
        f"{path}.{name}" for path, module in model.named_modules() for name in getattr(module, "TRAINING_BUFFERS", ())
    }


def frozen_heads(model: nn.Module, own: Collection[str] = ()) -> dict[str, Tensor]:
    """The weights of heads that do not learn and that the base gave.

    Args:
        own: names of those that it did not give.
    """
    weights = {name: weight for name, weight in model.named_parameters() if name.startswith("heads.")}
    return {name: weight for name, weight in weights.items() if not weight.requires_grad and name not in own}


def frozen_heads_fingerprint(model: nn.Module, own: Collection[str] = ()) -> str | None:
    """The fingerprint of `frozen_heads`; None where there are none."""
    weights = frozen_heads(model, own)
    return fingerprint(weights.items()) if weights else None


def save_delta(
    model: LanguageModel,
    directory: Path,
    method: TuningMethod,
    base: str | None,
    tokenizer: Tokenizer | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Writes the folder of a tuned model's deltas; it is complete or not there.

    Args:
        base: folder of the model before surgery; its fingerprint stands in `model.metadata.base`.
        overrides: fields of its configuration that were changed when it was read.

    Raises:
        StorageError: the disk is full or fails; nothing is left half-written.
        CannotCreateError: no permission, or a file in the way.
    """
    if model.metadata.base is None:
        raise ValueError("the fingerprint of the base must be taken before surgery")
    other: HeadSource = "task" if model.metadata.task else "objectives" if model.metadata.objectives else "unknown"
    sources = {role: model.metadata.heads.get(role, other) for role in model.heads}
    heads = {role: "standard" if source == "standard" else other for role, source in sources.items()}
    role = labelled_role(model)
    tensors = learned(model, method.changes(model))
    record = DeltaRecord(
        method=VariantRecord.of(method.name, method.config.model_dump(mode="json")),
        base=None if base is None else str(Path(base).resolve()),
        relative=None if base is None else os.path.relpath(Path(base).resolve(), directory.resolve()),
        fingerprint=model.metadata.base,
        heads=frozen_heads_fingerprint(model, tensors),
        overrides=dict(overrides or {}),
        tokenizer=None if tokenizer is None else tokenizer.hash,
        labels=None if role is None else tuple(class_labels(model, role) or ()),
        problem_type=getattr(model.heads[role], "problem_type", SINGLE_LABEL) if role else SINGLE_LABEL,
        pooling=_own_pooling(model.vectors),
        sparse=model.vectors is not None and model.vectors.sparse_pool is not None,
        metadata=model.metadata.model_copy(update={"heads": heads}),
    )
    write_delta(directory, record, {**tensors, **model.extra_weights}, tokenizer and fit_tokenizer(tokenizer, model))


def write_delta(
    directory: Path, record: DeltaRecord, tensors: Mapping[str, Tensor], tokenizer: Tokenizer | None
) -> None:
    """Writes a folder of deltas; it is complete or not there.

    Raises:
        StorageError, CannotCreateError: as `save_delta`.
    """
    with storage_errors(directory, "save the deltas"), NewFolder(directory, "merge") as folder:
        write_safetensors(folder.path / TENSORS, tensors)
        if tokenizer is not None:
            tokenizer.write(folder.path)
        write_json(folder.path / RECORD, record.model_dump(mode="json"))
        write_seal(folder.path, directory)
        folder.publish(last=RECORD)


def _own_pooling(vectors: TextVectors | None) -> PoolingMode | None:
    """The pooling of vectors that a run chose; None for those of the base, which have more than that."""
    if vectors is None or len(vectors.modules) > 1 or vectors.prompts or vectors.dimensions is not None:
        return None
    return vectors.pooling


def is_delta(path: Path | str) -> bool:
    """Whether a folder holds deltas and no whole model."""
    return (Path(path) / RECORD).is_file() and not (Path(path) / "config.json").exists()


def read_record(folder: Path) -> DeltaRecord:
    """What `delta.json` says.

    Raises:
        MissingInputError: no such file.
        DataError: a damaged file, or one of a newer version.
    """
    path = folder / RECORD
    if not path.is_file():
        raise MissingInputError(f"{folder}: no deltas here (no {RECORD})")
    check(folder, [RECORD])
    tree = read_json(path)
    if isinstance(tree.get("version"), int) and tree["version"] > VERSION:
        raise DataError(f"{path}: saved by a newer pretune (version {tree['version']}); update pretune")
    try:
        record = configuration.validate(DeltaRecord, tree, str(path))
    except UsageError as error:
        raise DataError(f"{error}; the file is damaged") from None
    of_task = None if record.metadata.task is None else record.metadata.task.config.get("labels")
    if record.labels and isinstance(of_task, list) and of_task and list(record.labels) != of_task:
        raise DataError(
            f"{path}: field 'labels': {', '.join(record.labels)}; the task's are {', '.join(map(str, of_task))}, in "
            "this order; bring the old file back"
        )
    return record


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """What `delta.safetensors` holds, by our own names.

    Raises:
        MissingInputError: no such file.
        DataError: a damaged or hostile file, or a value that is not finite.
    """
    path = folder / TENSORS
    if not path.is_file():
        raise MissingInputError(
            f"{path}: no such file; the deltas are incomplete: copy or fetch the whole folder again"
        )
    with checked(folder, [TENSORS]):
        read_header(path)
        tensors = load_file(path)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise DataError(f"{path}: {name!r} holds NaN or infinity; copy or fetch the file again, or tune again")
    return tensors


def check_tensors(
    shapes: Mapping[str, torch.Size], expected: Mapping[str, torch.Size], optional: Collection[str], folder: Path
) -> None:
    """Compares the shapes of what a folder holds with those that the method and the model ask for.

    Args:
        optional: names of what may be there and need not.

    Raises:
        DataError: other names, or another shape.
    """
    odd = sorted((expected.keys() ^ shapes.keys()) - {*optional})
    if odd:
        reason = "is missing" if odd[0] in expected else "has no place there"
        more = "" if len(odd) == 1 else f", and {len(odd) - 1} more differ"
        raise DataError(
            f"{folder / TENSORS}: not the tensors of this method and model: {odd[0]!r} {reason}{more}; copy or fetch "
            "the whole folder again, or tune again"
        )
    for name, shape in shapes.items():
        if name in expected and shape != expected[name]:
            raise DataError(f"{folder}: {name!r} has shape {list(shape)}, the method asks for {list(expected[name])}")


@torch.no_grad()
def fill(model: nn.Module, tensors: Mapping[str, Tensor], folder: Path, also: Collection[str] = ()) -> None:
    """Gives a model after surgery what was learned.

    Args:
        also: names of frozen parameters that the method changes.

    Raises:
        DataError: other tensors than those that learn in this model, or another fingerprint.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    check_tensors(shapes, learned_shapes(model, also), frozen_heads(model), folder)
    targets: dict[str, Tensor] = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    for name, tensor in tensors.items():
        if tensor.shape != targets[name].shape or tensor.is_floating_point() != targets[name].is_floating_point():
            raise DataError(
                f"{folder}: {name!r} is {tensor.dtype} of shape {list(tensor.shape)}, the model has "
                f"{targets[name].dtype} of shape {list(targets[name].shape)}"
            )
        targets[name].copy_(tensor)
