"""Computes where windows begin once from the offsets of a split, and keeps it beside the store, memory-mapped.

    <store>/index/<split>-<name>/index.json    fingerprint of the store, and what each array is
                                 <array>.npy   int64

The folder appears whole, by a rename; a process that meets another one writing it, or a store that cannot be written,
computes for itself. What is there but damaged, or of another store, is made again. Very small stores keep none.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.errors import CannotCreateError, DataError, StorageError
from pretune.new_folder import NewFolder
from pretune.seals import parse_sealed, sealed_json
from pretune.text.store.array_files import ArrayWriter, StoredFile, map_file, problem_of_file

FOLDER = "index"
_FACTS = "index.json"
_log = logging.getLogger(__name__)
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, DataError)
Index = Mapping[str, NDArray[np.int64]]
Parts = Callable[[], Iterator[Index]]


def computed(parts: Parts) -> Index:
    """An index in memory: each array is that of all parts, one after the other."""
    arrays = list(parts())
    return {name: np.concatenate([part[name] for part in arrays]) for name in arrays[0]}


def kept(folder: Path, fingerprint: str, parts: Parts) -> Index:
    """The index of a folder, which is made if it is not there; in memory where it cannot be kept."""
    with suppress(*_UNUSABLE):
        return _read(folder, fingerprint)
    _log.info("%s: finding where windows begin, once", folder)
    try:
        with NewFolder(folder, "replace") as draft:
            _write(draft.path, fingerprint, parts)
            draft.publish()
        return _read(folder, fingerprint)
    except (OSError, CannotCreateError, StorageError):  # no room, no permission, or another process is writing it
        return computed(parts)


def drop_damaged(folder: Path) -> None:
    """Remove those of a store whose bytes are not what was written; they are made again when they are wanted."""
    for saved in folder.glob("[!.]*"):  # one that is being written has a dot
        if problem_of_index(saved) is not None:
            shutil.rmtree(saved)


def problem_of_index(folder: Path) -> str | None:
    """Why an index cannot be used; None if every byte is what was written."""
    try:
        for file in _facts(folder)["arrays"].values():
            if (reason := problem_of_file(folder, StoredFile(**file))) is not None:
                return f"{file['file']}: {reason}"
    except _UNUSABLE as error:
        return str(error)
    return None


def _read(folder: Path, fingerprint: str) -> Index:
    facts = _facts(folder)
    if facts["fingerprint"] != fingerprint:
        raise DataError(f"{folder}: the index of another store")
    return {name: map_file(folder, StoredFile(**file)) for name, file in facts["arrays"].items()}


def _write(folder: Path, fingerprint: str, parts: Parts) -> None:
    writers: dict[str, ArrayWriter] = {}
    try:
        for part in parts():
            for name, values in part.items():
                if name not in writers:
                    writers[name] = ArrayWriter(folder / f"{name}.npy", np.dtype(np.int64))
                writers[name].append(values)
        files = {name: asdict(writer.close()) for name, writer in writers.items()}
    finally:
        for writer in writers.values():
            writer.abandon()
    (folder / _FACTS).write_bytes(sealed_json({"fingerprint": fingerprint, "arrays": files}))


def _facts(folder: Path) -> dict[str, Any]:
    """What an index says of itself.

    Raises:
        OSError, DataError: it is not there, or was changed.
    """
    return parse_sealed(folder / _FACTS, (folder / _FACTS).read_bytes(), "it is made again")
