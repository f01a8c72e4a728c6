"""Reads a verb's rows from arguments, a file or standard input: one row per line, none left out."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from cyclopts import Parameter

from pretune.errors import DataError, NonFiniteError, UsageError
from pretune.runtime.screen import Screen

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.cli.session import Session
    from pretune.text.readers.labelled import LabelledConfig
    from pretune.text.readers.records import Column, Record

T = TypeVar("T")
_log = logging.getLogger("pretune")
_SUFFIX = re.compile(r"\.\w{1,10}$|\.\{[^{}]+\}|\}\S*\.\w{1,10}$")  # how the name of a file, or of two, may end
CHUNK = 512  # texts that are in memory at once while a stream is read
SECOND_COLUMN = "--second names the column of the second text of pairs"


@dataclass(frozen=True)
class FileFlags:
    """Flags that say how files of rows are read.

    Attributes:
        columns: names of the columns of a file without a header row, such as id,text.
        format: format of the files, such as csv; by default by suffix.
        delimiter: the character between the fields of a .csv file, where it is no comma.
        quotes: whether the fields of a .csv or .tsv file may be quoted: true or false; by default as the file looks.
    """

    columns: tuple[str, ...] = ()
    format: str | None = None
    delimiter: str | None = None
    quotes: Literal["true", "false"] | None = None

    def settings(self) -> dict[str, object]:
        """The flags that are given, as fields of how labelled files are read."""
        quotes = None if self.quotes is None else self.quotes == "true"
        values = {"columns": split_names(self.columns), "format": self.format, "delimiter": self.delimiter}
        return {name: value for name, value in (values | {"quotes": quotes}).items() if value not in (None, ())}


Files = Annotated[FileFlags, Parameter(name="*")]
NO_FILE_FLAGS = FileFlags()


@dataclass(frozen=True)
class RowFlags:
    """Flags of verbs that answer row by row: one answer per row, in order.

    Attributes:
        input: file of texts, the same as its name among the texts: .txt, .csv, .tsv, .xlsx, .jsonl or .parquet; a blank
            line is refused.
        output: file to write, instead of standard output: .csv, .tsv or .xlsx for a table, else lines of JSON; all
            columns of the input are kept.
        text: column of the texts in the file; by default as in training, else "text".
        id: column of the file that is shown beside each answer on a terminal; files keep all columns.
        files: how files are read.
        as_json: lines of JSON on a terminal too, where answers are shown as a table.
    """

    input: tuple[Path, ...] = ()
    output: Path | None = None
    text: str | None = None
    id: str | None = None
    files: Files = NO_FILE_FLAGS
    as_json: Annotated[bool, Parameter(name="--json")] = False

    @property
    def column_flags(self) -> dict[str, str | None]:
        """Flags that mean nothing without a file."""
        return {"--text": self.text, "--id": self.id}


Rows = Annotated[RowFlags, Parameter(name="*")]
NO_FLAGS = RowFlags()


@dataclass(frozen=True)
class TextRow:
    """A text, what else its row holds, and where it was read.

    Attributes:
        text: the text of the row.
        second: the second text, where one is read.
        inputs: all columns of the row.
        shown: names of those that a terminal shows beside an answer.
        origin: where it was read.
    """

    text: str
    second: str | None
    inputs: Mapping[str, object]
    shown: Sequence[str]
    origin: object = "text"


def split_texts(texts: Sequence[str], rows: RowFlags, session: Session) -> tuple[tuple[str, ...], RowFlags]:
    """Tells files from texts among arguments: one that is there and whose suffix is readable is a file.

    Returns:
        The texts, and the flags with all files.

    Raises:
        UsageError: texts and files, or columns without a file.
        MissingInputError: the name of a file that is not there.
    """
    files: list[str] = []
    if any(_SUFFIX.search(text) for text in texts):
        if named := [text for text in texts if os.path.isfile(text)]:
            session.say(f"reading {', '.join(named)}")  # before what reads them is imported
        from pretune.text.readers.files import names_file

        files = [text for text in texts if names_file(text) or (text in named and rows.files.format)]
    others = tuple(text for text in texts if text not in files)
    if others and (files or rows.input):
        file = [*rows.input, *files][0]
        raise UsageError(f"expected texts, such as {others[0][:40]!r}, or files, such as {file}, not both")
    if not (rows.input or files):
        for flag, value in rows.column_flags.items():
            refuse_column(flag, value)
        for name in rows.files.settings():
            raise UsageError(f"--{name} says how a file is read, and there is none; name the file too")
    return others, replace(rows, input=(*rows.input, *map(Path, files)))


def split_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names that were given one by one, or several with commas between them."""
    return tuple(part.strip() for name in names for part in name.split(","))


def columns_of(model: Model, flags: Mapping[str, object], task: str | None = None) -> LabelledConfig:
    """The columns that a model reads: as in its training, with those that are given laid over them.

    Args:
        task: the name of one of several tasks.

    Raises:
        UsageError: one column would be read as two.
    """
    from pretune.config import validate
    from pretune.text.readers.labelled import LabelledConfig

    names = {name: value for name, value in flags.items() if value is not None}
    recorded = model.metadata.task_of(task)
    return validate(LabelledConfig, {**(recorded.columns if recorded else {}), **names}, "columns")


def text_column_of(model: Model, rows: RowFlags) -> LabelledConfig:
    """How texts are read one by one: any column may hold them, whatever it was in training."""
    named: dict[str, object] = {} if rows.text is None else {"text": rows.text}
    return columns_of(model, rows.files.settings()).model_copy(update={"second": None, "third": None, **named})


def read_rows(texts: Sequence[str], rows: RowFlags, model: Model, second: str | None = None) -> Iterator[TextRow]:
    """Reads texts, or pairs of texts, from arguments, files, or the lines of standard input.

    Args:
        rows: as `split_texts` gives them.
        model: whose training says which column holds the texts, where no flag does.
        second: column of the file with the second text of each row.

    Raises:
        UsageError: columns without a file.
        DataError: a line of standard input that is empty or not UTF-8; a bad row of a file, or a blank line.
    """
    from pretune.text.readers.records import Column

    if not rows.input:
        refuse_column("--second", second)
    columns = text_column_of(model, rows).model_copy(update={"second": second})
    fields = [Column(columns.text, "columns.text")]
    fields += [Column(second, "columns.second")] if second else []
    inputs = RowInputs(fields, columns, rows)
    for record in read_task_records(fields, columns, texts, rows):
        other = record.text(second, "columns.second") if second else None
        yield TextRow(record.text(columns.text, "columns.text"), other, inputs.of(record), inputs.shown, record.origin)


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
    """Records from arguments, from files with all their columns, or from the lines of standard input.

    Args:
        columns: the fields that are read; a bare text is the first of them, and a second one the second.
        config: how a file is read.
        rows: as `split_texts` gives them.

    Raises:
        UsageError: columns without a file.
        DataError: a line of standard input that is empty or not UTF-8; a bad record of a file, or a blank line.
    """
    from pretune.text.readers.labelled import read_records
    from pretune.text.readers.records import Column, Origin, Record

    if rows.input:
        files = list(rows.input)
        fields = list(columns)
        fields += [Column(rows.id, "columns.id")] if rows.id and rows.id not in [c.name for c in columns] else []
        names = [column.name for column in fields]
        fields += [Column(name, "", required=False) for name in _kept_names(files, config) if name not in names]
        yield from read_records(files, fields, config, needs_labels=False, every_line=True)
        return
    lines = texts if texts else _standard_input()
    source = "text" if texts else "standard input"
    for number, text in enumerate(lines, 1):
        fields_of_text = {columns[0].name: text} | ({columns[1].name: seconds[number - 1]} if seconds else {})
        yield Record(fields_of_text, Origin(source, number))


def _kept_names(files: Sequence[Path], config: LabelledConfig) -> list[str]:
    """The columns of files that can be written beside answers: not those of which there are two."""
    from pretune.text.readers.labelled import field_names

    names: list[str] = []
    for file in files:
        counts = Counter(field_names(file, config))
        names += [name for name, count in counts.items() if count == 1 and name not in names]
        if twice := [name for name, count in counts.items() if count > 1]:
            _log.warning("%s: two columns are called %r, and are not kept; rename one to keep them", file, twice[0])
    return names


class RowInputs:
    """What a row of input leaves beside its answer.

    Args:
        fields: the columns that are read for the answer.
        config: how a file is read.
        rows: as `split_texts` gives them.
    """

    def __init__(self, fields: Sequence[Column], config: LabelledConfig, rows: RowFlags) -> None:
        usual = {config.text: "text", config.second: "second", config.third: "third"}
        read = [column.name for column in fields]
        self._names = usual if _are_bare(rows, config) else {}
        self._order = _kept_names(rows.input, config) if rows.input and not self._names else []
        self.shown = [self._names.get(name, name) for name in [*([rows.id] if rows.id else []), *read]]

    def of(self, record: Record) -> dict[str, object]:
        """All columns of a row in the order of the file; bare texts are called text and second."""
        if self._names:
            return {self._names.get(name, name): value for name, value in record.items()}
        first = {name: record[name] for name in self._order if name in record}
        return first | {name: value for name, value in record.items() if name not in first}


def _are_bare(rows: RowFlags, config: LabelledConfig) -> bool:
    """Whether texts come without columns: arguments, lines of standard input or of a file of text."""
    from pretune.text.readers.files import find_sources, has_columns

    sources = find_sources(list(rows.input[:1]), config.format)
    return not sources or not has_columns(sources[0].format)


def refuse_column(flag: str, value: str | None) -> None:
    """Refuses a flag that names a column where no file is read.

    Raises:
        UsageError: the flag is given.
    """
    if value is not None:
        raise UsageError(f"{flag} {value}: a column is one of a file; name the file too")


def say_columns(
    session: Session,
    files: Sequence[Path],
    config: LabelledConfig,
    read: Sequence[str | None],
    second: str | None = SECOND_COLUMN,
) -> None:
    """Says which columns of files are read and which are not, so that a second text is not left out unseen.

    Args:
        read: names of the columns that are read.
        second: which flag of the verb reads another column; None where none does, or where it is given.
    """
    from pretune.text.readers.labelled import field_names

    for path in files:
        names = field_names(path, config)
        others = [name for name in names if name not in read]
        used = ", ".join(repr(name) for name in names if name in read)
        if used and others:  # where none is read, the error that follows says which there are
            listed = ", ".join(map(repr, others[:8])) + (", ..." if len(others) > 8 else "")
            remedy = f"; {second}" if second and not config.second else ""
            session.say(f"{path}: reading {used}; not reading {listed}{remedy}")


def second_hint(columns: Sequence[Column]) -> str | None:
    """How a second text is read, by a task that labels whole texts; None of any other."""
    return SECOND_COLUMN if any(column.setting == "columns.label" for column in columns) else None


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Yields consecutive lists of at most `size` items."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def _standard_input() -> Iterator[str]:
    if sys.stdin.isatty():
        Screen().line("reading standard input, one text per line; end with Ctrl-D")
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input:{number}: not UTF-8: {error}; convert it first (iconv -t utf-8)") from None
        if not text.strip():
            raise DataError(f"standard input:{number}: the line is empty; remove it")
        yield text
