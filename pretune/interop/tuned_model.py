"""Puts deltas on their base again, finds that base, and merges them into a plain model.

    delta.json --names--> base folder --read, its fingerprint compared--> surgery of the method --filled--> tuned model

A base may itself be a folder of deltas, whose method can be merged: then its merged model is tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pretune.errors import DataError, MissingInputError, PretuneError, UsageError
from pretune.interop.deltas import (
    RECORD,
    DeltaRecord,
    check_tensors,
    fill,
    frozen_heads,
    frozen_heads_fingerprint,
    is_delta,
    learned_shapes,
    read_record,
    read_tensors,
)
from pretune.interop.description import read_labels
from pretune.interop.fingerprint import body_fingerprint
from pretune.interop.huggingface import load_model, open_files
from pretune.interop.metadata import resolve
from pretune.interop.rebuilt import rebuild
from pretune.interop.recorded_heads import HeadMakers, recorded_heads
from pretune.interop.weight_names import OBJECTIVE
from pretune.models.metadata import Loaded, Metadata
from pretune.models.model import LanguageModel, MakeHeads, construct
from pretune.models.standard_heads import HeadRequest
from pretune.models.text_vectors import TextVectors
from pretune.tune.method import TuningMethod, find_method

MakersOf = Callable[[Metadata, Path], HeadMakers]
"""Gives what makes the heads of a folder that are not standard, from what the model says of itself."""


def no_makers(metadata: Metadata, folder: Path) -> HeadMakers:
    """Makes no heads."""
    del metadata, folder
    return {}


def load_delta(
    path: Path | str,
    base: Path | str | None = None,
    *,
    makers_of: MakersOf = no_makers,
    above: tuple[Path, ...] = (),
) -> LanguageModel:
    """Reads a base and puts the deltas of a folder on it.

    Args:
        base: folder of the model that was tuned, where it no longer is where it was.
        makers_of: gives what makes the heads that are not standard.
        above: folders of deltas whose base this one is.

    Raises:
        MissingInputError: the deltas, the base or the user's file of the method are gone.
        DataError: damaged files, another base than the one that was tuned, or a changed method.
    """
    folder = Path(path)
    record = read_record(folder)
    tensors = read_tensors(folder)
    return put_on(read_base_of(folder, record, base, makers_of, above), folder, record, tensors)


def read_base_of(
    folder: Path,
    record: DeltaRecord,
    base: Path | str | None = None,
    makers_of: MakersOf = no_makers,
    above: tuple[Path, ...] = (),
) -> LanguageModel:
    """Reads the base of some deltas with their heads, before surgery.

    Args:
        base, makers_of, above: as of `load_delta`.

    Raises:
        MissingInputError, DataError: as `load_delta`.
    """
    if folder.resolve() in above or len(above) > 15:
        raise DataError(f"{folder}: its base is itself, or too many deltas stand on each other; {RECORD} is damaged")
    makers = makers_of(record.metadata, folder)
    request = HeadRequest(record.labels or (), record.problem_type)
    heads = recorded_heads(str(folder), (), record.metadata.heads, request, makers)

    def read(where: Path) -> LanguageModel:
        return read_base(where, heads, record.overrides, makers_of=makers_of, above=(*above, folder.resolve()))

    return _find_base(folder, record, base, read)


def apply_delta(
    model: LanguageModel, folder: Path, record: DeltaRecord, tensors: Mapping[str, Tensor]
) -> LanguageModel:
    """Puts deltas on a base that has their heads; it is changed in place.

    Args:
        record, tensors: as `read_record` and `read_tensors` give them.

    Raises:
        DataError: not the base that was tuned, a changed method, or other tensors than those of the method.
        MissingInputError: the user's file of the method is gone.
    """
    check_base(model, folder, record)
    return put_on(model, folder, record, tensors)


def put_on(model: LanguageModel, folder: Path, record: DeltaRecord, tensors: Mapping[str, Tensor]) -> LanguageModel:
    """As `apply_delta`, on a base that is known to be the right one."""
    method = recorded_method(folder, record)
    extra = {name: tensor for name, tensor in tensors.items() if name.startswith(OBJECTIVE)}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in extra}
    try:
        _check_sizes(model, method, tensors, folder)
        model = tune(model, method)
    except UsageError as error:
        raise DataError(f"{folder / RECORD}: field 'method': {error}") from None
    fill(model, tensors, folder, method.changes(model))
    if frozen_heads_fingerprint(model, tensors) != record.heads:
        raise DataError(f"{folder}: not the heads of the model that it was tuned on; bring the old files back")
    if model.loaded is not None:
        model.loaded.initialised = [name for name in model.loaded.initialised if name not in tensors]
    model.metadata, model.extra_weights = record.metadata, extra
    if record.sparse:
        model.vectors = TextVectors.sparse()
    elif record.pooling is not None:
        model.vectors = TextVectors.pooled(record.pooling)
    return model


def check_base(model: LanguageModel, folder: Path, record: DeltaRecord) -> None:
    """Compares a model before surgery with the base of some deltas.

    Raises:
        DataError: it is another.
    """
    current = body_fingerprint(model)
    if current != record.fingerprint:
        raise DataError(
            f"not the weights that {folder} was tuned on (fingerprint {record.fingerprint[:12]}... then, "
            f"{current[:12]}... now); bring the old ones back, or tune again"
        )


def tune(model: LanguageModel, method: TuningMethod, seed: int = 0) -> LanguageModel:
    """Applies a method; `model.kept` then names frozen weights that no file holds, which deltas must hold."""
    initialised = set() if model.loaded is None else set(model.loaded.initialised)
    fresh = {id(weight) for name, weight in model.named_parameters() if name in initialised}
    model = method.apply(model, seed)
    frozen = [(name, weight) for name, weight in model.named_parameters() if not weight.requires_grad]
    model.kept = frozenset(name for name, weight in frozen if id(weight) in fresh)
    return model


def recorded_method(folder: Path, record: DeltaRecord) -> TuningMethod:
    """The method that deltas were learned with.

    Raises:
        MissingInputError: the user's file of the method is gone.
        DataError: it has changed, there is no such method, or its settings are none of it.
    """
    name = resolve(record.method, "tune", folder, "method", RECORD)
    try:
        return find_method(name, record.method.config)
    except UsageError as error:
        raise DataError(f"{folder / RECORD}: field 'method.config': {error}") from None


def merge_delta(model: LanguageModel, folder: Path) -> LanguageModel:
    """Makes a tuned model a plain one that computes the same; it is changed in place.

    Raises:
        UsageError: what the method learned cannot be merged.
    """
    method = recorded_method(folder, read_record(folder))
    refusal = (
        f"{folder}: what {method.name} learned cannot be merged into a plain model; use the folder as it is: every "
        "verb reads it with its base"
    )
    if not method.can_merge:
        raise UsageError(refusal)
    try:
        model = method.merge(model)
    except NotImplementedError as error:
        raise UsageError(f"{refusal} ({error})") from None
    model.metadata = model.metadata.model_copy(update={"base": None})
    model.kept = frozenset()
    return model


def read_base(
    where: Path,
    heads: MakeHeads,
    overrides: Mapping[str, Any],
    *,
    seed: int = 0,
    makers_of: MakersOf = no_makers,
    above: tuple[Path, ...] = (),
) -> LanguageModel:
    """Reads the model of a folder with other heads, for tuning; deltas are merged.

    Args:
        heads, overrides, seed: as of `load_model`.

    Raises:
        PretuneError: as `load_model`; or as `load_delta` and `merge_delta`.
    """
    if not is_delta(where):
        return load_model(where, heads=heads, overrides=overrides, seed=seed)
    merged = merge_delta(load_delta(where, makers_of=makers_of, above=above), where)
    return rebuild(merged, where, heads, overrides, seed)


def plain_folder(path: Path) -> Path:
    """The folder of a whole model that a folder is, or that deltas in it were learned on.

    Raises:
        MissingInputError: a base that is gone.
        DataError: a damaged record.
    """
    return _chain(path)[-1]


def _chain(path: Path) -> list[Path]:
    """A folder, its base, the base of that, and so on."""
    chain = [path]
    while is_delta(chain[-1]):
        if len(chain) > 16:
            raise DataError(f"{path}: too many deltas stand on each other; {RECORD} is damaged")
        chain.append(base_folder(chain[-1]))
    return chain


def labels_of_folder(path: Path) -> list[str] | None:
    """The names of the classes that the files of a model, or deltas, give; None where there are none.

    Raises:
        DataError: a damaged file.
    """
    if not is_delta(path):
        return read_labels(path)
    labels = read_record(path).labels
    return None if labels is None else list(labels)


def body_of(path: Path, overrides: Mapping[str, Any]) -> LanguageModel:
    """The model of a folder, deltas included, without heads and without memory, to be looked at."""
    changed = dict(overrides)
    for folder in _chain(path)[:-1]:
        changed = {**read_record(folder).overrides, **changed}
    _, description = open_files(plain_folder(path), changed)
    model = construct(description.family, description.config)
    model.loaded = Loaded()
    return model


def base_folder(path: Path) -> Path:
    """The folder of the base of some deltas.

    Raises:
        MissingInputError: it is gone.
        DataError: it was never saved.
    """
    return _candidates(path, read_record(path))[0]


def _candidates(folder: Path, record: DeltaRecord, base: Path | str | None = None) -> list[Path]:
    """Where the base may be: where the caller says, or where it was, from the root and from the deltas' folder."""
    if base is not None:
        return [Path(base)]
    if record.base is None:
        raise DataError(f"{folder / RECORD}: the base was never saved; give a base that has the same weights (--base)")
    paths = [Path(record.base), *([] if record.relative is None else [folder.resolve() / record.relative])]
    there = [path for path in dict.fromkeys(path.resolve() for path in paths) if path.exists()]
    if not there:
        raise MissingInputError(
            f"{folder}: its base is not at {' or '.join(map(str, paths))} any more; give its new place as `base` "
            "(--base)"
        )
    return there


def _find_base(
    folder: Path, record: DeltaRecord, base: Path | str | None, read: Callable[[Path], LanguageModel]
) -> LanguageModel:
    """The first of the places that holds the base that was tuned."""
    failures: list[PretuneError] = []
    for where in _candidates(folder, record, base):
        try:
            model = read(where)
            check_base(model, folder, record)
        except MissingInputError as error:
            failures.append(
                MissingInputError(f"{folder}: its base cannot be read ({error}); give its new place as `base` (--base)")
            )
        except DataError as error:
            failures.append(DataError(str(error) if str(where) in str(error) else f"{where}: {error}"))
        else:
            return model
    raise failures[0] from None


def _check_sizes(model: LanguageModel, method: TuningMethod, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Compares the tensors with those of a rehearsed surgery, so that no file makes the method ask for memory."""
    rehearsed = method.rehearse_apply(model)
    if rehearsed is not None:
        expected = learned_shapes(rehearsed, method.changes(rehearsed))
        check_tensors({n: t.shape for n, t in tensors.items()}, expected, frozen_heads(rehearsed), folder)
