"""Recipes: TOML <-> typed configuration <-> `--a.b value`.

Each part of the code has its own `Config` class beside it; a recipe is a tree of them. Unknown keys, wrong types and
values out of range are refused with the field's name, the value and the nearest known key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_origin

import pydantic
import tomli_w
from pydantic import BaseModel, BeforeValidator, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from pretune.config.errors import explain, known_fields, not_quoted
from pretune.config.field_names import FieldNames, options, takes_switch
from pretune.config.overrides import as_choice, parse_overrides
from pretune.config.toml_text import ConfigDict, read_toml
from pretune.errors import UsageError

__all__ = [
    "Config",
    "ConfigDict",
    "FieldNames",
    "load",
    "merge",
    "names_of",
    "parse_overrides",
    "read_toml",
    "validate",
]
_MAX_PROBLEMS = 20  # that are said


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values do not change after reading."""

    SHORT_NAMES: ClassVar[Mapping[str, str]] = {}
    """Short names of fields on the command line, and the dotted names of the fields."""
    FOREIGN_NAMES: ClassVar[Mapping[str, str]] = {}
    """What other tools call a field, and our short or dotted name of it, which is suggested."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def variant_configs(cls, tree: Mapping[str, Any]) -> Mapping[str, type[BaseModel]]:
        """The configurations of the variants that a tree chooses, by the table that they are in."""
        return {}

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses true and false where a number or a text is expected."""
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and not _takes_bool(field.annotation):
            raise ValueError("expected a value; true and false are for switches")
        return value


def _takes_bool(annotation: Any) -> bool:
    """Whether a field may hold true or false, or a table or list that says itself what it holds."""
    return takes_switch(annotation) or any(get_origin(o) in (dict, list, tuple) for o in options(annotation))


Choice = dict[str, float | dict[str, Any]]
Choices = Annotated[Choice, BeforeValidator(as_choice)]
"""Variants of an axis by name, each with a weight or with its settings."""

C = TypeVar("C", bound=BaseModel)


def load(
    schema: type[C],
    path: Path | None = None,
    overrides: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
    name: str = "recipe",
) -> C:
    """Reads a recipe and lays `--a.b value` words over it.

    Args:
        schema: the class of the whole recipe.
        path: a TOML file, or None for defaults and overrides alone.
        overrides: command-line words: `--a.b value`, `--a.b=value`, `--flag`, `--no-flag`.
        base: values below the file's.
        name: what it is, for messages, where there is no file.

    Raises:
        MissingInputError: the file does not exist.
        UsageError: bad TOML (with line), unknown key (with the nearest one), value out of range.
    """
    tree: ConfigDict = merge(dict(base or {}), read_toml(path) if path else {})
    tree = merge(tree, parse_overrides(overrides, names_of(schema), tree))
    return validate(schema, tree, str(path) if path else name)


def names_of(schema: type[BaseModel], **tables: type[BaseModel]) -> FieldNames:
    """The names by which the fields of a configuration are set on the command line.

    Args:
        tables: other configurations beside it, each in a table.
    """
    names = FieldNames.of({"": schema, **tables})
    if not issubclass(schema, Config):
        return names
    return replace(
        names, short=schema.SHORT_NAMES, foreign=schema.FOREIGN_NAMES, variant_configs=schema.variant_configs
    )


def validate(schema: type[C], tree: Mapping[str, Any], where: str, *, is_json: bool = False) -> C:
    """Turns plain values into `schema`; all problems are in one UsageError, a line each.

    Args:
        is_json: the values come from JSON, in which a number in quotes is none.
    """
    if is_json and (problem := not_quoted(schema, tree)) is not None:
        raise UsageError(f"{where}: {problem}")
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        problems = error.errors()
    lines = [f"{where}: {line}" for line in explain(schema, problems[:_MAX_PROBLEMS], names_of(schema))]
    more = len(problems) - _MAX_PROBLEMS
    raise UsageError("\n".join(lines + ([f"{where}: {more:,} more problems like these"] if more > 0 else [])))


def validate_variant(schema: type[C], tree: Mapping[str, Any]) -> C:
    """Turns a part of a tree into the `schema` that it names, inside the validation of the whole tree.

    Raises:
        ValidationError: with the fields that `schema` has, for `validate` to explain what is unknown.
    """
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        problems = [_with_known_fields(schema, problem) for problem in error.errors()]
        raise ValidationError.from_exception_data(error.title, problems) from None


def _with_known_fields(schema: type[BaseModel], problem: ErrorDetails) -> InitErrorDetails:
    unknown, loc = problem["type"] == "extra_forbidden", problem["loc"]
    fields = {"fields": known_fields(schema, [str(part) for part in loc[:-1]])}
    type_ = PydanticCustomError("extra_forbidden", "unknown field", fields) if unknown else problem["type"]
    return {"type": type_, "loc": loc, "input": problem["input"], "ctx": problem.get("ctx", {})}


def to_toml(config: BaseModel) -> str:
    """Renders a configuration as TOML text."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def merge(base: ConfigDict, over: Mapping[str, Any]) -> ConfigDict:
    """Lays one tree over another; tables merge, everything else is replaced."""
    out = dict(base)
    for key, value in over.items():
        below = out.get(key)
        out[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return out


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a tree to `{"a.b": value}`, for comparing two recipes field by field."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out
