"""Reads a verb's texts from arguments, a file or standard input; writes results to a file or standard output."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from pretune.disk import new_file
from pretune.errors import DataError, UsageError

if TYPE_CHECKING:
    from pretune.text.readers.files import SourceConfig
    from pretune.text.readers.records import Column, Record

T = TypeVar("T")
CHUNK = 512  # texts that are in memory at once while a stream is read


def read_texts(texts: Sequence[str], input: Path | None, second: str | None = None) -> Iterator[tuple[str, str | None]]:
    """Reads texts, or pairs of texts, from arguments, a file, or the lines of standard input.

    Args:
        second: column of the file with the second text of each pair.

    Raises:
        UsageError: both arguments and a file.
        DataError: a line of standard input that is empty or not UTF-8; a bad row of a file.
    """
    if texts and input is not None:
        raise UsageError(f"expected texts or --input {input}, not both")
    if texts:
        return ((text, None) for text in texts)
    return _standard_input() if input is None else _file(input, second)


def read_task_records(
    columns: Sequence[Column], config: SourceConfig, texts: Sequence[str], input: Path | None
) -> Iterator[Record]:
    """Records for a task from arguments, from a file, or from the lines of standard input.

    Args:
        columns: the fields that the task reads; a bare text is the first of them.
        config: how a file is read.

    Raises:
        UsageError: both arguments and a file.
        DataError: a line of standard input that is empty or not UTF-8; a bad record of a file.
    """
    from pretune.text.readers.labelled import read_records
    from pretune.text.readers.records import Origin, Record

    if input is not None and not texts:
        yield from read_records(input, columns, config, needs_labels=False)
        return
    for number, (text, _) in enumerate(read_texts(texts, input), 1):
        yield Record({columns[0].name: text}, Origin("text", number))


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Yields consecutive lists of at most `size` items."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


@contextmanager
def open_output(path: Path | None) -> Iterator[IO[str]]:
    """Gives standard output, or a file that is there whole or not at all.

    Raises:
        CannotCreateError: the file cannot be made there, or another process is writing it.
        StorageError: the disk is full or fails.
    """
    if path is None:
        yield sys.stdout
        return
    with new_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8")
        try:
            yield text
        finally:
            text.detach()


def write_line(file: IO[str], value: Any) -> None:
    """Writes one value as a line of JSON, flushed at once on standard output."""
    file.write(json.dumps(value, ensure_ascii=False) + "\n")
    if file is sys.stdout:
        file.flush()


def _file(path: Path, second: str | None) -> Iterator[tuple[str, str | None]]:
    from pretune.text.readers.labelled import read_records
    from pretune.text.readers.records import Column

    columns = [Column("text", "text_column"), *([Column(second, "second_column")] if second else [])]
    for record in read_records(path, columns, needs_labels=False):
        yield record.text("text", "text_column"), record.text(second, "second_column") if second else None


def _standard_input() -> Iterator[tuple[str, str | None]]:
    if sys.stdin.isatty():
        print("reading standard input, one text per line; end with Ctrl-D", file=sys.stderr)
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input:{number}: not UTF-8: {error}; convert it first (iconv -t utf-8)") from None
        if not text.strip():
            raise DataError(f"standard input:{number}: the line is empty; remove it")
        yield text, None
