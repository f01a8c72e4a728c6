"""Reads the events of CASIE: a file for each document, with triggers ("nuggets") and arguments by character offsets.

Each document gives a record of an `id` (its name), the `text`, its `spans` (triggers, whose label is the event's type
and subtype, such as `Attack.Databreach`, and arguments, whose label is their type, such as `Person`) and `links`, each
from a trigger to an argument with the role as its label. What several events share is one span. Each span says its
`text`, so that offsets which do not match it are noticed when the record is read.

Source: Satyapanich et al. 2020, "CASIE: extracting cybersecurity event information from text" (AAAI).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import read_whole
from pretune.text.readers.records import Column, RecordError, SourceRow

SUFFIXES = ()


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """The record of the one document of a file."""
    file = str(source.path)
    raw = read_whole(source, config, is_text=True)
    if isinstance(raw, RecordError):
        yield raw
        return
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        yield RecordError(file, 0, f"not JSON: {error}", "fix or remove the file")
        return
    try:
        yield 1, _record(document, Path(file).stem)
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"not a document of CASIE: {type(error).__name__} {error}"
        yield RecordError(
            file, 0, reason, "give it content and cyberevent.hopper, with nugget and argument of each event"
        )


def _record(document: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Spans and links of a document, each once.

    Raises:
        KeyError, TypeError, AttributeError: it has not the fields of such a document.
    """
    spans: dict[tuple[object, ...], int] = {}
    links: dict[tuple[int, int, str], None] = {}
    for hopper in document["cyberevent"]["hopper"]:  # type: ignore[index]
        for event in hopper["events"]:
            label = f"{event['type']}.{event['subtype']}" if event.get("subtype") else str(event["type"])
            trigger = _span(event["nugget"], label, spans)
            for argument in event.get("argument", ()):
                number = _span(argument, str(argument["type"]), spans)
                links[trigger, number, str(argument["role"]["type"])] = None
    return {
        "id": name,
        "text": document["content"],
        "spans": [dict(zip(("start", "end", "label", "text"), span, strict=True)) for span in spans],
        "links": [{"head": head, "tail": tail, "label": label} for head, tail, label in links],
    }


def _span(fields: Mapping[str, object], label: str, spans: dict[tuple[object, ...], int]) -> int:
    """The number of a span, which is a new one where there is none like it yet."""
    return spans.setdefault((fields["startOffset"], fields["endOffset"], label, fields["text"]), len(spans))
