"""Says what is wrong with the words of a command line, with what to write instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cyclopts import App, ArgumentCollection, CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from pretune.config.field_names import item_type, options
from pretune.errors import UsageError
from pretune.find import nearest

_REMEDIES = {
    "--tokenizer": "make one first, as with: pretune tokenizer train TEXT --output tokenizer",
    "--model": "name the folder of a model, such as --model bert",
    "--output": "name what is to be written, such as --output out",
    "MODEL": "name the folder of a model first",
    "OUTPUT": "name what is to be written",
    "RUN": "name the directory of a run",
    "PATH": "name a file or a folder",
}
_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", Path: "the name of a file or folder"}


def usage_error(error: CycloptsError) -> UsageError:
    """The error of words that cyclopts could not read, in plain words."""
    verb = " ".join(error.command_chain or ())
    if isinstance(error, UnknownCommandError):
        return _unknown_verb(error)
    if isinstance(error, UnknownOptionError):
        return _unknown_flag(error, verb)
    if isinstance(error, MissingArgumentError):
        return _missing(error, verb)
    if isinstance(error, CoercionError):
        return _wrong_value(error)
    if isinstance(error, RepeatArgumentError):
        return UsageError(f"{error.token.keyword}: is given several times and holds one value; leave the others out")
    if isinstance(error, UnusedCliTokensError):
        words = error.unused_tokens or [""]
        return UsageError(f"{words[0]!r}: {verb} takes no further word; see pretune {verb} --help")
    error.verbose = False
    return UsageError(str(error))


def refuse_misread(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuses 2.5 where a whole number is expected, which cyclopts would round to 2, and an empty path.

    Raises:
        CoercionError: such a value.
    """
    for argument in arguments:
        types = options(argument.hint)
        is_path = Path in types or item_type(argument.hint) is Path
        for token in argument.tokens:
            if int in types and float not in types and "." in token.value:
                raise CoercionError(token=token, argument=argument, target_type=int)
            if is_path and token.value == "":  # Path("") is the working folder
                raise CoercionError(token=token, argument=argument, target_type=Path)


def _unknown_verb(error: UnknownCommandError) -> UsageError:
    word = (error.unused_tokens or [""])[0]
    if word.startswith("-"):
        return UsageError(f"{word}: give a verb before its flags; pretune --help lists the verbs")
    verbs = [name for name in _verbs(error.app) if not name.startswith("-")]
    close = nearest(word, verbs)
    if close is not None:
        return UsageError(f"{word}: no such verb; did you mean {close!r}?")
    return UsageError(f"{word}: no such verb; known: {', '.join(verbs)}")


def _verbs(app: App | None) -> list[str]:
    return [] if app is None else [name for name in app if app[name].show]


def _unknown_flag(error: UnknownOptionError, verb: str) -> UsageError:
    from pretune.train.short_names import FOREIGN_NAMES

    flag = (error.token.keyword or error.token.value or "").partition("=")[0]
    known = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    other = "--" + FOREIGN_NAMES.get(flag.lstrip("-").replace("-", "_"), "")
    close = other if other in known else nearest(flag, known)
    if close is not None:
        return UsageError(f"{flag}: {verb} has no such flag; did you mean {close}?")
    return UsageError(f"{flag}: {verb} has no such flag; pretune {verb} --help lists all of them")


def _missing(error: MissingArgumentError, verb: str) -> UsageError:
    assert error.argument is not None  # cyclopts says so itself
    name = error.argument.name if error.argument.name.startswith("-") else error.argument.name.upper()
    count, _ = error.argument.token_count()
    if count > 1 and error.keyword is not None:
        return UsageError(f"{error.keyword}: expected {count} values")
    if error.keyword is not None:
        return UsageError(
            f"{error.keyword}: expected a value; where the value begins with dashes, write {error.keyword}=VALUE"
        )
    given = [word.partition("=")[0] for word in error.root_input_tokens or () if word.startswith("--")]
    close = nearest(name, given, 0.75)
    if close is not None:
        return UsageError(f"{close}: {verb} has no such flag; did you mean {name}?")
    remedy = _REMEDIES.get(name, f"see pretune {verb} --help")
    return UsageError(f"{verb} needs {name}; {remedy}")


def _wrong_value(error: CoercionError) -> UsageError:
    token, argument = error.token, error.argument
    name = token.keyword if token is not None and token.keyword else argument.name if argument is not None else "value"
    value = f" {token.value}" if token is not None and token.value else ""
    return UsageError(f"{name}{value}: expected {_expected(error.target_type)}")


def _expected(target: Any) -> str:
    for option in options(target):
        if get_origin(option) is Literal:
            return _listed([str(choice) for choice in get_args(option)])
        if option in _EXPECTED:
            return _EXPECTED[option]
    return "another value"


def _listed(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
