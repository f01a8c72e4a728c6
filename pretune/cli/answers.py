"""Writes the answers of a verb, each beside the row that it answers: to files, to pipes, on terminals.

AnswerRow(inputs, answer) -> .csv, .tsv, .xlsx   all columns of the input, then the answer's, nested ones flat
                          -> .jsonl, a pipe      the same as lines of JSON
                          -> a terminal          a table of the texts and of what is short of the answer
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from pretune.cli.outputs import TABLES, RowWriter, flat_cells, non_finite_field, open_output, suffix_of
from pretune.disk import new_file
from pretune.errors import DataError
from pretune.table import READABLE_DIGITS, Table, round_digits

WORKBOOK = ".xlsx"
CELL = 32_767  # characters that a cell of a workbook holds
_SCREEN_ROWS = 512  # of one table on a terminal
_CLASH = "predicted_"  # what begins the name of an answer's field where the input has a column of that name


@dataclass(frozen=True)
class AnswerRow:
    """An answer beside what it answers.

    Attributes:
        inputs: all columns of the input's row.
        answer: the fields of the answer.
        shown: names of the inputs that a terminal shows; the others are for files.
        brief: what a terminal shows of the answer; by default its fields that are text, numbers or lists of texts.
        thresholds: by which it was decided, in ascending order; rounding brings no number to another side of one.
    """

    inputs: Mapping[str, object]
    answer: Mapping[str, object]
    shown: Sequence[str] = ()
    brief: Mapping[str, object] = field(default_factory=dict)
    thresholds: Sequence[float] = ()

    def cells(self) -> dict[str, object]:
        """What a table for people holds of it."""
        brief = self.brief or {
            name: ", ".join(value) if isinstance(value, list) else value
            for name, value in self.answer.items()
            if value is None or isinstance(value, str | float | int) or _is_texts(value)
        }
        inputs = {name: self.inputs[name] for name in self.shown if name in self.inputs}
        return inputs | {_free_name(name, inputs): self._cell(value) for name, value in brief.items()}

    def _cell(self, value: object) -> object:
        """A value as a table for people holds it: a number as text where a table would round it beyond a threshold."""
        if not isinstance(value, float) or not self.thresholds:
            return value
        rounded = round_digits(value, READABLE_DIGITS, self.thresholds)
        return value if rounded == round_digits(value, READABLE_DIGITS) else str(rounded)


class AnswerWriter(Protocol):
    """Writes answers in some form."""

    def write(self, row: AnswerRow) -> None:
        """Writes an answer.

        Raises:
            DataError: a number that is not finite; a row of a table that has a column which the first did not have.
        """

    def end(self) -> None:
        """Writes what is left after the last answer."""


class _Fields:
    """The columns of input and answer as those of one row.

    Args:
        is_flat: nested fields become columns of their own.
        digits: significant digits of an answer's numbers; None for all.
    """

    def __init__(self, is_flat: bool, digits: int | None) -> None:
        self._is_flat, self._digits = is_flat, digits
        self._taken: dict[str, object] = {}

    def of(self, row: AnswerRow) -> dict[str, object]:
        """One row's fields; an answer's field that is called as a column of the input is renamed."""
        inputs: dict[str, Any] = {name: None if _is_nan(value) else value for name, value in row.inputs.items()}
        answer: dict[str, Any] = {
            name: _rounded(value, self._digits, row.thresholds) for name, value in row.answer.items()
        }
        if self._is_flat:
            try:
                inputs, answer = flat_cells(inputs), flat_cells(answer)
            except ValueError:
                raise non_finite_field(inputs | answer) from None
        self._taken |= inputs
        return inputs | {_free_name(name, self._taken): value for name, value in answer.items()}


class _FileWriter:
    """Writes lines of JSON, or a table as text."""

    def __init__(self, file: IO[str], delimiter: str | None, digits: int | None) -> None:
        self._rows, self._fields = RowWriter(file, delimiter), _Fields(delimiter is not None, digits)

    def write(self, row: AnswerRow) -> None:
        """Writes an answer."""
        self._rows.write(self._fields.of(row))

    def end(self) -> None:
        """Nothing is left."""


class _TerminalWriter:
    """Prints answers as tables."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._rows = file, list[dict[str, object]]()

    def write(self, row: AnswerRow) -> None:
        """Keeps an answer until the table is long enough."""
        self._rows.append(row.cells())
        if len(self._rows) >= _SCREEN_ROWS:
            self.end()

    def end(self) -> None:
        """Prints the answers that are kept."""
        if self._rows:
            names = list(dict.fromkeys(name for row in self._rows for name in row))
            table = Table(names, [[row.get(name) for name in names] for row in self._rows])
            table.print(self._file, wrap=len(self._rows) == 1)
        self._rows = []


class _WorkbookWriter:
    """Writes answers to an Excel workbook."""

    def __init__(self, digits: int | None) -> None:
        from openpyxl import Workbook  # only where there is a workbook

        self._book, self._columns = Workbook(write_only=True), list[str]()
        self._sheet = self._book.create_sheet("answers")
        self._fields = _Fields(True, digits)

    def write(self, row: AnswerRow) -> None:
        """Writes an answer.

        Raises:
            DataError: also a text that a cell cannot hold.
        """
        fields = self._fields.of(row)
        if not self._columns:
            self._columns = list(fields)
            self._sheet.append([self._cell(name) for name in self._columns])
        if unknown := [name for name in fields if name not in self._columns]:
            raise DataError(f"this answer has a column {unknown[0]!r} that the first has not; write .jsonl instead")
        self._sheet.append([self._cell(fields.get(name)) for name in self._columns])

    def _cell(self, value: object) -> object:
        """A cell; a text that begins with "=" is a text and no formula.

        Raises:
            DataError: a text that is too long, or holds a control character.
        """
        from openpyxl.cell.cell import WriteOnlyCell
        from openpyxl.utils.exceptions import IllegalCharacterError

        if value is None or isinstance(value, bool | int | float):
            return value
        text = str(value)
        if len(text) > CELL:
            raise DataError(f"{text[:40]!r}... has more than the {CELL:,} characters of a workbook's cell; write .csv")
        try:
            cell = WriteOnlyCell(self._sheet, text)
        except IllegalCharacterError:
            raise DataError(
                f"{text[:40]!r} holds a control character, which no workbook can hold; write .csv"
            ) from None
        cell.data_type = "s"
        return cell

    def end(self) -> None:
        """Nothing is left."""

    def save(self, file: IO[bytes]) -> None:
        """Writes the file."""
        self._book.save(file)

    def close(self) -> None:
        """Drops what was not saved; left to itself, openpyxl prints an error of its own."""
        if not self._sheet.closed:
            self._sheet.close()


@contextmanager
def open_answers(path: Path | None, as_json: bool = False, digits: int | None = None) -> Iterator[AnswerWriter]:
    """Gives a writer of answers: to a file, as its name says; to a pipe, as lines of JSON; to a terminal, as a table.

    Args:
        as_json: lines of JSON on a terminal too.
        digits: significant digits of an answer's numbers in files and pipes; None for all.

    Raises:
        CannotCreateError, StorageError: as `open_output`.
    """
    if path is not None and suffix_of(path) == WORKBOOK:
        with new_file(path) as binary:
            workbook = _WorkbookWriter(digits)
            try:
                yield workbook
                workbook.save(binary)
            finally:
                workbook.close()
        return
    with open_output(path) as file:
        writer: AnswerWriter
        if path is None and not as_json and is_terminal():
            writer = _TerminalWriter(file)
        else:
            writer = _FileWriter(file, TABLES.get(suffix_of(path)), digits)
        yield writer
        writer.end()


def is_terminal() -> bool:
    """Whether people read standard output."""
    return sys.stdout.isatty()


def _is_texts(value: object) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _free_name(name: str, taken: Mapping[str, object]) -> str:
    """A name that no column of the input has."""
    while name in taken:
        name = f"{_CLASH}{name}"
    return name


def _rounded(value: object, digits: int | None, thresholds: Sequence[float]) -> object:
    """A value whose numbers have no more significant digits than say something; see `round_digits`."""
    if digits is None:
        return value
    if isinstance(value, float):
        return round_digits(value, digits, thresholds)
    if isinstance(value, Mapping):
        return {name: _rounded(item, digits, thresholds) for name, item in value.items()}
    return [_rounded(item, digits, thresholds) for item in value] if isinstance(value, list | tuple) else value


def _is_nan(value: object) -> bool:
    """Whether a value of the input is a number that is none, as an empty cell of a Parquet file may be read."""
    return isinstance(value, float) and not math.isfinite(value)
