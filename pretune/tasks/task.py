"""What a supervised task adds to an objective: labelled examples in, answers out, scores.

A task is used in this order, on the host before any step:

1. `config = Task.settle(config, examples)`: what the training data decide (labels, class weights) is filled in;
2. `task = Task(config, vocabulary)`;
3. `encoded = task.encode(examples, tokenizer, length)`: every example is checked, cut to length, counted;
4. `Task.prepare(rows, draw)` builds batches from rows, as for every objective; after training `decode` and `score`.

What a task answers is its own: a `Prediction` of a label, a number.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pretune.batch import Batch
from pretune.errors import DataError
from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.objective import Objective
from pretune.text.readers.labelled import Example
from pretune.text.samples.rows import Encoding
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.vocabulary import Vocabulary

Tokens = NDArray[np.int64]
Truncate = Literal["head", "tail", "head+tail", "error"]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Prediction:
    """What a task says about one text.

    Attributes:
        label: the most probable label.
        probabilities: of every label, in the order of the model's labels; they sum to 1.
    """

    label: str
    probabilities: dict[str, float]

    @property
    def score(self) -> float:
        """Probability of the label."""
        return self.probabilities[self.label]


@dataclass(frozen=True)
class Encoded:
    """Examples as tokens, and the account of what happened to them.

    Attributes:
        rows: one for each example, in order.
        account: examples, tokens, examples_cut, tokens_cut (tokens left out by truncation).
    """

    rows: list[Encoding]
    account: dict[str, int]


class Task(Objective, Generic[Answer]):
    """Base of the supervised tasks.

    Attributes:
        primary: the score by which checkpoints are compared; larger is better.
        labelled: it trains on labels; validation needs them in any case.
    """

    view: ClassVar[str] = "examples"
    primary: ClassVar[str] = "accuracy"
    labelled: ClassVar[bool] = True

    class Config(Objective.Config):
        """What all tasks share.

        Attributes:
            truncate: which part of a text that is too long stays. `head+tail` keeps a quarter of the room for the
                beginning and the rest for the end.
        """

        truncate: Truncate = "head"

    config: Config

    @classmethod
    @abstractmethod
    def settle(cls, config: Any, examples: Sequence[Example]) -> Any:
        """The configuration with what the training data decide filled in.

        Raises:
            DataError: the examples cannot train this task.
        """

    def label_of(self, example: Example) -> int | None:
        """The number of an example's label, None, the default, where it has none.

        Raises:
            DataError: a label that training did not see.
        """
        return None

    @abstractmethod
    def decode(self, model: TrainableModel, batch: Batch) -> list[Answer]:
        """One answer for each example of the batch, in order."""

    @abstractmethod
    def score(self, answers: Sequence[Answer], examples: Sequence[Example]) -> dict[str, float]:
        """Scores of answers against the labels of the examples."""

    def tokens(self, rows: Sequence[Encoding]) -> Tokens | None:
        """Which tokens batches of these rows may hold, so that the embedding need learn no others.

        Returns:
            In any order; None, the default, where that cannot be said, as where `corrupt` draws tokens.

        Shape:
            return: (any,)
        """
        return None

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer, length: int) -> Encoded:
        """Check all examples, turn them into tokens and cut them to `length` tokens, special ones included.

        Raises:
            DataError: an empty text, an unseen label, or with `truncate = "error"` a text that is too long; the
                message names file and line.
        """
        labels = [self.label_of(example) for example in examples]
        columns = [
            self._tokens(examples, [getattr(example, name) for example in examples], tokenizer)
            for name in ("text", "second", "third")
        ]
        rows: list[Encoding] = []
        account = {"examples": len(examples), "tokens": 0, "examples_cut": 0, "tokens_cut": 0}
        for example, label, (first, second, third) in zip(examples, labels, zip(*columns, strict=True), strict=True):
            assert first is not None  # every example has a text
            whole = Encoding(first, second, label, third)
            row = self.shorten(whole, tokenizer.vocabulary, length, example)
            account["tokens"] += whole.size
            account["tokens_cut"] += whole.size - row.size
            account["examples_cut"] += row.size < whole.size
            rows.append(row)
        return Encoded(rows, account)

    def shorten(self, row: Encoding, vocabulary: Vocabulary, length: int, example: Example) -> Encoding:
        """An example whose sequences have `length` tokens at most; by default a text and its second make one sequence.

        Raises:
            DataError: with `truncate = "error"`, what is too long.
        """
        room = length - vocabulary.overhead(row.second is not None)
        first, second = fit(row.tokens, row.second, room, self.config.truncate, example)
        return row._replace(tokens=first, second=second)

    @staticmethod
    def _tokens(examples: Sequence[Example], texts: Sequence[str | None], tokenizer: Tokenizer) -> list[Tokens | None]:
        """The tokens of the texts that are there."""
        there = [n for n, text in enumerate(texts) if text is not None]
        found = [texts[n] or "" for n in there]
        for n, text in zip(there, found, strict=True):
            if not text.strip():
                raise DataError(f"{where(examples[n])}: the text is empty; give it some words or leave the line out")
        out: list[Tokens | None] = [None] * len(texts)
        for n, text, tokens in zip(there, found, tokenizer.encode_batch(found) if found else [], strict=True):
            if not len(tokens):
                raise DataError(
                    f"{where(examples[n])}: the tokenizer gives no token for {text[:40]!r}; leave the line out"
                )
            out[n] = tokens
        return out


def where(example: Example) -> str:
    """`file:line` of an example, for an error message."""
    return f"{example.source}:{example.line}"


def fit(
    first: Tokens, second: Tokens | None, room: int, truncate: Truncate, example: Example
) -> tuple[Tokens, Tokens | None]:
    """Cut a text, or the longer text of a pair first, to `room` tokens.

    Source: head + tail with a quarter for the head is the best of Sun et al. 2019, "How to fine-tune BERT for text
    classification" (arXiv 1905.05583), table 3.

    Raises:
        DataError: too long and `truncate = "error"`, or no room at all.
    """
    size = _size(first, second)
    if size <= room:
        return first, second
    if truncate == "error":
        raise DataError(
            f"{where(example)}: {size} tokens, but only {room} fit; raise the length, or set truncate to "
            "head, tail or head+tail"
        )
    if room < (1 if second is None else 2):
        raise DataError(f"{where(example)}: a length that leaves {room} tokens for text is too short; raise the length")
    if second is None:
        return cut(first, room, truncate), None
    half = room // 2
    of_first = max(room - len(second), min(len(first), room - half))
    return cut(first, of_first, truncate), cut(second, room - min(len(first), of_first), truncate)


def tokens_of(task: Task[Any], kind: type[Task[Any]], rows: Sequence[Encoding]) -> Tokens | None:
    """All tokens of the texts, and the special ones around them, for `Task.tokens`.

    Args:
        kind: whose batches are known to hold no others; of a variant that makes them in its own way they are not.

    Shape:
        return: (any,) ascending
    """
    if any(getattr(type(task), name) is not getattr(kind, name) for name in ("prepare", "corrupt")):
        return None
    special = np.flatnonzero(task.vocabulary.special)
    return np.unique(np.concatenate([special, *(text for row in rows for text in row.texts)]))


def cut(tokens: Tokens, room: int, truncate: Truncate) -> Tokens:
    """At most `room` tokens of a run, from the places that `truncate` names."""
    if len(tokens) <= room:
        return tokens
    if truncate == "head":
        return tokens[:room]
    if truncate == "tail":
        return tokens[len(tokens) - room :]
    head = room // 4
    return np.concatenate([tokens[:head], tokens[len(tokens) - (room - head) :]])


def _size(first: Tokens, second: Tokens | None) -> int:
    return len(first) + (0 if second is None else len(second))
