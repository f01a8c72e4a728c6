"""Filters: which passages a search may give, by the fields of their documents, such as `language=zh` or `year>=1990`.

A condition is a field, one of `= != < <= > >=`, and a value. Numbers compare with numbers, texts with texts; a document
without the field fulfils none of its conditions but `!=`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pretune.errors import UsageError
from pretune.find import suggest
from pretune.search.documents import Document, Value

Where: TypeAlias = Mapping[str, Value] | Sequence[str]
"""Values that fields must have, or conditions; all of them must hold."""
BUILT_IN = ("id", "title")
"""What every document has beside its fields."""
_CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """What a field must be.

    Attributes:
        field: its name.
        sign: of `_OPERATORS`.
        value: as it was given.
    """

    field: str
    sign: str
    value: Value

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Reads a condition.

        Raises:
            UsageError: it has no sign.
        """
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise UsageError(f"filter {text!r}: expected a field, one of = != < <= > >=, and a value: language=zh")
        return cls(match.group(1), match.group(2), match.group(3))

    def compares(self, document: Document) -> bool:
        """Whether its value can be compared with that of a document, if this has the field."""
        actual = _field(document, self.field)
        return actual is not None and _comparable(actual, self.value) is not None

    def holds(self, document: Document) -> bool:
        """Whether a document fulfils it."""
        actual = _field(document, self.field)
        if actual is None:
            return self.sign == "!="
        pair = _comparable(actual, self.value)
        if pair is None:
            return self.sign == "!="
        return _OPERATORS[self.sign](*pair)


def parse_where(where: Where) -> list[Condition]:
    """The conditions of a filter.

    Raises:
        UsageError: one that cannot be read.
    """
    if isinstance(where, Mapping):
        return [Condition(name, "=", value) for name, value in where.items()]
    return [Condition.parse(text) for text in ([where] if isinstance(where, str) else where)]


def fulfilling(documents: Sequence[Document], conditions: Sequence[Condition]) -> list[bool]:
    """Which documents fulfil all conditions.

    Raises:
        UsageError: a field that no document has.
    """
    known = {name for document in documents for name in document.fields} | set(BUILT_IN)
    for condition in conditions:
        if condition.field not in known:
            raise UsageError(
                f"filter on {condition.field!r}: no document of the index has such a field; "
                f"{suggest(condition.field, sorted(known))}"
            )
        if condition.sign != "!=" and not any(map(condition.compares, documents)):
            raise UsageError(
                f"filter on {condition.field!r}: {condition.value!r} is no number, and this field holds numbers; give "
                f"one: {condition.field}{condition.sign}10"
            )
    return [all(condition.holds(document) for condition in conditions) for document in documents]


def _field(document: Document, name: str) -> Value | None:
    if name in document.fields:
        return document.fields[name]
    return {"id": document.id, "title": document.title}.get(name)


def _comparable(actual: Value, wanted: Value) -> tuple[Value, Value] | None:
    """Both as numbers, where the field holds one, else as texts; None where the wanted one is no number."""
    if isinstance(actual, bool):
        return str(actual).lower(), str(wanted).lower()
    if isinstance(actual, int | float):
        try:
            return actual, float(wanted)
        except ValueError:
            return None
    return actual, str(wanted)
