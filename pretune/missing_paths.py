"""Answers a path that is not there: what stands near it, and how a model of a hub is fetched."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from pretune.errors import MissingInputError

_FILE_SUFFIXES = (".json", ".txt", ".model", ".gguf", ".csv", ".tsv", ".jsonl", ".parquet", ".toml")
_HUB_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_NAMES = 10_000  # of a folder that are looked through


def no_such_folder(path: Path | str, what: str, setting: str | None = None) -> MissingInputError:
    """The error of a model or a tokenizer that is not there; what looks like the name of a hub is answered as such.

    Args:
        what: "model folder" or "tokenizer".
        setting: the field that names it, where one does.
    """
    name = str(path)
    subject = name if setting is None else f"{setting} = {name!r}"
    folder = Path.cwd()
    near = near_path(path)
    if near is not None:
        return MissingInputError(f"{subject}: no such {what} (working folder: {folder}); did you mean {near!r}?")
    if what == "tokenizer":
        return MissingInputError(
            f"{subject}: no such tokenizer (working folder: {folder}); make one with `pretune tokenizer train`, or "
            "give the folder of a model, whose tokenizer is used then"
        )
    if not _may_be_of_a_hub(name):
        return MissingInputError(f"{subject}: no such {what} (working folder: {folder})")
    last = name.rpartition("/")[2]
    return MissingInputError(
        f"{subject}: no such {what} here (working folder: {folder}); pretune downloads nothing: fetch a model of the "
        f"Hugging Face hub with `hf download {name} --local-dir {last}`, and give that folder"
    )


def no_such_file(name: str) -> MissingInputError:
    """The error of a text that is the name of a file which is not there."""
    near = near_path(name)
    if near is not None:
        return MissingInputError(
            f"{name}: no such file; did you mean {near!r}? A text that ends so is read from a list or standard input"
        )
    return MissingInputError(
        f"{name}: no such file (working folder: {Path.cwd()}); a text that ends so is read from a list or "
        "standard input"
    )


def near_path(path: Path | str, cutoff: float = 0.65) -> str | None:
    """The path that a missing one may mean: a name in its folder that is nearly the same; None where there is none.

    Args:
        cutoff: how alike they must be, 0 to 1.
    """
    wanted = Path(path)
    if wanted.name and wanted.parent != Path() and not wanted.is_absolute() and Path(wanted.name).exists():
        return wanted.name
    try:
        with os.scandir(wanted.parent) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_MAX_NAMES), strict=False)]
    except OSError:
        return None
    close = difflib.get_close_matches(wanted.name, names, n=1, cutoff=cutoff)
    return str(wanted.parent / close[0]) if close else None


def _may_be_of_a_hub(name: str) -> bool:
    """Whether a name has the form of a hub's: `bert-base-uncased`, `google-bert/bert-base-uncased`."""
    parts = name.split("/")
    return len(parts) <= 2 and all(map(_HUB_PART.fullmatch, parts)) and not name.endswith(_FILE_SUFFIXES)
