"""Entities and relations together: spans of a text and the links between them, found at once.

    {"text": "Marie Curie was born in Warsaw.", "spans": [{"start": 0, "end": 11, "label": "person"},
     {"start": 24, "end": 30, "label": "city"}], "links": [{"head": 0, "tail": 1, "label": "born_in"}]}

Three heads score pairs of tokens: the first and last token of each span for each label of spans, and for each label of
links the first tokens of head and tail, and their last tokens. A span is where its score is above 0; a link is where
both of its scores are, between spans whose labels the training data link so (`link_schema`). So spans may be nested,
have several labels and take part in any number of links. Of a text in windows, each span is decided by the window in
which its first token is farthest from an edge, and each link by the one of its head.

Scores are strict: `span_f1` counts spans with both ends and the label right, `f1` links with their label and both spans
right.

Source: Su et al. 2022, GlobalPointer (arXiv 2208.03054); Su 2022, GPLinker (https://kexue.fm/archives/8888); Su et al.
2022, ZLPR (arXiv 2208.02955) for the loss.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pretune.batch import Batch, Layout, ragged
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.loss import Term
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.nn.token_pairs import TokenPairHead, best_pairs
from pretune.objectives.objective import name_samples, target
from pretune.tasks.shared.annotated import AnnotatedExample, annotated_columns, read_annotated
from pretune.tasks.shared.link_predictions import (
    LinkPrediction,
    PredictedLink,
    SpanKey,
    describe,
    predicted_items,
    predicted_spans,
    true_items,
    without_overlaps,
)
from pretune.tasks.shared.link_scores import ItemScores
from pretune.tasks.shared.windowed import cut_text, token_spans, window_row
from pretune.tasks.task import RowBatch, Task, Truncate, encode_texts, tokens_of
from pretune.text.annotation import Span, find_overlap
from pretune.text.readers.records import Column
from pretune.text.samples.rows import Encoded, Ints, Row
from pretune.text.samples.windows import Window
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary

_log = logging.getLogger("pretune")
_HEADS = ("spans", "link_starts", "link_ends")
UNKNOWN = 4  # besides the numbers of heads in targets: that the true pairs of a window are not known
_TEXT = "text"  # the target that says which rows are of the texts
_PAIRS = "pairs"  # the target that says which pairs of tokens are true: of a sequence, a head, a label
_MAX_SPANS = 1  # spans of a row at most, for each token: what an untrained head says is not looked at further


class WindowSpan(NamedTuple):
    """A span of a window.

    Attributes:
        key: start and end in characters, and the label.
        is_owned: the window answers for its first token.
    """

    key: SpanKey
    probability: float
    is_owned: bool


class WindowAnswer(NamedTuple):
    """What a window says: spans, and links (head, tail, label, probability) between them by their numbers."""

    spans: list[WindowSpan]
    links: list[tuple[int, int, str, float]]


class Extraction(Task[AnnotatedExample, WindowAnswer, LinkPrediction]):
    """Spans and the links between them."""

    name: ClassVar[str] = "extraction"
    record_id: ClassVar[str | None] = "id"
    role: ClassVar[str] = "extraction"
    main_metric: str = "f1"
    window: ClassVar[int] = 160  # the cost of scores grows with its square

    class Config(Task.Config):
        """Labels, and which links may be.

        Attributes:
            span_labels: labels of spans, in the order of the head's outputs; empty: those of the training data.
            link_labels: labels of links, likewise.
            link_schema: which links may be: label of the head, of the link, of the tail; empty: those of the training
                data.
            overlap: whether spans may overlap; by default whether those of the training data do.
            size: of the queries and keys whose product is the score of a pair of tokens.
        """

        truncate: Truncate = "windows"
        span_labels: tuple[str, ...] = ()
        link_labels: tuple[str, ...] = ()
        link_schema: tuple[tuple[str, str, str], ...] = ()
        overlap: bool | None = None
        size: int = Field(default=32, ge=2, multiple_of=2)

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.config = config
        self._schema = set(config.link_schema)
        self.score_labels = list(config.link_labels)
        self._numbers = [
            {label: n for n, label in enumerate(labels)} for labels in (config.span_labels, config.link_labels)
        ]

    def columns(self, needs_labels: bool) -> list[Column]:
        """Text, spans and links."""
        return annotated_columns(self.config.columns, needs_labels, links=True)

    def read(self, record: Mapping[str, object]) -> AnnotatedExample:
        """A text, its spans and links."""
        return read_annotated(record, self.config.columns, links=True)

    def resolve_config(self, examples: Sequence[AnnotatedExample]) -> Config:
        """Fill in labels, schema and whether spans overlap.

        Raises:
            DataError: no links in all examples, one that `link_schema` leaves out, or spans that overlap where
                `overlap` says that none does.
        """
        config = self.config
        schema = {triple for example in examples for triple in self._triples(example)}
        if not schema:
            where = examples[0].origin.source if examples else "training data"
            raise DataError(f"{where}: no links in all records; give spans links, or use --task nested for spans alone")
        spans = sorted({span.label for example in examples for span in example.spans or ()})
        pairs = ((example, find_overlap(example.spans or ())) for example in examples)
        overlapping = next(((example, pair) for example, pair in pairs if pair is not None), None)
        if config.overlap is False and overlapping is not None:
            example, (one, other) = overlapping
            raise DataError(
                f"{example.origin}: spans {one} and {other} of {config.columns.spans!r} overlap, and "
                f"task.{self.name}.overlap is false; leave one out, or set it to true"
            )
        return config.model_copy(
            update={
                "span_labels": config.span_labels or tuple(spans),
                "link_labels": config.link_labels or tuple(sorted({label for _, label, _ in schema})),
                "link_schema": config.link_schema or tuple(sorted(schema)),
                "overlap": overlapping is not None if config.overlap is None else config.overlap,
            }
        )

    def training_notes(self, examples: Sequence[AnnotatedExample]) -> list[str]:
        """That spans never overlap, where that is so."""
        if self.config.overlap:
            return []
        return ["no spans of the training data overlap, so that none that overlap are predicted"]

    def _triples(self, example: AnnotatedExample) -> Iterator[tuple[str, str, str]]:
        """What the links of an example connect: label of the head, of the link, of the tail."""
        spans = example.spans or ()
        for n, link in enumerate(example.links or ()):
            triple = spans[link.head].label, link.label, spans[link.tail].label
            if self._schema and triple not in self._schema:
                raise DataError(
                    f"{example.origin}: '{self.config.columns.links}[{n}]' links {triple[0]!r} to {triple[2]!r} by "
                    f"{link.label!r}, which task.{self.name}.link_schema leaves out; add it there, or remove the link"
                )
            yield triple

    def encode(self, examples: Sequence[AnnotatedExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """The windows of each text; targets are the true pairs of tokens: (any, 4) head, label, first, second."""
        encodings = encode_texts(examples, [example.text for example in examples], tokenizer, self.keep(length))
        max_tokens = length - self.vocabulary.overhead(False)
        rows: list[Encoded] = []
        lost = inexact = total = 0
        for n, (example, encoding) in enumerate(zip(examples, encodings, strict=True)):
            assert encoding is not None  # every example has a text
            pairs, present = self.pairs(example, encoding.offsets), list[Ints]()
            sought = [span for span in example.spans or () if not self.is_given(span.label)]
            inexact, total = inexact + _count_inexact(sought, encoding.offsets), total + len(sought)
            for window in cut_text(self, encoding, max_tokens, example):
                places = None if pairs is None else _places(pairs, window, len(encoding.tokens))
                present += [] if places is None else [places[1]]
                rows.append(window_row(n, (encoding, None), (window, None), None if places is None else places[0]))
            if pairs is not None:
                lost += len(pairs) - len(np.unique(np.concatenate(present)))
        if inexact:
            _log.warning(
                "%s", f"spans that begin or end inside a word or token, so that they cannot be found exactly: "
                f"{inexact:,} of {total:,}"
            )  # fmt: skip
        if lost:
            _log.warning("%d spans or ends of links lie in no window whole and are not learned; raise the length", lost)
        return rows

    def pairs(self, example: AnnotatedExample, offsets: Ints) -> Ints | None:
        """The true pairs of tokens of a whole text, but for spans without tokens; None where they are not known.

        Shape:
            offsets: (n, 2); return: (k, 4) head, label, first and second token
        """
        if example.spans is None or example.links is None:
            return None
        bounds = np.array([(span.start, span.end) for span in example.spans], np.int64).reshape(-1, 2)
        first, last = token_spans(offsets, bounds[:, 0], bounds[:, 1])
        quads = [
            (0, self._number(0, example, span.label), first[n], last[n])
            for n, span in enumerate(example.spans)
            if first[n] <= last[n]
        ]
        for link in example.links or ():
            number = self._number(1, example, link.label)
            if all(first[n] <= last[n] for n in (link.head, link.tail)):
                quads.append((1, number, first[link.head], first[link.tail]))
                quads.append((2, number, last[link.head], last[link.tail]))
        return np.array(quads, np.int64).reshape(-1, 4)

    def is_given(self, label: str) -> bool:
        """Whether records mark the spans of a label, in prediction too; by default they mark none."""
        return False

    def _number(self, table: int, example: AnnotatedExample, label: str) -> int:
        """The number of a label of spans (table 0) or links (1)."""
        numbers = self._numbers[table]
        if label not in numbers:
            setting = "span_labels" if table == 0 else "link_labels"
            raise DataError(
                f"{example.origin}: {'span' if table == 0 else 'link'} label {label!r} was not seen in training; "
                f"known: {', '.join(numbers)}; correct it, or add it to the training data or to "
                f"task.{self.name}.{setting}"
            )
        return numbers[label]

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head for spans, and two for links."""
        labels = (self.config.span_labels, self.config.link_labels, self.config.link_labels)
        return {
            f"{self.role}_{part}": TokenPairHead(model.width, names, self.config.size)
            for part, names in zip(_HEADS, labels, strict=True)
        }

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Windows between special tokens; the rows of their tokens, and the true pairs where they are known."""
        wrapped = [self.vocabulary.add_special_tokens(row.tokens) for row in rows]
        batch = name_samples(ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped]), rows)
        known = [(n, pairs) for n, row in enumerate(rows) if (pairs := self.known_pairs(row)) is not None]
        numbers = np.array([n for n, _ in known], np.int64)
        batch.targets[self.name] = target(numbers, np.array([len(pairs) for _, pairs in known], np.int64))
        masks = [self.vocabulary.text_mask(len(row.tokens)) for row in rows]
        index = np.flatnonzero(np.concatenate([np.zeros(0, np.bool_), *masks]))
        batch.targets[_TEXT] = target(index, np.repeat(np.arange(len(rows)), [len(row.tokens) for row in rows]))
        pairs = np.concatenate([np.zeros((0, 4), np.int64), *(pairs for _, pairs in known)])
        batch.targets[_PAIRS] = target(np.repeat(numbers, [len(pairs) for _, pairs in known]), pairs)
        return batch

    def known_pairs(self, row: Row) -> Ints | None:
        """The true pairs of a row; None where they are not known. Shape: return: (k, 4)"""
        return None if row.targets is None else row.targets.astype(np.int64)

    def output_rows(self, batch: Batch) -> Ints:
        """The tokens of the texts."""
        return batch.targets[_TEXT][0].numpy()

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts, and the special ones around them."""
        return tokens_of(self, Extraction, rows)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """The loss of each head's pairs, averaged over its labels and summed over the windows."""
        numbers, _ = batch.targets[self.name]
        sequences, pairs = batch.targets[_PAIRS]
        index, owner = batch.targets[_TEXT]
        counts = owner.bincount()
        is_known = torch.zeros_like(counts, dtype=torch.bool)
        is_known[numbers] = True
        number = is_known.cumsum(dim=0) - 1  # of each known sequence among them
        rows = index[is_known[owner]]
        hidden = output.at(rows)
        layout = replace(Layout.of(counts[is_known].tolist(), hidden.device), keys=output.keys_at(rows))
        total = output.last_hidden_state.float().sum() * 0.0
        for table, head in enumerate(self.pair_heads(model)):
            some = pairs[:, 0] == table
            true = torch.cat([number[sequences[some]][:, None], pairs[some, 1:]], dim=1)
            total = total + head.loss(hidden, layout, true, is_ordered=table == 0)
        return [Term(self.name, total, len(numbers), self.config.weight)]

    def pair_heads(self, model: TrainableModel) -> list[TokenPairHead]:
        """Those of spans, and of the starts and the ends of links."""
        return [get_head(model, f"{self.role}_{part}", TokenPairHead) for part in _HEADS]

    def _texts(self, output: ModelOutput, batch: Batch) -> Iterator[tuple[Tensor, Layout]]:
        """The hidden states of each text, without special tokens. Shape: (n, width) each"""
        index, owner = batch.targets[_TEXT]
        for hidden in torch.split(output.at(index), owner.bincount().tolist()):
            yield hidden, Layout.of([len(hidden)], hidden.device)

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[WindowAnswer]:
        """The spans and links of each window."""
        heads = self.pair_heads(model)
        texts = self._texts(model(rows.batch), rows.batch)
        return [self._answer(row, hidden, layout, heads) for row, (hidden, layout) in zip(rows, texts, strict=True)]

    def _answer(self, row: Row, hidden: Tensor, layout: Layout, heads: Sequence[TokenPairHead]) -> WindowAnswer:
        """The spans and links of a window. Shape: hidden: (n, width)"""
        scores = self.span_scores(heads[0](hidden, layout)[0].triu().cpu(), row)
        label, first, last, values = best_pairs(scores, _MAX_SPANS * len(hidden))
        offsets, owned = row.offsets[0], range(len(hidden))[row.answers_for]
        spans = [
            WindowSpan((int(offsets[i, 0]), int(offsets[j, 1]), self.config.span_labels[k]), value, i in owned)
            for k, i, j, value in zip(label.tolist(), first.tolist(), last.tolist(), values.tolist(), strict=True)
        ]
        kept = [n for n in self._without_overlaps(spans) if spans[n].key[0] < spans[n].key[1]]
        spans = [spans[n] for n in kept]
        if len(spans) < 2 or len(heads) < 2:
            return WindowAnswer(spans, [])
        starts, ends = (head(hidden, layout)[0].cpu() for head in heads[1:])
        first, last = first[kept], last[kept]
        both = torch.minimum(starts[:, first][:, :, first], ends[:, last][:, :, last])
        links = []
        for k, head, tail in (both > 0).nonzero().tolist():
            name = self.config.link_labels[k]
            if head != tail and (spans[head].key[2], name, spans[tail].key[2]) in self._schema:
                links.append((head, tail, name, float(both[k, head, tail].sigmoid())))
        return WindowAnswer(spans, links)

    def span_scores(self, scores: Tensor, row: Row) -> Tensor:
        """The scores by which spans are found; by default those of the head.

        Shape:
            scores: (labels, n, n); return: the same
        """
        return scores

    def _without_overlaps(self, spans: Sequence[WindowSpan]) -> list[int]:
        """The numbers of the spans that stay: all, where they may overlap."""
        if self.config.overlap:
            return list(range(len(spans)))
        return without_overlaps([(span.key, span.probability) for span in spans])

    def merge(self, example: AnnotatedExample, answers: Sequence[WindowAnswer]) -> LinkPrediction:
        """The spans for which windows answer, in the order of the text, and the links between them."""
        owned = {span.key: span for answer in answers for span in answer.spans if span.is_owned}
        spans = [owned[key] for key in sorted(owned)]
        spans = [spans[n] for n in self._without_overlaps(spans)]
        number = {span.key: n for n, span in enumerate(spans)}
        links: list[PredictedLink] = []
        for answer in answers:
            for head, tail, label, probability in answer.links:
                one, other = answer.spans[head], answer.spans[tail]
                if one.is_owned and one.key in number and other.key in number:
                    ends = number[one.key], number[other.key]
                    links.append({"head": ends[0], "tail": ends[1], "label": label, "probability": probability})
        links.sort(key=lambda link: (link["head"], link["tail"], link["label"]))
        return {"spans": predicted_spans(example.text, [span[:2] for span in spans]), "links": links}

    def brief(self, prediction: LinkPrediction) -> Mapping[str, object]:
        """Spans with their labels, and links with the texts of their spans."""
        return describe(prediction)

    def score(self, predictions: Sequence[LinkPrediction], examples: Sequence[AnnotatedExample]) -> dict[str, float]:
        """F1 of whole links and of spans, and scores of each label of links."""
        spans, links = ItemScores(), ItemScores()
        for prediction, example in zip(predictions, examples, strict=True):
            truth, guess = true_items(example), predicted_items(prediction)
            spans.add(truth.spans, guess.spans)
            links.add(truth.links, guess.links)
        return {**links.total_by_name(), **spans.total_by_name("span_"), **links.by_label(self.score_labels)}


def _count_inexact(spans: Sequence[Span], offsets: Ints) -> int:
    """How many spans do not begin or end where tokens do. Shape: offsets: (n, 2)"""
    bounds = np.array([(span.start, span.end) for span in spans], np.int64).reshape(-1, 2)
    return int((~np.isin(bounds[:, 0], offsets[:, 0]) | ~np.isin(bounds[:, 1], offsets[:, 1])).sum())


def _places(pairs: Ints, window: Window, count: int) -> tuple[Ints, Ints]:
    """The true pairs that lie in a window, by its own tokens; and their numbers among all.

    Args:
        pairs: head, label and two tokens of a text.
        count: tokens of the text.

    Shape:
        pairs: (k, 4); return: (any, 4), (any,)
    """
    own = np.full(count, -1)  # number of each of the text's tokens among the window's
    own[window.index] = np.arange(len(window.index))
    inside = np.flatnonzero((own[pairs[:, 2:]] >= 0).all(axis=1) | (pairs[:, 0] == UNKNOWN))
    return np.concatenate([pairs[inside, :2], own[pairs[inside, 2:]]], axis=1), inside
