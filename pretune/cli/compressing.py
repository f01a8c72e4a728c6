"""The verb that makes a model smaller or faster: compress."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretune.cli.session import DEFAULT, Args, Common, Session
from pretune.errors import UsageError

if TYPE_CHECKING:
    from pretune.table import Table
    from pretune.train.compression.recipe import CompressRecipe

USAGE = "pretune compress METHOD MODEL --output FOLDER [--flag VALUE]..."


def compress(*args: Args, session: Common = DEFAULT) -> None:
    """Make a model smaller or faster: quantize, prune, distil.

    quantize rounds the weights to `--format` bf16, int8, q8_0 or q4_0, with `--values` chosen by rtn, imatrix, gptq,
    awq or hqq. prune removes layers, heads, inner width or single weights. distil trains a smaller model on the answers
    of a larger one. Further flags are fields of the method, or of a training run that follows it. A recipe with
    `[[compress]]` tables runs several steps in order.

    Texts of `--calibration` decide which values matter. Texts or labelled data of `--evaluate` measure the model before
    and after. The result is a folder as every other, with `compression.json` and a report.

    Args:
        args: METHOD MODEL, or RECIPE.toml; then --field value.
    """
    session.start()
    recipe = read_recipe(args, session)
    methods = " | ".join(step.method for step in recipe.steps)
    session.say(f"compressing {recipe.model}: {methods} -> {recipe.output}")
    from pretune.report.compression import write_page
    from pretune.train.compression.run import compress as run

    record = run(recipe)
    page = write_page(Path(recipe.output))
    session.say(summary(record).text(width=shutil.get_terminal_size().columns))
    if not record["after"]["scores"]:
        session.say("no held-out data: what it costs was not measured; name some with --evaluate")
    session.say(f"report: {page}")
    session.say(f"next:\n  {next_command(record, recipe.output)}")


def read_recipe(args: Sequence[str], session: Session) -> CompressRecipe:
    """Reads a recipe from the words of a command line: METHOD MODEL or a file first, then flags.

    Raises:
        UsageError: no model, an unknown method or flag, or a value that does not fit.
        MissingInputError: no such recipe.
    """
    from pretune import config
    from pretune.train.compression.recipe import CompressRecipe, read_words

    count = next((n for n, word in enumerate(args) if word.startswith("-")), len(args))
    first, flags = list(args[:count]), [*args[count:], *_flags(session)]
    if len(first) == 1 and first[0].endswith(".toml"):
        return config.load(CompressRecipe, Path(first[0]), flags)
    if len(first) != 2:
        raise UsageError(
            f"compress: expected METHOD MODEL, such as: {USAGE.replace('METHOD MODEL', 'quantize bert')}; or a recipe "
            "(a .toml file)"
        )
    method, model = first
    return read_words(method, model, flags)


def _flags(session: Session) -> list[str]:
    """The common flags that are fields of a compression too."""
    flags = [] if session.device is None else ["--device", session.device]
    flags += [] if session.precision is None else ["--precision", session.precision]
    return flags + ([] if session.threads is None else ["--threads", str(session.threads)])


def summary(record: Mapping[str, Any]) -> Table:
    """Size, speed and scores before and after, as a table."""
    from pretune.report.compression import comparison
    from pretune.table import Table

    return Table(["", "before", "after", "change"], comparison(record, is_brief=True))


def next_command(record: Mapping[str, Any], output: str) -> str:
    """A command that uses the result."""
    folder = shlex.quote(output)
    if "generate" in record["able"]:
        return f'pretune generate {folder} "a prompt"'
    if "classify" in record["able"]:
        return f'pretune predict {folder} "a text"'
    return f'pretune embed {folder} "a text"'
