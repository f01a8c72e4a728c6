"""Reads texts that belong together by their position: files of lines, or columns of tables; none is left out.

A file whose suffix is that of no table, such as `test.de`, has one text per line; only `\\n` ends a line, so that what
other programs take for a line break inside a text does not shift the texts behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pretune.errors import DataError
from pretune.find import suggest
from pretune.text.readers.files import Source, SourceConfig, find_sources, has_columns
from pretune.text.readers.labelled import field_names, read_records
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import Column, Record, RecordError, not_text


@dataclass
class AlignedTexts:
    """The texts of a file or a column, several at a position where a record holds a list of them.

    Attributes:
        source: the file, and the column of a table.
        texts: at each position.
        lines: of the file, from 1.
    """

    source: str
    texts: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, line: int, texts: Sequence[str]) -> None:
        """Adds a position."""
        self.texts.append(list(texts))
        self.lines.append(line)

    def origin(self, position: int) -> str:
        """Where a position is, for messages."""
        return f"{self.source}:{self.lines[position]}"


def read_aligned(path: Path, columns: Sequence[str], config: SourceConfig | None = None) -> AlignedTexts:
    """The texts of a file, in order; empty ones too.

    Args:
        columns: names by which the column of a table may be called; the first that it has is read.
        config: how the file is read.

    Raises:
        MissingInputError: no such file.
        DataError: not text, a record without the column or with something else in it, or an empty file.
    """
    config = config or SourceConfig()
    source = _table(path, config)
    if source is None:
        return _read_lines(path, config)
    names = field_names(path, config)
    column = next((name for name in columns if name in names), columns[0]) if names else columns[0]
    aligned = AlignedTexts(str(path))
    fields = [Column(column, "", required=bool(names))]
    for record in read_records(path, fields, config, needs_labels=False, every_line=True):
        if column not in record and not names:  # lines of JSON: each record has its own names
            column = next((name for name in columns if name in record), column)
        aligned.add(record.origin.row, _texts_of(record, column))
    return aligned


def _table(path: Path, config: SourceConfig) -> Source | None:
    """The file as a table; None where it holds lines of text."""
    try:
        (source,) = find_sources(path, config.format)
    except (DataError, ValueError):
        if not path.is_file():
            raise
        return None  # any other suffix, such as that of a language
    return source if has_columns(source.format) else None


def _read_lines(path: Path, config: SourceConfig) -> AlignedTexts:
    aligned = AlignedTexts(str(path))
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix.lower(), "")
    for item in text_blocks(Source(path, "txt", compression, ""), config):
        if isinstance(item, RecordError):
            raise DataError(str(item))
        for line, text in enumerate(split_lines(item[1]), item[0]):
            aligned.add(line, [text])
    if not aligned.texts:
        raise DataError(f"{path}: no texts; the file is empty")
    return aligned


def _texts_of(record: Record, column: str) -> list[str]:
    if column not in record:
        raise record.error(f"no field {column!r}", suggest(column, [str(name)[:40] for name in list(record)[:50]]))
    value = record[column]
    if value is None:
        raise record.error(f"field {column!r} has no value", "write an empty text where nothing was written")
    items = record.items_of(column, value)
    texts = [value] if items is None else items
    out: list[str] = []
    for item in texts:
        if problem := not_text(record.origin.source, record.origin.row, column, item):
            raise record.error(problem.reason, problem.remedy)
        out.append(str(item))
    return out


def check_aligned(first: AlignedTexts, others: Sequence[AlignedTexts]) -> None:
    """Refuses files of unequal numbers of texts.

    Raises:
        DataError: names the line at which the longer one goes on.
    """
    for other in others:
        if len(other) == len(first):
            continue
        long, short = (first, other) if len(first) > len(other) else (other, first)
        text = " ".join(long.texts[len(short)])[:40]
        raise DataError(
            f"{long.origin(len(short))}: {text!r} has no counterpart: {short.source} has {len(short):,} texts and "
            f"{long.source} {len(long):,}; make both files equally long, an empty line where nothing was written"
        )


def single_texts(aligned: AlignedTexts, what: str) -> list[str]:
    """One text at each position.

    Raises:
        DataError: a record holds several.
    """
    for position, texts in enumerate(aligned.texts):
        if len(texts) != 1:
            raise DataError(f"{aligned.origin(position)}: {len(texts)} texts; a record has one {what}")
    return [texts[0] for texts in aligned.texts]


def join_references(files: Sequence[AlignedTexts]) -> tuple[list[list[str]], int]:
    """The references of each position, of all files, without the empty ones.

    Returns:
        (references, missing): how many positions lack a reference that others have.

    Raises:
        DataError: a position has none; it names file and line.
    """
    joined: list[list[str]] = []
    for position in range(len(files[0])):
        texts = [text for file in files for text in file.texts[position] if text.strip()]
        if not texts:
            raise DataError(f"{files[0].origin(position)}: the reference is empty; write one, or remove the line")
        joined.append(texts)
    most = max(map(len, joined))
    return joined, sum(len(texts) < most for texts in joined)


def check_sources(aligned: AlignedTexts) -> list[str]:
    """One source at each position, none of them empty.

    Raises:
        DataError: names file and line.
    """
    texts = single_texts(aligned, "source")
    for position, text in enumerate(texts):
        if not text.strip():
            raise DataError(f"{aligned.origin(position)}: the source is empty; write it, or remove the line everywhere")
    return texts


def iterate_paths(paths: Sequence[str]) -> Iterator[Path]:
    """Paths of files that were named one by one, or several with commas between them."""
    for name in paths:
        path = Path(name)
        if path.exists() or "," not in name:
            yield path
        else:
            yield from (Path(part.strip()) for part in name.split(","))
