"""Adds, averages and subtracts what tuning methods learned on one base, as new deltas on that base."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from pretune.errors import CannotCreateError, DataError, UsageError
from pretune.interop.deltas import DeltaRecord, is_delta, read_record, read_tensors, write_delta
from pretune.interop.tuned_model import MakersOf, no_makers, put_on, read_base_of, recorded_method
from pretune.interop.weight_names import OBJECTIVE
from pretune.models.metadata import VariantRecord
from pretune.models.model import LanguageModel
from pretune.new_folder import contents
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.wording import listed

HeadChoice = Literal["sum", "first", "average"]
"""Whose heads the result has: the same sum as the body, those of the first folder, or their mean, weighted by size."""


@dataclass(frozen=True)
class Operand:
    """What a method learned, read from its folder.

    Attributes:
        body: tensors of the method.
        heads: tensors of the heads.
        others: tensors of objectives.
    """

    folder: Path
    record: DeltaRecord
    body: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Operand:
        """Reads a folder.

        Raises:
            UsageError: a whole model.
            MissingInputError, DataError: as `read_record` and `read_tensors`.
        """
        if not is_delta(folder) and (folder / "config.json").exists():
            raise UsageError(
                f"{folder}: is a whole model; what tuning methods learned can be added, subtracted, averaged"
            )
        operand = cls(folder, read_record(folder))
        for name, tensor in read_tensors(folder).items():
            is_head, is_other = name.startswith("heads."), name.startswith(OBJECTIVE)
            (operand.heads if is_head else operand.others if is_other else operand.body)[name] = tensor
        return operand


def combine(
    folders: Sequence[Path],
    weights: Sequence[float],
    output: Path,
    heads: HeadChoice = "sum",
    base: Path | None = None,
    makers_of: MakersOf = no_makers,
) -> list[str]:
    """Writes deltas that change their base by the weighted sum of the changes that others make.

    Args:
        folders: of deltas on one base; the result's heads, task and tokenizer are those of the first.
        weights: one a folder.
        base: folder of the base, where it is no longer where it was.

    Returns:
        What the user should know.

    Raises:
        UsageError: what cannot be added, by its name.
        DataError: damaged files, or other bases.
        CannotCreateError: the folder holds something.
    """
    if len(folders) < 2:
        raise UsageError(f"{', '.join(map(str, folders)) or 'no folder'}: give at least two folders")
    if len(folders) != len(weights):
        raise UsageError(f"{len(folders)} folders, but {len(weights)} weights; give a weight for each folder")
    if output.is_dir() and contents(output):
        raise CannotCreateError(f"{output}: holds something already; give a new or empty folder")
    operands = [Operand.read(folder) for folder in folders]
    first = operands[0]
    for other in operands[1:]:
        _check_alike(first, other)
    model = read_base_of(first.folder, first.record, base, makers_of)
    _check_places(operands, model)
    method = recorded_method(first.folder, first.record)
    parts = [(recorded_method(each.folder, each.record).config, each.body) for each in operands]
    try:
        if method.is_difference:
            summed, tensors = method, _sum_of_values(operands, weights, model)
        else:
            summed, tensors = method.weighted_sum(parts, weights)
        summed.rehearse_apply(model)  # as the sum of the ranks may be above a width
    except UsageError as error:
        raise UsageError(f"{first.folder}: deltas of {method.name} cannot be added: {error}") from None
    chosen, notes = _heads(operands, weights, model, heads)
    record = first.record.model_copy(
        update={
            "method": VariantRecord.of(summed.name, summed.config.model_dump(mode="json")),
            "relative": first.record.base and os.path.relpath(first.record.base, output.resolve()),
        }
    )
    whole = {name: tensor.contiguous() for name, tensor in {**tensors, **chosen, **first.others}.items()}
    put_on(model, output, record, whole)  # what could not be read is not written
    write_delta(output, record, whole, Tokenizer.load(first.folder) if first.record.tokenizer else None)
    return notes


def _sum_of_values(operands: Sequence[Operand], weights: Sequence[float], model: LanguageModel) -> dict[str, Tensor]:
    """The base's own weights, changed by the weighted sum of the changes that each made.

    Raises:
        UsageError: each changed others.
    """
    base = dict(model.named_parameters())
    if any(not each.body.keys() == operands[0].body.keys() <= base.keys() for each in operands):
        raise UsageError("they trained other weights of the base")
    out: dict[str, Tensor] = {}
    for name in operands[0].body:
        was, pairs = base[name].detach(), zip(operands, weights, strict=True)
        out[name] = was + sum(((each.body[name] - was) * weight for each, weight in pairs), was * 0)
    return out


def _check_alike(first: Operand, other: Operand) -> None:
    """Refuses deltas on two bases, of two methods, with two tokenizers."""
    one, two, both = first.record, other.record, f"{first.folder} and {other.folder}"
    if one.fingerprint != two.fingerprint:
        raise DataError(
            f"{both}: were tuned on other weights ({one.base} and {two.base}; fingerprints {one.fingerprint[:12]}... "
            f"and {two.fingerprint[:12]}...); only deltas on one base can be added"
        )
    if (one.method.name, one.method.sha256) != (two.method.name, two.method.sha256):
        raise UsageError(
            f"{both}: were learned by {one.method.name} and {two.method.name}; merge one (pretune merge) and tune the "
            "merged model with the other, or tune both with one method"
        )
    if one.tokenizer != two.tokenizer:
        raise DataError(f"{both}: have other tokenizers; only deltas with one tokenizer can be added")
    if one.overrides != two.overrides:
        raise UsageError(f"{both}: changed other fields of the base: {one.overrides} and {two.overrides}")


def _check_places(operands: Sequence[Operand], model: LanguageModel) -> None:
    """Refuses what a method put into heads."""
    own = {name for name, _ in model.named_parameters()}
    for each in operands:
        role = {name.split(".")[1] for name in each.heads} & {*model.heads}
        odd = sorted(name for name in each.heads if name.split(".")[1] in role and name not in own)
        if odd:
            raise UsageError(
                f"{each.folder}: {odd[0]!r} is of a place in a head, which cannot be added; merge it (pretune merge)"
            )


def _heads(
    operands: Sequence[Operand], weights: Sequence[float], model: LanguageModel, choice: HeadChoice
) -> tuple[dict[str, Tensor], list[str]]:
    """The heads of the result, which are those of the first folder's roles."""
    first, fresh = operands[0], set() if model.loaded is None else set(model.loaded.initialised)
    left_out = sorted({n.split(".")[1] for each in operands[1:] for n in each.heads} - {*model.heads})
    notes = [f"heads left out, as {first.folder} has none of them: {', '.join(left_out)}"] if left_out else []
    out: dict[str, Tensor] = dict(first.heads)
    base = dict(model.named_parameters())
    refused: list[str] = []
    for name, own in first.heads.items():
        both = zip(operands, weights, strict=True)
        pairs = [(each.heads[name], weight) for each, weight in both if name in each.heads]
        if choice == "first" or len(pairs) == 1 or not own.is_floating_point():
            continue
        for each in operands[1:]:
            _check_labels(first, each, name)
        if choice == "average":
            shares = [(tensor, abs(weight)) for tensor, weight in pairs]  # heads are not subtracted from each other
            whole = sum(share for _, share in shares)
            if not whole:
                raise UsageError("--heads average: all weights are 0, by whose sum it divides; choose --heads first")
            out[name] = sum((tensor * (share / whole) for tensor, share in shares), own * 0)
        elif name in fresh or name not in base:
            refused.append(name)
        else:
            was = base[name].detach()
            out[name] = was + sum(((tensor - was) * weight for tensor, weight in pairs), was * 0)
    if refused:
        roles = sorted({name.split(".")[1] for name in refused})
        raise UsageError(
            f"{listed([str(each.folder) for each in operands])}: each has a head {', '.join(roles)} of its own, which "
            "began from random values, so that they do not add up; choose --heads first or --heads average"
        )
    return out, notes


def _check_labels(first: Operand, other: Operand, name: str) -> None:
    """Refuses heads of other labels, or of the same in another order."""
    if name not in other.heads:
        return
    if first.heads[name].shape != other.heads[name].shape or first.record.labels != other.record.labels:
        one, two = (listed(list(each.record.labels or ()), 5) or "none" for each in (first, other))
        raise UsageError(
            f"{first.folder} and {other.folder}: their heads have other labels, or the same in another order ({one}; "
            f"{two}); choose --heads first, or train both with the same labels (task.labels)"
        )


def default_weights(operation: Literal["add", "average", "subtract"], count: int) -> list[float]:
    """The weights that an operation means."""
    if operation == "average":
        return [1.0 / count] * count
    return [1.0, *([1.0 if operation == "add" else -1.0] * (count - 1))]


def parse_weights(text: str | None, operation: Literal["add", "average", "subtract"], count: int) -> list[float]:
    """What `--weights` says, times those that the operation means.

    Raises:
        UsageError: no finite numbers, or not one a folder; of an average, one below 0, or all 0.
    """
    usual = default_weights(operation, count)
    if text is None:
        return usual
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--weights {text}: expected numbers, such as 1,0.5") from None
    if len(weights) != count or not all(abs(value) < 1e6 for value in weights):
        raise UsageError(f"--weights {text}: expected {count} numbers, one for each folder")
    if operation == "average":
        if min(weights) < 0:  # alone it would be divided by itself, and nothing be taken away
            raise UsageError(f"--weights {text}: an average has no weights below 0; use add, which takes them")
        if not any(weights):
            raise UsageError(f"--weights {text}: their sum is 0, by which an average divides")
        return [value / sum(weights) for value in weights]
    return [value * sign for value, sign in zip(weights, usual, strict=True)]
