"""Verbs that help with labelling: labels check, labels next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from pretune.cli.answers import WORKBOOK, AnswerRow, open_answers
from pretune.cli.data import GROUP, VERBS
from pretune.cli.inputs import NO_FLAGS, RowFlags, RowInputs, Rows, read_task_records
from pretune.cli.loading import load_model, unknown_said_once, written
from pretune.cli.outputs import check_output
from pretune.cli.session import DEFAULT, Common
from pretune.errors import UsageError
from pretune.wording import counted

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.labels.features import Embed
    from pretune.tasks.classification import ClassificationExample
    from pretune.text.readers.labelled import LabelledConfig
    from pretune.text.readers.records import Column, Record

_DIGITS = 4  # significant ones of a probability
_BRIEF = ("suggestion", "probability", "guess")  # what a terminal shows


def register(app: App) -> None:
    """Adds these verbs to the command line."""
    labels = App(
        name="labels",
        help="Find labels that are probably wrong, and texts to label next.",
        group=GROUP,
        group_commands=VERBS,
        sort_key=4,
    )
    labels.command(check, usage="pretune labels check FILE... [--flag VALUE]...")
    labels.command(choose, name="next", usage="pretune labels next FILE... [--labelled FILE] [--flag VALUE]...")
    app.command(labels)


def check(
    *data: Path,
    model: Path | None = None,
    rows: Rows = NO_FLAGS,
    label: str | None = None,
    second: str | None = None,
    folds: int = 5,
    top: int | None = None,
    seed: int = 0,
    session: Common = DEFAULT,
) -> None:
    """List labels that are probably wrong, the least probable first.

    Each text is judged by a classifier that did not learn from it (logistic regression, by cross-validation), and texts
    that stand twice with different labels come first.

    Args:
        data: labelled .csv, .tsv, .xlsx, .jsonl or .parquet files.
        model: folder of a model whose vectors describe the texts too; without one they are described by TF-IDF alone.
        label: column of the labels, "label" by default.
        second: column of the second texts of pairs.
        folds: parts of the rows, each of which is judged by a classifier of the others.
        top: list as many rows as this, whether their labels are probably wrong or not.
        seed: of the folds.
    """
    from_files, config = _inputs(data, rows, label, second)
    loaded = None if model is None else load_model(model, session)
    session.start()
    session.say(f"checking the labels of {', '.join(map(str, from_files.input))}")
    from pretune.labels.work import check_examples

    records, examples = _read(config, from_files)
    with unknown_said_once(loaded):
        issues = check_examples(examples, _embed(loaded), folds=folds, seed=seed, every_row=top is not None)
    inputs = RowInputs(_columns(config, needs_labels=True), config, from_files)
    _write(from_files, [records[int(str(issue["index"]))] for issue in issues[:top]], issues[:top], inputs)
    if top is None:
        session.say(f"probably wrong: {len(issues):,} of {counted(len(examples), 'label')}")
    written(session, rows.output)


def choose(
    *data: Path,
    labelled: tuple[Path, ...] = (),
    model: Path | None = None,
    rows: Rows = NO_FLAGS,
    label: str | None = None,
    second: str | None = None,
    count: int = 20,
    seed: int = 0,
    session: Common = DEFAULT,
) -> None:
    """List the texts that are worth labelling next, the least sure first.

    Of the texts on which a classifier of the labelled ones is least sure, those are chosen that differ from each other;
    without labelled ones, the most typical texts.

    Args:
        data: .txt, .csv, .tsv, .xlsx, .jsonl or .parquet files of texts without labels.
        labelled: files of texts that have labels.
        model: folder of a model whose vectors describe the texts too; without one they are described by TF-IDF alone.
        label: column of the labels, "label" by default.
        second: column of the second texts of pairs.
        count: how many texts.
        seed: of the clusters by which texts differ.
    """
    from_files, config = _inputs(data, rows, label, second)
    loaded = None if model is None else load_model(model, session)
    session.start()
    session.say(f"choosing texts to label of {', '.join(map(str, from_files.input))}")
    from pretune.labels.work import choose_examples

    known: Sequence[ClassificationExample] = ()
    if labelled:
        _, known = _read(config, replace(from_files, input=labelled))
    records, examples = _read(config, from_files, needs_labels=False)
    with unknown_said_once(loaded):
        chosen = choose_examples(examples, known, _embed(loaded), count=count, seed=seed)
    inputs = RowInputs(_columns(config, needs_labels=False), config, from_files)
    _write(from_files, [records[int(str(row["index"]))] for row in chosen], chosen, inputs)
    written(session, rows.output)
    if rows.output is not None:
        files = " ".join(shlex.quote(str(path)) for path in (*labelled, rows.output))
        session.say(f"next: fill in the column {config.label!r}, then train on {files}")


def _inputs(
    data: Sequence[Path], rows: RowFlags, label: str | None, second: str | None
) -> tuple[RowFlags, LabelledConfig]:
    """The flags with all files, and how these are read.

    Raises:
        UsageError: no file, or a column that would be read twice.
    """
    from pretune.config import validate
    from pretune.text.readers.labelled import LabelledConfig

    check_output(rows.output, WORKBOOK)
    files = (*data, *rows.input)
    if not files:
        raise UsageError("name a file of texts, such as train.csv")
    flags = {"text": rows.text, "label": label, "second": second, "id": rows.id, **rows.files.settings()}
    named = {name: value for name, value in flags.items() if value is not None}
    return replace(rows, input=files), validate(LabelledConfig, named, "columns")


def _columns(config: LabelledConfig, *, needs_labels: bool) -> list[Column]:
    from pretune.labels.work import reader

    return [column for column in reader(config).columns(needs_labels) if column.required]


def _read(
    config: LabelledConfig, rows: RowFlags, *, needs_labels: bool = True
) -> tuple[list[Record], list[ClassificationExample]]:
    """All records of the files, and the examples that they are."""
    from pretune.labels.work import reader

    task = reader(config)
    records = list(read_task_records(_columns(config, needs_labels=needs_labels), config, (), rows))
    return records, [task.read(record) for record in records]


def _embed(model: Model | None) -> Embed | None:
    return None if model is None else model.embed


def _write(
    rows: RowFlags, records: Sequence[Record], answers: Sequence[Mapping[str, object]], inputs: RowInputs
) -> None:
    """Writes rows beside what is said of them: where they stand, and no label that the row has itself."""
    with open_answers(rows.output, rows.as_json, _DIGITS) as writer:
        for record, answer in zip(records, answers, strict=True):
            fields = {name: value for name, value in answer.items() if name not in ("index", "label")}
            brief = {name: _short(value) for name, value in fields.items() if name in _BRIEF}
            line = {"line": record.origin.row, **brief}
            writer.write(AnswerRow(inputs.of(record), {"origin": str(record.origin), **fields}, inputs.shown, line))


def _short(value: object) -> object:
    return f"{value:.2f}" if isinstance(value, float) else value
