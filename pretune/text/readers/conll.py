"""Reads sentences in columns: a word a line, its tag in the last column, and a blank line behind each sentence.

    EU       NNP  B-NP  B-ORG
    rejects  VBZ  B-VP  O

Columns stand apart by tabs, or by blanks where a line has no tab. The first is the word and the last the tag, whatever
its scheme; `--columns tokens,tags,chunks,entities` says otherwise. Lines of `-DOCSTART-` and comments, which begin with
`#` and have other columns than the words, are passed over; words that all begin with a language as `en:word`, as
WikiANN's do, lose it. Each sentence gives a record of `tokens`, `tags` and the `text` that the words make.

Source: Tjong Kim Sang and De Meulder 2003 (CoNLL-2003).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from pretune.text.readers.files import Source, SourceConfig
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import Column, RecordError, SourceRow
from pretune.text.readers.words import join_words

SUFFIXES = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".bmes")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?:(?=.)")
_FIRST = 1000  # lines that tell whether words begin with a language
_DOCUMENT = "-DOCSTART-"

Line = tuple[int, list[str]]


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each sentence."""
    lines = _lines(source, config)
    first = list(islice(lines, _FIRST))
    prefix = _prefix(first)
    width = len(config.columns or ()) or _width(first)
    sentence: list[Line] = []
    for item in chain(first, lines, [(0, list[str]())]):
        if isinstance(item, RecordError):
            yield item
            continue
        line, fields = item
        width = width or _width([item])
        if fields and fields[0] == _DOCUMENT:
            continue
        if fields and not _is_comment(fields, width):
            sentence.append((line, fields))
        elif sentence and not fields:
            yield _record(str(source.path), sentence, width, prefix, config)
            sentence = []


def names(source: Source, config: SourceConfig) -> list[str]:
    """The names of the fields of records."""
    return [str(getattr(config, "text", "text")), *_names(_width(_lines(source, config)), config)]


def _width(lines: Iterable[Line | RecordError]) -> int:
    """The columns of the first line that has a word for sure; 0 where none has."""
    rows = (line[1] for line in lines if not isinstance(line, RecordError))
    return next((len(row) for row in rows if row and row[0] != _DOCUMENT and not _is_comment(row)), 0)


def _is_comment(fields: Sequence[str], width: int = 0) -> bool:
    """Whether a line begins with `#` and a blank; with that word alone, in other columns than those of words."""
    return fields[0].startswith("# ") or (fields[0] == "#" and len(fields) != width)


def _lines(source: Source, config: SourceConfig) -> Iterator[Line | RecordError]:
    """The fields of each line; none of a blank one."""
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
            continue
        for line, text in enumerate(split_lines(item[1]), item[0]):
            text = text.rstrip("\r")
            fields = text.split("\t") if "\t" in text else text.split(" ")
            yield line, [field.strip(" ") for field in fields if field.strip(" ")]


def _prefix(lines: Sequence[Line | RecordError]) -> str:
    """The language with which all words begin, and its colon; nothing where they do not."""
    words = [line[1][0] for line in lines if not isinstance(line, RecordError) and len(line[1]) > 1]
    matches = {match[0] if (match := _LANGUAGE.match(word)) else "" for word in words}
    return matches.pop() if len(matches) == 1 else ""


def _names(width: int, config: SourceConfig) -> Sequence[str]:
    """The names of the columns: those that are named, else words first and tags last."""
    if config.columns:
        return config.columns
    tokens, tags = (str(getattr(config, name, name)) for name in ("tokens", "tags"))
    return [tokens, *(f"column {n}" for n in range(2, width)), tags][: max(width, 1)]


def _record(
    file: str, sentence: Sequence[Line], width: int, prefix: str, config: SourceConfig
) -> SourceRow | RecordError:
    """The record of a sentence; an error where its lines have not all the same columns."""
    for line, fields in sentence:
        if len(fields) != width:
            remedy = "give each word the same columns, and a blank line behind each sentence"
            return RecordError(
                file, line, f"{len(fields)} columns, where other lines have {width}: {fields[:6]}", remedy
            )
    listed = _names(width, config)
    record: Mapping[str, object] = {name: [fields[n] for _, fields in sentence] for n, name in enumerate(listed)}
    words = [fields[0].removeprefix(prefix) for _, fields in sentence]
    text = str(getattr(config, "text", "text"))
    return sentence[0][0], {text: join_words(words)[0], **record, listed[0]: words}
