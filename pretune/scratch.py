"""Temporary folders: gone at the end of their use, and those of killed processes as soon as the next one is made.

Each is `pretune-NAME-XXXXXXXX.partial` in the system's folder for temporary files, and its process holds a lock on it,
which ends with the process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from pretune.disk import flock, storage_errors

_PREFIX, _SUFFIX = "pretune-", ".partial"


class ScratchFolder:
    """A temporary folder; a context manager that gives its path.

    It is removed at the end of the block, or with this object.

    Attributes:
        path: of the folder, empty at first.

    Args:
        name: what it is for, as a part of its name.

    Raises:
        CannotCreateError: no permission.
        StorageError: the disk is full or fails.
    """

    def __init__(self, name: str) -> None:
        parent = Path(tempfile.gettempdir())
        with storage_errors(parent, "make a temporary folder", "TMPDIR names another place for it"):
            _clear(parent)
            self.path, handle = _make(parent, name)
        self._remove = weakref.finalize(self, _remove, self.path, handle)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self._remove()


def _make(parent: Path, name: str) -> tuple[Path, int]:
    """A new folder and the handle that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(_SUFFIX, f"{_PREFIX}{name}-", parent))
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:  # another process cleared it away before it was locked
            continue
        try:
            if not flock(handle, wait=False) or path.exists():
                return path, handle
        except BlockingIOError:  # it is doing so
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _clear(parent: Path) -> None:
    """Removes the folders of this user that no process holds; where there are no locks, none."""
    for path in parent.glob(f"{_PREFIX}*{_SUFFIX}"):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        except OSError:  # another user's, a link, or gone by now
            continue
        try:
            if os.fstat(handle).st_uid == os.geteuid() and flock(handle, wait=False):
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:  # its process lives
            pass
        finally:
            os.close(handle)


def _remove(path: Path, handle: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(handle)
