"""Continue prompts: many at once, of different lengths, each as if it were alone.

1. Prompts are read together as one ragged run; the cache keeps their keys and values.
2. A step feeds the newest token of each sequence that is still open; one that ends leaves the batch.
3. Text grows by whole characters and is handed out as soon as it is certain.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.generate.beam import beam_search
from pretune.generate.options import Continuation, GenerateConfig, Reason
from pretune.generate.reader import Reader, context
from pretune.generate.sample import keys, sample
from pretune.generate.stream import TextStream
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel
from pretune.text.tokenizer import Tokenizer

Tokens = NDArray[np.int64]
Pieces = Generator[tuple[int, str], None, list[Continuation]]
_ROWS = 64
_log = logging.getLogger("pretune")


def generate(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[Tokens], config: GenerateConfig
) -> list[Continuation]:
    """Continuations of prompts, in their order. See `stream`."""
    pieces = stream(model, tokenizer, prompts, config)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return list(end.value)


def stream(model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[Tokens], config: GenerateConfig) -> Pieces:
    """Yield (prompt number, text) as text becomes certain; the generator's value is all continuations.

    Beam search hands out a text only when it is complete.

    Raises:
        UsageError: the model does not generate; an empty prompt, or one that fills the model's context.
    """
    room = _room(model, tokenizer, prompts)
    limits = [min(config.max_new_tokens, free) for free in room]
    clipped = sum(limit < config.max_new_tokens for limit in limits)
    if clipped:
        _log.warning(
            "max_new_tokens = %d clipped to %d: the model's context of %d tokens leaves no more after %d of %d prompts",
            config.max_new_tokens,
            min(limits),
            context(model, tokenizer),
            clipped,
            len(prompts),
        )
    draws = keys(prompts, config.seed)
    rows = max(1, _ROWS // config.beams)
    out: list[Continuation] = []
    for start in range(0, len(prompts), rows):
        part = slice(start, start + rows)
        longest = max(len(p) + n for p, n in zip(prompts[part], limits[part], strict=True))
        reader = Reader(model, tokenizer.vocabulary.size, len(prompts[part]), longest)
        run = _Run(reader, tokenizer, prompts[part], limits[part], config, start)
        out += yield from run.beams() if config.beams > 1 else run.tokens(draws[part])
    return out


def _room(model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[Tokens]) -> list[int]:
    """Tokens that the context leaves after each prompt."""
    if "clm" not in model.heads:
        raise UsageError(
            f"this {model.family} model has no clm head and cannot generate; take a causal language model such as "
            "gpt2 (a model with an mlm head fills [MASK] with `fill`)"
        )
    if isinstance(model, EncoderDecoder):
        raise UsageError(f"{model.family} is an encoder-decoder, for which there is no generation yet")
    limit = context(model, tokenizer)
    for n, prompt in enumerate(prompts):
        if not len(prompt):
            raise UsageError(f"prompt {n + 1} is empty: give it at least one word to go on from")
        if len(prompt) >= limit:
            raise UsageError(
                f"prompt {n + 1} has {len(prompt)} tokens, which leaves no room in the model's context of {limit}; "
                f"shorten it to {limit - 1} tokens or fewer"
            )
    return [limit - len(prompt) for prompt in prompts]


@dataclass(frozen=True)
class _Run:
    """One batch of prompts; `first` is the number of its first prompt."""

    reader: Reader
    tokenizer: Tokenizer
    prompts: Sequence[Tokens]
    limits: Sequence[int]
    config: GenerateConfig
    first: int

    def tokens(self, draws: Sequence[Draw]) -> Pieces:
        """Greedy decoding or sampling."""
        texts = [TextStream(self.tokenizer, self.config.stop) for _ in self.prompts]
        made: list[list[int]] = [[] for _ in self.prompts]
        reasons: list[Reason] = ["length"] * len(texts)
        live = list(range(len(texts)))
        logits = self.reader.read(self.prompts)
        for step in range(max(self.limits)):
            if self.config.temperature:
                chosen = sample(logits, self.config, [draws[n] for n in live], step)
            else:
                chosen = logits.argmax(dim=1)
            stay: list[int] = []
            for row, (n, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
                made[n].append(token)
                reason, piece = self._advance(n, token, texts[n], len(made[n]))
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
                self.reader.select(kept)
                chosen = chosen[kept]
            logits = self.reader.feed(chosen)
        return [
            Continuation(text.text, ids, reason, len(prompt))
            for text, ids, reason, prompt in zip(texts, made, reasons, self.prompts, strict=True)
        ]

    def _advance(self, n: int, token: int, text: TextStream, length: int) -> tuple[Reason | None, str]:
        """Why the sequence ends with this token, if it does, and the text that is now certain."""
        if token == self.tokenizer.vocabulary.eos:
            return "end", text.finish()
        piece = text.push(token)
        if text.stopped:
            return "stop", piece
        if length < self.limits[n]:
            return None, piece
        return self._full(n), piece + text.finish()

    def _full(self, n: int) -> Reason:
        return "length" if self.limits[n] == self.config.max_new_tokens else "context"

    def beams(self) -> Pieces:
        """Beam search."""
        eos, stop = self.tokenizer.vocabulary.eos, self.config.stop
        window = max(map(len, stop), default=0) + 8

        def ends(tokens: list[int]) -> bool:
            if tokens[-1] == eos:
                return True
            tail = self.tokenizer.decode(tokens[-4 * window :]) if stop else ""
            return any(text in tail for text in stop)

        best = beam_search(self.reader.read(self.prompts), self.reader, self.config, self.limits, ends)
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
