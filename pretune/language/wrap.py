"""Fills a text to the width of a terminal, where a Chinese character takes two columns."""

from __future__ import annotations

import textwrap


def fill(text: str, width: int, initial_indent: str = "", subsequent_indent: str = "") -> str:
    """Wraps a text as `textwrap.fill` does.

    Args:
        width: columns of the terminal.
        initial_indent, subsequent_indent: what stands before the first line and before the others.
    """
    if text.isascii():
        return textwrap.fill(
            text,
            width,
            initial_indent=initial_indent,
            subsequent_indent=subsequent_indent,
            break_long_words=False,
        )
    from rich.console import Console
    from rich.text import Text

    room = max(width - len(subsequent_indent), 10)
    lines = [line.plain.rstrip() for line in Text(text).wrap(Console(width=room), room)]
    return initial_indent + f"\n{subsequent_indent}".join(lines)


def pad(text: str, width: int) -> str:
    """Fills a text with spaces at its end to a number of columns."""
    if text.isascii():
        return text.ljust(width)
    from rich.cells import cell_len

    return text + " " * max(width - cell_len(text), 0)
