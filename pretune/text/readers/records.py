"""What every decoder gives: a row of wanted values, or a fault that says where, what and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from pretune.find import suggest

MISSING: Final = object()  # value of an optional column that a record does not have
Row = tuple[int, tuple[Any, ...]]  # line (1-based) and values; no values where the line is blank


@dataclass(frozen=True)
class RecordError:
    """A record, or a whole file, that cannot be read.

    Attributes:
        file: where it is.
        line: its first line (the row, for Parquet), from 1; 0 where the whole file is meant.
        reason: what is wrong, with field and value.
        remedy: what the user can do.
    """

    file: str
    line: int
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.reason}; {self.remedy}"


@dataclass(frozen=True)
class Column:
    """A field to be read: its name, the setting that names it, and whether a file must have it."""

    name: str
    setting: str
    required: bool = True


def too_long(file: str, line: int, limit: int) -> RecordError:
    """The fault of a record that is longer than it may be."""
    return RecordError(file, line, f"record longer than {limit} bytes", "split it, or raise max_document_bytes")


def not_text(file: str, line: int, name: str, value: object) -> RecordError | None:
    """What keeps a value from being text: its type, a NUL, half a surrogate pair."""
    if not isinstance(value, str):
        return RecordError(file, line, f"field {name!r} holds {_kind(value)}, not text", "mend or remove the record")
    if "\0" in value:
        return RecordError(file, line, f"field {name!r} holds a NUL character", "remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            what = f"half a surrogate pair (\\u{ord(value[error.start]):04x}) at character {error.start + 1}"
            return RecordError(file, line, f"field {name!r} holds {what}", "remove it")
    return None


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    shown = str(value) if len(str(value)) <= 40 else str(value)[:37] + "..."
    kinds: dict[type, str] = {int: "the number", float: "the number", list: "the list", dict: "the object"}
    return f"{kinds.get(type(value), type(value).__name__)} {shown}"


def absent(file: str, line: int, needed: Sequence[Column], known: Collection[str], kind: str) -> RecordError | None:
    """The fault of a record or a header that lacks a column, with the nearest name that it has."""
    for column in needed:
        if column.name not in known:
            hint = suggest(column.name, [str(name)[:40] for name in islice(known, 50)])
            remedy = f"set {column.setting} to the {kind} that holds it; {hint}"
            return RecordError(file, line, f"no {kind} {column.name!r}", remedy)
    return None
