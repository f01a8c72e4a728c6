"""Reads the lines of JSON, or the one JSON document, that the files of suites are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pretune.errors import DataError, MissingInputError
from pretune.text.readers.records import Origin, Record


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        MissingInputError: it cannot be read.
        DataError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}; name a folder that can be read") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is no UTF-8; save the file as UTF-8") from None


def lines_of(path: Path) -> list[str]:
    """The lines of a file; texts may hold other signs at which Python splits lines, such as U+2028.

    Raises:
        MissingInputError, DataError: as `read_text`.
    """
    lines = read_text(path).split("\n")
    return lines[:-1] if not lines[-1] else lines


def json_document(path: Path) -> Any:
    """What the one JSON document of a file holds.

    Raises:
        MissingInputError: it cannot be read.
        DataError: it is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: no JSON ({error.msg}); get the file again from its source") from None


def json_lines(path: Path) -> Iterator[Record]:
    """The objects of a file with one on each line.

    Raises:
        MissingInputError: it cannot be read.
        DataError: a line is no JSON object.
    """
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            yield Record(_object(line, path, number), Origin(str(path), number))


def required(record: Record, name: str) -> str:
    """A field that holds text or a number, as text.

    Raises:
        DataError: it is missing, or holds something else.
    """
    value = record.get(name)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    problem = "is missing" if name not in record else f"holds {type(value).__name__}, expected text"
    raise record.error(f"field {name!r} {problem}", "get the file again from its source")


def changed(record: Record, **fields: object) -> Record:
    """A record with other fields, from the same place."""
    return Record(fields, record.origin)


def _object(line: str, path: Path, number: int) -> Mapping[str, object]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: no JSON ({error.msg}); get the file again from its source") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}:{number}: {type(value).__name__}, expected an object; is it a file of this set?")
    return value
