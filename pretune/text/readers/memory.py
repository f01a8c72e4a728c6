"""Reads records from memory: lists of dicts or tuples, DataFrames, Arrow tables, `datasets` objects.

Neither pandas nor `datasets` is imported: what has `columns` and `to_dict` is a DataFrame, what has `to_dicts` is
one of polars, an Arrow table gives its rows itself, and anything else is iterated over.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from pretune.errors import DataError
from pretune.text.readers.records import Column, Origin, Record, describe, is_missing


@runtime_checkable
class DataFrame(Protocol):
    """What is used of a pandas DataFrame."""

    @property
    def columns(self) -> Iterable[object]:
        """Names of the columns."""

    def to_dict(self, orient: str) -> Iterable[object]:
        """With "records", a dict for each row."""


@runtime_checkable
class PolarsFrame(Protocol):
    """What is used of a polars DataFrame."""

    @property
    def columns(self) -> Iterable[object]:
        """Names of the columns."""

    def to_dicts(self) -> Iterable[object]:
        """A dict for each row."""


class ArrowTable(Protocol):
    """What is used of an Arrow table or batch."""

    @property
    def schema(self) -> ArrowSchema:
        """Names and types of the columns."""

    def to_pylist(self) -> list[dict[str, object]]:
        """A dict for each row."""


class ArrowSchema(Protocol):
    """What is used of the schema of an Arrow table."""

    @property
    def names(self) -> list[str]:
        """Names of the columns."""


Records: TypeAlias = Iterable[Mapping[str, object] | tuple[object, ...]] | DataFrame | PolarsFrame | ArrowTable
"""A list of dicts, of tuples such as (text, label), a DataFrame, an Arrow table, a `datasets.Dataset`, or anything that
gives such rows in turn."""


def check_texts(
    texts: object, use: str, what: str = "text", *, single: bool = False, column: str = "text"
) -> list[str]:
    """Checks that something is a list of texts, each of which is text.

    Args:
        texts: a list, an array, a column of a frame, or what gives texts in turn; or records, of which one field is
            read.
        use: what the texts are for, such as `embed`, for messages.
        what: what one of them is called.
        single: a text alone is a list of one.
        column: the field of records.

    Raises:
        DataError: no list, or an item that is not text or stands for no value, with its number.
    """
    if single and isinstance(texts, str):
        return [texts]
    items = as_list(texts)
    if is_frame(items) or (isinstance(items, list) and items and all(isinstance(item, Mapping) for item in items)):
        items = _column(items, column, use, what)
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise DataError(f"{use}: {describe(items)} is no list of {what}s; give a list, such as [{what!r}]")
    out: list[str] = []
    for number, item in enumerate(items, 1):
        if isinstance(item, str):
            out.append(item)
            continue
        reason = f"has no value ({describe(item)})" if is_missing(item) else f"holds {describe(item)}, not text"
        raise DataError(f"{use}: {what} {number} {reason}; fill it in or leave it out")
    return out


def is_frame(data: object) -> bool:
    """Whether data are a table whose columns have names."""
    is_table = isinstance(data, PolarsFrame | DataFrame) or _is_arrow(data, "Table", "RecordBatch")
    is_table |= hasattr(data, "column_names")
    return is_table and not isinstance(data, Mapping)


def as_list(data: object) -> object:
    """What holds items without names, as a list: an array, a column of a table, an iterator; anything else as it is."""
    if isinstance(data, str | bytes | Path | Mapping) or is_frame(data) or not isinstance(data, Iterable):
        return data
    if _is_arrow(data, "Array", "ChunkedArray") and hasattr(data, "to_pylist"):
        return data.to_pylist()
    return data.tolist() if hasattr(data, "tolist") else list(data)


def _column(data: object, column: str, use: str, what: str) -> list[object]:
    """The values of a field of records.

    Raises:
        DataError: a record without it, or data that cannot be read.
    """
    values: list[object] = []
    for origin, row in read_memory(data):
        if column not in row:
            example = next((str(name) for name in row), "title")
            raise DataError(
                f"{use}: {origin} has no field {column!r}; give the column of the {what}s alone, such as "
                f"data[{example!r}]"
            )
        values.append(row[column])
    return values


def is_path(data: object) -> bool:
    """Whether data are files: a path, or several."""
    if isinstance(data, list | tuple):
        return bool(data) and all(isinstance(item, str | Path) for item in data)
    return isinstance(data, str | Path)


def read_memory(data: object, columns: Sequence[Column] = ()) -> Iterator[tuple[Origin, Mapping[str, object]]]:
    """The records of an object in memory, each with its place in it.

    Args:
        columns: what is read: rows that are tuples hold the required ones, in this order.

    Raises:
        DataError: something that holds no records, a record that is no mapping, two columns of one name.
    """
    name = type(data).__name__
    rows: Iterable[object]
    if (batches := _arrow_batches(data)) is not None:
        _check_names(name, batches[0].schema.names if batches else ())
        rows = (row for batch in batches for row in batch.to_pylist())
    elif isinstance(data, PolarsFrame):
        rows = data.to_dicts()
    elif isinstance(data, DataFrame) and not isinstance(data, Mapping):
        _check_names(name, data.columns)
        _check_index(data, columns)
        name, rows = f"{name}.iloc", data.to_dict("records")
    elif isinstance(data, Mapping):
        keys = ", ".join(repr(str(key)) for key in list(data)[:4])
        hint = f"give one of its parts, such as data[{next(iter(data), 'train')!r}]"
        raise DataError(f"{name}: a mapping with the keys {keys} is not a list of records; {hint}, or a list of dicts")
    elif hasattr(data, "collect"):  # a query, such as a LazyFrame of polars
        raise DataError(f"{name}: holds a query and no rows yet; give what its collect() returns")
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
        _check_names(name, getattr(data, "column_names", None) or ())
        rows = data
    else:
        raise DataError(f"{describe(data)} holds no records; give a list of dicts, a DataFrame or a file")
    for number, row in enumerate(rows):
        origin = row.origin if isinstance(row, Record) else Origin(name, number, in_memory=True)
        if isinstance(row, Mapping):
            yield origin, row
        else:
            yield origin, _by_position(row, origin, columns)


def _by_position(row: object, origin: Origin, columns: Sequence[Column]) -> Mapping[str, object]:
    """A tuple as a record, its values in the order of the columns that are read."""
    names = [column.name for column in columns if column.required]
    if len(names) > 1 and isinstance(row, tuple | list) and len(row) == len(columns):
        names = [column.name for column in columns]  # of pairs, what is behind them can be a label alone
    if not isinstance(row, tuple | list):
        raise DataError(f"{origin}: holds {describe(row)}, not a record; give a dict with the fields by name")
    if len(row) == len(names):
        return dict(zip(names, row, strict=True))
    remedy = f"give {len(names)} in this order, or a dict with the fields by name"
    if origin.row == 0 and len(row) > 3:
        remedy += "; of a list of texts and one of labels, zip(texts, labels) makes rows"
    raise DataError(f"{origin}: a row of {len(row)}, where ({', '.join(names)}) is read; {remedy}")


def _is_arrow(data: object, *names: str) -> bool:
    """Whether something is of one of these classes of Arrow. Who has one has imported Arrow: we need not."""
    arrow = sys.modules.get("pyarrow")
    return arrow is not None and isinstance(data, tuple(getattr(arrow, name) for name in names))


def _arrow_batches(data: Any) -> Sequence[ArrowTable] | None:
    """The parts of an Arrow table or batch; None of something else."""
    if _is_arrow(data, "RecordBatch"):
        return [data]
    if not _is_arrow(data, "Table"):
        return None
    batches: list[ArrowTable] = data.to_batches(max_chunksize=1024)
    return batches or [data]


def _check_index(data: DataFrame, columns: Sequence[Column]) -> None:
    """Refuses a frame whose index holds a column that is read, which its rows do not have."""
    index = [name for name in getattr(getattr(data, "index", None), "names", ()) if name is not None]
    known = list(map(str, data.columns))
    for column in columns:
        if column.name in index and column.name not in known:
            raise DataError(
                f"{type(data).__name__}: {column.name!r} is its index, not a column; give frame.reset_index()"
            )


def _check_names(source: str, names: Iterable[object]) -> None:
    for name, count in Counter(map(str, names)).items():
        if count > 1:
            raise DataError(f"{source}: two columns are called {name!r}; rename one or leave it out")
