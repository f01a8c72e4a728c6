"""The verb that augments a labelled file: augment."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from pretune.cli.data import GROUP, split_args
from pretune.cli.loading import load_model, unknown_said_once
from pretune.cli.outputs import check_output, open_rows
from pretune.cli.session import DEFAULT, Args, Common, Session
from pretune.errors import UsageError
from pretune.wording import counted

if TYPE_CHECKING:
    from pretune.augment.augmenter import Tools
    from pretune.text.readers.labelled import LabelledConfig, LabelledText


def register(app: App) -> None:
    """Adds this verb to the command line."""
    usage = "pretune augment FILE... --methods NAME,... --output FILE [--flag VALUE]..."
    app.command(augment, group=GROUP, sort_key=3, usage=usage)


def augment(
    *args: Args,
    output: Path,
    config: Path | None = None,
    model: Path | None = None,
    there: Path | None = None,
    back: Path | None = None,
    text: str | None = None,
    second: str | None = None,
    label: str | None = None,
    id: str | None = None,
    columns: str | None = None,
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
        text: column of the texts, "text" by default.
        second: column of the second texts of pairs.
        label: column of the labels, "label" by default.
        id: column that is written with each row that is made of its row, as "id".
        columns: names of all columns of a file without a header row, such as id,text,label.
    """
    session.start()
    check_output(output)
    paths, fields = split_args(args)
    session.say(f"augmenting {', '.join(paths)} -> {output}")
    from pretune import config as configuration
    from pretune.augment.augmenter import build
    from pretune.augment.files import AugmentConfig, AugmentStats, augment_examples

    header = None if columns is None else [name.strip() for name in columns.split(",")]
    flags = {"text": text, "second": second, "label": label, "id": id, "columns": header}
    named = {name: value for name, value in flags.items() if value is not None}
    settings = configuration.load(AugmentConfig, config, [*fields, *_as_fields(named)], name="augment")
    tools = _tools(model, there, back, session)
    methods = build(settings.methods, tools)
    examples, ids = _read(paths, settings.columns)
    copies = counted(settings.copies, "copy", "copies")
    session.say(f"{copies} of each of {counted(len(examples), 'row')} by {', '.join(settings.methods)}")
    stats = AugmentStats()
    read = settings.columns
    others = [read.second] if read.second else ["second"] if settings.pairs else []
    names = [read.text, *others, read.label, "method", "origin"]
    names = ["id", *names] if ids else names
    with open_rows(output, names) as writer, unknown_said_once(*tools.models):
        for row in augment_examples(examples, methods, settings, stats):
            writer.write({"id": ids[stats.rows - 1], **row} if ids else row)
    session.say(f"{stats.summary()}\nwritten: {output}")
    train = shlex.join([str(output), *_columns_written(read.text, read.label, others)])
    session.say(f"next: pretune finetune --task classification --model MODEL --train {train} --output classifier")


def _columns_written(text: str, label: str, others: Sequence[str]) -> list[str]:
    """The flags that name the columns of what was written, where they have other names than by default."""
    named = {"--text": text if text != "text" else "", "--label": label if label != "label" else ""}
    named["--second"] = next(iter(others), "")
    return [word for flag, name in named.items() if name for word in (flag, name)]


def _as_fields(columns: Mapping[str, str | list[str]]) -> list[str]:
    """The flags that name columns, as fields."""
    return [arg for name, value in columns.items() for arg in (f"--columns.{name}", json.dumps(value))]


def _read(paths: Sequence[str], config: LabelledConfig) -> tuple[list[LabelledText], list[object]]:
    """The labelled texts of files, and the ids of their rows where a column holds them."""
    from pretune.text.readers.labelled import LabelledText, read_records
    from pretune.text.readers.records import Column

    columns = [*config.text_columns(), Column(config.label, "columns.label", required=False)]
    columns += [] if config.id is None else [Column(config.id, "columns.id")]
    records = list(read_records(paths, columns, config, needs_labels=False, every_line=True))
    ids = [] if config.id is None else [record[config.id] for record in records]
    return [LabelledText.read(record, config) for record in records], ids


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
