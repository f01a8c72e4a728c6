"""Files of rows by the content that they were computed from: each rank appends to its own and reads those of all.

    DIGEST.RANK.index    a header, then a record a sample: key, where its rows begin, how many they are, their checksum
    DIGEST.RANK.hidden   rows, memory-mapped
    DIGEST.RANK.encoder  rows of the second sort, where there are some

What a rank has written is seen by the others once both have called `exchange`. A record is written after its rows, so
that a process may be killed anywhere.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

PARTS = ("hidden", "encoder")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_HEADER = struct.Struct("<8s2I2I")
_RECORD = struct.Struct("<16s2Q2II")
_MAGIC = b"features"
_FIRST, _LARGEST = 1 << 18, 1 << 28  # bytes that a file grows by


@dataclass(frozen=True)
class RowType:
    """Width and dtype of the rows of a part."""

    width: int
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return self.width * self.dtype.itemsize


class RowFile:
    """A file of rows that grows, mapped into memory.

    Args:
        path: made where it is not there.
        end: rows that it holds already.
    """

    def __init__(self, path: Path, row_type: RowType, end: int = 0) -> None:
        self.row_type, self.end = row_type, end
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._rows = torch.empty(0, row_type.width, dtype=row_type.dtype)
        self._map()

    def read(self, start: int, count: int) -> Tensor:
        """Rows of the file, not copied. Shape: return: (count, width)

        Raises:
            ValueError: it is shorter.
        """
        if start + count > len(self._rows):
            self._map()
        if start + count > len(self._rows):
            raise ValueError(f"rows {start} to {start + count} of {len(self._rows)}")
        return self._rows[start : start + count]

    def append(self, rows: Tensor) -> int:
        """Adds rows at the end; gives the number of the first. Shape: rows: (any, width)

        Raises:
            OSError: the disk is full or fails.
        """
        start, end = self.end, self.end + len(rows)
        if end > len(self._rows):
            size = os.fstat(self._file).st_size
            more = max(min(max(size, _FIRST), _LARGEST), end * self.row_type.nbytes - size)
            if hasattr(os, "posix_fallocate"):  # a map of a file with holes would end the process on a full disk
                os.posix_fallocate(self._file, size, more)
            else:
                os.pwrite(self._file, bytes(more), size)
            self._map()
        self._rows[start:end] = rows
        self.end = end
        return start

    def close(self) -> None:
        """Gives the file back; rows that were read stay readable."""
        self._rows = self._rows[:0].clone()
        os.close(self._file)

    def _map(self) -> None:
        count = os.fstat(self._file).st_size // self.row_type.nbytes
        if count > len(self._rows):
            area = mmap.mmap(self._file, count * self.row_type.nbytes)
            self._rows = torch.frombuffer(area, dtype=self.row_type.dtype).view(count, self.row_type.width)


@dataclass
class Record:
    """Where the rows of a sample are.

    Attributes:
        owner: rank whose files have them.
        starts, counts: of each part.
        checksum: of the rows, where an earlier process wrote them; None once it was compared.
    """

    owner: int
    starts: tuple[int, int]
    counts: tuple[int, int]
    checksum: int | None = None


class FeatureStore:
    """Rows by keys of 16 bytes, on the disk.

    Args:
        folder: made where it is not there; files of this rank with another digest are removed from it.
        digest: of all that rows depend on besides their key.
        rank: this process.

    Attributes:
        failure: why nothing more can be written, None while it can.
    """

    def __init__(self, folder: Path, digest: str, rank: int = 0) -> None:
        self.folder, self.digest, self.rank = folder, digest, rank
        self.failure: OSError | None = None
        self._records: dict[bytes, Record] = {}
        self._files: dict[int, list[RowFile]] = {}
        self._read: dict[int, int] = {}  # bytes of each rank's index that are known
        self._pending = b""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"*.{rank}.*"):
            if not old.name.startswith(f"{digest}."):
                old.unlink(missing_ok=True)
        for index in sorted(folder.glob(f"{digest}.*.index")):
            self._refresh(int(index.name.split(".")[1]), is_old=True)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._records)

    def find(self, key: bytes) -> list[Tensor] | None:
        """The rows of a sample, one tensor a part, or None. Shape: return: (any, width) each"""
        record = self._records.get(key)
        if record is None:
            return None
        try:
            parts = [
                file.read(start, count)
                for file, start, count in zip(self._files[record.owner], record.starts, record.counts, strict=False)
            ]
            if record.checksum is not None:
                if checksum(parts) != record.checksum:
                    raise ValueError("other rows than were written")
                record.checksum = None
        except (ValueError, OSError):
            del self._records[key]
            return None
        return parts

    def put(self, key: bytes, parts: Sequence[Tensor]) -> None:
        """Keeps the rows of a sample; does nothing where the disk is full. Shape: parts: (any, width) each"""
        if self.failure is not None or key in self._records:
            return
        try:
            files = self._own(parts)
            starts = [file.append(rows) for file, rows in zip(files, parts, strict=True)]
        except OSError as error:
            self.failure = error
            return
        counts = [len(rows) for rows in parts]
        places = (*starts, 0)[:2], (*counts, 0)[:2]
        self._pending += _RECORD.pack(key, *places[0], *places[1], checksum(parts))
        self._records[key] = Record(self.rank, (places[0][0], places[0][1]), (places[1][0], places[1][1]))

    def publish(self) -> None:
        """Lets other ranks, and a later process, find what this one has kept."""
        if not self._pending:
            return
        try:
            with self._path(self.rank, "index").open("ab") as file:
                file.write(self._pending)
        except OSError as error:
            self.failure = self.failure or error
        self._pending = b""
        self._read[self.rank] = self._path(self.rank, "index").stat().st_size

    def refresh(self) -> None:
        """Learns what the other ranks have published."""
        for index in sorted(self.folder.glob(f"{self.digest}.*.index")):
            if (rank := int(index.name.split(".")[1])) != self.rank:
                self._refresh(rank)

    def close(self) -> None:
        """Publishes, and gives the files back."""
        self.publish()
        for files in self._files.values():
            for file in files:
                file.close()
        self._files, self._records = {}, {}

    def _path(self, rank: int, what: str) -> Path:
        return self.folder / f"{self.digest}.{rank}.{what}"

    def _own(self, parts: Sequence[Tensor]) -> list[RowFile]:
        """The files that this rank writes.

        Raises:
            OSError: rows of another sort than those there, or the disk is full or fails.
        """
        row_types = [RowType(rows.shape[1], rows.dtype) for rows in parts]
        if self.rank not in self._files:
            files = [RowFile(self._path(self.rank, n), row_type) for n, row_type in zip(PARTS, row_types, strict=False)]
            self._path(self.rank, "index").write_bytes(_header(row_types))
            self._files[self.rank] = files
        files = self._files[self.rank]
        if [file.row_type for file in files] != row_types:
            raise OSError(errno.EINVAL, "rows of another width or dtype than before")
        return files

    def _refresh(self, rank: int, *, is_old: bool = False) -> None:
        """Reads what is new in the index of a rank."""
        known = self._read.get(rank, 0)
        path = self._path(rank, "index")
        if path.stat().st_size <= known:
            return
        with path.open("rb") as file:
            file.seek(known)
            content = file.read()
        if not known:
            row_types = _read_header(content)
            if row_types is None:
                return
            names = zip(PARTS, row_types, strict=False)
            self._files[rank] = [RowFile(self._path(rank, name), row_type) for name, row_type in names]
            content, known = content[_HEADER.size :], _HEADER.size
        whole = len(content) // _RECORD.size * _RECORD.size
        for key, *numbers in _RECORD.iter_unpack(content[:whole]):
            a, b, m, n, crc = numbers
            record = Record(rank, (a, b), (m, n), crc if is_old else None)
            self._records[key] = record if is_old else self._records.get(key, record)  # of an old file the newest
            for rows, end in zip(self._files[rank], (a + m, b + n), strict=False):
                rows.end = max(rows.end, end)
        self._read[rank] = known + whole
        if is_old and rank == self.rank and len(content) != whole:
            os.truncate(path, known + whole)  # a killed process left a part of a record


def checksum(parts: Sequence[Tensor]) -> int:
    """CRC-32 of the rows of all parts."""
    value = 0
    for rows in parts:
        value = zlib.crc32(rows.contiguous().view(torch.uint8).numpy().data, value)
    return value


def _header(row_types: Sequence[RowType]) -> bytes:
    widths = [*(row_type.width for row_type in row_types), 0][:2]
    dtypes = [*(_DTYPES.index(row_type.dtype) for row_type in row_types), 0][:2]
    return _HEADER.pack(_MAGIC, *widths, *dtypes)


def _read_header(content: bytes) -> list[RowType] | None:
    """The types of a rank's rows; None for a file that does not say them yet."""
    if len(content) < _HEADER.size:
        return None
    magic, first, second, *dtypes = _HEADER.unpack(content[: _HEADER.size])
    if magic != _MAGIC or not all(dtype < len(_DTYPES) for dtype in dtypes) or not first:
        return None
    widths = [width for width in (first, second) if width]
    return [RowType(width, _DTYPES[dtype]) for width, dtype in zip(widths, dtypes, strict=False)]
