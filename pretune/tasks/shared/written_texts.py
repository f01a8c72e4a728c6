"""What tasks that write read and say: examples with references, the texts of rows, and predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from pretune.generate.options import Continuation
from pretune.tasks.task import Example


@dataclass(frozen=True, slots=True)
class GenerationExample(Example):
    """What is read, and what is to be written.

    Attributes:
        text: never empty.
        target: the answer that is learned; None where it is not known.
        references: all answers that are right, that one first.
    """

    text: str
    target: str | None = None
    references: tuple[str, ...] = ()


class Alternative(TypedDict):
    """One of the best texts of beam search.

    Attributes:
        text: without special tokens.
        score: log probability / tokens ** length_penalty.
    """

    text: str
    score: float


class GenerationPrediction(TypedDict):
    """What a model writes.

    Attributes:
        generated_text: None where validation leaves the example out.
        finish_reason: `end`, or `length` and `context` where a text was cut off.
        candidates: the best texts, where several are asked for.
        target_loss: mean loss of the tokens of a known answer, in nats; in evaluation.
        target_tokens: how many these are.
    """

    generated_text: str | None
    finish_reason: str
    candidates: NotRequired[list[Alternative]]
    target_loss: NotRequired[float]
    target_tokens: NotRequired[int]


@dataclass(frozen=True)
class WrittenRow:
    """The answer of a row.

    Attributes:
        written: what the model wrote; None where validation leaves the row out.
        loss, tokens: of the known answer, summed over its tokens; 0 where there is none, or training counts it.
    """

    written: Continuation | None
    loss: float = 0.0
    tokens: int = 0
