"""Reads labelled records from files in any format or from memory. A bad record stops the reading."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, cast

from pydantic import model_validator

from pretune.errors import DataError
from pretune.find import find
from pretune.text.readers.files import Source, SourceConfig, find_sources, has_columns, no_files, skipped_note
from pretune.text.readers.memory import Records, is_path, read_memory
from pretune.text.readers.records import NOWHERE, Column, Origin, Record, RecordError, SkippedRecords, SourceRow

_log = logging.getLogger("pretune")
Data: TypeAlias = Sequence[Path | str] | Path | str | Records
"""Files (a path, a folder, a glob, or a list of them), or records in memory."""
NamedData: TypeAlias = Data | Mapping[str, Data]
"""Data of one task, or of several by the names of the tasks."""


class Reader(Protocol):
    """A file `text/readers/<format>.py`, or a user's own."""

    SUFFIXES: Sequence[str]

    def read(
        self, source: Source, columns: Sequence[Column], config: SourceConfig
    ) -> Iterator[SourceRow | RecordError]:
        """The records of a file."""


class LabelledConfig(SourceConfig):
    """Which columns of labelled data are read; others may be there.

    Attributes:
        text: column or field of the text.
        label: column or field of the label: text or integers, kept as text.
        second: column or field of the second text, for tasks on pairs.
        third: column or field of the third text, for tasks on triplets.
        id: column or field that `predict` writes with each answer.
        spans: field of the spans of annotated texts: objects with `start`, `end` (characters, the end exclusive) and
            `label`.
        links: field of the links between spans: objects with `head`, `tail` (ids of spans, or their numbers from 0) and
            `label`.
        tokens: field of a list of words, instead of a text.
        tags: field of the tags of those words.
        question: field of the question about a text.
        answers: field of the answers to it: objects with `start` (characters) and `text`.
        choices: field of the texts among which one is to be chosen.
        target: field of the text that is to be written, or of several right ones as a list; several fields with commas
            between them are several right texts, too. Of parallel files the suffix or the path of the other one.
        messages: field of the messages of a conversation: objects with `role` and `content`, or what other forms have.
        on_bad: what becomes of a bad record: `error` stops, `skip` leaves it out, and counts it. Prediction, which
            answers every record, always stops.
    """

    text: str = "text"
    label: str = "label"
    second: str | None = None
    third: str | None = None
    id: str | None = None
    spans: str = "spans"
    links: str = "links"
    tokens: str = "tokens"
    tags: str = "tags"
    question: str = "question"
    answers: str = "answers"
    choices: str = "choices"
    target: str = "target"
    messages: str = "messages"
    on_bad: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _each_its_own(self) -> LabelledConfig:
        if self.third and not self.second:
            raise ValueError("a column for the third texts needs one for the second texts")
        names: dict[str, str] = {}
        for setting in ("text", "label", "second", "third"):
            name = getattr(self, setting)
            if name is not None and name in names:
                raise ValueError(f"{names[name]} and {setting} are both {name!r}; give each a column of its own")
            names[name] = setting
        if not any(name.strip() for name in self.target.split(",")):
            raise ValueError(f"target = {self.target!r} names no field; name the one of the text that is to be written")
        return self

    def text_columns(self) -> list[Column]:
        """The columns of texts."""
        columns = [Column(self.text, "columns.text")]
        columns += [Column(self.second, "columns.second")] if self.second else []
        return columns + ([Column(self.third, "columns.third")] if self.third else [])


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, a pair or a triplet, and its label.

    Attributes:
        text: never empty.
        label: None where it is not known.
        second: the second text of a pair.
        third: the third text of a triplet.
        origin: where it comes from.
    """

    text: str
    label: str | None = None
    second: str | None = None
    third: str | None = None
    origin: Origin = field(default=NOWHERE, kw_only=True)

    @classmethod
    def read(cls, record: Mapping[str, object], config: LabelledConfig) -> LabelledText:
        """What a record holds.

        Raises:
            DataError: a field that is missing or holds something else; see `Record`.
        """
        fields = Record.of(record)
        texts = [fields.text(column.name, column.setting) for column in config.text_columns()]
        text, second, third = [*texts, None, None][:3]
        assert text is not None
        label = fields.label(config.label, "columns.label")
        return cls(text, label, second, third, origin=fields.origin)


def read_records(
    data: Data,
    columns: Sequence[Column],
    config: SourceConfig | None = None,
    needs_labels: bool = True,
    every_line: bool = False,
    skipped: SkippedRecords | None = None,
) -> Iterator[Record]:
    """The records of files or of an object in memory, in order.

    Args:
        columns: the fields that will be read; the first is what a `.txt` file, which has no others, gives.
        config: how files are read.
        needs_labels: a record without a label is an error.
        every_line: a blank line is an error too, so that there are as many records as lines; blank lines at the end of
            a table are none.
        skipped: counts the records of files that cannot be read, which are left out; None where they are errors.

    Raises:
        MissingInputError: a file does not exist or may not be read.
        DataError: a bad record: file, line, field, value and remedy; no records.
    """
    config = config or SourceConfig()
    count = 0
    for origin, fields in (
        _file_rows(data, columns, config, every_line, skipped) if is_path(data) else read_memory(data, columns)
    ):
        count += 1
        yield Record(fields, origin, needs_labels=needs_labels, max_bytes=config.max_document_bytes)
    if not count and not (skipped and skipped.count):
        if is_path(data):
            _check_columns(data, columns, config)
        source, what = (_listed(data), "the file is empty or holds a header alone") if is_path(data) else (
            type(data).__name__, "give at least one record"
        )  # fmt: skip
        raise DataError(f"{source}: no rows; {what}")


def _check_columns(data: Data, columns: Sequence[Column], config: SourceConfig) -> None:
    """Refuses a table, of which nothing was read, for its columns, where they are why."""
    names, read = field_names(data, config), [column.name for column in columns]
    if names and not {*names} & {*read}:
        raise DataError(
            f"{_listed(data)}: has the columns {', '.join(names)}, and none of those that are read; name them "
            f"{', '.join(read)}"
        )


def _listed(data: Data) -> str:
    return ", ".join(map(str, data)) if isinstance(data, list | tuple) else str(data)


def field_names(data: Data, config: SourceConfig | None = None) -> list[str]:
    """The names of the fields of the first file; none of data in memory, of text, or where they cannot be read.

    Raises:
        MissingInputError: a file does not exist or may not be read.
    """
    if not is_path(data):
        return []
    config = config or SourceConfig()
    sources = find_sources(cast("Path", data), config.format)
    names = getattr(find("text.readers", sources[0].format), "names", None) if sources else None
    return [] if names is None else list(names(sources[0], config))


def read_texts_of_file(path: Path | str, column: str) -> list[str]:
    """The texts of a file, in order.

    Args:
        column: that holds them, where the file has columns.

    Raises:
        MissingInputError, DataError: as `read_records`.
    """
    fields = [Column(column, "columns.text")]
    return [record.text(column, "columns.text") for record in read_records(path, fields, needs_labels=False)]


def read_labelled(data: Data, config: LabelledConfig | None = None, needs_labels: bool = True) -> list[LabelledText]:
    """Read every record of labelled texts.

    Args:
        data: a file, a folder, a glob, a list of them, or records in memory.
        needs_labels: False where labels may be missing, as in prediction; a `.txt` file then has one text per line.

    Raises:
        MissingInputError: a file does not exist or may not be read.
        DataError: a bad record: file, line, field, value and remedy; no records.
    """
    config = config or LabelledConfig()
    columns = [*config.text_columns(), Column(config.label, "columns.label", required=needs_labels)]
    records = read_records(data, columns, config, needs_labels)
    return [LabelledText.read(record, config) for record in records]


def _file_rows(
    data: Data, columns: Sequence[Column], config: SourceConfig, every_line: bool, skipped: SkippedRecords | None
) -> Iterator[tuple[Origin, Mapping[str, object]]]:
    """The records of files, blank lines left out or refused."""
    ignored: list[str] = []
    sources = find_sources(cast("Path", data), config.format, ignored)
    if not sources:
        raise no_files(_listed(data), ignored)
    if note := skipped_note(ignored):
        _log.warning("%s", note)
    for source in sources:
        is_text, blank = not has_columns(source.format), 0
        if is_text and sum(column.required for column in columns) > 1:
            remedy = "set --format tsv, csv or jsonl if it is one"
            raise DataError(f"{source.path}: a .{source.format} file has no columns; {remedy}")
        reader = cast("Reader", find("text.readers", source.format))
        for item in reader.read(source, columns, config):
            if isinstance(item, RecordError):
                if skipped is None:
                    raise DataError(str(item))
                skipped.add(str(item))
                continue
            line, fields = item
            if fields and not (is_text and not str(fields[columns[0].name]).strip()):
                if blank:
                    raise _blank_line(source, blank)
                yield Origin(str(source.path), line), fields
            elif every_line:
                blank = blank or line
                if is_text:
                    raise _blank_line(source, blank)


def _blank_line(source: Source, line: int) -> DataError:
    return DataError(
        f"{source.path}:{line}: the line is empty; fill it in or remove it, so that each row has an answer"
    )
