"""The sets that writing is measured on: records for training, validation and testing, and what is free of training.

A set is a `WritingSet` in the tuple `SETS` of a module `sets_*.py` beside this one; nothing else lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import benchmarks.writing
from benchmarks.named_sets import choose_set, sets_of

Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Parts:
    """The records of a set.

    Attributes:
        train, validation, test: with what is read and what is to be written; a test record may have several of the
            latter.
    """

    train: Sequence[Record]
    validation: Sequence[Record]
    test: Sequence[Record]


@dataclass(frozen=True)
class WritingSet:
    """A public set, how it is learned, and what is free of training.

    Attributes:
        name: what it is called on the command line.
        task: file name of the task: `generation` or `chat`.
        metrics: files of `pretune/metrics/`, the first of which stands for the others.
        language: of what is written.
        read: gives the records.
        source: what is read of a record, as text.
        references: the right texts of a record.
        baseline: writes the texts of the strongest simple method for the test records.
        baseline_name: that method.
        wheel: package and version that ship the model that is tuned; None where it begins with random weights.
        tokenizer: fields of a tokenizer that is trained on the texts that train; none where the model has one.
        recipe: name of a file in `recipes/`; fields over it are in `fields`.
        fields: of the recipe of `finetune`, as a tree.
        target: the first score that a finished run should have; None where it is only to be compared.
        note: what else one should know.
    """

    name: str
    task: Literal["generation", "chat"]
    metrics: Sequence[str]
    language: str
    read: Callable[[], Parts]
    source: Callable[[Record], str]
    references: Callable[[Record], Sequence[str]]
    baseline: Callable[[Parts], Sequence[str]]
    baseline_name: str
    wheel: tuple[str, str] | None = None
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    target: float | None = None
    note: str = ""


def all_sets() -> dict[str, WritingSet]:
    """Every set of the modules `sets_*.py`, by its name."""
    return sets_of(benchmarks.writing, WritingSet)


def find_set(name: str) -> WritingSet:
    """The set of a name.

    Raises:
        UsageError: there is none.
    """
    return choose_set(name, all_sets())


def nearest(
    known: Sequence[str], queries: Sequence[str], *, analyzer: str = "word", orders: tuple[int, int] = (1, 2)
) -> list[int]:
    """For each query the index of the known text that is most like it, by the cosine of TF-IDF.

    Args:
        analyzer: `word`, `char` or `char_wb`, as scikit-learn has them.
        orders: lengths of the n-grams.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    pattern = r"(?u)\b\w+\b" if analyzer == "word" else None  # words of one letter too
    vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=orders, token_pattern=pattern)
    vectors = vectorizer.fit_transform(known)
    found: list[int] = []
    for first in range(0, len(queries), 256):
        products = (vectorizer.transform(queries[first : first + 256]) @ vectors.T).toarray()
        found += products.argmax(axis=1).tolist()
    return found
