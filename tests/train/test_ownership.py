"""One process alone trains in a directory, of this machine or of another that has the same disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pretune.errors import CannotCreateError
from pretune.train import ownership
from pretune.train.ownership import LOCK, Ownership


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said; the count goes on faster than it does for users."""
    monkeypatch.setattr(ownership, "BEAT", 0.05)
    return []


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As between two machines whose locks do not reach each other."""
    monkeypatch.setattr(ownership, "flock", lambda handle, *, wait: False)


def test_of_one_machine(tmp_path: Path, said: list[str]) -> None:
    first = Ownership(tmp_path, said.append)
    with pytest.raises(CannotCreateError, match=f"another process .pid {os.getpid()} on .*trains there"):
        Ownership(tmp_path, said.append)
    first.release()
    Ownership(tmp_path, said.append).release()
    assert said == []
    assert not (tmp_path / LOCK).exists(), "it stayed in every finished run"


@pytest.mark.usefixtures("no_locks")
def test_another_machine_that_trains_keeps_the_directory(tmp_path: Path, said: list[str]) -> None:
    first = Ownership(tmp_path, said.append)
    with pytest.raises(CannotCreateError, match=f"pid {os.getpid()} on"):
        Ownership(tmp_path, said.append)
    assert said == [f"{tmp_path}: {first._name} trained there; watching for 0 s whether it still does"]
    first.check()
    first.release()


def test_another_machine_that_was_killed_does_not(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its count stands still, whatever the clocks say; one of this machine need not be watched."""
    content = "pid 7 on far\nmachine {}, key ab\ncount 3\n"
    (tmp_path / LOCK).write_text(content.format("of-another-boot"))
    os.utime(tmp_path / LOCK, (2e9, 2e9))
    Ownership(tmp_path, said.append).release()
    assert len(said) == 1
    assert "pid 7 on far trained there" in said[0]
    monkeypatch.setattr(ownership, "_machine", lambda: "here")
    (tmp_path / LOCK).write_text(content.format("here"))
    Ownership(tmp_path, said.append).release()
    assert len(said) == 1


@pytest.mark.usefixtures("no_locks")
def test_who_watches_an_owner_that_ends_owns_the_file_that_is_there(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership.Ownership, "_beat", lambda self: None)
    first = Ownership(tmp_path, said.append)
    monkeypatch.setattr(ownership.time, "sleep", lambda seconds: first.release() if first.is_there else None)
    second = Ownership(tmp_path, said.append)
    assert second.is_there
    assert (tmp_path / LOCK).read_text() == f"{second._sign}count 0\n"
    second.release()


@pytest.mark.usefixtures("no_locks")
def test_who_slept_too_long_is_told(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership.Ownership, "_beat", lambda self: None)  # as a process that was stopped
    first = Ownership(tmp_path, said.append)
    second = Ownership(tmp_path, said.append)
    with pytest.raises(CannotCreateError, match="another process"):
        first.check()
    second.check()
    first.release()
    second.check()
    second.release()


def test_a_directory_that_is_gone(tmp_path: Path, said: list[str]) -> None:
    owner = Ownership(tmp_path, said.append)
    assert owner.is_there
    (tmp_path / LOCK).unlink()
    assert not owner.is_there
    time.sleep(0.1)
    assert not (tmp_path / LOCK).exists(), "its count makes no new file"
    owner.release()


def test_a_lock_that_its_owner_removes_meanwhile(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As who began nothing does when it ends: a lock on what it removed would keep nobody out."""
    real, calls = ownership.flock, list[int]()

    def flock(handle: int, *, wait: bool) -> bool:
        calls.append(handle)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
        return real(handle, wait=wait)

    monkeypatch.setattr(ownership, "flock", flock)
    owner = Ownership(tmp_path, said.append)
    assert owner.is_there
    with pytest.raises(CannotCreateError, match="trains there"):
        Ownership(tmp_path, said.append)
    owner.release()
