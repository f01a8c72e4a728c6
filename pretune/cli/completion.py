"""Installs shell completion of verbs, flags, variants and paths.

cyclopts writes the scripts from an app. The verbs that read fields of a configuration take them as plain words there;
here they stand beside verbs of the same name that name every flag, so that a shell completes them without starting
Python.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from pretune.cli.help import VERBS, chosen_axes, fields_of, short_names
from pretune.cli.variant_files import FieldEntry
from pretune.errors import UsageError

Shell = Literal["bash", "zsh", "fish", "powershell"]
_PATHS = ("model.init", "data.train", "data.validation", "data.stores", "data.tokenizer", "output")
_TYPES: Mapping[str, Any] = {"INTEGER": int, "NUMBER": float, "BOOLEAN": bool}


def install(app: App, shell: Shell | None, output: Path | None) -> tuple[Shell, Path]:
    """Writes the script and has the shell load it.

    Args:
        app: the command line.
        shell: by default the one that runs.
        output: file of the script; by default where the shell looks for one.

    Raises:
        UsageError: the shell is unknown.
    """
    from cyclopts.completion import detect_shell
    from cyclopts.completion.detect import ShellDetectionError

    try:
        chosen: Shell = shell or detect_shell()
    except ShellDetectionError:
        raise UsageError("cannot tell which shell this is; name it, such as --shell bash") from None
    return chosen, named_app(app).install_completion(shell=chosen, output=output, add_to_startup=output is None)


def named_app(app: App, group: str = "", verbs: Sequence[str] = ()) -> App:
    """An app with the verbs of another, whose flags all have names.

    Args:
        group: of verbs, such as tokenizer.
        verbs: that there are to explain; by default those of the app.
    """
    out = App(name=app.name[0], help_flags=app.help_flags, version_flags=app.version_flags, help=app.help)
    for name in app:
        below, verb = app[name], f"{group} {name}".strip()
        if name.startswith("-"):
            continue
        if below.default_command is None:
            out.command(named_app(below, verb, list(app)), name=name)
            continue
        out.command(
            _named(verb, below.default_command, verbs or list(app)), name=name, help=below.help, sort_key=below.sort_key
        )
    return out


def _named(verb: str, function: Callable[..., Any], verbs: Sequence[str]) -> Callable[..., None]:
    """A function with the flags of a verb in its signature."""

    def stand_in(*args: object, **flags: object) -> None:
        """Does nothing: a shell reads its flags."""

    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    taken = {parameter.name for parameter in parameters}
    names = _names() if verb == "show" else [name for name in verbs if not name.startswith("-")]
    annotation = _literal(names) if verb in ("show", "help") else Path
    words = [
        _positional(parameter, annotation) for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY
    ]
    flags = [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    signature = inspect.Signature([*words, *flags, *_field_flags(verb, taken)])
    stand_in.__signature__ = signature  # type: ignore[attr-defined]
    stand_in.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return stand_in


def _positional(parameter: inspect.Parameter, annotation: Any) -> inspect.Parameter:
    """A word before the flags: one of the names that a verb knows, else a file or folder."""
    return parameter.replace(annotation=annotation) if parameter.kind is parameter.VAR_POSITIONAL else parameter


def _names() -> list[str]:
    """What `pretune show` can show."""
    from pretune.cli.lists import AXES, LISTS
    from pretune.find import variants

    return sorted({*LISTS, *(name for axis, _ in AXES.values() for name in variants(axis))})


def _field_flags(verb: str, taken: set[str]) -> Iterator[inspect.Parameter]:
    """The fields of a verb's configuration as flags, by their short and their dotted names."""
    configured = VERBS.get(verb)
    if configured is None:
        return
    short = short_names(configured)
    axes = chosen_axes()
    for entry in fields_of(verb, configured):
        for flag in dict.fromkeys((short.get(entry.name), entry.name)):
            name = "" if flag is None else flag.replace(".", "__")
            if not flag or name in taken or not name.isidentifier():
                continue
            taken.add(name)
            parameter = Parameter(name=f"--{flag}", help=entry.meaning, negative="")
            annotation = _subscript(Annotated, _type(entry, axes), parameter)
            yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _type(entry: FieldEntry, axes: Mapping[str, list[str]]) -> Any:
    if entry.name in axes:
        return _literal(axes[entry.name])
    if entry.name in _PATHS:
        return Path
    return (
        _literal(entry.type.split("|")) if "|" in entry.type and " " not in entry.type else _TYPES.get(entry.type, str)
    )


def _literal(names: Sequence[str]) -> Any:
    """The type of one of some names."""
    return _subscript(Literal, *names)


def _subscript(form: Any, *arguments: object) -> Any:
    """A type of a form that is only known here, such as `Literal["a", "b"]`."""
    return form[arguments]
