"""Labelled texts, pairs and triplets of texts, from CSV, TSV, JSONL and Parquet. A bad row stops the reading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import model_validator

from pretune.errors import DataError
from pretune.text.readers.files import Source, SourceConfig, find_sources
from pretune.text.readers.formats import decode
from pretune.text.readers.records import MISSING, Column, RecordError, Row, not_text, too_long


@dataclass(frozen=True, slots=True)
class Example:
    """A text, a pair or a triplet, and its label.

    Attributes:
        text: never empty.
        label: None where it is not known.
        second: the second text of a pair.
        source: the file.
        line: its line (the row, for Parquet), from 1.
        third: the third text of a triplet.
    """

    text: str
    label: str | None
    second: str | None
    source: str
    line: int
    third: str | None = None


class LabelledConfig(SourceConfig):
    """Which columns of a labelled file are read; others may be there.

    Attributes:
        text_column: column or field of the text.
        label_column: of the label: text or whole numbers, kept as text.
        second_column: of the second text, for tasks on pairs.
        third_column: of a third text, for tasks on triplets.
    """

    text_column: str = "text"
    label_column: str = "label"
    second_column: str | None = None
    third_column: str | None = None

    @model_validator(mode="after")
    def _no_gap(self) -> LabelledConfig:
        if self.third_column and not self.second_column:
            raise ValueError("third_column needs a second_column")
        return self


def read_examples(
    path: Sequence[Path | str] | Path | str, config: LabelledConfig | None = None, need_label: bool = True
) -> list[Example]:
    """Read every row of a labelled file, or of several.

    Args:
        path: a file, a folder, a glob, or a list of them.
        need_label: False where labels may be missing, as in prediction; a `.txt` file then has a text a line.

    Raises:
        MissingInputError: the file does not exist or may not be read.
        DataError: a bad row: file, line, field, value and remedy; no rows.
    """
    config = config or LabelledConfig()
    columns = [
        Column(config.text_column, "text_column"),
        Column(config.label_column, "label_column", required=need_label),
        Column(config.second_column or "", "second_column", required=config.second_column is not None),
        Column(config.third_column or "", "third_column", required=config.third_column is not None),
    ]
    examples: list[Example] = []
    for source in find_sources(path, config.format):
        if source.format == "txt" and (need_label or config.second_column):
            raise DataError(f'{source.path}: a .txt file has no columns; set format = "tsv" or "csv" if it is one')
        for item in decode(source, columns, config):
            result = item if isinstance(item, RecordError) else _example(source, item, config, need_label)
            if isinstance(result, RecordError):
                raise DataError(str(result))
            if result is not None:
                examples.append(result)
    if not examples:
        raise DataError(f"{path}: no rows; the file is empty or holds a header alone")
    return examples


def _example(source: Source, row: Row, config: LabelledConfig, need_label: bool) -> Example | RecordError | None:
    """What a row holds; None for a blank line."""
    line, values = row
    file = str(source.path)
    if not values or (source.format == "txt" and not values[0].strip()):
        return None
    text, label, second, third = values
    texts = {config.text_column: text}
    texts |= {name: value for name, value in ((config.second_column, second), (config.third_column, third)) if name}
    for name, value in texts.items():
        if fault := _bad_text(file, line, name, value, config):
            return fault
    if (label is MISSING or label is None or label == "") and not need_label:
        shown = None
    else:
        shown = _label(label)
        if not shown:
            return _bad_label(file, line, config.label_column, label)
        if fault := not_text(file, line, config.label_column, shown):
            return fault
    second, third = second if config.second_column else None, third if config.third_column else None
    return Example(text, shown, second, file, line, third)


def _bad_text(file: str, line: int, name: str, value: object, config: LabelledConfig) -> RecordError | None:
    if fault := not_text(file, line, name, value):
        return fault
    if isinstance(value, str) and (not value or value.isspace()):
        return RecordError(file, line, f"field {name!r} = {value[:20]!r} is empty", "fill it in or remove the row")
    if isinstance(value, str) and len(value.encode()) > config.max_document_bytes:
        return too_long(file, line, config.max_document_bytes)
    return None


def _label(value: object) -> str:
    """A label as text: white space around it does not count, 1.0 is 1; "" for what is no label."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) else ""


def _bad_label(file: str, line: int, name: str, value: object) -> RecordError:
    shown = "empty" if value is None or isinstance(value, str) else f"{str(value)[:40]!r}, neither text nor a number"
    return RecordError(
        file, line, f"label in field {name!r} is {shown}", "write one text or whole number, or remove the row"
    )
