"""The base of tasks on text vectors: pairs of texts in, cosines out, correlated with human judgements."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pretune.errors import DataError, UsageError
from pretune.metrics.ranking import score_rankings
from pretune.tasks.shared.pair_scores import RANKING_METRIC, PairCosine, PairVectors, correlations, ranking_scores
from pretune.tasks.shared.windowed import cut_text
from pretune.tasks.task import Example, Task, build_row, encode_texts
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.records import Record, is_missing
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
        third: one that looks alike and does not belong to it: a negative.
        label: how alike the first two are, a number as text; read where scores are wanted.
        others: further negatives.
        values: the label, where it is a list of numbers: the scores of all further texts, or a teacher's vector.
    """

    text: str
    second: str | None = None
    third: str | None = None
    label: str | None = None
    others: tuple[str, ...] = ()
    values: NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def negatives(self) -> tuple[str, ...]:
        """All of them."""
        return () if self.third is None else (self.third, *self.others)


_NO_LABEL = "none"  # the field that a user names who wants no labels
PairAnswer = float | PairVectors
"""What is said of a row: the cosine of its texts, or, where these may be windows, their vectors."""


class VectorTask(Task[PairExample, PairAnswer, float]):
    """Base of the tasks on pairs whose texts are read apart; predictions are cosines.

    Attributes:
        reads_windows: a text may be read in windows, whose vectors are averaged.
    """

    main_metric: str = "spearman"
    needs_labels: ClassVar[bool] = False
    scores_unlabelled: ClassVar[bool] = True
    reads_windows: ClassVar[bool] = False

    class Config(Task.Config):
        """What tasks share."""

    @property
    def needs_second(self) -> bool:
        """Whether it learns from pairs alone."""
        return True

    def resolve_config(self, examples: Sequence[PairExample]) -> Task.Config:
        """Nothing is filled in.

        Raises:
            DataError: no examples, one without a second text, or none with the label that the user named.
        """
        if not examples:
            raise DataError("no examples: the file has a header at most; give it pairs of texts")
        for example in examples:
            if example.second is None and self.needs_second:
                raise DataError(
                    f"{example.origin}: {self.name} learns from pairs; name the column of the second texts with "
                    "--second (data.columns.second)"
                )
        label = self.config.columns.label
        if label not in (LabelledConfig().label, _NO_LABEL) and all(
            each.label is None and each.values is None for each in examples
        ):
            raise DataError(
                f"{examples[0].origin}: no field {label!r} here nor in any other record; name the field of the labels "
                "with --label (columns.label), or give --label none to learn without labels"
            )
        return self.config

    def training_notes(self, examples: Sequence[PairExample]) -> list[str]:
        """That labels are not used."""
        if all(example.label is None for example in examples):
            return []
        return ["labels are not used: each pair is taken for texts that belong together"]

    def read(self, record: Mapping[str, object]) -> PairExample:
        """A text, its second one, its negatives (a text, or a list of texts), and the label."""
        columns, fields = self.config.columns, Record.of(record)
        text = fields.text(columns.text, "columns.text")
        second = fields.text(columns.second, "columns.second") if columns.second else None
        third, *others = _negatives(fields, columns.third) if columns.third else [None]
        values = _numbers(fields, columns.label)
        label = None if values is not None else fields.label(columns.label, "columns.label")
        return PairExample(text, second, third, label, tuple(map(str, others)), values, origin=fields.origin)

    def encode(self, examples: Sequence[PairExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """A row for each example, or for each window of its longest text; each text is a sequence of its own."""
        if self.config.truncate == "windows" and not self.reads_windows:
            raise UsageError(f"task.{self.name}.truncate windows: a text has one vector; use head, tail or head+tail")
        max_tokens, keep = length - self.vocabulary.overhead(False), self.keep(length)
        further = max((len(example.others) for example in examples), default=0)
        texts_of = [(each.text, each.second, each.third, *each.others) for each in examples]
        columns = [
            encode_texts(examples, [texts[n] if n < len(texts) else None for texts in texts_of], tokenizer, keep)
            for n in range(3 + further)
        ]
        rows: list[Encoded] = []
        for n, (example, *texts) in enumerate(zip(examples, *columns, strict=True)):
            windows = [[] if text is None else cut_text(self, text, max_tokens, example) for text in texts]
            targets = self.targets_of(example)
            rows += [_aligned_row(n, texts, aligned, targets) for aligned in align_windows(windows)]
        return rows

    def targets_of(self, example: PairExample) -> NDArray[np.generic] | None:
        """What is learned from the label of an example; None, the default, for nothing. Shape: return: (any,)"""
        return None

    def merge(self, example: PairExample, answers: Sequence[PairAnswer]) -> float:
        """The cosine of the one row, or that of the mean vectors of windows."""
        cosines = [answer for answer in answers if isinstance(answer, float)]
        if cosines:
            (cosine,) = cosines
            return cosine
        vectors = [answer for answer in answers if isinstance(answer, PairVectors)]
        return PairCosine.of(
            np.stack([each.first for each in vectors]).mean(axis=0, dtype=np.float64),
            np.stack([each.second for each in vectors]).mean(axis=0, dtype=np.float64),
        )

    def score(self, predictions: Sequence[float], examples: Sequence[PairExample]) -> dict[str, float]:
        """Correlations of the cosines with the labels, or, of pairs without labels, how well texts find their partners.

        Raises:
            DataError: a label that is not a number, labels that are all alike, or labels of some pairs alone.
            MissingPackageError: pairs without labels, and ir-measures is not installed.
        """
        labelled = [example for example in examples if example.label is not None]
        if not labelled:
            vectors = [
                each.vectors for each in predictions if isinstance(each, PairCosine) and each.vectors is not None
            ]
            assert len(vectors) == len(predictions)  # `decode` gives them
            return ranking_scores(vectors, [each.text for each in examples], [str(each.second) for each in examples])
        if len(labelled) < len(examples):
            missing = next(example for example in examples if example.label is None)
            raise DataError(
                f"{missing.origin}: no label, where other pairs have one; give all pairs one, or none to score how "
                "well texts find their partners"
            )
        truth = [number_of(example) for example in examples]
        if len(set(truth)) < 2:
            raise DataError(
                f"{examples[0].origin.source}: all labels are {truth[0]:g}, so that nothing correlates with them; "
                "leave the column of labels out to score how well texts find their partners"
            )
        return correlations(predictions, truth)

    def metric_of(self, examples: Sequence[PairExample]) -> str:
        """Spearman's correlation, or nDCG where the pairs have no labels.

        Raises:
            MissingPackageError: these need ir-measures, which is not installed.
        """
        if any(example.label is not None for example in examples):
            return self.main_metric
        score_rankings({"0": ["0"]}, {"0": {"0": 1}}, [RANKING_METRIC])  # before the first step, and not at its end
        return RANKING_METRIC


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


def pair_cosines(first: Tensor, second: Tensor) -> list[PairAnswer]:
    """The cosines of pairs, with their vectors of length 1. Shape: (N, width) each"""
    cosines = (first * second).sum(dim=1).cpu()
    pairs = zip(cosines.tolist(), *(each.detach().cpu().numpy() for each in (first, second)), strict=True)
    return [PairCosine(cosine, PairVectors(one, other)) for cosine, one, other in pairs]


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


def scores_of(examples: Sequence[PairExample]) -> list[float]:
    """The labels of pairs as numbers that differ.

    Raises:
        DataError: a pair has none, one is no number, or all are the same.
    """
    remedy = "name another column with --label, or set task.similarity.loss to contrast to take all as alike"
    missing = next((example for example in examples if example.label is None), None)
    if missing is not None:
        what = "no label, where other pairs have one; give all pairs one"
        if missing.values is not None:
            what = f"the label is a list of {len(missing.values)} numbers; give one number"
        raise DataError(f"{missing.origin}: {what}, {remedy}")
    try:
        scores = [number_of(example) for example in examples]
    except DataError as error:
        raise DataError(f"{error}; or {remedy}") from None
    if len(set(scores)) == 1:
        raise DataError(
            f"{examples[0].origin.source}: all labels are {scores[0]:g}, so that they put pairs in no order; give "
            f"pairs with other labels, {remedy}"
        )
    return scores


def is_number(label: str | None) -> bool:
    """Whether a label is a finite number."""
    try:
        return math.isfinite(float(label or ""))
    except ValueError:
        return False


def _negatives(record: Record, name: str) -> list[str]:
    """The negatives of a record: a text, or a list of texts, which a table holds as JSON.

    Raises:
        DataError: no such field, no value, an empty list, or an item that is no text.
    """
    value = record.get(name)
    is_list = not isinstance(value, str) or (value.startswith("[") and _is_json_of_texts(value))
    if name not in record or is_missing(value) or not (is_list and record.items_of(name, value) is not None):
        return [record.text(name, "columns.third")]
    texts = record.strings(name, "columns.third")
    if not texts:
        raise record.error(f"field {name!r} is an empty list", "give each example a negative (pretune mine finds some)")
    return texts


def _is_json_of_texts(text: str) -> bool:
    """Whether a cell is a list of texts as JSON, and no text that begins with a bracket."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _numbers(record: Record, name: str) -> NDArray[np.float32] | None:
    """The label, where it is a list of numbers; None where it is something else.

    Raises:
        DataError: a list of something else, or a number that is not finite.
    """
    value = record.get(name)
    if value is None or (isinstance(value, str) and not value.lstrip().startswith("[")):
        return None
    try:
        items = record.items_of(name, value)
    except DataError:
        return None  # a text that begins with a bracket
    if items is None:
        return None
    for number, item in enumerate(items):
        if not isinstance(item, int | float) or isinstance(item, bool) or not math.isfinite(item):
            raise record.error(
                f"field '{name}[{number}]' = {str(item)[:20]!r} is not a finite number",
                "give scores or a vector as a list of numbers",
            )
    return np.array(items, np.float32)
