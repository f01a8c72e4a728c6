"""A folder written whole or not at all: made beside its place, synced, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pretune.disk import sync
from pretune.errors import CannotCreateError, StorageError

_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


@dataclass
class Stage:
    """Where to write.

    Attributes:
        folder: an empty folder on the target's disk.
        remove: files of the target that the new ones, whose names it is told, make obsolete.
    """

    folder: Path
    remove: Callable[[Sequence[str]], Iterable[Path]] = lambda names: ()


@contextmanager
def staged(directory: Path) -> Iterator[Stage]:
    """A stage whose files take their place in `directory` when the block ends without an error.

    A target that does not exist appears in one rename. In one that does, each file is replaced in one, weights before
    `config.json`; other files in it stay.

    Raises:
        StorageError: the disk is full or fails.
        CannotCreateError: no permission, or a file in the way.
    """
    stage: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        stage = directory.parent / f".{directory.name}.{secrets.token_hex(6)}.partial"
        stage.mkdir()
        made = Stage(stage)
        yield made
        for path in stage.rglob("*"):
            sync(path)
        sync(stage)
        if directory.exists():
            _move(stage, directory, made)
        else:
            stage.rename(directory)
        sync(directory.parent)
    except OSError as error:
        kind = CannotCreateError if error.errno in _PLACE else StorageError
        raise kind(
            f"{directory}: cannot save the model: {error.strerror or error}; nothing was changed there"
        ) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def _move(stage: Path, directory: Path, made: Stage) -> None:
    names = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())
    names.sort(key=lambda name: name == "config.json")
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        os.replace(stage / name, directory / name)
    for path in made.remove(names):
        path.unlink()
    sync(directory)
