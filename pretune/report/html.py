"""TrainComponents of a page: cards, tables, and numbers as a reader wants them. Everything shown is escaped here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from pretune.config import flatten


def table(tree: Mapping[str, Any]) -> str:
    """A tree as a table: plain values first, then a group of rows for each branch; empty ones are left out."""
    plain = {k: v for k, v in tree.items() if not isinstance(v, Mapping) and told(v)}
    groups = [(k, {n: x for n, x in flatten(v).items() if told(x)}) for k, v in tree.items() if isinstance(v, Mapping)]
    out = "<tbody>" + "".join(row(k, v) for k, v in plain.items()) + "</tbody>" if plain else ""
    for name, values in groups:
        rows = "".join(row(k, v) for k, v in values.items())
        out += f'<tbody class="group"><tr><th colspan="2">{escape(words(name))}</th></tr></tbody><tbody>{rows}</tbody>'
    return f"<table>{out}</table>"


def told(value: Any) -> bool:
    """Is there anything to say?"""
    return value is not None and value != [] and value != ""


def row(name: str, value: Any) -> str:
    """A name and its value."""
    kind = ' class="number"' if is_number(value) else ""
    return f"<tr><th>{escape(words(name))}</th><td{kind}>{escape(text(value))}</td></tr>"


def text(value: Any) -> str:
    """A value as text, numbers with separators."""
    if isinstance(value, bool) or not is_number(value):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def card(content: str) -> str:
    """A framed part of the page; nothing for nothing."""
    return f'<div class="card">{content}</div>' if content else ""


def words(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ").replace(".", " · ")


def score(value: float) -> str:
    """A share as a percentage, another number with three decimals."""
    return f"{value:.1%}" if 0 <= value <= 1 else f"{value:.3f}"


def short(value: float) -> str:
    """Three significant digits with k, M or G."""
    for unit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {sign}"
    return f"{value:.3g}"


def clock(seconds: float) -> str:
    """Seconds as hours, minutes, seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def count(n: int, noun: str) -> str:
    """A number with its noun."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def is_number(value: Any) -> bool:
    """A number, and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
