"""Tagging: a label for parts of a text that do not overlap: entities, chunks, parts of speech, words of Chinese.

Data: a text with spans, or words with tags in any scheme (`pretune.text.schemes`), which are read as spans. The first
token of a word decides for it; of a text that has no words, those are found. Tags that the scheme forbids behind each
other are never predicted, by the best path through all words (`decoder = "softmax"`), or through learned scores of
neighbours (`decoder = "crf"`). A text that is longer than the model reads is read in windows, each word in the one
where it is farthest from an edge.

Source: Devlin et al. 2019 (arXiv 1810.04805), section 5.3; Lample et al. 2016 (arXiv 1603.01360) for the CRF.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.batch import Batch, Layout, ragged
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.loss import Term
from pretune.nn.crf import CRF
from pretune.nn.heads import TokenClassificationHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.nn.viterbi import Transitions, viterbi
from pretune.objectives.objective import Ability, name_samples, target
from pretune.tasks.shared.annotated import AnnotatedExample, annotated_columns, read_annotated
from pretune.tasks.shared.span_predictions import SpanPrediction, TaggedPrediction, brief_spans
from pretune.tasks.shared.span_scores import Triple, partial_scores, span_scores
from pretune.tasks.shared.tag_data import check_flat, choose_units, known_spans, tagged_spans, unseen_label
from pretune.tasks.shared.unit_tags import UnitTags, split_by_row, tags_of_words, target_column, targets_of
from pretune.tasks.shared.units import Units, begins_unit, split_words, unit_of_words
from pretune.tasks.shared.windowed import cut_text, window_row
from pretune.tasks.task import RowBatch, Task, Truncate, encode_texts, tokens_of
from pretune.text.readers.records import Column
from pretune.text.samples.rows import Encoded, Ints, Row
from pretune.text.schemes import (
    OUTSIDE,
    Scheme,
    allows,
    detect_scheme,
    labels_of,
    read_chunks,
    split_tag,
    tags_of,
    write_tags,
)
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary

_log = logging.getLogger("pretune")
_UNITS = "units"  # the target that says which rows are the first of units, and of which sequence
UNKNOWN, IGNORED = -1, -2
"""Targets of a unit whose tag is not known, and of a token that is no unit's first one."""


class Tagging(Task[AnnotatedExample, UnitTags, TaggedPrediction]):
    """Labels for parts of texts.

    Args:
        config: with what `resolve_config` fills in; without it, it can only read examples.
    """

    name: ClassVar[str] = "tagging"
    record_id: ClassVar[str | None] = "id"
    role: ClassVar[str] = "token_classification"
    main_metric: str = "f1"

    class Config(Task.Config):
        """Tags, and how they are learned.

        Attributes:
            labels: the tags in the order of the head's outputs; empty: those of the training data.
            scheme: in which the model writes spans as tags; by default that of the training data, and IOB2 for spans.
            read_scheme: in which the data write spans as tags; by default as they look.
            units: what has a tag: the words of a text, or its tokens; by default words, unless spans of the training
                data end inside them.
            loss: whether the first token of a word learns its tag, or all of its tokens.
            decoder: `softmax` learns the tag of each word by itself, `crf` those of a text together.
        """

        truncate: Truncate = "windows"
        labels: tuple[str, ...] = ()
        scheme: Scheme | None = None
        read_scheme: Scheme | None = None
        units: Literal["words", "tokens"] | None = None
        loss: Literal["first", "all"] = "first"
        decoder: Literal["softmax", "crf"] = "softmax"

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.config = config
        self.labels = list(config.labels)
        self.scheme: Scheme = config.scheme or detect_scheme([label] for label in self.labels)
        self.score_labels = labels_of(self.labels, self.scheme)
        self._number = {label: n for n, label in enumerate(self.labels)}
        self._constraints = _constraints(self.labels, self.scheme)
        if config.decoder == "crf" and config.loss == "all":
            raise UsageError("task.tagging.loss = all: a crf has one tag for each word; leave one of the two out")

    def resolve_config(self, examples: Sequence[AnnotatedExample]) -> Config:
        """Fill in schemes, units and tags.

        Raises:
            DataError: no examples or no labels, a tag that its scheme forbids, or a label that `labels` lacks.
        """
        config = self.config
        texts = [example.tags for example in examples if example.tags is not None]
        read_scheme = config.read_scheme or (detect_scheme(texts) if texts else None)
        scheme = config.scheme or (
            detect_scheme([label] for label in config.labels) if config.labels else read_scheme or "IOB2"
        )
        spans = [known_spans(example, read_scheme) for example in examples]
        labels = sorted({span.label for part in spans for span in part})
        if not labels:
            raise DataError(
                f"{examples[0].origin.source if examples else 'no examples'}: no span has a label; give some records "
                "spans, or name their field with --data.columns.spans"
            )
        known = set(labels_of(config.labels, scheme)) if config.labels else set(labels)
        for example, part in zip(examples, spans, strict=True):
            if (span := next((span for span in part if span.label not in known), None)) is not None:
                raise unseen_label(example, span, sorted(known), "is not in task.tagging.labels")
        tags = {tag for text in texts for tag in text} if scheme == "plain" else set()
        written = tags_of([*sorted(tags & {OUTSIDE}), *labels] if scheme == "plain" else labels, scheme)
        return config.model_copy(
            update={
                "labels": config.labels or tuple(written),
                "scheme": scheme,
                "read_scheme": read_scheme,
                "units": config.units or choose_units(examples, spans),
            }
        )

    def training_notes(self, examples: Sequence[AnnotatedExample]) -> list[str]:
        """How tags are read, and what is learned."""
        config, labels = self.config, self.score_labels
        listed = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
        notes = [] if config.read_scheme is None else [f"tags of the training data are read as {config.read_scheme}"]
        return [*notes, f"{len(labels)} labels of spans, learned as {len(self.labels)} tags ({self.scheme}): {listed}"]

    def columns(self, needs_labels: bool) -> list[Column]:
        """A text or words, and spans or tags."""
        return annotated_columns(self.config.columns, needs_labels, tags=True)

    def read(self, record: Mapping[str, object]) -> AnnotatedExample:
        """A text and its spans, or words and their tags.

        Raises:
            DataError: also spans that overlap, and a tag that the scheme of the data forbids.
        """
        example = read_annotated(record, self.config.columns, tags=True)
        check_flat(example, self.config.read_scheme)
        return example

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """The head that `transformers` calls a token classification's, and a CRF where one is wanted."""
        heads: dict[str, nn.Module] = {self.role: model.token_head(self.labels)}
        return heads | ({self.crf_role: CRF(len(self.labels))} if self.config.decoder == "crf" else {})

    @property
    def crf_role(self) -> str:
        """The name of the head that scores tags which follow each other."""
        return f"{self.role}_crf"

    @property
    def abilities(self) -> dict[str, Ability]:
        """It labels texts."""
        return {self.name: "classify"}

    def encode(self, examples: Sequence[AnnotatedExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """The windows of each text; of each token its tag, and whether it begins a unit.

        Raises:
            DataError: also a label that was not seen in training.
        """
        rows: list[Encoded] = []
        inexact = total = 0
        max_tokens = length - self.vocabulary.overhead(False)
        encodings = encode_texts(examples, [example.text for example in examples], tokenizer, self.keep(length))
        for n, (example, encoding) in enumerate(zip(examples, encodings, strict=True)):
            assert encoding is not None  # every example has a text
            words = self._words(example)
            units = Units.of(encoding.offsets, begins_unit(encoding.offsets, words))
            targets, missed = self._targets(example, units, len(encoding.tokens))
            inexact += missed
            total += len(tagged_spans(example, self.config.read_scheme) or ())
            for window in cut_text(self, encoding, max_tokens, example):
                rows.append(window_row(n, (encoding, None), (window, None), targets[window.index]))
        if inexact:
            _log.warning(
                "%s", f"spans that begin or end inside a word or token, so that they cannot be found exactly: "
                f"{inexact:,} of {total:,}"
            )  # fmt: skip
        return rows

    def _words(self, example: AnnotatedExample) -> Ints | None:
        """Where the words of a text lie; None where its tokens are units. Shape: return: (k, 2)"""
        if example.words is not None:
            return np.array(example.words, np.int64)
        return None if self.config.units == "tokens" else split_words(example.text)

    def _targets(self, example: AnnotatedExample, units: Units, size: int) -> tuple[NDArray[np.int64], int]:
        """Of each token its tag and whether it begins a unit; and how many spans the units do not end at.

        Shape:
            return: (size, 2)
        """
        targets = np.zeros((size, 2), np.int64)
        targets[:, 0], targets[units.first, 1] = IGNORED, 1
        spans = tagged_spans(example, self.config.read_scheme)
        if spans is None:
            targets[units.first, 0] = UNKNOWN
            return targets, 0
        for span in spans:
            if span.label not in self.score_labels:
                raise unseen_label(example, span, self.score_labels, "was not seen in training")
        chunks, inexact = units.chunks(spans)
        tags = write_tags(chunks, len(units.first), self.scheme)
        targets[units.first, 0] = [self._number.get(tag, UNKNOWN) for tag in tags]
        if self.config.loss == "all":
            first = np.cumsum(targets[:, 1]) - 1
            inner = np.array([self._number.get(self._inner(tag), UNKNOWN) for tag in tags], np.int64)
            targets[:, 0] = np.where(targets[:, 1] == 1, targets[:, 0], inner[first])
        return targets, inexact

    def _inner(self, tag: str) -> str:
        """The tag of the tokens of a word behind its first one."""
        part, label = split_tag(tag)
        if self.scheme == "plain" or part not in ("B", "S"):
            return tag
        return next((t for t in self.labels if split_tag(t) in (("I", label), ("M", label))), tag)

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Windows between special tokens; targets are the rows of tokens whose tags are known, and those of units."""
        wrapped = [self.vocabulary.add_special_tokens(row.tokens) for row in rows]
        batch = name_samples(ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped]), rows)
        labels, begins = target_column(rows, 0), target_column(rows, 1) == 1
        masks = [self.vocabulary.text_mask(len(row.tokens)) for row in rows]
        index = np.flatnonzero(np.concatenate([np.zeros(0, np.bool_), *masks]))
        owner = np.repeat(np.arange(len(rows)), [len(row.tokens) for row in rows])
        batch.targets[self.name] = target(index[labels >= 0], labels[labels >= 0])
        batch.targets[_UNITS] = target(index[begins], owner[begins])
        return batch

    def output_rows(self, batch: Batch) -> Ints:
        """The first tokens of units, and others that have tags."""
        known, units = (batch.targets[name][0].numpy() for name in (self.name, _UNITS))
        return units if self.config.loss == "first" else np.union1d(known, units)

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts, and the special ones around them."""
        return tokens_of(self, Tagging, rows)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the tags, summed over words, or minus the log-likelihood of all tags of a window."""
        index, label = batch.targets[self.name]
        logits = self._logits(model, output, index)
        if not label.numel():
            total = logits.sum() * 0.0
        elif self.config.decoder == "crf":
            owner = torch.searchsorted(batch.layout.offsets[1:].to(index.dtype), index, right=True)
            layout = Layout.of(owner.bincount().tolist(), index.device)  # of windows whose tags are known
            total = get_head(model, self.crf_role, CRF)(logits, label, layout).sum()
        else:
            total = F.cross_entropy(logits, label, reduction="sum")
        correct = (logits.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, total, label.numel(), self.config.weight, correct)]

    def _logits(self, model: TrainableModel, output: ModelOutput, index: Tensor) -> Tensor:
        """Shape: index (K,); return: (K, tags) fp32."""
        head = get_head(model, self.role, TokenClassificationHead)
        logits: Tensor = head(output.at(index), output.keys_at(index))
        return logits.float()

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[UnitTags]:
        """The tags of the best path through the units of each window, as far as it answers for them."""
        index, _ = rows.batch.targets[_UNITS]
        units = [Units.of(row.offsets[0], targets_of(row)[:, 1] == 1) for row in rows]
        layout = Layout.of([len(each.first) for each in units], index.device)
        logits = self._logits(model, model(rows.batch), index)
        constraints = self._constraints
        if self.config.decoder == "crf":
            crf = get_head(model, self.crf_role, CRF)
            best, table = crf.decode(logits, layout, constraints), crf.marginals(logits, layout, constraints)
        else:
            best = logits.argmax(dim=1) if constraints is None else viterbi(logits, layout, constraints)
            table = logits.softmax(dim=1)
        probability = table.gather(1, best[:, None])[:, 0].cpu().numpy()
        return split_by_row(rows, units, best.cpu().numpy(), probability)

    def merge(self, example: AnnotatedExample, answers: Sequence[UnitTags]) -> TaggedPrediction:
        """The spans that the tags of all windows write, and the tags of the words where the record has words."""
        start, end = (np.concatenate([getattr(answer, name) for answer in answers]) for name in ("start", "end"))
        tags = [self.labels[n] for answer in answers for n in answer.tags]
        probability = [each for answer in answers for each in answer.probability]
        spans: list[SpanPrediction] = []
        if example.words is None:
            places = list(zip(start.tolist(), end.tolist(), strict=True))
        else:
            numbers = unit_of_words(example.words, start, end)
            tags = tags_of_words(numbers, tags, self.scheme, self._outside)
            probability = [probability[n] if n >= 0 else 0.0 for n in numbers.tolist()]
            places = list(example.words)
        for first, stop, label in read_chunks(tags, self.scheme):
            begin, finish = places[first][0], places[stop - 1][1]
            mean = sum(probability[first:stop]) / (stop - first)
            spans.append(
                {"start": begin, "end": finish, "label": label, "text": example.text[begin:finish], "probability": mean}
            )
        return {"spans": spans} if example.words is None else {"spans": spans, "tags": tags}

    @property
    def _outside(self) -> str:
        """The tag of a word for which the model says nothing."""
        return OUTSIDE if OUTSIDE in self._number or not self.labels else self.labels[0]

    def brief(self, prediction: TaggedPrediction) -> Mapping[str, object]:
        """The spans with their labels."""
        return {"spans": brief_spans(prediction["spans"], plain=self.scheme == "plain")}

    def score(self, predictions: Sequence[TaggedPrediction], examples: Sequence[AnnotatedExample]) -> dict[str, float]:
        """Precision, recall and F1 of whole spans: of all, of each label, and macro; of words, the accuracy of tags.

        `f1_exact` looks at bounds alone, `f1_type` at labels of spans that overlap, `f1_partial` counts half for those.

        Raises:
            DataError: an example without spans or tags.
        """
        truth: list[list[Triple]] = []
        right = count = 0
        for prediction, example in zip(predictions, examples, strict=True):
            spans = known_spans(example, self.config.read_scheme)
            truth.append([(span.start, span.end, span.label) for span in spans])
            if example.words is not None:
                units = Units(np.arange(len(example.words)), *np.array(example.words, np.int64).T)
                expected = write_tags(units.chunks(spans)[0], len(example.words), self.scheme)
                right += sum(a == b for a, b in zip(expected, prediction["tags"], strict=True))
                count += len(expected)
        guess = [[(s["start"], s["end"], s["label"]) for s in prediction["spans"]] for prediction in predictions]
        scores = span_scores(truth, guess, self.score_labels)
        overall = {} if self.scheme == "plain" else partial_scores(truth, guess)
        if count:
            overall["accuracy"] = right / count
        return scores | overall


def _constraints(tags: Sequence[str], scheme: Scheme) -> Transitions | None:
    """Which tags may follow each other, begin and end a text; None where all may."""
    parts, outside = [split_tag(tag) for tag in tags], (OUTSIDE, "")
    first = [allows(scheme, outside, part) for part in parts]
    between = [[allows(scheme, left, right) for right in parts] for left in parts]
    last = [allows(scheme, part, outside) for part in parts]
    if all(first) and all(last) and all(map(all, between)):
        return None
    return Transitions.allowed(first, between, last)
