"""Reads comma-separated values: one record for each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.records import Column, RecordError, SourceRow
from pretune.text.readers.tables import read_table, table_names

SUFFIXES = (".csv",)


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each row; fields may be quoted unless `config.quotes` says no."""
    return read_table(source, columns, config, config.delimiter or ",", quoted=config.quotes is not False)


def names(source: Source, config: SourceConfig) -> list[str]:
    """The names of the columns."""
    return table_names(source, config, config.delimiter or ",", quoted=config.quotes is not False)
