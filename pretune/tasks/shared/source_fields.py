"""Finds the fields of records that tasks of writing read: a source, one or several targets, and those of a template."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.records import Column, Record, is_missing

SOURCE = "source"
"""The name in a template of what is read, whatever its field is called."""
SOURCES = (
    *("text", "source", "src", "document", "article", "dialogue", "dialog", "abstract", "passage", "content", "body"),
    *("question", "query", "instruction", "prompt", "input", "sentence"),
)
TARGETS = (
    *("target", "tgt", "summary", "translation", "highlights", "completion", "response", "answer", "output", "title"),
    *("headline", "reference", "references"),
)
"""Usual names of fields, of which the first that a record has is read where no field is named."""
_MANY = ("target", "summary", "translation", "answer", "reference")  # that may be numbered, such as summary1
_SEVERAL = 5
_NUMBERED = re.compile(r"(.*?)_?(\d)")


class TargetTexts(NamedTuple):
    """What a record says of its target.

    Attributes:
        texts: all right ones; none where they are not known.
        fields: that hold them.
    """

    texts: tuple[str, ...]
    fields: tuple[str, ...]


def template_fields(template: str) -> list[str]:
    """The names in the braces of a template, in order.

    Raises:
        ValueError: braces that hold something else than a name, or a single brace.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"the template {template!r}: {error}; write a brace that is no field twice, {{{{ or }}}}"
        ) from None
    names = []
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if not name.isidentifier() or form or conversion:
            raise ValueError(
                f"the template {template!r} has {{{name}}}, which is no name of a field; write {{{SOURCE}}}"
            )
        if name not in names:
            names.append(name)
    return names


def source_columns(columns: LabelledConfig, names: Sequence[str]) -> list[Column]:
    """The fields that are read of a source; the first is that of a bare text.

    Args:
        names: of the template, or the source alone.
    """
    out: list[Column] = []
    if SOURCE in names or not names:
        usual = SOURCES if columns.text == SOURCES[0] else ()
        out.append(Column(columns.text, "columns.text", alternatives=usual[1:]))
        out += [Column(name, "", required=False) for name in usual[1:]]
    known = [column.name for column in out]
    out += [Column(name, "task.generation.prompt") for name in names if name not in (SOURCE, *known)]
    return out


def target_columns(columns: LabelledConfig, needed: bool) -> list[Column]:
    """The fields that may hold targets.

    Args:
        needed: a record without one is an error.
    """
    named = _named(columns)
    if named != (TARGETS[0],):
        return [Column(name, "columns.target", required=needed) for name in named]
    numbers = [f"{mark}{n}" for n in range(1, _SEVERAL + 1) for mark in ("", "_")]
    usual = [*TARGETS[1:], *(f"{name}{number}" for number in numbers for name in _MANY)]
    first = Column(TARGETS[0], "columns.target", required=needed, alternatives=tuple(usual))
    return [first, *(Column(name, "", required=False) for name in usual)]


def read_source(fields: Record, columns: LabelledConfig) -> tuple[str, str]:
    """The field of the source, and its text; an instruction with its input behind it.

    Raises:
        DataError: no such field, or an empty one.
    """
    usual = SOURCES if columns.text == SOURCES[0] else (columns.text,)
    name = next((name for name in usual if name in fields), columns.text)
    text = fields.text(name, "columns.text")
    more = fields.get("input") if name == "instruction" else None
    return name, f"{text}\n{more}" if isinstance(more, str) and more.strip() else text


def read_target(fields: Record, columns: LabelledConfig, source: str) -> TargetTexts:
    """The right texts of a record.

    Args:
        source: the field of the source, which is no target.

    Raises:
        DataError: none, where one is needed; an empty one, or something else than text.
    """
    named = _named(columns)
    if named == (TARGETS[0],):
        numbered = [name for name in fields if (m := _NUMBERED.fullmatch(name)) and m[1] in _MANY]
        single = next((name for name in TARGETS if name in fields and name != source), None)
        if single is None and numbered:
            first = _NUMBERED.fullmatch(numbered[0])
            assert first is not None  # it matched before
            single_base = first[1]
            named = tuple(sorted(name for name in numbered if (m := _NUMBERED.fullmatch(name)) and m[1] == single_base))
        else:
            named = (single or TARGETS[0],)
    if source in named:
        raise fields.error(
            f"field {source!r} is read as the source and as the target",
            "name another one with --text or --target (data.columns)",
        )
    if not fields.needs_labels and all(_is_absent(fields, name) for name in named):
        return TargetTexts((), ())
    texts: list[str] = []
    for name in named:
        value = fields.get(name)
        is_list = isinstance(value, list | tuple) or hasattr(value, "tolist")
        texts += fields.strings(name, "columns.target") if is_list else [fields.text(name, "columns.target")]
    if not texts:
        raise fields.error(f"field {named[0]!r} is an empty list", "give at least one text, or remove the record")
    return TargetTexts(tuple(texts), named)


def render(template: str, values: Mapping[str, str]) -> tuple[str, int, int]:
    """A template with its fields filled in, and where the longest of them lies, in characters.

    Returns:
        text, start, end.
    """
    longest = max(values, key=lambda name: len(values[name]), default="")
    text, start, end = "", 0, 0
    for literal, name, _, _ in string.Formatter().parse(template):
        text += literal
        if name is not None:
            if name == longest:
                start, end = len(text), len(text) + len(values[name])
            text += values[name]
    return text, start, end


def _named(columns: LabelledConfig) -> tuple[str, ...]:
    """The fields that the configuration names for targets."""
    return tuple(name.strip() for name in columns.target.split(",") if name.strip())


def _is_absent(fields: Record, name: str) -> bool:
    return name not in fields or is_missing(fields[name]) or fields[name] == ""
