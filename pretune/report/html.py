"""Elements of the page: cards, tables and formatted numbers. Everything is escaped here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from pretune import __version__
from pretune.language import current_language, translate
from pretune.report.words import group_name, meaning, words


def table(tree: Mapping[str, Any]) -> str:
    """Renders a tree as a table: plain values first, then a group of rows for each branch; empty values are omitted."""
    return f"<table>{''.join(_groups(tree, ''))}</table>"


def _groups(tree: Mapping[str, Any], title: str) -> Iterator[str]:
    """Yields the rows of a tree's own values under its title, then those of its branches."""
    rows = "".join(row(k, v) for k, v in tree.items() if not isinstance(v, Mapping) and has_content(v))
    if rows:
        head = f'<tbody class="group"><tr><th colspan="2">{escape(title)}</th></tr></tbody>' if title else ""
        yield f"{head}<tbody>{rows}</tbody>"
    for name, branch in tree.items():
        if isinstance(branch, Mapping):
            yield from _groups(branch, f"{title} · {group_name(name)}" if title else group_name(name))


def has_content(value: Any) -> bool:
    """Whether a value is worth a row."""
    return value is not None and value != [] and value != ""


def row(name: str, value: Any) -> str:
    """Renders a name, what it means, and its value."""
    style = ' class="number"' if is_number(value) else ""
    note = f"<small>{phrase(explanation)}</small>" if (explanation := meaning(name)) else ""
    label = translate(words(name)) if explanation else words(name)  # names of fields stay as they are written
    return f"<tr><th>{escape(label)}{note}</th><td{style}>{escape(text(value))}</td></tr>"


def text(value: Any) -> str:
    """Formats a value, numbers with separators."""
    if isinstance(value, bool) or not is_number(value):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def page(title: str, parts: Sequence[str]) -> str:
    """Renders a whole page, which fetches nothing.

    Args:
        parts: what stands on it, as elements.
    """
    template = resources.files("pretune.report").joinpath("report_template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        body="\n".join(part for part in parts if part),
        footer=phrase(f"Written by pretune {__version__}; this page fetches nothing."),
        language=current_language(),
    )


def phrase(sentence: str) -> str:
    """Renders words of the page in the language of its reader."""
    return escape(translate(sentence))


def section(title: str, *parts: str) -> str:
    """Renders a part of the page under its title; nothing where there is nothing below it."""
    content = "\n".join(part for part in parts if part)
    return f"<h2>{phrase(title)}</h2>{content}" if content else ""


def note(sentence: str) -> str:
    """Renders a sentence that explains what stands beside it."""
    return f'<p class="note">{phrase(sentence)}</p>'


def folded(title: str, content: str) -> str:
    """Renders a card that opens on request."""
    return f'<div class="card"><details><summary>{phrase(title)}</summary>{content}</details></div>'


def card(content: str) -> str:
    """Renders a card of the page; nothing for no content."""
    return f'<div class="card">{content}</div>' if content else ""


def short(value: float) -> str:
    """Formats a number with three significant digits and k, M or G."""
    for unit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {sign}"
    return f"{value:.3g}"


def clock(seconds: float) -> str:
    """Formats seconds as hours, minutes, seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def tiles(cells: Sequence[tuple[str, str, str]]) -> str:
    """Renders numbers with their labels and notes, in rows of which none holds a single one.

    Args:
        cells: number, label and note of each.
    """
    if not cells:
        return ""
    columns = next((n for n in (4, 5, 3) if len(cells) % n != 1), 4)
    body = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{phrase(label)}</span><small>{phrase(about)}</small></div>'
        for value, label, about in cells
    )
    return f'<section class="tiles" style="--columns: {min(columns, len(cells))}">{body}</section>'


def alert(sentence: str, points: Sequence[str] = (), commands: Sequence[str] = ()) -> str:
    """Renders what a reader must know before anything else: a sentence, a list below it, commands that help.

    Args:
        points: in the language of the page.
    """
    listed = f"<ul>{''.join(f'<li>{escape(point)}</li>' for point in points)}</ul>" if points else ""
    code = f"<pre>{escape(chr(10).join(commands))}</pre>" if commands else ""
    return f'<div class="card alert"><p>{phrase(sentence)}</p>{listed}{code}</div>'


def is_number(value: Any) -> bool:
    """Whether a value is a number, and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)
