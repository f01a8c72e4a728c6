"""A decoding session: a model with its key/value cache, which reads ragged prompts once and then one token per step.

A decoder continues its prompts; an encoder-decoder reads them with its encoder and begins a new text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.batch import Batch, Layout, ragged
from pretune.errors import UsageError
from pretune.generate.native_steps import NativeSteps, native_model
from pretune.models.model import LanguageModel
from pretune.native.program import StepResult
from pretune.nn.grouped import Parts
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import find_language_head
from pretune.runtime.device import inference_context, is_bf16
from pretune.text.readers.memory import check_texts
from pretune.text.tokenizer.long_texts import LONG, Keep
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import say_unknown

_REFINED = 32


@dataclass(frozen=True)
class PromptAdapters:
    """Which adapter of a model reads each prompt.

    Attributes:
        group: the number of each prompt's.
        heads: what predicts the next token, by the numbers.
    """

    group: tuple[int, ...]
    heads: Mapping[int, VocabularyHead]

    def part(self, prompts: slice) -> PromptAdapters:
        """Those of some prompts."""
        return replace(self, group=self.group[prompts])


class DecodingSession:
    """A language model with a key/value cache, one row for each sequence.

    A model in use (`models.fuse`) whose bricks have kernels runs by them, any other by torch.

    Args:
        model: with a head that predicts the next token.
        vocabulary: tokens of the tokenizer; where the model has more (a padded vocabulary), they are never chosen.
        sequences: how many prompts will be read.
        capacity: tokens of the longest sequence, prompt and continuation.
        adapters: which of the model's adapters reads each prompt; None where there are none to choose.

    Attributes:
        start: the token with which the decoder of an encoder-decoder begins; None where prompts are continued.
        best: the token with the largest logit, for each row of the logits that were given last; -1 where one of them is
            not finite, and None where torch computed them.
    """

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: int,
        sequences: int,
        capacity: int,
        adapters: PromptAdapters | None = None,
    ) -> None:
        head = find_language_head(model, "next")
        if head is None:
            raise UsageError(f"this {model.family} model has no head that predicts the next token")
        self._model, self._head = model, head
        self._cache = model.new_cache(sequences, capacity)
        self._heads: Mapping[int, VocabularyHead] = {} if adapters is None else adapters.heads
        self._cache.group = None if adapters is None else adapters.group
        self.start = _decoder_start(model)
        self.best: list[int] | None = None
        self._vocabulary = vocabulary
        self._device = model.device
        self._is_bf16 = is_bf16(model)
        steps = None if adapters is not None else native_model(model, head, vocabulary)
        self._native = None if steps is None else NativeSteps(steps, model)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row that the cache holds."""
        return self._cache.lengths if self._native is None else self._native.lengths

    @property
    def is_exact(self) -> bool:
        """Whether the logits of a row are the same, bit for bit, whatever is fed with it.

        Then several tokens at once give what one after the other gives.
        """
        return self._native is not None

    def read(self, prompts: Sequence[NDArray[np.int64]]) -> Tensor:
        """Reads the prompts. Shape: return: (N, V) fp32 logits of the token after each."""
        if self._native is not None:
            return self._scores(self._native.read(prompts, self.start))
        if self.start is not None:
            tokens = torch.full((len(prompts),), self.start, device=self._device)
            source = ragged(prompts)
            source = replace(source, layout=replace(source.layout, group=self._cache.group))
            return self._forward(tokens, [1] * len(prompts), source.to(self._device))
        tokens = torch.from_numpy(np.concatenate(prompts)).to(self._device)
        return self._forward(tokens, [len(prompt) for prompt in prompts])

    def feed(self, tokens: Tensor) -> Tensor:
        """Feeds one more token for each row. Shape: tokens: (N,); return: (N, V) fp32 logits."""
        if self._native is not None:
            return self._scores(self._native.step([[token] for token in tokens.tolist()]))
        return self._forward(tokens, [1] * len(tokens))

    def extend(self, runs: Sequence[Sequence[int]]) -> Tensor:
        """Feeds several more tokens for each row. Shape: return: (N, V) fp32 logits of the token after each run."""
        if self._native is not None:
            return self._scores(self._native.step(runs))
        tokens = torch.tensor([token for run in runs for token in run], dtype=torch.int64, device=self._device)
        return self._forward(tokens, [len(run) for run in runs])

    def feed_runs(self, runs: Sequence[Sequence[int]]) -> Tensor:
        """Feeds several more tokens for each row. Shape: return: (sum of the runs' lengths, V) fp32 logits."""
        if self._native is not None:
            return self._scores(self._native.step(runs, all_rows=True))
        tokens = torch.tensor([token for run in runs for token in run], dtype=torch.int64, device=self._device)
        return self._forward(tokens, [len(run) for run in runs], all_rows=True)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forgets what comes after so many tokens of each row."""
        (self._cache if self._native is None else self._native).truncate(lengths)

    def select(self, rows: Tensor) -> None:
        """Keeps, repeats and reorders rows. Shape: rows: (M,) indices into the N rows."""
        if self._native is not None:
            self._native.select(rows.tolist())
        else:
            with torch.inference_mode():
                self._cache.reorder(rows)

    def _scores(self, result: StepResult) -> Tensor:
        """The logits that kernels gave. Shape: return: (N, V)."""
        self.best = result.ids[:, 0].tolist()
        return result.scores

    def _forward(
        self, tokens: Tensor, lengths: list[int], source: Batch | None = None, *, all_rows: bool = False
    ) -> Tensor:
        """Logits of the last token of each row, or of all tokens. Shape: tokens: (T,); return: (N, V) or (T, V)."""
        with inference_context(self._device, self._is_bf16):
            layout = self._cache.layout(lengths, self._device)
            hidden = self._model(Batch(tokens, layout, source=source), cache=self._cache).last_hidden_state
            rows = lengths if all_rows else [1] * len(lengths)
            if not all_rows and len(hidden) > len(lengths):
                hidden = hidden[layout.last]
            heads = {id(head) for head in self._heads.values()}
            if layout.group is None or len(heads) < 2:
                return self._score(next(iter(self._heads.values()), self._head), hidden)
            parts = Parts.of(Layout.of(rows, self._device, group=layout.group))
            return parts.join([self._score(self._heads[part.number], hidden[part.rows]) for part in parts.each])

    def _score(self, head: VocabularyHead, hidden: Tensor) -> Tensor:
        """Shape: (N, width) -> (N, V) fp32."""
        logits: Tensor = head(hidden).float()
        if self._vocabulary < logits.shape[1]:
            logits = logits[:, : self._vocabulary]
        return self._refine(head, logits, hidden) if self._is_bf16 else logits

    def _refine(self, head: VocabularyHead, logits: Tensor, hidden: Tensor) -> Tensor:
        """Computes the best logits again with fp32 sums: a bf16 result of 64 is rounded to 0.25.

        Shape:
            logits: (N, V); hidden: (N, width); return: (N, V)
        """
        best = logits.topk(min(_REFINED, logits.shape[1]), dim=1).indices
        with torch.autocast(hidden.device.type, enabled=False):
            rows = head.transform(hidden.float())
            exact = torch.einsum("nkw,nw->nk", head.vocabulary.row(best).float(), rows)
            if head.bias is not None:
                exact = exact + head.bias[best]
        return logits.scatter_(1, best, exact)


def _decoder_start(model: LanguageModel) -> int | None:
    """The token with which the decoder of an encoder-decoder begins to write; the files of generation go first."""
    stated = None if model.generation is None else model.generation.fields.get("decoder_start_token_id")
    return stated if model.has_encoder and isinstance(stated, int) else model.decoder_start


def reads_special_tokens(model: LanguageModel, tokenizer: Tokenizer) -> bool:
    """Whether names of special tokens in a prompt are the tokens by default: where the model was made for it.

    It was where its tokenizer has a chat template, or special tokens beside those that stand around every text:
    sentinels, chat marks, language codes; and, for an encoder-decoder, a mask.
    """
    if tokenizer.settings.get("chat_template") or "chat_template.jinja" in model.carried.whole:
        return True
    vocabulary = tokenizer.vocabulary
    usual = {vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.bos, vocabulary.eos}
    usual |= set() if model.has_encoder else {vocabulary.mask}
    return not usual.issuperset(np.flatnonzero(vocabulary.special).tolist())


def encode_prompts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: object,
    special_tokens: bool | None,
    what: Literal["prompt", "text", "source"] = "prompt",
) -> list[NDArray[np.int64]]:
    """The tokens of prompts.

    Args:
        texts: a list of them, which is checked.
        what: what one of them is called.
        special_tokens: names of special tokens are the tokens; None: where the model was made for it.

    Raises:
        DataError: no list, or an item that is not text.
        UsageError: a prompt or a source of megabytes, which no model reads; it is not encoded.
    """
    special = reads_special_tokens(model, tokenizer) if special_tokens is None else special_tokens
    checked = check_texts(texts, "generate" if what == "prompt" else "score", what)
    length = context_length(model, tokenizer)
    with say_unknown(tokenizer):
        if max(map(len, checked), default=0) <= LONG:
            return tokenizer.encode_batch(checked, special)
        encoded = tokenizer.encode_kept(checked, None if what == "text" else Keep(length), special)
    long = next((n for n, run in enumerate(encoded, 1) if run.dropped), None)
    if long is not None:
        raise UsageError(f"{what} {long} has more than {length} tokens, the model's context; shorten it")
    return [run.tokens for run in encoded]


def context_length(model: LanguageModel, tokenizer: Tokenizer) -> int:
    """Returns how many tokens a sequence may have; see `LanguageModel.context`."""
    return model.context(tokenizer.settings)


def add_special_tokens(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """Adds to each prompt the special tokens that the tokenizer's files put around it.

    Raises:
        UsageError: one that has no tokens.
    """
    vocabulary = tokenizer.vocabulary
    if model.has_encoder:
        return [vocabulary.with_end(prompt) for prompt in prompts]
    for n, prompt in enumerate(prompts):
        if not len(prompt) + len(vocabulary.prompt_prefix):
            raise UsageError(f"prompt {n + 1} is empty; give it at least one word to continue")
    return [np.concatenate([vocabulary.prompt_prefix, prompt]) for prompt in prompts]


def max_new_tokens_left(model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[NDArray[np.int64]]) -> list[int]:
    """Returns how many new tokens the model's context leaves after each prompt.

    Args:
        prompts: with their special tokens.

    Raises:
        UsageError: a prompt is too long.
    """
    length = context_length(model, tokenizer)
    separate = model.has_encoder  # prompt and text have positions of their own
    max_length = length if separate else length - 1
    for n, prompt in enumerate(prompts):
        if len(prompt) > max_length:
            reason = "exceeds the encoder's" if separate else "leaves no room for a new token in the model's"
            raise UsageError(
                f"prompt {n + 1} has {len(prompt)} tokens, which {reason} context of {length}; "
                f"shorten it to at most {max_length} tokens"
            )
    return [length - (1 if separate else len(prompt)) for prompt in prompts]
