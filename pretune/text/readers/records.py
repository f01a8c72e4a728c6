"""The records that readers yield: fields, or an error that says where, what and how to fix it.

A file, a list of dicts, a DataFrame, an Arrow table: each ends as `Record`, whose accessors check a field as they read
it. A task's `read` needs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

from pretune.errors import DataError
from pretune.find import suggest

MISSING: Final = object()  # value of an optional field that a record does not have
SourceRow = tuple[int, Mapping[str, Any]]  # line (1-based) and fields; no fields where the line is blank


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


@dataclass
class SkippedRecords:
    """Counts the bad records that are left out.

    Attributes:
        count: of all.
        first: the error of the first one.
    """

    count: int = 0
    first: str = ""

    @classmethod
    def of(cls, config: object) -> SkippedRecords | None:
        """A counter where records may be skipped, as `on_bad` of a configuration says; else None."""
        return cls() if getattr(config, "on_bad", "error") == "skip" else None

    def add(self, error: str) -> None:
        """Counts a record."""
        self.first = self.first or error
        self.count += 1

    def describe(self) -> str:
        """How many were left out, and why the first was."""
        return f"bad records skipped: {self.count:,}; the first: {self.first}"


@dataclass(frozen=True)
class Column:
    """A field to be read: its name, the setting that names it (columns.text), and whether a file must have it.

    No setting ("") names a field that is only kept.

    Attributes:
        alternatives: fields of which one may stand for a required one, such as words for a text.
    """

    name: str
    setting: str
    required: bool = True
    alternatives: tuple[str, ...] = ()


class Origin(NamedTuple):
    """Where a record comes from, for messages: `train.csv:3`, or `DataFrame.iloc[3]`.

    Attributes:
        source: the file, or what holds the records in memory, such as `list` or `DataFrame.iloc`.
        row: the line of a file (the row, for Parquet) from 1; the index in memory from 0.
        in_memory: the record is not a file's.
    """

    source: str
    row: int
    in_memory: bool = False

    def __str__(self) -> str:
        return f"{self.source}[{self.row}]" if self.in_memory else f"{self.source}:{self.row}"


NOWHERE = Origin("record", 0, in_memory=True)


class Record(Mapping[str, object]):
    """The fields of a record, checked as they are read.

    Args:
        fields: by name.
        origin: where it comes from.
        needs_labels: a record without a label is an error.
        max_bytes: bytes of a text at most (UTF-8); None for any number.
    """

    __slots__ = ("_fields", "max_bytes", "needs_labels", "origin")

    def __init__(
        self,
        fields: Mapping[str, object],
        origin: Origin = NOWHERE,
        *,
        needs_labels: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        self._fields = fields
        self.origin = origin
        self.needs_labels = needs_labels
        self.max_bytes = max_bytes

    @classmethod
    def of(cls, record: Mapping[str, object]) -> Record:
        """A record as it is, or a plain mapping as a record."""
        return record if isinstance(record, Record) else cls(record)

    def without(self, names: Set[str]) -> Record:
        """The record without some of its fields; itself where it has none of them."""
        if names.isdisjoint(self._fields):
            return self
        fields = {name: value for name, value in self._fields.items() if name not in names}
        return Record(fields, self.origin, needs_labels=self.needs_labels, max_bytes=self.max_bytes)

    def __getitem__(self, name: str) -> object:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def text(self, name: str, setting: str | None = None) -> str:
        """A text that must be there.

        Args:
            setting: the setting that names the field, for the message.

        Raises:
            DataError: no such field, no value, something else than text, an empty text or one that is too long.
        """
        value = self._value(name, setting)
        if value is MISSING:
            raise self.missing(name)
        if problem := not_text(self.origin.source, self.origin.row, name, value):
            raise self.error(problem.reason, problem.remedy)
        assert isinstance(value, str)  # `not_text` says so
        if not value or value.isspace():
            raise self.error(f"field {name!r} = {value[:20]!r} is empty", "fill it in or remove the row")
        if self.max_bytes is not None and len(value.encode()) > self.max_bytes:
            raise self.error(f"record longer than {self.max_bytes} bytes", "split it, or raise --max-document-bytes")
        return value

    def label(self, name: str, setting: str | None = None) -> str | None:
        """A label as text, without white space around it; whole numbers are as text, and 1.0 is 1.

        Returns:
            None where there is no label and none is needed.

        Raises:
            DataError: a label that is neither text nor a number, or none where one is needed.
        """
        value = self._value(name, setting) if self.needs_labels or name in self._fields else MISSING
        if (value is MISSING or value == "") and not self.needs_labels:
            return None
        label = label_text(value)
        if label:
            if problem := not_text(self.origin.source, self.origin.row, name, label):
                raise self.error(problem.reason, problem.remedy)
            return label
        value = self._fields[name]
        is_empty = value is None or isinstance(value, str)
        if isinstance(value, list | tuple) and value:
            raise self.error(
                f"label in field {name!r} is the list {str(value)[:40]}",
                "give each row one label, or use --task multilabel, which learns several labels of one text",
            )
        if isinstance(value, float):
            reason = f"label in field {name!r} is {value}, which is no finite number"
            raise self.error(reason, "write a number, or remove the row" + self._dropna(name))
        what = "empty" if is_empty else f"{str(value)[:40]!r}, neither text nor a number"
        remedy = "write one text or whole number, or remove the row"
        raise self.error(f"label in field {name!r} is {what}", remedy + self._dropna(name))

    def labels(self, name: str, setting: str | None, separator: str) -> tuple[str, ...] | None:
        """Several labels as texts, each once: of a list, or of a text with a separator; of an empty text none.

        Returns:
            None where they are not known and need not be.

        Raises:
            DataError: no such field, no value, or an item that is no label.
        """
        value = self._value(name, setting) if self.needs_labels or name in self._fields else MISSING
        if value is MISSING and not self.needs_labels:
            return None
        if value is MISSING:
            raise self.error(f"field {name!r} has no labels", "write [] where none applies" + self._dropna(name))
        items = value.tolist() if hasattr(value, "tolist") else value  # an array of a DataFrame
        if isinstance(items, str):
            items = [part for part in items.split(separator) if part.strip()]
        labels = [label_text(item) for item in (items if isinstance(items, list | tuple) else [items])]
        for number, label in enumerate(labels):
            if not label:
                what = f"label {number + 1} of field {name!r} is {describe(value)}"
                raise self.error(what, "write a list of texts or whole numbers")
            if problem := not_text(self.origin.source, self.origin.row, name, label):
                raise self.error(problem.reason, problem.remedy)
        return tuple(dict.fromkeys(labels))

    def strings(self, name: str, setting: str | None = None) -> list[str]:
        """A list of texts, such as words or their tags, none of them empty.

        Raises:
            DataError: no such field, no value, something else than a list, or an item that is not text.
        """
        value = self._value(name, setting)
        if value is MISSING:
            raise self.missing(name)
        items = self.items_of(name, value)
        if items is None:
            raise self.error(f"field {name!r} holds {describe(value)}, not a list of texts", "fix or remove the record")
        texts: list[str] = []
        for number, item in enumerate(items):
            if problem := not_text(self.origin.source, self.origin.row, f"{name}[{number}]", item):
                raise self.error(problem.reason, problem.remedy)
            assert isinstance(item, str)  # `not_text` says so
            if not item or item.isspace():
                raise self.error(f"field '{name}[{number}]' = {item[:20]!r} is empty", "fill it in or leave it out")
            texts.append(item)
        return texts

    def items_of(self, name: str, value: object) -> list[object] | None:
        """The items of a list, which a table holds as JSON in a cell; None of something else.

        Raises:
            DataError: text that begins as JSON and is none.
        """
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise self.error(f"field {name!r} is not JSON: {error}", "fix or remove the record") from None
        value = value.tolist() if hasattr(value, "tolist") else value  # an array of a DataFrame
        return list(value) if isinstance(value, list | tuple) else None

    def error(self, reason: str, remedy: str) -> DataError:
        """What is wrong with the record, with its place, to be raised."""
        return DataError(f"{self.origin}: {reason}; {remedy}")

    def _value(self, name: str, setting: str | None) -> object:
        """A field's value; MISSING for what stands for no value, such as None, NaN or pandas.NA."""
        if name not in self._fields:
            raise self._absent(name, setting)
        value = self._fields[name]
        return MISSING if is_missing(value) else value

    def _absent(self, name: str, setting: str | None) -> DataError:
        hint = suggest(name, [str(known)[:40] for known in islice(self._fields, 50)])
        where = _name_it("field", setting) if setting else "name it so"
        return self.error(f"no field {name!r}", f"{where}; {hint}")

    def missing(self, name: str, setting: str | None = None) -> DataError:
        """The error of a field that is not there or has no value, to be raised."""
        if name not in self._fields:
            return self._absent(name, setting)
        value = self._fields[name]
        remedy = "fill it in or remove the record" + self._dropna(name)
        return self.error(f"field {name!r} has no value ({describe(value)})", remedy)

    def _dropna(self, name: str) -> str:
        return f', such as by frame.dropna(subset=["{name}"])' if self.origin.source.endswith(".iloc") else ""


def is_missing(value: object) -> bool:
    """Whether a value stands for none: None, NaN, pandas.NA, NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def too_long(file: str, line: int, limit: int) -> RecordError:
    """The error of a record that is longer than it may be."""
    return RecordError(file, line, f"record longer than {limit} bytes", "split it, or raise --max-document-bytes")


def not_text(file: str, line: int, name: str, value: object) -> RecordError | None:
    """What keeps a value from being text: its type, a NUL, half a surrogate pair."""
    if not isinstance(value, str):
        return RecordError(file, line, f"field {name!r} holds {describe(value)}, not text", "fix or remove the record")
    if "\0" in value:
        return RecordError(file, line, f"field {name!r} holds a NUL character", "remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            what = f"half a surrogate pair (\\u{ord(value[error.start]):04x}) at character {error.start + 1}"
            return RecordError(file, line, f"field {name!r} holds {what}", "remove it")
    return None


def describe(value: object) -> str:
    """A value and its type, in a few words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = str(value) if len(str(value)) <= 40 else str(value)[:37] + "..."
    types: dict[type, str] = {int: "the number", float: "the number", list: "the list", dict: "the object"}
    return f"{types.get(type(value), type(value).__name__)} {text}"


def _name_it(noun: str, setting: str) -> str:
    """How a column is named: by the flag that is the last part of a dotted setting, or by a field of a user's task."""
    if not setting:
        return f"name a {noun} that is there"
    if "." not in setting:
        return f"set {setting} to the {noun} that holds it"
    return f"name the {noun} that holds it with --{setting.rpartition('.')[2]} ({setting})"


def absent(file: str, line: int, needed: Sequence[Column], known: Collection[str], noun: str) -> RecordError | None:
    """The error of a record or a header that lacks a column, with the nearest name that it has."""
    for column in needed:
        if column.name not in known and not any(name in known for name in column.alternatives):
            hint = suggest(column.name, [str(name)[:40] for name in islice(known, 50)])
            remedy = f"{_name_it(noun, column.setting)}; {hint}"
            return RecordError(file, line, f"no {noun} {column.name!r}", remedy)
    return None


def label_text(value: object) -> str:
    """A label as text; "" for what is no label."""
    if isinstance(value, str):
        return value.strip()
    if hasattr(value, "item") and not isinstance(value, list | tuple | dict) and getattr(value, "ndim", 1) == 0:
        return label_text(value.item())  # a scalar of numpy
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value) if value - value == 0.0 else ""
    return str(value) if isinstance(value, int) else ""
