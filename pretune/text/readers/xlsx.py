"""Reads Excel workbooks: one record for each row of the first visible sheet, cells as the text that CSV would hold."""

from __future__ import annotations

import datetime
import logging
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import IO

from pretune.text.readers.files import BOMB_FLOOR, Source, SourceConfig, UnreadableError, open_seekable
from pretune.text.readers.records import Column, RecordError, SourceRow
from pretune.text.readers.tables import names_of_rows, read_rows

SUFFIXES = (".xlsx", ".xlsm")
_REMEDY = "save the workbook again, or export the sheet as CSV"
_log = logging.getLogger("pretune")


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each row of the first sheet; `line` is the row's number in it, from 1."""
    return read_rows(source, columns, config, _rows(source, config, is_first_read=True))


def names(source: Source, config: SourceConfig) -> list[str]:
    """The names of the columns; none where the file cannot be read."""
    return names_of_rows(_rows(source, config), config)


def _rows(
    source: Source, config: SourceConfig, is_first_read: bool = False
) -> Iterator[tuple[int, list[str]] | RecordError]:
    """The cells of each row as text, empty ones at the end left out."""
    from openpyxl import load_workbook  # only where there is a workbook

    file = str(source.path)
    try:
        with open_seekable(source, config) as raw:
            if error := _bomb(file, raw, config):
                yield error
                return
            with closing(load_workbook(raw, read_only=True, data_only=True)) as book:
                seen = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets
                if not seen:
                    yield RecordError(file, 0, "a workbook without a sheet of cells", _REMEDY)
                    return
                sheet, *others = seen
                sheet.reset_dimensions()  # which many programs write too small, and rows beyond them would be left out
                if others and is_first_read:
                    left = ", ".join(other.title for other in others)
                    _log.warning("%s: only the first sheet (%s) is read; not read: %s", file, sheet.title, left)
                for number, cells in enumerate(sheet.iter_rows(), 1):
                    wrong = next((cell for cell in cells if cell.data_type == "e"), None)
                    if wrong is not None:
                        reason = f"cell {wrong.coordinate} holds the error {wrong.value}"
                        yield RecordError(file, number, reason, "fix its formula, or remove the row")
                        continue
                    fields = [_text(cell.value) for cell in cells]
                    while fields and not fields[-1]:
                        fields.pop()
                    yield number, fields
    except (UnreadableError, zipfile.BadZipFile, OSError, KeyError, ValueError, SyntaxError) as error:
        yield RecordError(file, 0, f"not a readable workbook: {str(error)[:200]}", _REMEDY)


def _bomb(file: str, raw: IO[bytes], config: SourceConfig) -> RecordError | None:
    """The error of a workbook, which is a zip file, that unfolds to far more than its size."""
    with zipfile.ZipFile(raw) as parts:
        size = sum(part.file_size for part in parts.infolist())
    packed = raw.seek(0, 2)
    raw.seek(0)
    if size <= max(BOMB_FLOOR, packed * config.max_compression_ratio):
        return None
    reason = f"unfolds to more than {config.max_compression_ratio} times its own size"
    return RecordError(file, 0, reason, "check the file, or raise max_compression_ratio")


def _text(value: object) -> str:
    """A cell as CSV would hold it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat(" ") if isinstance(value, datetime.datetime) else value.isoformat()
    return str(value)
