"""Reads JSON Lines: one record for each line, a JSON object."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import Column, RecordError, SourceRow, absent

SUFFIXES = (".jsonl", ".ndjson")
_raw_decode = json.JSONDecoder().raw_decode


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each line, with all its fields: leaving the unread ones out takes longer than keeping them."""
    file, names = str(source.path), [column.name for column in columns]
    required = [column for column in columns if column.required]
    needed = {column.name for column in required}
    quoted = [json.dumps(name, ensure_ascii=False) for name in names]
    patterns = [(name, re.compile(re.escape(name) + r"\s*:")) for name in quoted]
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        first, block = item
        lines = split_lines(block)
        is_suspicious = any(  # some line may name a field twice; the second test is the slow one
            block.count(name) > len(lines) and len(pattern.findall(block)) > len(lines) for name, pattern in patterns
        )
        for line, text in enumerate(lines, first):
            try:
                record = _parse(text)
            except (ValueError, RecursionError) as error:
                yield (line, {}) if not text or text.isspace() else _bad_json(file, line, text, error)
                continue
            if type(record) is not dict:  # json gives no subclass of it
                yield _not_an_object(file, line, text)
            elif is_suspicious and (twice := _named_twice(text, names)):
                reason = f"field {twice!r} is there twice"
                yield RecordError(file, line, reason, "leave one of the two out")
            elif record.keys() >= needed:
                yield line, record
            elif missing := absent(file, line, required, record, "field"):
                yield missing
            else:
                yield line, record  # a field stands for a required one


def _parse(text: str) -> object:
    """`json.loads`, a tenth faster where nothing but the value stands in the text, as it nearly always does."""
    try:
        value, end = _raw_decode(text)
    except ValueError:
        return json.loads(text)  # white space before the value, or the error as everybody knows it
    return value if end == len(text) else json.loads(text)


def names(source: Source, config: SourceConfig) -> list[str]:
    """The names of the fields of the first record; none where it cannot be read."""
    block = next(text_blocks(source, config), None)
    if block is None or isinstance(block, RecordError):
        return []
    try:
        record = json.loads(block[1].lstrip().partition("\n")[0])
    except (ValueError, RecursionError):
        return []
    return list(record) if isinstance(record, dict) else []


def _named_twice(text: str, names: Sequence[str]) -> str | None:
    """The first of some fields that the outermost object of a line names more than once."""
    pairs: list[tuple[str, object]] = []

    def keep(fields: list[tuple[str, object]]) -> dict[str, object]:
        pairs[:] = fields  # the outermost object is the last to be complete
        return dict(fields)

    json.loads(text, object_pairs_hook=keep)
    counts = Counter(name for name, _ in pairs)
    return next((name for name in names if counts[name] > 1), None)


def _not_an_object(file: str, line: int, text: str) -> RecordError:
    what = "a JSON array" if text.lstrip()[:1] == "[" else f"{text.strip()[:40]!r}"
    return RecordError(file, line, f"holds {what}, not an object", "write one JSON object a line: jq -c '.[]' IN > OUT")


def _bad_json(file: str, line: int, text: str, error: Exception) -> RecordError:
    if line == 1 and text.lstrip()[:1] == "[":
        return _not_an_object(file, line, text)
    if isinstance(error, json.JSONDecodeError):
        if line == 1 and text.strip() == "{":
            return RecordError(
                file, line, "a JSON object spread over lines", "write one object per line: jq -c . IN > OUT"
            )
        return RecordError(file, line, f"not JSON: {error.msg} at character {error.colno}", "fix or remove the line")
    what = "nested too deep" if isinstance(error, RecursionError) else str(error)
    return RecordError(file, line, f"not usable JSON: {what}", "fix or remove the line")
