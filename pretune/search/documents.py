"""Reads the documents to be searched: each with an id, a title, its text and whatever else its record holds.

    files -> text/readers -> Document(id, title, text, fields, origin)

Records of JSONL, CSV, TSV, Excel and Parquet files have their ids in a column; without one, ids are made of the file's
name and the line. A file of Markdown, HTML or text is one document, called by its path. The texts of a SQuAD file are
one document each, however many questions are asked about them.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from pretune.errors import DataError
from pretune.text.readers.corpus import CorpusConfig, read_corpus
from pretune.text.readers.files import Source, SourceConfig, find_sources, has_columns, no_files, skipped_note
from pretune.text.readers.labelled import Data, field_names, read_records
from pretune.text.readers.memory import is_path
from pretune.text.readers.records import Column, Record, RecordError, SourceRow, is_missing, not_text
from pretune.text.readers.squad import is_squad
from pretune.text.readers.squad import read as read_squad
from pretune.wording import counted

_log = logging.getLogger("pretune")
Value: TypeAlias = str | int | float | bool
ID_COLUMNS = ("_id", "id")
"""Columns that hold ids where none is named: those of BEIR and of everybody else."""


class DocumentConfig(SourceConfig):
    """Which columns of the files are read.

    Attributes:
        text: column or field of the text.
        title: column or field of the title, where there is one; empty for none.
        id: column or field of the id; by default "_id" or "id", where the file has it, else ids are made.
        documents: what ends a document of a `.txt` file: the file, a blank line, or each line.
    """

    text: str = "text"
    title: str = "title"
    id: str | None = None
    documents: Literal["file", "blank-line", "line"] = "file"


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is searched.

    Attributes:
        id: unlike that of any other document of an index.
        text: as it was read: of Markdown and HTML without the signs that format it. Never empty.
        title: empty where there is none.
        fields: what else its record holds, by which searches can be filtered.
        origin: where it was read, for messages.
    """

    id: str
    text: str
    title: str = ""
    fields: Mapping[str, Value] = field(default_factory=dict)
    origin: str = "document"


@dataclass
class DocumentStats:
    """What became of every record.

    Attributes:
        read: documents that are handed on.
        empty: records without any text, which are left out.
        dropped: names of fields that are not kept, as they hold neither a text nor a finite number, with their counts.
    """

    read: int = 0
    empty: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """What was left out, a sentence each."""
        notes = [f"documents left out, as they have no text: {self.empty:,}"] if self.empty else []
        return notes + [
            f"field {name!r} is not kept in {counted(count, 'document')}: it holds neither a text nor a finite number"
            for name, count in self.dropped.items()
        ]


def read_documents(
    data: Data, config: DocumentConfig | None = None, stats: DocumentStats | None = None
) -> Iterator[Document]:
    """The documents of files, folders and globs, or of records in memory, in an order that never changes.

    Raises:
        MissingInputError: a file does not exist or may not be read.
        DataError: a bad record; an id that is missing or comes twice: file, line, id.
    """
    config, stats = config or DocumentConfig(), stats if stats is not None else DocumentStats()
    first: dict[str, str] = {}
    for document in _documents(data, config, stats):
        if not document.text.strip():
            stats.empty += 1
            continue
        if document.id in first:
            raise DataError(
                f"{document.origin}: id {document.id!r} is that of {first[document.id]} too; give each document an id "
                "of its own, or name another column (--id)"
            )
        first[document.id] = document.origin
        stats.read += 1
        yield document


def _documents(data: Data, config: DocumentConfig, stats: DocumentStats) -> Iterator[Document]:
    if not is_path(data):
        yield from _of_records(read_records(data, _columns(config, ()), config, needs_labels=False), config, stats)
        return
    paths: Sequence[Path | str] = [data] if isinstance(data, str | Path) else list(data)  # type: ignore[arg-type]
    for path in paths:
        ignored: list[str] = []
        sources = find_sources(path, config.format, ignored)
        if not sources:
            raise no_files(path, ignored)
        if note := skipped_note(ignored):
            _log.warning("%s", note)
        for source in sources:
            if is_squad_file(source, config):
                yield from _of_squad(source, config)
            elif has_columns(source.format):
                columns = _columns(config, field_names(source.path, config))
                records = read_records(source.path, columns, config, needs_labels=False)
                yield from _of_records(records, config, stats)
            else:
                yield from _of_text(source, config)


def is_squad_file(source: Source, config: SourceConfig) -> bool:
    """Whether a file holds questions about texts."""
    return source.format == "squad" or (source.format == "json" and is_squad(source, config))


def _columns(config: DocumentConfig, names: Sequence[str]) -> list[Column]:
    """What is read of a file: the text is required, an id where a flag names it, all others are kept."""
    columns = [Column(config.text, "text")]
    columns += [Column(config.id, "id")] if config.id else []
    taken = [column.name for column in columns]
    return columns + [Column(name, "", required=False) for name in dict.fromkeys(names) if name not in taken]


def _of_records(records: Iterator[Record], config: DocumentConfig, stats: DocumentStats) -> Iterator[Document]:
    id_columns: dict[str, str | None] = {}  # of each file, told by its first record
    for record in records:
        source = record.origin.source
        if source not in id_columns:
            id_columns[source] = config.id or next((name for name in ID_COLUMNS if name in record), None)
        id_column = id_columns[source]
        if id_column is None:
            name = (
                f"{_readable(Path(source).name)}:{record.origin.row}"
                if not record.origin.in_memory
                else str(record.origin.row)
            )
        else:
            name = _id_of(record, id_column)
        text = record.get(config.text)
        if text is None or (isinstance(text, str) and not text.strip()):
            stats.empty += 1
            continue
        own = {key: value for key, value in record.items() if key not in (id_column, config.text)}
        kept = _plain(own, stats, record)
        title = str(kept.pop(config.title, ""))
        yield Document(name, record.text(config.text, "text"), title, kept, str(record.origin))


def _id_of(record: Record, column: str) -> str:
    """The id of a record.

    Raises:
        DataError: it has none.
    """
    value = record.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        shown = "is missing" if column not in record or value is None else f"is {value!r}"
        raise DataError(
            f"{record.origin}: the id (field {column!r}) {shown}; fill it in, or leave the column out, so that ids are "
            "made"
        )
    _check_text(record, column, str(value))
    return str(value)


def _check_text(record: Record, name: str, value: str) -> None:
    """Refuses what no file can hold as text.

    Raises:
        DataError: a NUL or half a surrogate pair, with its field.
    """
    if (error := not_text("", 0, name, value)) is not None:
        raise DataError(f"{record.origin}: {error.reason}; {error.remedy}")


def _plain(fields: Mapping[str, object], stats: DocumentStats, record: Record) -> dict[str, Value]:
    """The fields that a filter can compare.

    Raises:
        DataError: a name or a value that no file can hold as text.
    """
    out: dict[str, Value] = {}
    for name, value in fields.items():
        _check_text(record, name.encode("ascii", "backslashreplace").decode(), name)
        if isinstance(value, str):
            _check_text(record, name, value)
        if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
            out[name] = value
        elif not is_missing(value):
            stats.dropped[name] = stats.dropped.get(name, 0) + 1
    return out


def _of_text(source: Source, config: DocumentConfig) -> Iterator[Document]:
    """The documents of a file without columns: one, unless a `.txt` file is split."""
    splits = source.format == "txt" and config.documents != "file"
    corpus = CorpusConfig(
        format=source.format,
        documents=config.documents if source.format == "txt" else "file",
        max_document_bytes=config.max_document_bytes,
        max_compression_ratio=config.max_compression_ratio,
    )
    for document in read_corpus(source.path, corpus):
        path = _readable(document.source)
        name = f"{path}:{document.line}" if splits else path
        yield Document(name, document.text, "", {}, f"{path}:{document.line}")


def _readable(path: str) -> str:
    """A path as text, whose bytes that are no UTF-8 have U+FFFD in their stead."""
    return os.fsencode(path).decode(errors="replace")


def _of_squad(source: Source, config: DocumentConfig) -> Iterator[Document]:
    """The texts of a SQuAD file, each once, in the order in which they come."""
    numbers: dict[str, int] = {}
    for line, fields in squad_records(source):
        text = str(fields["text"])
        if text not in numbers:
            numbers[text] = len(numbers) + 1
            name = squad_id(source, numbers[text])
            title = str(fields.get("title") or "") if config.title else ""
            yield Document(name, text, title, {}, f"{source.path}:{line}")


def squad_records(source: Source) -> Iterator[SourceRow]:
    """The questions of a SQuAD file with their texts.

    Raises:
        DataError: it is none.
    """
    for item in read_squad(source, [Column("text", "text")], SourceConfig()):
        if isinstance(item, RecordError):
            raise DataError(str(item))
        yield item


def squad_id(source: Source, number: int) -> str:
    """The id of a text of a SQuAD file, by its number among the different ones, from 1."""
    return f"{_readable(Path(source.path).name)}#{number}"
