"""Writes that are whole or not at all: errors, kills at any moment, locks, and what is left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from pretune import disk
from pretune.disk import NewFolder, new_file, replace_file, storage_errors
from pretune.errors import CannotCreateError, PretuneError, StorageError

_HEAD = """
import os
from pathlib import Path

from pretune import disk


def die(*ignored, **options):
    os.kill(os.getpid(), 9)


"""


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


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
        events = _watch(monkeypatch)
        replace_file(tmp_path / "a.txt", b"x")
        assert events == [".a.txt.partial", "move", tmp_path.name]


class TestNewFolder:
    def test_appears_whole(self, tmp_path: Path) -> None:
        with NewFolder(tmp_path / "below" / "out") as folder:
            (folder.path / "a").write_text("x")
            assert not folder.target.exists()
            folder.publish()
        assert names(tmp_path) == ["below", "below/out", "below/out/a"]

    @pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
    def test_unpublished_leaves_nothing(self, tmp_path: Path, error: type[BaseException] | None) -> None:
        def leave() -> None:
            with NewFolder(tmp_path / "out") as folder:
                (folder.path / "a").write_text("x")
                if error is not None:
                    raise error

        with nullcontext() if error is None else pytest.raises(error):
            leave()
        assert names(tmp_path) == []

    def test_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        fill(tmp_path / "out", "a")  # an empty one is no obstacle
        with pytest.raises(OSError, match="not empty"):
            fill(tmp_path / "out", "b")
        assert names(tmp_path / "out") == ["a"]
        fill(tmp_path / "out", "c", existing="replace")
        assert names(tmp_path) == ["out", "out/c"]

    def test_a_kill_clears_up(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        killed(f"with disk.NewFolder(Path({str(out)!r})) as folder:\n (folder.path / 'half').write_text('x'); die()")
        assert names(tmp_path) == [".out.partial", ".out.partial/half"]
        fill(out, "a")
        assert names(tmp_path) == ["out", "out/a"]

    @pytest.mark.parametrize("moves", [0, 1, 2])
    def test_a_kill_while_it_is_replaced(self, tmp_path: Path, moves: int) -> None:
        """At no moment are both the old one and the new one out of reach of the next writer."""
        out = tmp_path / "out"
        fill(out, "old")
        code = """
real, left = Path.rename, MOVES
def rename(source, target):
    global left
    left -= 1
    return die() if left < 0 else real(source, target)
Path.rename = rename
disk.shutil.rmtree = die
with disk.NewFolder(Path(OUT), 'replace') as folder:
    folder.publish()
"""
        killed(code.replace("MOVES", str(moves)).replace("OUT", repr(str(out))))
        with NewFolder(out, "replace"):
            assert names(out) == (["old"] if moves < 2 else [])
        assert names(tmp_path) == (["out", "out/old"] if moves < 2 else ["out"])

    def test_two_writers(self, tmp_path: Path) -> None:
        with NewFolder(tmp_path / "out") as folder:
            with pytest.raises(CannotCreateError, match="another process is writing it"), NewFolder(tmp_path / "out"):
                pass
            (folder.path / "a").write_text("x")
            folder.publish()
        assert names(tmp_path) == ["out", "out/a"]

    def test_another_writer_may_begin_when_it_is_published(self, tmp_path: Path) -> None:
        with NewFolder(tmp_path / "out") as first:
            first.publish()
            with NewFolder(tmp_path / "out", "replace") as second:
                (second.path / "a").write_text("x")
                first.__exit__()
                assert names(second.path) == ["a"]
                second.publish()
            first.__enter__()
        assert names(tmp_path / "out") == ["a"]

    def test_waiting(self, tmp_path: Path) -> None:
        out = str(tmp_path / "out")
        code = (
            "import sys\nfrom pathlib import Path\nfrom pretune.disk import NewFolder\n"
            f"with NewFolder(Path({out!r}), 'replace', wait=True) as folder:\n"
            "  (folder.path / sys.argv[1]).write_text('x')\n  print('in', flush=True)\n  sys.stdin.readline()\n"
            "  folder.publish()"
        )
        start = [sys.executable, "-c", code]
        pipes: dict[str, int] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([*start, "a"], **pipes) as first:
            assert first.stdout is not None
            assert first.stdout.readline() == b"in\n"
            with subprocess.Popen([*start, "b"], **pipes) as second:
                with pytest.raises(subprocess.TimeoutExpired):
                    second.wait(0.5)
                first.communicate(b"\n", timeout=30)
                second.communicate(b"\n", timeout=30)
        assert names(tmp_path) == ["out", "out/b"]

    def test_merging_moves_the_last_one_last_and_removes_what_is_obsolete(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, moved = tmp_path / "out", list[str]()
        fill(out, "config.json", "old.bin", "notes.txt")
        real = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), real(a, b)))
        with NewFolder(out, "merge") as folder:
            assert folder.path.parent == out, "on the target's own disk"
            for name in ("z.bin", "config.json", "below/a"):
                (folder.path / name).parent.mkdir(exist_ok=True)
                (folder.path / name).write_text("new")
            folder.publish(last="config.json", obsolete=lambda new: [out / "old.bin"] if "z.bin" in new else [])
        assert moved == ["a", "z.bin", "config.json"]
        assert names(tmp_path) == ["out", "out/below", "out/below/a", "out/config.json", "out/notes.txt", "out/z.bin"]
        assert (out / "config.json").read_text() == "new"
        assert (out / "notes.txt").read_text() == "x"

    def test_names_without_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out").mkdir()
        monkeypatch.chdir(tmp_path / "out")
        fill(Path("."), "a", existing="merge")
        assert names(tmp_path) == ["out", "out/a"]

    def test_it_is_synced_before_the_move(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        events = _watch(monkeypatch)
        fill(tmp_path / "out", "a")
        assert events == ["a", ".out.partial", "move", tmp_path.name]

    def test_a_file_system_without_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def flock(handle: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(disk.fcntl, "flock", flock)
        fill(tmp_path / "out", "a")
        replace_file(tmp_path / "b", b"x")
        assert names(tmp_path) == ["b", "out", "out/a"]


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


def test_no_other_module_moves_files_into_place() -> None:
    """One atomic write in the whole package: eight before."""
    words = (" os.replace(", ".rename(", "mkstemp", ".replace(target)", ".replace(path)", ".partial", "os.fsync")
    allowed = {
        "disk.py": words,
        "train/checkpoint/store.py": (".rename(",),  # a checkpoint that is removed disappears in one step
        "train/logging/trackers.py": ("os.fsync",),  # metrics are appended
        "interop/weights.py": ("os.fsync",),  # in a new folder
    }
    root = Path(disk.__file__).parent
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(root).as_posix()
        assert [word for word in words if word in text and word not in allowed.get(name, ())] == [], name


def fill(target: Path, *files: str, existing: disk.Existing = "refuse") -> None:
    with NewFolder(target, existing) as folder:
        for name in files:
            (folder.path / name).write_text("x")
        folder.publish()


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append(_name(handle)), fsync(handle)))
    for name in ("rename", "replace"):
        real: Callable[[Path, Path], Path] = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda a, b, real=real: (events.append("move"), real(a, b))[1])
    return events


def _name(handle: int) -> str:
    return os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
