"""Writes a token store: arrays whose lengths are not known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.text.store.array_files import ArrayWriter, StoredFile
from pretune.text.store.manifest import SplitManifest


class SplitWriter:
    """The files of one split; only counts are held in memory.

    Args:
        folder: where.
        name: the split, which begins every file's name.
        dtype: of tokens.
        shard_tokens: tokens of a full shard.
        unknown: id of the unknown token, or None.
        words: whether words are written too.
    """

    def __init__(
        self, folder: Path, name: str, dtype: np.dtype[Any], shard_tokens: int, unknown: int | None, words: bool = False
    ) -> None:
        self._folder, self._name, self._dtype = folder, name, dtype
        self._shard_tokens, self._unknown = shard_tokens, unknown
        self.tokens = self.unknown = 0
        self._done: list[StoredFile] = []
        self._shard: ArrayWriter | None = None
        int64 = np.dtype(np.int64)
        self._documents = ArrayWriter(folder / f"{name}-documents.npy", int64)
        self._sentences = ArrayWriter(folder / f"{name}-sentences.npy", int64)
        self._words = ArrayWriter(folder / f"{name}-words.npy", np.dtype(np.bool_)) if words else None

    def append(
        self,
        tokens: NDArray[Any],
        lengths: NDArray[np.int64],
        sentences: NDArray[np.int64],
        words: NDArray[np.int64] | None = None,
    ) -> None:
        """Add documents.

        Shape:
            tokens: (T,); lengths: (D,), their sum is T; sentences, words: (any,) places in `tokens`
        """
        self._documents.append(np.cumsum(lengths) - lengths + self.tokens)
        self._sentences.append(sentences + self.tokens)
        if self._words is not None and words is not None:
            begins = np.zeros(len(tokens), np.bool_)
            begins[words] = True
            self._words.append(begins)
        self.tokens += len(tokens)
        if self._unknown is not None:
            self.unknown += int(np.count_nonzero(tokens == self._unknown))
        while len(tokens):
            self._shard = self._shard or self._new_shard()
            remaining = self._shard_tokens - self._shard.items
            self._shard.append(tokens[:remaining])
            tokens = tokens[remaining:]
            if self._shard.items == self._shard_tokens:
                self._done.append(self._shard.close())
                self._shard = None

    def close(self) -> SplitManifest:
        """Finish every file."""
        if self._shard is not None:
            self._done.append(self._shard.close())
            self._shard = None
        count, sentences = self._documents.items, self._sentences.items
        self._documents.append(np.array([self.tokens]))
        offsets, starts = self._documents.close(), self._sentences.close()
        words = None if self._words is None else self._words.close()
        shards = tuple(self._done)
        return SplitManifest(self.tokens, count, sentences, self.unknown, shards, offsets, starts, words)

    def abandon(self) -> None:
        """Let go of every file."""
        for writer in (self._shard, self._documents, self._sentences, self._words):
            if writer is not None:
                writer.abandon()

    def _new_shard(self) -> ArrayWriter:
        return ArrayWriter(self._folder / f"{self._name}-tokens-{len(self._done):05d}.npy", self._dtype)
