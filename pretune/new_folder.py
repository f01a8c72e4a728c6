"""Fills folders completely or not at all, where people keep them: mount points, links, below folders of others.

    target is not there:   <parent>/.NAME.partial  --synced-->  one move
    target is there:       <target>/.partial       --synced, with a plan of the moves-->  file by file

The plan is the point of no return: a process killed before it leaves what the next writer clears away, one killed after
it leaves what the next writer finishes. Each writer holds a lock, which ends with the process.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pretune.disk import flock, fsync, lock, make_folders, remove_empty, storage_errors, sync, write_synced
from pretune.errors import CannotCreateError, DataError

Existing = Literal["refuse", "replace", "merge"]
_INSIDE, _PLAN = ".partial", ".plan.json"


class NewFolder:
    """A folder that is filled at `path` and appears at its target when `publish` is called; a context manager.

    A target that is not there appears in one move. One that is there (an empty folder, a mount point, a link to another
    disk) is filled from a folder inside of it: the folder above may be another disk, or not writable.

    Attributes:
        target: where the folder shall be.
        path: the folder to fill, empty at first, on the target's disk; gone at the end of the block.

    Args:
        existing: what happens to a target that is there: "refuse" fills it only if it is empty, "replace" removes all
            other files, "merge" replaces file by file and keeps its other files.
        wait: wait for another process that is writing the same target, instead of refusing.

    Raises:
        CannotCreateError: another process is writing it, it is not empty and shall be, or it cannot be made there.
        StorageError: the disk is full or fails.
    """

    def __init__(self, target: Path, existing: Existing = "refuse", *, wait: bool = False) -> None:
        self.target = target
        self.path = Path()
        self._existing, self._wait = existing, wait
        self._real = Path(os.path.realpath(target))
        self._parents: list[Path] = []
        self._handle, self._is_gone = -1, False

    def __enter__(self) -> Self:
        with storage_errors(self.target, "create the folder"):
            if self._real.exists() and not self._real.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is a file")
            self._parents = make_folders(self._real.parent)
            try:
                self.path, self._handle = _open_draft(self._real, self.target, self._wait)
            except BaseException:
                remove_empty(self._parents)
                raise
            self._is_gone = True  # what lies there may be the only copy
            try:
                _settle(self.path, self._real)
                self._is_gone = False
                self._refuse_contents()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if not self._is_gone:  # else what lies there now is another process's, or waits to be put in place
            shutil.rmtree(self.path, ignore_errors=True)
            remove_empty(self._parents)
        os.close(self._handle)

    def _refuse_contents(self) -> None:
        if self._existing == "refuse" and self._real.is_dir() and set(contents(self._real)) - {self.path}:
            raise CannotCreateError(f"{self.target}: exists already; remove it, or give another --output")

    def publish(self, last: str = "", obsolete: Callable[[Sequence[str]], Iterable[Path]] = lambda names: ()) -> None:
        """Brings everything in the folder to the disk and to its target.

        In a target that is there, the old file named by `last` goes first and the new one comes last, so that no reader
        takes a mixture for whole. Killed meanwhile, the next writer goes on (see `settle`).

        Args:
            last: the file without which the folder is not whole.
            obsolete: given the names of all new files, names those of the target to remove, where files are merged.

        Raises:
            OSError: the disk is full or fails; nothing was changed at the target.
            CannotCreateError: the target is not empty and shall be.
            StorageError, CannotCreateError: the files could not be put in place; they are complete in `path`.
        """
        mode = self.path.stat().st_mode & 0o666
        for entry in self.path.rglob("*"):
            if entry.is_file():
                entry.chmod(mode)  # some libraries write files that nobody else can read
            sync(entry)
        sync(self.path)
        if not self._real.exists():
            self.path.rename(self._real)
            self._is_gone = True
            sync(self._real.parent)
            return
        self._refuse_contents()
        plan = self._plan(last, obsolete)
        write_synced(self.path / f"{_PLAN}.new", json.dumps(plan).encode())
        os.replace(self.path / f"{_PLAN}.new", self.path / _PLAN)
        sync(self.path)
        self._is_gone = True
        kept = f"all of them are in {self.path}, and the next command that writes here puts them in place"
        with storage_errors(self.target, "put the new files in place", kept):
            _carry_out(self.path, self._real)
            shutil.rmtree(self.path)

    def _plan(self, last: str, obsolete: Callable[[Sequence[str]], Iterable[Path]]) -> dict[str, Any]:
        names = [path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()]
        names.sort(key=lambda name: (name == last, name))
        if self._existing == "replace":
            tops = set(contents(self._real)) - {self.path}
            there = {path for top in tops for path in (top, *([] if top.is_symlink() else top.rglob("*")))}
            old = {path for path in there if path.is_symlink() or not path.is_dir()} - {self._real / n for n in names}
        else:
            old = {self._real / Path(os.path.relpath(path, self.target)) for path in obsolete(names)}
            for name in names:
                _refuse_way(self._real, name)
        obsolete_names = sorted(str(path.relative_to(self._real)) for path in old)
        if (outside := _leading_out((*names, *obsolete_names), self.path, self._real)) is not None:
            raise CannotCreateError(
                f"{self.target}: {outside!r} would be written outside of it, through a link; remove the link, or "
                "choose another path"
            )
        return {"files": names, "last": last, "obsolete": obsolete_names}


def contents(folder: Path) -> list[Path]:
    """What a folder holds, but for what every disk of its own has."""
    return [path for path in folder.iterdir() if path.name != "lost+found"]


def refuse_cut_off(folder: Path) -> None:
    """Refuses to read a folder whose main file is missing, because its writer was killed.

    Raises:
        DataError: with the remedy; nothing is refused where no writer left anything.
    """
    if (folder / _INSIDE / _PLAN).exists():
        raise DataError(
            f"{folder}: the command that wrote it was killed while it put its files in place; start the same command "
            "again, which does the rest"
        )


def settle(target: Path) -> None:
    """Finishes or clears away what killed writers of a folder left; what a living one is writing stays.

    Raises:
        CannotCreateError, StorageError: the disk does not let it.
    """
    real = Path(os.path.realpath(target))
    for path in (_beside(real), real / _INSIDE):
        if path.is_dir() and not path.is_symlink():
            with storage_errors(target, "clear up what a killed process left"):
                _take_over(path, real, target)


def sweep(folder: Path) -> None:
    """Finishes or clears away what killed writers of anything in a folder left; what living ones are writing stays.

    Raises:
        CannotCreateError, StorageError: the disk does not let it.
    """
    settle(folder)
    real = Path(os.path.realpath(folder))
    for path in real.glob(".?*.partial"):
        if path.is_symlink():
            continue
        with storage_errors(folder, "clear up what a killed process left"):
            _take_over(path, real / path.name[1 : -len(".partial")], folder)


def try_saving(folder: Path) -> list[str]:
    """Does in a folder that is there, once and with little, all that saving into it needs.

    Returns:
        What the file system cannot do, a sentence each.

    Raises:
        CannotCreateError: no permission.
        StorageError: the disk is full or fails.
    """
    trial = folder / ".trial.partial"
    with storage_errors(folder, "save there", "nothing was begun"):
        try:
            for existing in ("refuse", "merge"):
                draft = NewFolder(trial, existing)
                draft.target = folder  # for errors
                with draft:
                    write_synced(draft.path / "trial", b"trial")
                    draft.publish(last="trial")
            handle = os.open(trial / "trial", os.O_RDWR)
            try:
                cannot = [] if fsync(handle) else ["cannot sync files: what was saved may be lost with the power"]
                cannot += [] if flock(handle) else ["cannot lock files: start no two processes on one output"]
            finally:
                os.close(handle)
        except BaseException:
            shutil.rmtree(trial, ignore_errors=True)
            raise
        shutil.rmtree(trial)
    return [f"{folder}: the file system {each}" for each in cannot]


def _beside(real: Path) -> Path:
    return real.parent / f".{real.name}.partial"


def _open_draft(real: Path, target: Path, wait: bool) -> tuple[Path, int]:
    """The folder in which a target is made, with its lock; the target may come to be while another is waited for."""
    while True:
        path = real / _INSIDE if real.is_dir() else _beside(real)
        handle = lock(path, target, os.O_RDONLY, folder=True, wait=wait)
        if path.is_relative_to(real) == real.is_dir():
            return path, handle
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _take_over(path: Path, real: Path, target: Path) -> None:
    """Does what `settle` says with one file or folder, if no living process holds it."""
    is_folder = path.is_dir()
    try:
        handle = lock(path, target, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT, folder=is_folder)
    except CannotCreateError:
        return
    try:
        if is_folder:
            _settle(path, real)
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _settle(path: Path, real: Path) -> None:
    """Puts in place what a killed process had complete in its folder, or empties it."""
    if (path / _PLAN).exists() and real.is_dir():
        _carry_out(path, real)
    for leftover in path.iterdir():  # the folder itself stays: its lock would go with it
        shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()


def _carry_out(path: Path, real: Path) -> None:
    """Puts files in place as their plan says; begun anew after any interruption, it ends in the same."""
    plan = _read_plan(path, real)
    files, last = plan["files"], plan["last"]
    if last and (path / last).exists():
        (real / last).unlink(missing_ok=True)
        sync((real / last).parent)
    for name in plan["obsolete"]:
        (real / name).unlink(missing_ok=True)
        for folder in Path(name).parents[:-1]:
            if (real / folder).is_dir() and not any((real / folder).iterdir()):
                (real / folder).rmdir()
    folders = {real, *((real / name).parent for name in files)}
    for name in files:
        if (path / name).exists():
            make_folders((real / name).parent)
            os.replace(path / name, real / name)
    for folder in folders:
        sync(folder)


def _read_plan(path: Path, real: Path) -> dict[str, Any]:
    """A plan that moves and removes nothing outside of its two folders, whoever wrote it.

    Raises:
        DataError: it does, or it is no plan.
    """
    try:
        plan = json.loads((path / _PLAN).read_bytes())
        last, files, obsolete = plan["last"], plan["files"], plan["obsolete"]
        outside = _leading_out((*files, *obsolete, *([last] if last else [])), path, real)
        if outside is not None:
            raise ValueError(f"{outside!r} leads out of {real}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path / _PLAN}: is not what pretune leaves when it is killed ({error}); remove {path} if it is not yours"
        ) from None
    return {"files": files, "last": last, "obsolete": obsolete}


def _leading_out(names: Iterable[str], *folders: Path) -> str | None:
    """The first name that leads out of one of these folders, by itself or through a link; None if none does."""
    for name in names:
        parents = ((folder, Path(os.path.realpath((folder / name).parent))) for folder in folders)
        is_inside = all(parent.is_relative_to(folder) for folder, parent in parents)
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name or not is_inside:
            return name
    return None


def _refuse_way(real: Path, name: str) -> None:
    """Refuses what cannot be replaced by a file, before anything is."""
    if (real / name).is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
    for folder in Path(name).parents:
        if (real / folder).exists() and not (real / folder).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is no folder")
