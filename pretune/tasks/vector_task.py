"""What tasks on vectors of texts share: pairs of texts in, cosines out, correlated with how alike people find them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pretune.errors import DataError
from pretune.tasks.task import Task, fit, where
from pretune.text.readers.labelled import Example
from pretune.text.samples.rows import Encoding, Row
from pretune.text.tokenizer.vocabulary import Vocabulary


class VectorTask(Task[float]):
    """Base of the tasks on pairs whose texts are read apart; answers are cosines."""

    primary: ClassVar[str] = "spearman"
    labelled: ClassVar[bool] = False

    class Config(Task.Config):
        """What tasks share."""

    @classmethod
    def settle(cls, config: Config, examples: Sequence[Example]) -> Config:
        """Nothing is filled in.

        Raises:
            DataError: no examples, or one without a second text.
        """
        if not examples:
            raise DataError("no examples: the file has a header at most; give it pairs of texts")
        for example in examples:
            if example.second is None:
                raise DataError(
                    f"{where(example)}: {cls.name} learns from pairs; name the column of the second text as "
                    "data.columns.second_column"
                )
        return config

    def shorten(self, row: Encoding, vocabulary: Vocabulary, length: int, example: Example) -> Encoding:
        """Each text is a sequence of its own, of `length` tokens at most."""
        room = length - vocabulary.overhead(False)
        first, second, third = (
            None if text is None else fit(text, None, room, self.config.truncate, example)[0]
            for text in (row.tokens, row.second, row.third)
        )
        assert first is not None  # every example has a text
        return Encoding(first, second, row.label, third)

    def score(self, answers: Sequence[float], examples: Sequence[Example]) -> dict[str, float]:
        """Correlations of the cosines with the labels.

        Raises:
            DataError: a label that is no number, or labels that are all alike.
        """
        truth = [_number(example) for example in examples]
        if len(set(truth)) < 2:
            raise DataError(f"{examples[0].source}: all labels are {truth[0]:g}, so that nothing correlates with them")
        return {
            "spearman": float(stats.spearmanr(answers, truth).statistic),
            "pearson": float(stats.pearsonr(answers, truth).statistic),
        }


def second(row: Row) -> NDArray[np.int64]:
    """The second text of a pair.

    Raises:
        DataError: there is none.
    """
    if row.second is None:
        raise DataError("vectors are compared in pairs; name the column of the second text")
    return row.second


def _number(example: Example) -> float:
    try:
        value = float(example.label or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{where(example)}: label {example.label!r} is no number; say how alike the texts are, as 0 to 5"
        )
    return value
