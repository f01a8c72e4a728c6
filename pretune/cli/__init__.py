"""The command line: its verbs call functions of the library. Nothing here imports torch until a verb needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group, Parameter

from pretune import __version__
from pretune.cli import augmentation, data, training, use
from pretune.cli.session import guard
from pretune.errors import UsageError

_HELP = """Take a language model through its whole life: text, tokenizer, pretraining, fine-tuning, use.

`pretune demo` shows all of it in a few minutes. `pretune VERB --help` explains a verb; training verbs read a recipe
(TOML), flags (`--optimizer.lr 3e-4`), or both."""

app = App(
    name="pretune",
    help=_HELP,
    version=__version__,
    version_flags=["--version"],
    default_parameter=Parameter(negative=""),
    group_commands=Group("Others", sort_key=9),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
data.register(app)
augmentation.register(app)
training.register(app)
use.register(app)


@app.command
def version() -> None:
    """Print the version of pretune."""
    print(__version__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    return guard(lambda: _dispatch(args), debug="--debug" in args)


def _dispatch(args: list[str]) -> int:
    try:
        app(args, exit_on_error=False)
    except CycloptsError:
        return UsageError.code
    if {"--help", "-h"} & set(args):
        from pretune.cli.fields import show_fields

        show_fields(args)
    return 0
