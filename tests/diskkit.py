"""What tests of writing share: file systems of their own, and something that happens at the n-th call."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "open")
"""Of `os`, through which all of the library's changes on disk go."""


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append(_name(handle)), fsync(handle)))
    for name in ("rename", "replace"):
        real: Callable[[Path, Path], Path] = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda a, b, real=real: (events.append("move"), real(a, b))[1])
    return events


def _name(handle: int) -> str:
    return os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))


@contextmanager
def mounted(path: Path, options: str = "size=1m") -> Iterator[None]:
    """A file system of its own at a folder."""
    path.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Forbids to make, move and remove entries of a folder, even for root."""
    if subprocess.run(["chattr", "+i", folder], capture_output=True).returncode:
        pytest.skip("no chattr here, or this user may not")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)


def at_call(setattr: Callable[..., None], number: int, act: Callable[[], None]) -> list[int]:
    """Has something happen at a call that changes the disk, counted from 0.

    Returns:
        How many calls are left before it; -1 and less when it has happened.
    """
    left = [number]
    for name in _CALLS:
        real = getattr(os, name)

        def call(*arguments: object, real: Callable[..., object] = real, name: str = name, **options: object) -> object:
            is_read = name == "open" and not int(str(arguments[1])) & (os.O_WRONLY | os.O_RDWR)
            if not is_read:
                left[0] -= 1
                if left[0] == -1:
                    act()
            return real(*arguments, **options)

        setattr(os, name, call)
    return left
