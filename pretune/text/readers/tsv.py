"""Reads tab-separated values: one record for each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.records import Column, RecordError, SourceRow
from pretune.text.readers.tables import is_quoted, read_table, table_names

SUFFIXES = (".tsv",)


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each row; quotes are plain characters, as GLUE writes them, unless `config.quotes` is true.

    Where `config.quotes` says nothing, fields that are all quoted as `csv.writer` and pandas quote them are read so.
    """
    quoted = is_quoted(source, config, "\t") if config.quotes is None else config.quotes
    return read_table(source, columns, config, "\t", quoted=quoted)


def names(source: Source, config: SourceConfig) -> list[str]:
    """The names of the columns."""
    return [name.strip('"') for name in table_names(source, config, "\t", quoted=bool(config.quotes))]
