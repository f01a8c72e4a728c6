"""Makes an index and changes it: build, add, delete, compact.

    documents -> passages -> segments (each once, in one move) -> words, nearest -> index.json

A build that is killed leaves its segments; the same command goes on with them. A change writes new files and replaces
`index.json` at its end: until then, and if the disk is full, the index is as it was.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.disk import lock, make_folders, remove_empty, storage_errors
from pretune.errors import CannotCreateError, DataError, UsageError
from pretune.find import find_class
from pretune.models.metadata import VariantRecord
from pretune.new_folder import NewFolder
from pretune.search import manifest as files
from pretune.search.backend import Backend
from pretune.search.documents import Document
from pretune.search.encoder import Encoder
from pretune.search.manifest import Manifest, Nearest, RankingConfig, Segment, VectorModel
from pretune.search.passages import Passage, WindowConfig, cut_documents
from pretune.search.segments import SIZE, Embed, NewSegment, StoredSegment
from pretune.search.stored import Stored
from pretune.search.vectors import StoredVectors
from pretune.search.words import WordIndex, tokenization_of

EXACT_LIMIT = 20_000
"""Passages up to which the default compares the query with every vector: on two AVX-512 cores that takes 5 ms of 384
numbers each; a graph of neighbours takes 2 to 3 ms at 100,000, and 0.7 ms a passage to build."""
_KEPT = "the index that was there is as it was; segments that are complete stay, and the same command goes on with them"
_log = logging.getLogger("pretune")


@dataclass(frozen=True)
class IndexSettings:
    """How an index is made.

    Attributes:
        window: how documents are cut into passages; None for what fits the model.
        tokenization: of `search/tokenizations/`.
        backend: of `search/backends/`; None for the one that fits the number of passages.
        ranking: how passages are ranked, until `tune` chooses.
    """

    window: WindowConfig | None = None
    tokenization: str = "bigrams"
    backend: str | None = None
    ranking: RankingConfig = field(default_factory=RankingConfig)


def build_index(
    documents: Iterable[Document],
    output: Path,
    encoder: Encoder | None = None,
    settings: IndexSettings | None = None,
    *,
    replace: bool = False,
) -> Manifest:
    """Makes an index of documents, or goes on where a killed build stopped.

    Args:
        encoder: makes the vectors; None for an index of words alone.
        replace: an index that is there is replaced when the new one is whole.

    Raises:
        CannotCreateError: there is an index, or something else; another process writes it.
        DataError: no documents, a bad one, or a vector that is not finite.
        StorageError: the disk is full.
    """
    settings = settings or IndexSettings()
    tokenization_of(settings.tokenization)  # before anything long begins
    window = settings.window or default_window(encoder)
    if window.unit == "tokens" and window.size and encoder is None:
        raise UsageError("unit 'tokens': without a model no tokens are counted; use characters, or give a model")
    ranking = settings.ranking
    if encoder is None and ranking.mode != "words":
        ranking = ranking.model_copy(update={"mode": "words"})
    with _writing(output):
        old = _old_manifest(output, replace)
        writer = SegmentWriter(output, _next_number(old.segments if old else ()), 0, encoder)
        tokenizer = None if encoder is None else encoder.model.tokenizer
        for document, passages in cut_documents(documents, window, tokenizer):
            writer.add(document, passages)
        segments = writer.close()
        if not segments:
            raise DataError("no document with a text: give files that hold some")
        draft = _Draft(
            window=window,
            tokenization=VariantRecord.of(settings.tokenization),
            model=None if encoder is None else encoder.record,
            segments=segments,
            ranking=ranking,
            backend=settings.backend,
            generation=old.generation + 1 if old else 1,
        )
        return draft.publish(output)


def add_documents(documents: Iterable[Document], folder: Path, encoder: Encoder | None, *, update: bool = False) -> int:
    """Adds documents to an index.

    Args:
        update: a document whose id is there takes the place of the old one; else it is an error.

    Returns:
        how many were added.

    Raises:
        DataError: an id that is there, or the model is another than the index's.
    """
    with _writing(folder):
        old = files.read_manifest(folder)
        files.check_files(folder, old)
        stored = Stored(folder, old)
        if old.model is not None:
            if encoder is None:
                raise UsageError(f"{folder}: has vectors of {old.model.path}; give that model")
            encoder.check(old.model, stored.first_passages(8), stored.vectors)
        known, replaced = stored.document_numbers(), []
        writer = SegmentWriter(folder, _next_number(old.segments), old.documents, encoder if old.model else None)
        tokenizer = None if encoder is None else encoder.model.tokenizer
        for document, passages in cut_documents(documents, old.window, tokenizer):
            if document.id in known:
                if not update:
                    raise DataError(
                        f"{document.origin}: id {document.id!r} is in the index already; delete it first, or replace "
                        "such documents: --update"
                    )
                replaced.append(known[document.id])
            writer.add(document, passages)
        segments = writer.close()
        if not segments:
            raise DataError("no document with a text: give files that hold some")
        deleted = np.concatenate([stored.deleted | stored.rows_of(replaced), np.zeros(writer.passages, np.bool_)])
        draft = _Draft.of(old, [*old.segments, *segments], deleted if deleted.any() else None)
        draft.publish(folder, previous=old.nearest)
        return writer.documents


def delete_documents(folder: Path, ids: Sequence[str]) -> int:
    """Takes documents out of an index; their space is freed by `compact_index`.

    Returns:
        how many passages they had.

    Raises:
        DataError: an id that is not there, or all documents.
    """
    with _writing(folder):
        old = files.read_manifest(folder)
        files.check_files(folder, old)
        stored = Stored(folder, old)
        known = stored.document_numbers()
        if (unknown := next((name for name in ids if name not in known), None)) is not None:
            raise DataError(f"{folder}: has no document {unknown!r}; nothing was deleted")
        rows = stored.rows_of([known[name] for name in ids])
        deleted = stored.deleted | rows
        if deleted.all():
            raise DataError(f"{folder}: these are all its documents; remove the folder instead")
        generation = old.generation + 1
        part = f"deleted/{generation:06d}"
        _write_deleted(folder / part, deleted)
        parts = [each for each in old.parts() if each != old.deleted]
        kept = {name: known for name, known in old.files.items() if _part_of(name) in parts}
        new = {"deleted": part, "generation": generation, "files": kept | files.digests(folder, (part,))}
        files.write_manifest(folder, old.model_copy(update=new))
        _remove_unnamed(folder, [*parts, part])
        return int(rows.sum())


def compact_index(folder: Path, backend: str | None = None) -> int:
    """Writes an index anew without what was deleted; vectors are not computed again.

    Args:
        backend: of `search/backends/`, in place of the one that was chosen.

    Returns:
        how many deleted passages went.
    """
    with _writing(folder):
        old = files.read_manifest(folder)
        files.check_files(folder, old)
        stored = Stored(folder, old)
        row = 0

        def vectors(passages: Sequence[Passage]) -> NDArray[np.float32]:
            nonlocal row
            rows, row = live[row : row + len(passages)], row + len(passages)
            return stored.vectors.rows(rows)

        live = np.flatnonzero(~stored.deleted)
        made_by = {"compacted": old.generation, "deleted": int(stored.deleted.sum())}
        writer = SegmentWriter(folder, _next_number(old.segments), 0, None)
        writer.copy(made_by, vectors if old.model else None)
        for document, passages in stored.live_documents():
            writer.add(document, passages)
        segments = writer.close()
        draft = _Draft.of(old, segments, None)
        draft.backend = backend or draft.backend
        draft.publish(folder)
        return int(stored.deleted.sum())


def set_ranking(folder: Path, ranking: RankingConfig) -> None:
    """Records how passages are ranked from now on."""
    with _writing(folder):
        old = files.read_manifest(folder)
        files.write_manifest(folder, old.model_copy(update={"ranking": ranking, "generation": old.generation + 1}))


def default_window(encoder: Encoder | None) -> WindowConfig:
    """Up to 200 tokens, or as many as the model reads; without a model 1,000 characters."""
    if encoder is None:
        return WindowConfig()
    room = encoder.model.length - encoder.model.tokenizer.vocabulary.overhead(False)
    return WindowConfig(size=max(1, min(200, room)), unit="tokens")


class SegmentWriter:
    """Collects passages into segments and writes each when it is full.

    Args:
        folder: of the index.
        number: of the first segment.
        document: number of the first document.
        encoder: makes the vectors; None for none.
    """

    def __init__(self, folder: Path, number: int, document: int, encoder: Encoder | None) -> None:
        self._folder, self._number, self._next_document = folder, number, document
        self._made_by: Mapping[str, Any] = {} if encoder is None else encoder.made_by()
        self._embed: Embed | None = None if encoder is None else encoder.passages
        self._passages: list[Passage] = []
        self._numbers: list[int] = []
        self._documents: list[Document] = []
        self._segments: list[Segment] = []
        self._start, self._made = time.monotonic(), 0
        self.passages = self.documents = 0

    def copy(self, made_by: Mapping[str, Any], embed: Embed | None) -> None:
        """Takes vectors from elsewhere."""
        self._made_by, self._embed = made_by, embed

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
class _Draft:
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
    def of(cls, old: Manifest, segments: Sequence[Segment], deleted: NDArray[np.bool_] | None) -> _Draft:
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
            _write_deleted(folder / f"deleted/{number}", deleted)
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
        _remove_unnamed(folder, parts)
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


def _write_deleted(target: Path, deleted: NDArray[np.bool_]) -> None:
    with _new_part(target) as path:
        np.save(path / "rows.npy", deleted, allow_pickle=False)


def _old_manifest(folder: Path, replace: bool) -> Manifest | None:
    """The index that is there, which is to be replaced.

    Raises:
        CannotCreateError: it is not to be replaced, or something else is there.
    """
    if (folder / files.FILE).is_file():
        if not replace:
            raise CannotCreateError(
                f"{folder}: holds an index already; add to it (pretune index add {folder} FILES), replace it "
                "(--replace), or give another --output"
            )
        return files.read_manifest(folder)
    others = [path.name for path in folder.iterdir() if path.name not in _OWN and not path.name.startswith(".")]
    if others:
        raise CannotCreateError(f"{folder}: holds {sorted(others)[0]!r} and no index; give another --output")
    return None


_OWN = ("segments", "words", "nearest", "deleted", files.FILE)


def _next_number(segments: Sequence[Segment]) -> int:
    return max((int(segment.folder.rpartition("/")[2]) + 1 for segment in segments), default=0)


def _part_of(name: str) -> str:
    return name.rpartition("/")[0]


def _remove_unnamed(folder: Path, parts: Sequence[str]) -> None:
    """Removes what the new `index.json` does not name; readers that have it open keep it."""
    for axis in _OWN[:4]:
        if (folder / axis).is_dir():
            for entry in os.scandir(folder / axis):
                if f"{axis}/{entry.name}" not in parts and entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
            remove_empty([folder / axis])


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Holds the lock of an index's folder, which is made if it is not there.

    Raises:
        CannotCreateError: another process writes it, or it cannot be made.
    """
    with storage_errors(folder, "write the index", "nothing was begun"):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(20, "it is a file")
        made = make_folders(folder)
        handle = lock(folder / ".lock", folder, os.O_RDWR | os.O_CREAT)
    try:
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        os.close(handle)
        remove_empty(made)
