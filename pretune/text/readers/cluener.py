"""Reads CLUENER's records: a text and, for each label, its names with where they are, the end inclusive.

    {"text": "彭小军认为", "label": {"name": {"彭小军": [[0, 2]]}}}

One object a line, or spread over lines with the last brace alone on its own. Each gives a record of the `text`, its
`spans`, the end exclusive, and the labels that it has as a list, in `label`.

Source: Xu et al. 2020 (arXiv 2001.04351).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import Column, RecordError, SourceRow

SUFFIXES = ()
_FORM = 'write {"text": ..., "label": {LABEL: {NAME: [[START, END]]}}}'


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each object."""
    first, parts = 0, list[str]()
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        for line, text in enumerate(split_lines(item[1]), item[0]):
            if not parts and not text.strip():
                continue
            first = first if parts else line
            parts.append(text)
            if text.startswith("}") or (len(parts) == 1 and text.rstrip().endswith("}")):
                yield _record(str(source.path), first, "\n".join(parts), config)
                parts = []
    if parts:
        yield _record(str(source.path), first, "\n".join(parts), config)


def _record(file: str, line: int, text: str, config: SourceConfig) -> SourceRow | RecordError:
    """The record of an object."""
    try:
        fields = json.loads(text)
        spans = [] if "label" not in fields else _spans(fields["label"])
        record: dict[str, object] = {name: value for name, value in fields.items() if name != "label"}
    except json.JSONDecodeError as error:
        return RecordError(file, line, f"not JSON: {error}", _FORM)
    except (ValueError, RecursionError, AttributeError, TypeError):
        return RecordError(file, line, f"holds {text[:40]!r}, not a text with its labels", _FORM)
    if "label" in fields:
        record |= {str(getattr(config, "spans", "spans")): spans, "label": sorted(fields["label"])}
    return line, record


def _spans(labels: Mapping[str, Mapping[str, Sequence[Sequence[int]]]]) -> list[dict[str, object]]:
    """The spans of all labels, in the order of the text."""
    places_of_names = [
        (start, end + 1, label, name)
        for label, names in labels.items()
        for name, places in names.items()
        for start, end in places
    ]
    return [
        {"start": start, "end": end, "label": label, "text": name}
        for start, end, label, name in sorted(places_of_names)
    ]
