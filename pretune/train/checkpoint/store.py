"""Writes and reads checkpoints, each complete and verified, or not there at all.

A checkpoint is made in a temporary directory, each file synced, a manifest of sizes and SHA-256 written last, then the
directory is renamed. Readers use the newest one whose every byte is as the manifest says. Nothing older is removed
before enough newer ones have been read back.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from pretune.config import Config
from pretune.disk import problem, seal, storage_errors
from pretune.interop.run_names import checkpoint_path, checkpoint_steps
from pretune.new_folder import NewFolder

_TEMPORARY = ".checkpoint-"


class CheckpointConfig(Config):
    """When to save and what to keep.

    Attributes:
        every: steps between two checkpoints; without it, `minutes` alone decides.
        minutes: maximal time between two checkpoints.
        keep: how many of the last checkpoints are kept.
        best: also keep the checkpoint with the best evaluation.
    """

    every: int | None = Field(None, ge=1)
    minutes: float = Field(10.0, gt=0)
    keep: int = Field(2, ge=1)
    best: bool = True


@dataclass(frozen=True)
class Rejected:
    """A checkpoint that was not used, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name}: {self.reason}"


@dataclass
class CheckpointStore:
    """The checkpoints of one run directory.

    Attributes:
        run: the run directory.
        keep: makes sure, before something is saved, that the run directory is still there; returns what to say of it.
        verified: names of those whose bytes this process has read back and found right.
    """

    run: Path
    verified: set[str] = field(default_factory=set)
    keep: Callable[[], str | None] = lambda: None

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return checkpoint_path(self.run, step)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint directory, newest first, good or not."""
        try:
            return checkpoint_steps(self.run)
        except FileNotFoundError:  # the run directory was removed; the next save makes it again, and says so
            return []

    def remove_incomplete(self) -> None:
        """Remove what killed processes left half-written. Only the holder of the run's lock may call this."""
        for entry in self.run.glob(f"{_TEMPORARY}*"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def newest(self) -> tuple[Path | None, list[Rejected]]:
        """The newest checkpoint that verifies, and those above it that do not."""
        rejected: list[Rejected] = []
        for step in self.steps():
            reason = problem(self.path(step))
            if reason is None:
                self.verified.add(self.path(step).name)
                return self.path(step), rejected
            rejected.append(Rejected(self.path(step), reason))
        return None, rejected

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Save a checkpoint, all or nothing.

        Args:
            write: fills an empty directory with files.

        Raises:
            StorageError: the disk is full or fails; earlier checkpoints are as they were.
        """
        target = self.path(step)
        if target.name in self.verified and problem(target) is None:
            return target
        kept = "nothing was left half-written and earlier checkpoints are intact"
        with storage_errors(target, "save the checkpoint", kept):
            if target.exists() or target.is_symlink():
                self._remove(target)  # it did not verify
            with NewFolder(target) as folder:
                write(folder.path)
                seal(folder.path)
                folder.publish()
        self.verified.add(target.name)
        return target

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, which a run has given up."""
        for each in self.steps():
            if each > step:
                self._remove(self.path(each))

    def prune(self, keep: int, best: int | None, good_states: Collection[int] = ()) -> None:
        """Remove all but the last `keep` verified checkpoints, the best, and those that the run may go back to.

        Nothing is removed before so many have been verified.
        """
        last: list[int] = []
        for step in self.steps():
            if len(last) == keep:
                break
            if self.path(step).name in self.verified or problem(self.path(step)) is None:
                self.verified.add(self.path(step).name)
                last.append(step)
        if len(last) < keep:
            return
        for step in self.steps():
            if step < last[-1] and step != best and step not in good_states:
                self._remove(self.path(step))
        self.remove_incomplete()

    def _remove(self, path: Path) -> None:
        hidden = self.run / f"{_TEMPORARY}old.{uuid.uuid4().hex[:8]}"
        self.verified.discard(path.name)
        with suppress(OSError):
            path.rename(hidden)  # at once: a half-removed checkpoint is never seen
        self.remove_incomplete()
