"""One-dimensional `.npy` files that are written piece by piece and memory-mapped, with what a manifest says of them."""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pretune.disk import sha256
from pretune.errors import DataError, MissingInputError
from pretune.field_table import regular

_REMEDY = "bring it back from a copy, or prepare the store again"


@dataclass(frozen=True)
class StoredFile:
    """One `.npy` file as the manifest states it: name, number of items, type, size in bytes, SHA-256."""

    file: str
    items: int
    dtype: str
    bytes: int
    sha256: str


class ArrayWriter:
    """A one-dimensional `.npy` file that grows.

    Args:
        path: the file.
        dtype: of its items.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.items = 0
        self._dtype = dtype
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)
        self._header = self._write_header()

    def append(self, values: NDArray[Any]) -> None:
        """Add items at the end."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self.items += len(values)

    def close(self) -> StoredFile:
        """Write the final count and hash the file."""
        self._file.seek(0)
        if self._write_header() != self._header:
            raise AssertionError(f"{self.path}: the header of an .npy file changed its length")
        self._file.close()
        size = self.path.stat().st_size
        return StoredFile(self.path.name, self.items, self._dtype.name, size, sha256(self.path))

    def abandon(self) -> None:
        """Let go of the file without finishing it."""
        with suppress(OSError):  # a full disk answers so to the last buffer; the folder is removed anyway
            self._file.close()

    def _write_header(self) -> int:
        fields = {"descr": self._dtype.newbyteorder("<").str, "fortran_order": False, "shape": (self.items,)}
        np.lib.format.write_array_header_1_0(self._file, fields)
        return self._file.tell()


def map_file(folder: Path, file: StoredFile, scattered: bool = False) -> NDArray[Any]:
    """Memory-map a file of a store, read-only.

    Args:
        scattered: it is read at random places: the system must not read 128 KiB around each, which costs a cold start
            fifty times the reading.

    Raises:
        DataError: size, type or count is not what the manifest states.
    """
    path = folder / file.file
    check_size(folder, file)
    with path.open("rb") as raw:
        try:
            if np.lib.format.read_magic(raw) != (1, 0):
                raise ValueError("not version 1.0")
            shape, _, dtype = np.lib.format.read_array_header_1_0(raw)
        except ValueError as error:
            raise DataError(f"{path}: not an .npy file: {error}; prepare the store again") from None
        if shape != (file.items,) or dtype != np.dtype(file.dtype):
            raise DataError(
                f"{path}: holds {shape} of {dtype}, the manifest states ({file.items},) of {file.dtype}; "
                "prepare the store again"
            )
        if raw.tell() + file.items * dtype.itemsize != file.bytes:
            raise DataError(f"{path}: {file.bytes} bytes do not hold {shape} of {dtype}; prepare the store again")
        if not file.items:
            return np.zeros(0, dtype)
        mapped = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
        if scattered and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, dtype, file.items, raw.tell())


def check_mapped(array: NDArray[Any], path: Path) -> None:
    """Refuses a mapped file that somebody has truncated meanwhile: to read behind its end would kill the process.

    Args:
        array: as `map_file` gave it.
        path: of the file, for the message.

    Raises:
        DataError: the file is shorter than when it was mapped.
    """
    base = array.base
    while isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap) and base.size() < len(base):
        raise DataError(
            f"{path}: was truncated while it was read: {base.size():,} of {len(base):,} bytes are left; another "
            "program writes to the store; prepare it again, and run the same command again"
        )


def check_size(folder: Path, file: StoredFile) -> None:
    """Refuse a file whose size is not what the manifest states.

    Raises:
        DataError: the file is missing, truncated or grown.
    """
    path = folder / file.file
    try:
        size = regular(path).stat().st_size
    except MissingInputError:
        raise DataError(f"{path}: missing from the store; prepare it again") from None
    if size != file.bytes:
        how = "truncated" if size < file.bytes else "grown"
        raise DataError(f"{path}: {how}: {size} bytes, the manifest states {file.bytes}; prepare the store again")


def problem_of_file(folder: Path, file: StoredFile) -> str | None:
    """Why a file of a store cannot be used; None if every byte is as the manifest states."""
    try:
        check_size(folder, file)
        same = sha256(folder / file.file) == file.sha256
    except (DataError, OSError) as error:
        return str(error).removeprefix(f"{folder / file.file}: ")
    return None if same else f"content differs from the manifest: it is damaged; {_REMEDY}"
