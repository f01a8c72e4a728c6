"""Reads Parquet files: one record for each row, a few rows decoded at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pretune.text.readers.files import BOMB_FLOOR, Source, SourceConfig, UnreadableError, open_seekable
from pretune.text.readers.lines import CHUNK
from pretune.text.readers.records import Column, RecordError, SourceRow, absent

SUFFIXES = (".parquet",)
BATCH = 64  # rows decoded at a time: bounds memory where a few distinct texts repeat


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each row; `line` is its number, from 1.

    A compressed file is unfolded into a temporary one first, as Parquet is read from its end.
    """
    import pyarrow.parquet as pq  # found only when a Parquet file is read

    file, row = str(source.path), 1
    try:
        with open_seekable(source, config) as raw, pq.ParquetFile(raw, pre_buffer=False, buffer_size=CHUNK) as table:
            if error := _bad_schema(file, table, columns, config):
                yield error
                return
            names = [column.name for column in columns if column.name in table.schema_arrow.names]
            for batch in table.iter_batches(batch_size=BATCH, columns=names):
                cells = [_values(batch.column(name)) for name in names]
                for values in zip(*cells, strict=True) if names else [()] * batch.num_rows:
                    yield row, dict(zip(names, values, strict=True))
                    row += 1
    except (UnreadableError, pa.ArrowException, OSError) as error:
        reason = f"not a readable Parquet file: {str(error)[:200]}"
        yield RecordError(file, row if row > 1 else 0, reason, "fetch or write the file again")


def names(source: Source, config: SourceConfig) -> list[str]:
    """The names of the columns; none where the file cannot be read."""
    import pyarrow.parquet as pq  # found only when a Parquet file is read

    try:
        with open_seekable(source, config) as raw:
            return list(pq.read_schema(raw).names)
    except (UnreadableError, pa.ArrowException, OSError):
        return []


def _bad_schema(file: str, table: Any, columns: Sequence[Column], config: SourceConfig) -> RecordError | None:
    names, meta, ratio = table.schema_arrow.names, table.metadata, config.max_compression_ratio
    if missing := absent(file, 0, [column for column in columns if column.required], names, "column"):
        return missing
    wanted = {column.name for column in columns}
    if twice := [name for name in sorted(wanted) if names.count(name) > 1]:
        return RecordError(file, 0, f"two columns are called {twice[0]!r}", "rename one")
    paths = [meta.schema.column(n).path for n in range(meta.num_columns)]
    for n in [n for n, path in enumerate(paths) if path.partition(".")[0] in wanted]:
        for group in range(meta.num_row_groups):
            chunk = meta.row_group(group).column(n)
            if chunk.total_uncompressed_size > max(BOMB_FLOOR, chunk.total_compressed_size * ratio):
                reason = f"column {paths[n]!r} unfolds to more than {ratio} times its own size"
                return RecordError(file, 0, reason, "fetch or write the file again")
    return None


def _values(column: Any) -> list[Any]:
    """Cells as Python values; text that is not UTF-8 stays bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(cell) for cell in column]


def _value(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return bytes(cell.as_buffer())
