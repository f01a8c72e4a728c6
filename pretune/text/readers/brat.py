"""Reads brat's standoff annotation: documents of a `.txt` file and an `.ann` file of the same name beside it.

    T1  Person 0 13  Angela Merkel
    T2  Place 21 26  Paris
    R1  Was_in Arg1:T1 Arg2:T2          a link from the first argument to the second
    E1  Travel:T3 Who:T1 Where:T2       links from the trigger to each argument, which may be another event

Each document gives a record of an `id` (the file's name), its `text`, `spans` and `links`. Attributes, notes and
equivalences have no place in it. Read a folder with `--format brat`.

Source: https://brat.nlplab.org/standoff.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import read_whole
from pretune.text.readers.records import Column, RecordError, SourceRow

SUFFIXES = ()  # the .txt files beside the .ann files are text for other purposes
_TEXT = ".txt"
_CONFIGURATION = ".conf"  # annotation.conf and visual.conf, which stand beside the documents of a collection


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """The record of a document, by its .ann file; its .txt file gives none."""
    if source.path.suffix != ".ann":
        if source.path.suffix != _CONFIGURATION and not source.path.with_suffix(".ann").is_file():
            yield RecordError(str(source.path), 0, "no .ann file beside it", "write one, empty where nothing is marked")
        return
    path = source.path.with_suffix(_TEXT)
    if not path.is_file():
        yield RecordError(str(source.path), 0, f"no {path.name} beside it", "put the document there, or leave both out")
        return
    whole = read_whole(replace(source, path=path), config, is_text=True)
    marks = read_whole(source, config, is_text=True)
    if isinstance(whole, RecordError):
        yield whole
    elif isinstance(marks, RecordError):
        yield marks
    else:
        yield _record(source.path, whole.decode(), marks.decode(), config)


def _record(path: Path, text: str, marks: str, config: SourceConfig) -> SourceRow | RecordError:
    """The record of a document."""
    spans: list[dict[str, object]] = []
    links: list[dict[str, object]] = []
    events: dict[str, str] = {}
    lines = [(n, line.split("\t")) for n, line in enumerate(marks.split("\n"), 1) if line.strip()]
    for line, (name, *fields) in lines:
        words = fields[0].split() if fields else []
        if name[:1] == "T":
            span = _span(text, name, fields)
            if isinstance(span, str):
                remedy = "write it as T1, a tab, LABEL START END, a tab, TEXT"
                return RecordError(str(path), line, span, remedy)
            spans.append(span)
        elif name[:1] == "E" and words:
            events[name] = words[0].partition(":")[2]
    for line, (name, *fields) in lines:
        words = fields[0].split() if fields else []
        ends = [(role, events.get(end, end)) for role, _, end in (word.partition(":") for word in words)]
        if name[:1] == "R" and len(ends) == 3:
            links.append({"head": ends[1][1], "tail": ends[2][1], "label": words[0]})
        elif name[:1] == "E" and ends:
            links += [{"head": ends[0][1], "tail": end, "label": role} for role, end in ends[1:]]
        elif name[:1] in "RE":
            return RecordError(
                str(path), line, f"{name} names no spans", "write it as R1, a tab, LABEL Arg1:T1 Arg2:T2"
            )
    record: Mapping[str, object] = {"id": path.stem, "text": text, "spans": spans, "links": _once(links)}
    return 1, {str(getattr(config, name, None) or name): value for name, value in record.items()}


def _span(text: str, name: str, fields: Sequence[str]) -> dict[str, object] | str:
    """The fields of a span; what is wrong with it, where something is."""
    words = fields[0].split(" ") if fields else []
    if len(words) > 3 and ";" in fields[0]:
        return f"{name} is in several parts ({fields[0]}), which no span is"
    if len(words) != 3 or not (words[1].isdecimal() and words[2].isdecimal()):
        return f"{name} has no label, start and end"
    start, end = int(words[1]), int(words[2])
    span: dict[str, object] = {"id": name, "start": start, "end": end, "label": words[0]}
    if len(fields) > 1:
        is_same = text[start:end].replace("\n", " ") == fields[1]  # as brat writes what goes over lines
        span["text"] = text[start:end] if is_same else fields[1]
    return span


def _once(links: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Links without those that are there before."""
    return list({tuple(link.values()): link for link in links}.values())
