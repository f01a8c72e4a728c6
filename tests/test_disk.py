"""Writes that are whole or not at all: errors, kills at any moment, locks, and what is left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from diskkit import names, watch

from pretune import disk
from pretune.disk import new_file, replace_file, storage_errors
from pretune.errors import CannotCreateError, PretuneError, StorageError

_HEAD = """
import os
from pathlib import Path

from pretune import disk


def die(*ignored, **options):
    os.kill(os.getpid(), 9)


"""


def killed(code: str) -> None:
    """Runs code that kills its own process."""
    done = subprocess.run([sys.executable, "-c", _HEAD + code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


class TestNewFile:
    def test_appears_whole(self, tmp_path: Path) -> None:
        target = tmp_path / "below" / "a.txt"
        with new_file(target) as file:
            file.write(b"new")
            assert not target.exists()
        assert target.read_bytes() == b"new"
        assert names(tmp_path) == ["below", "below/a.txt"]
        assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
    def test_an_error_leaves_the_old_one(self, tmp_path: Path, error: type[BaseException]) -> None:
        replace_file(tmp_path / "a.txt", b"old")

        def fail() -> None:
            with new_file(tmp_path / "a.txt") as file:
                file.write(b"half")
                raise error

        with pytest.raises(error):
            fail()
        assert (tmp_path / "a.txt").read_bytes() == b"old"
        assert names(tmp_path) == ["a.txt"]

    def test_a_kill_leaves_the_old_one_and_the_next_writer_clears_up(self, tmp_path: Path) -> None:
        target = tmp_path / "a.txt"
        replace_file(target, b"old")
        killed(f"with disk.new_file(Path({str(target)!r})) as file:\n file.write(b'long half'); file.flush(); die()")
        assert target.read_bytes() == b"old"
        assert names(tmp_path) == [".a.txt.partial", "a.txt"]
        replace_file(target, b"new")
        assert target.read_bytes() == b"new"
        assert names(tmp_path) == ["a.txt"]

    def test_a_kill_between_sync_and_move(self, tmp_path: Path) -> None:
        target = tmp_path / "a.txt"
        replace_file(target, b"old")
        killed(f"Path.replace = die\ndisk.replace_file(Path({str(target)!r}), b'new')")
        assert target.read_bytes() == b"old"

    def test_two_writers(self, tmp_path: Path) -> None:
        with new_file(tmp_path / "a.txt") as file:
            file.write(b"first")
            with pytest.raises(CannotCreateError, match="another process is writing it"):
                replace_file(tmp_path / "a.txt", b"second")
        assert (tmp_path / "a.txt").read_bytes() == b"first"

    def test_a_folder_in_the_way(self, tmp_path: Path) -> None:
        with pytest.raises(CannotCreateError, match=r"cannot create the file: it is a folder.*Choose another path"):
            replace_file(tmp_path, b"")

    def test_a_device_is_written_to(self) -> None:
        replace_file(Path(os.devnull), b"x")
        assert not Path(os.devnull).is_file()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_a_full_disk(self) -> None:
        with pytest.raises(StorageError, match=r"/dev/full: cannot write the file: No space left.*MiB are free"):
            replace_file(Path("/dev/full"), b"x" * 100_000)

    def test_bytes_are_synced_before_the_move(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        events = watch(monkeypatch)
        replace_file(tmp_path / "a.txt", b"x")
        assert events == [".a.txt.partial", "move", tmp_path.name]


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, StorageError), (errno.EIO, StorageError), (errno.EACCES, CannotCreateError),
     (errno.EROFS, CannotCreateError), (errno.ENOTDIR, CannotCreateError)],
)  # fmt: skip
def test_errors_say_path_action_reason_and_remedy(tmp_path: Path, code: int, kind: type[PretuneError]) -> None:
    target = tmp_path / "nowhere" / "out"
    with pytest.raises(kind) as caught, storage_errors(target, "save the model", "the old one is intact"):
        raise OSError(code, os.strerror(code), "some file")
    message = str(caught.value)
    assert message.startswith(f"{target}: cannot save the model: {os.strerror(code)}")
    assert "; the old one is intact. " in message
    assert ("Free some space" in message) == (kind is StorageError)
    assert ("Choose another path" in message) == (kind is CannotCreateError)


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="x"), storage_errors(Path("out"), "write"):
        raise ValueError("x")


@pytest.mark.timeout(20)
def test_a_pipe_in_a_sealed_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    disk.seal(tmp_path)
    assert disk.problem(tmp_path) is None
    (tmp_path / "a").unlink()
    os.mkfifo(tmp_path / "a")
    assert disk.problem(tmp_path) == "a is no file"


def test_no_other_module_moves_files_into_place() -> None:
    """One atomic write of files and one of folders in the whole package: eight before."""
    words = (" os.replace(", ".rename(", "mkstemp", ".replace(target)", ".replace(path)", '.partial"', "os.fsync")
    allowed = {
        "disk.py": words,
        "new_folder.py": words,
        "interop/onnx_model.py": (".rename(",),  # of a node in a graph
        "interop/export_target.py": (".rename(",),  # a file that was read back in a draft of its own
        "train/checkpoint/store.py": (".rename(",),  # a checkpoint that is removed disappears in one step
        "train/directory.py": ('.partial"',),  # what older versions left
        "scratch.py": ('.partial"',),  # temporary folders, which are never put in place
    }
    root = Path(disk.__file__).parent
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(root).as_posix()
        assert [word for word in words if word in text and word not in allowed.get(name, ())] == [], name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
