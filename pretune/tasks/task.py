"""What a supervised task adds to an objective: labelled examples in, answers out, scores.

A task is used in this order, on the host before any step:

1. `config = Task.settle(config, examples)`: what the training data decide (labels, class weights) is filled in;
2. `task = Task(config, vocabulary)`;
3. `encoded = task.encode(examples, tokenizer, length)`: every example is checked, cut to length, counted;
4. `Task.prepare(rows, draw)` builds batches from rows, as for every objective; after training `decode` and `score`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pretune.batch import Batch
from pretune.errors import DataError
from pretune.objectives.objective import Model, Objective
from pretune.text.labelled import Example
from pretune.text.tokenizer import Tokenizer

Tokens = NDArray[np.int64]
Truncate = Literal["head", "tail", "head+tail", "error"]
Encoding = tuple[Tokens, Tokens | None, int | None]
"""Tokens of the text, of the second text if there is one, and the label's number if it is known."""


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


class Task(Objective):
    """Base of the supervised tasks.

    Attributes:
        primary: the score by which checkpoints are compared; larger is better.
    """

    view: ClassVar[str] = "examples"
    primary: ClassVar[str] = "accuracy"

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

    @abstractmethod
    def label_of(self, example: Example) -> int | None:
        """The number of an example's label, None where it has none.

        Raises:
            DataError: a label that training did not see.
        """

    @abstractmethod
    def decode(self, model: Model, batch: Batch) -> list[Prediction]:
        """One prediction for each sequence of the batch, in order."""

    @abstractmethod
    def score(self, predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float]:
        """Scores of predictions against the labels of the examples."""

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
        firsts = self._tokens(examples, [example.text for example in examples], tokenizer)
        paired = [n for n, example in enumerate(examples) if example.second is not None]
        seconds: dict[int, Tokens] = dict(
            zip(
                paired,
                self._tokens([examples[n] for n in paired], [examples[n].second or "" for n in paired], tokenizer),
                strict=True,
            )
        )
        room = {pair: length - tokenizer.vocabulary.overhead(pair) for pair in (False, True)}
        rows: list[Encoding] = []
        account = {"examples": len(examples), "tokens": 0, "examples_cut": 0, "tokens_cut": 0}
        for n, (first, label) in enumerate(zip(firsts, labels, strict=True)):
            second = seconds.get(n)
            short, short_second = fit(first, second, room[second is not None], self.config.truncate, examples[n])
            before, after = _size(first, second), _size(short, short_second)
            account["tokens"] += before
            account["tokens_cut"] += before - after
            account["examples_cut"] += after < before
            rows.append((short, short_second, label))
        return Encoded(rows, account)

    @staticmethod
    def _tokens(examples: Sequence[Example], texts: Sequence[str], tokenizer: Tokenizer) -> list[Tokens]:
        for example, text in zip(examples, texts, strict=True):
            if not text.strip():
                raise DataError(f"{where(example)}: the text is empty; give it some words or leave the line out")
        encoded = tokenizer.encode_batch(texts)
        for example, text, tokens in zip(examples, texts, encoded, strict=True):
            if not len(tokens):
                raise DataError(f"{where(example)}: the tokenizer gives no token for {text[:40]!r}; leave the line out")
        return encoded


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
