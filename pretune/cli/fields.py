"""Renders the fields of a configuration as help: names, types, defaults and meanings, read from its classes."""

from __future__ import annotations

import shutil
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pretune.cli.variant_files import FieldEntry, attributes, written_default
from pretune.language import translate
from pretune.language.wrap import fill

_WIDTH = 100


def describe(schema: type[BaseModel], prefix: str = "--", without: Sequence[str] = ()) -> str:
    """Renders a paragraph for each field: `--a.b TYPE = default`, then its meaning.

    Args:
        without: fields to leave out.
    """
    return render_fields(entries(schema, without=without), prefix, _WIDTH)


def render_fields(fields: Iterable[FieldEntry], prefix: str = "--", width: int | None = None) -> str:
    """Renders a paragraph for each field.

    Args:
        prefix: what stands before each name.
        width: characters of a line; by default those of the terminal.
    """
    width = width or min(_WIDTH, shutil.get_terminal_size().columns)
    lines: list[str] = []
    table = ""
    for field in fields:
        if (own := field.name.rpartition(".")[0]) != table and lines:
            lines.append("")
        table = own
        lines.append(f"  {prefix}{field.name} {field.type}{f' = {field.default}' if field.default else ''}")
        if field.meaning:
            meaning = translate(field.meaning)
            lines.append(fill(meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines)


def entries(
    schema: type[BaseModel], prefix: str = "", *, values: BaseModel | None = None, without: Sequence[str] = ()
) -> Iterator[FieldEntry]:
    """The fields of a configuration, those of the tables in it last.

    Args:
        prefix: of their names.
        values: a configuration whose values are shown as defaults, in place of those of its class.
        without: names of fields to leave out.
    """
    meaning = meanings(schema)
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in schema.model_fields.items():
        if name in without:
            continue
        below = _configuration(field.annotation)
        if below is not None:
            inner.append((name, below))
            continue
        value = field.get_default(call_default_factory=True) if values is None else getattr(values, name)
        default = "" if value is PydanticUndefined else written_default(value)
        yield FieldEntry(f"{prefix}{name}", render_type(field.annotation), default, meaning.get(name, ""))
    for name, below in inner:
        inside = None if values is None else getattr(values, name)
        yield from entries(below if inside is None else type(inside), f"{prefix}{name}.", values=inside)


def meanings(schema: type[BaseModel]) -> dict[str, str]:
    """Returns what the `Attributes:` sections of a class and of its bases say about each field."""
    out: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        out |= attributes(vars(base).get("__doc__") or "")
    return out


def _configuration(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) or (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def render_type(annotation: Any) -> str:
    """Renders a type for help: `a|b` for choices, NUMBER for floats."""
    if get_origin(annotation) is Literal:
        return "|".join(str(value).lower() if isinstance(value, bool) else str(value) for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(render_type(a) for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Annotated:
        return render_type(get_args(annotation)[0])
    plain = get_origin(annotation) or annotation
    if plain in (tuple, list):
        return "LIST"
    return {int: "INTEGER", float: "NUMBER", bool: "BOOLEAN", str: "TEXT", dict: "TABLE"}.get(plain, "VALUE")
