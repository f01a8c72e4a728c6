"""The verb that augments a labelled file: augment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from pretune.cli.data import GROUP, split_args
from pretune.cli.loading import load_model, unknown_said_once
from pretune.cli.outputs import check_name, open_rows
from pretune.cli.session import DEFAULT, Args, Common, Session
from pretune.errors import CannotCreateError, UsageError

if TYPE_CHECKING:
    from pretune.augment.augmenter import Tools


def register(app: App) -> None:
    """Adds this verb to the command line."""
    app.command(augment, group=GROUP, sort_key=3)


def augment(
    *args: Args,
    output: Path,
    config: Path | None = None,
    model: Path | None = None,
    there: Path | None = None,
    back: Path | None = None,
    session: Common = DEFAULT,
) -> None:
    """Augment a labelled file: write new texts with the labels of the old ones, as JSONL, CSV or TSV.

    Methods: deletion, insertion, noise, substitution, swap, synonym, translation.

    Args:
        args: FILE... --methods swap,deletion [--field value]...: labelled files, then fields such as --copies 4 and
            --methods.synonym.list synonyms.tsv.
        output: file to write: .csv or .tsv for a table, else lines of JSON.
        config: TOML file of fields; fields of the command line override it.
        model: folder of a masked language model, for substitution.
        there: folder of an encoder-decoder that translates into another language, for back-translation.
        back: folder of an encoder-decoder that translates back.
    """
    session.start()
    from pretune import config as configuration
    from pretune.augment.augmenter import build
    from pretune.augment.files import AugmentConfig, AugmentStats, augment_examples
    from pretune.text.readers.labelled import read_labelled

    check_name(output)
    paths, fields = split_args(args)
    settings = configuration.load(AugmentConfig, config, fields)
    if output.exists():
        raise CannotCreateError(f"{output}: exists already; remove it, or give another --output")
    tools = _tools(model, there, back, session)
    methods = build(settings.methods, tools)
    examples = read_labelled(paths, settings.columns, needs_labels=False, every_line=True)
    session.say(f"{settings.copies} copies of each of {len(examples):,} rows by {', '.join(settings.methods)}")
    stats = AugmentStats()
    columns = settings.columns
    second = columns.second_column or ("second" if settings.pairs else None)
    names = [columns.text_column, *([second] if second else []), columns.label_column, "method", "origin"]
    with open_rows(output, names) as writer, unknown_said_once(*tools.models):
        for row in augment_examples(examples, methods, settings, stats):
            writer.write(row)
    session.say(f"{stats.summary()}\nwritten: {output}")
    session.say(
        f"next: pretune finetune --task classification --model.init MODEL --data.train {output} --budget.epochs 3"
    )


def _tools(model: Path | None, there: Path | None, back: Path | None, session: Session) -> Tools:
    """Loads the models that methods use."""
    if (there is None) != (back is None):
        raise UsageError("back-translation needs two models: give both --there and --back")
    if model is None and there is None:
        from pretune.augment.augmenter import Tools

        return Tools()
    from pretune.augment.models import ModelTools

    masked, first, second = (None if path is None else load_model(path, session) for path in (model, there, back))
    return ModelTools(masked, first, second)
