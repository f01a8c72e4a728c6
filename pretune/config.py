"""Recipes: TOML <-> typed configuration <-> `--a.b value`.

Each part of the code has its own `Config` class beside it; a recipe is a tree of them. Unknown keys, wrong types and
values out of range are refused with the field's name, the value and the nearest known key.
"""

from __future__ import annotations

import json
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic
import tomli_w
from pydantic import BaseModel, BeforeValidator, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from pretune.errors import MissingInputError, UsageError
from pretune.find import suggest

ConfigDict = dict[str, Any]
_MAX_BYTES = 1 << 20  # of a TOML file
_MAX_DEPTH = 64  # of tables in tables; the parser's time grows with the square of it
_MAX_PROBLEMS = 20  # that are said
_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.){0,256}+"|'[^'\n]{0,256}+')"""  # longer ones are too few to cost time
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_MAX_DEPTH}}}")


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values do not change after reading."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses true and false where a number is expected, such as `--optimizer.lr` without its value."""
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and not _takes_bool(field.annotation):
            raise ValueError("expected a value; a flag that stands alone is a switch")
        return value


class Repeated(list[Any]):
    """The values of a flag that is given several times: a list adds them up, another field refuses them."""


def _takes_bool(annotation: Any) -> bool:
    """Whether a field may hold true or false; numbers and texts are no switches."""
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_takes_bool(option) for option in get_args(annotation))
    if get_origin(annotation) is Literal:
        return any(isinstance(value, bool) for value in get_args(annotation))
    return annotation not in (int, float, str, type(None))


def _chosen(value: Any) -> Any:
    """`"mlm"` stands for `{"mlm": {}}`, and `"mlm,nsp"` or a list for several."""
    names = value.split(",") if isinstance(value, str) else value
    return {name.strip(): {} for name in names} if isinstance(names, list | tuple) else value


Choice = dict[str, float | dict[str, Any]]
Choices = Annotated[Choice, BeforeValidator(_chosen)]
"""Variants of an axis by name, each with a weight or with its settings."""

C = TypeVar("C", bound=BaseModel)


def load(
    schema: type[C], path: Path | None = None, overrides: Iterable[str] = (), base: Mapping[str, Any] | None = None
) -> C:
    """Reads a recipe and lays `--a.b value` words over it.

    Args:
        schema: the class of the whole recipe.
        path: a TOML file, or None for defaults and overrides alone.
        overrides: command-line words: `--a.b value`, `--a.b=value`, `--flag`, `--no-flag`.
        base: values below the file's.

    Raises:
        MissingInputError: the file does not exist.
        UsageError: bad TOML (with line), unknown key (with the nearest one), value out of range.
    """
    tree: ConfigDict = merge(dict(base or {}), read_toml(path) if path else {})
    tree = merge(tree, parse_overrides(overrides))
    return validate(schema, tree, str(path) if path else "recipe")


def validate(schema: type[C], tree: Mapping[str, Any], where: str, *, is_json: bool = False) -> C:
    """Turns plain values into `schema`; all problems are in one UsageError, a line each.

    Args:
        is_json: the values come from JSON, in which a number in quotes is none.
    """
    if is_json:
        _refuse_quoted(schema, tree, where)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        problems = error.errors()
    lines = [f"{where}: {line}" for line in dict.fromkeys(_explain(schema, each) for each in problems[:_MAX_PROBLEMS])]
    more = len(problems) - _MAX_PROBLEMS
    raise UsageError("\n".join(lines + ([f"{where}: {more:,} more problems like these"] if more > 0 else [])))


def _refuse_quoted(schema: type[BaseModel], tree: Mapping[str, Any], where: str) -> None:
    for name, value in tree.items():
        field = schema.model_fields.get(name)
        if isinstance(value, str) and field is not None and not _takes_text(field.annotation):
            shown, kind = json.dumps(value[:40]), "true or false" if field.annotation is bool else "a number"
            raise UsageError(f"{where}: field {name!r} = {shown}: expected {kind}; write it without quotes")


def _takes_text(annotation: Any) -> bool:
    """Whether a field may hold a text; numbers and truth values are none."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return any(option not in (int, float, bool, type(None)) for option in options)


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
    fields = {"fields": _known(schema, [str(part) for part in loc[:-1]])}
    type_ = PydanticCustomError("extra_forbidden", "unknown field", fields) if unknown else problem["type"]
    return {"type": type_, "loc": loc, "input": problem["input"], "ctx": problem.get("ctx", {})}


def read_toml(path: Path) -> ConfigDict:
    """Reads a TOML file as plain values.

    Raises:
        MissingInputError: the file does not exist.
        UsageError: too large, not UTF-8, not TOML, nested too deep.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such recipe") from None
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"{path}: more than {_MAX_BYTES:,} bytes, which no recipe needs; is it the right file?")
    try:
        return _parse_toml(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


def _parse_toml(text: str) -> ConfigDict:
    """Parses TOML whose depth is bounded.

    Raises:
        ValueError: not TOML (with line and column), nested too deep, or a number of thousands of digits.
    """
    if (long := _LONG_KEY.search(text)) is not None:
        number = text.count("\n", 0, long.start()) + 1
        raise ValueError(f"a key of more than {_MAX_DEPTH} parts (at line {number})")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deep; no field needs that") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # of int(), which says no place
        raise ValueError(
            f"a whole number that no field can hold; {str(error).rpartition(': ')[2].split(';')[0]}"
        ) from None


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


def parse_overrides(words: Iterable[str]) -> ConfigDict:
    """Parses `--optimizer.lr 3e-4 --no-resume` into a tree; values are read as TOML, else used as text.

    A flag that is given several times adds up: its values are a list, which only a field that holds one accepts, and
    settings of a variant are laid beside those that were named before (`--objective mlm,sop --objective.mlm.rate 0.3`).

    Raises:
        UsageError: a word that is neither a flag nor the value of one.
    """
    tree: ConfigDict = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise UsageError(f"{word!r}: expected --field value, such as --optimizer.lr 3e-4")
        name, equals, text = word[2:].partition("=")
        if equals or (queue and not queue[0].startswith("--")):
            value = _parse_flag(name, text if equals else queue.pop(0))
        else:
            value = not name.startswith("no-")
            name = name.removeprefix("no-")
        if name.count(".") > _MAX_DEPTH:
            raise UsageError(f"--{name[:40]}...: a field of more than {_MAX_DEPTH} parts; there is none")
        *parents, last = split_field(name)
        branch: ConfigDict = {last: value}
        for parent in reversed(parents):
            branch = {parent: branch}
        tree = _add(tree, branch)
    return tree


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
    return {"weight": value} if is_weight else _chosen(value)


_FIELD = re.compile(r"[^=]*?\.py(?::\w+)?(?=\.|$)|[\w.]+:\w+(?=\.|$)|[^.]*")


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


def parse_value(text: str) -> Any:
    """Parses one command-line value: TOML where it is TOML (numbers, booleans, lists), else the text itself.

    Raises:
        ValueError: nested too deep, or a number of thousands of digits.
    """
    try:
        return _parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _parse_flag(name: str, text: str) -> Any:
    try:
        return parse_value(text)
    except ValueError as error:
        raise UsageError(f"--{name} {text[:40]}...: {error}") from None


def _explain(schema: type[BaseModel], problem: ErrorDetails) -> str:
    path = [str(part) for part in problem["loc"]]
    field = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = problem.get("ctx", {}).get("fields") or _known(schema, path[:-1])
        return f"unknown field {field!r}; {suggest(path[-1], known)}"
    if problem["type"] == "missing":
        return f"field {field!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(repeated := problem.get("input"), Repeated):
        values = ", ".join(json.dumps(value, default=str) for value in repeated)
        return f"field {field!r} is given {len(repeated)} times ({values}) and holds one value; leave the others out"
    if not path:  # of the whole tree
        return message
    try:
        value = json.dumps(problem.get("input"), default=str)
    except ValueError:  # a number of thousands of digits
        value = hex(problem["input"]) if isinstance(problem["input"], int) else type(problem["input"]).__name__
    short = value if len(value) <= 60 else value[:57] + "..."
    return f"field {field!r} = {short}: {message}"


def _known(schema: type[BaseModel], path: list[str]) -> list[str]:
    """Field names of the configuration reached by walking `path` from `schema`; union members are tried in turn."""
    here: list[type[BaseModel]] = [schema]
    for name in path:
        options = [c.model_fields[name].annotation for c in here if name in c.model_fields]
        flat = [a for option in options for a in (get_args(option) or (option,))]
        below = [a for a in flat if isinstance(a, type) and issubclass(a, BaseModel)]
        here = below or here
    return sorted({field for c in here for field in c.model_fields})
