"""Reads plain text: one record for each line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import Column, RecordError, SourceRow

SUFFIXES = (".txt",)
HAS_COLUMNS = False


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each line: the first of `columns` holds it, whatever it is called."""
    name = columns[0].name
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        for line, text in enumerate(split_lines(item[1]), item[0]):
            yield line, {name: text}
