"""Saves what a tuning method learned without its base: the tensors, the method, and the fingerprint of the base.

A folder of deltas holds `delta.safetensors`, with the parameters that learned under our own names, and `delta.json`.
Read again, they are put on the same base only: its weights are compared by their fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from pretune import config as configuration
from pretune.disk import storage_errors
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.interop.head_labels import class_labels, labelled_role
from pretune.interop.huggingface import load_model
from pretune.interop.metadata import resolve
from pretune.interop.recorded_heads import HeadMakers, recorded_heads
from pretune.interop.safety import read_header, read_json
from pretune.interop.weight_names import OBJECTIVE
from pretune.interop.weights import write_json, write_safetensors
from pretune.models.metadata import HeadSource, Metadata, VariantRecord
from pretune.models.model import LanguageModel
from pretune.models.standard_heads import HeadRequest
from pretune.models.text_vectors import TextVectors
from pretune.new_folder import NewFolder
from pretune.nn.heads import SINGLE_LABEL, ProblemType
from pretune.nn.vectors import PoolingMode
from pretune.seals import check, checked, write_seal
from pretune.tune.method import TuningMethod, find_method

RECORD = "delta.json"
TENSORS = "delta.safetensors"
VERSION = 1


class DeltaRecord(configuration.Config):
    """What `delta.json` says.

    Attributes:
        version: of this form.
        method: the tuning method, with its settings.
        base: folder of the model that was tuned, as an absolute path; None for one that was built from random weights.
        fingerprint: of the base's weights.
        labels: names of the classes of a standard head.
        problem_type: what the scores of a classification head are.
        pooling: what makes one vector of a sequence's rows; None where that is as with the base.
        metadata: what the model says of itself, such as who makes its heads.
    """

    version: int = Field(VERSION, ge=1)
    method: VariantRecord
    base: str | None
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    labels: tuple[str, ...] | None = None
    problem_type: ProblemType = SINGLE_LABEL
    pooling: PoolingMode | None = None
    metadata: Metadata = Metadata()


def fingerprint(weights: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights):
        tensor = weight.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def base_fingerprint(model: LanguageModel) -> str:
    """The fingerprint of a model before surgery: of all weights that its files have."""
    fresh = set() if model.loaded is None else set(model.loaded.initialised)
    return fingerprint((name, weight) for name, weight in model.named_parameters() if name not in fresh)


def learned(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that learn, and what bricks keep beside them (persistent buffers)."""
    persistent = model.state_dict().keys()
    buffers = {name: value for name, value in model.named_buffers() if name in persistent}
    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return {name: value.detach().cpu().contiguous() for name, value in {**parameters, **buffers}.items()}


def save_delta(model: LanguageModel, directory: Path, method: TuningMethod, base: str | None) -> None:
    """Writes the folder of a tuned model's deltas; it is complete or not there.

    Args:
        base: folder of the model before surgery; its fingerprint stands in `model.metadata.base`.

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
    record = DeltaRecord(
        method=VariantRecord.of(method.name, method.config.model_dump(mode="json")),
        base=None if base is None else str(Path(base).resolve()),
        fingerprint=model.metadata.base,
        labels=None if role is None else tuple(class_labels(model, role) or ()),
        problem_type=getattr(model.heads[role], "problem_type", SINGLE_LABEL) if role else SINGLE_LABEL,
        pooling=None if model.vectors is None else model.vectors.pooling,
        metadata=model.metadata.model_copy(update={"heads": heads}),
    )
    with storage_errors(directory, "save the deltas"), NewFolder(directory, "merge") as folder:
        write_safetensors(folder.path / TENSORS, {**learned(model), **model.extra_weights})
        write_json(folder.path / RECORD, record.model_dump(mode="json"))
        write_seal(folder.path, directory)
        folder.publish(last=RECORD)


def is_delta(path: Path | str) -> bool:
    """Whether a folder holds deltas and no whole model."""
    return (Path(path) / RECORD).is_file() and not (Path(path) / "config.json").exists()


def load_delta(
    path: Path | str, base: Path | str | None = None, *, makers: HeadMakers = MappingProxyType({})
) -> LanguageModel:
    """Reads a base and puts the deltas of a folder on it.

    Args:
        base: folder of the model that was tuned, where it no longer is where it was.
        makers: what makes the heads that are not standard.

    Raises:
        MissingInputError: the deltas, the base or the user's file of the method are gone.
        DataError: damaged files, another base than the one that was tuned, or a changed method.
    """
    folder = Path(path)
    record = read_record(folder)
    where = base or record.base
    if where is None:
        raise DataError(f"{folder / RECORD}: the base was never saved; use the merged model of the run")
    try:
        request = HeadRequest(record.labels or (), record.problem_type)
        heads = recorded_heads(str(folder), (), record.metadata.heads, request, makers)
        model = load_model(where, heads=heads)
    except MissingInputError as error:
        raise MissingInputError(f"{folder}: its base cannot be read ({error}); give its new place as `base`") from None
    current = base_fingerprint(model)
    if current != record.fingerprint:
        raise DataError(
            f"{where}: not the weights that {folder} was tuned on (fingerprint {record.fingerprint[:12]}... then, "
            f"{current[:12]}... now); bring the old ones back, or tune again"
        )
    model.metadata = record.metadata
    if record.pooling is not None:
        model.vectors = TextVectors.pooled(record.pooling)
    method = find_method(resolve(record.method, "tune", folder, "method"), record.method.config)
    model = method.apply(model)
    with checked(folder, [TENSORS]):
        tensors = _read_tensors(folder / TENSORS)
    model.extra_weights = {name: tensors.pop(name) for name in [*tensors] if name.startswith(OBJECTIVE)}
    fill(model, tensors, folder)
    return model


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
        return configuration.validate(DeltaRecord, tree, str(path))
    except UsageError as error:
        raise DataError(f"{error}; the file is damaged") from None


@torch.no_grad()
def fill(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Gives a model after surgery what was learned.

    Raises:
        DataError: other tensors than those that learn in this model.
    """
    targets = {**dict(model.named_buffers()), **{n: p for n, p in model.named_parameters() if p.requires_grad}}
    expected = learned(model)
    if odd := sorted(expected.keys() ^ tensors.keys()):
        raise DataError(
            f"{folder}: not the tensors of this method and model; {odd[0]!r} and {len(odd) - 1} more differ"
        )
    for name, tensor in tensors.items():
        if tensor.shape != targets[name].shape:
            raise DataError(
                f"{folder}: {name!r} has shape {list(tensor.shape)}, the method asks for {list(targets[name].shape)}"
            )
        if not tensor.isfinite().all():
            raise DataError(f"{folder}: {name!r} holds NaN or infinity; the deltas were saved broken")
        targets[name].copy_(tensor)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file; the deltas are incomplete")
    read_header(path)
    return load_file(path)
