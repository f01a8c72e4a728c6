"""Holds labelled examples out for validation, by key: by their texts, or by a column that names their group.

Copies of a text, and the rows of a group, stay together, so that nothing that is scored was trained on. What is held
out depends on the texts alone: not on their order, nor on the seed, so that runs with other seeds are scored alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import xxhash
from pydantic import Field, model_validator

from pretune.config import Config
from pretune.errors import DataError, UsageError

if TYPE_CHECKING:  # the configuration is read without numpy
    import numpy as np
    from numpy.typing import NDArray

    from pretune.tasks.task import Example

FEWEST = 100  # rows from which some are held out without being asked for
_RATE, _WANTED, _MOST, _AT_MOST = 0.1, 30, 0.2, 2000  # of the rows; rows, but no more than this rate; rows
_NO_TEXTS = ("label", "labels", "value", "values", "origin")  # fields of an example that make no other text of it


class HoldoutConfig(Config):
    """What of the labelled rows is held out for validation, where no file of it is named.

    Attributes:
        holdout: fraction of the training rows that is held out for validation; 0 trains on all. By default a tenth of
            100 rows or more (30 at least where that is no more than a fifth, 2,000 at most), and nothing of fewer.
        group: column whose rows of one value stay together, all held out or none, such as the author of the texts; by
            default only copies of a text do.
        folds: number of parts of the training rows, each of which is held out once: as many runs (cross-validation).
        fold: which part this run holds out, from 1.
    """

    holdout: float | None = Field(None, ge=0, le=0.9)
    group: str | None = None
    folds: int | None = Field(None, ge=2)
    fold: int | None = Field(None, ge=1)

    @property
    def asks_for_holdout(self) -> bool:
        """Whether something is to be held out by what is said here, and not by default."""
        return bool(self.holdout) or self.group is not None or self.folds is not None

    @model_validator(mode="after")
    def _one_way(self) -> HoldoutConfig:
        if self.folds is not None and self.holdout is not None:
            raise ValueError("give holdout (a fraction) or folds (a number of parts), not both")
        if self.holdout == 0 and self.group is not None:
            raise ValueError("holdout 0 holds nothing out, by group or otherwise: leave one of the two out")
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            raise ValueError(f"fold {self.fold} is one of how many? give folds, a number that is not smaller")
        return self


@dataclass(frozen=True)
class Holdout:
    """Training examples, parted.

    Attributes:
        train, validation: in their order.
        group: the column whose values stay together; None where the texts do.
        fraction: of the examples that was to be held out; None of a fold.
        fold: which of how many parts is held out.
    """

    train: list[Example]
    validation: list[Example]
    group: str | None = None
    fraction: float | None = None
    fold: tuple[int, int] | None = None

    def describe(self) -> str:
        """What was held out, for the screen."""
        held, total = len(self.validation), len(self.train) + len(self.validation)
        by = "text" if self.group is None else f"column {self.group!r}"
        if self.fold is not None:
            part, parts = self.fold
            return f"fold {part} of {parts}: {held:,} of {total:,} training rows are held out for validation, by {by}"
        return (
            f"held out for validation, as no file was named: {held:,} of {total:,} training rows, by {by} "
            "(--holdout 0 trains on all)"
        )

    def to_json(self) -> dict[str, object]:
        """The facts, for the record."""
        fold = None if self.fold is None else list(self.fold)
        rows = {"rows": len(self.validation), "of": len(self.train) + len(self.validation)}
        return {**rows, "group": self.group, "fraction": self.fraction, "fold": fold}


def hold_out(
    examples: Sequence[Example],
    groups: Sequence[str] | None,
    config: HoldoutConfig,
    *,
    needs_labels: bool,
    scores_unlabelled: bool = False,
) -> Holdout | None:
    """Parts training examples by what a recipe says, or by default.

    Args:
        groups: of each example, where a column names it.
        needs_labels: the task learns from labels; one that does not is scored by labels all the same,
        scores_unlabelled: unless it is scored without any where no example has one; such are held out where it is
            asked for.

    Returns:
        None where nothing is to be held out: by the recipe, or because there are few rows, or none that can be scored.

    Raises:
        DataError: examples without a label, which could not be scored.
        UsageError: more folds than different texts or groups, or a fraction that leaves a part empty.
    """
    is_chosen = config.asks_for_holdout
    fraction = default_fraction(len(examples)) if config.holdout is None else config.holdout
    if config.group is not None and config.holdout is None:  # a group is named for nothing else
        fraction = fraction or _MOST
    if config.folds is None and not fraction:
        return None
    if not needs_labels and (unscored := _first_unscored(examples)) is not None:
        has_labels = any(getattr(example, "label", None) is not None for example in examples)
        if is_chosen and (has_labels or not scores_unlabelled):
            raise DataError(
                f"{unscored.origin}: held-out rows are scored by labels that are numbers and differ, and this has "
                "none; name their column with --label, or leave --holdout, --group and --folds out"
            )
        if not is_chosen:
            return None
    names = groups if groups is not None else [example.held_together or text_key(example) for example in examples]
    key = _keys(names)
    fold = config.fold or 1  # of a recipe of all of them, the first is shown
    if config.folds is None:
        from pretune.draw import Draw

        chosen = Draw(0).at("holdout").uniform(key) < fraction
    else:
        chosen = _fold_of(key, examples, config.folds) == fold
    if needs_labels:
        _keep_labels(chosen, key, list(map(_labels_of, examples)))
    if not chosen.any() or chosen.all():
        if is_chosen:
            raise UsageError(_nothing(len(examples), len(set(names)), config, fraction))
        return None
    return Holdout(
        [example for example, held in zip(examples, chosen.tolist(), strict=True) if not held],
        [example for example, held in zip(examples, chosen.tolist(), strict=True) if held],
        config.group,
        fraction if config.folds is None else None,
        None if config.folds is None else (fold, config.folds),
    )


def default_fraction(count: int) -> float:
    """What is held out of so many rows without being asked for; 0 where they are too few to spare some."""
    if count < FEWEST:
        return 0.0
    return round(min(max(_RATE, _WANTED / count), _MOST, _AT_MOST / count), 4)


def text_key(example: Example) -> str:
    """What makes two examples copies of each other: all of their fields but what is true of them, and origin."""
    values = [getattr(example, field.name) for field in fields(example) if field.name not in _NO_TEXTS]
    return "\0".join(value if isinstance(value, str) else repr(value) for value in values if value is not None)


def _keys(names: Sequence[str]) -> NDArray[np.int64]:
    """A number for each name. Shape: return: (n,)"""
    import numpy as np

    return np.array([xxhash.xxh3_64_intdigest(name.encode(errors="surrogatepass")) for name in names], np.uint64).view(
        np.int64
    )


def _fold_of(key: NDArray[np.int64], examples: Sequence[Example], folds: int) -> NDArray[np.int64]:
    """The fold of each example, from 1: groups are dealt in the order of their key, those of a label one by one.

    Shape:
        key, return: (n,)
    """
    import numpy as np

    from pretune.draw import Draw

    first: dict[int, str] = {}
    for number, example in zip(key.tolist(), examples, strict=True):
        first.setdefault(number, str(getattr(example, "label", "")))
    rank = dict(zip(first, Draw(0).at("folds").bits(np.array(list(first), np.int64)).tolist(), strict=True))
    order = sorted(first, key=lambda number: (first[number], rank[number]))
    fold = {number: place % folds + 1 for place, number in enumerate(order)}
    return np.array([fold[number] for number in key.tolist()], np.int64)


def _labels_of(example: Example) -> Collection[object]:
    """The labels of an example, which has one, or several."""
    several = getattr(example, "labels", None)
    return several if isinstance(several, tuple) else (getattr(example, "label", None),)


def _keep_labels(chosen: NDArray[np.bool_], key: NDArray[np.int64], labels: Sequence[Collection[object]]) -> None:
    """Lets the groups of a label train where no other row of it would. Shape: chosen, key: (n,)"""
    import numpy as np

    trained = {label for n in np.flatnonzero(~chosen).tolist() for label in labels[n]}
    for n in np.flatnonzero(chosen).tolist():
        if not trained.issuperset(labels[n]):
            group = np.flatnonzero(key == key[n])
            chosen[group] = False
            trained |= {label for m in group.tolist() for label in labels[m]}


def _first_unscored(examples: Sequence[Example]) -> Example | None:
    """The first example without a number for a label; where all are the same, the first of all."""
    from pretune.tasks.shared.vector_task import is_number  # imports torch, which a recipe does not

    labels = [getattr(example, "label", None) for example in examples]
    first = next((n for n, label in enumerate(labels) if not is_number(label)), None)
    return examples[first or 0] if first is not None or len(set(labels)) < 2 else None


def _nothing(count: int, different: int, config: HoldoutConfig, fraction: float) -> str:
    what = "text" if config.group is None else f"{config.group!r}"
    if config.folds is not None:
        return (
            f"data.folds = {config.folds}: nothing is left to train on or to score with in fold {config.fold} of "
            f"{count:,} rows ({different:,} different by {what}); give fewer folds, or more rows of each label"
        )
    return (
        f"data.holdout = {fraction:g}: nothing is left to train on or to score with of {count:,} rows "
        f"({different:,} different by {what}); give another fraction, or name a file with --validation"
    )
