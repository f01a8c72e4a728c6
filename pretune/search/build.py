"""Makes an index and changes it: build, add, delete, compact.

    documents -> passages -> segments (each once, in one move) -> words, nearest -> index.json

A build that is killed leaves its segments; the same command goes on with them. A change writes new files and replaces
`index.json` at its end: until then, and if the disk is full, the index is as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.errors import CannotCreateError, DataError, UsageError
from pretune.find import find_class
from pretune.models.metadata import VariantRecord
from pretune.search import manifest as files
from pretune.search.backend import Backend
from pretune.search.documents import Document
from pretune.search.encoder import Encoder
from pretune.search.manifest import Manifest, RankingConfig, Segment
from pretune.search.passages import Passage, WindowConfig, cut_documents
from pretune.search.segments import Embed
from pretune.search.stored import Stored
from pretune.search.words import tokenization_of
from pretune.search.writer import (
    OWN,
    Draft,
    SegmentWriter,
    next_number,
    part_of,
    remove_unnamed,
    write_deleted,
    writing,
)
from pretune.text.tokenizer.unknown import say_unknown


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
    _check_backend(settings.backend, encoder is not None)
    window = settings.window or default_window(encoder)
    if window.unit == "tokens" and window.size and encoder is None:
        raise UsageError("unit 'tokens': without a model no tokens are counted; use characters, or give a model")
    ranking = settings.ranking
    if encoder is None and ranking.mode != "words":
        ranking = ranking.model_copy(update={"mode": "words"})
    with writing(output):
        old = _old_manifest(output, replace)
        writer = SegmentWriter(output, next_number(old.segments if old else ()), 0, *_vectors(encoder))
        segments = _write_all(writer, documents, window, encoder)
        if not segments:
            raise DataError("no document with a text: give files that hold some")
        draft = Draft(
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
    with writing(folder):
        old = files.read_manifest(folder)
        files.check_files(folder, old)
        stored = Stored(folder, old)
        if old.model is not None:
            if encoder is None:
                raise UsageError(f"{folder}: has vectors of {old.model.path}; give that model")
            encoder.check(old.model, stored.first_passages(8), stored.vectors)
        known, replaced = stored.document_numbers(), list[int]()

        def fresh() -> Iterator[Document]:
            for document in documents:
                if document.id in known:
                    if not update:
                        raise DataError(
                            f"{document.origin}: id {document.id!r} is in the index already; delete it first, or "
                            "replace such documents: --update"
                        )
                    replaced.append(known[document.id])
                yield document

        writer = SegmentWriter(
            folder, next_number(old.segments), old.documents, *_vectors(encoder if old.model else None)
        )
        segments = _write_all(writer, fresh(), old.window, encoder)
        if not segments:
            raise DataError("no document with a text: give files that hold some")
        deleted = np.concatenate([stored.deleted | stored.rows_of(replaced), np.zeros(writer.passages, np.bool_)])
        draft = Draft.of(old, [*old.segments, *segments], deleted if deleted.any() else None)
        draft.publish(folder, previous=old.nearest)
        return writer.documents


def delete_documents(folder: Path, ids: Sequence[str]) -> int:
    """Takes documents out of an index; their space is freed by `compact_index`.

    Returns:
        how many passages they had.

    Raises:
        DataError: an id that is not there, or all documents.
    """
    with writing(folder):
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
        write_deleted(folder / part, deleted)
        parts = [each for each in old.parts() if each != old.deleted]
        kept = {name: known for name, known in old.files.items() if part_of(name) in parts}
        new = {"deleted": part, "generation": generation, "files": kept | files.digests(folder, (part,))}
        files.write_manifest(folder, old.model_copy(update=new))
        remove_unnamed(folder, [*parts, part])
        return int(rows.sum())


def compact_index(folder: Path, backend: str | None = None) -> int:
    """Writes an index anew without what was deleted; vectors are not computed again.

    Args:
        backend: of `search/backends/`, in place of the one that was chosen.

    Returns:
        how many deleted passages went.

    Raises:
        UsageError: no such backend.
    """
    with writing(folder):
        old = files.read_manifest(folder)
        _check_backend(backend, old.model is not None)
        files.check_files(folder, old)
        stored = Stored(folder, old)
        row = 0

        def vectors(passages: Sequence[Passage]) -> NDArray[np.float32]:
            nonlocal row
            rows, row = live[row : row + len(passages)], row + len(passages)
            return stored.vectors.rows(rows)

        live = np.flatnonzero(~stored.deleted)
        made_by = {"compacted": old.generation, "deleted": int(stored.deleted.sum())}
        writer = SegmentWriter(folder, next_number(old.segments), 0, made_by, vectors if old.model else None)
        for document, passages in stored.live_documents():
            writer.add(document, passages)
        segments = writer.close()
        draft = Draft.of(old, segments, None)
        draft.backend = backend or draft.backend
        draft.publish(folder)
        return int(stored.deleted.sum())


def set_ranking(folder: Path, ranking: RankingConfig) -> None:
    """Records how passages are ranked from now on."""
    with writing(folder):
        old = files.read_manifest(folder)
        files.write_manifest(folder, old.model_copy(update={"ranking": ranking, "generation": old.generation + 1}))


def _write_all(
    writer: SegmentWriter, documents: Iterable[Document], window: WindowConfig, encoder: Encoder | None
) -> list[Segment]:
    """Writes the passages of documents; what the tokenizer does not know is said once."""
    tokenizer = None if encoder is None else encoder.model.tokenizer
    with nullcontext() if tokenizer is None else say_unknown(tokenizer):
        for document, passages in cut_documents(documents, window, tokenizer):
            writer.add(document, passages)
        return writer.close()


def _vectors(encoder: Encoder | None) -> tuple[Mapping[str, Any], Embed | None]:
    """What vectors depend on, and what makes them; nothing without a model."""
    return ({}, None) if encoder is None else (encoder.made_by(), encoder.passages)


def default_window(encoder: Encoder | None) -> WindowConfig:
    """Up to 200 tokens, or as many as the model reads; without a model 1,000 characters."""
    if encoder is None:
        return WindowConfig()
    room = encoder.model.length - encoder.model.tokenizer.vocabulary.overhead(False)
    return WindowConfig(size=max(1, min(200, room)), unit="tokens")


def _check_backend(name: str | None, has_vectors: bool) -> None:
    """Looks a backend up before anything long begins.

    Raises:
        UsageError: no such backend, or there are no vectors that it could find.
    """
    if name is None:
        return
    if not has_vectors:
        raise UsageError(
            f"backend {name!r}: finds the nearest vectors, of which an index of words alone has none; leave it out, or "
            "make the index with a model"
        )
    find_class("search.backends", name, Backend)  # type: ignore[type-abstract]


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
    others = [path.name for path in folder.iterdir() if path.name not in OWN and not path.name.startswith(".")]
    if others:
        raise CannotCreateError(f"{folder}: holds {sorted(others)[0]!r} and no index; give another --output")
    return None
