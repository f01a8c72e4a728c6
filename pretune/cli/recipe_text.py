"""Renders a recipe as TOML that explains itself: a comment beside each field, and fields to switch on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pretune.language import translate

_COMMENT = 32  # column at which comments begin


@dataclass(frozen=True)
class Field:
    """A line of a recipe.

    Attributes:
        name: of the field in its table.
        value: text, number or list of texts.
        comment: what it means.
        is_set: False of a field that is only proposed, in a comment.
    """

    name: str
    value: str | float | Sequence[str]
    comment: str = ""
    is_set: bool = True

    def render(self) -> str:
        """The line."""
        value = json.dumps(self.value, ensure_ascii=False)
        line = f"{'' if self.is_set else '# '}{self.name} = {value}"
        return f"{line:<{_COMMENT}}  # {translate(self.comment)}" if self.comment else line


Table = tuple[str, Sequence[Field]]
"""The name of a table, empty for the top of the recipe, and its fields."""


def render_recipe(title: str, commands: Sequence[tuple[str, str]], tables: Sequence[Table]) -> str:
    """Renders a whole recipe.

    Args:
        title: what it is for.
        commands: that use it, each with what it does.
        tables: in order, the first without a name.
    """
    return "\n".join(_lines(title, commands, tables)) + "\n"


def _lines(title: str, commands: Sequence[tuple[str, str]], tables: Sequence[Table]) -> Iterator[str]:
    yield f"# {translate(title)}"
    width = max(len(command) for command, _ in commands)
    for command, meaning in commands:
        yield f"#   {command:<{width}}  {translate(meaning)}"
    for name, fields in tables:
        yield ""
        if name:
            yield f"[{name}]"
        yield from (field.render() for field in fields)
