"""Finds a field of a configuration by the name that a user gives it: dotted, short, or the end of it alone."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from pretune.errors import UsageError
from pretune.find import nearest

Tree = Mapping[str, Any]
VariantConfigs = Callable[[Tree], Mapping[str, type[BaseModel]]]


def _no_variants(tree: Tree) -> Mapping[str, type[BaseModel]]:
    return {}


@dataclass(frozen=True)
class FieldNames:
    """The names by which the fields of a configuration are set on the command line.

    Attributes:
        fields: the type of each field by its dotted name.
        sections: dotted names of the tables that fields are in.
        tables: dotted names of fields that hold tables of any names, such as `task`.
        short: a short name, such as `lr`, to the dotted name.
        foreign: what other tools call a field, to one of our names; suggested, not accepted.
        variant_configs: the configurations of the variants that a tree chooses, by the table that they are in.
    """

    fields: Mapping[str, Any]
    sections: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    short: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[str, str] = field(default_factory=dict)
    variant_configs: VariantConfigs = _no_variants

    @classmethod
    def of(cls, schemas: Mapping[str, type[BaseModel]]) -> FieldNames:
        """The names of the fields of some configurations, each in a table ("" for none)."""
        fields = {name: annotation for table, schema in schemas.items() for name, annotation in _walk(schema, table)}
        sections = {name.rpartition(".")[0] for name in fields} | {table for table in schemas if table}
        parents = {section[:dot] for section in sections for dot in range(len(section)) if section[dot] == "."}
        tables = {name for name, annotation in fields.items() if any(_is_table(o) for o in options(annotation))}
        return cls(fields, frozenset((sections | parents) - {""}), frozenset(tables))

    def with_variants(self, tree: Tree) -> FieldNames:
        """The names with those of the variants that a tree chooses; a task's columns are those of the data."""
        other = FieldNames.of(self.variant_configs(tree))
        own = {name: annotation for name, annotation in other.fields.items() if ".columns." not in name}
        return replace(self, fields={**own, **self.fields}, sections=self.sections | other.sections)

    def find(self, name: str) -> str | None:
        """The dotted name of a field; None where there is none.

        Args:
            name: as it was given, with underscores for dashes.

        Raises:
            UsageError: several fields end in it; each is named.
        """
        if name in self.short:
            return self.short[name]
        if name in self.fields or (name in self.sections and name not in self.foreign):
            return name
        if any(name.startswith(f"{table}.") for table in self.tables):
            return name
        matches = [dotted for dotted in self.fields if dotted.endswith(f".{name}")]
        if len(matches) > 1:
            listed = ", ".join(f"--{dotted}" for dotted in matches)
            raise UsageError(f"--{name.replace('_', '-')}: several fields end in this name; use one of {listed}")
        if matches:
            return matches[0]
        return name if any(name.startswith(f"{section}.") for section in self.sections) else None

    def flag(self, dotted: str) -> str | None:
        """The short flag of a field, such as `--lr`; None where it has none."""
        return next((f"--{name}" for name, target in self.short.items() if target == dotted), None)

    def dotted(self, name: str) -> str | None:
        """The one field that a name may mean, by what other tools call it, by a short name or by its end."""
        target = self.foreign.get(name, name)
        if target in self.short:
            return self.short[target]
        matches = [dotted for dotted in self.fields if dotted == target or dotted.endswith(f".{target}")]
        return matches[0] if len(matches) == 1 else None

    def suggest(self, name: str) -> str | None:
        """The name that a user may have meant, as a flag with the field that it sets."""
        leaf = name.rpartition(".")[2]
        known = {**{dotted.rpartition(".")[2]: dotted for dotted in self.fields}, **self.short}
        known = {each: dotted for each, dotted in known.items() if each in self.short or self._is_unique(each)}
        target = self.foreign.get(leaf) or nearest(leaf, known)
        if target is None:
            return None
        dotted = known.get(target, target)
        short = f"--{target.replace('_', '-')}"
        return short if dotted in (target, short[2:]) else f"{short} ({dotted})"

    def _is_unique(self, leaf: str) -> bool:
        return sum(dotted == leaf or dotted.endswith(f".{leaf}") for dotted in self.fields) == 1


def options(annotation: Any) -> list[Any]:
    """The types that a field may have, `None` left out."""
    if get_origin(annotation) is Annotated:
        return options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for each in get_args(annotation) for option in options(each)]
    return [] if annotation is type(None) else [annotation]


def takes_switch(annotation: Any) -> bool:
    """Whether a field may hold true or false."""
    return any(
        option is bool or (get_origin(option) is Literal and any(isinstance(v, bool) for v in get_args(option)))
        for option in options(annotation)
    )


def is_text(annotation: Any) -> bool:
    """Whether a field holds text alone, so that "1" and "true" are texts too."""
    return all(
        option is str or (get_origin(option) is Literal and all(isinstance(v, str) for v in get_args(option)))
        for option in options(annotation)
    )


def item_type(annotation: Any) -> Any:
    """The type of the items of a list of plain values; None for another field."""
    for option in options(annotation):
        if get_origin(option) in (tuple, list):
            items = options(get_args(option)[0])
            item = str if all(map(is_text, items)) else items[0]
            return item if len(items) == 1 and get_origin(item) is None else None
    return None


def _is_table(option: Any) -> bool:
    return option is dict or get_origin(option) is dict


def _walk(schema: type[BaseModel], table: str) -> Iterator[tuple[str, Any]]:
    prefix = f"{table}." if table else ""
    for name, info in schema.model_fields.items():
        below = next((o for o in options(info.annotation) if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if below is None:
            yield prefix + name, info.annotation
        else:
            yield from _walk(below, prefix + name)


def matches(name: str, fields: Sequence[str]) -> bool:
    """Whether a flat name is one of these fields, or below one of them; `*` stands for any part."""
    patterns = (re.escape(field).replace(r"\*", r"[^.]+") for field in fields)
    return any(re.fullmatch(rf"{pattern}([.\[].*)?", name, re.DOTALL) for pattern in patterns)
