"""Reads relations of SemEval-2010, task 8: a sentence in which two nominals stand between `<e1>` and `<e2>`.

Two forms are known, line by line `RELATION<tab>SENTENCE`, and the official one with blank lines between its records:

    1<tab>"The system has its greatest application in an arrayed <e1>configuration</e1> of antenna <e2>elements</e2>."
    Component-Whole(e2,e1)
    Comment: Not a collection: there is structure here.

Each sentence gives a record of an `id`, the `text` without the marks, two `spans` with the label `entity`, the first of
them e1, and `links`: a relation from its first to its second argument, so that `Component-Whole(e2,e1)` is a link
`Component-Whole` from e2 to e1, and `Other` is none. `label` has the relation as it is written.

Source: Hendrickx et al. 2010, SemEval-2010 task 8 (S10-1006).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import Column, RecordError, SourceRow

SUFFIXES = ()
OTHER = "Other"
ENTITY = "entity"
_MARK = re.compile(r"</?e[12]>")
_RELATION = re.compile(r"(.+)\((e1,e2|e2,e1)\)")
_NUMBERED = re.compile(r"(\d+)\t(.*<e1>.*)")


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each sentence."""
    file = str(source.path)
    pending: tuple[int, str, str] | None = None  # line, id and sentence that the next line names a relation of
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        for line, text in enumerate(split_lines(item[1]), item[0]):
            if pending is not None:
                yield _record(file, *pending, text.strip())
                pending = None
            elif not text.strip():
                yield line, {}
            elif numbered := _NUMBERED.fullmatch(text.rstrip()):
                sentence = numbered[2].strip()
                is_quoted = len(sentence) > 1 and sentence[0] == sentence[-1] == '"'
                pending = line, numbered[1], sentence[1:-1] if is_quoted else sentence
            elif "\t" in text:
                relation, _, sentence = text.partition("\t")
                yield _record(file, line, str(line), sentence.strip(), relation.strip())
            elif not text.startswith("Comment"):
                remedy = "write RELATION, a tab and the sentence, or a numbered sentence and its relation below it"
                yield RecordError(file, line, f"{text[:40]!r} is no sentence of SemEval-2010 task 8", remedy)
    if pending is not None:
        yield RecordError(file, pending[0], "the last sentence has no relation below it", "add the relation")


def _record(file: str, line: int, name: str, sentence: str, relation: str) -> SourceRow | RecordError:
    """The record of a sentence with its relation."""
    marks = [(mark[0], mark.start(), mark.end()) for mark in _MARK.finditer(sentence)]
    if sorted(mark for mark, _, _ in marks) != ["</e1>", "</e2>", "<e1>", "<e2>"]:
        listed = ", ".join(mark for mark, _, _ in marks) or "none"
        remedy = "mark one nominal with <e1>...</e1> and the other with <e2>...</e2>"
        return RecordError(file, line, f"the sentence has the marks {listed}", remedy)
    direction = _RELATION.fullmatch(relation)
    if direction is None and relation != OTHER:
        remedy = "write a name with (e1,e2) or (e2,e1) behind it, or Other"
        return RecordError(file, line, f"the relation {relation[:40]!r} has no direction", remedy)
    text, places = _without_marks(sentence, marks)
    spans = []
    for first, last in (("<e1>", "</e1>"), ("<e2>", "</e2>")):
        start, end = places[first], places[last]
        if start >= end:
            return RecordError(file, line, f"{first}...{last} marks nothing", "put the marks around a nominal")
        spans.append({"start": start, "end": end, "label": ENTITY})
    links = []
    if direction is not None:
        head, tail = (0, 1) if direction[2] == "e1,e2" else (1, 0)
        links = [{"head": head, "tail": tail, "label": direction[1]}]
    return line, {"id": name, "text": text, "spans": spans, "links": links, "label": relation}


def _without_marks(sentence: str, marks: Sequence[tuple[str, int, int]]) -> tuple[str, dict[str, int]]:
    """The text without marks, in which no blank is left double or at an edge of a span; and where each mark stood."""
    text, end = "", 0
    places: dict[str, int] = {}
    for mark, start, stop in marks:
        text, end = text + sentence[end:start], stop
        if mark.startswith("</"):
            trimmed = text.rstrip()
            places[mark] = len(trimmed)
            text = text if sentence[stop : stop + 1].isalnum() else trimmed
        else:
            end += len(sentence[stop:]) - len(sentence[stop:].lstrip())
            text += " " if end > stop and text[-1:].isalnum() else ""
            places[mark] = len(text)
    return (text + sentence[end:]).rstrip(), places
