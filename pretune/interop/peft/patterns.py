"""Matches the names of modules as PEFT does: whole, by their ends, or by regular expressions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pretune.errors import DataError

_LIMIT = 400  # characters of a regular expression, which here is a few names
_REPEATED_GROUP = re.compile(r"\)[*+{?]")
_REPEATS = re.compile(r"[*+{]")


def value_for(name: str, patterns: Mapping[str, Any], where: str) -> Any:
    """The value of the first pattern that a module's name ends with; None where there is none.

    Args:
        patterns: `rank_pattern` or `alpha_pattern`.
        where: file and field, for messages.

    Raises:
        DataError: a pattern that is no regular expression, or one that could take for ever.
    """
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({_checked(pattern, where)})$", name):
            return value
    return None


def _checked(pattern: str, where: str) -> str:
    if len(pattern) > _LIMIT or _REPEATED_GROUP.search(pattern) or len(_REPEATS.findall(pattern)) > 4:
        raise DataError(f"{where}: {pattern[:80]!r} is a pattern that could take for ever; name the modules instead")
    try:
        re.compile(pattern)
    except re.error as error:
        raise DataError(f"{where}: {pattern[:80]!r} is no regular expression: {error}; name the modules") from None
    return pattern


def expected(fields: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """The modules of which the configuration says that they have an adapter; none where it is a regular expression.

    Args:
        fields: of `adapter_config.json`.
        names: of all modules that may have one.
    """
    targets, layers = fields.get("target_modules"), fields.get("layers_to_transform")
    excluded, saved = fields.get("exclude_modules") or [], fields.get("modules_to_save") or []
    if not isinstance(targets, list) or isinstance(excluded, str) or layers not in (None, []):
        return []
    return [
        name
        for name in names
        if _ends_with(name, targets)
        and not _ends_with(name, excluded)
        and not any(f".{each}." in f".{name}." for each in saved)
    ]


def _ends_with(name: str, ends: Sequence[object]) -> bool:
    return any(f".{name}".endswith(f".{end}") for end in ends)


def targets_of(names: Sequence[str], known: Collection[str]) -> list[str]:
    """What `target_modules` is to be for these modules and no others: the ends of their names, or the names whole.

    Args:
        known: names of all modules of the class that have a matrix.
    """
    ends = sorted({name.rpartition(".")[2] for name in names})
    if "dense" not in ends and {name for name in known if _ends_with(name, ends)} == set(names):
        return ends  # `dense` is the name of too much, such as poolers that a class may have
    return sorted(names)
