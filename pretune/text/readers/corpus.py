"""Reads raw text as documents: a stream of bounded memory, and statistics in which nothing is lost silently.

paths -> find_sources -> read (text/readers/<format>.py) -> Document(text, domain, source, line)
                                                 \\-> DataStats: in = used + duplicate + empty + excluded + quarantined
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pretune.errors import DataError
from pretune.find import find
from pretune.text.readers.files import Source, SourceConfig, find_sources, no_files, skipped_note
from pretune.text.readers.lines import text_blocks
from pretune.text.readers.records import MISSING, Column, RecordError, SourceRow, not_text, too_long
from pretune.wording import counted

_log = logging.getLogger("pretune")
KEPT = 1000  # errors and ignored files that the statistics list by name; all are counted
_PADDED = re.compile(r"\n[^\S\n]+(?=\n)")


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text that stands by itself.

    Attributes:
        text: never empty.
        domain: where it belongs: its own field, else its folder or file.
        source: the file.
        line: the line of the file at which it starts (the row, for Parquet), from 1.
    """

    text: str
    domain: str
    source: str
    line: int


class CorpusConfig(SourceConfig):
    """How raw text is read.

    Attributes:
        documents: what ends a document of a `.txt` file: a blank line, each line, or the file. A file of Markdown or
            HTML is one document.
        text: field or column of the text, in JSONL, CSV, TSV, Excel and Parquet.
        domain: field or column of the domain, where there is one.
        on_error: "strict" stops at the first record that cannot be read, "skip" quarantines and counts it.
    """

    documents: Literal["blank-line", "line", "file"] = "blank-line"
    text: str = "text"
    domain: str = "domain"
    on_error: Literal["strict", "skip"] = "strict"


@dataclass
class DataStats:
    """What became of every document.

    Attributes:
        documents: found in the files.
        used: handed on.
        duplicate: left out because the same text came before.
        empty: nothing but white space.
        excluded: left out on request.
        quarantined: could not be read; `quarantine` names the first 1000 of them.
        bytes: of the text of the used documents, as UTF-8.
        ignored: files of folders that were passed over, the first 1000.
    """

    documents: int = 0
    used: int = 0
    duplicate: int = 0
    empty: int = 0
    excluded: int = 0
    quarantined: int = 0
    bytes: int = 0
    quarantine: list[RecordError] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def refuse(self, error: RecordError) -> None:
        """Count a record that cannot be read."""
        self.quarantined += 1
        if len(self.quarantine) < KEPT:
            self.quarantine.append(error)

    def check(self) -> None:
        """Checks that no document was lost or counted twice.

        Raises:
            AssertionError: documents were lost or counted twice: a defect of the code, not of the data.
        """
        out = self.used + self.duplicate + self.empty + self.excluded + self.quarantined
        if out != self.documents:
            raise AssertionError(f"{self.documents} documents in, {out} accounted for: {self.summary()}")

    def summary(self) -> str:
        """The counts in one line."""
        names = ("used", "empty", "excluded", "quarantined")
        parts = [f"{getattr(self, name):,} {name}" for name in names if getattr(self, name)]
        if self.duplicate:
            parts.insert(bool(self.used), counted(self.duplicate, "duplicate"))
        return f"{counted(self.documents, 'document')}: {', '.join(parts) or 'none'}; {self.bytes:,} bytes used"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)


def read_corpus(
    paths: Sequence[Path | str] | Path | str, config: CorpusConfig | None = None, stats: DataStats | None = None
) -> Iterator[Document]:
    """Stream the documents of files, folders (sorted, to the bottom) and globs, in an order that never changes.

    Reads `.txt`, `.md`, `.html`, `.jsonl`, `.csv`, `.tsv`, `.xlsx` and `.parquet`, each also `.gz` or `.zst`. Memory is
    bounded by a few times `max_document_bytes`.

    Args:
        stats: is added to while documents are drawn; at the end `stats.check()` holds.

    Raises:
        MissingInputError: a path that does not exist or may not be read (at once).
        DataError: an unknown suffix, or no file that can be read (at once); a record that cannot be read, with file and
            line, when `on_error = "strict"`; no document at all, at the end.
    """
    config = config or CorpusConfig()
    is_first = stats is not None  # without statistics, the same files are read for another purpose too
    stats = stats if stats is not None else DataStats()
    ignored: list[str] = []
    sources = find_sources(paths, config.format, ignored)
    named = str(paths) if isinstance(paths, (str, Path)) else ", ".join(map(str, paths))
    if not sources:
        raise no_files(named, ignored)
    if is_first and (note := skipped_note(ignored)):
        _log.warning("%s", note)
    stats.ignored += ignored[: KEPT - len(stats.ignored)]
    return _documents(sources, config, stats, named)


def _documents(sources: list[Source], config: CorpusConfig, stats: DataStats, named: str) -> Iterator[Document]:
    columns = (Column(config.text, "corpus.text"), Column(config.domain, "corpus.domain", required=False))
    before, errors = stats.used, len(stats.quarantine)
    for source in sources:
        source_fields = _SourceFields(str(source.path), source.domain, config.text, config.domain)
        for item in _records(source, columns, config):
            stats.documents += 1
            result = (
                item if isinstance(item, RecordError) else _document(source_fields, item, config.max_document_bytes)
            )
            if result is None:
                stats.empty += 1
            elif isinstance(result, RecordError):
                stats.refuse(result)
                if config.on_error == "strict":
                    raise DataError(f"{result}; or leave such records out, counted: --on-error skip")
            else:
                stats.used += 1
                stats.bytes += _size(result.text)
                yield result
    if stats.used == before:
        first = "".join(f"; the first that cannot be read: {error}" for error in stats.quarantine[errors : errors + 1])
        files = counted(len(sources), "file")
        raise DataError(f"{named}: no text in {files} ({stats.summary()}){first}")


class _SourceFields(NamedTuple):
    """What is the same for all records of a file, looked up once."""

    file: str
    domain: str | None
    text_name: str
    domain_name: str


def _document(source: _SourceFields, row: SourceRow, max_bytes: int) -> Document | RecordError | None:
    """What a record holds: a document, nothing (None), or what is wrong with it."""
    line, fields = row
    if not fields:
        return None
    file, default_domain, text_name, domain_name = source
    text, domain = fields.get(text_name), fields.get(domain_name, MISSING)
    if error := not_text(file, line, text_name, text):
        return error
    if not text or text.isspace():
        return None
    if len(text) * 4 > max_bytes and _size(text) > max_bytes:
        return too_long(file, line, max_bytes)
    if domain is MISSING or domain is None or domain == "":
        domain = default_domain
    elif error := not_text(file, line, domain_name, domain):
        return error
    return Document(text, domain, file, line)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _records(source: Source, columns: Sequence[Column], config: CorpusConfig) -> Iterator[SourceRow | RecordError]:
    if source.format == "txt" and config.documents != "line":
        return _paragraphs(source, config) if config.documents == "blank-line" else _whole(source, config)
    records: Iterator[SourceRow | RecordError] = find("text.readers", source.format).read(source, columns, config)
    return records


class _Draft:
    """A document of a text file while its parts come in; once spoiled, it keeps only the reason."""

    def __init__(self, source: Source, config: CorpusConfig) -> None:
        self._file, self._field, self._limit = str(source.path), config.text, config.max_document_bytes
        self._parts: list[str] = []
        self._line = self._size = 0
        self._error: RecordError | None = None

    def add(self, line: int, text: str) -> None:
        if not text or self._error:
            return
        self._line = self._line or line
        self._parts.append(text)
        self._size += len(text)
        if self._size > self._limit:
            self.spoil(too_long(self._file, self._line, self._limit))

    def spoil(self, error: RecordError) -> None:
        self._error, self._parts = self._error or error, []

    def close(self) -> SourceRow | RecordError:
        """The document, or what is wrong with it; the draft is empty again."""
        out: SourceRow | RecordError = self._error or (self._line or 1, {self._field: "".join(self._parts).rstrip()})
        self._parts, self._line, self._size, self._error = [], 0, 0, None
        return out

    @property
    def blank(self) -> bool:
        return not self._error and all(part.isspace() for part in self._parts)


def _paragraphs(source: Source, config: CorpusConfig) -> Iterator[SourceRow | RecordError]:
    """A document for each run of lines between blank ones."""
    draft = _Draft(source, config)
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            draft.spoil(item)
            continue
        line = item[0] - 1
        paragraphs = _PADDED.sub("\n", "\n" + item[1]).split("\n\n")
        for number, paragraph in enumerate(paragraphs):
            text = paragraph.lstrip("\n")
            first = line + len(paragraph) - len(text)
            line += paragraph.count("\n") + 2
            if number == 1 and not draft.blank:
                yield draft.close()
            if number in (0, len(paragraphs) - 1):
                draft.add(first, text)
            elif text:
                yield first, {config.text: text.rstrip()}
    if not draft.blank:
        yield draft.close()


def _whole(source: Source, config: CorpusConfig) -> Iterator[SourceRow | RecordError]:
    """One document, the file."""
    draft = _Draft(source, config)
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            draft.spoil(item)
        else:
            draft.add(*item)
    yield draft.close()
