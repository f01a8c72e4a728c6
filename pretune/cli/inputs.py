"""Reads a verb's rows from arguments, a file or standard input: one row per line, none left out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from pretune.errors import DataError, NonFiniteError, UsageError

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.cli.session import Session
    from pretune.text.readers.labelled import LabelledConfig
    from pretune.text.readers.records import Column, Record

T = TypeVar("T")
_FILES = (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
CHUNK = 512  # texts that are in memory at once while a stream is read
SECOND_COLUMN = "--second names the column of the second text of pairs"


@dataclass(frozen=True)
class RowFlags:
    """Flags of verbs that answer row by row: one answer per row, in order.

    Attributes:
        input: file of texts: .txt (one per line), or .jsonl, .csv, .tsv or .parquet; a blank line is refused.
        output: file to write, instead of standard output: .csv or .tsv for a table, else lines of JSON or text.
        text: column of the texts in the file; by default as in training, else "text".
        id: column of the file that is written with each answer, as "id".
    """

    input: Path | None = None
    output: Path | None = None
    text: str | None = None
    id: str | None = None


Rows = Annotated[RowFlags, Parameter(name="*")]
NO_FLAGS = RowFlags()


@dataclass(frozen=True)
class TextRow:
    """A text, what else its row holds, the fields by which an answer begins, and where it was read."""

    text: str
    second: str | None
    ids: Mapping[str, object]
    origin: object = "text"


def columns_of(model: Model, flags: Mapping[str, str | None]) -> LabelledConfig:
    """The columns that a model reads: as in its training, with those that are given laid over them.

    Raises:
        UsageError: one column would be read as two.
    """
    from pretune.config import validate
    from pretune.text.readers.labelled import LabelledConfig

    names = {name: value for name, value in flags.items() if value is not None}
    recorded = model.network.metadata.task
    return validate(LabelledConfig, {**(recorded.columns if recorded else {}), **names}, "columns")


def text_column_of(model: Model, rows: RowFlags) -> LabelledConfig:
    """How texts are read one by one: any column may hold them, whatever it was in training."""
    named = {} if rows.text is None else {"text": rows.text}
    return columns_of(model, {}).model_copy(update={"second": None, "third": None, **named})


def read_rows(
    texts: Sequence[str],
    rows: RowFlags,
    model: Model,
    second: str | None = None,
) -> Iterator[TextRow]:
    """Reads texts, or pairs of texts, from arguments, a file, or the lines of standard input.

    Args:
        model: whose training says which column holds the texts, where no flag does.
        second: column of the file with the second text of each row.

    Raises:
        UsageError: both arguments and a file, or columns without a file.
        DataError: a line of standard input that is empty or not UTF-8; a bad row of a file, or a blank line.
    """
    from pretune.text.readers.records import Column

    if rows.input is None:
        refuse_column("--second", second)
    columns = text_column_of(model, rows)
    fields = [Column(columns.text, "columns.text")]
    fields += [Column(second, "columns.second")] if second else []
    for record in read_task_records(fields, columns, texts, rows):
        other = record.text(second, "columns.second") if second else None
        yield TextRow(record.text(fields[0].name, "columns.text"), other, ids_of(record, rows), record.origin)


@contextmanager
def named_rows(part: Sequence[TextRow]) -> Iterator[None]:
    """Names the line of a file, and not the number among those read together, where a model gives no finite number.

    Args:
        part: the rows of the calls in the block.
    """
    try:
        yield
    except NonFiniteError as error:
        raise error.at(part[error.index].origin) from None


def read_task_records(
    columns: Sequence[Column],
    config: LabelledConfig,
    texts: Sequence[str],
    rows: RowFlags,
    seconds: Sequence[str] = (),
) -> Iterator[Record]:
    """Records from arguments, from a file, or from the lines of standard input.

    Args:
        columns: the fields that are read; a bare text is the first of them, and a second one the second.
        config: how a file is read.

    Raises:
        UsageError: both arguments and a file, or columns without a file.
        DataError: a line of standard input that is empty or not UTF-8; a bad record of a file, or a blank line.
    """
    from pretune.text.readers.labelled import read_records
    from pretune.text.readers.records import Column, Origin, Record

    if texts and rows.input is not None:
        raise UsageError(f"expected texts or --input {rows.input}, not both")
    if rows.input is not None:
        ids = [Column(rows.id, "columns.id")] if rows.id else []
        fields = [*columns, *(column for column in ids if column.name not in [c.name for c in columns])]
        yield from read_records(rows.input, fields, config, needs_labels=False, every_line=True)
        return
    for flag, value in (("--text", rows.text), ("--id", rows.id)):
        refuse_column(flag, value)
    file = next((text for text in texts if text.endswith(_FILES) and Path(text).is_file()), None)
    if file is not None:
        raise UsageError(f"{file!r} is a file and would be read as a text; to read what it holds, give --input {file}")
    lines = texts if texts else _standard_input()
    source = "text" if texts else "standard input"
    for number, text in enumerate(lines, 1):
        fields_of_text = {columns[0].name: text} | ({columns[1].name: seconds[number - 1]} if seconds else {})
        yield Record(fields_of_text, Origin(source, number))


def refuse_column(flag: str, value: str | None) -> None:
    """Refuses a flag that names a column where no file is read.

    Raises:
        UsageError: the flag is given.
    """
    if value is not None:
        raise UsageError(f"{flag} {value}: a column is one of a file; name the file with --input")


def say_columns(
    session: Session,
    path: Path | None,
    config: LabelledConfig,
    read: Sequence[str | None],
    second: str | None = SECOND_COLUMN,
) -> None:
    """Says which columns of a file are read and which are not, so that a second text is not left out unseen.

    Args:
        read: names of the columns that are read.
        second: which flag of the verb reads another column; None where none does, or where it is given.
    """
    from pretune.text.readers.labelled import field_names

    names = [] if path is None else field_names(path, config)
    others = [name for name in names if name not in read]
    used = ", ".join(repr(name) for name in names if name in read)
    if used and others:  # where none is read, the error that follows says which there are
        listed = ", ".join(map(repr, others[:8])) + (", ..." if len(others) > 8 else "")
        remedy = f"; {second}" if second and not config.second else ""
        session.say(f"{path}: reading {used}; not reading {listed}{remedy}")


def ids_of(record: Record, rows: RowFlags) -> dict[str, object]:
    """The value of a record's id column, as the field "id"; nothing where no flag names one.

    A value that is missing in a column of numbers is read as NaN, and written as none.
    """
    if rows.id is None:
        return {}
    value = record[rows.id]
    return {"id": None if isinstance(value, float) and not math.isfinite(value) else value}


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Yields consecutive lists of at most `size` items."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def _standard_input() -> Iterator[str]:
    if sys.stdin.isatty():
        print("reading standard input, one text per line; end with Ctrl-D", file=sys.stderr)
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input:{number}: not UTF-8: {error}; convert it first (iconv -t utf-8)") from None
        if not text.strip():
            raise DataError(f"standard input:{number}: the line is empty; remove it")
        yield text
