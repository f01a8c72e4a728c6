"""Generates continuations of prompts: many at once, of different lengths, each as if it were alone.

1. Prompts are read together as one ragged batch; the cache keeps their keys and values. An encoder-decoder reads them
   with its encoder and begins a new text.
2. A step feeds the newest token of each unfinished sequence; a finished one leaves the batch.
3. Text grows by whole characters and is yielded as soon as it is certain.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.generate.beam import beam_search
from pretune.generate.defaults import end_tokens, stated_constraints
from pretune.generate.lookup import LOOKUP, PromptLookup, guess_for_all
from pretune.generate.native_steps import bytes_to_pack
from pretune.generate.options import Candidate, Continuation, GenerateConfig, Reason
from pretune.generate.processors import LogitsProcessor, Prompt
from pretune.generate.sample import keys, sample
from pretune.generate.session import (
    DecodingSession,
    PromptAdapters,
    add_special_tokens,
    context_length,
    max_new_tokens_left,
)
from pretune.generate.shared_prefix import read_prompts
from pretune.generate.stream import TextStream
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import find_language_head
from pretune.runtime.finite import first_non_finite, non_finite
from pretune.runtime.memory import check_memory
from pretune.text.tokenizer.tokenizer import Tokenizer

Tokens = NDArray[np.int64]
Stream = Generator[tuple[int, str], None, list[Continuation]]
_ROWS = 64
_log = logging.getLogger("pretune")


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Tokens],
    config: GenerateConfig,
    adapters: PromptAdapters | None = None,
    *,
    complete: bool = False,
) -> list[Continuation]:
    """Returns the continuations of prompts, in their order. See `stream`."""
    texts = stream(model, tokenizer, prompts, config, adapters, complete=complete)
    while True:
        try:
            next(texts)
        except StopIteration as end:
            return list(end.value)


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Tokens],
    config: GenerateConfig,
    adapters: PromptAdapters | None = None,
    *,
    complete: bool = False,
    resumed: DecodingSession | None = None,
) -> Stream:
    """Yields (prompt number, text) as text becomes certain; the generator returns all continuations.

    Beam search yields a text only when it is complete.

    Args:
        adapters: which of the model's adapters reads each prompt; None where there are none to choose.
        complete: the prompts have all special tokens, and nothing is put around them.
        resumed: a session that has read the beginning of the only prompt; by default a new one.

    Raises:
        UsageError: the model does not generate; an empty prompt, or one that fills the model's context.
        DataError: the tokenizer lacks a token that the model's files name.
        NonFiniteError: a score of a token is not finite; the text before it was given out.
    """
    processor = _processor(model, tokenizer, config)
    if not prompts:
        return []
    prompts = prompts if complete else add_special_tokens(model, tokenizer, prompts)
    max_length, remaining = context_length(model, tokenizer), max_new_tokens_left(model, tokenizer, prompts)
    wanted = [_max_new_tokens(model, config, n, prompt) for n, prompt in enumerate(prompts)]
    limits = list(map(min, wanted, remaining))
    clipped = [n for n, limit in enumerate(limits) if limit < wanted[n]]
    if clipped:
        _log.warning(
            "max_new_tokens = %d reduced to %d: the model's context of %d tokens leaves no more after %d of %d prompts",
            wanted[clipped[0]],
            min(limits),
            max_length,
            len(clipped),
            len(prompts),
        )
    rows = max(1, _ROWS // config.beams)
    capacity = max_length - min(remaining) + max(limits)
    _check_memory(model, tokenizer, config, min(rows, len(prompts)), capacity, is_native=adapters is None)
    draws = keys(prompts, config.seed)
    out: list[Continuation] = []
    for start in range(0, len(prompts), rows):
        part = slice(start, start + rows)
        capacity = max(max_length - left + limit for left, limit in zip(remaining[part], limits[part], strict=True))
        chosen = None if adapters is None else adapters.part(part)
        size = tokenizer.vocabulary.size
        session = resumed or DecodingSession(model, size, len(prompts[part]), capacity, chosen)
        full = [limit == want for limit, want in zip(limits[part], wanted[part], strict=True)]
        batch = _PromptBatch(session, tokenizer, prompts[part], limits[part], full, processor, start, len(prompts))
        out += yield from batch.beams() if config.beams > 1 else batch.tokens(draws[part])
    return out


def _check_memory(
    model: LanguageModel, tokenizer: Tokenizer, config: GenerateConfig, rows: int, capacity: int, *, is_native: bool
) -> None:
    """Refuses decoding whose cache, scores and packed weights cannot be held.

    Args:
        rows: prompts that are decoded together.
        capacity: tokens of a sequence.
        is_native: our kernels may decode.

    Raises:
        UsageError: there is not as much memory, with what would need less.
    """
    fields = model.config.model_dump()
    heads = fields.get("num_attention_heads") or 1
    key_width = model.width * (fields.get("num_key_value_heads") or heads) // heads
    size = 4 if model.device.type == "cpu" else next(model.parameters()).element_size()  # see nn/cache.py
    cache = 2 * len(model.stack.order) * key_width * size * min(capacity, model.max_length or capacity)
    scores = 3 * 4 * tokenizer.vocabulary.size  # logits, their logarithms and the sums
    copies = 2 if config.beams > 1 else 1  # a cache is copied while its rows are reordered
    needed = rows * config.beams * (copies * cache + scores)
    head = find_language_head(model, "next")
    copy = 0 if head is None else bytes_to_pack(model, head, tokenizer.vocabulary.size, is_native=is_native)
    needed += copy
    what = f"decoding {rows} prompts of up to {capacity:,} tokens with {config.beams} beams"
    what += f", beside a copy of the weights of {copy / 1e9:,.1f} GB for the kernels," if copy else ""
    check_memory(needed, model.device, what, "lower --beams or --max-new-tokens, or give fewer prompts at a time")


def _max_new_tokens(model: LanguageModel, config: GenerateConfig, n: int, prompt: Tokens) -> int:
    """How many new tokens are wanted after a prompt.

    Raises:
        UsageError: `max_length` leaves none.
    """
    if config.max_length is None:
        return config.max_new_tokens
    before = 1 if model.has_encoder else len(prompt)
    if config.max_length <= before:
        raise UsageError(
            f"max_length = {config.max_length} leaves no new token after prompt {n + 1} of {before} tokens; give "
            "max_new_tokens instead (--max-new-tokens)"
        )
    return config.max_length - before


def _processor(model: LanguageModel, tokenizer: Tokenizer, config: GenerateConfig) -> LogitsProcessor:
    """What changes the scores of a step.

    Raises:
        UsageError: the model does not generate.
        DataError: the tokenizer lacks a token that the model's files name.
    """
    if find_language_head(model, "next") is None:
        raise UsageError(
            f"this {model.family} model has no clm head and cannot generate; use a causal language model such as "
            "gpt2 (a model with an mlm head fills [MASK] with `fill`)"
        )
    constraints, vocabulary = stated_constraints(model), tokenizer.vocabulary
    named = (*constraints.suppressed, *constraints.suppressed_first, *chain.from_iterable(constraints.bad_words))
    for token in (constraints.first, *constraints.last, *named):
        if token is not None and token >= tokenizer.vocabulary.size:
            raise DataError(
                f"the model's files force or forbid token {token}, but the tokenizer has only "
                f"{tokenizer.vocabulary.size} tokens; use the tokenizer that the model was trained with"
            )
    ends = end_tokens(model, vocabulary.ending, vocabulary.size).union(config.ends)
    return LogitsProcessor(config, constraints, ends)


@dataclass(frozen=True)
class _PromptBatch:
    """Prompts that are decoded together.

    Attributes:
        limits: maximal number of new tokens of each.
        full: whether that is what was wanted, and not what the context leaves.
        first: the number of the first prompt.
        total: how many prompts there are, with those of other batches.
    """

    session: DecodingSession
    tokenizer: Tokenizer
    prompts: Sequence[Tokens]
    limits: Sequence[int]
    full: Sequence[bool]
    processor: LogitsProcessor
    first: int
    total: int

    @property
    def config(self) -> GenerateConfig:
        """The decoding options."""
        return self.processor.config

    def texts(self) -> list[TextStream]:
        """The empty texts, each going on with its prompt; an encoder-decoder begins new ones."""
        config, is_new = self.config, self.session.start is not None
        return [
            TextStream(self.tokenizer, config.stop, () if is_new else prompt.tolist(), config.keep_special)
            for prompt in self.prompts
        ]

    def read(self) -> list[Prompt]:
        """What each text is written after."""
        start = self.session.start
        prompts = [prompt.tolist() for prompt in self.prompts]
        return [Prompt(prompt, prompt if start is None else [start]) for prompt in prompts]

    def check(self, logits: Tensor, prompts: Sequence[int]) -> None:
        """Refuse scores of tokens that are not finite.

        Args:
            prompts: of this batch, one for each row.

        Shape:
            logits: (N, V)

        Raises:
            NonFiniteError: the first of these prompts.
        """
        row = first_non_finite(logits)
        if row is not None:
            text = self.tokenizer.decode(self.prompts[prompts[row]])
            raise non_finite("a score of a token", self.first + prompts[row], self.total, text, "prompt")

    def tokens(self, draws: Sequence[Draw]) -> Stream:
        """Decodes greedily or by sampling; guessed tokens are kept as far as they are what is chosen."""
        texts, prompts = self.texts(), self.read()
        generated: list[list[int]] = [[] for _ in self.prompts]
        reasons: list[Reason | None] = [None] * len(texts)
        lookups = self.lookups(prompts)
        live = list(range(len(texts)))
        guesses: list[list[int]] = [[] for _ in live]
        logits = read_prompts(self.session, self.prompts)
        while live:
            first = list(accumulate((1 + len(guess) for guess in guesses), initial=0))
            right = [0] * len(live)
            rows = list(range(len(live)))
            while rows:
                at = [first[row] + right[row] for row in rows]
                chosen = self._choose(logits, at, [live[row] for row in rows], prompts, generated, draws)
                unsure, rows = rows, []
                for row, token in zip(unsure, chosen, strict=True):
                    n = live[row]
                    generated[n].append(token)
                    reasons[n], piece = self._advance(n, token, texts[n], len(generated[n]))
                    if piece:
                        yield self.first + n, piece
                    if reasons[n] is None and guesses[row][right[row] : right[row] + 1] == [token]:
                        right[row] += 1
                        rows.append(row)
            if any(guesses):
                fed = zip(self.session.lengths, guesses, right, strict=True)
                self.session.truncate([length - len(guess) + kept for length, guess, kept in fed])
            for n, guess, kept in zip(live, guesses, right, strict=True):
                lookups[n].learn(len(guess), generated[n], kept)
            stay = [row for row, n in enumerate(live) if reasons[n] is None]
            if 0 < len(stay) < len(live):
                self.session.select(torch.tensor(stay, device=logits.device))
            live = [live[row] for row in stay]
            guesses = guess_for_all([lookups[n] for n in live], [self.limits[n] - len(generated[n]) - 1 for n in live])
            if any(guesses):
                logits = self.session.feed_runs(
                    [[generated[n][-1], *guess] for n, guess in zip(live, guesses, strict=True)]
                )
            elif live:
                logits = self.session.feed(torch.tensor([generated[n][-1] for n in live], device=logits.device))
        return [
            Continuation(text.text, ids, reason or "length", len(prompt))
            for text, ids, reason, prompt in zip(texts, generated, reasons, self.prompts, strict=True)
        ]

    def lookups(self, prompts: Sequence[Prompt]) -> list[PromptLookup]:
        """What guesses the tokens of each text; nothing where guesses could change it."""
        limit = LOOKUP if self.config.lookup is None else self.config.lookup
        if limit and not self.session.is_exact:
            if self.config.lookup is not None and not self.first:
                _log.warning("lookup = %d has no effect: torch's kernels give other logits for several tokens", limit)
            limit = 0
        before = [p.begun if self.session.start is None else [*p.read, *p.begun] for p in prompts]
        return [PromptLookup.of(tokens, limit) for tokens in before]

    def _choose(
        self,
        logits: Tensor,
        at: Sequence[int],
        texts: list[int],
        prompts: Sequence[Prompt],
        generated: Sequence[list[int]],
        draws: Sequence[Draw],
    ) -> list[int]:
        """The next token of some texts.

        Args:
            at: the row of each.

        Shape:
            logits: (rows, V)
        """
        best = self.session.best
        if best is not None and not self.config.temperature and self.processor.changes_nothing:
            chosen = [best[row] for row in at]
            if min(chosen) >= 0:
                return chosen
        logits = logits if len(at) == len(logits) else logits[at]
        self.check(logits, texts)
        written = [generated[n] for n in texts]
        logits = self.processor(logits, [prompts[n] for n in texts], written, [self.limits[n] for n in texts])
        if not self.config.temperature:
            return logits.argmax(dim=1).tolist()
        return sample(logits, self.config, [draws[n] for n in texts], list(map(len, written))).tolist()

    def _advance(self, n: int, token: int, text: TextStream, length: int) -> tuple[Reason | None, str]:
        """Returns why the sequence ends with this token, if it does, and the text that is now certain."""
        if token in self.processor.ends:
            return "end", self._last(token, text)
        piece = text.push(token)
        if text.stopped:
            return "stop", piece
        if length < self.limits[n]:
            return None, piece
        return self._full(n), piece + text.finish()

    def _last(self, token: int, text: TextStream) -> str:
        """Ends a text with an end token, which is part of it where it is no special token."""
        piece = "" if self.tokenizer.vocabulary.special[token] else text.push(token)
        return piece + text.finish()

    def _full(self, n: int) -> Reason:
        return "length" if self.full[n] else "context"

    def beams(self) -> Stream:
        """Decodes by beam search."""
        stop, end_ids = self.config.stop, self.processor.ends
        window = max(map(len, stop), default=0) + 8

        def ends(tokens: list[int]) -> bool:
            if tokens[-1] in end_ids:
                return True
            tail = self.tokenizer.decode(tokens[-4 * window :]) if stop else ""
            return any(text in tail for text in stop)

        logits = read_prompts(self.session, self.prompts)
        prompts = self.read()
        best = beam_search(logits, self.session, self.config, self.limits, ends, self.processor, prompts, self.check)
        out = []
        for n, (hypotheses, prompt) in enumerate(zip(best, self.prompts, strict=True)):
            ids = hypotheses[0][1]
            text = self._complete(n, ids)
            last = ids[-1]
            reason: Reason = "stop" if text.stopped else "end" if last in end_ids else self._full(n)
            yield self.first + n, text.text
            listed = hypotheses[: self.config.n_best] if self.config.n_best > 1 else []
            others = tuple(Candidate(self._complete(n, tokens).text, score) for score, tokens in listed)
            out.append(Continuation(text.text, ids, reason, len(prompt), others))
        return out

    def _complete(self, n: int, ids: Sequence[int]) -> TextStream:
        """The text of a prompt's tokens, the last of which may be one that ends it."""
        (text,) = replace(self, prompts=[self.prompts[n]]).texts()
        *earlier, last = ids
        for token in earlier:
            text.push(token)
        if last in self.processor.ends:
            self._last(last, text)
        else:
            text.push(last)
            text.finish()
        return text
