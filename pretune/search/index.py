"""An index in use: it searches, answers, takes documents in and out. `pretune.open_index(path)` gives one.

    query -> words (BM25)   -> 100 rows --\\
          -> vector, nearest -> 100 rows --> fusion -> reranker, if one helps -> Hit(document, offsets, text, score)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError, UsageError
from pretune.evaluate.rerank import Reranker
from pretune.find import find_class
from pretune.model import Model
from pretune.search import manifest as files
from pretune.search.answers import Answer, quote_answer, write_answer
from pretune.search.backend import Backend
from pretune.search.build import add_documents, compact_index, delete_documents
from pretune.search.documents import Document, DocumentConfig, DocumentStats, read_documents
from pretune.search.encoder import Encoder
from pretune.search.filters import Where, fulfilling, parse_where
from pretune.search.fuse import Fusion, Ranked, fusion_of
from pretune.search.hits import Hit
from pretune.search.manifest import Manifest, Mode, RankingConfig
from pretune.search.passages import Passage
from pretune.search.stored import Stored
from pretune.search.vectors import Vectors
from pretune.search.words import WordIndex
from pretune.text.readers.labelled import Data

Load = Callable[[str], Model]


class SearchIndex:
    """An index that is open for searching.

    Args:
        folder: of its files.
        load: reads a model; called when one is first needed.
        model: makes the vectors of queries; None for the one that the index names.

    Raises:
        MissingInputError, DataError: no index, an unfinished or a damaged one; the file is named.
    """

    def __init__(self, folder: Path, load: Load, model: Model | Path | str | None = None) -> None:
        self.folder, self._load, self._chosen_model = folder, load, model
        self._loaded: dict[str, Model] = {}
        self._encoder: Encoder | None = None
        self._open()

    def _open(self) -> None:
        """Reads what `index.json` names; once more, if it was replaced meanwhile."""
        while True:
            self.manifest: Manifest = files.read_manifest(self.folder)
            self._forget()
            try:
                files.check_files(self.folder, self.manifest)
                self.stored = Stored(self.folder, self.manifest)
                _ = self.words, self.nearest  # open files outlive a writer that removes them
                return
            except DataError:
                if files.read_manifest(self.folder).generation == self.manifest.generation:
                    raise

    def _forget(self) -> None:
        for name in ("words", "nearest"):
            self.__dict__.pop(name, None)

    @cached_property
    def words(self) -> WordIndex:
        """BM25 of its passages."""
        manifest = self.manifest
        name = files.variant_of(manifest.tokenization, "tokenizations", self.folder, "tokenization")
        return WordIndex.open(self.folder / manifest.words, name, manifest.passages)

    @cached_property
    def nearest(self) -> Backend | None:
        """What finds the nearest vectors; None in an index of words alone."""
        part = self.manifest.nearest
        if part is None:
            return None
        name = files.variant_of(part.backend, "backends", self.folder, "nearest.backend")
        backend = find_class("search.backends", name, Backend)  # type: ignore[type-abstract]
        try:
            return backend.open(self.stored.vectors, self.folder / part.folder, part.backend.config)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.folder / files.FILE}: settings of {name!r} cannot be used: {error}; make the index again"
            ) from None

    @property
    def documents(self) -> int:
        """How many documents it has."""
        return len(np.unique(self.stored.numbers[~self.stored.deleted]))

    @property
    def passages(self) -> int:
        """How many passages it has."""
        return int((~self.stored.deleted).sum())

    @property
    def ranking(self) -> RankingConfig:
        """How passages are ranked, unless a search says otherwise."""
        return self.manifest.ranking

    @property
    def encoder(self) -> Encoder:
        """What makes vectors of queries, compared once with the vectors of the index.

        Raises:
            UsageError: an index of words alone.
            DataError: another model than the one that made the index.
        """
        recorded = self.manifest.model
        if recorded is None:
            raise UsageError(f"{self.folder}: has no vectors; search by words, or make it with --model")
        if self._encoder is None:
            chosen = recorded.path if self._chosen_model is None else self._chosen_model
            if chosen == "":
                raise UsageError(f"{self.folder}: was made by a model in memory; give it, or its folder (--model)")
            model = self._use(chosen)
            path = recorded.path if isinstance(chosen, Model) else str(chosen)
            encoder = replace(Encoder.of_index(model, recorded), path=path)
            encoder.check(recorded, self.stored.first_passages(8), self.stored.vectors)
            self._encoder = encoder
        return self._encoder

    def search(
        self,
        query: str,
        count: int = 10,
        *,
        mode: Mode | None = None,
        where: Where = (),
        reranker: Model | Path | str | None = None,
        per_document: bool = False,
    ) -> list[Hit]:
        """The passages that fit a query best, the best first.

        Args:
            count: how many at most.
            mode: by words, by vectors or by both (fused); by default as the index says.
            where: values that fields of the documents must have, or conditions such as `year>=1990`.
            reranker: a model that orders the best passages anew, or its folder; by default the index's, if it has one.
            per_document: the best passage of each document alone.

        Raises:
            DataError: an empty query.
            UsageError: a filter on a field that no document has; vectors of an index that has none.
        """
        _check_query(query, count)
        ranking = self.ranking if mode is None else self.ranking.model_copy(update={"mode": mode})
        vector = self.encoder.query(query) if ranking.mode != "words" else None
        rows, scores = self.rank(query, vector, ranking, self._allowed(where), max(count, ranking.depth))
        chosen = ranking.reranker if reranker is None else reranker
        if chosen is not None:
            rows, scores = self.reorder(query, (rows, scores), self.reranker(chosen), ranking.reranked)
        if per_document:
            rows, scores = self.first_of_documents((rows, scores))
        return [
            self._hit(row, score) for row, score in zip(rows[:count].tolist(), scores[:count].tolist(), strict=True)
        ]

    def answer(
        self,
        question: str,
        count: int = 5,
        *,
        reader: Model | Path | str | None = None,
        writer: Model | Path | str | None = None,
        max_new_tokens: int = 128,
        mode: Mode | None = None,
        where: Where = (),
    ) -> Answer:
        """The answer to a question: quoted from the best passages, or written with their names; or that there is none.

        Args:
            count: passages that are read.
            reader: a model that was fine-tuned on reading, or its folder.
            writer: a language model, or its folder; without a reader and a writer the passages alone are given.
            max_new_tokens: tokens of a written answer at most.
            mode, where: as of `search`.

        Raises:
            UsageError: a reader and a writer, or one that cannot do it.
        """
        if reader is not None and writer is not None:
            raise UsageError("a reader and a writer: give one of them")
        hits = self.search(question, count, mode=mode, where=where)
        if writer is not None:
            return write_answer(hits, question, self._use(writer), max_new_tokens)
        return quote_answer(hits, question, None if reader is None else self._use(reader))

    def rank(
        self, query: str, vector: Vectors | None, ranking: RankingConfig, allowed: NDArray[np.bool_] | None, count: int
    ) -> Ranked:
        """The best rows, best first, and their scores.

        Args:
            vector: of the query; None where the ranking is by words.
            allowed: rows that may be given; None for all.
        """
        empty: Ranked = np.zeros(0, np.int64), np.zeros(0, np.float32)
        by_words = self.words.search(query, count, allowed) if ranking.mode != "vectors" else empty
        if vector is None or self.nearest is None:
            return by_words
        by_vectors = self.nearest.search(vector, count, allowed)
        if ranking.mode == "vectors":
            return by_vectors
        return self.fusion(ranking).fuse(by_words, by_vectors, ranking.weight, count)

    def fusion(self, ranking: RankingConfig) -> Fusion:
        """How words and vectors are joined."""
        return fusion_of(files.variant_of(ranking.fusion, "fusion", self.folder, "ranking.fusion"))

    def reranker(self, model: Model | Path | str) -> Reranker:
        """A model that orders passages anew.

        Args:
            model: or its folder.

        Raises:
            UsageError: a model without a score of a pair of texts.
        """
        loaded = self._use(model)
        return Reranker.of(loaded.network, loaded.tokenizer, Path("reranker" if isinstance(model, Model) else model))

    def reorder(self, query: str, ranked: Ranked, reranker: Reranker, count: int) -> Ranked:
        """The first rows in the order of a reranker, with its scores; the others follow, as they were."""
        rows, scores = ranked
        texts = [self.stored.passage(row).searched for row in rows[:count].tolist()]
        points = np.array(reranker([query], [texts])[0], np.float32)
        order = np.argsort(-points, kind="stable")
        rest = scores[count:] - (scores[count:].max(initial=0.0) - points.min(initial=0.0))
        return np.concatenate([rows[:count][order], rows[count:]]), np.concatenate([points[order], rest])

    def first_of_documents(self, ranked: Ranked) -> Ranked:
        """The first row of each document."""
        rows, scores = ranked
        _, first = np.unique(self.stored.numbers[rows], return_index=True)
        first = np.sort(first)
        return rows[first], scores[first]

    def add(self, data: Data, *, update: bool = False, stats: DocumentStats | None = None, **columns: Any) -> int:
        """Adds documents of files or of records; returns how many.

        Args:
            update: a document whose id is there takes the place of the old one; else it is an error.
            stats: counts what became of the records.
            columns: how they are read: `text`, `title`, `id` ...
        """
        from pretune.config import validate

        config = validate(DocumentConfig, columns, "columns")
        encoder = self.encoder if self.manifest.model is not None else None
        count = add_documents(read_documents(data, config, stats), self.folder, encoder, update=update)
        self._open()
        return count

    def delete(self, ids: str | Sequence[str]) -> int:
        """Takes documents out; returns how many passages they had."""
        count = delete_documents(self.folder, [ids] if isinstance(ids, str) else list(ids))
        self._open()
        return count

    def compact(self, backend: str | None = None) -> int:
        """Frees the space of deleted passages; returns how many there were.

        Args:
            backend: of `search/backends/`, in place of the one that it has.
        """
        count = compact_index(self.folder, backend)
        self._open()
        return count

    def document_id(self, row: int) -> str:
        """The id of the document of a row."""
        return self.stored.document_of(row).id

    def _use(self, model: Model | Path | str) -> Model:
        """A model, read once if a folder names it."""
        if isinstance(model, Model):
            return model
        if str(model) not in self._loaded:
            self._loaded[str(model)] = self._load(str(model))
        return self._loaded[str(model)]

    def _allowed(self, where: Where) -> NDArray[np.bool_] | None:
        """The rows that may be given; None for all. Shape: return: (passages,)"""
        deleted = self.stored.deleted
        if not where:
            return ~deleted if deleted.any() else None
        live = np.unique(self.stored.numbers[~deleted])
        documents: list[Document] = [self.stored.documents[number] for number in live.tolist()]
        chosen = live[np.array(fulfilling(documents, parse_where(where)), np.bool_)]
        return self.stored.rows_of(chosen.tolist()) & ~deleted

    def _hit(self, row: int, score: float) -> Hit:
        passage: Passage = self.stored.passage(row)
        fields = dict(self.stored.document_of(row).fields)
        return Hit(passage.document, passage.title, passage.start, passage.end, passage.text, score, fields)


def _check_query(query: str, count: int) -> None:
    if not query.strip():
        raise DataError("the query is empty; give it some words")
    if count < 1:
        raise UsageError(f"count {count}: expected 1 or more")
