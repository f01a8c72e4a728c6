"""Makes a recipe of what a Python call says: a recipe or a file, and fields by their short, dotted or last names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from pretune.config import ConfigDict, merge, names_of, read_toml, validate
from pretune.config.field_names import FieldNames
from pretune.config.overrides import split_field
from pretune.errors import UsageError
from pretune.text.readers.labelled import NamedData
from pretune.text.readers.memory import is_path
from pretune.train.recipe import Recipe

RecipeLike: TypeAlias = Recipe | Path | str | Mapping[str, Any]
"""A typed recipe, a TOML file, or plain values."""


@dataclass(frozen=True)
class Call:
    """A recipe, and the rows in memory that stand for its files.

    Attributes:
        train, validation: None where the recipe names files, or nothing.
    """

    recipe: Recipe
    train: NamedData | None = None
    validation: NamedData | None = None


def read_call(
    recipe: RecipeLike | None, train: NamedData | None, validation: NamedData | None, fields: Mapping[str, object]
) -> Call:
    """Lays the fields of a call over a recipe; rows may stand in it where files may.

    Args:
        train, validation: files, which the recipe then names, or rows in memory.
        fields: by name: `lr`, `dropout`, `optimizer.lr`, or `optimizer` with a table.

    Raises:
        UsageError: a name that no field has, or that several end in; a value that does not fit.
        MissingInputError: no such recipe.
    """
    rows: dict[str, Any] = {"train": train, "validation": validation}
    if isinstance(recipe, Recipe) and not fields and not any(is_path(data) for data in rows.values()):
        return Call(recipe, *(_kept(data) for data in rows.values()))
    tree = _tree(recipe)
    tree = merge(tree, _keywords(fields, tree))
    data = tree.get("data")
    for name, passed in rows.items():
        value = passed
        if isinstance(data, dict) and name in data and not is_path(data[name]):
            inside = data.pop(name)  # rows, where a recipe names files
            value = inside if passed is None else passed
        if value is not None and is_path(value):
            tree = merge(tree, {"data": {name: [str(path) for path in value] if _is_several(value) else str(value)}})
            data, value = tree["data"], None
        rows[name] = value
    return Call(validate(Recipe, tree, "recipe"), *(_kept(value) for value in rows.values()))


def _tree(recipe: RecipeLike | None) -> ConfigDict:
    if recipe is None:
        return {}
    if isinstance(recipe, str | Path):
        if Path(recipe).is_dir():
            raise UsageError(f"{recipe}: a folder and no recipe; name a model as model={str(recipe)!r}")
        return read_toml(Path(recipe))
    if not isinstance(recipe, Recipe | Mapping):
        type_name = type(recipe).__name__
        raise UsageError(f"recipe: expected a TOML file or plain values, got {type_name}; give rows as train=...")
    tree = _values_of(recipe) if isinstance(recipe, Recipe) else dict(recipe)
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in tree.items()}


def _values_of(recipe: Recipe) -> ConfigDict:
    """A typed recipe as plain values, but for its defaults: a field of the call may be in place of one of these."""
    tree = recipe.model_dump(mode="json")
    chosen: ConfigDict = {axis: tree[axis] for axis in ("objective", "task", "tune")}
    chosen["optimizer"] = {"name": tree["optimizer"]["name"]}
    default = validate(Recipe, chosen, "recipe").model_dump(mode="json")
    is_default_budget = tree["budget"] == default["budget"]
    budget = {} if is_default_budget else {unit: value for unit, value in tree["budget"].items() if value is not None}
    values = merge(chosen, _differences({**tree, "budget": default["budget"]}, default))
    return merge(values, {"budget": budget}) if budget else values


def _differences(tree: Mapping[str, Any], default: Mapping[str, Any]) -> ConfigDict:
    """The values of a tree that are not those of another; None is one, too."""
    out = ConfigDict()
    for name, value in tree.items():
        if isinstance(value, Mapping) and isinstance(known := default.get(name), Mapping):
            out |= {name: inner} if (inner := _differences(value, known)) else {}
        elif name not in default or value != default[name]:
            out[name] = value
    return out


def _keywords(fields: Mapping[str, object], base: ConfigDict) -> ConfigDict:
    """The fields of a call as a tree; those of a variant, such as `label_smoothing`, are known once it is chosen."""
    names, tree, unknown = names_of(Recipe), ConfigDict(), dict[str, object]()
    set_by: dict[str, str] = {}
    for name, value in fields.items():
        if value is None:  # as if it were not given
            continue
        dotted = _find(name, value, names)
        if dotted is None:
            unknown[name] = value
        elif (other := set_by.setdefault(dotted, name)) != name:
            raise UsageError(f"{other} and {name} are both {dotted}; leave one out")
        else:
            tree = merge(tree, _branch(dotted, value))
    if unknown:
        names = names.with_variants(merge(base, tree))
    for name, value in unknown.items():
        dotted = _find(name, value, names)
        if dotted is None:
            hint = names.suggest(name)
            remedy = f"did you mean {hint.lstrip('-')}?" if hint else "pretune finetune --help-all lists all of them"
            raise UsageError(f"{name} = {str(value)[:40]!r}: there is no such field; {remedy}")
        tree = merge(tree, _branch(dotted, value))
    return tree


def _find(name: str, value: object, names: FieldNames) -> str | None:
    """The dotted name of a field; of a table, where the value is one."""
    if isinstance(value, Mapping):
        section = [each for each in names.sections if each == name or each.endswith(f".{name}")]
        if len(section) == 1:
            return section[0]
    return names.find(name)


def _branch(dotted: str, value: object) -> ConfigDict:
    tree: object = _plain(value)
    for part in reversed(split_field(dotted)):
        tree = {part: tree}
    return cast("ConfigDict", tree)


def _plain(value: object) -> object:
    """A value as TOML would hold it: a path as text, a number of numpy as one of Python."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _is_several(data: object) -> bool:
    return isinstance(data, list | tuple)


def _kept(data: NamedData | None) -> NamedData | None:
    """Rows that can be read more than once."""
    return list(data) if isinstance(data, Iterator) else data
