"""Makes sure that one process alone trains in a directory, also where several machines share a disk.

Processes of one machine keep each other out by a lock of the file system, which ends with the process. Between machines
such locks may not reach (an NFS mount without its lock service), so that the owner counts on in the lock's file. Who
finds there the name of another machine, or no locks at all, watches whether the count moves on. No clock is compared.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pretune.disk import flock, fsync, storage_errors
from pretune.errors import CannotCreateError

LOCK = ".lock"
BEAT = 5.0
"""Seconds between two counts of an owner; others watch for three times as long."""
_READ = 1000  # bytes of the file that are looked at


class Ownership:
    """Owns a directory until it is released.

    Args:
        directory: one that is there.
        say: told why it takes time to find out whether the directory is free.

    Raises:
        CannotCreateError: another process owns it, or it cannot be written there.
        StorageError: the disk is full or fails.
    """

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self.directory = directory
        self._name = f"pid {os.getpid()} on {platform.node()}"
        self._sign = f"{self._name}\nmachine {_machine()}, key {secrets.token_hex(8)}\n"
        self._count = 0
        self._released, self._writing = threading.Event(), threading.Lock()
        self._handle = self._open()
        try:
            self._take(say)
        except BaseException:
            os.close(self._handle)
            raise
        threading.Thread(target=self._beat, name="owner of a run", daemon=True).start()

    def _open(self) -> int:
        with storage_errors(self.directory, "write there", "nothing was begun"):
            return os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def _take(self, say: Callable[[str], None]) -> None:
        try:
            has_locks = self._lock()
        except BlockingIOError:
            raise self._refusal(self._read()) from None
        before = self._read()
        if before and not (has_locks and f"machine {_machine()}," in before):
            say(
                f"{self.directory}: {_owner(before)} trained there; watching for {3 * BEAT:.0f} s whether it still does"
            )
            end = time.monotonic() + 3 * BEAT
            while time.monotonic() < end:
                time.sleep(BEAT / 5)
                if (now := self._read()) and now != before:
                    raise self._refusal(now)
            try:
                self._lock()
            except BlockingIOError:
                raise self._refusal(self._read()) from None
        self._write()

    def _lock(self) -> bool:
        """Locks the file that is there; whether the file system has locks.

        Raises:
            BlockingIOError: another process of this machine has it.
        """
        has_locks = flock(self._handle, wait=False)
        while not self.is_there:  # an owner that ended removed it meanwhile: others would lock another file
            removed, self._handle = self._handle, self._open()
            os.close(removed)
            has_locks = flock(self._handle, wait=False)
        return has_locks

    def _refusal(self, content: str) -> CannotCreateError:
        return CannotCreateError(
            f"{self.directory}: another process ({_owner(content)}) trains there; wait, or give another --output"
        )

    def _read(self) -> str:
        """What the lock's file says now; opened anew, which makes a network's disk look."""
        with suppress(OSError), (self.directory / LOCK).open("rb") as file:
            return file.read(_READ).decode(errors="replace")
        return ""

    def _write(self) -> None:
        content = f"{self._sign}count {self._count}\n".encode()
        os.pwrite(self._handle, content, 0)
        os.ftruncate(self._handle, len(content))
        fsync(self._handle)

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            self._count += 1
            with self._writing, suppress(OSError):  # the disk may come back; what must be saved says what is wrong
                if not self._released.is_set() and self.is_there and self._read().startswith(self._sign):
                    self._write()

    @property
    def is_there(self) -> bool:
        """Whether the directory is still the one that was taken."""
        try:
            return os.path.samestat((self.directory / LOCK).stat(), os.fstat(self._handle))
        except OSError:
            return False

    def check(self) -> None:
        """Refuses to go on in a directory that others took while this process did not answer.

        Raises:
            CannotCreateError: naming the new owner.
        """
        content = self._read()
        if content and not content.startswith(self._sign):
            raise self._refusal(content)

    def release(self) -> None:
        """Gives the directory up, and removes the file: nobody need watch, and the user need not wonder what it is."""
        self._released.set()
        with self._writing:
            with suppress(OSError):
                if self.is_there and self._read().startswith(self._sign):
                    (self.directory / LOCK).unlink()
            os.close(self._handle)


def is_owned(directory: Path) -> bool:
    """Whether a process trains in a directory, as its lock's file looks; nothing is locked or written.

    An owner that was killed a moment ago counts as one for as long as others would watch it, unless it ran here.
    """
    try:
        content = (directory / LOCK).read_text(encoding="utf-8", errors="replace")[:_READ]
        age = time.time() - (directory / LOCK).stat().st_mtime
    except OSError:
        return False
    if not content or age > 3 * BEAT:
        return False
    number, _, node = _owner(content).removeprefix("pid ").partition(" on ")
    is_here = node == platform.node() and f"machine {_machine()}," in content and number.isdigit()
    return not is_here or _is_alive(int(number))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _owner(content: str) -> str:
    return content.partition("\n")[0].strip() or "unknown"


def _machine() -> str:
    """Which running system this is: locks reach all its processes, whatever its containers are called."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()
