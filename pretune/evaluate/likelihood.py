"""Scores texts by log probability under any model, and by bits per byte, which compares across tokenizers.

- A causal language model and the decoder of an encoder-decoder give log p(text), each token from those before it. What
  stands before the first is the start of a document (`bos`, else the end token of the document before).
- A permutation language model gives it likewise, in the order from left to right.
- A masked language model has no probability of a text. Its pseudo-likelihood is the sum of the log probabilities of
  single tokens, each behind a mask while all others are seen; it is a higher number and compares with its kind alone.

A text that is longer than the model's context is read in windows that overlap by half.

Source: Salazar et al. 2020 (arXiv 1910.14659), pseudo-likelihood; Kauf and Ivanova 2023 (arXiv 2305.10588), by words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.errors import DataError, UsageError
from pretune.evaluate.engine import BUDGET
from pretune.generate.readings import Progress, Reading, batches, read
from pretune.generate.session import context_length, encode_prompts
from pretune.models.model import LanguageModel
from pretune.nn.heads import TokenPrediction
from pretune.nn.model_protocol import find_language_head
from pretune.runtime.finite import first_non_finite, non_finite
from pretune.table import rounded_text
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.vocabulary import Vocabulary

Tokens = NDArray[np.int64]
Measure = Literal["likelihood", "pseudo-likelihood"]
Masking = Literal["token", "word"]


class ScoreOptions(TypedDict, total=False):
    """Keyword arguments of `score`."""

    masking: Masking
    special_tokens: bool | None
    budget: int


@dataclass(frozen=True, repr=False)
class Score:
    """Of one text, or of several, which add up.

    Attributes:
        log_prob: natural logarithm, summed over tokens.
        kind: what it is the logarithm of.
        tokens: of the text, special ones left out.
        unknown: how many of them stand for text that the vocabulary does not have; a model guesses them too easily.
        bytes: of the text in UTF-8.
    """

    log_prob: float
    kind: Measure
    tokens: int
    unknown: int
    bytes: int

    def __add__(self, other: Score) -> Score:
        return Score(
            self.log_prob + other.log_prob,
            self.kind,
            self.tokens + other.tokens,
            self.unknown + other.unknown,
            self.bytes + other.bytes,
        )

    def __repr__(self) -> str:
        log_prob, bits = rounded_text(self.log_prob), rounded_text(self.bits_per_byte)
        return f"Score({self.kind}, log_prob={log_prob}, bits_per_byte={bits}, tokens={self.tokens})"

    @property
    def bits_per_byte(self) -> float:
        """Bits that the text costs, for each byte of it; infinite for an empty one."""
        return -self.log_prob / math.log(2) / self.bytes if self.bytes else math.inf

    @property
    def perplexity(self) -> float:
        """Of a token: compares models of one tokenizer alone."""
        return math.exp(min(-self.log_prob / max(self.tokens, 1), 700.0))


def score(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    sources: Sequence[str] | None = None,
    *,
    masking: Masking = "token",
    special_tokens: bool | None = None,
    budget: int = BUDGET,
) -> list[Score]:
    """The probability of each text.

    Args:
        sources: what the encoder of an encoder-decoder reads; empty texts by default.
        masking: what a mask hides: a token alone, or with it the tokens of its word that come after it, so that a word
            of many tokens is not guessed from its own end.
        special_tokens: names of special tokens in texts and sources are the tokens, and not their letters; None: where
            the model was made for it.
        budget: tokens of a forward.

    Raises:
        UsageError: a model without a language modelling head; sources for a model without an encoder, or too few.
        DataError: a text without tokens, or one that is longer than a decoder that begins anew can write.
        NonFiniteError: a log probability that is not finite.
    """
    runs = encode_prompts(model, tokenizer, texts, special_tokens, "text")
    for n, run in enumerate(runs):
        if not len(run):
            raise DataError(f"text {n + 1} of {len(texts)} has no tokens: {texts[n][:40]!r}")
    if sources is not None and not model.has_encoder:
        raise UsageError(f"{model.family} has no encoder that could read a source; put it into the text")
    if sources is not None and len(sources) != len(texts):
        raise UsageError(f"{len(texts)} texts but {len(sources)} sources")
    head = find_language_head(model, "next", "permuted", "masked")
    if head is None:
        raise UsageError(
            f"this {model.family} model has no language modelling head, and gives no text a probability; use one with "
            "a head clm, plm or mlm"
        )
    others = sources or [""] * len(runs)
    origins = encode_prompts(model, tokenizer, others, special_tokens, "source") if model.has_encoder else []
    readings = _readings(model, head.predicts, tokenizer, runs, origins, masking)
    totals = np.zeros(len(texts))
    progress = Progress(sum(map(len, runs)))
    for part in batches(readings, budget):
        log_probs, _ = read(model, head, part)
        np.add.at(totals, np.repeat([r.text for r in part], [len(r.rows) for r in part]), log_probs)
        progress.add(len(log_probs))
    bad = first_non_finite(torch.from_numpy(totals))
    if bad is not None:
        raise non_finite("a log probability", bad, len(texts), texts[bad])
    measure: Measure = "pseudo-likelihood" if head.predicts == "masked" else "likelihood"
    unk = tokenizer.vocabulary.unk
    unknown = [0 if unk is None else int((run == unk).sum()) for run in runs]
    return [
        Score(float(total), measure, len(run), missing, len(text.encode()))
        for total, run, missing, text in zip(totals, runs, unknown, texts, strict=True)
    ]


def _readings(
    model: LanguageModel,
    predicts: TokenPrediction,
    tokenizer: Tokenizer,
    runs: Sequence[Tokens],
    sources: Sequence[Tokens],
    masking: Masking,
) -> Iterator[Reading]:
    length, vocabulary = context_length(model, tokenizer), tokenizer.vocabulary
    if model.has_encoder:
        return _conditional(runs, sources, vocabulary, model.decoder_start or 0, length)
    if predicts == "next":
        return _causal(runs, vocabulary, length)
    if predicts == "permuted":
        return _in_order(runs, vocabulary, length)
    return _masked(runs, vocabulary, length, masking)


def _causal(runs: Sequence[Tokens], vocabulary: Vocabulary, length: int) -> Iterator[Reading]:
    start = vocabulary.bos if len(vocabulary.prompt_prefix) else vocabulary.end
    for n, run in enumerate(runs):
        inputs = np.concatenate([[start], run[:-1]])
        for begin, first, end in windows(len(run), length):
            yield Reading(n, inputs[begin:end], np.arange(first - begin, end - begin), run[first:end])


def _in_order(runs: Sequence[Tokens], vocabulary: Vocabulary, length: int) -> Iterator[Reading]:
    """Tokens before a window's first are seen by all; each other sees those before it."""
    for n, run in enumerate(runs):
        for begin, first, end in windows(len(run), length - vocabulary.overhead(False)):
            tokens, segments = vocabulary.add_special_tokens(run[begin:end])
            rows = vocabulary.prefix_length + np.arange(first - begin, end - begin)
            order = np.full(len(tokens), -1)
            order[rows] = np.arange(len(rows))
            yield Reading(n, tokens, rows, run[first:end], segments, order)


def _masked(runs: Sequence[Tokens], vocabulary: Vocabulary, length: int, masking: Masking) -> Iterator[Reading]:
    """A sequence for each token."""
    if vocabulary.mask is None:
        raise UsageError("this tokenizer has no mask token, so a masked language model cannot score with it")
    for n, run in enumerate(runs):
        for begin, first, end in windows(len(run), length - vocabulary.overhead(False)):
            part = run[begin:end]
            inside = vocabulary.continuation[part]
            for index in range(first - begin, end - begin):
                masked = part.copy()
                masked[index] = vocabulary.mask
                if masking == "word":
                    later = inside[index + 1 :]
                    stop = index + 1 + (len(later) if later.all() else int(later.argmin()))
                    masked[index:stop] = vocabulary.mask
                tokens, segments = vocabulary.add_special_tokens(masked)
                rows = np.array([vocabulary.prefix_length + index])
                yield Reading(n, tokens, rows, part[index : index + 1], segments)


def _conditional(
    runs: Sequence[Tokens], sources: Sequence[Tokens], vocabulary: Vocabulary, start: int, length: int
) -> Iterator[Reading]:
    for n, (run, source) in enumerate(zip(runs, sources, strict=True)):
        whole, read = vocabulary.with_end(run), vocabulary.with_end(source)
        for what, size in (("text", len(whole)), ("source", len(read))):
            if size > length:
                raise DataError(f"{what} {n + 1} has {size} tokens, the model's context is {length}; shorten it")
        rows = vocabulary.prefix_length + np.arange(len(run))
        yield Reading(n, np.concatenate([[start], whole[:-1]]), rows, whole[rows], source=read)


def windows(total: int, max_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Cut `total` places into windows of at most `max_tokens`.

    Yields:
        (begin, first, end): a window reads the places begin to end and is asked for first to end; each place is asked
        for once and, but in the first window, with half a window before it.

    Raises:
        UsageError: a window would hold no token.
    """
    if max_tokens < 1:
        raise UsageError("the model's context has no room for a token beside the special ones")
    first = 0
    while first < total:
        end = min(total, max_tokens if not first else first + max(1, max_tokens // 2))
        yield max(0, end - max_tokens), first, end
        first = end
