"""The example of the tasks on annotated texts: a text or its words, with what spans, links and tags it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pretune.tasks.task import Example
from pretune.text.annotation import Interval, Link, Span, read_links, read_spans, read_tags, read_text
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.records import Column, Record, is_missing


@dataclass(frozen=True, slots=True)
class AnnotatedExample(Example):
    """A text and what is known of it.

    Attributes:
        text: never empty; the words with blanks between them where the record has words.
        spans: None where they are not known.
        links: between the spans, by their numbers; None where they are not known.
        words: where each word lies in the text; None where the record has a text.
        tags: one for each word; None where they are not known.
    """

    text: str
    spans: tuple[Span, ...] | None = None
    links: tuple[Link, ...] | None = None
    words: tuple[Interval, ...] | None = None
    tags: tuple[str, ...] | None = None


def annotated_columns(
    config: LabelledConfig, needs_labels: bool, *, links: bool = False, tags: bool = False
) -> list[Column]:
    """The fields of an annotated record: its text or words first.

    Args:
        needs_labels: records must have spans, and what else is read; else it is read where it is there.
        links: links are read too.
        tags: tags of words are read, which may stand for spans.
    """
    spans = Column(config.spans, "columns.spans", needs_labels, (config.tags,) if tags else ())
    columns = [Column(config.text, "columns.text", alternatives=(config.tokens,)), spans]
    columns += [Column(config.tokens, "columns.tokens", required=False)]
    columns += [Column(config.tags, "columns.tags", required=False)] if tags else []
    return columns + ([Column(config.links, "columns.links", required=needs_labels)] if links else [])


def read_annotated(
    record: Mapping[str, object], config: LabelledConfig, *, links: bool = False, tags: bool = False
) -> AnnotatedExample:
    """What a record holds, checked.

    Args:
        links: links are read too.
        tags: tags of words are read, and a record that has them needs no spans.

    Raises:
        DataError: a field that is missing or holds something else: place, span, value and remedy.
    """
    fields = Record.of(record)
    text, words = read_text(fields, config)
    tagged = read_tags(fields, config, words) if tags else None
    needs_spans = tagged is None or not is_missing(fields.get(config.spans))
    spans = read_spans(fields, text, config) if needs_spans else None
    linked = read_links(fields, spans or (), config) if links else None
    for n, link in enumerate(linked or ()):
        if link.head == link.tail:
            reason = f"'{config.links}[{n}]', {link.label!r}, leads from span {link.head} to itself"
            raise fields.error(reason, "name two spans, or leave it out")
    return AnnotatedExample(text, spans, linked, words, tagged, origin=fields.origin)
