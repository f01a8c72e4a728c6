"""Verifies what pretune wrote against its digests: `verify(path)`; and takes changes that are meant: `accept(path)`.

a folder --its seal--> files of models, tokenizers, deltas      --a manifest--> the files of a checkpoint or a store
         --their own digests--> run.json, data_stats.json, recipe.toml        --> the folders inside of it, likewise
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretune.disk import problem, replace_file
from pretune.errors import DataError, MissingInputError
from pretune.interop.run_names import FACTS, RECIPE, STATE, checkpoint_step
from pretune.seals import (
    SEAL,
    check_text,
    digest,
    problem_of,
    read_facts,
    read_seal,
    reseal,
    seal_files,
    sealed_bytes,
    sealed_json,
    sealed_names,
    unsealed_bytes,
)
from pretune.text.store.array_files import problem_of_file
from pretune.text.store.index import FOLDER, problem_of_index
from pretune.text.store.manifest import MANIFEST, parse_manifest
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer

RECORDS = (FACTS, "data_stats.json")


@dataclass(frozen=True)
class Verified:
    """What was found out about a file or a folder.

    Attributes:
        by: the digest that it was compared with; empty where it has none.
        problem: what is wrong with it; None where nothing is.
    """

    path: Path
    by: str
    problem: str | None = None


def verify(path: Path) -> Iterator[Verified]:
    """Compares a file, or all files in and below a folder, with their digests; hidden ones are passed over.

    Raises:
        MissingInputError: no such path.
    """
    if path.is_dir():
        yield from _verify_folder(path)
    elif path.is_file():
        yield from _verify_file(path)
    else:
        raise MissingInputError(f"{path}: no such file or folder")


def accept(path: Path) -> list[Path]:
    """Takes files as they are now for what they shall be: those of models, tokenizers and deltas, and of a run itself.

    Returns:
        Those that had changed.

    Raises:
        MissingInputError: no such path.
        DataError: a store or a checkpoint is damaged, which nobody edits; or a file is not even JSON.
    """
    changed = [each for each in verify(path) if each.problem is not None]
    for each in changed:
        if each.path.is_dir() or (each.path.parent / MANIFEST).is_file():
            raise DataError(f"{each.path}: {each.problem}; this cannot be accepted, only made again")
        if (record := _record_of(each.path)).is_symlink():
            raise DataError(f"{record}: is a link to {record.resolve()}; accept the change in the folder of that file")
        if each.path.suffix == ".json" and each.path.is_file():
            _check_json(each.path)
    for each in changed:
        _accept(each.path)
    return [each.path for each in changed]


def _record_of(path: Path) -> Path:
    """The file that holds a file's digest: itself, or the seal of its folder; modules' are in that of the model's."""
    if path.name == RECIPE or (path.name in RECORDS and (path.parent / RECIPE).is_file()):
        return path
    return next(folder for folder in path.parents if (folder / SEAL).is_file()) / SEAL


def _accept(path: Path) -> None:
    if path.name in RECORDS and (path.parent / RECIPE).is_file():
        replace_file(path, sealed_json(json.loads(path.read_bytes())))
    elif path.name == RECIPE:
        replace_file(path, sealed_bytes(unsealed_bytes(path.read_bytes())))
    else:
        folder = _record_of(path).parent
        if path != folder / SEAL:  # what else was damaged stays so
            seal_files(folder, [path.relative_to(folder).as_posix()])
            return
        names = [name for name in sealed_names(folder) if (folder / name).is_file()]
        reseal(folder, {name: digest(folder / name) for name in names})


def _check_json(path: Path) -> None:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {str(error)[:100]}; correct it first") from None


def _verify_file(path: Path) -> Iterator[Verified]:
    sealed = next((folder for folder in path.parents if (folder / SEAL).is_file()), path.parent)
    for folder in dict.fromkeys((path.parent, sealed)):
        lists = (folder / SEAL, folder / MANIFEST)  # nothing is known of the file where these are damaged
        covered = [
            each
            for each in _verify_own(folder)
            if each.path in (path, path.parent) or (each.problem is not None and each.path in lists)
        ]
        if covered:
            yield from covered
            return
    yield Verified(path, "")


def _verify_folder(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Verified]:
    if folder.resolve() in above:  # a link to a folder around it
        return
    above |= {folder.resolve()}
    covered: set[Path] = set()
    for each in _verify_own(folder):
        covered.add(each.path)
        yield each
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == SEAL or path in covered:
            continue
        if path.is_dir():
            yield from (
                each for each in _verify_folder(path, above) if covered.isdisjoint((each.path, *each.path.parents))
            )
        elif folder not in covered:
            yield Verified(path, "")


def _verify_own(folder: Path) -> Iterator[Verified]:
    """Yields the files of a folder that have a digest; a checkpoint as a whole."""
    if checkpoint_step(folder) is not None or (folder / STATE).is_file():
        yield Verified(folder, "SHA-256", problem(folder))
        return
    if (folder / MANIFEST).is_file():
        yield from _verify_store(folder)
        return
    try:
        seal = read_seal(folder)
    except DataError as error:
        yield Verified(folder / SEAL, "its form", _reason(folder / SEAL, error))
        seal = {}
    for name, expected in seal.items():
        yield Verified(folder / name, "XXH3-128", problem_of(folder, name, expected))
    for name in (*RECORDS, RECIPE):
        if (folder / RECIPE).is_file() and (folder / name).is_file():
            yield _verify_record(folder / name)


def _verify_record(path: Path) -> Verified:
    try:
        check_text(path) if path.name == RECIPE else read_facts(path)
    except DataError as error:
        return Verified(path, "SHA-256", _reason(path, error))
    return Verified(path, "SHA-256")


def _verify_store(folder: Path) -> Iterator[Verified]:
    path = folder / MANIFEST
    try:
        manifest = parse_manifest(path, path.read_bytes())
    except DataError as error:
        yield Verified(path, "SHA-256", _reason(path, error))
        return
    yield Verified(path, "SHA-256")
    for split in manifest.splits.values():
        for file in split.files():
            yield Verified(folder / file.file, "SHA-256", problem_of_file(folder, file))
    for index in sorted((folder / FOLDER).glob("[!.]*")):
        yield Verified(index, "SHA-256", problem_of_index(index))
    tokenizer = folder / "tokenizer"
    try:
        TokenStore.open(folder).check_tokenizer(Tokenizer.load(tokenizer))
    except (DataError, MissingInputError) as error:
        yield Verified(tokenizer, "its manifest", _reason(tokenizer, error))


def _reason(path: Path, error: Exception) -> str:
    return str(error).removeprefix(f"{path}: ")
