"""The base of tasks on frames: a span that evokes one (a trigger, a predicate), and links from it to its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from pretune.errors import DataError
from pretune.tasks.extraction import UNKNOWN, Extraction, WindowAnswer
from pretune.tasks.shared.annotated import AnnotatedExample
from pretune.tasks.shared.link_predictions import (
    Items,
    LinkPrediction,
    PredictedSpan,
    predicted_items,
    predicted_spans,
    true_items,
)
from pretune.tasks.shared.link_scores import ItemScores
from pretune.tasks.shared.windowed import token_spans
from pretune.text.readers.records import Column
from pretune.text.samples.rows import Ints, Row
from pretune.text.tokenizer.tokenizer import Vocabulary

_GIVEN = 3  # besides the numbers of heads in targets: a span that is given
_CERTAIN = 20.0  # score of a span that is given


class Frames(Extraction):
    """Spans that evoke frames, and their arguments.

    Attributes:
        evoker: what the field calls a span that evokes a frame, as scores are named.
    """

    evoker: ClassVar[str]
    main_metric: str = "argument_f1"

    class Config(Extraction.Config):
        """Which spans evoke frames.

        Attributes:
            evokers: labels of the spans from which links go; empty: those of the training data.
            given: the records mark these spans, in prediction too, so that arguments alone are looked for.
        """

        evokers: tuple[str, ...] = ()
        given: bool = False

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.config = config
        self._evoking = [n for n, label in enumerate(config.span_labels) if label in config.evokers]

    def columns(self, needs_labels: bool) -> list[Column]:
        """Text, spans and links; the spans in any case where they are given."""
        spans = self.config.columns.spans
        return [
            Column(c.name, c.setting, True, c.alternatives) if self.config.given and c.name == spans else c
            for c in super().columns(needs_labels)
        ]

    def resolve_config(self, examples: Sequence[AnnotatedExample]) -> Config:
        """Fill in the labels of the spans from which links go, besides all that extraction fills in.

        Raises:
            DataError: no links in all examples.
        """
        config = super().resolve_config(examples)
        assert isinstance(config, Frames.Config)  # of `self.config`
        evokers = config.evokers or tuple(sorted({head for head, _, _ in config.link_schema}))
        return config.model_copy(update={"evokers": evokers})

    def pairs(self, example: AnnotatedExample, offsets: Ints) -> Ints | None:
        """Those of extraction, and the spans that are given."""
        pairs = super().pairs(example, offsets)
        if not self.config.given:
            return pairs
        if example.spans is None:
            raise DataError(f"{example.origin}: no spans; mark the spans that evoke frames, or set given to false")
        spans = [span for span in example.spans if span.label in self.config.evokers]
        bounds = np.array([(span.start, span.end) for span in spans], np.int64).reshape(-1, 2)
        first, last = token_spans(offsets, bounds[:, 0], bounds[:, 1])
        numbers = [self.config.span_labels.index(span.label) for span in spans]
        quads = np.array(
            [(_GIVEN, number, i, j) for number, i, j in zip(numbers, first, last, strict=True) if i <= j], np.int64
        ).reshape(-1, 4)
        known = np.array([(UNKNOWN, 0, 0, 0)], np.int64) if pairs is None else pairs
        return np.concatenate([known, quads])

    def known_pairs(self, row: Row) -> Ints | None:
        """Those of extraction: the spans that are given are none."""
        pairs = super().known_pairs(row)
        return None if pairs is None or (pairs[:, 0] == UNKNOWN).any() else pairs[pairs[:, 0] < _GIVEN]

    def span_scores(self, scores: Tensor, row: Row) -> Tensor:
        """Those of the head, or certainty of the spans that are given."""
        if not self.config.given or row.targets is None:
            return scores
        scores = scores.clone()
        scores[self._evoking] = -_CERTAIN
        for _, label, first, last in row.targets[row.targets[:, 0] == _GIVEN].tolist():
            scores[label, first, last] = _CERTAIN
        return scores

    def is_given(self, label: str) -> bool:
        """Whether records mark the spans of a label: those that evoke frames, where they are given."""
        return self.config.given and label in self.config.evokers

    def merge(self, example: AnnotatedExample, answers: Sequence[WindowAnswer]) -> LinkPrediction:
        """Those of extraction, and the spans that are given as they are given."""
        prediction = super().merge(example, answers)
        return {**prediction, "spans": [self._as_given(span, example) for span in prediction["spans"]]}

    def _as_given(self, span: PredictedSpan, example: AnnotatedExample) -> PredictedSpan:
        """A given span with its own bounds, where its tokens have more characters: "did" of the token "didn"."""
        inside = [
            other
            for other in example.spans or ()
            if other.label == span["label"] and span["start"] <= other.start and other.end <= span["end"]
        ]
        if not inside or not self.is_given(span["label"]):
            return span
        given = max(inside, key=lambda other: other.end - other.start)
        return predicted_spans(example.text, [((given.start, given.end, given.label), None)])[0]

    def score(self, predictions: Sequence[LinkPrediction], examples: Sequence[AnnotatedExample]) -> dict[str, float]:
        """F1 of arguments (place and role, and place and label of what evokes the frame), of evokers, of each role."""
        arguments, unlabelled, evokers = ItemScores(), ItemScores(), ItemScores()
        for prediction, example in zip(predictions, examples, strict=True):
            truth, guess = true_items(example), predicted_items(prediction)
            evokers.add(self._evokers(truth), self._evokers(guess))
            pairs = [[(role, (head, tail[:2])) for role, (head, tail) in items.links] for items in (truth, guess)]
            arguments.add(*pairs)
            unlabelled.add(*([("", places) for _, places in links] for links in pairs))
        return {
            **arguments.total_by_name("argument_"),
            "argument_place_f1": unlabelled.total()[2],
            **evokers.total_by_name(f"{self.evoker}_"),
            **arguments.by_label(self.score_labels),
        }

    def _evokers(self, items: Items) -> list[tuple[str, tuple[int, int]]]:
        return [span for span in items.spans if span[0] in self.config.evokers]
