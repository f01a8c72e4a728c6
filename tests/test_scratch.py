"""Temporary folders go with their block, and those of killed processes with the next."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import pretune
from pretune.errors import CannotCreateError
from pretune.scratch import ScratchFolder

HOLD = """
import sys
from pretune.scratch import ScratchFolder
with ScratchFolder("held") as folder:
    (folder / "below").mkdir()
    (folder / "below" / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_it_goes_with_its_block_or_its_object(temporary: Path) -> None:
    with ScratchFolder("block") as folder:
        assert re.fullmatch(r"pretune-block-\w{8}\.partial", folder.name)
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_text("x")
    assert not any(temporary.iterdir())
    held = ScratchFolder("object")
    (held.path / "file").write_text("x")
    del held
    gc.collect()
    assert not any(temporary.iterdir())


def test_the_folder_of_a_killed_process_goes_with_the_next_one_and_that_of_a_living_one_stays(temporary: Path) -> None:
    others = [temporary / name for name in ("pretune-notes", "pretune-evaluation-of-mine", "x-held-abcdefgh.partial")]
    for path in others:
        path.mkdir()
    (temporary / "pretune-file.partial").write_text("a file")
    (temporary / "pretune-link.partial").symlink_to(others[0])
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with ScratchFolder("mine"):
            assert (left / "below" / "file").is_file()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (left / "below" / "file").is_file()
    with ScratchFolder("mine") as folder, ScratchFolder("mine") as another:
        assert folder != another
        assert all(path.is_dir() for path in (folder, another))
        assert not left.exists()
    assert {path.name for path in temporary.iterdir()} == {
        *(path.name for path in others),
        *("pretune-file.partial", "pretune-link.partial"),
    }


def test_without_locks_nothing_of_others_is_removed(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (temporary / "pretune-held-abcdefgh.partial").mkdir()
    monkeypatch.setattr("pretune.scratch.flock", lambda handle, *, wait: False)
    with ScratchFolder("mine") as folder:
        assert folder.is_dir()
    assert [path.name for path in temporary.iterdir()] == ["pretune-held-abcdefgh.partial"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(temporary: Path) -> None:
    temporary.chmod(0o500)
    with pytest.raises(CannotCreateError, match=r"cannot make a temporary folder.*TMPDIR names another place"):
        ScratchFolder("mine")


def test_nothing_else_makes_temporary_folders() -> None:
    """What a process leaves in the system's folder when it is killed must be found again."""
    root = Path(pretune.__file__).parent
    makers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"\b(TemporaryDirectory|mkdtemp|mkstemp|NamedTemporaryFile|gettempdir)\b", path.read_text("utf-8"))
    }
    assert makers == {"scratch.py"}
