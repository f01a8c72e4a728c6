"""Tables for people: on a terminal, as text, in a notebook."""

from __future__ import annotations

import html
import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Literal

from pretune.language import translate

READABLE_DIGITS = 4  # significant ones of a number that people read
_ALL_DIGITS = 17  # with which a float is no other one
_GAP = 2  # characters between two columns
_NARROWEST = 8  # characters of a column that is cut
_TEXT = 300  # characters of a cell in a notebook


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns.

    Attributes:
        columns: their names.
        rows: the cells: text, or numbers, which are rounded for reading.
        title: what the table is of.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""

    def print(self, file: IO[str], width: int | None = None, wrap: bool = False) -> None:
        """Prints the table as wide as a terminal is.

        Args:
            width: in characters; by default that of the terminal.
            wrap: long texts go on in the next line, instead of being cut with "…".
        """
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        console = Console(file=file, width=width, highlight=False)
        rows = [[readable(cell) if wrap else " ".join(readable(cell).split()) for cell in row] for row in self.rows]
        names = [translate(column) for column in self.columns]
        widths = [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]
        table = RichTable(box=None, pad_edge=False, show_header=any(names))
        numbers = [self._is_number(number) for number in range(len(names))]
        for name, size, is_number in zip(names, _fit(widths, numbers, console.width), numbers, strict=True):
            side: Literal["left", "right"] = "right" if is_number else "left"
            overflow: Literal["fold", "ellipsis"] = "fold" if wrap else "ellipsis"
            table.add_column(Text(name), justify=side, no_wrap=not wrap, overflow=overflow, width=size)
        for row in rows:
            table.add_row(*map(Text, row))
        if self.title:
            console.print(Text(translate(self.title)))
        console.print(table)

    def text(self, width: int = 100) -> str:
        """The table as plain text, without a line break at its end."""
        file = io.StringIO()
        self.print(file, width)
        return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())

    def html(self) -> str:
        """The table for a notebook, in its own colours."""
        numbers = [self._is_number(number) for number in range(len(self.columns))]
        align = ["right" if is_number else "left" for is_number in numbers]
        head = "".join(
            f'<th style="text-align: {side}; padding: 0 0.5em">{html.escape(column)}</th>'
            for column, side in zip(self.columns, align, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align: {side}; padding: 0 0.5em">{html.escape(_shorten(readable(cell)))}</td>'
                for cell, side in zip(row, align, strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        title = (
            f'<caption style="text-align: left; white-space: nowrap">{html.escape(self.title)}</caption>'
            if self.title
            else ""
        )
        header = f"<thead><tr>{head}</tr></thead>" if any(self.columns) else ""
        return f"<table>{title}{header}<tbody>{body}</tbody></table>"

    def _is_number(self, column: int) -> bool:
        """Whether all cells of a column that hold something are numbers."""
        cells = [row[column] for row in self.rows if row[column] not in (None, "")]
        return bool(cells) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)


def _fit(widths: Sequence[int], numbers: Sequence[bool], available: int) -> list[int]:
    """Widths of columns that fit in a line: the widest texts are cut, to a few characters at least, and no numbers."""
    out = list(widths)
    texts = [n for n, is_number in enumerate(numbers) if not is_number]
    while sum(out) + _GAP * (len(out) - 1) > available:
        widest = max(texts, key=lambda n: out[n], default=None)
        if widest is None or out[widest] <= _NARROWEST:
            break
        out[widest] -= 1
    return out


def readable(value: object) -> str:
    """A value as people read it: four significant digits, thousands separators, nothing for a missing value."""
    if value is None:
        return ""
    if isinstance(value, float):
        return rounded_text(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def rounded_text(value: float) -> str:
    """A number with four significant digits, or all those before its point."""
    return f"{value:,.0f}" if 10**READABLE_DIGITS <= abs(value) < 1e15 else f"{value:.{READABLE_DIGITS}g}"


def round_digits(value: float, digits: int, thresholds: Sequence[float] = ()) -> float:
    """A number that has no more significant digits than say something.

    Args:
        thresholds: by which something was decided, in ascending order; the number has more digits where it would be on
            another side of one of them.
    """
    reached = bisect_right(thresholds, value)
    rounded = (float(f"{value:.{count}g}") for count in range(digits, _ALL_DIGITS))
    return next((number for number in rounded if bisect_right(thresholds, number) == reached), value)


def _shorten(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
