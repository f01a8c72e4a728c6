"""The options of generation, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypedDict

from pydantic import Field, model_validator

from pretune.config import Config

MAX_BEAMS = 4096
MAX_PENALTY = 32.0  # an exponent of the length, which stays in range for any length
MAX_LOOKUP = 256
Reason = Literal["end", "stop", "length", "context"]


class GenerateConfig(Config):
    """Decoding options; the defaults are greedy.

    Attributes:
        max_new_tokens: at most this many tokens; reduced, with a note, to what the model's context leaves.
        max_length: at most this many tokens of prompt and text together, in place of `max_new_tokens`; of an
            encoder-decoder, of the text with the token that it begins with.
        min_new_tokens: no end token comes before this many tokens.
        min_length: the same of prompt and text together, counted as in `max_length`.
        temperature: 0 chooses the most probable token; above 0 samples from softmax(logits / temperature).
        top_k: sample only among the k most probable tokens; 0: among all.
        top_p: sample among the fewest tokens whose probabilities add up to p.
        min_p: sample only among tokens with this fraction of the best one's probability.
        repetition_penalty: by which the scores of tokens that came before are divided, or multiplied where below 0.
        no_repeat_ngram_size: runs of this many tokens come once at most; 0: as often as they like.
        prompt_no_repeat_ngram_size: the same for runs of the prompt, or of what an encoder reads.
        beams: beam search over this many hypotheses.
        length_penalty: a finished hypothesis scores log probability / tokens ** length_penalty.
        early_stopping: beam search ends as soon as `beams` hypotheses are finished; `never` ends it only when none can
            become better.
        n_best: number of the best texts of beam search that are given with their scores; 1 gives the best alone.
        lookup: at most this many tokens are guessed in a step, of all texts together, from what came before, and kept
            where the model chooses them too, so that the texts are the same; 0: none; None: 16 where decoding by
            kernels makes it exact.
        stop: texts that end the continuation, and are not part of it, wherever token borders fall.
        ends: tokens that end a text, beside those that the model's files or the tokenizer name.
        seed: key of the sampling; the same seed and prompt give the same text, alone or in a batch.
        special_tokens: names of special tokens in a prompt, such as `<extra_id_0>`, are the tokens and not their
            letters; None: where the tokenizer has tokens for prompts (see `session.reads_special_tokens`).
        keep_special: special tokens stay in the text, but for those that end it.
    """

    max_new_tokens: int = Field(default=64, ge=1)
    max_length: int | None = Field(default=None, ge=1)
    min_new_tokens: int = Field(default=0, ge=0)
    min_length: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    prompt_no_repeat_ngram_size: int = Field(default=0, ge=0)
    beams: int = Field(default=1, ge=1, le=MAX_BEAMS)
    length_penalty: float = Field(default=1.0, ge=-MAX_PENALTY, le=MAX_PENALTY)
    early_stopping: bool | Literal["never"] = False
    n_best: int = Field(default=1, ge=1)
    lookup: int | None = Field(default=None, ge=0, le=MAX_LOOKUP)
    stop: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    seed: int = 0
    special_tokens: bool | None = None
    keep_special: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.temperature == 0 and (self.top_k or self.top_p < 1 or self.min_p):
            raise ValueError("top_k, top_p and min_p restrict sampling: set temperature above 0, such as 1.0")
        if self.beams > 1 and self.temperature > 0:
            raise ValueError("beam search does not sample: set temperature to 0, or beams to 1")
        if self.n_best > self.beams:
            raise ValueError(f"n_best = {self.n_best} texts need as many beams, not {self.beams}: raise beams")
        if self.beams > 1 and self.lookup:
            raise ValueError("beam search does not guess tokens: set lookup to 0, or beams to 1")
        if "" in self.stop:
            raise ValueError("a stop text is empty")
        return self


class GenerateOptions(TypedDict, total=False):
    """The fields of `GenerateConfig` as keyword arguments."""

    max_new_tokens: int
    max_length: int
    min_new_tokens: int
    min_length: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    prompt_no_repeat_ngram_size: int
    beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    n_best: int
    lookup: int
    stop: str | Sequence[str]
    ends: Sequence[int]
    seed: int
    special_tokens: bool
    keep_special: bool


@dataclass(frozen=True)
class Candidate:
    """One of the best texts that beam search found.

    Attributes:
        text: as of a continuation.
        score: log probability / tokens ** length_penalty.
    """

    text: str
    score: float


@dataclass(frozen=True)
class Continuation:
    """What followed a prompt.

    Attributes:
        text: without the prompt, special tokens and the stop text.
        tokens: generated ids, the end token included.
        reason: why it ended: the end token, a stop text, `max_new_tokens`, or the model's context.
        prompt_tokens: tokens of the prompt.
        candidates: the best texts of beam search, this one first, as many as `n_best` says; none where that is 1.
    """

    text: str
    tokens: list[int]
    reason: Reason
    prompt_tokens: int
    candidates: tuple[Candidate, ...] = ()
