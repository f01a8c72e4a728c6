"""Reads JSON Lines: one record for each line, a JSON object."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import Column, RecordError, Row, absent

SUFFIXES = (".jsonl", ".ndjson", ".json")


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[Row | RecordError]:
    """A record for each line."""
    file, names = str(source.path), [column.name for column in columns]
    required = [column for column in columns if column.required]
    quoted = [json.dumps(name, ensure_ascii=False) for name in names]
    loads = json.loads
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        first, block = item
        lines = split_lines(block)
        suspicious = any(block.count(name) > len(lines) for name in quoted)  # some line may name a field twice
        for line, text in enumerate(lines, first):
            try:
                record = loads(text)
                fields = {name: record[name] for name in names if name in record}
            except (ValueError, RecursionError, AttributeError, TypeError) as error:
                yield (line, {}) if not text or text.isspace() else _bad_json(file, line, text, error)
                continue
            if not isinstance(record, dict):
                yield _bad_json(file, line, text, TypeError())
            elif suspicious and (twice := _named_twice(text, names)):
                reason = f"field {twice!r} is there twice"
                yield RecordError(file, line, reason, "leave one of the two out")
            elif len(fields) < len(names) and (missing := absent(file, line, required, record, "field")):
                yield missing
            else:
                yield line, fields


def _named_twice(text: str, names: Sequence[str]) -> str | None:
    """The first of some fields that the outermost object of a line names more than once."""
    pairs: list[tuple[str, object]] = []

    def keep(fields: list[tuple[str, object]]) -> dict[str, object]:
        pairs[:] = fields  # the outermost object is the last to be complete
        return dict(fields)

    json.loads(text, object_pairs_hook=keep)
    counts = Counter(name for name, _ in pairs)
    return next((name for name in names if counts[name] > 1), None)


def _bad_json(file: str, line: int, text: str, error: Exception) -> RecordError:
    start = text.lstrip()[:1]
    if isinstance(error, AttributeError | TypeError) or (line == 1 and start == "["):
        what = "a JSON array" if start == "[" else f"{text.strip()[:40]!r}"
        return RecordError(
            file, line, f"holds {what}, not an object", "write one JSON object a line: jq -c '.[]' IN > OUT"
        )
    if isinstance(error, json.JSONDecodeError):
        if line == 1 and text.strip() == "{":
            return RecordError(
                file, line, "a JSON object spread over lines", "write one object a line: jq -c . IN > OUT"
            )
        return RecordError(file, line, f"not JSON: {error.msg} at character {error.colno}", "fix or remove the line")
    what = "nested too deep" if isinstance(error, RecursionError) else str(error)
    return RecordError(file, line, f"not usable JSON: {what}", "fix or remove the line")
