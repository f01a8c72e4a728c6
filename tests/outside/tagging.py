"""Tagging, a task that is no part of pretune: names in a text, found as spans of characters.

Data: records with a list of `words` and a list of their `tags` as BIO writes them: O, B-PERSON, I-PERSON. The first
token of a word decides for it. A text that is longer than the model reads becomes several windows, and one prediction.

Source: Devlin et al. 2019 (arXiv 1810.04805), section 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.loss import Term
from pretune.nn.heads import TokenClassificationHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import name_samples, target
from pretune.tasks.shared.windowed import cut_text, window_row
from pretune.tasks.task import Example, RowBatch, Task, Truncate, encode_texts
from pretune.text.readers.records import Column, Record
from pretune.text.samples.rows import Encoded, Row
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary

OUTSIDE = "O"
ROLE = "token_classification"
IGNORED = -100  # target of a token that does not begin a word


@dataclass(frozen=True, slots=True)
class TaggedText(Example):
    """A text whose words may have tags.

    Attributes:
        text: the words with a space between them.
        spans: where each word begins and ends, in characters.
        tags: one for each word; None where they are not known.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    tags: tuple[str, ...] | None = None


class WordTag(NamedTuple):
    """What a window says of a word: where its first token begins, the tag, and how probable that is."""

    start: int
    tag: str
    probability: float


class Tagging(Task[TaggedText, list[WordTag], dict[str, list[object]]]):
    """A tag for each word."""

    name: ClassVar[str] = "tagging"
    main_metric: ClassVar[str] = "f1"

    class Config(Task.Config):
        """Tags and windows.

        Attributes:
            labels: tags in the order of the head's outputs; empty: those of the training data, O first.
            words_column: field of the words.
            tags_column: field of their tags.
            truncate, stride: as of every task; here a text that is too long is read in windows.
        """

        labels: tuple[str, ...] = ()
        words_column: str = "words"
        tags_column: str = "tags"
        truncate: Truncate = "windows"

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.labels = list(config.labels)

    def resolve_config(self, examples: Sequence[TaggedText]) -> Config:
        """Fill in the tags."""
        tags = {tag for example in examples for tag in example.tags or ()} - {OUTSIDE}
        return self.config.model_copy(update={"labels": self.config.labels or (OUTSIDE, *sorted(tags))})

    def columns(self, needs_labels: bool) -> list[Column]:
        """Words, and tags where they are needed."""
        words = Column(self.config.words_column, "words_column")
        return [words, Column(self.config.tags_column, "tags_column", required=needs_labels)]

    def read(self, record: Mapping[str, object]) -> TaggedText:
        """Words, or a bare text whose words are between white space, and their tags."""
        fields, config = Record.of(record), self.config
        value = fields.get(config.words_column)
        words = value.split() if isinstance(value, str) else fields.strings(config.words_column, "words_column")
        if not words:
            raise fields.error(f"field {config.words_column!r} has no words", "leave the record out")
        tags = None
        if fields.needs_labels or config.tags_column in fields:
            tags = tuple(fields.strings(config.tags_column, "tags_column"))
            if len(tags) != len(words):
                problem = f"field {config.tags_column!r} has {len(tags)} tags for {len(words)} words"
                raise fields.error(problem, "give each word one tag")
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        spans = tuple((int(end) - len(word), int(end)) for end, word in zip(ends, words, strict=True))
        return TaggedText(" ".join(words), spans, tags, origin=fields.origin)

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """The head that `transformers` calls a token classification's."""
        return {ROLE: model.token_head(self.labels)}

    def encode(self, examples: Sequence[TaggedText], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """The windows of each text; a token that begins a word has the number of its tag as target."""
        rows: list[Encoded] = []
        max_tokens = length - self.vocabulary.overhead(False)
        encodings = encode_texts(examples, [example.text for example in examples], tokenizer)
        for n, (example, encoding) in enumerate(zip(examples, encodings, strict=True)):
            assert encoding is not None  # every example has a text
            targets = self._targets(example, encoding.offsets)
            for window in cut_text(self, encoding, max_tokens, example):
                part = None if targets is None else targets[window.index]
                rows.append(window_row(n, (encoding, None), (window, None), part))
        return rows

    def _targets(self, example: TaggedText, offsets: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Shape: offsets (n, 2); return: (n,)."""
        if example.tags is None:
            return None
        numbers = {tag: number for number, tag in enumerate(self.labels)}
        unknown = [tag for tag in example.tags if tag not in numbers]
        if unknown:
            raise DataError(f"{example.origin}: tag {unknown[0]!r} was not seen in training; known: {self.labels}")
        by_start = {start: numbers[tag] for (start, _), tag in zip(example.spans, example.tags, strict=True)}
        firsts = np.append(True, offsets[1:, 0] > offsets[:-1, 0])
        starts = zip(offsets[:, 0].tolist(), firsts.tolist(), strict=True)
        return np.array([by_start.get(start, IGNORED) if first else IGNORED for start, first in starts])

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Windows between special tokens; targets are the rows of tokens that begin a word, where tags are known."""
        wrapped = [self.vocabulary.add_special_tokens(row.tokens) for row in rows]
        batch = name_samples(ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped]), rows)
        known = [np.full(len(row.tokens), IGNORED) if row.targets is None else row.targets for row in rows]
        labels = np.concatenate([np.zeros(0, np.int64), *known])
        batch.targets[self.name] = target(self._text_rows(rows)[labels != IGNORED], labels[labels != IGNORED])
        return batch

    def _text_rows(self, rows: Sequence[Row]) -> NDArray[np.int64]:
        """Where the texts' tokens stand in the run of a batch. Shape: return: (T,)"""
        masks = [self.vocabulary.text_mask(len(row.tokens)) for row in rows]
        return np.flatnonzero(np.concatenate([np.zeros(0, np.bool_), *masks]))

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the tags, summed over the words."""
        index, label = batch.targets[self.name]
        logits = self._logits(model, output, index)
        total = F.cross_entropy(logits, label, reduction="sum") if label.numel() else logits.sum() * 0.0
        correct = (logits.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, total, label.numel(), self.config.weight, correct)]

    def _logits(self, model: TrainableModel, output: ModelOutput, index: Tensor) -> Tensor:
        """Shape: index (K,); return: (K, tags) fp32."""
        logits: Tensor = get_head(model, ROLE, TokenClassificationHead)(output.at(index))
        return logits.float()

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[list[WordTag]]:
        """For each token that a window answers for its most probable tag."""
        index = torch.from_numpy(self._text_rows(rows)).to(rows.batch.tokens.device)
        probabilities = self._logits(model, model(rows.batch), index).softmax(dim=1)
        best, number = (column.cpu().tolist() for column in probabilities.max(dim=1))
        answers: list[list[WordTag]] = []
        first = 0
        for row in rows:
            tags = [
                WordTag(start, self.labels[number[n]], best[n])
                for n, start in enumerate(row.offsets[0][:, 0].tolist(), first)
            ]
            answers.append(tags[row.answers_for])
            first += len(tags)
        return answers

    def merge(self, example: TaggedText, answers: Sequence[list[WordTag]]) -> dict[str, list[object]]:
        """Tags of all words, and the spans that they make; the first token of a word says its tag."""
        tags = {word.start: word for answer in reversed(answers) for word in reversed(answer)}
        words = [tags[start].tag if start in tags else OUTSIDE for start, _ in example.spans]
        spans = [
            {"start": start, "end": end, "label": label, "text": example.text[start:end]}
            for start, end, label in spans_of(words, example.spans)
        ]
        return {"spans": list(spans), "tags": list(words)}

    def score(self, predictions: Sequence[dict[str, list[object]]], examples: Sequence[TaggedText]) -> dict[str, float]:
        """Precision, recall and F1 of whole spans, and the accuracy of tags."""
        truth = {(n, *span) for n, e in enumerate(examples) for span in spans_of(e.tags or (), e.spans)}
        guess = {(n, s["start"], s["end"], s["label"]) for n, p in enumerate(predictions) for s in p["spans"]}  # type: ignore[index]
        right = len(truth & guess)
        precision, recall = right / max(len(guess), 1), right / max(len(truth), 1)
        return {
            "f1": 2 * precision * recall / max(precision + recall, 1e-12),
            "precision": precision,
            "recall": recall,
            "accuracy": float(
                metrics.accuracy_score(
                    [tag for example in examples for tag in example.tags or ()],
                    [tag for prediction in predictions for tag in prediction["tags"]],
                )
            ),
        }


def spans_of(tags: Sequence[str], words: Sequence[tuple[int, int]]) -> list[tuple[int, int, str]]:
    """Spans of characters that BIO tags make: an I- that follows no span of its label begins one."""
    spans: list[tuple[int, int, str]] = []
    label = ""
    for tag, (start, end) in zip(tags, words, strict=True):
        kind, _, name = tag.partition("-")
        if tag == OUTSIDE:
            label = ""
        elif kind == "I" and label == name:
            spans[-1] = (spans[-1][0], end, name)
        else:
            spans.append((start, end, name))
            label = name
    return spans
