"""Writes pages where a user names a place for them, over nothing but earlier pages."""

from __future__ import annotations

from pathlib import Path

from pretune.disk import make_folders, replace_file
from pretune.errors import CannotCreateError

_MARK = b'name="generator" content="pretune"'  # as in the template
_HEAD = 1000  # bytes in which it stands


def check_page(target: Path, name: str) -> None:
    """Refuses to write over what is no page of pretune.

    Args:
        name: of a page, for the remedy.

    Raises:
        CannotCreateError: a folder, or a file that something else wrote.
    """
    if target.is_dir():
        raise CannotCreateError(f"{target}: a folder; give the name of a page, such as --output {target / name}")
    if target.exists() and _MARK not in target.read_bytes()[:_HEAD]:
        raise CannotCreateError(f"{target}: exists already and is no page of pretune; give another --output")


def write_page(target: Path, content: str) -> None:
    """Writes a page in one move.

    Raises:
        CannotCreateError: it cannot be written there.
        StorageError: the disk is full or fails.
    """
    try:
        make_folders(target.absolute().parent)
    except OSError as error:
        raise CannotCreateError(f"{target}: cannot make its folder: {error.strerror}; give another --output") from None
    replace_file(target, content.encode())
