"""A model that reads ragged prompts once, then a token a step, and says what may come next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.batch import Batch
from pretune.device import computing
from pretune.models.model import LanguageModel
from pretune.nn.heads import VocabularyHead
from pretune.text.tokenizer import Tokenizer

_REFINED = 32


class Reader:
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
        self._device = head.weight.device
        self._half = head.weight.dtype == torch.bfloat16

    def read(self, prompts: Sequence[NDArray[np.int64]]) -> Tensor:
        """Read the prompts. Shape: return: (N, V) fp32 logits of the token after each."""
        tokens = torch.from_numpy(np.concatenate(prompts)).to(self._device)
        return self._forward(tokens, [len(prompt) for prompt in prompts])

    def feed(self, tokens: Tensor) -> Tensor:
        """One token more for each row. Shape: tokens: (N,); return: (N, V) fp32 logits."""
        return self._forward(tokens, [1] * len(tokens))

    def select(self, rows: Tensor) -> None:
        """Keep, repeat and reorder rows. Shape: rows: (M,) indices into the N rows."""
        self._cache.reorder(rows)

    def _forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        with computing(self._device, self._half):
            layout = self._cache.layout(lengths, self._device)
            hidden = self._model(Batch(tokens, layout), cache=self._cache).last_hidden_state
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
            exact = torch.einsum("nkw,nw->nk", self._head.weight[place].float(), rows)
            if self._head.bias is not None:
                exact = exact + self._head.bias[place]
        return logits.scatter_(1, place, exact)


def context(model: LanguageModel, tokenizer: Tokenizer) -> int:
    """Tokens that a sequence may have: the model's positions, or fewer where training saw only shorter texts."""
    limits = (model.max_length, tokenizer.settings.get("model_max_length"), 1 << 20)
    return min(int(limit) for limit in limits if isinstance(limit, int | float) and limit > 0)
