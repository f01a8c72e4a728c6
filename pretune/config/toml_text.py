"""Reads TOML as plain values, within bounds of size and depth."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pretune.errors import MissingInputError, UsageError
from pretune.missing_paths import near_path

ConfigDict = dict[str, Any]
MAX_DEPTH = 64  # of tables in tables; the parser's time grows with the square of it
_MAX_BYTES = 1 << 20  # of a TOML file
_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.){0,256}+"|'[^'\n]{0,256}+')"""  # longer ones are too few to cost time
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_DEPTH}}}")


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
        near = near_path(path)
        if near is not None:
            raise MissingInputError(f"{path}: no such recipe; did you mean {near!r}?") from None
        raise MissingInputError(f"{path}: no such recipe (working folder: {Path.cwd()})") from None
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"{path}: more than {_MAX_BYTES:,} bytes, which no recipe needs; is it the right file?")
    try:
        return _parse_toml(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


def parse_value(text: str) -> Any:
    """Parses one command-line value: TOML where it is TOML (numbers, booleans, lists), else the text itself.

    Raises:
        ValueError: nested too deep, or a number of thousands of digits.
    """
    try:
        return _parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _parse_toml(text: str) -> ConfigDict:
    """Parses TOML whose depth is bounded.

    Raises:
        ValueError: not TOML (with line and column), nested too deep, or a number of thousands of digits.
    """
    if (long := _LONG_KEY.search(text)) is not None:
        number = text.count("\n", 0, long.start()) + 1
        raise ValueError(f"a key of more than {MAX_DEPTH} parts (at line {number})")
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
