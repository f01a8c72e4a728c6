"""Reads tables in text, whatever separates their fields: the common part of the readers of CSV and TSV."""

from __future__ import annotations

import csv
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO
from typing import Literal

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import Column, RecordError, SourceRow, absent

_QUOTES = 'close it, double quotes inside quoted fields (""), or set --quotes false if they are plain characters'
_RETURN = "remove the carriage return, or quote the field that holds it"
_DELIMITERS = ";|"  # that other programs write
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_log = logging.getLogger("pretune")
MAX_LINES = 100_000  # of one record: a quote left open does not swallow a file of short lines


def read_table(
    source: Source, columns: Sequence[Column], config: SourceConfig, delimiter: str, quoted: bool
) -> Iterator[SourceRow | RecordError]:
    """A record for each row of a CSV or TSV file; rows with too few or too many fields are errors."""
    rows = _quoted_rows(source, delimiter, config) if quoted else _plain_rows(source, delimiter, config)

    def explain(fields: list[str], header: list[str]) -> tuple[str, str]:
        return _bad_width(fields, header, quoted, delimiter)

    return read_rows(source, columns, config, rows, explain)


def read_rows(
    source: Source,
    columns: Sequence[Column],
    config: SourceConfig,
    rows: Iterable[tuple[int, list[str]] | RecordError],
    explain_width: Callable[[list[str], list[str]], tuple[str, str]] | None = None,
) -> Iterator[SourceRow | RecordError]:
    """A record for each row of a table, the first of which is the header where `config.columns` names none.

    Args:
        rows: the fields of each row with its line.
        explain_width: what is wrong with a row that has not as many fields as the header, and what to do; without it,
            a shorter row has empty fields at its end.
    """
    file = str(source.path)
    header, indices = list[str](), list[tuple[str, int]]()
    for item in rows:
        if isinstance(item, RecordError):
            yield item
            continue
        line, fields = item
        if not fields or fields == [""]:
            yield line, {}
            continue
        if not header:
            names = [field.strip() for field in fields]
            is_header = _is_header(source, names, columns, config)
            header = names if is_header else list(config.columns or ())
            if error := _bad_header(source, line if is_header else 0, columns, header):
                yield error
                return
            indices = _indices(columns, header)
            if is_header:
                continue
        if len(fields) != len(header) and (explain_width or len(fields) > len(header)):
            yield RecordError(file, line, *(explain_width or _too_wide)(fields, header))
        else:
            yield line, {name: fields[index] if index < len(fields) else "" for name, index in indices}


def _is_header(source: Source, names: list[str], columns: Sequence[Column], config: SourceConfig) -> bool:
    """Whether the first row of a table names its columns, although `config.columns` may name those of another file."""
    if not config.columns or names == list(config.columns):
        return True
    needed = {column.name for column in columns if column.required}
    if not needed or not needed <= set(names):
        return False
    _log.info("%s: the first row names the columns, so that --columns is not used", source.path)
    return True


def table_names(source: Source, config: SourceConfig, delimiter: str, quoted: bool) -> list[str]:
    """The names of a table's columns; none where its header cannot be read."""
    return names_of_rows(
        _quoted_rows(source, delimiter, config) if quoted else _plain_rows(source, delimiter, config), config
    )


def names_of_rows(rows: Iterable[tuple[int, list[str]] | RecordError], config: SourceConfig) -> list[str]:
    """The names of the columns of rows: of the first one, or those that `config.columns` says where it has none."""
    first = next((row for row in rows if isinstance(row, RecordError) or row[1] not in ([], [""])), None)
    names = [] if first is None or isinstance(first, RecordError) else [field.strip() for field in first[1]]
    known = list(config.columns or ())
    return known if known and not set(known) & set(names) else names


def is_quoted(source: Source, config: SourceConfig, delimiter: str) -> bool:
    """Whether the first MiB of a file is what `csv.writer` or pandas would write for its rows; a quoted file is said.

    A file with other quotes too is plain; fields of it that look quoted are said.
    """
    block = next(text_blocks(source, config), None)
    if block is None or isinstance(block, RecordError) or '"' not in block[1]:
        return False
    if _is_minimal(block[1], delimiter) or _is_all_but_numbers(block[1], delimiter):
        _log.info("%s: fields are quoted, and read without their quotes; --quotes false keeps them", source.path)
        return True
    rows = enumerate(split_lines(block[1]), block[0])
    doubled = [n for n, text in rows if '""' in text and any(map(_QUOTED.fullmatch, text.split(delimiter)))]
    if doubled:
        what = "%s: %d lines have fields that look quoted (line %d), others have plain quotes: all kept; set --quotes"
        _log.warning(what, source.path, len(doubled), doubled[0])
    return False


def _is_minimal(text: str, delimiter: str) -> bool:
    """Whether `csv.writer` gives a text for the rows that are in it, by the quotes that it cannot do without."""
    rows = _rows(text, delimiter, csv.QUOTE_MINIMAL)
    written = StringIO()
    csv.writer(written, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return bool(rows) and text.rstrip("\n").startswith(written.getvalue().rstrip("\n"))


def _is_all_but_numbers(text: str, delimiter: str) -> bool:
    """Whether every field that is no number is quoted, as R does, and pandas and `csv.writer` where asked."""
    return bool(_rows(text, delimiter, csv.QUOTE_NONNUMERIC))


def _rows(text: str, delimiter: str, quoting: Literal[0, 2]) -> list[list[str]]:
    """The rows that `csv.reader` finds in a text, the last of which may be cut off; none where it is not written so."""
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(StringIO(text, newline="\n"), delimiter=delimiter, strict=True, quoting=quoting))
    except ValueError:  # a field without quotes that is no number
        return []
    except csv.Error as error:
        if "unexpected end" not in str(error):
            return []
    return rows


def _indices(columns: Sequence[Column], header: list[str]) -> list[tuple[str, int]]:
    """The columns that a header has, and where."""
    return [(column.name, header.index(column.name)) for column in columns if column.name in header]


def _bad_header(source: Source, line: int, columns: Sequence[Column], header: list[str]) -> RecordError | None:
    file = str(source.path)
    needed = [column for column in columns if column.required]
    missing = absent(file, line, needed, header, "column")
    if missing is None:
        twice = [column.name for column in columns if header.count(column.name) > 1]
        return RecordError(file, line, f"two columns are called {twice[0]!r}", "rename one") if twice else None
    if any(name.startswith('"') and column.name == name.strip('"') for column in needed for name in header):
        return RecordError(file, line, missing.reason, "set --quotes true if fields are quoted")
    read = [column.name for column in columns if column.setting]  # others are kept beside an answer, if they are there
    if line == 0 or any(name in header for name in read):
        return missing
    if len(header) == 1 and ("\t" in header[0] or "," in header[0]):
        tabs = "\t" in header[0]
        hint = f"fields look separated by {'tabs' if tabs else 'commas'}: set --format {'tsv' if tabs else 'csv'}"
        return RecordError(file, line, missing.reason, hint)
    other = next((each for each in _DELIMITERS if len(header) == 1 and each in header[0]), None)
    if other is not None and source.format == "csv":
        return RecordError(file, line, missing.reason, f"fields look separated by {other!r}: set --delimiter {other!r}")
    if other is not None:
        hint = f"fields look separated by {other!r}: set --format csv --delimiter {other!r}"
        return RecordError(file, line, missing.reason, hint)
    count = f"{len(header)} column{'s' if len(header) > 1 else ''}"
    example = ",".join([*read, *(f"column{number}" for number in range(len(read) + 1, len(header) + 1))][: len(header)])
    hint = f"{missing.remedy}; if the file has no header row, name its {count} in order, as in --columns {example}"
    return RecordError(file, line, missing.reason, hint)


def _too_wide(fields: list[str], header: list[str]) -> tuple[str, str]:
    return f"{len(fields)} cells where the header has {len(header)}", "name the columns, or clear the cells beside them"


def _bad_width(fields: list[str], header: list[str], quoted: bool, delimiter: str) -> tuple[str, str]:
    remedy = "write one tab between fields and none inside"
    if delimiter != "\t":
        remedy = "quote fields that hold a comma" if delimiter == "," else f"quote fields that hold a {delimiter!r}"
    if not quoted and any(field.startswith('"') for field in fields):
        remedy += ", or set --quotes true if fields are quoted"
    row = delimiter.join(fields)
    row = row if len(row) <= 60 else row[:57] + "..."
    return f"{len(fields)} fields where the header has {len(header)}: {row!r}", remedy


def _plain_rows(source: Source, delimiter: str, config: SourceConfig) -> Iterator[tuple[int, list[str]] | RecordError]:
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        for line, text in enumerate(split_lines(item[1]), item[0]):
            yield line, text.split(delimiter)


class _UnreadableRowError(Exception):
    """Carries an error out through `csv.reader`."""

    def __init__(self, error: RecordError) -> None:
        self.error = error


class _LineSource:
    """Lines for `csv.reader`; remembers those of the record being read, to start again behind a bad one."""

    def __init__(self, source: Source, config: SourceConfig) -> None:
        self._source, self._limit = str(source.path), config.max_document_bytes
        self._blocks = text_blocks(source, config)
        self._text, self._next = iter(StringIO()), 1
        self._again: deque[tuple[int, str]] = deque()
        self.record: list[tuple[int, str]] = []
        self._size = 0

    def __iter__(self) -> _LineSource:
        return self

    def __next__(self) -> str:
        line, text = self._again.popleft() if self._again else self._fresh()
        self.record.append((line, text))
        self._size += len(text)
        if len(self.record) > 1 and (self._size > self._limit or len(self.record) > MAX_LINES):
            reason = f"a quote that opens here is not closed within {self._limit} bytes and {MAX_LINES} lines"
            raise _UnreadableRowError(RecordError(self._source, self.record[0][0], reason, _QUOTES))
        return text

    def _fresh(self) -> tuple[int, str]:
        while True:
            text = next(self._text, None)
            if text is not None:
                self._next += 1
                return self._next - 1, text
            block = next(self._blocks)
            if isinstance(block, RecordError):
                raise _UnreadableRowError(block)
            self._next, self._text = block[0], iter(StringIO(block[1], newline="\n"))

    def begin(self) -> None:
        """A record is complete: the next line begins another."""
        self.record, self._size = [], 0

    def retry(self) -> None:
        """Drop the first line of the record being read and read the others again."""
        self._again.extendleft(reversed(self.record[1:]))
        self.begin()


def _quoted_rows(source: Source, delimiter: str, config: SourceConfig) -> Iterator[tuple[int, list[str]] | RecordError]:
    csv.field_size_limit(max(csv.field_size_limit(), config.max_document_bytes))
    feed, file = _LineSource(source, config), str(source.path)
    while True:
        try:
            for fields in csv.reader(feed, delimiter=delimiter, strict=True):
                line = feed.record[0][0]
                feed.begin()
                yield line, fields
            return
        except csv.Error as error:
            line = feed.record[0][0]
            feed.retry()
            what = "a quote is not closed before the end" if "unexpected end" in str(error) else str(error)
            quote = "new-line" not in what
            yield RecordError(
                file, line, f"{'broken quotes' if quote else 'not CSV'}: {what}", _QUOTES if quote else _RETURN
            )
        except _UnreadableRowError as problem:
            if feed.record and problem.error.line != feed.record[0][0]:
                yield RecordError(
                    file, feed.record[0][0], f"record broken by line {problem.error.line}", "fix that line first"
                )
            feed.retry()
            yield problem.error
