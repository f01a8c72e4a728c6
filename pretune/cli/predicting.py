"""The verb that predicts with a fine-tuned model: predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pretune.cli.adapters import NO_ADAPTERS, AdapterFlags, Adapters
from pretune.cli.answers import WORKBOOK, AnswerRow, open_answers
from pretune.cli.inputs import (
    NO_FLAGS,
    RowFlags,
    RowInputs,
    Rows,
    chunks,
    columns_of,
    read_task_records,
    refuse_column,
    say_columns,
    second_hint,
    split_texts,
)
from pretune.cli.label_choice import LabelChoice, thresholds_of
from pretune.cli.loading import OfBase, OfStep, digits_of, unknown_said_once, written
from pretune.cli.outputs import check_output
from pretune.cli.prompting import NO_PROMPT, ByPrompt, Prompting
from pretune.cli.session import DEFAULT, Common, Session
from pretune.errors import UsageError
from pretune.wording import listed

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.tasks.task import AnyTask
    from pretune.text.readers.labelled import LabelledConfig

Truncate = Literal["head", "tail", "head+tail", "windows", "error"]
Pairs = Annotated[tuple[tuple[str, str], ...], Parameter(show_default=False, allow_leading_hyphen=True)]


def predict(
    model: Path,
    /,
    *texts: str,
    rows: Rows = NO_FLAGS,
    pair: Pairs = (),
    second: str | None = None,
    third: str | None = None,
    task: str | None = None,
    top: int | None = None,
    threshold: float | None = None,
    truncate: Truncate | None = None,
    step: OfStep = None,
    base: OfBase = None,
    prompting: Prompting = NO_PROMPT,
    adapters: Adapters = NO_ADAPTERS,
    session: Common = DEFAULT,
) -> None:
    """Predict with a fine-tuned model's task, such as the label of a text with the probability of every label.

    With --labels or --prompt any language model answers, without fine-tuning.

    Prints a table on a terminal and one line of JSON per text in a pipe, or writes a file.

    Args:
        model: folder of a fine-tuned model.
        texts: texts to predict on, or files of texts; without any, standard input is read, one text per line.
        pair: two texts that belong together, in place of texts; may be given several times.
        second: column of the second texts in a file of pairs; by default as in training.
        third: column of the third texts in a file of triplets; by default as in training.
        task: which task, of a model that learned several; or several of them, such as intent,slots.
        top: only the most probable labels, as many as this, not the probability of all; or the best written texts.
        threshold: probability below which no label is given; without labels that exclude each other, all labels that
            are as probable.
        truncate: which part of a too long text is kept; windows reads all of it, error refuses it. By default as in
            training.
    """
    check_output(rows.output, WORKBOOK)
    choice = LabelChoice(top, threshold)
    options = prompting.options
    texts, rows = split_texts(texts, rows, session)
    if not rows.input:
        refuse_column("--second", second)
        refuse_column("--third", third)
    firsts, seconds = _texts_of_pairs(pair, texts, rows) if pair else (texts, ())
    loaded = adapters.load(model, session, rows, step, base)
    flags = {"text": rows.text, "second": second, "third": third, **rows.files.settings()}
    if options:
        flags = {name: value for name, value in flags.items() if value is not None}
        by_prompt = ByPrompt(loaded, prompting, options, flags, choice)
        by_prompt.predict(model, firsts, seconds, rows, task, truncate, session)
        written(session, rows.output)
        return
    if adapters.adapter_column is not None:
        _ByRow(loaded, adapters, flags, choice).predict(rows, task, truncate, session)
        written(session, rows.output)
        return
    _predict_tasks(loaded, model, firsts, seconds, rows, flags, task, truncate, choice, session)
    written(session, rows.output)


def _predict_tasks(
    loaded: Model,
    model: Path,
    firsts: Sequence[str],
    seconds: Sequence[str],
    rows: RowFlags,
    flags: Mapping[str, object],
    task: str | None,
    truncate: Truncate | None,
    choice: LabelChoice,
    session: Session,
) -> None:
    """Writes the answer of each row, by one task that the model learned or by several."""
    names = [None] if task is None else [name.strip() for name in task.split(",")]
    uses = [_TaskUse.of(loaded, n, flags, None if rows.input else seconds, truncate, choice.top) for n in names]
    config = uses[0].columns
    choices = [choice.of(use.task, is_named=len(uses) > 1) for use in uses]
    for use in uses:
        session.say(f"predicting {use.task.name} with {model}{_labels_of(use.task)}")
    columns = [column for use in uses for column in use.task.columns(needs_labels=False)]
    fields = list({column.name: column for column in columns if column.required}.values())
    read = [name for column in fields for name in (column.name, *column.alternatives)]
    say_columns(session, rows.input, config, [*read, rows.id], second_hint(columns))
    inputs, thresholds = RowInputs(fields, config, rows), thresholds_of(choices)
    with open_answers(rows.output, rows.as_json, digits_of(loaded)) as writer, unknown_said_once(loaded):
        for part in chunks(read_task_records(fields, config, firsts, rows, seconds)):
            predictions = [
                loaded.predict(part, truncate=truncate, columns=use.columns, task=use.settings) for use in uses
            ]
            for record, *answers in zip(part, *predictions, strict=True):
                answer, brief = _answer(uses, answers, choices)
                writer.write(AnswerRow(inputs.of(record), answer, inputs.shown, brief, thresholds))
    for each in choices:
        each.say(session)


@dataclass(frozen=True)
class _TaskUse:
    """A task that predicts.

    Attributes:
        columns: how it reads records.
        settings: its name, where there is one, and what is other than in its training.
    """

    task: AnyTask
    columns: LabelledConfig
    settings: str | Mapping[str, Mapping[str, Any]] | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        name: str | None,
        flags: Mapping[str, object],
        seconds: Sequence[str] | None,
        truncate: Truncate | None,
        top: int | None = None,
    ) -> _TaskUse:
        """The task of a name as flags say.

        Args:
            seconds: second texts among the arguments, perhaps none; None of rows of a file.
            top: how many of the best texts a task that writes gives.
        """
        columns = columns_of(model, flags, name)
        columns = columns if seconds is None else _columns_of_arguments(columns, seconds)
        task = model.task(name, columns=columns, truncate=truncate)
        if top is None or not hasattr(task.config, "n_best"):
            return cls(task, columns, name)
        recorded = model.metadata.task_of(name)
        key = name or (task.name if recorded is None else recorded.name)
        settings = {key: {"n_best": top, "beams": max(top, getattr(task.config, "beams", 1))}}
        return cls(model.task(settings, columns=columns, truncate=truncate), columns, settings)


@dataclass(frozen=True)
class _ByRow:
    """Predictions of the adapters that a column of a file names.

    Attributes:
        flags: how rows are read, laid over what each adapter's training says.
        choice: what is told of each prediction.
    """

    loaded: Model
    adapters: AdapterFlags
    flags: Mapping[str, object]
    choice: LabelChoice

    def predict(self, rows: RowFlags, task: str | None, truncate: Truncate | None, session: Session) -> None:
        """Writes the answer of each row, by the task of its adapter."""
        from pretune.adapted_model import AdaptedModel

        loaded, flags = self.loaded, {name: value for name, value in self.flags.items() if value is not None}
        assert isinstance(loaded, AdaptedModel)
        uses: dict[str | None, _TaskUse] = {
            name: _TaskUse.of(loaded.using(name), task, self.flags, None, truncate) for name in loaded.adapters
        }
        choices = {name: self.choice.of(use.task, is_named=False) for name, use in uses.items()}
        columns = [column for use in uses.values() for column in use.task.columns(needs_labels=False)]
        fields = list({column.name: column for column in columns if column.required}.values())
        config = next(iter(uses.values())).columns
        read = [name for column in fields for name in (column.name, *column.alternatives)]
        say_columns(session, rows.input, config, [*read, self.adapters.adapter_column, rows.id], second_hint(columns))
        inputs = RowInputs(fields, config, rows)
        with open_answers(rows.output, rows.as_json, digits_of(loaded)) as writer, unknown_said_once(loaded):
            for part in chunks(read_task_records(fields, config, (), rows)):
                names = self.adapters.names((record, record.origin) for record in part)
                answers = loaded.predict(part, truncate=truncate, columns=flags, task=task, adapter=names)
                for record, name, prediction in zip(part, names, answers, strict=True):
                    if name is None and None not in uses:
                        uses[None] = _TaskUse.of(loaded.using(None), task, self.flags, None, truncate)
                        choices[None] = self.choice.of(uses[None].task, is_named=False)
                    answer, brief = _answer([uses[name]], [prediction], [choices[name]])
                    thresholds = choices[name].thresholds
                    writer.write(AnswerRow(inputs.of(record), answer, inputs.shown, brief, thresholds))
        for each in choices.values():
            each.say(session)


def _answer(
    uses: Sequence[_TaskUse], predictions: Sequence[object], choices: Sequence[LabelChoice]
) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """The fields of an answer, of several tasks under their names; and what a terminal shows of it."""
    fields = [choice.fields(prediction) for choice, prediction in zip(choices, predictions, strict=True)]
    briefs = [use.task.brief(prediction) for use, prediction in zip(uses, predictions, strict=True)]
    if len(uses) == 1:
        return fields[0], briefs[0]
    shown = [
        AnswerRow({}, answer, (), brief, choice.thresholds).cells()
        for answer, brief, choice in zip(fields, briefs, choices, strict=True)
    ]
    return {use.task.name: answer for use, answer in zip(uses, fields, strict=True)}, {
        f"{use.task.name} {name}": value
        for use, cells in zip(uses, shown, strict=True)
        for name, value in cells.items()
    }


def _labels_of(task: AnyTask) -> str:
    """How many labels a task decides among, and the first of them."""
    labels: Sequence[str] = getattr(task, "labels", ())
    return f": {len(labels):,} labels ({listed(list(labels))})" if labels else ""


def _texts_of_pairs(
    pairs: Sequence[tuple[str, str]], texts: Sequence[str], rows: RowFlags
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first and the second texts of `--pair`.

    Raises:
        UsageError: texts or a file beside them.
    """
    if texts:
        raise UsageError(f"expected texts, such as {texts[0]!r}, or --pair, not both")
    if rows.input:
        raise UsageError(
            f"--pair would not be read beside the file {rows.input[0]}; name the column of the second texts with "
            "--second"
        )
    return tuple(first for first, _ in pairs), tuple(second for _, second in pairs)


def _columns_of_arguments(config: LabelledConfig, seconds: Sequence[str]) -> LabelledConfig:
    """The columns of texts that are not of a file: one, or two where second texts are given.

    Raises:
        UsageError: a model of pairs without second texts.
    """
    if config.second and not seconds:
        raise UsageError(
            f"this model was trained on pairs ({config.text!r} and {config.second!r}); give --pair TEXT TEXT for each "
            "pair, or a file with both columns"
        )
    second = config.second or "second"
    return config.model_copy(update={"second": second if seconds else None, "third": None})
