"""Nested spans: labelled parts of a text that may lie in each other, overlap, and have several labels.

    {"text": "the University of Vienna", "spans": [{"start": 4, "end": 24, "label": "ORG"},
     {"start": 18, "end": 24, "label": "LOC"}]}

One head scores each pair of tokens as the first and the last of a span, for each label by itself; a span is where its
score is above 0. Of a text in windows, each span is decided by the window in which its first token is farthest from an
edge. Spans that do not overlap are better learned by `tagging`, which sees what stands beside each word.

Scores are those of whole spans: see `pretune.tasks.shared.span_scores`.

Source: Su et al. 2022, GlobalPointer (arXiv 2208.03054); Su et al. 2022, ZLPR (arXiv 2208.02955) for the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import nn

from pretune.errors import DataError, UsageError
from pretune.nn.model_protocol import TrainableModel, get_head
from pretune.nn.token_pairs import TokenPairHead
from pretune.tasks.extraction import Extraction, WindowAnswer
from pretune.tasks.shared.annotated import AnnotatedExample, annotated_columns, read_annotated
from pretune.tasks.shared.link_predictions import LinkPrediction
from pretune.tasks.shared.span_predictions import brief_spans
from pretune.tasks.shared.span_scores import partial_scores, span_scores
from pretune.text.annotation import find_overlap
from pretune.text.readers.records import Column
from pretune.text.tokenizer.tokenizer import Vocabulary


class Nested(Extraction):
    """Spans that may overlap."""

    name: ClassVar[str] = "nested"
    role: ClassVar[str] = "nested"
    main_metric: str = "f1"

    def __init__(self, config: Extraction.Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        if config.link_labels or config.link_schema:
            raise UsageError("task.nested: it looks for spans and no links; use --task extraction, or leave links out")
        self.score_labels = list(config.span_labels)

    def columns(self, needs_labels: bool) -> list[Column]:
        """Text and spans."""
        return annotated_columns(self.config.columns, needs_labels)

    def read(self, record: Mapping[str, object]) -> AnnotatedExample:
        """A text and its spans."""
        return replace(read_annotated(record, self.config.columns), links=())

    def resolve_config(self, examples: Sequence[AnnotatedExample]) -> Extraction.Config:
        """Fill in labels, and whether spans overlap.

        Raises:
            DataError: no spans in all examples.
        """
        labels = sorted({span.label for example in examples for span in example.spans or ()})
        if not labels:
            where = examples[0].origin.source if examples else "training data"
            raise DataError(f"{where}: no spans in all records; give some of them spans")
        overlap = self.config.overlap
        if overlap is None:
            overlap = any(find_overlap(example.spans or ()) is not None for example in examples)
        update = {"span_labels": self.config.span_labels or tuple(labels), "overlap": overlap}
        return self.config.model_copy(update=update)

    def training_notes(self, examples: Sequence[AnnotatedExample]) -> list[str]:
        """That spans which never overlap are better tagged."""
        if self.config.overlap:
            return []
        return ["no spans of the training data overlap, so that none that overlap are predicted; --task tagging fits"]

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head for spans."""
        return {f"{self.role}_spans": TokenPairHead(model.width, self.config.span_labels, self.config.size)}

    def pair_heads(self, model: TrainableModel) -> list[TokenPairHead]:
        """That of spans alone."""
        return [get_head(model, f"{self.role}_spans", TokenPairHead)]

    def merge(self, example: AnnotatedExample, answers: Sequence[WindowAnswer]) -> LinkPrediction:
        """The spans for which windows answer, in the order of the text."""
        return {"spans": super().merge(example, answers)["spans"]}

    def brief(self, prediction: LinkPrediction) -> Mapping[str, object]:
        """The spans with their labels."""
        return {"spans": brief_spans(prediction["spans"])}

    def score(self, predictions: Sequence[LinkPrediction], examples: Sequence[AnnotatedExample]) -> dict[str, float]:
        """Precision, recall and F1 of whole spans: of all, of each label, and macro; and of those right in part.

        Raises:
            DataError: an example without spans.
        """
        missing = next((example for example in examples if example.spans is None), None)
        if missing is not None:
            raise DataError(f"{missing.origin}: no spans; every example needs them here")
        truth = [[(span.start, span.end, span.label) for span in example.spans or ()] for example in examples]
        guess = [[(s["start"], s["end"], s["label"]) for s in prediction["spans"]] for prediction in predictions]
        return span_scores(truth, guess, self.score_labels) | partial_scores(truth, guess)
