"""Generates continuations of prompts: many at once, of different lengths, each as if it were alone.

1. Prompts are read together as one ragged batch; the cache keeps their keys and values. An encoder-decoder reads them
   with its encoder and begins a new text.
2. A step feeds the newest token of each unfinished sequence; a finished one leaves the batch.
3. Text grows by whole characters and is yielded as soon as it is certain.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.generate.beam import beam_search
from pretune.generate.options import Continuation, GenerateConfig, Reason
from pretune.generate.sample import apply_constraints, keys, sample
from pretune.generate.session import DecodingSession, add_special_tokens, context_length, max_new_tokens_left
from pretune.generate.stream import TextStream
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import GenerationConstraints, find_language_head
from pretune.text.tokenizer.tokenizer import Tokenizer

Tokens = NDArray[np.int64]
Stream = Generator[tuple[int, str], None, list[Continuation]]
_ROWS = 64
_log = logging.getLogger("pretune")


def generate(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[Tokens], config: GenerateConfig
) -> list[Continuation]:
    """Returns the continuations of prompts, in their order. See `stream`."""
    texts = stream(model, tokenizer, prompts, config)
    while True:
        try:
            next(texts)
        except StopIteration as end:
            return list(end.value)


def stream(model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[Tokens], config: GenerateConfig) -> Stream:
    """Yields (prompt number, text) as text becomes certain; the generator returns all continuations.

    Beam search yields a text only when it is complete.

    Raises:
        UsageError: the model does not generate; an empty prompt, or one that fills the model's context.
        DataError: the tokenizer lacks a token that the model's files name.
    """
    constraints = _constraints(model, tokenizer)
    prompts = add_special_tokens(model, tokenizer, prompts)
    max_length, remaining = context_length(model, tokenizer), max_new_tokens_left(model, tokenizer, prompts)
    limits = [min(config.max_new_tokens, tokens) for tokens in remaining]
    clipped = sum(limit < config.max_new_tokens for limit in limits)
    if clipped:
        _log.warning(
            "max_new_tokens = %d reduced to %d: the model's context of %d tokens leaves no more after %d of %d prompts",
            config.max_new_tokens,
            min(limits),
            max_length,
            clipped,
            len(prompts),
        )
    draws = keys(prompts, config.seed)
    rows = max(1, _ROWS // config.beams)
    out: list[Continuation] = []
    for start in range(0, len(prompts), rows):
        part = slice(start, start + rows)
        capacity = max(max_length - left + limit for left, limit in zip(remaining[part], limits[part], strict=True))
        session = DecodingSession(model, tokenizer.vocabulary.size, len(prompts[part]), capacity)
        batch = _PromptBatch(session, tokenizer, prompts[part], limits[part], config, constraints, start)
        out += yield from batch.beams() if config.beams > 1 else batch.tokens(draws[part])
    return out


def _constraints(model: LanguageModel, tokenizer: Tokenizer) -> GenerationConstraints:
    if find_language_head(model, "next") is None:
        raise UsageError(
            f"this {model.family} model has no clm head and cannot generate; use a causal language model such as "
            "gpt2 (a model with an mlm head fills [MASK] with `fill`)"
        )
    constraints = model.constraints
    for token in (constraints.first, *constraints.last, *chain.from_iterable(constraints.bad_words)):
        if token is not None and token >= tokenizer.vocabulary.size:
            raise DataError(
                f"the model's files force or forbid token {token}, but the tokenizer has only "
                f"{tokenizer.vocabulary.size} tokens; use the tokenizer that the model was trained with"
            )
    return constraints


@dataclass(frozen=True)
class _PromptBatch:
    """Prompts that are decoded together; `first` is the number of its first prompt."""

    session: DecodingSession
    tokenizer: Tokenizer
    prompts: Sequence[Tokens]
    limits: Sequence[int]
    config: GenerateConfig
    constraints: GenerationConstraints
    first: int

    def tokens(self, draws: Sequence[Draw]) -> Stream:
        """Decodes greedily or by sampling."""
        texts = [TextStream(self.tokenizer, self.config.stop) for _ in self.prompts]
        generated: list[list[int]] = [[] for _ in self.prompts]
        reasons: list[Reason] = ["length"] * len(texts)
        live = list(range(len(texts)))
        logits = self.session.read(self.prompts)
        for step in range(max(self.limits)):
            logits = apply_constraints(
                logits, self.constraints, [generated[n] for n in live], [self.limits[n] for n in live]
            )
            if self.config.temperature:
                chosen = sample(logits, self.config, [draws[n] for n in live], step)
            else:
                chosen = logits.argmax(dim=1)
            stay: list[int] = []
            for row, (n, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
                generated[n].append(token)
                reason, piece = self._advance(n, token, texts[n], len(generated[n]))
                if piece:
                    yield self.first + n, piece
                if reason is None:
                    stay.append(row)
                else:
                    reasons[n] = reason
            if not stay:
                break
            if len(stay) < len(live):
                live = [live[row] for row in stay]
                kept = torch.tensor(stay, device=chosen.device)
                self.session.select(kept)
                chosen = chosen[kept]
            logits = self.session.feed(chosen)
        return [
            Continuation(text.text, ids, reason, len(prompt))
            for text, ids, reason, prompt in zip(texts, generated, reasons, self.prompts, strict=True)
        ]

    def _advance(self, n: int, token: int, text: TextStream, length: int) -> tuple[Reason | None, str]:
        """Returns why the sequence ends with this token, if it does, and the text that is now certain."""
        if token == self.tokenizer.vocabulary.ending:
            return "end", text.finish()
        piece = text.push(token)
        if text.stopped:
            return "stop", piece
        if length < self.limits[n]:
            return None, piece
        return self._full(n), piece + text.finish()

    def _full(self, n: int) -> Reason:
        return "length" if self.limits[n] == self.config.max_new_tokens else "context"

    def beams(self) -> Stream:
        """Decodes by beam search."""
        eos, stop = self.tokenizer.vocabulary.ending, self.config.stop
        window = max(map(len, stop), default=0) + 8

        def ends(tokens: list[int]) -> bool:
            if tokens[-1] == eos:
                return True
            tail = self.tokenizer.decode(tokens[-4 * window :]) if stop else ""
            return any(text in tail for text in stop)

        logits = self.session.read(self.prompts)
        best = beam_search(logits, self.session, self.config, self.limits, ends, self.constraints)
        out = []
        for n, (ids, prompt) in enumerate(zip(best, self.prompts, strict=True)):
            text = TextStream(self.tokenizer, stop)
            for token in ids:
                text.push(token)
            text.finish()
            reason: Reason = "stop" if text.stopped else "end" if ids[-1] == eos else self._full(n)
            yield self.first + n, text.text
            out.append(Continuation(text.text, ids, reason, len(prompt)))
        return out
