"""The base of tasks on text vectors: pairs of texts in, cosines out, correlated with human judgements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError, UsageError
from pretune.tasks.task import Example, Task, build_row, encode_texts, truncate_pair
from pretune.text.readers.labelled import LabelledText
from pretune.text.samples.rows import Encoded, Row
from pretune.text.tokenizer.long_texts import Keep
from pretune.text.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class PairExample(Example):
    """Texts that belong together, or a pair and how alike its texts are.

    Attributes:
        text: never empty.
        second: the text that belongs to it; None in records that cannot be trained on.
        third: one that looks alike and does not belong to it.
        label: how alike the first two are, a number as text; read where scores are wanted.
    """

    text: str
    second: str | None = None
    third: str | None = None
    label: str | None = None


class VectorTask(Task[PairExample, float, float]):
    """Base of the tasks on pairs whose texts are read apart; predictions are cosines."""

    main_metric: ClassVar[str] = "spearman"
    needs_labels: ClassVar[bool] = False

    class Config(Task.Config):
        """What tasks share."""

    def resolve_config(self, examples: Sequence[PairExample]) -> Task.Config:
        """Nothing is filled in.

        Raises:
            DataError: no examples, or one without a second text.
        """
        if not examples:
            raise DataError("no examples: the file has a header at most; give it pairs of texts")
        for example in examples:
            if example.second is None:
                raise DataError(
                    f"{example.origin}: {self.name} learns from pairs; name the column of the second texts with "
                    "--second (data.columns.second)"
                )
        return self.config

    def training_notes(self, examples: Sequence[PairExample]) -> list[str]:
        """That labels are not used."""
        if all(example.label is None for example in examples):
            return []
        return ["labels are not used: each pair is taken for texts that belong together"]

    def read(self, record: Mapping[str, object]) -> PairExample:
        """A text, its second and third, and the label."""
        fields = LabelledText.read(record, self.config.columns)
        return PairExample(fields.text, fields.second, fields.third, fields.label, origin=fields.origin)

    def encode(self, examples: Sequence[PairExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """A row for each example; each text is a sequence of its own, of `length` tokens at most."""
        if self.config.truncate == "windows":
            raise UsageError(f"task.{self.name}.truncate windows: a text has one vector; use head, tail or head+tail")
        max_tokens = length - self.vocabulary.overhead(False)
        keep = Keep.of(length, self.config.truncate)
        columns = [
            encode_texts(examples, [getattr(example, name) for example in examples], tokenizer, keep)
            for name in ("text", "second", "third")
        ]
        rows = []
        for n, (example, *texts) in enumerate(zip(examples, *columns, strict=True)):
            kept = [
                None
                if text is None
                else truncate_pair(np.arange(len(text[0])), None, max_tokens, self.config.truncate, example)[0]
                for text in texts
            ]
            score = self.score_of(example)
            rows.append(build_row(n, texts, kept, None if score is None else np.array(score)))
        return rows

    def score_of(self, example: PairExample) -> float | None:
        """How alike the texts of a pair are, where it learns that; None where it does not."""
        return None

    def merge(self, example: PairExample, answers: Sequence[float]) -> float:
        """The answer of the one row."""
        (answer,) = answers
        return answer

    def score(self, predictions: Sequence[float], examples: Sequence[PairExample]) -> dict[str, float]:
        """Correlations of the cosines with the labels.

        Raises:
            DataError: a label that is not a number, or labels that are all alike.
        """
        truth = [number_of(example) for example in examples]
        if len(set(truth)) < 2:
            raise DataError(
                f"{examples[0].origin.source}: all labels are {truth[0]:g}, so that nothing correlates with them"
            )
        return correlations(predictions, truth)


def correlations(values: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """Correlations by rank and by value; NaN where all of one side are alike."""
    from scipy import stats  # only scoring needs it

    if min(len(set(values)), len(set(truth))) < 2:  # scipy gives the same, and warns in words of its own
        return {"spearman": math.nan, "pearson": math.nan}
    return {
        "spearman": float(stats.spearmanr(values, truth).statistic),
        "pearson": float(stats.pearsonr(values, truth).statistic),
    }


def second(row: Row) -> NDArray[np.int64]:
    """The second text of a pair.

    Raises:
        DataError: there is none.
    """
    if row.second is None:
        raise DataError("vectors are compared in pairs; name the column of the second text")
    return row.second


def number_of(example: PairExample) -> float:
    """The label of a pair as a number.

    Raises:
        DataError: it is none.
    """
    if not is_number(example.label):
        raise DataError(
            f"{example.origin}: label {example.label!r} is not a number; say how alike the texts are, as 0 to 5"
        )
    return float(str(example.label))


def is_number(label: str | None) -> bool:
    """Whether a label is a finite number."""
    try:
        return math.isfinite(float(label or ""))
    except ValueError:
        return False
