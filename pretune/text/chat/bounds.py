"""Bounds what a chat template may cost: steps, characters, time; and each operation before it is done.

Jinja's sandbox keeps a template from reading what is none of its business, and lets it loop for a year or ask for a
text of terabytes. Here every turn of a loop, call and filter is a step, and what can grow a text is measured first.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from jinja2.exceptions import TemplateRuntimeError

MAX_STEPS = 250_000
MAX_CHARACTERS = 16 << 20
"""Of all that a template writes, on the way or in the end, and of any text that it makes."""
MAX_SECONDS = 20.0
_MAX_BITS = 4096  # of a whole number
_MAX_NUMBER = 1 << 20  # as an argument that could be a width or a count
_WIDTHS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "tojson"})
_CONTAINERS = (list, tuple, dict, set, frozenset)
_WIDE = re.compile(r"\d{6,}|[*]|\{[^{}]*\{")  # a width in a format, or one that comes from an argument


class TemplateLimitError(TemplateRuntimeError):
    """A template that asks for more than it may."""


class Budget:
    """What is left to one rendering."""

    def __init__(self) -> None:
        self._steps, self._characters = MAX_STEPS, MAX_CHARACTERS
        self._deadline = time.monotonic() + MAX_SECONDS

    def step(self, characters: int = 0) -> None:
        """Counts a turn of a loop, a call or a filter, and what it writes.

        Raises:
            TemplateLimitError: that was too much.
        """
        self._steps -= 1
        self.write(characters)
        if self._steps < 0:
            raise TemplateLimitError(f"it takes more than {MAX_STEPS:,} steps; it may loop without end")
        if not self._steps % 256 and time.monotonic() > self._deadline:
            raise TemplateLimitError(f"it takes more than {MAX_SECONDS:g} seconds")

    def write(self, characters: int) -> None:
        """Counts what is written.

        Raises:
            TemplateLimitError: that was too much.
        """
        self._characters -= characters
        if self._characters < 0:
            raise TemplateLimitError(f"it writes more than {MAX_CHARACTERS:,} characters")


def check_size(size: float) -> None:
    """Refuses a text or a list that would be too long.

    Raises:
        TemplateLimitError: it would be.
    """
    if size > MAX_CHARACTERS:
        raise TemplateLimitError(f"it asks for a text or a list of more than {MAX_CHARACTERS:,} items")


def size_of(value: object) -> int:
    """About how many characters a value has as text.

    Raises:
        TemplateLimitError: too many.
    """
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, _CONTAINERS):
            if isinstance(item, dict):
                waiting.extend(item.keys())
                waiting.extend(item.values())
            else:
                waiting.extend(item)
            total += 2 + 4 * len(item)
        else:
            total += len(item) if isinstance(item, str | bytes) else 8
        check_size(total + len(waiting))
    return total


def check_operator(operator: str, left: object, right: object) -> None:
    """Refuses an operation whose result would be too large.

    Raises:
        TemplateLimitError: it would be.
    """
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 0) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_BITS:
            raise TemplateLimitError(f"it asks for a whole number of more than {_MAX_BITS} bits")
    elif operator == "%" and isinstance(left, str):
        check_format(left, [right])
    elif operator == "*":
        for run, count in ((left, right), (right, left)):
            if isinstance(count, int) and isinstance(run, str | bytes | list | tuple):
                check_size(len(run) * max(count, 0))
    elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        check_size(len(left) + len(right))


def check_format(pattern: str, arguments: Sequence[object]) -> None:
    """Refuses a format that pads to a width, or repeats its arguments, beyond measure.

    Raises:
        TemplateLimitError: it does.
    """
    if _WIDE.search(pattern) and (pattern.count("%") + pattern.count("{")):
        numbers = [abs(n) for value in arguments for n in _numbers(value)]
        if re.search(r"\d{6,}", pattern) or max(numbers, default=0) > 1 << 12:
            raise TemplateLimitError("it formats a value to a width beyond measure")
    check_size(len(pattern) + (pattern.count("%") + pattern.count("{") + 1) * size_of(list(arguments)))


def _numbers(value: object) -> list[int]:
    items = value if isinstance(value, list | tuple) else value.values() if isinstance(value, Mapping) else [value]
    return [item for item in items if isinstance(item, int)]


def measurable(name: str, arguments: Sequence[Any]) -> list[Any]:
    """The arguments of a filter or a method, with lists for what would be made on the way, where it is joined.

    Raises:
        TemplateLimitError: too many items.
    """
    if name != "join":
        return list(arguments)
    values = [list(islice(value, _MAX_NUMBER + 1)) if isinstance(value, Iterator) else value for value in arguments]
    if any(isinstance(value, list) and len(value) > _MAX_NUMBER for value in values):
        raise TemplateLimitError(f"it joins more than {_MAX_NUMBER:,} texts")
    return values


def check_call(name: str, owner: object, arguments: Sequence[object]) -> None:
    """Refuses a filter, or a method of a text, whose result would be too long.

    Args:
        name: of the filter or the method.
        owner: what it is applied to.
        arguments: all others.

    Raises:
        TemplateLimitError: it would be.
    """
    numbers = [argument for argument in arguments if isinstance(argument, int)]
    if max(numbers, default=0) > _MAX_NUMBER and name != "range":
        raise TemplateLimitError(f"{name} with the number {max(numbers):,}")
    if name in ("format", "format_map") and isinstance(owner, str):
        check_format(owner, arguments)
    elif name in _WIDTHS:
        lines = owner.count("\n") + owner.count("\t") + 1 if isinstance(owner, str) else 1 + size_of(owner)
        check_size(lines * max(numbers, default=8) + size_of(owner))
    elif name == "replace" and len(arguments) > 1 and isinstance(owner, str):
        old, new = str(arguments[0]), str(arguments[1])
        check_size(len(owner) + owner.count(old) * len(new))
    elif name == "join":
        items = owner if not isinstance(owner, str) or not arguments else arguments[0]
        glue = owner if isinstance(owner, str) else next(iter(arguments), "")
        count = len(items) if isinstance(items, (*_CONTAINERS, str)) else 0
        check_size(size_of(items) + count * size_of(glue))
    elif name == "translate" and isinstance(owner, str):
        check_size(len(owner) * (1 + size_of(list(arguments))))
    elif name in ("string", "pprint", "xmlattr", "urlize"):
        check_size(8 * size_of(owner))
