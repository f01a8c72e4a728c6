"""The base of tasks on text vectors: pairs of texts in, cosines out, correlated with human judgements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError, UsageError
from pretune.tasks.shared.windowed import cut_text
from pretune.tasks.task import Example, Task, build_row, encode_texts
from pretune.text.readers.labelled import LabelledText
from pretune.text.samples.rows import Encoded, Row
from pretune.text.samples.windows import Window
from pretune.text.tokenizer.long_texts import EncodedText
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


class PairVectors(NamedTuple):
    """The vectors of a window of each text of a pair. Shape: (width,) each"""

    first: NDArray[np.float32]
    second: NDArray[np.float32]


PairAnswer = float | PairVectors
"""What is said of a row: the cosine of its texts, or, where these may be windows, their vectors."""


class VectorTask(Task[PairExample, PairAnswer, float]):
    """Base of the tasks on pairs whose texts are read apart; predictions are cosines.

    Attributes:
        reads_windows: a text may be read in windows, whose vectors are averaged.
    """

    main_metric: str = "spearman"
    needs_labels: ClassVar[bool] = False
    reads_windows: ClassVar[bool] = False

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
        """A row for each example, or for each window of its longest text; each text is a sequence of its own."""
        if self.config.truncate == "windows" and not self.reads_windows:
            raise UsageError(f"task.{self.name}.truncate windows: a text has one vector; use head, tail or head+tail")
        max_tokens, keep = length - self.vocabulary.overhead(False), self.keep(length)
        columns = [
            encode_texts(examples, [getattr(example, name) for example in examples], tokenizer, keep)
            for name in ("text", "second", "third")
        ]
        rows: list[Encoded] = []
        for n, (example, *texts) in enumerate(zip(examples, *columns, strict=True)):
            windows = [[] if text is None else cut_text(self, text, max_tokens, example) for text in texts]
            score = self.score_of(example)
            targets = None if score is None else np.array(score)
            rows += [_aligned_row(n, texts, aligned, targets) for aligned in align_windows(windows)]
        return rows

    def score_of(self, example: PairExample) -> float | None:
        """How alike the texts of a pair are, where it learns that; None where it does not."""
        return None

    def merge(self, example: PairExample, answers: Sequence[PairAnswer]) -> float:
        """The cosine of the one row, or that of the mean vectors of windows."""
        cosines = [answer for answer in answers if isinstance(answer, float)]
        if cosines:
            (cosine,) = cosines
            return cosine
        vectors = [answer for answer in answers if isinstance(answer, PairVectors)]
        first: NDArray[np.float64] = np.stack([each.first for each in vectors]).mean(axis=0, dtype=np.float64)
        second: NDArray[np.float64] = np.stack([each.second for each in vectors]).mean(axis=0, dtype=np.float64)
        size = float(np.linalg.norm(first) * np.linalg.norm(second))
        return float(np.dot(first, second)) / size if size else 0.0

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


def align_windows(windows: Sequence[Sequence[Window]]) -> list[list[Window | None]]:
    """Windows of texts side by side, as many as the longest has; those of the others are spread over them.

    Args:
        windows: of each text; none of a text that is not there.

    Returns:
        For each row, a window of each text, or None; the tokens of one that stood there before are repeated.
    """
    count = max(map(len, windows))
    rows: list[list[Window | None]] = []
    for k in range(count):
        row: list[Window | None] = []
        for each in windows:
            place, before = k * len(each) // count, (k - 1) * len(each) // count
            if not each:
                row.append(None)
            elif k and place == before:
                row.append(Window(each[place].index, repeated=len(each[place].index)))
            else:
                row.append(each[place])
        rows.append(row)
    return rows


def _aligned_row(
    example: int,
    texts: Sequence[EncodedText | None],
    windows: Sequence[Window | None],
    targets: NDArray[np.generic] | None,
) -> Encoded:
    """The row of some windows, one of each text."""
    row = build_row(example, texts, [None if window is None else window.index for window in windows], targets)
    present = [window for window in windows if window is not None]
    return replace(row, cut=sum(each.cut for each in present), repeated=sum(each.repeated for each in present))


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
