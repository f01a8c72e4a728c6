"""The verb that evaluates a model: evaluate."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pretune.cli.answers import WORKBOOK, AnswerRow, is_terminal, open_answers
from pretune.cli.inputs import NO_FILE_FLAGS, Files, columns_of, say_columns, second_hint
from pretune.cli.loading import OfBase, OfStep, digits_of, load_model, unknown_said_once, written
from pretune.cli.outputs import check_output, open_output, suffix_of
from pretune.cli.predicting import Truncate
from pretune.cli.session import DEFAULT, Common, Session
from pretune.errors import UsageError
from pretune.table import round_digits
from pretune.wording import counted

if TYPE_CHECKING:
    from pretune.api import Evaluation, Model
    from pretune.text.readers.labelled import LabelledConfig

_DIGITS = 7  # significant ones of a score


def evaluate(
    model: Path,
    data: Path | None = None,
    /,
    *,
    text: str | None = None,
    label: str | None = None,
    second: str | None = None,
    third: str | None = None,
    target: str | None = None,
    files: Files = NO_FILE_FLAGS,
    output: Path | None = None,
    errors: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    task: str | None = None,
    truncate: Truncate | None = None,
    objective: str | None = None,
    split: Literal["validation", "train"] = "validation",
    length: int | None = None,
    pack: Literal["stream", "document"] | None = None,
    step: OfStep = None,
    base: OfBase = None,
    session: Common = DEFAULT,
) -> None:
    """Evaluate a model on a labelled file or a token store.

    Prints a task's scores, those of each label and the confusion matrix, or the loss, perplexity and accuracy of each
    objective on the store's held-out split: as tables on a terminal, as JSON in a pipe.

    Args:
        model: folder of a model.
        data: a labelled .csv, .tsv, .xlsx, .jsonl or .parquet file, or a store made by `pretune prepare`; by default
            what the run that made the model was validated on, such as the rows that it held out.
        text: column of the texts in a labelled file; by default, like the columns below, as in training.
        label: column of the labels in a labelled file.
        second: column of the second texts in a labelled file of pairs.
        third: column of the third texts in a labelled file of triplets.
        target: column of the texts that are to be written, or several, such as summary1,summary2.
        output: file to write the scores to as well, as JSON.
        errors: file to write the examples with a wrong prediction to, the most confident first: .csv, .tsv, .xlsx or
            .jsonl.
        as_json: print JSON on a terminal too.
        task: task of a labelled file, such as classification, or similarity, whose labels say how alike two texts are;
            or which of several tasks that the model learned.
        truncate: which part of a too long text is kept; windows reads all of it, error refuses it. By default as in
            training.
        objective: what to evaluate on a store, such as "span" or "mlm,sop"; by default those that it was trained on.
        split: split of a store.
        length: tokens per window of a store.
        pack: how documents of a store are packed into windows.
    """
    _check_outputs(output, errors)
    session.say(f"evaluating {model} on {'its validation data' if data is None else data}")
    loaded = load_model(model, session, step=step, base=base)
    flags = {"text": text, "label": label, "second": second, "third": third, "target": target, **files.settings()}
    config = columns_of(loaded, flags, task) if any(value is not None for value in flags.values()) else None
    if data is not None:
        _check_data(session, loaded, data, config, task, errors)
        _warn_of_training(session, model, data)
    chosen = None if objective is None else {name.strip(): 1.0 for name in objective.split(",")}
    options: dict[str, Any] = {"task": task, "truncate": truncate, "objective": chosen, "length": length, "pack": pack}
    with unknown_said_once(loaded):
        if data is None:
            of_store = {"split": None if split == "validation" else split}
            scores = _validation_scores(loaded, model, {**flags, **options, **of_store})
        else:
            scores = loaded.evaluate(data, columns=config, split=split, **options)
    _show(scores, as_json)
    _save(session, scores, loaded, output, errors)


def _save(session: Session, scores: Evaluation, loaded: Model, output: Path | None, errors: Path | None) -> None:
    """Writes scores and mistakes to the files that were asked for; says how many mistakes there are otherwise."""
    if output is not None:
        with open_output(output) as file:
            file.write(_as_json(scores) + "\n")
        written(session, output)
    if errors is not None and not any(scores.confusion.values()):
        raise UsageError(f"--errors {errors}: these predictions are no labels that are right or wrong; leave it out")
    if errors is not None:
        _write_errors(errors, scores, loaded)
        written(session, errors)
    elif scores.mistakes:
        session.say(
            f"wrong: {len(scores.mistakes):,} of {counted(len(scores.examples), 'example')}; to read them: --errors "
            "errors.csv"
        )


def _check_data(
    session: Session, model: Model, data: Path, config: LabelledConfig | None, task: str | None, errors: Path | None
) -> None:
    """Says which columns of labelled data are read.

    Raises:
        UsageError: `--errors` of what is neither right nor wrong.
    """
    if (data / "manifest.json").is_file():
        if errors is not None:
            raise UsageError(f"--errors {errors}: a token store has no labels that are right or wrong; leave it out")
        return
    judge = model.task(task, columns=config)
    if errors is not None and (judge.score_labels or not getattr(judge, "labels", ())):
        raise UsageError(f"--errors {errors}: predictions of {judge.name} are no labels that are right or wrong")
    columns = judge.columns(needs_labels=not judge.scores_unlabelled)
    read = [column.name for column in columns]
    say_columns(session, [data], config or columns_of(model, {}, task), read, second_hint(columns))


def _warn_of_training(session: Session, model: Path, data: Path) -> None:
    from pretune.train.run_data import trained_on_note

    if note := trained_on_note(model, data):
        session.say(note)


def _validation_scores(model: Model, folder: Path, options: Mapping[str, Any]) -> Evaluation:
    """The scores of a run's model on what the run was validated on.

    Raises:
        UsageError: an option, which could only be obeyed on other data.
    """
    from pretune.evaluate.engine import join_scores
    from pretune.evaluate.labelled import evaluate_examples, refuse_unused
    from pretune.evaluate.results import Evaluation
    from pretune.train.run_data import validation_of_run

    chosen = options["task"] if options["task"] in (model.metadata.tasks or ()) else None
    unused = {name: value or None for name, value in options.items() if name != "task" or chosen is None}
    refuse_unused("the validation data of a run", unused)
    tasks = validation_of_run(folder, model.tokenizer)
    recorded = model.metadata.tasks or {}  # a task as its files have it knows what was decided after training
    scores = {
        task.name: evaluate_examples(
            model.network,
            model.tokenizer,
            model.task(task.name if task.name in recorded else None),
            examples,
            model.length,
        )
        for task, examples in tasks
        if chosen is None or task.name == chosen
    }
    if len(tasks) == 1 or chosen is not None:
        return next(iter(scores.values()))
    return Evaluation(join_scores(scores, {task.name: task.metric_of(examples) for task, examples in tasks}))


def _show(scores: Evaluation, as_json: bool) -> None:
    """Prints scores: tables on a terminal, JSON in a pipe."""
    if as_json or not is_terminal():
        print(_as_json(scores))
        return
    for table in scores.tables():
        table.print(sys.stdout)
        print()


def _check_outputs(output: Path | None, errors: Path | None) -> None:
    """Refuses, before any work, files that cannot be written.

    Raises:
        UsageError, CannotCreateError: as `check_output`; scores that are not written as JSON.
    """
    check_output(output)
    check_output(errors, WORKBOOK)
    if output is not None and suffix_of(output) != ".json":
        raise UsageError(f"--output {output}: scores are written as JSON; expected a name that ends in .json")


def _as_json(scores: Evaluation) -> str:
    """Scores as JSON, and the confusion matrix of a classifier: counts by true and predicted label, without zeros."""
    fields: dict[str, Any] = {name: round_digits(value, _DIGITS) for name, value in scores.items()}
    if any(scores.confusion.values()):  # a tagger has labels too, but not one for each example
        fields["confusion"] = scores.confusion
    lines = (
        f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in fields.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}"


def _write_errors(path: Path, scores: Evaluation, model: Model) -> None:
    with open_answers(path, digits=digits_of(model)) as writer:
        for mistake in scores.mistakes:
            texts = dict(zip(("text", "second", "third"), mistake.texts, strict=False))
            answer = {
                "label": mistake.label,
                "prediction": mistake.prediction,
                "probability": mistake.probability,
            }
            writer.write(AnswerRow({"origin": mistake.origin, **texts}, answer))
