"""Reads tab-separated values: one record for each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.records import Column, RecordError, Row
from pretune.text.readers.tables import read_table

SUFFIXES = (".tsv",)


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[Row | RecordError]:
    """A record for each row; quotes are plain characters, as GLUE writes them, unless `config.quotes` is true."""
    return read_table(source, columns, config, "\t", quoted=bool(config.quotes))
