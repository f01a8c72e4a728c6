"""What lies in a file: one decoder a format; each gives a row `(line, values)` or a `RecordError`, and none raises one.

    bytes -> text_blocks (whole lines, UTF-8) -> read_txt | read_jsonl | read_table -> (line, values of the columns)
    bytes -> read_parquet                                                           -> (row, values of the columns)

Memory is bounded by a few records of `max_document_bytes`, whatever the file holds: a longer line is passed over
piece by piece and comes out as a `RecordError`. What to do about faults (stop, skip) is the caller's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from pretune.text.readers.files import Format, Source, SourceConfig
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.parquet import read_parquet
from pretune.text.readers.records import MISSING, Column, RecordError, Row, absent
from pretune.text.readers.tables import read_table


def decode(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[Row | RecordError]:
    """Read the wanted columns of a file, record by record; a `.txt` file has one, its lines."""
    return DECODERS[source.format](source, columns, config)


def read_txt(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[Row | RecordError]:
    """A record for each line."""
    rest = (MISSING,) * (len(columns) - 1)
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        for line, text in enumerate(split_lines(item[1]), item[0]):
            yield line, (text, *rest)


def read_jsonl(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[Row | RecordError]:
    """A record for each line, a JSON object."""
    file, names = str(source.path), [column.name for column in columns]
    needed = [column for column in columns if column.required]
    loads = json.loads
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        for line, text in enumerate(split_lines(item[1]), item[0]):
            try:
                record = loads(text)
                values = tuple([record.get(name, MISSING) for name in names])
            except (ValueError, RecursionError, AttributeError) as error:
                yield (line, ()) if not text or text.isspace() else _bad_json(file, line, text, error)
                continue
            if MISSING in values and (fault := absent(file, line, needed, record, "field")):
                yield fault
            else:
                yield line, values


def _bad_json(file: str, line: int, text: str, error: Exception) -> RecordError:
    start = text.lstrip()[:1]
    if isinstance(error, AttributeError) or (line == 1 and start == "["):
        what = "a JSON array" if start == "[" else f"{text.strip()[:40]!r}"
        return RecordError(
            file, line, f"holds {what}, not an object", "write one JSON object a line: jq -c '.[]' IN > OUT"
        )
    if isinstance(error, json.JSONDecodeError):
        if line == 1 and text.strip() == "{":
            return RecordError(
                file, line, "a JSON object spread over lines", "write one object a line: jq -c . IN > OUT"
            )
        return RecordError(file, line, f"not JSON: {error.msg} at character {error.colno}", "mend or remove the line")
    what = "nested too deep" if isinstance(error, RecursionError) else str(error)
    return RecordError(file, line, f"not usable JSON: {what}", "mend or remove the line")


DECODERS: dict[Format, Callable[[Source, Sequence[Column], SourceConfig], Iterator[Row | RecordError]]] = {
    "txt": read_txt,
    "jsonl": read_jsonl,
    "csv": read_table,
    "tsv": read_table,
    "parquet": read_parquet,
}
