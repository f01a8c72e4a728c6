"""The token store: a corpus as memory-mapped `.npy` files and a manifest, read at any place in constant time.

manifest.json                    counts, SHA-256 of every file, tokenizer, domains, configuration, data statistics
tokenizer/                       the tokenizer that made it
train-tokens-00000.npy ...       uint16 or uint32, documents end to end, each with its end token
train-documents.npy              (D + 1,) int64: where each document begins, and the total
train-sentences.npy              (S,) int64: where each sentence begins
train-words.npy                  (T,) bool: whether the token begins a word; only where a segmenter was asked
validation-...                   the same for the documents held out
index/                           where windows begin, found by training (`text/store/index.py`); may be removed
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError, MissingInputError
from pretune.field_table import regular
from pretune.missing_paths import near_path
from pretune.new_folder import refuse_cut_off
from pretune.text.store.array_files import StoredFile, check_mapped, check_size, map_file, problem_of_file
from pretune.text.store.index import FOLDER, Index, Parts, computed, drop_damaged, kept
from pretune.text.store.manifest import MANIFEST, Manifest, SplitManifest, parse_manifest
from pretune.text.tokenizer.tokenizer import Tokenizer

SPLITS = ("train", "validation")
_REPAIR = "`pretune verify` names the damaged file; bring it back from a copy, or prepare the store again"
_MIN_KEPT = 1 << 17  # sentences below which an index is made in milliseconds


class TokenSplit:
    """The tokens of one split and where its documents and sentences lie.

    Args:
        folder: the store.
        name: of the split.
        manifest: counts and files.
        fingerprint: of the store.
        vocab_size: tokens are below it.
    """

    def __init__(self, folder: Path, name: str, manifest: SplitManifest, fingerprint: str, vocab_size: int) -> None:
        self.manifest = manifest
        self._vocab_size = vocab_size
        self._name, self._fingerprint = name, fingerprint
        self.token_count = manifest.tokens
        self.document_count = manifest.documents
        self.where = f"{folder} ({name})"
        self._folder = folder
        self._shards = [map_file(folder, file, scattered=True) for file in manifest.shards]
        self._bounds = np.cumsum([0, *(file.items for file in manifest.shards)])

    @cached_property
    def document_offsets(self) -> NDArray[np.int64]:
        """Where each document begins, and the total. Shape: (D + 1,)"""
        return map_file(self._folder, self.manifest.document_file)

    @cached_property
    def sentence_offsets(self) -> NDArray[np.int64]:
        """Where each sentence begins, in order; every document begins one. Shape: (S,)"""
        return map_file(self._folder, self.manifest.sentence_file)

    @cached_property
    def _word_starts(self) -> NDArray[np.bool_]:
        if self.manifest.word_file is None:
            raise DataError(f"{self._folder}: no words in this store; prepare it with a segmenter")
        return map_file(self._folder, self.manifest.word_file, scattered=True)

    @property
    def has_words(self) -> bool:
        """Was the store prepared with a segmenter?"""
        return self.manifest.word_file is not None

    def index(self, name: str, parts: Parts) -> Index:
        """Arrays that take a pass over all documents or sentences: kept beside the store once they are made.

        Args:
            name: what they are; with the content of the store it decides what is in them.
            parts: makes them piece by piece.
        """
        if self.manifest.sentences < _MIN_KEPT:
            return computed(parts)
        return kept(self._folder / FOLDER / f"{self._name}-{name}", self._fingerprint, parts)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """The tokens from `start` to `stop`, across shards. Shape: (stop - start,)

        Raises:
            IndexError: the range is not inside the split.
        """
        if not 0 <= start <= stop <= self.token_count:
            raise IndexError(f"tokens {start} to {stop} are outside a split of {self.token_count}")
        return self.read_runs(np.array([start]), np.array([stop]))

    def read_runs(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        """Many runs of tokens, each from its `start` to its `stop`, end to end.

        Shape:
            start, stop: (N,); return: (sum of stop - start,)

        Raises:
            DataError: a run is not inside the split, or holds an id beyond the vocabulary: the store is damaged.
        """
        sizes = stop - start
        if len(start) and (start.min() < 0 or sizes.min() < 0 or stop.max() > self.token_count):
            bad = int(np.flatnonzero((start < 0) | (sizes < 0) | (stop > self.token_count))[0])
            raise DataError(
                f"{self.where}: tokens {start[bad]} to {stop[bad]} are outside its {self.token_count}: the places of "
                f"documents or sentences are damaged; {_REPAIR}"
            )
        if not sizes.any():
            return np.zeros(0, np.int64)
        runs = self._read_runs(start, stop, sizes)
        if (largest := int(runs.max())) >= self._vocab_size:
            raise DataError(
                f"{self.where}: token id {largest} is beyond the vocabulary of {self._vocab_size}: the store is "
                f"damaged; {_REPAIR}"
            )
        return runs

    def _read_runs(
        self, start: NDArray[np.int64], stop: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        for shard, file in zip(self._shards, self.manifest.shards, strict=True):
            check_mapped(shard, self._folder / file.file)
        size = int(sizes[0])
        if size and len(self._shards) == 1 and (sizes == size).all():
            return _equal_runs(self._shards[0], start, size)
        number = self._bounds[:-1].searchsorted(start, side="right") - 1
        first = self._bounds[number]
        if (stop <= self._bounds[number + 1]).all():
            places = zip(number.tolist(), (start - first).tolist(), (stop - first).tolist(), strict=True)
            runs = [self._shards[shard][a:b] for shard, a, b in places]
        else:
            runs = [run for a, b in zip(start.tolist(), stop.tolist(), strict=True) for run in self._shard_runs(a, b)]
        return np.concatenate(runs).astype(np.int64)

    def read_word_starts(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each token of some runs begins a word, as `read_runs` reads them.

        Shape:
            start, stop: (N,); return: (sum of stop - start,)

        Raises:
            DataError: the store has no words.
        """
        words = self._word_starts
        if self.manifest.word_file is not None:
            check_mapped(words, self._folder / self.manifest.word_file.file)
        runs = [words[a:b] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
        return np.concatenate([np.zeros(0, np.bool_), *runs])

    def _shard_runs(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """The parts of one run, a part for each shard that it crosses."""
        number = int(self._bounds.searchsorted(start, side="right")) - 1
        while start < stop:
            first, end = self._bounds[number : number + 2].tolist()
            yield self._shards[number][start - first : min(stop, end) - first]
            start, number = end, number + 1


def _equal_runs(shard: NDArray[Any], start: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Runs of one size, end to end, through a view of a shard in which every token begins a row of that size."""
    rows = np.ndarray((len(shard) - size + 1, size), shard.dtype, shard, strides=shard.strides * 2)
    return rows[start].ravel().astype(np.int64)


class TokenStore:
    """A store on disk, opened and checked for the size of every file.

    Attributes:
        path: the folder.
        manifest: what the store says of itself.
        fingerprint: SHA-256 of the manifest, and so of all content.
    """

    def __init__(self, path: Path, manifest: Manifest, fingerprint: str) -> None:
        self.path = path
        self.manifest = manifest
        self.fingerprint = fingerprint
        self._splits: dict[str, TokenSplit] = {}
        for file in self._files():
            check_size(path, file)

    @classmethod
    def open(cls, path: Path | str) -> TokenStore:
        """Open a store.

        Raises:
            MissingInputError: no store there.
            DataError: the manifest cannot be read, or a file is missing or has another size; its name is given.
        """
        folder = Path(path)
        try:
            raw = regular(folder / MANIFEST).read_bytes()
        except MissingInputError:
            refuse_cut_off(folder)
            near = None if folder.exists() else near_path(folder)
            if near is not None:
                raise MissingInputError(f"{folder}: no such token store; did you mean {near!r}?") from None
            raise MissingInputError(
                f"{folder}: no token store here (no {MANIFEST}); make one with `pretune prepare`"
            ) from None
        return cls(folder, parse_manifest(folder / MANIFEST, raw), hashlib.sha256(raw).hexdigest())

    @property
    def tokenizer_hash(self) -> str:
        """`Tokenizer.hash` of the tokenizer that made the store."""
        return self.manifest.tokenizer_hash

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary that the tokens come from."""
        return self.manifest.vocab_size

    @property
    def tokenizer_path(self) -> Path:
        """The copy of the tokenizer inside the store."""
        return self.path / "tokenizer"

    def split(self, name: str) -> TokenSplit:
        """The split "train" or "validation"; the latter may be empty in a small store."""
        if name not in self._splits:
            if name not in self.manifest.splits:
                raise DataError(f"{self.path}: no split {name!r}; known: {', '.join(self.manifest.splits)}")
            split = self.manifest.splits[name]
            self._splits[name] = TokenSplit(self.path, name, split, self.fingerprint, self.vocab_size)
        return self._splits[name]

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer that did not make the store.

        Raises:
            DataError: hash or size differ.
        """
        if tokenizer.hash != self.tokenizer_hash:
            raise DataError(
                f"{self.path}: made by another tokenizer (store {self.tokenizer_hash[:12]}, given "
                f"{tokenizer.hash[:12]}); use {self.tokenizer_path} or prepare the store again"
            )
        if tokenizer.vocabulary.size != self.vocab_size:
            raise DataError(
                f"{self.path / MANIFEST}: field 'vocab_size' = {self.vocab_size}, and its tokenizer has "
                f"{tokenizer.vocabulary.size}; prepare the store again"
            )

    def verify(self, split: str | None = None) -> None:
        """Read every file and compare its SHA-256 with the manifest; damaged indexes are removed, to be made again.

        Args:
            split: whose files are read; all by default.

        Raises:
            DataError: a file differs; its name is given.
        """
        for file in self._files() if split is None else self.split(split).manifest.files():
            if (reason := problem_of_file(self.path, file)) is not None:
                raise DataError(f"{self.path / file.file}: {reason}")
        drop_damaged(self.path / FOLDER)

    def _files(self) -> Iterator[StoredFile]:
        for split in self.manifest.splits.values():
            yield from split.files()
