"""Writing a token store: arrays of unknown length, a folder that appears whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from pretune.disk import sha256, sync
from pretune.errors import CannotCreateError, StorageError
from pretune.text.store import FORMAT, MANIFEST, VERSION, Manifest, SplitManifest, StoredFile


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


class SplitWriter:
    """The files of one split; only counts are held in memory.

    Args:
        folder: where.
        name: the split, which begins every file's name.
        dtype: of tokens.
        shard_tokens: tokens of a full shard.
        unknown: id of the unknown token, or None.
    """

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any], shard_tokens: int, unknown: int | None) -> None:
        self._folder, self._name, self._dtype = folder, name, dtype
        self._shard_tokens, self._unknown = shard_tokens, unknown
        self.tokens = self.unknown = 0
        self._done: list[StoredFile] = []
        self._shard: ArrayWriter | None = None
        int64 = np.dtype(np.int64)
        self._documents = ArrayWriter(folder / f"{name}-documents.npy", int64)
        self._sentences = ArrayWriter(folder / f"{name}-sentences.npy", int64)
        self._domains = ArrayWriter(folder / f"{name}-domains.npy", np.dtype(np.uint16))

    def append(
        self,
        tokens: NDArray[Any],
        lengths: NDArray[np.int64],
        sentences: NDArray[np.int64],
        domains: NDArray[np.int64],
    ) -> None:
        """Add documents.

        Shape:
            tokens: (T,); lengths: (D,), their sum is T; sentences: (S,) places in `tokens`; domains: (D,)
        """
        self._documents.append(np.cumsum(lengths) - lengths + self.tokens)
        self._sentences.append(sentences + self.tokens)
        self._domains.append(domains)
        self.tokens += len(tokens)
        if self._unknown is not None:
            self.unknown += int(np.count_nonzero(tokens == self._unknown))
        while len(tokens):
            self._shard = self._shard or self._new_shard()
            room = self._shard_tokens - self._shard.items
            self._shard.append(tokens[:room])
            tokens = tokens[room:]
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
        files = [writer.close() for writer in (self._documents, self._sentences, self._domains)]
        return SplitManifest(self.tokens, count, sentences, self.unknown, tuple(self._done), *files)

    def abandon(self) -> None:
        """Let go of every file."""
        for writer in (self._shard, self._documents, self._sentences, self._domains):
            if writer is not None:
                writer.abandon()

    def _new_shard(self) -> ArrayWriter:
        return ArrayWriter(self._folder / f"{self._name}-tokens-{len(self._done):05d}.npy", self._dtype)


class NewFolder:
    """A folder that is filled beside its place and moved there in one step; a context manager.

    What a killed process left is cleared away. Two processes cannot fill the same one.

    Args:
        output: where the folder shall be.
        replace: an existing folder there is replaced.

    Raises:
        CannotCreateError: another process is filling it, or it cannot be made there.
    """

    def __init__(self, output: Path, replace: bool) -> None:
        self.output = output
        self.path = output.with_name(f".{output.name}.partial")
        self._old = output.with_name(f".{output.name}.replaced")
        self._replace = replace
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            if self._old.exists() and not self.output.exists():
                self._old.rename(self.output)
            self._lock = self._take()
        except OSError as error:
            raise CannotCreateError(f"{self.output}: cannot be made here: {error.strerror}") from None
        for left in self.path.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def publish(self) -> None:
        """Bring everything in the folder to the disk and move it to its place."""
        for entry in (*self.path.rglob("*"), self.path):
            sync(entry)
        if self._replace and self.output.exists():
            shutil.rmtree(self._old, ignore_errors=True)
            self.output.rename(self._old)
        self.path.rename(self.output)
        sync(self.output.parent)
        shutil.rmtree(self._old, ignore_errors=True)

    def _take(self) -> int:
        """Make the folder and lock it; the lock goes with the process, however it ends."""
        while True:
            self.path.mkdir(exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                raise CannotCreateError(f"{self.output}: another process is writing it; wait, or end it") from None
            if self.path.exists() and self.path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
            os.close(handle)  # its owner published or removed it meanwhile


@contextmanager
def storage_errors(output: Path) -> Iterator[None]:
    """What the operating system refuses while writing becomes an error that says so.

    Raises:
        StorageError: the disk is full or answers with an error.
    """
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(next(p for p in (output, *output.absolute().parents) if p.exists())).free
        raise StorageError(
            f"{error.filename or output}: {error.strerror or error}; {free >> 20} MiB are free; "
            "nothing was left behind, make room and start again"
        ) from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a store."""
    tree: Mapping[str, Any] = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    (folder / MANIFEST).write_text(json.dumps(tree, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
