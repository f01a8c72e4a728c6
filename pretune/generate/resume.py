"""A decoding session that is kept: of the next prompt it reads only what the cache does not hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pretune.errors import UsageError
from pretune.generate.session import DecodingSession
from pretune.models.model import LanguageModel


class ResumedSession(DecodingSession):
    """A session of one text that grows, such as a conversation.

    Args:
        model: a decoder, with a head that predicts the next token.
        vocabulary: tokens of the tokenizer.
        capacity: tokens for which there is room at first; the cache grows.

    Attributes:
        tokens_read: how many tokens prompts had that were not in the cache.

    Raises:
        UsageError: an encoder-decoder, whose encoder reads each prompt anew.
    """

    def __init__(self, model: LanguageModel, vocabulary: int, capacity: int) -> None:
        super().__init__(model, vocabulary, 1, capacity)
        if self.start is not None:
            raise UsageError(f"this {model.family} model reads every text with its encoder, and keeps no cache of it")
        self._cached: list[int] = []
        self.tokens_read = 0

    def read(self, prompts: Sequence[NDArray[np.int64]]) -> Tensor:
        """Reads what is new of the only prompt. Shape: return: (1, V) fp32 logits of the token after it."""
        (prompt,) = prompts
        tokens = prompt.tolist()
        common = common_prefix(self._cached, tokens[:-1])
        self.tokens_read += len(tokens) - common
        if not self._cached:
            self._cached = list(tokens)
            return super().read(prompts)
        self.truncate([common])
        return self.extend([tokens[common:]])

    def feed(self, tokens: Tensor) -> Tensor:
        """Feeds one more token. Shape: tokens: (1,); return: (1, V) fp32 logits."""
        self._cached += tokens.tolist()
        return super().feed(tokens)

    def extend(self, runs: Sequence[Sequence[int]]) -> Tensor:
        """Feeds several more tokens. Shape: return: (1, V) fp32 logits of the token after them."""
        self._cached += runs[0]
        return super().extend(runs)

    def feed_runs(self, runs: Sequence[Sequence[int]]) -> Tensor:
        """Feeds several more tokens. Shape: return: (tokens, V) fp32 logits."""
        self._cached += runs[0]
        return super().feed_runs(runs)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forgets what comes after so many tokens."""
        super().truncate(lengths)
        del self._cached[lengths[0] :]


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
