"""Folders that are whole or not at all: wherever they lie, killed or failing at any call, beside other writers."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from diskkit import at_call, mounted, names, unwritable, watch

from pretune import disk
from pretune.disk import replace_file
from pretune.errors import CannotCreateError, DataError, PretuneError, StorageError
from pretune.new_folder import Existing, NewFolder, settle, sweep, try_saving


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such a disk, so that a thousand syncs take no time."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


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

    def test_two_writers(self, tmp_path: Path) -> None:
        with NewFolder(tmp_path / "out") as folder:
            with pytest.raises(CannotCreateError, match="another process is writing it"), NewFolder(tmp_path / "out"):
                pass
            (folder.path / "a").write_text("x")
            folder.publish()
        assert names(tmp_path) == ["out", "out/a"]

    def test_waiting(self, tmp_path: Path) -> None:
        out = str(tmp_path / "out")
        code = (
            "import sys\nfrom pathlib import Path\nfrom pretune.new_folder import NewFolder\n"
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
        assert moved == [".plan.json", "a", "z.bin", "config.json"]
        assert names(tmp_path) == ["out", "out/below", "out/below/a", "out/config.json", "out/notes.txt", "out/z.bin"]
        assert (out / "config.json").read_text() == "new"
        assert (out / "notes.txt").read_text() == "x"

    def test_names_without_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out").mkdir()
        monkeypatch.chdir(tmp_path / "out")
        fill(Path("."), "a", existing="merge")
        assert names(tmp_path) == ["out", "out/a"]

    def test_it_is_synced_before_the_move(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        events = watch(monkeypatch)
        fill(tmp_path / "out", "a")
        assert events == ["a", ".out.partial", "move", tmp_path.name]

    def test_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        fill(tmp_path / "out", "a")  # an empty one is no obstacle
        with pytest.raises(CannotCreateError, match="out: exists already; remove it"):
            fill(tmp_path / "out", "b")
        assert names(tmp_path) == ["out", "out/a"]
        fill(tmp_path / "out", "c", "below/d", existing="replace")
        assert names(tmp_path) == ["out", "out/below", "out/below/d", "out/c"]
        fill(tmp_path / "out", "c", existing="replace")
        assert names(tmp_path) == ["out", "out/c"], "and the folders that are empty then"

    def test_another_writer_may_begin_when_it_is_published(self, tmp_path: Path) -> None:
        with NewFolder(tmp_path / "out", "merge") as first:
            first.publish()
            with NewFolder(tmp_path / "out", "replace") as second:
                (second.path / "a").write_text("x")
                first.__exit__()
                assert names(second.path) == ["a"]
                second.publish()
            first.__enter__()
        assert names(tmp_path / "out") == ["a"]

    @pytest.mark.parametrize("existing", ["refuse", "replace", "merge"])
    def test_a_file_in_its_place(self, tmp_path: Path, existing: Existing) -> None:
        (tmp_path / "out").write_text("x")
        with pytest.raises(CannotCreateError, match=r"out: cannot create the folder: it is a file"):
            fill(tmp_path / "out", "a", existing=existing)
        assert names(tmp_path) == ["out"]

    def test_a_linked_folder_in_what_is_replaced(self, tmp_path: Path) -> None:
        fill(tmp_path / "mine", "a")
        fill(tmp_path / "out", "a", "below/b")
        for name in ("out/link", "out/below/link"):
            (tmp_path / name).symlink_to(tmp_path / "mine")
        fill(tmp_path / "out", "c", existing="replace")
        assert names(tmp_path) == ["mine", "mine/a", "out", "out/c"], "the links go, what they lead to stays"

    @pytest.mark.parametrize("existing", ["replace", "merge"])
    def test_a_link_that_leads_out_is_refused_before_anything_changes(self, tmp_path: Path, existing: Existing) -> None:
        fill(tmp_path / "mine", "a")
        fill(tmp_path / "out", "old")
        (tmp_path / "out" / "below").symlink_to(tmp_path / "mine")
        before = names(tmp_path)
        with pytest.raises(CannotCreateError, match=r"out: 'below/a' would be written outside of it, through a link"):
            fill(tmp_path / "out", "below/a", existing=existing)
        assert names(tmp_path) == before
        assert (tmp_path / "mine" / "a").read_text() == "x"

    @pytest.mark.parametrize("name", ["a", "a/b"])
    def test_a_folder_or_file_in_the_way_is_refused_before_anything_changes(self, tmp_path: Path, name: str) -> None:
        way = tmp_path / "out" / "a"
        (way / "x").mkdir(parents=True) if name == "a" else (way.parent.mkdir(), way.write_text("x"))
        before = names(tmp_path)
        with pytest.raises(CannotCreateError), disk.storage_errors(tmp_path / "out", "save"):
            fill(tmp_path / "out", name, existing="merge")
        assert names(tmp_path) == before

    def test_others_may_read_what_is_written(self, tmp_path: Path) -> None:
        """As `safetensors` writes files that only their owner may read."""
        with NewFolder(tmp_path / "out") as folder:
            (folder.path / "a").touch(0o600)
            folder.publish()
        (tmp_path / "b").touch()
        assert (tmp_path / "out" / "a").stat().st_mode == (tmp_path / "b").stat().st_mode

    def test_a_file_system_without_locks_and_syncs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: object) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        assert try_saving(tmp_path) == []
        monkeypatch.setattr(disk.fcntl, "flock", refuse)
        monkeypatch.setattr(os, "fsync", refuse)
        first, second = try_saving(tmp_path)
        assert "cannot sync files" in first
        assert "cannot lock files" in second
        fill(tmp_path / "out", "a")
        replace_file(tmp_path / "b", b"x")
        assert names(tmp_path) == ["b", "out", "out/a"]


class TestWhereFoldersLie:
    """A mount point (as of every container's volume), a link to another disk, a folder above that is not writable."""

    @pytest.mark.parametrize("existing", ["refuse", "replace", "merge"])
    def test_a_mount_point(self, tmp_path: Path, existing: Existing) -> None:
        with mounted(tmp_path / "out"):
            assert try_saving(tmp_path / "out") == []
            fill(tmp_path / "out", "a", "below/b", existing=existing)
            assert names(tmp_path) == ["out", "out/a", "out/below", "out/below/b"]

    @pytest.mark.parametrize("is_there", [True, False])
    def test_a_link_to_another_disk(self, tmp_path: Path, is_there: bool) -> None:
        with mounted(tmp_path / "disk"):
            if is_there:
                (tmp_path / "disk" / "real").mkdir()
            (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
            fill(tmp_path / "out", "a")
            fill(tmp_path / "out", "b", existing="merge")
            assert (tmp_path / "out").is_symlink()
            assert names(tmp_path) == ["disk", "disk/real", "disk/real/a", "disk/real/b", "out"]

    def test_a_file_that_is_a_link_to_another_disk(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "disk"):
            (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
            replace_file(tmp_path / "out", b"x")
            assert (tmp_path / "out").is_symlink()
            assert names(tmp_path) == ["disk", "disk/real", "out"]

    def test_the_folder_above_is_not_writable(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with unwritable(tmp_path):
            fill(tmp_path / "out", "a")
            fill(tmp_path / "out", "b", existing="replace")
            with pytest.raises(CannotCreateError, match=r"new: cannot create the folder: .*; nothing was left"):
                fill(tmp_path / "new", "a")
        assert names(tmp_path) == ["out", "out/b"]

    def test_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out").mkdir()
        monkeypatch.chdir(tmp_path / "out")
        fill(Path("."), "a")
        fill(Path("../out"), "b", existing="merge")
        assert names(tmp_path) == ["out", "out/a", "out/b"]

    def test_what_cannot_be_saved_is_told_before_anything_is_done(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "out", "ro"), pytest.raises(CannotCreateError, match=r"out: cannot.*Read-only"):
            try_saving(tmp_path / "out")
        with (
            mounted(tmp_path / "out", "nr_inodes=2"),
            pytest.raises(StorageError, match=r"out: cannot .*No space"),
        ):
            try_saving(tmp_path / "out")
        assert names(tmp_path) == ["out"]

    def test_a_failure_leaves_no_folder_above(self, tmp_path: Path) -> None:
        for write in (lambda: NewFolder(tmp_path / "a" / "b" / "out"), lambda: disk.new_file(tmp_path / "a" / "out")):
            with pytest.raises(ValueError, match="x"), write():
                raise ValueError("x")
        assert names(tmp_path) == []


def _absent(top: Path) -> None:
    (top / "other").touch()


def _empty(top: Path) -> None:
    (top / "out").mkdir()


def _full(top: Path) -> None:
    fill(top / "out", "a", "below/b", "config.json", "old/c")


@pytest.mark.parametrize(
    ("prepare", "existing"),
    [
        pytest.param(_absent, "refuse", id="absent"),
        pytest.param(_empty, "refuse", id="empty", marks=pytest.mark.slow),
        pytest.param(_full, "replace", id="replaced"),
        pytest.param(_full, "merge", id="merged", marks=pytest.mark.slow),
    ],
)
class TestAnyCall:
    """Killed, or failing, at each call that changes the disk: the old content or the new one, and nothing else."""

    def test_killed(self, quick_path: Path, prepare: Callable[[Path], None], existing: Existing) -> None:
        states, was_killed = list[dict[str, str]](), True
        while was_killed:
            top = quick_path / str(len(states))
            top.mkdir()
            prepare(top)
            old = _contents(top)
            was_killed = _in_a_child(lambda top=top: _write(top, existing), len(states))  # type: ignore[misc]
            settle(top / "out")
            states.append(_contents(top))
            if states[-1] == old:
                _write(top, existing)
        assert len(states) > 10
        assert all(state in (states[0], states[-1]) for state in states)
        assert states[0] == old != states[-1] == _contents(quick_path / "0")

    def test_an_error(
        self, quick_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Path], None], existing: Existing
    ) -> None:
        states, is_over = list[dict[str, str]](), False
        while not is_over:
            top = quick_path / str(len(states))
            top.mkdir()
            prepare(top)
            old = _contents(top)
            with monkeypatch.context() as patch:
                left = at_call(patch.setattr, len(states), _fail)
                with suppress(PretuneError, OSError):
                    _write(top, existing)
            is_over = left[0] >= 0
            settle(top / "out")
            if _contents(top) == old:
                _write(top, existing)
            states.append(_contents(top))
        assert len(states) > 10
        assert [state for state in states if state != states[0]] == []


class TestOthersLeftovers:
    def test_a_living_writer_keeps_its_folder(self, tmp_path: Path) -> None:
        with NewFolder(tmp_path / "out") as folder, disk.new_file(tmp_path / "a.txt") as file:
            (folder.path / "a").write_text("x")
            file.write(b"x")
            settle(tmp_path / "out")
            sweep(tmp_path)
            folder.publish()
        assert names(tmp_path) == ["a.txt", "out", "out/a"]

    def test_those_of_killed_ones_go(self, tmp_path: Path) -> None:
        for name in (".out.partial/below", ".partial"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / ".a.txt.partial").touch()
        (tmp_path / ".notes").touch()
        sweep(tmp_path)
        assert names(tmp_path) == [".notes"]

    @pytest.mark.parametrize("name", ["../other", "/tmp/pretune-test", "out/x"])
    @pytest.mark.parametrize("field", ["files", "obsolete"])
    def test_a_plan_of_others_moves_and_removes_nothing_outside(self, tmp_path: Path, field: str, name: str) -> None:
        """As a folder that was fetched from somewhere may hold one."""
        draft = tmp_path / "run" / ".partial"
        (draft / "out").mkdir(parents=True)
        (draft / "out" / "x").touch()
        (tmp_path / "run" / "out").symlink_to(tmp_path)
        (tmp_path / "x").write_text("mine")
        (draft / ".plan.json").write_text(json.dumps({"files": [], "obsolete": [], "last": "", field: [name]}))
        before = names(tmp_path)
        for act in (settle, sweep, try_saving):
            with pytest.raises(DataError, match=r"leads out of .*run.*; remove .*\.partial if"):
                act(tmp_path / "run") if act is not try_saving else fill(tmp_path / "run", existing="merge")
        assert names(tmp_path) == before
        assert (tmp_path / "x").read_text() == "mine"
        for text in ("[]", "{", '{"files": 1}'):
            (draft / ".plan.json").write_text(text)
            with pytest.raises(DataError, match="is not what pretune leaves"):
                settle(tmp_path / "run")

    @pytest.mark.parametrize("field", ["files", "last"])
    def test_a_plan_of_others_takes_nothing_from_outside(self, tmp_path: Path, field: str) -> None:
        draft = tmp_path / "run" / ".partial"
        draft.mkdir(parents=True)
        (tmp_path / "x").write_text("mine")
        (draft / "in").symlink_to(tmp_path)
        plan = {"files": [], "obsolete": [], "last": "", field: "in/x" if field == "last" else ["in/x"]}
        (draft / ".plan.json").write_text(json.dumps(plan))
        with pytest.raises(DataError, match=r"'in/x' leads out of .*run"):
            settle(tmp_path / "run")
        (draft / ".plan.json").unlink()
        settle(tmp_path / "run")  # the link goes, what it leads to stays
        assert names(tmp_path) == ["run", "x"]
        assert (tmp_path / "x").read_text() == "mine"

    def test_who_finishes_for_a_killed_writer_keeps_others_out(self, tmp_path: Path) -> None:
        draft = tmp_path / "out" / ".partial"
        draft.mkdir(parents=True)
        (draft / "a").write_text("x")
        (draft / ".plan.json").write_text(json.dumps({"files": ["a"], "obsolete": [], "last": ""}))
        with NewFolder(tmp_path / "out", "merge") as folder:
            (folder.path / "b").write_text("x")
            settle(tmp_path / "out")
            with pytest.raises(CannotCreateError, match="another process is writing it"):
                fill(tmp_path / "out", "c", existing="merge")
            folder.publish()
        assert names(tmp_path) == ["out", "out/a", "out/b"]

    def test_links_of_others_are_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "a").write_text("mine")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".partial").symlink_to(tmp_path / "mine")
        (tmp_path / "run" / ".b.partial").symlink_to(tmp_path / "mine" / "a")
        settle(tmp_path / "run")
        sweep(tmp_path / "run")
        with pytest.raises(CannotCreateError):
            fill(tmp_path / "run", "x", existing="merge")
        with pytest.raises(CannotCreateError):
            replace_file(tmp_path / "run" / "b", b"x")
        assert (tmp_path / "mine" / "a").read_text() == "mine"


def fill(target: Path, *files: str, existing: Existing = "refuse") -> None:
    with NewFolder(target, existing) as folder:
        for name in files:
            (folder.path / name).parent.mkdir(exist_ok=True)
            (folder.path / name).write_text("x")
        folder.publish()


def _write(top: Path, existing: Existing) -> None:
    with NewFolder(top / "out", existing) as folder:
        for name in ("a", "below/b", "new", "config.json"):
            (folder.path / name).parent.mkdir(exist_ok=True)
            (folder.path / name).write_text("new")
        folder.publish("config.json", lambda names: [path for path in (top / "out" / "old" / "c",) if path.exists()])


def _contents(top: Path) -> dict[str, str]:
    """All files, and folders that are empty."""
    entries = {path.relative_to(top).as_posix(): path for path in top.rglob("*")}
    return {name: path.read_text() if path.is_file() else "" for name, path in entries.items()}


def _fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _in_a_child(action: Callable[[], object], number: int) -> bool:
    """Whether a child process that does something is killed at a call that changes the disk."""
    child = os.fork()
    if not child:
        at_call(setattr, number, lambda: os.kill(os.getpid(), signal.SIGKILL))
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
