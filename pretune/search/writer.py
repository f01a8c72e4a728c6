"""Writes the parts of an index: segments as passages come in, then all that is made of them, and `index.json` last."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.disk import lock, make_folders, remove_empty, storage_errors
from pretune.find import find_class
from pretune.models.metadata import VariantRecord
from pretune.new_folder import NewFolder
from pretune.search import manifest as files
from pretune.search.backend import Backend
from pretune.search.documents import Document
from pretune.search.manifest import Manifest, Nearest, RankingConfig, Segment, VectorModel
from pretune.search.passages import Passage, WindowConfig
from pretune.search.segments import SIZE, Embed, NewSegment, StoredSegment
from pretune.search.vectors import StoredVectors
from pretune.search.words import WordIndex

EXACT_LIMIT = 20_000
"""Passages up to which the default compares the query with every vector: of 384 numbers each, that takes 3 ms of one
AVX-512 core. A graph of neighbours takes 2 to 3 ms at 100,000, where every vector takes 25, and 0.7 ms a passage to
build (benchmarks/LOG.md)."""
_OWN_PART = re.compile(r"\.?[0-9]{6,12}(\..*)?")  # numbered, or begun by a writer that was killed
_KEPT = "the index that was there is as it was; segments that are complete stay, and the same command goes on with them"
OWN = ("segments", "words", "nearest", "deleted", files.FILE)
"""What a folder of an index holds."""
_log = logging.getLogger("pretune")


class SegmentWriter:
    """Collects passages into segments and writes each when it is full.

    Args:
        folder: of the index.
        number: of the first segment.
        document: number of the first document.
        made_by: what the vectors depend on.
        embed: gives the vectors of passages; None in an index of words alone.
    """

    def __init__(
        self, folder: Path, number: int, document: int, made_by: Mapping[str, Any], embed: Embed | None
    ) -> None:
        self._folder, self._number, self._next_document = folder, number, document
        self._made_by, self._embed = made_by, embed
        self._passages: list[Passage] = []
        self._numbers: list[int] = []
        self._documents: list[Document] = []
        self._segments: list[Segment] = []
        self._start, self._made = time.monotonic(), 0
        self.passages = self.documents = 0

    def add(self, document: Document, passages: Sequence[Passage]) -> None:
        """Takes a document in; its passages may lie in several segments."""
        self._documents.append(document)
        for passage in passages:
            self._passages.append(passage)
            self._numbers.append(self._next_document)
            if len(self._passages) == SIZE:
                self._flush()
        self._next_document += 1
        self.documents += 1

    def close(self) -> list[Segment]:
        """Writes what is left; all segments, in order."""
        if self._passages:
            self._flush()
        return self._segments

    def _flush(self) -> None:
        name = f"segments/{self._number:06d}"
        segment = NewSegment(self._passages, self._numbers, self._documents)
        was_made = segment.write(self._folder / name, self._made_by, self._embed)
        self._segments.append(Segment(folder=name, passages=len(self._passages), documents=len(self._documents)))
        self._number += 1
        self.passages += len(self._passages)
        self._made += len(self._passages) if was_made else 0
        speed = self._made / max(time.monotonic() - self._start, 1e-9)
        _log.info(
            "%s passages%s", f"{self.passages:,}", f", {speed:,.0f} a second" if was_made else ": were there already"
        )
        self._passages, self._numbers, self._documents = [], [], []


@dataclass
class Draft:
    """What will be the next `index.json`."""

    window: WindowConfig
    tokenization: VariantRecord
    model: VectorModel | None
    segments: Sequence[Segment]
    ranking: RankingConfig
    backend: str | None
    generation: int
    deleted: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, old: Manifest, segments: Sequence[Segment], deleted: NDArray[np.bool_] | None) -> Draft:
        backend = old.nearest.backend.name if old.nearest and old.nearest.is_chosen else None
        return cls(old.window, old.tokenization, old.model, segments, old.ranking, backend, old.generation + 1, deleted)

    def publish(self, folder: Path, previous: Nearest | None = None) -> Manifest:
        """Writes all that is made of the segments, and `index.json` last.

        Args:
            previous: finds the nearest of the first vectors, which are the same.
        """
        number = f"{self.generation:06d}"
        width = None if self.model is None else self.model.width
        stored = [StoredSegment(folder / s.folder, s.passages, width) for s in self.segments]
        deleted = self.deleted
        libraries = ["bm25s"]
        parts = [*(segment.folder for segment in self.segments), f"words/{number}"]
        self._write_words(folder / f"words/{number}", stored)
        nearest = None
        if self.model is not None:
            vectors = StoredVectors([s.vectors for s in stored if s.vectors is not None])
            nearest, library = self._write_nearest(folder, number, vectors, previous)
            parts.append(nearest.folder)
            libraries.append(library)
        if deleted is not None:
            parts.append(f"deleted/{number}")
            write_deleted(folder / f"deleted/{number}", deleted)
        manifest = Manifest(
            format=files.FORMAT,
            versions=files.versions(*libraries),
            generation=self.generation,
            window=self.window,
            tokenization=self.tokenization,
            model=self.model,
            segments=tuple(self.segments),
            words=f"words/{number}",
            nearest=nearest,
            deleted=None if deleted is None else f"deleted/{number}",
            ranking=self.ranking,
            files=files.digests(folder, tuple(parts)),
        )
        files.write_manifest(folder, manifest)
        remove_unnamed(folder, parts)
        return manifest

    def _write_words(self, target: Path, stored: Sequence[StoredSegment]) -> None:
        """Deleted passages count as empty ones."""
        rows = (passage.searched for segment in stored for passage in segment.all_passages())
        texts = rows if self.deleted is None else _blanked(rows, self.deleted)
        _log.info("words of %s passages", f"{sum(segment.passages for segment in self.segments):,}")
        with _new_part(target) as path:
            WordIndex.build(texts, self.tokenization.name, path)

    def _write_nearest(
        self, folder: Path, number: str, vectors: StoredVectors, previous: Nearest | None
    ) -> tuple[Nearest, str]:
        name = self.backend or ("exact" if vectors.count <= EXACT_LIMIT else "usearch")
        part = f"nearest/{number}"
        variant = find_class("search.backends", name, Backend)  # type: ignore[type-abstract]
        is_same = previous is not None and previous.backend.name == name
        settings = {"previous": str(folder / previous.folder)} if previous is not None and is_same else {}
        with _new_part(folder / part) as path:
            recorded = variant.build(vectors, path, settings)
        _log.info("nearest vectors by %s%s", name, _described(recorded))
        return (
            Nearest(backend=VariantRecord.of(name, recorded), folder=part, is_chosen=self.backend is not None),
            variant.library,
        )


def _described(settings: Mapping[str, Any]) -> str:
    recall = settings.get("recall")
    return f": {recall:.1%} of the ten nearest are found, of {settings['passages']:,}" if recall else ""


def _blanked(texts: Iterable[str], deleted: NDArray[np.bool_]) -> Iterator[str]:
    return ("" if gone else text for text, gone in zip(texts, deleted.tolist(), strict=True))


@contextmanager
def _new_part(target: Path) -> Iterator[Path]:
    """A folder of the index that appears in one move."""
    with storage_errors(target, "write the index", _KEPT), NewFolder(target, "replace") as draft:
        yield draft.path
        draft.publish()


def write_deleted(target: Path, deleted: NDArray[np.bool_]) -> None:
    with _new_part(target) as path:
        np.save(path / "rows.npy", deleted, allow_pickle=False)


def next_number(segments: Sequence[Segment]) -> int:
    return max((int(segment.folder.rpartition("/")[2]) + 1 for segment in segments), default=0)


def part_of(name: str) -> str:
    return name.rpartition("/")[0]


def remove_unnamed(folder: Path, parts: Sequence[str]) -> None:
    """Removes what the new `index.json` does not name; readers that have it open keep it."""
    for axis in OWN[:4]:
        if (folder / axis).is_dir():
            for entry in os.scandir(folder / axis):
                is_own = _OWN_PART.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
                if is_own and f"{axis}/{entry.name}" not in parts:
                    shutil.rmtree(entry.path, ignore_errors=True)
            remove_empty([folder / axis])


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Holds the lock of an index's folder, which is made if it is not there.

    Raises:
        CannotCreateError: another process writes it, or it cannot be made.
    """
    with storage_errors(folder, "write the index", "nothing was begun"):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(20, "it is a file")
        parents = make_folders(folder)
        handle = lock(folder / ".lock", folder, os.O_RDWR | os.O_CREAT)
    try:
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        os.close(handle)
        remove_empty(parents)
