"""Reads `--field value` words of a command line as a tree of values.

--lr 3e-4 --train a.csv,b.csv --no-resume  ->  {optimizer: {lr: 3e-4}, data: {train: [a.csv, b.csv]}, resume: false}
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretune.config.field_names import FieldNames, is_text, item_type, takes_switch
from pretune.config.toml_text import MAX_DEPTH, ConfigDict, parse_value
from pretune.errors import UsageError
from pretune.missing_paths import near_path

_FIELD = re.compile(r"[^=]*?\.py(?::\w+)?(?=\.|$)|[\w.]+:\w+(?=\.|$)|[^.]*")
_COMMA = re.compile(r",(?![^{},]*\})")  # one inside of braces, as of `train.{en,de}`, is part of a name
_ANYTHING = Any


class Repeated(list[Any]):
    """The values of a flag that is given several times: a list adds them up, another field refuses them."""


@dataclass
class _Flag:
    """A flag as it was written.

    Attributes:
        name: without its dashes.
        values: the words that follow it.
        has_equals: its value stands behind an equals sign.
    """

    name: str
    values: list[str] = field(default_factory=list)
    has_equals: bool = False


def parse_overrides(
    words: Iterable[str], names: FieldNames | None = None, base: Mapping[str, Any] | None = None
) -> ConfigDict:
    """Parses `--optimizer.lr 3e-4 --no-resume` into a tree; values are read as TOML, else used as text.

    A flag that is given several times adds up: its values are a list, which only a field that holds one accepts, and
    settings of a variant are laid beside those that were named before (`--objective mlm,sop --objective.mlm.rate 0.3`).

    Args:
        names: of the fields that there are; without them, every dotted name is accepted.
        base: the tree under that of the words, which may choose the variants whose fields are named.

    Raises:
        UsageError: a word that is neither a flag nor the value of one, a flag that names no field, or one without its
            value.
    """
    flags = _split(words)
    if names is not None and any(_find(flag, names) not in names.fields for flag in flags):  # it may be a variant's
        known = [flag for flag in flags if _find(flag, names)]
        names = names.with_variants(_over(base or {}, _tree(known, names)))
    return _tree(flags, names)


def _tree(flags: Iterable[_Flag], names: FieldNames | None) -> ConfigDict:
    tree: ConfigDict = {}
    for flag in flags:
        dotted, value = _read(flag, names)
        *parents, last = split_field(dotted)
        branch: ConfigDict = {last: value}
        for parent in reversed(parents):
            branch = {parent: branch}
        tree = _add(tree, branch)
    return tree


def _split(words: Iterable[str]) -> list[_Flag]:
    flags: list[_Flag] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, text = word[2:].partition("=")
            if name.count(".") > MAX_DEPTH:
                raise UsageError(f"--{name[:40]}...: a field of more than {MAX_DEPTH} parts; there is none")
            flags.append(_Flag(name, [text] if equals else [], bool(equals)))
        elif not flags or word == "--":
            raise _not_a_flag(word)
        else:
            flags[-1].values.append(word)
    return flags


def _not_a_flag(word: str) -> UsageError:
    if word.endswith(".toml"):
        return UsageError(f"{word!r}: a recipe stands first, before the flags")
    return UsageError(f"{word!r}: expected --field value, such as --lr 3e-4")


def _over(base: Mapping[str, Any], tree: Mapping[str, Any]) -> ConfigDict:
    """The tables of a tree over those of another, as far as they choose variants."""
    out = dict(base)
    for name, value in tree.items():
        below, over = as_choice(out.get(name)), as_choice(value)
        out[name] = _joined(below, over) if isinstance(below, dict) and isinstance(over, dict) else over
    return out


def _joined(below: Mapping[str, Any], over: Mapping[str, Any]) -> ConfigDict:
    """Variants of an axis over others; the settings of one are laid over those that it has."""
    settings = {
        name: below[name] for name in over if isinstance(below.get(name), dict) and isinstance(over[name], dict)
    }
    return {**below, **over, **{name: {**values, **over[name]} for name, values in settings.items()}}


def _find(flag: _Flag, names: FieldNames) -> str | None:
    name = ".".join(split_field(flag.name))
    dotted = names.find(name)
    if dotted is None and not flag.values and name.startswith("no_"):
        positive = names.find(name.removeprefix("no_"))
        annotation = None if positive is None else names.fields.get(positive, _ANYTHING)
        return positive if annotation is _ANYTHING or takes_switch(annotation) else None
    return dotted


def _read(flag: _Flag, names: FieldNames | None) -> tuple[str, Any]:
    """The dotted name of a flag's field, and its value.

    Raises:
        UsageError: no such field, no value, or several where one belongs.
    """
    if names is None:
        if len(flag.values) > 1:
            raise _not_a_flag(flag.values[1])
        if flag.values:
            return flag.name, _parse(flag, flag.values[0])
        return flag.name.removeprefix("no-"), not flag.name.startswith("no-")
    dotted = _find(flag, names)
    if dotted is None:
        hint = names.suggest(".".join(split_field(flag.name)).removeprefix("no_"))
        remedy = f"did you mean {hint}?" if hint else "--help lists all of them"
        raise UsageError(f"--{flag.name}: there is no such field; {remedy}")
    annotation = names.fields.get(dotted, _ANYTHING)
    if not flag.values:
        if annotation is not _ANYTHING and not takes_switch(annotation):
            write = f"--{flag.name}=VALUE"
            raise UsageError(f"--{flag.name}: expected a value; where the value begins with dashes, write {write}")
        return dotted, not _is_negated(flag, dotted)
    item = item_type(annotation)
    is_named = annotation is not _ANYTHING and (item is str or is_text(annotation))
    if is_named and not all(flag.values):  # an empty path would be the working folder
        raise UsageError(f"--{flag.name}: expected a value, and it is empty")
    if item is not None:
        return dotted, _read_list(flag, item)
    if len(flag.values) > 1:
        raise _not_a_flag(flag.values[1])
    value = _parse(flag, flag.values[0])
    keeps_text = annotation is not _ANYTHING and is_text(annotation) and not isinstance(value, str)
    return dotted, flag.values[0] if keeps_text else value


def _is_negated(flag: _Flag, dotted: str) -> bool:
    name = ".".join(split_field(flag.name))
    return name.startswith("no_") and not dotted.endswith(name)


def _read_list(flag: _Flag, item: Any) -> list[Any]:
    """The items of a list: one for each word, comma or item of a TOML list.

    A path that exists with its comma is one item, and so is one that nearly does.
    """
    items: list[Any] = []
    for text in flag.values:
        value = _parse(flag, text) if text.startswith("[") else text
        if isinstance(value, list):
            items += value
        elif item is str:
            items += _split_paths(text)
        else:
            items += [_parse(flag, part) for part in text.split(",")]
    return items


def _split_paths(text: str) -> list[str]:
    if Path(text).exists() or glob.glob(text):
        return [text]
    parts = [part.strip() for part in _COMMA.split(text) if part.strip()] or [text]
    if not any(Path(part).exists() for part in parts) and near_path(text, 0.9) is not None:
        return [text]  # misspelt
    return parts


def _parse(flag: _Flag, text: str) -> Any:
    try:
        return parse_value(text)
    except ValueError as error:
        raise UsageError(f"--{flag.name} {text[:40]}...: {error}") from None


def _add(tree: ConfigDict, branch: Mapping[str, Any]) -> ConfigDict:
    """Adds a flag's value to those of the flags before it; nothing is replaced."""
    out = dict(tree)
    for key, value in branch.items():
        out[key] = _join(out[key], value) if key in out else value
    return out


def _join(first: Any, second: Any) -> Any:
    """What two flags of one field say together."""
    if isinstance(first, dict) or isinstance(second, dict):
        first, second = (_as_settings(value) for value in (first, second))
        if isinstance(first, dict) and isinstance(second, dict):
            return _add(first, second)
    before, after = (value if isinstance(value, list) else [value] for value in (first, second))
    return Repeated([*before, *after])


def _as_settings(value: Any) -> Any:
    """The table that a short form of it stands for: names of variants, or the weight of one."""
    is_weight = isinstance(value, int | float) and not isinstance(value, bool)
    return {"weight": value} if is_weight else as_choice(value)


def as_choice(value: Any) -> Any:
    """`"mlm"` stands for `{"mlm": {}}`, and `"mlm,nsp"` or a list for several."""
    names = value.split(",") if isinstance(value, str) else value
    return {name.strip(): {} for name in names} if isinstance(names, list | tuple) else value


def split_field(name: str) -> list[str]:
    """The parts of a dotted field name; a user's own file or class is one part, whatever dots it has.

    `objective.../my/distil.py.teacher` has the parts `objective`, `../my/distil.py` and `teacher`.
    """
    first, dot, rest = name.partition(".")
    parts = [first.replace("-", "_")]
    while dot:
        part = _FIELD.match(rest)
        assert part is not None  # the last alternative matches an empty name
        own = part[0].endswith(".py") or ":" in part[0]
        parts.append(part[0] if own else part[0].replace("-", "_"))
        dot, rest = rest[part.end() : part.end() + 1], rest[part.end() + 1 :]
    return parts
