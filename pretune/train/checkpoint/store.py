"""Writes and reads checkpoints, each complete and verified, or not there at all.

A checkpoint is made in a temporary directory, each file synced, a manifest of sizes and SHA-256 written last, then the
directory is renamed. Readers use the newest one whose every byte is as the manifest says. Nothing older is removed
before enough newer ones have been read back.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from pretune.config import Config
from pretune.disk import NewFolder, sha256, storage_errors, sync, write_synced

MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_TEMPORARY = ".checkpoint-"
Files = dict[str, dict[str, int | str]]


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
        verified: names of those whose bytes this process has read back and found right.
    """

    run: Path
    verified: set[str] = field(default_factory=set)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.run / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint directory, newest first, good or not."""
        matches = (_NAME.fullmatch(entry.name) for entry in self.run.iterdir() if entry.is_dir())
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def remove_incomplete(self) -> None:
        """Remove what killed processes left half-written. Only the holder of the run's lock may call this."""
        for entry in self.run.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(entry, ignore_errors=True)

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
        with storage_errors(target, "save the checkpoint", kept), NewFolder(target, "replace") as folder:
            write(folder.path)
            seal(folder.path)
            folder.publish()  # what is there did not verify
        self.verified.add(target.name)
        return target

    def prune(self, keep: int, best: int | None) -> None:
        """Remove all but the last `keep` verified checkpoints and the best, if so many have been verified."""
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
            if step < last[-1] and step != best:
                self._remove(self.path(step))
        self.remove_incomplete()

    def _remove(self, path: Path) -> None:
        hidden = self.run / f"{_TEMPORARY}old.{uuid.uuid4().hex[:8]}"
        self.verified.discard(path.name)
        with suppress(OSError):
            path.rename(hidden)  # at once: a half-removed checkpoint is never seen
            shutil.rmtree(hidden)


def seal(directory: Path) -> None:
    """Sync every file of a directory to disk, read it back, and write the manifest last."""
    files: Files = {}
    for path in sorted(directory.iterdir()):
        sync(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_synced(directory / MANIFEST, _canonical(files))
    sync(directory)


def problem(directory: Path) -> str | None:
    """Why a checkpoint cannot be used; None if every byte is as its manifest says."""
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
            size = (directory / name).stat().st_size
            if size != known["bytes"]:
                return f"{name} has {size} bytes instead of {known['bytes']}"
            if sha256(directory / name) != known["sha256"]:
                return f"{name} does not match its SHA-256"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return None


def _canonical(files: Files) -> bytes:
    body = json.dumps(files, sort_keys=True)
    own = hashlib.sha256(body.encode()).hexdigest()
    return (json.dumps({"files": files, "sha256": own}, sort_keys=True, indent=1) + "\n").encode()
