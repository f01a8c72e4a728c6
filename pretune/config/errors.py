"""Says in plain words what is wrong with the values of a configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from pretune.config.field_names import FieldNames, options
from pretune.config.overrides import Repeated
from pretune.find import suggest

_EXPECTED: dict[str, str] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "a number below {lt}",
    "less_than_equal": "{le} or less",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table of fields",
    "model_type": "a table of fields",
    "model_attributes_type": "a table of fields",
    "string_too_long": "a text of {max_length} characters or fewer",
    "string_too_short": "a text of {min_length} characters or more",
    "too_long": "{max_length} values or fewer",
    "too_short": "{min_length} values or more",
}
"""What pydantic's types of errors expect; the rest of its messages are said as they are."""
_TAG = re.compile(r"(int|float|str|bool|(dict|list|tuple|set)\[.*\]|(constrained|lax|function|literal)-?.*|\w+Config)")


def explain(schema: type[BaseModel], problems: Iterable[ErrorDetails], names: FieldNames) -> Iterator[str]:
    """Yields a line for each field that is wrong: its name, its value and what is expected.

    Args:
        schema: of the whole configuration.
        names: of its fields.
    """
    expected: dict[str, list[str]] = {}
    for problem in problems:
        line, wanted = _line(schema, problem, names)
        expected.setdefault(line, []).extend([] if wanted is None else [wanted])
    for line, values in expected.items():
        yield f"{line}: expected {' or '.join(dict.fromkeys(values))}" if values else line


def _line(schema: type[BaseModel], problem: ErrorDetails, names: FieldNames) -> tuple[str, str | None]:
    """What is wrong, and what is expected instead where that is all there is to say."""
    path = _path(problem)
    field = _join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown field {field!r}; {_suggestion(schema, problem, path, names)}", None
    if problem["type"] == "missing":
        return f"field {field!r} is missing", None
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(repeated := problem.get("input"), Repeated):
        values = ", ".join(json.dumps(value, default=str) for value in repeated)
        count = len(repeated)
        return f"field {field!r} is given {count} times ({values}) and holds one value; leave the others out", None
    if not path:  # of the whole tree
        return message, None
    flag = names.flag(field)
    name = f"field {field!r}" if flag is None else f"field {field!r} ({flag})"
    is_whole = problem["type"] == "value_error" and isinstance(problem.get("input"), Mapping)  # fields do not fit
    start = name if is_whole else f"{name} = {_short(problem.get('input'))}"
    wanted = _EXPECTED.get(problem["type"])
    if wanted is None:
        return f"{start}: {message.replace('Input should be', 'expected')}", None
    return start, wanted.format_map({key: _plain(value) for key, value in problem.get("ctx", {}).items()})


def _path(problem: ErrorDetails) -> list[str | int]:
    """Where the value stands, without the names of the types that were tried."""
    path = list(problem["loc"])
    while len(path) > 1 and isinstance(path[-1], str) and _TAG.fullmatch(path[-1]):
        path.pop()
    return path


def _join(path: Iterable[str | int]) -> str:
    """`data.train[0]` of the parts of a path."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _suggestion(schema: type[BaseModel], problem: ErrorDetails, path: list[str | int], names: FieldNames) -> str:
    last = str(path[-1])
    if len(path) == 1 and last in names.short:
        return f"did you mean {names.short[last]!r}?"  # and not what is merely spelled alike
    known = problem.get("ctx", {}).get("fields") or known_fields(schema, [str(part) for part in path[:-1]])
    near = suggest(last, known)
    if near.startswith("known"):
        dotted = names.dotted(last)
        return near if dotted is None else f"did you mean {dotted!r}?"
    return near


def _short(value: object) -> str:
    try:
        text = json.dumps(value, default=str)
    except ValueError:  # a number of thousands of digits
        text = hex(value) if isinstance(value, int) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def known_fields(schema: type[BaseModel], path: list[str]) -> list[str]:
    """Field names of the configuration reached by walking `path` from `schema`; union members are tried in turn."""
    here: list[type[BaseModel]] = [schema]
    for name in path:
        flat = [o for c in here if name in c.model_fields for o in options(c.model_fields[name].annotation)]
        here = [o for o in flat if isinstance(o, type) and issubclass(o, BaseModel)] or here
    return sorted({field for c in here for field in c.model_fields})


def not_quoted(schema: type[BaseModel], tree: Mapping[str, Any]) -> str | None:
    """What is wrong where JSON holds a number or a truth value in quotes; None where nothing is."""
    for name, value in tree.items():
        field = schema.model_fields.get(name)
        if isinstance(value, str) and field is not None and not _takes_text(field.annotation):
            expected = "true or false" if field.annotation is bool else "a number"
            return f"field {name!r} = {json.dumps(value[:40])}: expected {expected}; write it without quotes"
    return None


def _takes_text(annotation: Any) -> bool:
    """Whether a field may hold a text; numbers and truth values are none."""
    return any(option not in (int, float, bool) for option in options(annotation))
