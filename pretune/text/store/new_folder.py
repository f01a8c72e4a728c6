"""A folder that appears whole or not at all, and what is said when the disk refuses."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from pretune.disk import sync
from pretune.errors import CannotCreateError, StorageError


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
