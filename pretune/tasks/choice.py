"""Multiple choice: which of several texts fits a text, or answers a question about it.

Data: examples with a text, `choices` (a list of texts, two at least, as many as one likes in each example), the right
one as `label` (its number from 0, its text, or its letter from A), and an optional `question`, which is put before each
choice. A table holds the list as JSON in its cell.

Each choice is read behind the text, as a pair of its own; a head gives each a score, and the probabilities of an
example's choices sum to 1. The files are those of `...ForMultipleChoice` in the families that have this class.

Source: Radford et al. 2018, section 3.3; Zellers et al. 2018, SWAG (arXiv 1808.05326), as in BERT, section 4.4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.loss import Term
from pretune.nn.heads import ChoiceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import ends, target
from pretune.tasks.task import Example, RowBatch, Task, build_row, encode_texts, int_targets, tokens_of, truncate_pair
from pretune.text.readers.records import Column, Record, is_missing
from pretune.text.readers.words import join_words
from pretune.text.samples.rows import Encoded, Ints, Row, names_of
from pretune.text.tokenizer.long_texts import EncodedText
from pretune.text.tokenizer.tokenizer import Tokenizer

_PLACES = "choice_places"  # the target that says of each sequence which example it is of, and which of its choices


@dataclass(frozen=True, slots=True)
class ChoiceExample(Example):
    """A text, what may fit it, and what does.

    Attributes:
        text: never empty.
        choices: two at least, none empty, each with the question before it.
        label: number of the right choice; None where it is not known.
        answers: the choices as the record has them.
    """

    text: str
    choices: tuple[str, ...]
    label: int | None = None
    answers: tuple[str, ...] = ()


class ChoicePrediction(TypedDict):
    """What is said of an example.

    Attributes:
        choice: number of the most probable choice, from 0.
        text: that choice.
        probabilities: of every choice, in their order; they sum to 1.
    """

    choice: int
    text: str
    probabilities: list[float]


class Choice(Task[ChoiceExample, list[float], ChoicePrediction]):
    """One of several texts for each text."""

    name: ClassVar[str] = "choice"
    role: ClassVar[str] = "multiple_choice"

    class Config(Task.Config):
        """What tasks share."""

    config: Config

    def columns(self, needs_labels: bool) -> list[Column]:
        """The text, the choices, the label, and the question where there is one."""
        columns = self.config.columns
        text, *_ = columns.text_columns()
        question = Column(columns.question, "columns.question", required=False)
        choices = Column(columns.choices, "columns.choices")
        return [text, choices, question, Column(columns.label, "columns.label", required=needs_labels)]

    def read(self, record: Mapping[str, object]) -> ChoiceExample:
        """A text, its choices and the right one."""
        columns, fields = self.config.columns, Record.of(record)
        text = fields.text(columns.text, "columns.text")
        choices = _read_choices(fields, columns.choices)
        label = fields.label(columns.label, "columns.label")
        number = None if label is None else _number(fields, label, fields.get(columns.label), choices)
        if is_missing(fields.get(columns.question)) or fields[columns.question] == "":
            return ChoiceExample(text, choices, number, choices, origin=fields.origin)
        question = fields.text(columns.question, "columns.question")
        behind = tuple(join_words([question, choice])[0] for choice in choices)
        return ChoiceExample(text, behind, number, choices, origin=fields.origin)

    def resolve_config(self, examples: Sequence[ChoiceExample]) -> Config:
        """Nothing is filled in.

        Raises:
            DataError: no examples, or one whose right choice is not known.
            UsageError: windows, of which a choice would have several scores.
        """
        _known(examples)
        if self.config.truncate == "windows":
            raise UsageError("task.choice.truncate windows: a choice has one score; use head, tail or head+tail")
        return self.config

    def training_notes(self, examples: Sequence[ChoiceExample]) -> list[str]:
        """How many choices there are."""
        sizes = [len(example.choices) for example in examples]
        return [f"{np.mean(sizes):.3g} choices a text, so that {np.mean([1 / size for size in sizes]):.1%} is chance"]

    def encode(self, examples: Sequence[ChoiceExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """A row for each example: its text once, and each of its choices."""
        texts = encode_texts(examples, [example.text for example in examples], tokenizer, self.keep(length))
        owners = [example for example in examples for _ in example.choices]
        choices = encode_texts(owners, [choice for example in examples for choice in example.choices], tokenizer)
        rows, start = [], 0
        for n, (example, text) in enumerate(zip(examples, texts, strict=True)):
            own = choices[start : start + len(example.choices)]
            start += len(own)
            rows.append(self._row(n, example, text, [choice for choice in own if choice is not None], length))
        return rows

    def _row(
        self, n: int, example: ChoiceExample, text: EncodedText | None, choices: Sequence[EncodedText], length: int
    ) -> Encoded:
        """The row of an example: its text leaves room for the longest choice."""
        assert text is not None  # every example has one
        longest = max((choice.tokens for choice in choices), key=len)
        room = length - self.vocabulary.overhead(True)
        kept, of_choice = truncate_pair(
            np.arange(len(text.tokens)), np.arange(len(longest)), room, self.config.truncate, example
        )
        assert of_choice is not None  # a second text was given
        row = build_row(n, (text,), (kept,), int_targets(example.label))
        runs = tuple(choice.tokens[: len(of_choice)] for choice in choices)
        lost = sum(len(choice.tokens) - len(run) for choice, run in zip(choices, runs, strict=True))
        return replace(row, choices=runs, cut=row.cut + lost, repeated=(len(runs) - 1) * len(row.tokens))

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head that gives each sequence one score."""
        return {self.role: model.choice_head()}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """A sequence for each choice of each row, one after the other."""
        sizes = [len(row.choices) for row in rows]
        owners = np.repeat(np.arange(len(rows)), sizes)
        places = np.concatenate([np.zeros(0, np.int64), *(np.arange(size) for size in sizes)])
        wrapped = [self.vocabulary.add_special_tokens(row.tokens, choice) for row in rows for choice in row.choices]
        batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
        batch = replace(batch, samples=names_of(rows)[owners])
        known = [(n, int(row.targets)) for n, row in enumerate(rows) if row.targets is not None]
        index, label = np.array(known, dtype=np.int64).reshape(-1, 2).T
        batch.targets[self.name] = target(index, label)
        batch.targets[_PLACES] = target(owners, places)
        return batch

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts, and the special ones around them."""
        return tokens_of(self, Choice, rows)

    def output_rows(self, batch: Batch) -> NDArray[np.int64]:
        """The ends of every sequence."""
        return ends(batch.layout)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy among the choices, summed over the examples whose right one is known."""
        index, label = batch.targets[self.name]
        scores = self._scores(model, output, batch)[index]
        total = F.cross_entropy(scores, label, reduction="sum") if len(index) else scores.nan_to_num(neginf=0.0).sum()
        correct = (scores.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, total, len(index), self.config.weight, correct)]

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[list[float]]:
        """The probability of each choice of each row."""
        probabilities = self._scores(model, model(rows.batch), rows.batch).softmax(dim=1).cpu().tolist()
        return [values[: len(row.choices)] for row, values in zip(rows, probabilities, strict=True)]

    def soft_scores(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor:
        """The scores of the choices of each example."""
        return self._scores(model, output, batch)

    def soft_count(self, batch: Batch) -> int:
        """One an example."""
        owners = batch.targets[_PLACES][0]
        return int(owners.max()) + 1 if len(owners) else 0

    def _scores(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor:
        """A row for each example, its choices first. Shape: return: (N, most choices) fp32, -inf behind the last."""
        head = get_head(model, self.role, ChoiceHead)
        scores: Tensor = head(output.last_hidden_state, output.layout).float()
        owners, places = batch.targets[_PLACES]
        count, width = (int(owners.max()) + 1, int(places.max()) + 1) if len(owners) else (0, 0)
        table = scores.new_full((count, width), -torch.inf)
        return table.index_put((owners, places), scores[: len(owners)])

    def merge(self, example: ChoiceExample, answers: Sequence[list[float]]) -> ChoicePrediction:
        """The most probable choice, the first of equals."""
        (probabilities,) = answers
        number = int(np.argmax(probabilities))
        return {"choice": number, "text": example.answers[number], "probabilities": probabilities}

    def score(self, predictions: Sequence[ChoicePrediction], examples: Sequence[ChoiceExample]) -> dict[str, float]:
        """How many right choices were made, and how many chance would make.

        Raises:
            DataError: an example whose right choice is not known.
        """
        labels = _known(examples)
        right = [prediction["choice"] == label for prediction, label in zip(predictions, labels, strict=True)]
        chance = [1 / len(example.choices) for example in examples]
        return {"accuracy": float(np.mean(right)), "chance": float(np.mean(chance))}


def _read_choices(fields: Record, name: str) -> tuple[str, ...]:
    """The choices of a record.

    Raises:
        DataError: fewer than two, or one that is no text.
    """
    value = fields.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            fields = Record({**fields, name: json.loads(value)}, fields.origin)
        except ValueError as error:
            raise fields.error(f"field {name!r} is no JSON list: {error}", 'write it as ["...", "..."]') from None
    choices = fields.strings(name, "columns.choices")
    if len(choices) < 2:
        raise fields.error(f"field {name!r} has {len(choices)} choices", "give at least two, or remove the record")
    return tuple(choices)


def _number(fields: Record, label: str, value: object, choices: Sequence[str]) -> int:
    """The number of the right choice: a text is that of a choice, else a letter or a number.

    Raises:
        DataError: there is no such choice, or several have this text.
    """
    if isinstance(value, str) and label in choices:
        if (count := choices.count(label)) > 1:
            raise fields.error(
                f"label {label[:40]!r} is the text of {count} choices", "write the number of the right one"
            )
        return choices.index(label)
    if len(label) == 1 and "A" <= label <= "Z":
        number = ord(label) - ord("A")
    else:
        number = int(label) if label.isdecimal() else -1
    if not 0 <= number < len(choices):
        known = f"0 to {len(choices) - 1}, A to {chr(ord('A') + min(25, len(choices) - 1))}, or the text of one"
        raise fields.error(f"label {label!r} names none of the {len(choices)} choices", f"write {known}")
    return number


def _known(examples: Sequence[ChoiceExample]) -> list[int]:
    """The right choices.

    Raises:
        DataError: no examples, or one whose right choice is not known.
    """
    if not examples:
        raise DataError("no examples: the file is empty; give it at least one record")
    for example in examples:
        if example.label is None:
            raise DataError(f"{example.origin}: no label; say which choice is right")
    return [int(example.label or 0) for example in examples]
