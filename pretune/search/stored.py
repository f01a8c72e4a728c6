"""The files of an index, open for reading: passages by row, their documents, what is deleted, their fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError
from pretune.search.documents import Document
from pretune.search.manifest import Manifest
from pretune.search.passages import Passage
from pretune.search.segments import StoredSegment, read_array
from pretune.search.vectors import StoredVectors

Mask = NDArray[np.bool_]


class Stored:
    """An index's files, whose digests were checked.

    Args:
        folder: of the index.
        manifest: what its `index.json` says.

    Raises:
        DataError: files that do not fit together.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        width = None if manifest.model is None else manifest.model.width
        self.segments = [StoredSegment(folder / each.folder, each.passages, width) for each in manifest.segments]
        self._bounds = np.cumsum([0, *(each.passages for each in manifest.segments)])
        self.numbers = np.concatenate([segment.numbers for segment in self.segments])
        if (np.diff(self.numbers) < 0).any() or not 0 <= self.numbers[0] <= self.numbers[-1] < manifest.documents:
            raise DataError(f"{folder}: numbers of documents do not rise; make the index again")
        self.deleted: Mask = np.zeros(manifest.passages, np.bool_)
        if manifest.deleted is not None:
            path = folder / manifest.deleted / "rows.npy"
            self.deleted = np.array(read_array(path, (manifest.passages,), np.bool_))

    @cached_property
    def vectors(self) -> StoredVectors:
        """The vectors of all passages."""
        return StoredVectors([each.vectors for each in self.segments if each.vectors is not None])

    @cached_property
    def documents(self) -> list[Document]:
        """All documents by their numbers, those that were deleted too, without their texts."""
        documents = [document for segment in self.segments for document in segment.documents()]
        if len(documents) != self.manifest.documents:
            raise DataError(f"{self.folder}: lists {len(documents)} documents, not {self.manifest.documents}")
        return documents

    def passage(self, row: int) -> Passage:
        """A passage by its row."""
        number = int(np.searchsorted(self._bounds, row, side="right")) - 1
        return self.segments[number].passage(row - int(self._bounds[number]))

    def first_passages(self, count: int) -> list[Passage]:
        """The first passages, deleted or not."""
        return [self.passage(row) for row in range(min(count, self.manifest.passages))]

    def document_of(self, row: int) -> Document:
        """The document of a row."""
        return self.documents[int(self.numbers[row])]

    def document_numbers(self) -> dict[str, int]:
        """The numbers of all documents that are not deleted, by their ids."""
        live = np.unique(self.numbers[~self.deleted]).tolist()
        return {self.documents[number].id: number for number in live}

    def rows_of(self, numbers: Sequence[int]) -> Mask:
        """Which rows are those of some documents. Shape: return: (passages,)"""
        return np.isin(self.numbers, np.array(numbers, np.int64))

    def live_documents(self) -> Iterator[tuple[Document, list[Passage]]]:
        """Each document that is not deleted with its passages, in order."""
        rows = zip(self.numbers.tolist(), self.deleted.tolist(), self._passages(), strict=True)
        number, passages = -1, list[Passage]()
        for of_document, gone, passage in rows:
            if gone:
                continue
            if of_document != number and passages:
                yield self.documents[number], passages
                passages = []
            number = of_document
            passages.append(passage)
        if passages:
            yield self.documents[number], passages

    def _passages(self) -> Iterator[Passage]:
        for segment in self.segments:
            yield from segment.all_passages()
