"""Segments: some thousands of passages with their vectors, written once, in one move, and never changed.

    passages.jsonl   document, title, start, end, text: a line each
    lines.npy        (n + 1,) where each line begins, in bytes
    numbers.npy      (n,) the number of each passage's document, counted over the whole index
    documents.jsonl  id and fields of the documents that begin here
    vectors.npy      (n, width) float32 of unit length; absent in an index of words alone
    segment.json     digests of all this, and what made the vectors

A segment that is there and fits its passages and the model byte for byte is not made again: so a build that was killed
goes on, and ends as one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.disk import storage_errors
from pretune.errors import DataError, MissingInputError
from pretune.field_table import parse_json, read_file, regular
from pretune.new_folder import NewFolder
from pretune.seals import digest, parse_sealed, sealed_json
from pretune.search.documents import Document, Value
from pretune.search.passages import Passage
from pretune.search.vectors import Vectors

SIZE = 4096
"""Passages of a segment: their vectors take some seconds to a minute, which is what a killed build loses at most."""
FACTS = "segment.json"
Embed = Callable[[Sequence[Passage]], Vectors]
_REMEDY = "bring it back from a copy, or make the index again"


@dataclass(frozen=True)
class NewSegment:
    """Passages that are to be written.

    Attributes:
        passages: one or more.
        numbers: of their documents. Shape: (n,)
        documents: that begin in it.
    """

    passages: Sequence[Passage]
    numbers: Sequence[int]
    documents: Sequence[Document]

    def text_files(self) -> dict[str, bytes]:
        """The files of its texts, by name."""
        lines = [_line(_fields(passage)) for passage in self.passages]
        rows = [_line({"id": each.id, "title": each.title, "fields": each.fields}) for each in self.documents]
        return {"passages.jsonl": b"".join(lines), "documents.jsonl": b"".join(rows)}

    def write(self, folder: Path, made_by: Mapping[str, Any], embed: Embed | None) -> bool:
        """Writes the segment, unless it is there already.

        Args:
            made_by: what its vectors depend on, as plain values.
            embed: gives the vectors of passages; None in an index of words alone.

        Returns:
            whether it had to be made.

        Raises:
            StorageError, CannotCreateError: the disk is full or refuses; nothing was changed.
        """
        texts = self.text_files()
        if _is_there(folder, texts, made_by):
            return False
        arrays: dict[str, NDArray[Any]] = {
            "lines.npy": np.cumsum([0, *map(len, texts["passages.jsonl"].splitlines(keepends=True))]),
            "numbers.npy": np.array(self.numbers, np.int64),
        }
        if embed is not None:
            arrays["vectors.npy"] = np.ascontiguousarray(embed(self.passages), np.float32)
        kept = "the index that was there is as it was"
        with storage_errors(folder, "write the index", kept), NewFolder(folder, "replace") as draft:
            for name, content in texts.items():
                (draft.path / name).write_bytes(content)
            for name, array in arrays.items():
                np.save(draft.path / name, array, allow_pickle=False)
            facts = {"files": _digests(draft.path), "made_by": dict(made_by)}
            (draft.path / FACTS).write_bytes(sealed_json(facts))
            draft.publish(last=FACTS)
        return True


def _is_there(folder: Path, texts: Mapping[str, bytes], made_by: Mapping[str, Any]) -> bool:
    """Whether a segment of these texts and vectors is there, whole."""
    path = folder / FACTS
    try:
        raw = read_file(path)
        parse_json(raw, str(path))
        facts = parse_sealed(path, raw, _REMEDY)
        return (
            facts["made_by"] == json.loads(json.dumps(dict(made_by)))
            and all(_holds(folder / name, content) for name, content in texts.items())
            and _digests(folder) == facts["files"]
        )
    except (OSError, DataError, MissingInputError, KeyError):
        return False


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file has some content; one of another size is not read."""
    return regular(path).stat().st_size == len(content) and path.read_bytes() == content


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != FACTS and path.is_file()}


def _fields(passage: Passage) -> dict[str, object]:
    return {
        "document": passage.document,
        "title": passage.title,
        "start": passage.start,
        "end": passage.end,
        "text": passage.text,
    }


def _line(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


class StoredSegment:
    """A segment as it lies on the disk.

    Args:
        folder: of its files, whose digests were checked.
        passages: how many it must have.
        width: numbers of a vector; None where there are none.

    Raises:
        DataError: a file does not fit the others.
    """

    def __init__(self, folder: Path, passages: int, width: int | None) -> None:
        self.folder = folder
        self._texts, self._documents = (_mapped(folder / name) for name in ("passages.jsonl", "documents.jsonl"))
        self._lines = read_array(folder / "lines.npy", (passages + 1,), np.int64)
        if self._lines[0] != 0 or self._lines[-1] != len(self._texts) or (np.diff(self._lines) < 1).any():
            raise DataError(f"{folder / 'lines.npy'}: does not fit the lines of passages.jsonl; {_REMEDY}")
        self.numbers = read_array(folder / "numbers.npy", (passages,), np.int64)
        self.vectors: Vectors | None = None
        if width is not None:
            self.vectors = read_array(folder / "vectors.npy", (passages, width), np.float32)

    def passage(self, row: int) -> Passage:
        """A passage by its row in the segment."""
        begin, end = int(self._lines[row]), int(self._lines[row + 1])
        return _parse_passage(self.folder, self._texts[begin:end].tobytes())

    def all_passages(self) -> Iterator[Passage]:
        """Every passage, in order."""
        return (self.passage(row) for row in range(len(self._lines) - 1))

    def documents(self) -> Iterator[Document]:
        """The documents that begin here, without their texts, in order."""
        path = self.folder / "documents.jsonl"
        for number, line in enumerate(self._documents.tobytes().splitlines(), 1):
            try:
                row = json.loads(line)
                fields: dict[str, Value] = dict(row["fields"])
                yield Document(str(row["id"]), "", str(row["title"]), fields, f"{path}:{number}")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(f"{path}:{number}: is no document of an index: {error}; {_REMEDY}") from None


def _mapped(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file, which stay when a writer removes it. Shape: return: (bytes,)"""
    if not path.stat().st_size:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, "r")


def _parse_passage(folder: Path, line: bytes) -> Passage:
    try:
        row = json.loads(line)
        return Passage(str(row["document"]), str(row["title"]), int(row["start"]), int(row["end"]), str(row["text"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{folder / 'passages.jsonl'}: is no passage of an index: {error}; {_REMEDY}") from None


def read_array(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Memory-maps a `.npy` file, read-only.

    Raises:
        DataError: it holds something else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an array: {error}; {_REMEDY}") from None
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.dtype(dtype):
        raise DataError(f"{path}: holds {array.dtype} of the shape {array.shape}, not {shape}; {_REMEDY}")
    return array
