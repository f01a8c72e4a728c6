"""Writes counts and fractions for the screen: the same way in every sentence."""

from __future__ import annotations

import shlex


def counted(number: float, one: str, many: str | None = None) -> str:
    """A number and its noun, such as "1 step", "1,234 steps" and "0.5 epochs".

    Args:
        many: the plural, where it is more than `one` with an s.
    """
    text = f"{number:,.0f}" if float(number).is_integer() else f"{number:,g}"
    return f"{text} {one if number == 1 else many or f'{one}s'}"


def describe_budget(total: float, unit: str, min_steps: int) -> str:
    """How long a run trains, such as "3 epochs, 200 steps at least".

    Args:
        unit: in the plural.
        min_steps: 0 where there is no such bound.
    """
    amount = counted(total, unit.removesuffix("s"))
    return f"{amount}, {counted(min_steps, 'step')} at least" if min_steps else amount


def percent(fraction: float) -> str:
    """A fraction as a percentage with one digit after the point; of what is not zero never "0.0%"."""
    return "<0.1%" if 0 < fraction < 0.0005 else f"{fraction:.1%}"


def listed(items: list[str], limit: int = 5) -> str:
    """The first of some names, separated by commas; dots stand for the rest."""
    return ", ".join(items[:limit]) + (", ..." if len(items) > limit else "")


def quoted(text: str) -> str:
    """A text as one word of a command line, in double quotes where these keep it as it is."""
    return f'"{text}"' if not set(text) & set('"$`\\!') else shlex.quote(text)
