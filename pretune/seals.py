"""Seals what is finished with digests, so that a changed bit is noticed when it is used.

A folder that pretune writes (a model, a tokenizer, deltas) holds `pretune.xxh128`, a line for each of its files as
`xxhsum --check` reads it; other people's folders have none and are read as they are. A sealed JSON file holds an object
whose last field, `sha256`, is that of the file without it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash

from pretune.disk import replace_file
from pretune.errors import DataError

SEAL = "pretune.xxh128"
"""The file that holds the digests of those beside it: XXH3-128, as 500 MB take 0.03 s of it and 0.4 s of SHA-256."""
DIGEST = "sha256"
"""The field of a sealed JSON file that holds the digest of all others."""


def sealed_json(tree: Mapping[str, Any]) -> bytes:
    """Returns a JSON file whose last field is the digest of all others; what JSON has no form for stands as text."""
    body = json.dumps({name: value for name, value in tree.items() if name != DIGEST}, indent=1, default=str)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body.removesuffix("}").rstrip()}{"," if len(body) > 2 else ""}\n "{DIGEST}": "{digest}"\n}}\n'.encode()


def parse_sealed(path: Path, raw: bytes, remedy: str, *, required: bool = True) -> dict[str, Any]:
    """Reads a sealed JSON file, without its digest.

    Args:
        path: where the bytes come from, for messages.
        remedy: what to do about a file that was changed.
        required: refuse a file without a digest.

    Raises:
        DataError: a byte of it was changed, or it has no digest.
    """
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        raise DataError(f"{path}: not JSON any more: it was damaged or edited; {remedy}") from None
    if not isinstance(tree, dict) or (DIGEST not in tree and (required or _ends_with_digest(tree))):
        raise DataError(
            f"{path}: has no SHA-256 of its own: it was damaged or edited, or an older pretune wrote it; {remedy}"
        )
    if DIGEST in tree and sealed_json(tree) != raw:
        raise DataError(
            f"{path}: does not match its own SHA-256: it was damaged or edited since it was written; {remedy}"
        )
    return {name: value for name, value in tree.items() if name != DIGEST}


def _ends_with_digest(tree: Mapping[str, Any]) -> bool:
    """Whether the last field is a digest in all but its name, which one flipped bit can change."""
    value = next(reversed([*tree.values()]), None)
    return isinstance(value, str) and _DIGEST_VALUE.fullmatch(value) is not None


def read_facts(path: Path) -> dict[str, Any]:
    """Reads a JSON file that a run keeps of itself; one without a digest, of an older build, is read as it is.

    Raises:
        FileNotFoundError: no such file.
        DataError: a byte of it was changed.
    """
    return parse_sealed(path, path.read_bytes(), _remedy(path.parent), required=False)


def sealed_bytes(body: bytes) -> bytes:
    """Returns a text with its digest in a comment before it."""
    return f"{_TEXT}{hashlib.sha256(body).hexdigest()}\n".encode() + body


def unsealed_bytes(raw: bytes) -> bytes:
    """Returns a text without its digest, whatever that says."""
    first, _, body = raw.partition(b"\n")
    return body if first.startswith(_TEXT.encode()) else raw


def check_text(path: Path) -> None:
    """Compares a text with the digest in its first line, if it has one.

    Raises:
        FileNotFoundError: no such file.
        DataError: a byte of it was changed.
    """
    raw = path.read_bytes()
    first, _, body = raw.partition(b"\n")
    has_digest = any(part in first for part in _TEXT.encode().split(b" of "))  # one flipped bit leaves one of them
    if has_digest and raw != sealed_bytes(body):
        raise DataError(
            f"{path}: does not match its own SHA-256: it was damaged or edited since it was written; "
            f"{_remedy(path.parent)}"
        )


_DIGEST_VALUE = re.compile("[0-9a-f]{64}")
_TEXT = "# SHA-256 of what follows: "
_HEAD = "# {} files, sealed by pretune; check with: xxhsum --check {}; XXH3-128 of the lines below: {}"
_LINE = re.compile(r"([0-9a-f]{32})  ([^/\0\n][^\0\n]*)")
_BLOCK = 1 << 24  # bytes hashed between two looks at signals
_SMALL = 1 << 20  # bytes of a file that is checked before anything of it is used; larger ones are while they are read
_LIMIT = 1 << 24  # bytes of a seal


def digest(path: Path) -> str:
    """Returns the XXH3-128 of a file, hexadecimal, as `xxhsum -H128` prints it."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        if path.stat().st_size < _SMALL:
            state.update(file.read())
            return state.hexdigest()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            for start in range(0, len(view), _BLOCK):
                with view[start : start + _BLOCK] as block:
                    state.update(block)
    return state.hexdigest()


def read_seal(folder: Path) -> dict[str, str]:
    """Returns the digests of a folder's files by their names; none where the folder has no seal.

    Raises:
        DataError: the seal was changed, or is a pipe or a device.
    """
    path = folder / SEAL
    if not path.exists():
        return {}
    try:
        if not path.is_file() or path.stat().st_size > _LIMIT:
            raise DataError(f"{path}: no file, or too large; {_remedy(folder)}")
        head, *lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}: was damaged or edited; {_remedy(folder)}") from None
    seal = {match[2]: match[1] for line in lines if (match := _LINE.fullmatch(line))}
    if head != _head(lines) or len(seal) != len(lines) or any(".." in name for name in seal):
        raise DataError(f"{path}: was damaged or edited; {_remedy(folder)}")
    return seal


def sealed_names(folder: Path) -> list[str]:
    """Returns the names in the seal of a folder, in what can be read of it."""
    lines = (folder / SEAL).read_text(encoding="utf-8", errors="replace").splitlines()
    return [name for line in lines if ".." not in (name := line.partition("  ")[2]) and name and name[0] != "/"]


def write_seal(
    folder: Path, target: Path | None = None, obsolete: Callable[[Sequence[str]], Iterable[Path]] = lambda names: ()
) -> None:
    """Writes the digests of all files of a folder, before it is published.

    Args:
        target: the folder that these files will be moved into, one by one; the digests of what stays there are kept.
        obsolete: given the names of all new files, names those of the target that will be removed.
    """
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    seal: dict[str, str] = {}
    if target is not None:
        gone = {*names, *(path.relative_to(target).as_posix() for path in obsolete(names))}
        with suppress(DataError):
            old = read_seal(target)
            seal = {name: known for name, known in old.items() if name not in gone and (target / name).is_file()}
    reseal(folder, {**seal, **{name: digest(folder / name) for name in names if name != SEAL}})


def seal_files(folder: Path, names: Iterable[str]) -> None:
    """Takes files of a folder into its seal, as they are now; those that are not there are taken out."""
    names = [*names]
    seal = {name: known for name, known in read_seal(folder).items() if name not in names}
    reseal(folder, seal | {name: digest(folder / name) for name in names if (folder / name).is_file()})


@contextmanager
def changing(folder: Path, names: Collection[str]) -> Iterator[None]:
    """Takes files out of the seal of a folder, if it has one, while the block changes them."""
    if not (folder / SEAL).is_file():
        yield
        return
    unseal_files(folder, names)
    yield
    seal_files(folder, names)


def unseal_files(folder: Path, names: Collection[str]) -> None:
    """Takes files that will be changed out of the seal of a folder, if it has one."""
    seal = read_seal(folder)
    if any(name in seal for name in names):
        reseal(folder, {name: known for name, known in seal.items() if name not in names})


def reseal(folder: Path, seal: Mapping[str, str]) -> None:
    """Writes digests as the seal of a folder, in one move.

    Raises:
        CannotCreateError: no permission.
        StorageError: the disk is full or fails.
    """
    lines = [f"{known}  {name}" for name, known in sorted(seal.items())]
    replace_file(folder / SEAL, ("\n".join([_head(lines), *lines]) + "\n").encode())


def problem_of(folder: Path, name: str, expected: str) -> str | None:
    """Why a sealed file is not as it was written; None if every byte is."""
    if not (folder / name).is_file():
        return "is missing, and was there when this folder was saved"
    now = digest(folder / name)
    if now == expected:
        return None
    return f"is not as it was saved (XXH3-128 {expected[:12]}... then, {now[:12]}... now): it was damaged or edited"


def check(folder: Path, names: Collection[str] | Callable[[str], bool]) -> None:
    """Compares files of a folder with its seal, if it has one.

    Args:
        names: of those that will be used; others and those without a digest are passed over.

    Raises:
        DataError: one was changed; its name is given.
    """
    _check(folder, _chosen(folder, names))


@contextmanager
def checked(folder: Path, names: Collection[str] | Callable[[str], bool]) -> Iterator[None]:
    """Compares files of a folder with its seal, small ones at once, large ones while the block reads them.

    Raises:
        DataError: one was changed; said instead of what the block says of its content.
    """
    seal = _chosen(folder, names)
    sizes = {name: (folder / name).stat().st_size if (folder / name).is_file() else 0 for name in seal}
    large = {name: known for name, known in seal.items() if sizes[name] >= _SMALL}
    _check(folder, {name: known for name, known in seal.items() if name not in large})
    if not large:
        yield
        return
    with ThreadPoolExecutor(1, "seals") as pool:
        reading = pool.submit(_check, folder, large)
        try:
            yield
        except DataError:
            reading.result()
            raise
        reading.result()


def _head(lines: Sequence[str]) -> str:
    return _HEAD.format(len(lines), SEAL, xxhash.xxh3_128_hexdigest("\n".join(lines).encode()))


def _chosen(folder: Path, names: Collection[str] | Callable[[str], bool]) -> dict[str, str]:
    seal = read_seal(folder)
    return {name: known for name, known in seal.items() if (names(name) if callable(names) else name in names)}


def _check(folder: Path, seal: Mapping[str, str]) -> None:
    for name, known in seal.items():
        if (problem := problem_of(folder, name, known)) is not None:
            raise DataError(f"{folder / name}: {problem}; {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    path = shlex.quote(str(folder))
    return f"bring it back from a copy, or, if the change is meant, accept it: pretune verify --accept {path}"
