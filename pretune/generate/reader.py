"""A model that reads ragged prompts once, then a token a step, and says what may come next.

A decoder goes on with its prompts; an encoder-decoder reads them on one side and begins a text on the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.batch import Batch, ragged
from pretune.errors import UsageError
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel
from pretune.nn.heads import VocabularyHead
from pretune.runtime.device import inference_context, is_bf16
from pretune.text.tokenizer.tokenizer import Tokenizer

_REFINED = 32


class DecodingSession:
    """A language model with a key/value cache, one row for each sequence.

    Args:
        model: with a `clm` head.
        vocabulary: tokens of the tokenizer; where the model has more (a padded vocabulary), they are never chosen.
        sequences: how many prompts will be read.
        capacity: tokens of the longest sequence, prompt and continuation.
    """

    def __init__(self, model: LanguageModel, vocabulary: int, sequences: int, capacity: int) -> None:
        head = model.heads["clm"]
        assert isinstance(head, VocabularyHead)
        self._model, self._head = model, head
        self._cache = model.new_cache(sequences, capacity)
        self._vocabulary = vocabulary
        self._device = model.device
        self._half = is_bf16(model)

    def read(self, prompts: Sequence[NDArray[np.int64]]) -> Tensor:
        """Read the prompts. Shape: return: (N, V) fp32 logits of the token after each."""
        if isinstance(self._model, EncoderDecoder):
            tokens = torch.full((len(prompts),), self._model.start, device=self._device)
            return self._forward(tokens, [1] * len(prompts), ragged(prompts).to(self._device))
        tokens = torch.from_numpy(np.concatenate(prompts)).to(self._device)
        return self._forward(tokens, [len(prompt) for prompt in prompts])

    def feed(self, tokens: Tensor) -> Tensor:
        """One token more for each row. Shape: tokens: (N,); return: (N, V) fp32 logits."""
        return self._forward(tokens, [1] * len(tokens))

    def select(self, rows: Tensor) -> None:
        """Keep, repeat and reorder rows. Shape: rows: (M,) indices into the N rows."""
        self._cache.reorder(rows)

    def _forward(self, tokens: Tensor, lengths: list[int], source: Batch | None = None) -> Tensor:
        with inference_context(self._device, self._half):
            layout = self._cache.layout(lengths, self._device)
            hidden = self._model(Batch(tokens, layout, source=source), cache=self._cache).last_hidden_state
            if len(hidden) > len(lengths):
                hidden = hidden[layout.last]
            logits: Tensor = self._head(hidden).float()
            if self._vocabulary < logits.shape[1]:
                logits = logits[:, : self._vocabulary]
            return self._refine(logits, hidden) if self._half else logits

    def _refine(self, logits: Tensor, hidden: Tensor) -> Tensor:
        """Make the best logits again in fp32 sums: a bf16 result of 64 is rounded to 0.25.

        Shape:
            logits: (N, V); hidden: (N, width); return: (N, V)
        """
        place = logits.topk(min(_REFINED, logits.shape[1]), dim=1).indices
        with torch.autocast(hidden.device.type, enabled=False):
            rows = self._head.transform(hidden.float())
            exact = torch.einsum("nkw,nw->nk", self._head.vocabulary.row(place).float(), rows)
            if self._head.bias is not None:
                exact = exact + self._head.bias[place]
        return logits.scatter_(1, place, exact)


def context(model: LanguageModel, tokenizer: Tokenizer) -> int:
    """Tokens that a sequence may have; see `LanguageModel.context`."""
    return model.context(tokenizer.settings)


def framed(model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Prompts as the model reads them, with the special tokens that its tokenizer's files ask for.

    Raises:
        UsageError: one that has no tokens.
    """
    vocabulary = tokenizer.vocabulary
    if isinstance(model, EncoderDecoder):
        return [vocabulary.whole(prompt) for prompt in prompts]
    for n, prompt in enumerate(prompts):
        if not len(prompt) + len(vocabulary.opening):
            raise UsageError(f"prompt {n + 1} is empty: give it at least one word to go on from")
    return [np.concatenate([vocabulary.opening, prompt]) for prompt in prompts]


def rooms(model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[NDArray[np.int64]]) -> list[int]:
    """Tokens that the context leaves for what follows each prompt.

    Args:
        prompts: framed.

    Raises:
        UsageError: one that is too long.
    """
    limit = context(model, tokenizer)
    apart = isinstance(model, EncoderDecoder)  # prompt and text have positions of their own
    most = limit if apart else limit - 1
    for n, prompt in enumerate(prompts):
        if len(prompt) > most:
            reason = "is more than the encoder's" if apart else "leaves no room in the model's"
            raise UsageError(
                f"prompt {n + 1} has {len(prompt)} tokens, which {reason} context of {limit}; "
                f"shorten it to {most} tokens or fewer"
            )
    return [limit - (1 if apart else len(prompt)) for prompt in prompts]
