"""Reading: the answer to a question, as a part of a text, or that the text has none.

Data: records of a `text`, a `question` and its `answers`, each with its `start` in characters and its `text`; an empty
list says that the text has none. Files of SQuAD and CMRC are read with `--format squad`. BERT reads `[CLS] question
[SEP] text [SEP]`; each token of the text is scored as the first and as the last one of the answer, and `[CLS]` (the
last token, where a model sees no later ones) stands for no answer. A text that is too long is read in windows: each
gives its best answers, and the best of all windows count. Answers begin and end where words do.

Source: Devlin et al. 2019 (arXiv 1810.04805), sections 4.2 and 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.loss import Term
from pretune.nn.heads import SpanHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import name_samples, target
from pretune.tasks.shared.calibration import threshold_between
from pretune.tasks.shared.reading_answers import (
    KEPT,
    ReadingPrediction,
    Scored,
    WindowAnswers,
    best_answer,
    best_spans,
    join_windows,
)
from pretune.tasks.shared.reading_scores import AnswerScore, Scorer, find_threshold, score_answer
from pretune.tasks.shared.windowed import cut_text, token_spans, window_row
from pretune.tasks.task import Example, RowBatch, Task, Truncate, encode_texts, tokens_of
from pretune.text.annotation import Answer, read_answers
from pretune.text.language import language_of
from pretune.text.readers.records import Column, Record
from pretune.text.samples.rows import Encoded, Flags, Ints, Row
from pretune.text.samples.windows import Window, in_window, word_starts
from pretune.text.tokenizer.long_texts import EncodedText
from pretune.text.tokenizer.tokenizer import Tokenizer

_ROWS = "reading/rows"  # the target that says where the tokens of the texts are
_NO_ANSWER = -1
_LESS_SURE = 0.02  # above the largest gap, where answers as unsure as any are given


@dataclass(frozen=True, slots=True)
class ReadingExample(Example):
    """A question about a text.

    Attributes:
        text: in which the answer is.
        question: never empty.
        answers: right ones; none where the text has no answer; None where they are not known.
    """

    text: str
    question: str
    answers: tuple[Answer, ...] | None = None

    @property
    def held_together(self) -> str:
        """The text: questions about one that was trained on are easier."""
        return self.text


class Reading(Task[ReadingExample, WindowAnswers, ReadingPrediction]):
    """Find the answer to a question in a text."""

    name: ClassVar[str] = "reading"
    record_id: ClassVar[str | None] = "id"
    role: ClassVar[str] = "question_answering"
    main_metric: str = "f1"

    class Config(Task.Config):
        """Which answers are given, and how they are scored.

        Attributes:
            no_answer: a text may have no answer; by default where one of the training data has none.
            threshold: how much more must speak for no answer than for the best one (the difference of their logits)
                so that none is given; by default chosen on the validation data.
            max_answer: characters of an answer at most; by default those of the longest one of the training data.
            candidates: number of answers that are listed with each prediction.
            scorer: how answers are compared: `squad` by words, `cmrc` by Chinese characters; by default as the language
                of the training data asks for.
        """

        truncate: Truncate = "windows"
        no_answer: bool | None = None
        threshold: float | None = Field(default=None, allow_inf_nan=False)
        max_answer: int | None = Field(default=None, ge=1)
        candidates: int = Field(default=5, ge=1, le=KEPT)
        scorer: Scorer | None = None

    config: Config

    def resolve_config(self, examples: Sequence[ReadingExample]) -> Config:
        """Fill in whether texts may have no answer, the longest answer and the scorer.

        Raises:
            DataError: no examples, one without answers, or none that has one.
        """
        if not examples:
            raise DataError("no examples: give at least one question with its answer")
        for example in examples:
            if example.answers is None:
                raise DataError(
                    f"{example.origin}: no answers; every question needs them here, [] where there are none"
                )
            if example.answers and _first_place(example) is None:
                raise DataError(
                    f"{example.origin}: answer {example.answers[0].text[:40]!r} has no place in the text; give its "
                    "start in characters, or leave the record out"
                )
        longest = max((len(answer.text) for example in examples for answer in example.answers or ()), default=0)
        if not longest:
            raise DataError(f"{examples[0].origin.source}: no question has an answer; give some that have one")
        config = self.config
        may_lack = any(not example.answers for example in examples)
        return config.model_copy(
            update={
                "no_answer": may_lack if config.no_answer is None else config.no_answer,
                "max_answer": config.max_answer or longest,
                "scorer": config.scorer or _fitting_scorer(examples),
            }
        )

    def columns(self, needs_labels: bool) -> list[Column]:
        """Text, question and answers; `second` names the questions too, where it is set."""
        columns = self.config.columns
        question = Column(
            columns.second or columns.question, "columns.second" if columns.second else "columns.question"
        )
        answers = Column(columns.answers, "columns.answers", required=needs_labels)
        return [Column(columns.text, "columns.text"), question, answers]

    def read(self, record: Mapping[str, object]) -> ReadingExample:
        """A text, a question and its answers."""
        fields = Record.of(record)
        text, question, answers = self.columns(fields.needs_labels)
        context = fields.text(text.name, text.setting)
        if question.name not in fields:
            raise fields.error(
                f"no field {question.name!r}",
                "give the question too: --pair TEXT QUESTION, or a record with both (columns.question names the field)",
            )
        words = fields.text(question.name, question.setting)
        return ReadingExample(context, words, read_answers(fields, answers.name, context), origin=fields.origin)

    def encode(self, examples: Sequence[ReadingExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """The windows of each text, behind the question, of which the first half of a row is kept at most."""
        max_tokens = length - self.vocabulary.overhead(True)
        questions = encode_texts(examples, [example.question for example in examples], tokenizer)
        first = {example.text: example for example in reversed(examples)}
        encodings = encode_texts(list(first.values()), list(first), tokenizer, self.keep(length))
        contexts = dict(zip(first, encodings, strict=True))
        rows: list[Encoded] = []
        for n, (example, question) in enumerate(zip(examples, questions, strict=True)):
            context = contexts[example.text]
            assert question is not None  # every example has both
            assert context is not None
            size = min(len(question.tokens), max(1, max_tokens // 2))
            of_question = Window(np.arange(size), cut=len(question.tokens) - size)
            bounds = self._place(example, context)
            for window in cut_text(self, context, max_tokens - size, example):
                targets = None if bounds is None else _target(window, *bounds)
                rows.append(window_row(n, (question, context), (of_question, window), targets))
                of_question = Window(np.arange(size), repeated=size)
        return rows

    def _place(self, example: ReadingExample, context: EncodedText) -> tuple[int, int] | None:
        """The first and the last token of the answer to be learned; None where the answers are not known."""
        if example.answers is None:
            return None
        start = _first_place(example)
        if start is None:
            return (_NO_ANSWER, _NO_ANSWER) if not example.answers else None
        begin, end = start
        first, last = token_spans(context.offsets, np.array([begin]), np.array([end]))
        if last[0] < first[0]:
            return None  # the tokenizer drops what the answer consists of
        starts = self._begins_word(context.tokens, context.offsets)
        ends = np.append(starts[1:], True)
        word = int(np.flatnonzero(starts[: first[0] + 1])[-1])
        return word, int(last[0]) + int(np.flatnonzero(ends[last[0] :])[0])

    def _begins_word(self, tokens: Ints, offsets: Ints) -> Flags:
        """Shape: tokens (n,), offsets (n, 2); return: (n,)"""
        return word_starts(tokens, offsets, self.vocabulary.continuation)

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """The head that `transformers` calls a question answering's."""
        return {self.role: model.span_head()}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Questions and texts between special tokens; targets are the first and the last token of the answer."""
        wrapped = [self.vocabulary.add_special_tokens(row.tokens, row.second) for row in rows]
        batch = name_samples(ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped]), rows)
        known = [(n, row.targets) for n, row in enumerate(rows) if row.targets is not None]
        places = np.array([place for _, place in known], np.int64).reshape(-1, 2)
        batch.targets[self.name] = target(np.array([n for n, _ in known], np.int64), places)
        width = batch.layout.max_length + 1
        runs, slots = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for n, (row, start) in enumerate(zip(rows, batch.layout.bounds, strict=False)):
            size = _text_size(row)
            mask = self.vocabulary.text_mask(len(row.tokens), size)
            runs.append(start + np.flatnonzero(mask)[len(row.tokens) :])
            slots.append(n * width + 1 + np.arange(size))
        batch.targets[_ROWS] = target(np.concatenate(runs), np.concatenate(slots))
        return batch

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts, and the special ones around them."""
        return tokens_of(self, Reading, rows)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """The mean cross-entropy of the answer's first and last token among those of the text and "no answer"."""
        index, bounds = batch.targets[self.name]
        scores = self._scores(model, output, batch)[index]
        chosen = scores.log_softmax(dim=1).gather(1, (bounds + 1)[:, None])  # (K, 1, 2)
        correct = (scores.detach().argmax(dim=1) == bounds + 1).all(dim=1).sum()
        total = -chosen.sum() / 2 if len(index) else self._scores(model, output, batch)[:, 0].sum() * 0.0
        return [Term(self.name, total, len(index), self.config.weight, correct)]

    def soft_scores(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor:
        """The scores of the first and the last token of an answer."""
        return self._scores(model, output, batch)

    def _scores(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor:
        """The scores of no answer and of each token of the text, as the first and the last one; -inf behind them.

        Shape:
            return: (N, longest sequence + 1, 2) fp32
        """
        rows, slots = batch.targets[_ROWS]
        layout = batch.layout
        width = layout.max_length + 1
        none = layout.last if model.is_causal else layout.first
        head = get_head(model, self.role, SpanHead)
        index = torch.cat([none, rows])
        logits: Tensor = head(output.at(index), output.keys_at(index)).float()
        table = logits.new_full((layout.count * width, 2), -math.inf)
        places = torch.cat([torch.arange(layout.count, device=slots.device) * width, slots])
        return table.index_copy(0, places, logits).view(layout.count, width, 2)

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[WindowAnswers]:
        """The best answers of each window."""
        scores = self._scores(model, model(rows.batch), rows.batch).cpu().numpy()
        return [self._best(row, table) for row, table in zip(rows, scores, strict=True)]

    def _best(self, row: Row, table: NDArray[np.float32]) -> WindowAnswers:
        """The best answers of a window that it answers for: from the start of a word to the end of one."""
        assert row.second is not None  # every row has a text
        size, offsets = len(row.second), row.offsets[1]
        scores = table[1 : size + 1].astype(np.float64)
        starts = self._begins_word(row.second, offsets)
        ends = np.append(starts[1:], True)
        chosen = np.zeros(size, np.bool_)
        chosen[row.answers_for] = True
        best = best_spans(scores, offsets, np.flatnonzero(starts & chosen), ends, self.config.max_answer)
        spans = [Scored(int(offsets[a, 0]), int(offsets[b, 1]), score) for a, b, score in best]
        return WindowAnswers(spans, float(table[0].astype(np.float64).sum()))

    def merge(self, example: ReadingExample, answers: Sequence[WindowAnswers]) -> ReadingPrediction:
        """The best of all windows; no answer where every window speaks against one by more than the threshold."""
        config = self.config
        may_lack, threshold = bool(config.no_answer), config.threshold or 0.0
        return join_windows(example.text, answers, may_lack=may_lack, threshold=threshold, count=config.candidates)

    def brief(self, prediction: ReadingPrediction) -> Mapping[str, object]:
        """The answer and how probable it is."""
        return {"answer": prediction["answer"], "probability": prediction["probability"]}

    def calibrate(self, predictions: Sequence[ReadingPrediction], examples: Sequence[ReadingExample]) -> Config:
        """The threshold with the best mean F1, where texts may have no answer: halfway to the first that gets none."""
        if not self.config.no_answer or self.config.threshold is not None:
            return self.config
        gaps, scores = self._gaps(predictions, examples)
        best = find_threshold(gaps, scores, [bool(example.answers) for example in examples])
        if best is None:
            return self.config.model_copy(update={"threshold": min(gaps, default=0.0) - 1.0})
        withheld = min((gap for gap in gaps if gap > best[0]), default=best[0] + _LESS_SURE)
        return self.config.model_copy(update={"threshold": threshold_between(best[0], withheld)})

    def _gaps(
        self, predictions: Sequence[ReadingPrediction], examples: Sequence[ReadingExample]
    ) -> tuple[list[float], list[float]]:
        """How much more speaks for no answer than for the best one, and the F1 of that one."""
        best = [best_answer(prediction) for prediction in predictions]
        scores = [
            self._score(answer, example, may_be_empty=True).f1
            for (answer, _), example in zip(best, examples, strict=True)
        ]
        return [gap for _, gap in best], scores

    def _score(self, answer: str, example: ReadingExample, *, may_be_empty: bool) -> AnswerScore:
        truth = [right.text for right in example.answers or ()]
        return score_answer(answer, truth, self.config.scorer or "squad", may_be_empty=may_be_empty)

    def score(self, predictions: Sequence[ReadingPrediction], examples: Sequence[ReadingExample]) -> dict[str, float]:
        """Exact matches and mean F1 as the official scripts count them; of questions with an answer and without one.

        Raises:
            DataError: an example whose answers are not known.
        """
        unknown = next((example for example in examples if example.answers is None), None)
        if unknown is not None:
            raise DataError(f"{unknown.origin}: no answers; every question needs them here, [] where there are none")
        has_answer = [bool(example.answers) for example in examples]
        scores = [
            self._score(prediction["answer"], example, may_be_empty=not all(has_answer))
            for prediction, example in zip(predictions, examples, strict=True)
        ]
        out = _means(scores)
        if all(has_answer):
            return out
        for name, wanted in (("answerable", True), ("unanswerable", False)):
            part = [score for score, known in zip(scores, has_answer, strict=True) if known is wanted]
            out |= {f"{key}/{name}": value for key, value in _means(part).items()} if part else {}
            out[f"count/{name}"] = float(len(part))
        return out | self._best_scores(predictions, examples, has_answer)

    def _best_scores(
        self, predictions: Sequence[ReadingPrediction], examples: Sequence[ReadingExample], has_answer: Sequence[bool]
    ) -> dict[str, float]:
        """What the best threshold on these examples would give."""
        if not self.config.no_answer:
            return {}
        gaps, scores = self._gaps(predictions, examples)
        best = find_threshold(gaps, scores, has_answer)
        return {} if best is None else {"best_f1": best[1], "best_f1_threshold": best[0]}


def _target(window: Window, first: int, last: int) -> NDArray[np.int64]:
    """The answer's first and last token in a window; no answer where it does not have both. Shape: return: (2,)"""
    if first == _NO_ANSWER or not in_window(window, np.array([first]), np.array([last]))[0]:
        return np.array([_NO_ANSWER, _NO_ANSWER])
    return np.searchsorted(window.index, np.array([first, last]))


def _first_place(example: ReadingExample) -> tuple[int, int] | None:
    """Where the first answer whose place is known begins and ends, in characters."""
    places = (
        (answer.start, answer.start + len(answer.text)) for answer in example.answers or () if answer.start is not None
    )
    return next(places, None)


def _text_size(row: Row) -> int:
    """Tokens of the text of a row."""
    return 0 if row.second is None else len(row.second)


def _fitting_scorer(examples: Sequence[ReadingExample]) -> Scorer:
    """The scorer for the language of the questions."""
    return "cmrc" if language_of("\n".join(example.question for example in examples[:100])) == "zh" else "squad"


def _means(scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Mean exact matches and F1."""
    exact, f1 = (math.fsum(column) / len(scores) for column in zip(*scores, strict=True))
    return {"exact": exact, "f1": f1}
