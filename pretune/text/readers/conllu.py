"""Reads CoNLL-U files: the words of each sentence with their parts of speech and all else that stands in columns.

Each sentence gives a record of an `id`, its `text`, `tokens` (the forms of syntactic words; ranges and empty nodes are
none), `tags` (their universal parts of speech), and a list for each column by its name, of which `--data.columns.tags
xpos` or `deprel` makes tags.

Source: https://universaldependencies.org/format.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import Column, RecordError, SourceRow
from pretune.text.readers.words import join_words

SUFFIXES = (".conllu",)
COLUMNS = ("index", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_REMEDY = "give each word ten columns between tabs, and a blank line behind each sentence"


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each sentence."""
    for item in sentences(source, config):
        yield item if isinstance(item, RecordError) else _record(str(source.path), *item, config)


def sentences(
    source: Source, config: SourceConfig
) -> Iterator[tuple[list[tuple[int, list[str]]], dict[str, str]] | RecordError]:
    """The rows of each sentence, with their lines, and its comments."""
    rows: list[tuple[int, list[str]]] = []
    comments: dict[str, str] = {}
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        for line, text in enumerate(split_lines(item[1]), item[0]):
            if text.startswith("#"):
                name, _, value = text[1:].partition("=")
                comments[name.strip()] = value.strip()
            elif text.strip():
                rows.append((line, text.rstrip("\r").split("\t")))
            elif rows:
                yield rows, comments
                rows, comments = [], {}
    if rows:
        yield rows, comments


def names(source: Source, config: SourceConfig) -> list[str]:
    """The names of the fields of records."""
    return ["id", str(getattr(config, "text", "text")), *_own_names(config), *COLUMNS]


def _own_names(config: SourceConfig) -> list[str]:
    """The names of words and tags, unless one of the columns is meant."""
    return [name for name in (getattr(config, field, field) for field in ("tokens", "tags")) if name not in COLUMNS]


def _record(
    file: str, rows: Sequence[tuple[int, list[str]]], comments: Mapping[str, str], config: SourceConfig
) -> SourceRow | RecordError:
    """The record of a sentence."""
    for line, fields in rows:
        if len(fields) != len(COLUMNS):
            return RecordError(file, line, f"{len(fields)} columns, where CoNLL-U has {len(COLUMNS)}", _REMEDY)
    words = [fields for _, fields in rows if fields[0].isdecimal()]
    if not words:
        return RecordError(file, rows[0][0], "the sentence has no words", _REMEDY)
    table = {name: [fields[n] for fields in words] for n, name in enumerate(COLUMNS)}
    tokens, tags = (str(getattr(config, field, field)) for field in ("tokens", "tags"))
    own: dict[str, object] = {tokens: table["form"], tags: table["upos"]}
    line = rows[0][0]
    text = comments.get("text") or join_words(table["form"])[0]
    identity = {"id": comments.get("sent_id", str(line)), str(getattr(config, "text", "text")): text}
    return line, {**identity, **own, **table}
