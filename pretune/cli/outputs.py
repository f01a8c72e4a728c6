"""Writes rows to a file or standard output: lines of JSON, or a table where the name says so."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pretune.disk import new_file
from pretune.errors import CannotCreateError, DataError, UsageError

TABLES = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson", ".json")
_OTHERS = (".npy", ".npz", ".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".gz", ".zst", ".zip", ".pkl", ".txt")
_WRITTEN = (".jsonl", ".csv", ".tsv")


class RowWriter:
    """Writes rows of fields.

    Args:
        file: what is written to.
        delimiter: of the columns of a table; None for lines of JSON.
        columns: names of the columns of a table; by default those of the first row.
    """

    def __init__(self, file: IO[str], delimiter: str | None, columns: Sequence[str] = ()) -> None:
        self._file, self._delimiter, self._columns = file, delimiter, columns
        self._table: csv.DictWriter[str] | None = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes one row; flushed at once on standard output.

        Raises:
            DataError: a row of a table that has a column which the first row did not have; a number that is not finite.
        """
        try:
            line = _json(row) if self._delimiter is None else ""
            cells = {} if self._delimiter is None else flat_cells(row)
        except ValueError:
            raise non_finite_field(row) from None
        if self._delimiter is None:
            self._file.write(line + "\n")
        else:
            self._write_cells(cells, self._delimiter)
        if self._file is sys.stdout:
            self._file.flush()

    def _write_cells(self, cells: dict[str, object], delimiter: str) -> None:
        if self._table is None:
            names = self._columns or list(cells)
            self._table = csv.DictWriter(self._file, names, delimiter=delimiter, lineterminator="\n")
            self._table.writeheader()
        try:
            self._table.writerow(cells)
        except ValueError as error:
            raise DataError(f"this answer has other columns than the first: {error}; write .jsonl instead") from None


def suffix_of(output: Path | None) -> str:
    """The suffix that says in which format is written, in lower case; none for standard output."""
    return "" if output is None else output.suffix.lower()


def check_output(output: Path | None, *also: str) -> None:
    """Refuses, before any work, a file that is there and one whose name says another format than what would be written.

    Args:
        also: suffixes that the verb writes beside .jsonl, .csv and .tsv.

    Raises:
        UsageError: the name ends in the suffix of a format that is not written.
        CannotCreateError: a file or folder is there; a device or a pipe is written to.
    """
    if output is not None and (output.is_file() or output.is_dir()):
        raise CannotCreateError(f"{output}: exists already; remove it, or give another --output")
    if suffix_of(output) in _OTHERS and suffix_of(output) not in also:
        known = ", ".join((*_WRITTEN, *also))
        raise UsageError(f"--output {output}: expected a name that ends in one of {known}")


@contextmanager
def open_output(path: Path | None) -> Iterator[IO[str]]:
    """Gives standard output, or a file that is there whole or not at all.

    Raises:
        CannotCreateError: the file cannot be made there, or another process is writing it.
        StorageError: the disk is full or fails.
    """
    if path is None:
        yield sys.stdout
        return
    with new_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            yield text
        finally:
            text.detach()


@contextmanager
def open_rows(path: Path | None, columns: Sequence[str] = ()) -> Iterator[RowWriter]:
    """Gives a writer of answers to standard output, or to a file that is there whole or not at all.

    Args:
        columns: of a table, where not all rows have the same.

    Raises:
        CannotCreateError, StorageError: as `open_output`.
    """
    with open_output(path) as file:
        yield RowWriter(file, TABLES.get(suffix_of(path)), columns)


def _json(value: object) -> str:
    """Renders JSON.

    Raises:
        ValueError: NaN or an infinity, for which JSON has no word.
    """
    return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)


def non_finite_field(row: Mapping[str, Any]) -> DataError:
    """The error of an answer that holds NaN or an infinity; it names the field."""
    where = ""
    for name, value in row.items():
        try:
            _json(value)
        except ValueError:
            where = f"field {name!r} of "
    return DataError(f"{where}the answer for {str(row)[:80]} holds NaN or an infinity, which JSON has no word for")


def flat_cells(row: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """The cells of an answer: inner fields as `a.b`, numbers of a list as `a.0`, other lists as JSON.

    Raises:
        ValueError: NaN or an infinity.
    """
    out: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            out |= flat_cells(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and value and all(isinstance(item, float) for item in value):
            out |= {f"{prefix}{name}.{number}": item for number, item in enumerate(value)}
        elif isinstance(value, list | tuple):
            out[f"{prefix}{name}"] = _json(value)
        else:
            out[f"{prefix}{name}"] = value
    if not all(math.isfinite(value) for value in out.values() if isinstance(value, float)):
        raise ValueError("not a finite number")
    return out
