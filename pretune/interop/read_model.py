"""Builds the model that a configuration describes, and fills it with tensors by their names in files.

Nothing is allocated before the shapes of the tensors have been found to be those of the configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretune.errors import DataError
from pretune.interop.description import Description
from pretune.interop.head_labels import class_labels
from pretune.interop.recorded_heads import HeadMakers, recorded_heads
from pretune.interop.rounded_files import fill_rounded, put_rounded
from pretune.interop.weight_check import (
    check_copies,
    check_left_over,
    tie_as_in_files,
    wrapper_hint,
    zero_if_absent,
)
from pretune.interop.weight_names import FileTable
from pretune.interop.weights import NamedTensors, Weights
from pretune.models.head_table import weight_map_of
from pretune.models.init import initialise, replace_parameters
from pretune.models.metadata import Loaded
from pretune.models.model import LanguageModel, MakeHeads, construct
from pretune.models.standard_heads import LABELLED_HEADS, HeadRequest
from pretune.models.weight_map import Weight
from pretune.nn.heads import SequenceHead
from pretune.nn.vector_head import VectorHead

Sources = Mapping[str, tuple[str, Weight]]
"""For each of our weights its name in the files, and how it is read."""


def read_model(
    folder: Path,
    weights: NamedTensors,
    description: Description,
    heads: Sequence[str] | MakeHeads | None,
    labels: Sequence[str] | None,
    makers: HeadMakers,
    dtype: torch.dtype,
    overrides: Mapping[str, Any] | None,
    seed: int,
) -> LanguageModel:
    """Builds the model that a configuration describes, of tensors by their names in files.

    Args:
        folder: where they come from, for messages.
        heads, labels, makers, dtype, overrides, seed: as of `load_model`.

    Raises:
        DataError, UsageError: as `load_model`.
    """
    table = FileTable(str(folder), description.family, weights)
    if "tie_word_embeddings" not in (overrides or {}):
        tie_as_in_files(description, table)
    model = assemble(description, table, heads, labels, makers)
    check_copies(table, model)
    model.extra_weights = table.extra_weights()
    model.loaded = loaded = Loaded(notes=list(description.notes), training_notes=list(description.training_notes))
    model.default_pooling = "last" if description.is_causal_class else "mean"
    sources: Sources = table.sources(model)
    sources, order = _fit_labels(model, description, table, sources, loaded)
    table.check(model, sources, wrapper_hint(table, model))
    if heads is None:
        _refuse_missing_heads(table, description)
    loaded.unexpected = table.left_over(model)
    check_left_over(table, model, loaded.unexpected, overrides or {})
    absent = [name for name, _ in model.named_parameters() if name not in sources]
    loaded.initialised = [name for name in absent if name not in zero_if_absent(model)]
    if heads is None and labels is None and loaded.initialised:
        _refuse_missing(table, model, loaded.initialised)
    _fill(model, table, sources, order, dtype)
    fill_rounded(model, weights, table.where)
    initialise(model, seed, only=lambda name: name not in sources)
    model.to(dtype)
    return model


def _fit_labels(
    model: LanguageModel, description: Description, table: FileTable, sources: Sources, loaded: Loaded
) -> tuple[Sources, dict[str, list[int]]]:
    """Compares the labels of the model's heads with the file's.

    Returns:
        The sources of the weights, without the rows of a head whose labels are others; and for a head whose labels are
        the file's in another order, which row of the file each of its rows is.
    """
    order: dict[str, list[int]] = {}
    for role in LABELLED_HEADS:
        names, known = class_labels(model, role), _labels(description, table, role, None)
        last = f"heads.{role}.linear."
        if names is None or names == known:
            continue
        if sorted(names) == sorted(known):
            order |= {name: [known.index(label) for label in names] for name in sources if name.startswith(last)}
            continue
        if not any(name.startswith(last) for name in sources):
            continue  # the files have no such head, whose labels could differ
        title = role.replace("_", " ")
        loaded.notes.append(f"{title} head re-initialized: its labels ({len(names)}) differ from the file's")
        sources = {name: source for name, source in sources.items() if not name.startswith(last)}
    return sources, order


def _refuse_missing_heads(table: FileTable, description: Description) -> None:
    """Refuses files without the head that their class has, as whoever asks for no head wants those in the files.

    Raises:
        DataError: naming the first weight that is missing.
    """
    for role, name in description.missing.items():
        raise DataError(
            f"{table.where}: weight {name!r} is missing, which the head {role!r} needs that config.json names in "
            "'architectures'; bring the whole files, train the head (pretune finetune), or correct 'architectures'"
        )


def _refuse_missing(table: FileTable, model: LanguageModel, absent: Sequence[str]) -> None:
    """Refuses heads whose weights would be random.

    Raises:
        DataError: naming the first weight that is missing.
    """
    raise DataError(
        f"{table.where}: weight {table.expected(model, absent[0])!r} is missing: it would be random, and so would be "
        "what the model says; bring the whole files, or correct config.json"
    )


def assemble(
    description: Description,
    table: FileTable,
    heads: Sequence[str] | MakeHeads | None,
    labels: Sequence[str] | None,
    makers: HeadMakers,
) -> LanguageModel:
    """Builds the model that files describe; its weights are not yet read.

    Args:
        heads, labels, makers: as of `load_model`.

    Raises:
        DataError: a head in the files that nobody here makes.
        UsageError: a head that the family does not have.
    """
    family, config = description.family, description.config
    if heads is None:
        sources = {r: s for r, s in description.metadata.heads.items() if r in description.roles or table.has_head(r)}
        names = _wanted_labels(description, table, {*description.roles, *sources}, labels)
        request = HeadRequest(names, description.problem_type)
        model = construct(family, config, recorded_heads(table.where, description.roles, sources, request, makers))
        if description.has_metadata:
            _refuse_unknown_heads(table, model)
    elif callable(heads):
        model = construct(family, config, heads)
    else:
        names = _wanted_labels(description, table, heads, labels)
        model = construct(family, config, heads, names, description.problem_type)
    for role, each in model.heads.items():
        name = table.locate(f"heads.{role}.linear.weight")
        if isinstance(each, VectorHead) and name is not None:
            each.use_columns(table.weights.shapes[name][1])
    head = dict(model.heads.items()).get("classification")
    if isinstance(head, SequenceHead) and description.describes(head):
        head.output = description.output or head.output
        head.states_problem_type = description.states_problem_type
    model.extras, model.carried = description.extras, description.carried
    model.generation = description.generation
    put_rounded(model, description.metadata.rounded, table.weights, table.where)
    model.metadata = description.metadata.model_copy(update={"rounded": None})  # the bricks say it from now on
    return model


def _refuse_unknown_heads(table: FileTable, model: LanguageModel) -> None:
    """Refuses heads in the files that nobody makes, so that nothing that was trained is dropped silently.

    Raises:
        DataError: the files hold a head that config.json does not name.
    """
    for role, name in table.unknown_heads(model).items():
        raise DataError(
            f"{table.where}: weight {name!r} is of a head {role!r} that config.json does not name in the field "
            "'pretune.heads', so that it cannot be built; pass what builds it, load_model(path, heads=...), or "
            "remove its weights from the files"
        )


def _wanted_labels(
    description: Description, table: FileTable, roles: Collection[str], wanted: Sequence[str] | None
) -> list[str]:
    """Names the classes of the first standard head that has some; none where there is no such head."""
    role = next((role for role in LABELLED_HEADS if role in roles), None)
    return [] if role is None else _labels(description, table, role, wanted)


def _labels(description: Description, table: FileTable, role: str, wanted: Sequence[str] | None) -> list[str]:
    """Names a head's classes: those wanted, else the file's, else as many as its head has rows."""
    if wanted is not None:
        return list(wanted)
    logits = f"heads.{role}.linear.weight"
    weights = weight_map_of(description.family) or ()
    name = table.locate(next((weight.theirs for weight in weights if weight.ours == logits), logits))
    rows = None if name is None else table.weights.shapes[name][0]
    if description.labels is not None and rows in (None, len(description.labels)):
        return description.labels
    return [f"LABEL_{n}" for n in range(2 if rows is None else rows)]


def _fill(
    model: LanguageModel,
    table: FileTable,
    sources: Sources,
    order: Mapping[str, Sequence[int]],
    dtype: torch.dtype,
) -> None:
    """Fills the parameters that the files have.

    Args:
        order: which row of the file's tensor each row of a parameter is, where that is another.

    Raises:
        DataError: a value that is not finite.
    """

    weights = table.weights

    def value(ours: str, old: Tensor) -> Tensor:
        if ours not in sources:
            return old
        name, weight = sources[ours]
        read = weight.read(weights.read(name), model.config)
        new = torch.empty(old.shape, dtype=dtype).copy_(read[order[ours]] if ours in order else read)
        if isinstance(weights, Weights):
            weights.release(name)
        if not new.sum().isfinite() and not new.isfinite().all():
            raise DataError(
                f"{table.where}: weight {name!r} holds NaN or infinity (as {str(dtype).removeprefix('torch.')}); its "
                "training diverged, or the file is damaged: use an earlier checkpoint, or copy the files again"
            )
        return new

    replace_parameters(model, value)
