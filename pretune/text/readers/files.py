"""Finds text in files, folders and globs, and opens what is compressed with gzip or zstd.

    paths -> find_sources -> Source(path, format, compression, domain) -> read_chunks -> bounded pieces of bytes

Nothing here looks into the bytes; the reader of the format does (`text/readers/<format>.py`).
"""

from __future__ import annotations

import gzip
import os
import re
import shlex
import stat
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Any

from pydantic import Field, field_validator

from pretune.config import Config
from pretune.errors import DataError, MissingInputError
from pretune.find import find, variants
from pretune.missing_paths import near_path, no_such_file

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_BRACES = re.compile(r"\{([^{},/]+),([^{},/]+)\}")
_ENDING = re.compile(r"\.\w{1,10}")
BOMB_FLOOR = 64 << 20  # bytes: whatever the ratio, a file that unfolds to less is harmless


class SourceConfig(Config):
    """How any file of text is read, labelled or not.

    Attributes:
        format: the format of every file: the name of a reader (txt, md, html, json, jsonl, csv, tsv, xlsx, parquet,
            conll, conllu, brat, cluener, squad, semeval, casie, propbank, parallel), the path of a user's own
            (`mine.py`), or "auto": by suffix.
        columns: names of the columns of CSV, TSV and Excel files that have no header row, in order; by default the
            first row is the header. A first row that names all columns that are read is a header too.
        quotes: whether CSV or TSV fields may be quoted; by default CSV yes; TSV no (as GLUE, SST and CLUE write them),
            unless all its quotes are those of `csv.writer` and pandas.
        delimiter: the character between the fields of a CSV file, where it is no comma, such as ";".
        max_document_bytes: maximal size of a record in bytes (UTF-8); a longer one is refused without being held in
            memory.
        max_compression_ratio: how many times its own size a compressed file may decompress to (beyond 64 MiB).
    """

    format: str = "auto"
    columns: tuple[str, ...] | None = None
    quotes: bool | None = None
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    max_document_bytes: int = Field(default=16 << 20, ge=1)
    max_compression_ratio: int = Field(default=200, ge=1)

    @field_validator("delimiter", mode="before")
    @classmethod
    def _tab(cls, delimiter: object) -> object:
        return "\t" if delimiter == "\\t" else delimiter  # which a shell hands on as two characters


@dataclass(frozen=True)
class Source:
    """One file to read.

    Attributes:
        path: as the user named it, or as it was found under the folder that the user named.
        format: what is inside, once decompressed: the name of a reader, or the path of a user's own.
        compression: "gzip", "zstd" or "".
        domain: of its documents, unless they name their own: the folder below the one that was named, else the file's
            name without suffixes.
        partner: the file whose lines belong to those of this one, where both were named at once.
    """

    path: Path
    format: str
    compression: str
    domain: str
    partner: Path | None = None


class UnreadableError(Exception):
    """The bytes of a file end before it does: corrupt, cut off, or unfolding without end."""


def find_sources(
    paths: Sequence[Path | str] | Path | str, format: str = "auto", ignored: list[str] | None = None
) -> list[Source]:
    """The files behind paths, folders and globs: in the order given, and sorted inside a folder or a glob.

    Args:
        paths: files, folders (searched to the bottom) and globs (`**` too).
        format: the format of every file, or "auto": by suffix.
        ignored: collects the files of folders that were passed over: hidden, or of no known suffix.

    Raises:
        MissingInputError: a path that does not exist or may not be read, a glob that matches nothing.
        DataError: a named file of unknown suffix; something that is not a regular file, such as a pipe.
    """
    names = [paths] if isinstance(paths, (str, Path)) else paths
    sources: list[Source] = []
    for name in names:
        if (pair := parallel_paths(name)) is not None:
            sources.append(_parallel_source(*pair))
            continue
        for path in _expand(name):
            if path.is_dir():
                sources += _walk(path, format, ignored if ignored is not None else [])
            else:
                sources.append(_source(path, format))
    return sources


def parallel_paths(name: Path | str) -> tuple[Path, Path] | None:
    """The two files that a name with braces means, such as `train.{en,de}`; None of any other name."""
    match = _BRACES.search(str(name))
    if match is None or os.path.exists(name):  # `Path.exists` fails for what is too long for a name
        return None
    begin, end = str(name)[: match.start()], str(name)[match.end() :]
    return Path(f"{begin}{match[1]}{end}"), Path(f"{begin}{match[2]}{end}")


def _parallel_source(path: Path, partner: Path) -> Source:
    """Two files, of which each line belongs to that of the other.

    Raises:
        MissingInputError: one is not there.
        DataError: one is no regular file.
    """
    for each in (path, partner):
        if not os.path.exists(each):
            raise MissingInputError(f"{each}: no such file (working folder: {Path.cwd()}); both files are needed")
    _source(partner, "parallel")
    return replace(_source(path, "parallel"), partner=partner)


def read_chunks(source: Source, size: int, max_ratio: int) -> Iterator[bytes]:
    """The unfolded bytes of a file, at most `size` at a time.

    Raises:
        UnreadableError: corrupt or truncated compressed data, or more than `max_ratio` times what the file holds.
        MissingInputError: the file may not be read.
    """
    with open_file(source) as raw:
        limit = max(BOMB_FLOOR, os.fstat(raw.fileno()).st_size * max_ratio)
        total = 0
        try:
            with closing(_unfold(raw, source.compression)) as stream:
                while chunk := stream.read(size):
                    total += len(chunk)
                    if source.compression and total > limit:
                        raise UnreadableError(f"unfolds to more than {max_ratio} times its own size")
                    yield chunk
        except (OSError, EOFError, zlib.error, ValueError) as error:  # Arrow's error of bad data is a ValueError
            if getattr(error, "errno", None):
                raise MissingInputError(f"{source.path}: cannot be read: {error}") from None
            raise UnreadableError(f"corrupt or cut-off {source.compression} data ({error})") from None


def open_file(source: Source) -> IO[bytes]:
    """The bytes of a file as they lie on the disk.

    Raises:
        MissingInputError: the file may not be read.
    """
    try:
        return source.path.open("rb")
    except OSError as error:
        raise MissingInputError(f"{source.path}: cannot be read: {error.strerror}") from None


def open_seekable(source: Source, config: SourceConfig) -> IO[bytes]:
    """The unfolded bytes of a file that is not read from its beginning; a compressed one is unfolded beside it first.

    Raises:
        UnreadableError, MissingInputError: see `read_chunks`.
    """
    if not source.compression:
        return open_file(source)
    out = tempfile.TemporaryFile()  # noqa: SIM115  (the caller closes it)
    for chunk in read_chunks(source, 1 << 20, config.max_compression_ratio):
        out.write(chunk)
    out.seek(0)
    return out


def _unfold(raw: IO[bytes], compression: str) -> Any:
    if compression == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if not compression:
        return raw
    import pyarrow as pa  # takes a fifth of a second, and a recipe is read without it

    return pa.CompressedInputStream(raw, "zstd")


def _expand(name: Path | str) -> list[Path]:
    path = Path(name)
    if not str(name).strip():
        raise MissingInputError(f"{str(name)!r}: no name of a file or folder; the working folder is .")
    try:
        path.stat()
        return [path]
    except FileNotFoundError:
        matches = sorted(glob(str(name), recursive=True)) if has_magic(str(name)) else []
    except OSError as error:
        raise MissingInputError(f"{name}: cannot be read: {error.strerror}") from None
    if not matches:
        if has_magic(str(name)):
            raise MissingInputError(f"{name}: no file matches this pattern (working folder: {Path.cwd()})")
        if "{" in path.name:
            raise MissingInputError(
                f"{name}: no such file or folder (working folder: {Path.cwd()}); braces hold two parts of names, as in "
                "'train.{en,de}'"
            )
        near = near_path(path)
        if near is not None:
            raise MissingInputError(
                f"{name}: no such file or folder (working folder: {Path.cwd()}); did you mean {near!r}?"
            )
        raise MissingInputError(f"{name}: no such file or folder (working folder: {Path.cwd()})")
    return [Path(match) for match in matches]


def _walk(root: Path, format: str, ignored: list[str]) -> list[Source]:
    def refuse(error: OSError) -> None:
        raise MissingInputError(f"{error.filename}: cannot be read: {error.strerror}")

    sources: list[Source] = []
    for folder, below, files in os.walk(root, onerror=refuse):
        hidden = [name for name in below if name.startswith(".")]
        linked = [name for name in below if (Path(folder) / name).is_symlink()]
        ignored += [str(Path(folder) / name) for name in sorted({*hidden, *linked})]
        below[:] = sorted(set(below) - {*hidden, *linked})
        relative = Path(folder).relative_to(root)
        for name in sorted(files):
            path = Path(folder) / name
            if name.startswith(".") or (format == "auto" and _suffixes(path)[0] is None):
                ignored.append(str(path))
            else:
                sources.append(_source(path, format, str(relative.as_posix()) if relative.parts else None))
    return sources


def _source(path: Path, format: str, domain: str | None = None) -> Source:
    by_suffix, compression, stem = _suffixes(path)
    reader = by_suffix if format == "auto" else format
    if reader is None:
        known = ", ".join(suffixes())
        if (command := _converter(path)) is not None:
            raise DataError(f"{path}: {path.suffix} files cannot be read; convert it first, as with: {command}")
        raise DataError(
            f"{path}: unknown suffix {path.suffix!r}; known: {known}, each also .gz or .zst; or set --format; two "
            "files whose lines belong together are named as in 'train.{en,de}'"
        )
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: not a regular file; copy what it delivers into a file first")
    if not os.access(path, os.R_OK):
        raise MissingInputError(f"{path}: cannot be read: permission denied")
    return Source(path, reader, compression, domain or stem)


def has_columns(format: str) -> bool:
    """Whether the records of a format have fields with names; a line of text or a page of it has none."""
    return bool(getattr(find("text.readers", format), "HAS_COLUMNS", True))


def skipped_note(ignored: Sequence[str]) -> str | None:
    """What to say of files of folders that no reader knows; None where there are none but hidden ones.

    Args:
        ignored: as `find_sources` collects it.
    """
    skipped = [Path(name) for name in ignored if not Path(name).name.startswith(".") and not Path(name).is_dir()]
    if not skipped:
        return None
    counts = Counter(path.suffix.lower() or "no suffix" for path in skipped)
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(5))
    note = f"files skipped, as their formats are not known: {len(skipped):,} ({kinds}), such as {skipped[0]}"
    command = next((command for command in map(_converter, skipped) if command is not None), None)
    return note if command is None else f"{note}; to read them, convert them first, as with: {command}"


def no_files(named: object, ignored: Sequence[str]) -> DataError:
    """The error of folders in which no file can be read.

    Args:
        named: the folders, as the user named them.
        ignored: as `find_sources` collects it.
    """
    note = skipped_note(ignored)
    known = ", ".join(suffixes())
    return DataError(f"{named}: no file here that can be read; {note or f'known suffixes: {known}'}")


_CONVERTERS = {
    ".pdf": "pdftotext {0} {1}.txt",
    **dict.fromkeys((".docx", ".odt", ".epub", ".rtf", ".tex", ".rst"), "pandoc {0} -o {1}.md"),
    **dict.fromkeys((".doc", ".wps"), "soffice --headless --convert-to docx {0}"),
    **dict.fromkeys((".ppt", ".pptx", ".odp"), "soffice --headless --convert-to pdf {0}"),
    **dict.fromkeys((".xls", ".ods", ".xlsb", ".et"), "soffice --headless --convert-to xlsx {0}"),
}


def _converter(path: Path) -> str | None:
    """The command that makes a readable file of one that is not; None where no usual one is known."""
    command = _CONVERTERS.get(path.suffix.lower())
    return command and command.format(shlex.quote(str(path)), shlex.quote(str(path.with_suffix(""))))


def is_readable(name: str) -> bool:
    """Whether a file of this name would be read: a reader knows its suffix."""
    return _suffixes(Path(name))[0] is not None


def names_file(text: str) -> bool:
    """Whether a text is the name of a file that is there and that a reader knows.

    Raises:
        MissingInputError: it can be nothing but such a name, and the file is not there.
    """
    if _names_parallel_files(text):
        return True
    if not is_readable(text):
        return False
    if os.path.isfile(text):  # `Path.is_file` fails for what is too long for a name
        return True
    if any(character.isspace() for character in text):
        return False
    raise no_such_file(text)


def _names_parallel_files(text: str) -> bool:
    """Whether a text names two files: they are there, or both of its names end as those of files do.

    So a text with braces of its own, such as JSON, is a text.
    """
    if (pair := parallel_paths(text)) is None:
        return False
    if all(map(os.path.isfile, pair)):
        return True
    return not any(character.isspace() for character in text) and all(_ENDING.fullmatch(path.suffix) for path in pair)


@cache
def suffixes() -> dict[str, str]:
    """The suffixes that readers know, each with its reader."""
    return {suffix: name for name in variants("text.readers") for suffix in find("text.readers", name).SUFFIXES}


def _suffixes(path: Path) -> tuple[str | None, str, str]:
    """Format, compression and stem that a file's name tells."""
    compression = COMPRESSIONS.get(path.suffix.lower(), "")
    bare = Path(path.stem) if compression else Path(path.name)
    format = suffixes().get(bare.suffix.lower())
    return format, compression, bare.stem if format else bare.name
