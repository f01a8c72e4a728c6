"""Writes files and folders completely or not at all, and says what to do when the disk refuses.

A new file or folder is filled beside its target, synced, and moved there in one step: whoever reads sees the old one or
the new one, also after a power loss. Its writer holds a lock, which ends with the process; what a killed one left
behind is cleared away by the next. Nothing is left behind by an error.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, Self

from pretune.errors import CannotCreateError, StorageError

Existing = Literal["refuse", "replace", "merge"]
Files = dict[str, dict[str, int | str]]
MANIFEST = "manifest.json"
_NO_ACCESS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOENT),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG),
}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # a file system without locks


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, hexadecimal; the file is read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's entries, survive a power loss.

    Raises:
        OSError: the disk fails. A file system that cannot sync a folder is no error.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Writes a whole file in place and syncs it.

    Raises:
        OSError: no space, no permission.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def storage_errors(target: Path, action: str, kept: str = "nothing was left half-written") -> Iterator[None]:
    """Turns what the operating system refuses inside the block into an error with path, reason and remedy.

    Args:
        target: what is being written, as the user knows it.
        action: what cannot be done, as in "save the model".
        kept: what holds in spite of the error.

    Raises:
        CannotCreateError: no permission, no such folder, or something in the way.
        StorageError: the disk is full or fails.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ACCESS:
            raise CannotCreateError(
                f"{target}: cannot {action}: {error.strerror}; {kept}. Choose another path, or make this one writable"
            ) from error
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"{target}: cannot {action}: {reason} ({_free_mebibytes(target):,} MiB are free there); {kept}. "
                "Free some space and run the same command again"
            ) from error
        raise


@contextmanager
def new_file(target: Path) -> Iterator[IO[bytes]]:
    """Gives a file that takes the target's place when the block ends without an error.

    A target that is a device or a pipe is written to as it is.

    Raises:
        CannotCreateError: it cannot be made there, or another process is writing it.
        StorageError: the disk is full or fails.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        with _CheckedFile(target, target) as device, io.BufferedWriter(device) as file:
            yield file
        return
    temporary = target.with_name(f".{target.name}.partial")
    with storage_errors(target, "create the file"):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(temporary, target, os.O_RDWR | os.O_CREAT)
    with io.BufferedWriter(_CheckedFile(handle, target)) as file:
        try:
            file.truncate(0)  # what a killed process left
            yield file
            with storage_errors(target, "write the file"):
                file.flush()
                os.fsync(handle)
                temporary.replace(target)
                sync(target.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)  # before the lock goes: it is still ours
            raise


def replace_file(target: Path, data: bytes) -> None:
    """Writes a file in one move: readers see the old one or the new one.

    Raises:
        CannotCreateError: it cannot be made there, or another process is writing it.
        StorageError: the disk is full or fails.
    """
    with new_file(target) as file:
        file.write(data)


class NewFolder:
    """A folder that is filled at `path` and appears at its target when `publish` is called; a context manager.

    Attributes:
        target: where the folder shall be.
        path: the folder to fill, empty at first, on the target's disk; gone at the end of the block.

    Args:
        existing: what happens to a target that is there: "refuse" takes its place only if it is empty, "replace"
            swaps it, "merge" replaces file by file and keeps its other files.
        wait: wait for another process that is writing the same target, instead of refusing.

    Raises:
        CannotCreateError: another process is writing it, or it cannot be made there.
        StorageError: the disk is full or fails.
    """

    def __init__(self, target: Path, existing: Existing = "refuse", *, wait: bool = False) -> None:
        self.target = target
        self._existing, self._wait = existing, wait
        self._handle, self._moved = -1, False
        named = target if target.name not in ("", "..") else target.resolve()
        self._old = named.with_name(f".{named.name}.replaced")
        if existing == "merge" and target.is_dir():  # inside of it: the folder above may be another disk
            self.path = target / ".partial"
        else:
            self.path = named.with_name(f".{named.name}.partial")

    def __enter__(self) -> Self:
        with storage_errors(self.target, "create the folder"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = _lock(self.path, self.target, os.O_RDONLY, folder=True, wait=self._wait)
            if self._old.exists():  # a process was killed while it replaced the target
                shutil.rmtree(self._old) if self.target.exists() else self._old.rename(self.target)
            for leftover in self.path.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._moved:  # else what lies there now is another process's
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)

    def publish(self, last: str = "", obsolete: Callable[[Sequence[str]], Iterable[Path]] = lambda names: ()) -> None:
        """Brings everything in the folder to the disk and moves it to its target.

        Args:
            last: the file that is moved after all others, where files are merged.
            obsolete: given the names of all new files, names those of the target to remove, where files are merged.

        Raises:
            OSError: the disk is full or fails, or the target is not empty and is not to be replaced.
        """
        for entry in (*self.path.rglob("*"), self.path):
            sync(entry)
        if self._existing == "merge" and self.target.exists():
            self._merge(last, obsolete)
            return
        if self._existing == "replace" and self.target.exists():
            self.target.rename(self._old)
        self.path.rename(self.target)
        self._moved = True
        sync(self.target.parent)
        shutil.rmtree(self._old, ignore_errors=True)

    def _merge(self, last: str, obsolete: Callable[[Sequence[str]], Iterable[Path]]) -> None:
        names = [path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()]
        names.sort(key=lambda name: (name == last, name))
        for name in names:
            (self.target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.path / name, self.target / name)
        for path in obsolete(names):
            path.unlink()
        sync(self.target)


class _CheckedFile(io.FileIO):
    """A file for writing, by its path or its handle, whose failures name the target."""

    def __init__(self, file: Path | int, target: Path) -> None:
        self._target = target
        with storage_errors(target, "create the file"):
            super().__init__(file, "wb")

    def write(self, data: object, /) -> int:
        with storage_errors(self._target, "write the file"):
            return super().write(data)  # type: ignore[arg-type]


def _lock(path: Path, target: Path, flags: int, *, folder: bool = False, wait: bool = False) -> int:
    """Makes a file or a folder and locks it; the lock goes with the process, however that ends.

    Raises:
        CannotCreateError: another process holds it, and this one shall not wait.
        OSError: it cannot be made.
    """
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        handle = os.open(path, flags, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        except BlockingIOError:
            os.close(handle)
            raise CannotCreateError(f"{target}: another process is writing it; wait for it, or end it") from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return handle
            os.close(handle)
            raise
        os.close(handle)  # its owner published or removed it meanwhile


def _free_mebibytes(path: Path) -> int:
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free >> 20


def seal(directory: Path) -> None:
    """Syncs every file of a directory to disk, reads it back, and writes the manifest last."""
    files: Files = {}
    for path in sorted(directory.iterdir()):
        sync(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_synced(directory / MANIFEST, _canonical(files))
    sync(directory)


def problem(directory: Path) -> str | None:
    """Why a sealed folder cannot be used; None if every byte is as its manifest says."""
    try:
        text = (directory / MANIFEST).read_bytes()
        manifest = json.loads(text)
        files = manifest["files"]
        if _canonical(files) != text:
            return f"{MANIFEST} was changed"
        present = {entry.name for entry in directory.iterdir()} - {MANIFEST}
        if present != set(files):
            return f"files are {', '.join(sorted(present))}, the manifest names {', '.join(sorted(files))}"
        for name, known in files.items():
            size = (directory / name).stat().st_size
            if size != known["bytes"]:
                return f"{name} has {size} bytes instead of {known['bytes']}"
            if sha256(directory / name) != known["sha256"]:
                return f"{name} does not match its SHA-256"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return None


def _canonical(files: Files) -> bytes:
    body = json.dumps(files, sort_keys=True)
    own = hashlib.sha256(body.encode()).hexdigest()
    return (json.dumps({"files": files, "sha256": own}, sort_keys=True, indent=1) + "\n").encode()
