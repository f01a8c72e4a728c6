"""Finds the sets of a suite in a folder, and which of their files train, choose and score.

A set that has files of labelled test texts (`test_public.json` of FewCLUE) is scored on these, and its `dev` files
choose the checkpoint. Any other is scored on its `dev` file, as the labels of `test` are not public; the checkpoint is
then chosen on held-out training rows, so that no text that is scored was looked at before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretune.errors import MissingInputError, UsageError
from pretune.find import suggest
from pretune.suites.suite import SuiteSet

_SUFFIXES = (".json", ".jsonl", ".txt")
_DEPTH = 3  # folders below the one that is named
_FOLD = re.compile(r"(train|dev)_(\d)")
_DECORATION = r"(clue_?)?{}((20)?\d\d)?([_-](public|unified|dataset|few\w*))*"


@dataclass(frozen=True)
class Split:
    """Files of a run.

    Attributes:
        train, test: never empty.
        validation: empty where training rows are held out instead.
    """

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]


@dataclass(frozen=True)
class FoundSet:
    """A set that is there.

    Attributes:
        name: its folder, as it lies in the folder that was named.
        splits: of which runs with other seeds use one after the other, as FewCLUE does with its five; one of most sets.
    """

    name: str
    suite_set: SuiteSet
    splits: tuple[Split, ...]

    def split(self, seed: int) -> Split:
        """The files of a run."""
        return self.splits[seed % len(self.splits)]


def find_sets(folder: Path, sets: Sequence[SuiteSet], wanted: Sequence[str] = ()) -> list[FoundSet]:
    """The sets below a folder, in the order of the suite.

    Args:
        wanted: their names, or the names of their folders; all by default.

    Raises:
        MissingInputError: no such folder, or none of the sets in it.
        UsageError: a name that is none of theirs.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; name the folder that holds the sets")
    folders = sorted(_folders(folder, _DEPTH))
    found = [each for suite_set in sets for path in folders if (each := _found(suite_set, path, folder)) is not None]
    if not found:
        names = ", ".join(each.name for each in sets)
        raise MissingInputError(
            f"{folder}: none of the sets is here; expected folders such as tnews or tnews_public with train and dev "
            f"files, of {names}"
        )
    known = [*dict.fromkeys(name for each in found for name in (each.suite_set.name, each.name))]
    for name in wanted:
        if name not in known:
            raise UsageError(f"--sets {name}: not in {folder}; {suggest(name, known)}")
    return [each for each in found if not wanted or {each.name, each.suite_set.name} & {*wanted}]


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if depth:
        for path in folder.iterdir():
            if path.is_dir() and not path.name.startswith("."):
                yield from _folders(path, depth - 1)


def _found(suite_set: SuiteSet, path: Path, root: Path) -> FoundSet | None:
    """A set whose folder this is; None where it is not, or has nothing to train or to score on."""
    names = (suite_set.name, *suite_set.folders)
    if not any(re.fullmatch(_DECORATION.format(name), path.resolve().name.lower()) for name in names):
        return None
    files = [file for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES and file.stat().st_size]
    train, dev = (_of(files, part) for part in ("train", "dev"))
    public = tuple(file for file in files if file.stem == "test_public")
    train = train or _of(files, "trial")
    if not train or not (public or dev):
        return None
    name = suite_set.name if path == root else path.relative_to(root).as_posix()
    folds = {match[2] for file in train if (match := _FOLD.fullmatch(file.stem))}
    if public and folds:
        splits = [Split(_fold(train, fold), _fold(dev, fold), public) for fold in sorted(folds)]
    elif public:
        splits = [Split(_whole(train, suite_set), _whole(dev, suite_set) if dev else (), public)]
    else:
        splits = [Split(_whole(train, suite_set), (), _whole(dev, suite_set))]
    return FoundSet(name, suite_set, tuple(splits))


def _of(files: Sequence[Path], part: str) -> tuple[Path, ...]:
    """The files of a part of a set; those of answers go with them."""
    return tuple(file for file in files if part in file.stem.lower() and "answer" not in file.stem.lower())


def _fold(files: Sequence[Path], fold: str) -> tuple[Path, ...]:
    return tuple(file for file in files if (match := _FOLD.fullmatch(file.stem)) and match[2] == fold)


def _whole(files: Sequence[Path], suite_set: SuiteSet) -> tuple[Path, ...]:
    """The file with all rows: all of several parts, else the largest; of one set in two forms, lines of JSON."""
    if suite_set.merges:
        return tuple(files)
    together = [file for file in files if file.stem.endswith("_all")]
    lines = [file for file in files if file.suffix == ".jsonl"]
    return (max(together or lines or files, key=lambda file: file.stat().st_size),)
