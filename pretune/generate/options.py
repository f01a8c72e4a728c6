"""How text is to be continued, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypedDict

from pydantic import Field, model_validator

from pretune.config import Config

Reason = Literal["end", "stop", "length", "context"]


class GenerateConfig(Config):
    """Decoding options; the defaults are greedy.

    Attributes:
        max_new_tokens: at most this many tokens; reduced, with a note, to what the model's context leaves.
        temperature: 0 chooses the most probable token; above 0 samples from softmax(logits / temperature).
        top_k: sample only among the k most probable tokens; 0: among all.
        top_p: sample among the fewest tokens whose probabilities add up to p.
        beams: beam search over this many hypotheses.
        length_penalty: a finished hypothesis scores log probability / tokens ** length_penalty.
        early_stopping: beam search ends as soon as `beams` hypotheses are finished.
        stop: texts that end the continuation, and are not part of it, wherever token borders fall.
        seed: key of the sampling; the same seed and prompt give the same text, alone or in a batch.
    """

    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    beams: int = Field(default=1, ge=1)
    length_penalty: float = Field(default=1.0, allow_inf_nan=False)
    early_stopping: bool = False
    stop: tuple[str, ...] = ()
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise ValueError("top_k and top_p restrict sampling: set temperature above 0, such as 1.0")
        if self.beams > 1 and self.temperature > 0:
            raise ValueError("beam search does not sample: set temperature to 0, or beams to 1")
        if "" in self.stop:
            raise ValueError("a stop text is empty")
        return self


class GenerateOptions(TypedDict, total=False):
    """The fields of `GenerateConfig` as keyword arguments."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    beams: int
    length_penalty: float
    early_stopping: bool
    stop: str | Sequence[str]
    seed: int


@dataclass(frozen=True)
class Continuation:
    """What followed a prompt.

    Attributes:
        text: without the prompt, special tokens and the stop text.
        tokens: generated ids, the end token included.
        reason: why it ended: the end token, a stop text, `max_new_tokens`, or the model's context.
        prompt_tokens: tokens of the prompt.
    """

    text: str
    tokens: list[int]
    reason: Reason
    prompt_tokens: int
