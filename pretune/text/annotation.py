"""Spans of a text, links between them, and words with tags: the annotated record, checked when it is read.

    {"id": "7", "text": "Angela Merkel was in Paris.",
     "spans": [{"start": 0, "end": 13, "label": "PER"}, {"start": 21, "end": 26, "label": "LOC", "text": "Paris"}],
     "links": [{"head": 0, "tail": 1, "label": "was_in"}]}
    {"tokens": ["Angela", "Merkel", "left"], "tags": ["B-PER", "I-PER", "O"]}

Offsets are characters of the text, the end exclusive. A span may also be `[start, end, label]`. Links name spans by
their `id`, or, where no span has one, by their number from 0. Words instead of a text are joined with blanks, or
without where Chinese characters meet. A table holds lists as JSON in its cells. Whatever the file, its reader gives
these fields; each task reads those that it needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex

from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.records import Record, describe, is_missing, label_text, not_text
from pretune.text.readers.words import join_words

_SHOWN = 40  # characters of a span's text in a message

Interval = tuple[int, int]
"""Where something begins and ends in a text, in characters, the end exclusive."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text that has a label.

    Attributes:
        start, end: in characters, the end exclusive; neither the first nor the last character is white space.
        label: never empty.
        id: by which links name it; None where the record gives none.
    """

    start: int
    end: int
    label: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """What stands between two spans.

    Attributes:
        head, tail: the numbers of its spans among those of the record, from 0.
        label: never empty.
    """

    head: int
    tail: int
    label: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a question about a text.

    Attributes:
        text: without white space around it, never empty.
        start: where the text has it, in characters; None where that is not known.
    """

    text: str
    start: int | None = None


def read_spans(record: Record, text: str, config: LabelledConfig) -> tuple[Span, ...] | None:
    """The spans of a record, in its order; None where it has none and needs none.

    Raises:
        DataError: a span that is no object, lies outside the text, begins or ends on white space, does not hold the
            text that it names, or is there twice; or there are none where they are needed.
    """
    items = _items(record, config.spans, "columns.spans")
    if items is None:
        return None
    spans = [_read_span(record, text, f"{config.spans}[{n}]", item) for n, item in enumerate(items)]
    seen: dict[tuple[int, int, str] | str, int] = {}
    for n, span in enumerate(spans):
        where = f"{config.spans}[{n}]"
        if (first := seen.setdefault((span.start, span.end, span.label), n)) != n:
            raise record.error(
                f"'{where}' = {describe_span(span, text)} is the same as '{config.spans}[{first}]'",
                "leave one of the two out",
            )
        if span.id is not None and (first := seen.setdefault(span.id, n)) != n:
            raise record.error(
                f"'{where}' has the id {span.id!r} of '{config.spans}[{first}]'",
                "give each span of a record an id of its own",
            )
    return tuple(spans)


def read_links(record: Record, spans: Sequence[Span], config: LabelledConfig) -> tuple[Link, ...] | None:
    """The links between the spans of a record, in its order; None where it has none and needs none.

    Raises:
        DataError: a link that is no object, names no span, or is there twice; or there are none where they are needed.
    """
    items = _items(record, config.links, "columns.links")
    if items is None:
        return None
    numbers = {span.id: n for n, span in enumerate(spans) if span.id is not None}
    links: dict[Link, int] = {}
    for n, item in enumerate(items):
        where = f"{config.links}[{n}]"
        fields = _fields(record, where, item, ("head", "tail", "label"))
        head, tail = (_span_number(record, where, name, fields.get(name), numbers, spans) for name in ("head", "tail"))
        link = Link(head, tail, _label(record, where, fields))
        if (first := links.setdefault(link, n)) != n:
            raise record.error(
                f"'{where}', {link.label!r} of the spans {head} and {tail}, is the same as '{config.links}[{first}]'",
                "leave one of the two out",
            )
    return tuple(links)


def read_answers(record: Record, name: str, text: str) -> tuple[Answer, ...] | None:
    """The answers to the question of a record, in its order; None where there are none and none are needed.

    An answer is an object of its `start` (or `answer_start`, as SQuAD calls it) and its `text`. Without a start, or
    with -1, it is where the text has it, if it has it once. Lists of all texts and all starts in one object, as the
    library `datasets` holds them, are read too.

    Raises:
        DataError: an answer that is no object, has no text, or is not at its start; or none where they are needed.
    """
    value = record.get(name)
    if isinstance(value, Mapping) and isinstance(value.get("text"), list | tuple):
        starts = value.get("answer_start", [None] * len(value["text"]))
        if not isinstance(starts, list | tuple) or len(starts) != len(value["text"]):
            raise record.error(
                f"'{name}' has not as many starts as texts ({len(value['text'])})", "give each text one in answer_start"
            )
        items: list[object] | None = [
            {"text": each, "start": start} for each, start in zip(value["text"], starts, strict=True)
        ]
    else:
        items = _items(record, name, "columns.answers")
    return None if items is None else tuple(_answer(record, text, f"{name}[{n}]", item) for n, item in enumerate(items))


def _answer(record: Record, text: str, where: str, item: object) -> Answer:
    fields = {"text": item} if isinstance(item, str) else _fields(record, where, item, ("text",))
    quoted, start = fields["text"], fields.get("start", fields.get("answer_start"))
    if problem := not_text(record.origin.source, record.origin.row, f"{where}.text", quoted):
        raise record.error(problem.reason, problem.remedy)
    answer = str(quoted).strip()
    if not answer:
        raise record.error(f"'{where}.text' is empty", "a question without an answer has the answers []")
    place = None if is_missing(start) else _integer(record, f"{where}.start", start)
    if place is None or place == -1:
        return Answer(answer, text.find(answer) if text.count(answer) == 1 else None)
    place += len(str(quoted)) - len(str(quoted).lstrip())
    if place < 0 or text[place : place + len(answer)] != answer:
        shown = text[place : place + len(answer)] if 0 <= place < len(text) else ""
        raise record.error(
            f"'{where}' = {answer[:_SHOWN]!r} is not at {place}, where the text has {shown[:_SHOWN]!r}",
            _nearest(text, answer, place),
        )
    return Answer(answer, place)


def read_words(record: Record, config: LabelledConfig) -> tuple[str, tuple[Interval, ...]] | None:
    """The text that a record's words make, and where each of them lies in it; None where it has a text instead.

    Raises:
        DataError: words that are no texts, or none.
    """
    if is_missing(record.get(config.tokens)):
        return None
    words = record.strings(config.tokens, "columns.tokens")
    if not words:
        raise record.error(f"field {config.tokens!r} has no words", "fill it in or remove the record")
    for n, word in enumerate(words):
        if word != word.strip():
            raise record.error(f"'{config.tokens}[{n}]' = {word[:_SHOWN]!r} has white space around it", "remove it")
    return join_words(words)


def read_text(record: Record, config: LabelledConfig) -> tuple[str, tuple[Interval, ...] | None]:
    """The text of a record, or the one that its words make; and where those lie in it, None without words.

    Raises:
        DataError: neither of the two, or something else than text.
    """
    joined = read_words(record, config)
    return (record.text(config.text, "columns.text"), None) if joined is None else joined


def read_tags(record: Record, config: LabelledConfig, words: Sequence[Interval] | None) -> tuple[str, ...] | None:
    """The tags of a record's words; None where it has none.

    Args:
        words: as `read_text` gives them.

    Raises:
        DataError: tags without words, or not one for each word.
    """
    if is_missing(record.get(config.tags)):
        return None
    tags = record.strings(config.tags, "columns.tags")
    if words is None:
        raise record.error(
            f"field {config.tags!r} has tags, and there is no field {config.tokens!r} with their words",
            "name the field of the words with --data.columns.tokens",
        )
    if len(tags) != len(words):
        raise record.error(
            f"field {config.tags!r} has {len(tags)} tags for {len(words)} words", "give each word one tag"
        )
    return tuple(tags)


def find_overlap(spans: Sequence[Span]) -> tuple[int, int] | None:
    """The numbers of two spans that share a character, the first such pair in the text; None where there is none."""
    order = sorted(range(len(spans)), key=lambda n: (spans[n].start, spans[n].end))
    last = None
    for n in order:
        if last is not None and spans[n].start < spans[last].end:
            return last, n
        last = n if last is None or spans[n].end > spans[last].end else last
    return None


def describe_span(span: Span, text: str) -> str:
    """A span for a message: its label, where it is, and its text."""
    quoted = text[span.start : span.end]
    quoted = quoted if len(quoted) <= _SHOWN else quoted[: _SHOWN - 3] + "..."
    return f"{span.label} at {span.start} to {span.end}, {quoted!r}"


def _items(record: Record, name: str, setting: str) -> list[object] | None:
    """The items of a field that holds a list; None where there is none and none is needed.

    Raises:
        DataError: no list, or none where one is needed.
    """
    value = record.get(name)
    if is_missing(value):
        if record.needs_labels:
            raise record.missing(name, setting)
        return None
    items = record.items_of(name, value)
    if items is None:
        raise record.error(f"field {name!r} holds {describe(value)}, not a list", "fix or remove the record")
    return items


def _fields(record: Record, where: str, item: object, names: Sequence[str]) -> Mapping[str, object]:
    """The fields of a span or a link, which may also be a list of their values."""
    if isinstance(item, Mapping):
        if missing := [name for name in names if is_missing(item.get(name))]:
            raise record.error(f"'{where}' has no {missing[0]!r}", f"give it {', '.join(map(repr, names))}")
        return item
    if isinstance(item, list | tuple) and len(item) == len(names):
        return dict(zip(names, item, strict=True))
    remedy = f"give an object with {', '.join(map(repr, names))}"
    raise record.error(f"'{where}' holds {describe(item)}, not an object", remedy)


def _read_span(record: Record, text: str, where: str, item: object) -> Span:
    fields = _fields(record, where, item, ("start", "end", "label"))
    start, end = (_integer(record, f"{where}.{name}", fields[name]) for name in ("start", "end"))
    if not 0 <= start < end <= len(text):
        problem = "is empty" if start == end and 0 <= start <= len(text) else "ends before it begins"
        if start <= end and (start < 0 or end > len(text)):
            problem = f"lies outside the text, which has {len(text):,} characters"
        remedy = "count characters from 0, the end exclusive; or leave the span out"
        raise record.error(f"'{where}' = {start} to {end} {problem}", remedy)
    span = Span(start, end, _label(record, where, fields), _id(record, where, fields.get("id")))
    quoted = fields.get("text")
    if not is_missing(quoted) and quoted != text[start:end]:
        raise record.error(
            f"'{where}' = {describe_span(span, text)}, and not {str(quoted)[:_SHOWN]!r} as its 'text' says",
            _nearest(text, str(quoted), start),
        )
    if text[start].isspace() or text[end - 1].isspace():
        inner = text[start:end].strip()
        first = start + text[start:end].find(inner)
        remedy = f"set it to {first} to {first + len(inner)}" if inner else "leave the span out"
        raise record.error(f"'{where}' = {describe_span(span, text)} begins or ends on white space", remedy)
    return span


def _nearest(text: str, quoted: str, start: int) -> str:
    """Where else in a text a span's text is; the remedy of one that is not at its offset."""
    places = [match.start() for match in re.finditer(re.escape(quoted), text)] if quoted.strip() else []
    if not places:
        return "the text has it nowhere: correct the span, or leave it out"
    place = min(places, key=lambda other: abs(other - start))
    return f"the text has it at {place} to {place + len(quoted)}: correct the offsets"


def _span_number(
    record: Record, where: str, name: str, value: object, numbers: Mapping[str, int], spans: Sequence[Span]
) -> int:
    """The number of the span that one end of a link names."""
    number = numbers.get(label_text(value)) if numbers else value
    if isinstance(number, SupportsIndex) and not isinstance(number, bool) and 0 <= index(number) < len(spans):
        return index(number)
    known = f"ids of spans: {', '.join(list(numbers)[:10])}" if numbers else f"spans are numbered 0 to {len(spans) - 1}"
    problem = f"'{where}.{name}' = {str(value)[:_SHOWN]!r} is no span of the record"
    raise record.error(problem, f"{known}; name one of them" if spans else "the record has no spans; give it those")


def _label(record: Record, where: str, fields: Mapping[str, object]) -> str:
    label = label_text(fields.get("label"))
    if not label:
        raise record.error(
            f"'{where}.label' = {str(fields.get('label'))[:_SHOWN]!r} is no label", "write one text or whole number"
        )
    if problem := not_text(record.origin.source, record.origin.row, f"{where}.label", label):
        raise record.error(problem.reason, problem.remedy)
    return label


def _id(record: Record, where: str, value: object) -> str | None:
    """The id of a span as text."""
    if is_missing(value):
        return None
    name = label_text(value)
    if not name:
        raise record.error(f"'{where}.id' = {str(value)[:_SHOWN]!r} is no id", "write a text or a whole number")
    return name


def _integer(record: Record, where: str, value: object) -> int:
    """A whole number; one of a float, as a DataFrame makes of it, too."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise record.error(f"'{where}' holds {describe(value)}, not a whole number", "count characters from 0")
    return index(value)
