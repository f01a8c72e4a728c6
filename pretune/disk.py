"""Writes files completely or not at all, and says what to do when the disk refuses; folders: `new_folder`.

A new file is written beside its target, synced, and moved there in one step: whoever reads sees the old one or the new
one, also after a power loss. Its writer holds a lock, which ends with the process; what a killed one left behind is
cleared away by the next. Nothing is left behind by an error.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pretune.errors import CannotCreateError, StorageError

Files = dict[str, dict[str, int | str]]
MANIFEST = "manifest.json"
_NO_ACCESS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOENT),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP),
}
_LACKING = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # a file system that cannot do what is asked for
_NO_LOCKS = {*_LACKING, errno.ENOLCK, errno.EBADF}  # EBADF: NFS locks no folder


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, hexadecimal; the file is read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(handle: int) -> bool:
    """Makes what was written survive a power loss; whether the file system can.

    Raises:
        OSError: the disk fails.
    """
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _LACKING:
            raise
        return False
    return True


def sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's entries, survive a power loss, where the file system can.

    Raises:
        OSError: the disk fails.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # one may make entries in a folder that one may not list
            return
        raise
    try:
        fsync(handle)
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
        fsync(file.fileno())


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
    with storage_errors(target, "create the file"):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        real = Path(os.path.realpath(target))  # a link stays one
        parents = make_folders(real.parent)
        temporary = real.with_name(f".{real.name}.partial")
        handle = lock(temporary, target, os.O_RDWR | os.O_CREAT)
    with io.BufferedWriter(_CheckedFile(handle, target)) as file:
        try:
            with storage_errors(target, "create the file"):
                file.truncate(0)  # what a killed process left
            yield file
            with storage_errors(target, "write the file"):
                file.flush()
                fsync(handle)
                temporary.replace(real)
                sync(real.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)  # before the lock goes: it is still ours
            remove_empty(parents)
            raise


def replace_file(target: Path, data: bytes) -> None:
    """Writes a file in one move: readers see the old one or the new one.

    Raises:
        CannotCreateError: it cannot be made there, or another process is writing it.
        StorageError: the disk is full or fails.
    """
    with new_file(target) as file:
        file.write(data)


def make_folders(path: Path) -> list[Path]:
    """Makes a folder and those above it, and brings them to the disk.

    Returns:
        Those that were not there, the deepest first.

    Raises:
        OSError: it cannot be made.
    """
    missing: list[Path] = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        if folder.exists():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file")
        missing.append(folder)
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


class _CheckedFile(io.FileIO):
    """A file for writing, by its path or its handle, whose failures name the target."""

    def __init__(self, file: Path | int, target: Path) -> None:
        self._target = target
        with storage_errors(target, "create the file"):
            super().__init__(file, "wb")

    def write(self, data: object, /) -> int:
        with storage_errors(self._target, "write the file"):
            return super().write(data)  # type: ignore[arg-type]


def flock(handle: int, *, wait: bool = True) -> bool:
    """Takes the lock of an open file or folder; whether the file system has locks.

    Raises:
        BlockingIOError: another process holds it, and this one shall not wait.
        OSError: the disk fails.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def lock(path: Path, target: Path, flags: int, *, folder: bool = False, wait: bool = False) -> int:
    """Makes a file or a folder and locks it; the lock goes with the process, however that ends.

    Raises:
        CannotCreateError: another process holds it, and this one shall not wait.
        OSError: it cannot be made.
    """
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        if path.is_symlink():
            raise FileExistsError(errno.EEXIST, f"{path} is a link")
        handle = os.open(path, flags | os.O_NOFOLLOW, 0o666)
        try:
            if not flock(handle, wait=wait) or (path.exists() and path.stat().st_ino == os.fstat(handle).st_ino):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise CannotCreateError(f"{target}: another process is writing it; wait for it, or end it") from None
        except BaseException:
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
            if not (directory / name).is_file():
                return f"{name} is no file"
            size = (directory / name).stat().st_size
            if size != known["bytes"]:
                return f"{name} has {size} bytes instead of {known['bytes']}"
            if sha256(directory / name) != known["sha256"]:
                return f"{name} does not match its SHA-256"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return None


def _canonical(files: Files) -> bytes:
    body = json.dumps(files, sort_keys=True)
    own = hashlib.sha256(body.encode()).hexdigest()
    return (json.dumps({"files": files, "sha256": own}, sort_keys=True, indent=1) + "\n").encode()
