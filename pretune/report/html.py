"""Elements of the page: cards, tables and formatted numbers. Everything is escaped here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from pretune.config import flatten


def table(tree: Mapping[str, Any]) -> str:
    """Renders a tree as a table: plain values first, then a group of rows for each branch; empty values are omitted."""
    plain = {k: v for k, v in tree.items() if not isinstance(v, Mapping) and has_content(v)}
    branches = {k: flatten(v) for k, v in tree.items() if isinstance(v, Mapping)}
    groups = [(k, {n: x for n, x in v.items() if has_content(x)}) for k, v in branches.items()]
    out = "<tbody>" + "".join(row(k, v) for k, v in plain.items()) + "</tbody>" if plain else ""
    for name, values in groups:
        rows = "".join(row(k, v) for k, v in values.items())
        out += f'<tbody class="group"><tr><th colspan="2">{escape(words(name))}</th></tr></tbody><tbody>{rows}</tbody>'
    return f"<table>{out}</table>"


def has_content(value: Any) -> bool:
    """Whether a value is worth a row."""
    return value is not None and value != [] and value != ""


def row(name: str, value: Any) -> str:
    """Renders a name and its value."""
    style = ' class="number"' if is_number(value) else ""
    return f"<tr><th>{escape(words(name))}</th><td{style}>{escape(text(value))}</td></tr>"


def text(value: Any) -> str:
    """Formats a value, numbers with separators."""
    if isinstance(value, bool) or not is_number(value):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def card(content: str) -> str:
    """Renders a card of the page; nothing for no content."""
    return f'<div class="card">{content}</div>' if content else ""


def words(name: str) -> str:
    """Returns a name as words."""
    return name.replace("_", " ").replace(".", " · ")


def score(value: float) -> str:
    """Formats a fraction as a percentage, any other number with three decimals."""
    return f"{value:.1%}" if 0 <= value <= 1 else f"{value:.3f}"


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


def count(n: int, noun: str) -> str:
    """Formats a number with its noun."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def is_number(value: Any) -> bool:
    """Whether a value is a number, and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)
