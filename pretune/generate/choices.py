"""Scores choices by their likelihood after a context: all choices of a context share one pass over it.

Texts are cut into tokens as lm-eval does it: a context and its continuation are encoded together, and spaces at the end
of the context count to the continuation. A context that does not fit with its continuation loses its beginning.

- A decoder gives log p(choice | context), and what contexts have in common it reads once: see `continuations`.
- An encoder-decoder reads the context with its encoder, once, and gives log p of what its decoder writes.
- A permutation language model gives it from left to right, a masked one a pseudo-likelihood: the sum of the log
  probabilities of the choice's tokens, each behind a mask while all others are seen; it compares with its kind alone.

Source: EleutherAI, lm-evaluation-harness 0.4.13, `TemplateLM._encode_pair` and `HFLM._loglikelihood_tokens`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError, UsageError
from pretune.generate.continuations import NEW_ROWS, Likelihood, Request, score_continuations
from pretune.generate.readings import Progress, Reading, batches, read
from pretune.generate.session import context_length, encode_prompts
from pretune.generate.targets import Target, score_targets
from pretune.models.model import LanguageModel
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import find_language_head
from pretune.runtime.finite import non_finite
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.vocabulary import Vocabulary

Tokens = NDArray[np.int64]
_log = logging.getLogger("pretune")


class ContinuationError(DataError):
    """A continuation that cannot be scored.

    Attributes:
        index: its number among those of the call, from 0.
        reason: with the remedy.
    """

    def __init__(self, index: int, total: int, reason: str) -> None:
        super().__init__(f"continuation {index + 1} of {total} {reason}")
        self.index, self.reason = index, reason


class ChoiceOptions(TypedDict, total=False):
    """Keyword arguments of `score_choices`."""

    delimiter: str
    special_tokens: bool | None
    budget: int


@dataclass(frozen=True)
class ChoiceScore:
    """Of a choice after its context.

    Attributes:
        log_prob: natural logarithm, summed over its tokens.
        is_greedy: each of its tokens is the most likely one: greedy decoding would write it.
        tokens: of the choice, with the delimiter and the context's last spaces.
        characters, bytes: of the choice alone, bytes in UTF-8.
    """

    log_prob: float
    is_greedy: bool
    tokens: int
    characters: int
    bytes: int

    @property
    def per_character(self) -> float:
        """The log probability for each character, which lm-eval's `acc_norm` compares."""
        return self.log_prob / self.characters

    @property
    def per_byte(self) -> float:
        """The log probability for each byte, which lm-eval's `acc_bytes` compares."""
        return self.log_prob / self.bytes

    @property
    def per_token(self) -> float:
        """The log probability for each token."""
        return self.log_prob / self.tokens


class EncodedPair(NamedTuple):
    """The tokens of a context, special ones in front of it, and of its continuation."""

    context: Tokens
    continuation: Tokens


def score_choices(
    model: LanguageModel,
    tokenizer: Tokenizer,
    contexts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    delimiter: str = "",
    special_tokens: bool | None = None,
    budget: int = NEW_ROWS,
) -> list[list[ChoiceScore]]:
    """How likely each choice is after its context.

    Args:
        contexts: may be empty; the model then begins a document.
        choices: of each context.
        delimiter: between a context and each of its choices; lm-eval's is a space.
        special_tokens: names of special tokens in the texts are the tokens, and not their letters; None: where the
            model was made for it.
        budget: tokens of a forward.

    Returns:
        For each context the scores of its choices, in their order.

    Raises:
        UsageError: a model without a language modelling head, or not as many lists of choices as contexts.
        DataError: an empty choice, one that adds no token to its context, or one that is longer than the model's
            context.
        NonFiniteError: a log probability that is not finite.
    """
    if len(contexts) != len(choices):
        raise UsageError(f"{len(contexts)} contexts but {len(choices)} lists of choices; give one list for each")
    for n, some in enumerate(choices, 1):
        for k, choice in enumerate(some, 1):
            if not choice:
                raise DataError(
                    f"choice {k} of context {n} is empty, and has no likelihood; fill it in or leave it out"
                )
    pairs = [(context, delimiter + choice) for context, some in zip(contexts, choices, strict=True) for choice in some]
    encoded = encode_pairs(model, tokenizer, pairs, special_tokens)
    likelihoods = score_pairs(model, tokenizer, encoded, budget)
    scores = iter(
        ChoiceScore(*likelihood, len(pair.continuation), len(choice), len(choice.encode()))
        for likelihood, pair, choice in zip(likelihoods, encoded, (c for some in choices for c in some), strict=True)
    )
    return [[next(scores) for _ in some] for some in choices]


def encode_pairs(
    model: LanguageModel,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    special_tokens: bool | None = None,
) -> list[EncodedPair]:
    """The tokens of contexts and continuations: both are encoded together, and the context alone says where to cut.

    Raises:
        ContinuationError: one that adds no token to its context.
    """
    moved = [_move_spaces(context, continuation) for context, continuation in pairs]
    distinct = {text: n for n, text in enumerate(dict.fromkeys(context for context, _ in moved))}
    before = encode_prompts(model, tokenizer, list(distinct), special_tokens, "text")
    apart = model.has_encoder  # two sequences, each with its own beginning
    texts = [continuation if apart else context + continuation for context, continuation in moved]
    wholes = encode_prompts(model, tokenizer, texts, special_tokens, "text")
    vocabulary, out, joined = tokenizer.vocabulary, [], 0
    for n, ((context, _), whole) in enumerate(zip(moved, wholes, strict=True)):
        tokens = before[distinct[context]]
        continuation = whole if apart else whole[len(tokens) :]
        if not apart:
            joined += not np.array_equal(whole[: len(tokens)], tokens)
            tokens, continuation = _begin(model, vocabulary, tokens, continuation)
        if not len(continuation):
            raise ContinuationError(
                n,
                len(pairs),
                f"({pairs[n][1][:40]!r}) adds no token to its context: the tokenizer joins both into one; end the "
                "context before a space, or begin the choice with one",
            )
        out.append(EncodedPair(tokens, continuation))
    if joined:
        _log.warning(
            "%s of %s continuations share a token with their context, and are scored without its characters, as by "
            "lm-eval; end such a context before the token",
            f"{joined:,}",
            f"{len(pairs):,}",
        )
    return out


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _begin(
    model: LanguageModel, vocabulary: Vocabulary, context: Tokens, continuation: Tokens
) -> tuple[Tokens, Tokens]:
    """Sets before a context what the files put there; an empty one becomes the token that begins a document."""
    if find_language_head(model, "next") is None:
        return context, continuation
    prefix = vocabulary.prompt_prefix
    if len(prefix) and not (len(context) and context[0] == prefix[0]):
        context = np.concatenate([prefix, context])
    if len(context):
        return context, continuation
    start = vocabulary.end if vocabulary.bos is None else vocabulary.bos
    if len(continuation) and continuation[0] == start:
        return continuation[:1], continuation[1:]
    return np.array([start]), continuation


def score_pairs(
    model: LanguageModel, tokenizer: Tokenizer, pairs: Sequence[EncodedPair], budget: int = NEW_ROWS
) -> list[Likelihood]:
    """The likelihood of each continuation.

    Raises:
        UsageError: a model without a language modelling head, or a masked one whose tokenizer has no mask.
        ContinuationError: one that is longer than the model's context.
        NonFiniteError: a log probability that is not finite.
    """
    head = find_language_head(model, "next", "permuted", "masked")
    if head is None:
        raise UsageError(
            f"this {model.family} model has no language modelling head, and gives no choice a likelihood; use one with "
            "a head clm, plm or mlm"
        )
    out: list[Likelihood | None] = [None] * len(pairs)
    progress = Progress(sum(len(pair.continuation) for pair in pairs))
    for n, likelihood in _scores(model, head, tokenizer, pairs, budget):
        if not math.isfinite(likelihood.log_prob):
            text = tokenizer.decode(pairs[n].continuation)
            raise non_finite("a log probability", n, len(pairs), text, "continuation")
        out[n] = likelihood
        progress.add(len(pairs[n].continuation))
    return [likelihood for likelihood in out if likelihood is not None]


def _scores(
    model: LanguageModel, head: VocabularyHead, tokenizer: Tokenizer, pairs: Sequence[EncodedPair], budget: int
) -> Iterator[tuple[int, Likelihood]]:
    """Numbers of continuations and their likelihoods, in the order in which they are computed."""
    vocabulary, length = tokenizer.vocabulary, context_length(model, tokenizer)
    if model.has_encoder:
        targets = [Target(vocabulary.with_end(context), continuation) for context, continuation in pairs]
        return score_targets(model, head, vocabulary, targets, length, budget)
    if head.predicts == "next":
        fitted = _fit(pairs, length + 1)
        requests = [Request(np.concatenate(pair)[:-1], pair.continuation) for pair in fitted]
        return score_continuations(model, head, requests, budget)
    if head.predicts == "masked" and vocabulary.mask is None:
        raise UsageError("this tokenizer has no mask token, so a masked language model cannot score with it")
    fitted = _fit(pairs, length - vocabulary.overhead(False))
    readings = _in_order(fitted, vocabulary) if head.predicts == "permuted" else _masked(fitted, vocabulary)
    return _whole(model, head, readings, pairs, budget)


def _fit(pairs: Sequence[EncodedPair], length: int) -> list[EncodedPair]:
    """Contexts without what does not fit before their continuations.

    Raises:
        ContinuationError: one does not fit alone.
    """
    out, cut = [], 0
    for n, (context, continuation) in enumerate(pairs):
        if len(continuation) >= length:
            raise ContinuationError(
                n,
                len(pairs),
                f"has {len(continuation)} tokens, and the model's context takes {length - 1} after a context; "
                "shorten it",
            )
        left = length - len(continuation)
        cut += len(context) > left
        out.append(EncodedPair(context[-left:], continuation))
    if cut:
        _log.warning(
            "%s of %s contexts are longer than the model's context with their continuation: their beginnings are not "
            "read",
            f"{cut:,}",
            f"{len(pairs):,}",
        )
    return out


def _in_order(pairs: Sequence[EncodedPair], vocabulary: Vocabulary) -> Iterator[Reading]:
    """All see a context, and each token of its continuation those before it."""
    for n, (context, continuation) in enumerate(pairs):
        tokens, segments = vocabulary.add_special_tokens(np.concatenate([context, continuation]))
        rows = vocabulary.prefix_length + len(context) + np.arange(len(continuation))
        order = np.full(len(tokens), -1)
        order[rows] = np.arange(len(rows))
        yield Reading(n, tokens, rows, continuation, segments, order)


def _masked(pairs: Sequence[EncodedPair], vocabulary: Vocabulary) -> Iterator[Reading]:
    """A sequence for each token of a continuation."""
    for n, (context, continuation) in enumerate(pairs):
        for index, label in enumerate(continuation):
            masked = np.concatenate([context, continuation])
            masked[len(context) + index] = vocabulary.mask
            tokens, segments = vocabulary.add_special_tokens(masked)
            row = np.array([vocabulary.prefix_length + len(context) + index])
            yield Reading(n, tokens, row, np.array([label]), segments)


def _whole(
    model: LanguageModel,
    head: VocabularyHead,
    readings: Iterator[Reading],
    pairs: Sequence[EncodedPair],
    budget: int,
) -> Iterator[tuple[int, Likelihood]]:
    """Likelihoods of continuations whose sequences are read whole."""
    left = [len(pair.continuation) for pair in pairs]
    totals, greedy = np.zeros(len(pairs)), np.ones(len(pairs), np.bool_)
    for part in batches(readings, budget):
        owners = np.repeat([reading.text for reading in part], [len(reading.rows) for reading in part])
        log_probs, best = read(model, head, part)
        np.add.at(totals, owners, log_probs)
        np.logical_and.at(greedy, owners, best)
        for n, count in zip(*np.unique(owners, return_counts=True), strict=True):
            left[n] -= int(count)
            if not left[n]:
                yield int(n), Likelihood(float(totals[n]), bool(greedy[n]))
