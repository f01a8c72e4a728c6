"""Reads labelled data for a run: the examples of its task, for training and for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from pretune.config import validate
from pretune.errors import DataError, UsageError
from pretune.evaluate.recorded import recorded_tasks
from pretune.interop.metadata import read_metadata
from pretune.interop.run_folder import check_has_model
from pretune.interop.tuned_model import labels_of_folder
from pretune.tasks.shared.records import iterate_examples
from pretune.tasks.task import AnyTask, Example, Task
from pretune.text.readers.labelled import Data, NamedData
from pretune.text.readers.records import Column, SkippedRecords, is_missing
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded, data_stats
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import TRAINING_REMEDY, count_unknown, describe_cut
from pretune.train.holdout import Holdout, hold_out
from pretune.train.recipe import DataConfig, Recipe
from pretune.train.several_tasks import RunTask, tasks_of
from pretune.train.teacher_labels import LoadedTeacher, label_by_teacher
from pretune.wording import counted

_SAMPLE = 100  # examples that tell the language


class LabelledData:
    """The task of a recipe, with its examples.

    Args:
        train_data, validation_data: data in memory, instead of the recipe's files.
        run_task: which of the recipe's tasks; by default the only one.

    Attributes:
        name: of the task, where it is one of several.
        task: with what the training data decide filled in.
        train, validation: the examples.
        notes: what the user should know.

    Raises:
        UsageError: the recipe names no training data, or fields that do not fit together.
        MissingInputError: a file that is not there.
        DataError: a bad row or label.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        train_data: Data | None = None,
        validation_data: Data | None = None,
        run_task: RunTask | None = None,
    ) -> None:
        run_task = run_task or tasks_of(recipe)[0]
        self.name, recipe, data = run_task.name, run_task.recipe, run_task.recipe.data
        _check_sources(run_task, train_data, validation_data)
        task, config = run_task.task_class, read_task_config(run_task)
        reader = task(config, tokenizer.vocabulary)
        train = data.train if train_data is None else train_data
        needs_labels = task.needs_labels and not recipe.distil.unlabelled
        known = data.validation or None if validation_data is None else validation_data
        self.held_out: Holdout | None = None
        self._skipped = {split: SkippedRecords.of(data.columns) for split in ("train", "validation")}
        if known is not None:
            self.train = _read(reader, train, needs_labels, self._skipped["train"])
            self.validation = _read(reader, known, not task.scores_unlabelled, self._skipped["validation"])
        else:
            self.train, groups = _read_groups(reader, train, data, self._skipped["train"], needs_labels)
            self.validation = []
            if recipe.distil.unlabelled:
                _check_no_holdout(recipe)
            elif recipe.evaluation.samples != 0 or data.asks_for_holdout:  # else nothing would look at it
                self.held_out = hold_out(
                    self.train, groups, data, needs_labels=task.needs_labels, scores_unlabelled=task.scores_unlabelled
                )
        if self.held_out is not None:
            self.train, self.validation = self.held_out.train, self.held_out.validation
        self.train, self.validation = reader.join_examples(self.train), reader.join_examples(self.validation)
        if recipe.distil.unlabelled:
            resolved = _config_of_teacher(reader, recipe)
        else:
            resolved = _with_known_order(reader, reader.resolve_config(self.train), recipe, self.train)
        self.task = task(resolved, tokenizer.vocabulary)
        self.notes: list[str] = [] if recipe.distil.unlabelled else self.task.training_notes(self.train)
        self.notes += [part.describe() for part in self._skipped.values() if part and part.count]
        self._length, self._tokenizer, self._device = data.length, tokenizer, recipe.device
        self._files = [*map(str, data.validation or ()), *map(str, data.train)]
        self._rows: dict[str, list[Encoded]] = {}
        self._unknown: dict[str, int] = {}
        self._teacher: dict[str, str] = {}  # its fingerprint

    @property
    def labels(self) -> list[str] | None:
        """The names of the labels that have scores, or of the task's classes, if it has any."""
        labels = self.task.score_labels or getattr(self.task, "labels", None)
        return list(labels) if isinstance(labels, list) else None

    @property
    def records(self) -> str | None:
        """A file of the task's records, where a text alone does not say all that it must know; None where it does."""
        texts = {column.name for column in self.task.config.columns.text_columns()}
        others = [column for column in self.task.columns(needs_labels=False) if column.name not in texts]
        return next(iter(self._files), None) if any(column.required for column in others) else None

    def encode(self) -> None:
        """Turn all examples into tokens; `notes` says what was cut.

        Raises:
            DataError: a text that is empty or too long, or an unknown label.
        """
        if self.task.teacher is not None:
            teacher = LoadedTeacher.load(self.task.teacher, self._device)
            self.train = label_by_teacher(self.task, self.train, teacher)
            self._teacher = {f"teacher {self.task.teacher}": teacher.fingerprint()}
        self._encode("train", self.train)
        if self.validation:
            self._encode("validation", self.validation)
        if self.held_out is not None:
            self.notes.append(self.held_out.describe())
        elif not self.validation:
            self.notes.append(
                "no data.validation: the task is not evaluated, the weights of the last step are kept; name a file "
                "with --validation, or hold rows out with --holdout 0.1"
            )

    def _encode(self, split: str, examples: Sequence[Example]) -> None:
        with count_unknown(self._tokenizer) as unknown:
            self._rows[split] = self.task.encode(examples, self._tokenizer, self._length)
        self._unknown[split] = unknown.unknown
        count, is_training = len(examples), split == "train"
        if is_training:
            self.task.use_training_rows(self._rows[split])
        texts = counted(count, "training text") if is_training else counted(count, "validation text")
        remedy = "" if any(note.startswith("warning: ") for note in self.notes) else TRAINING_REMEDY  # said once
        note = unknown.summary("the training texts" if is_training else "the validation texts", remedy)
        self.notes += [] if note is None else [note]
        if cut := data_stats(self._rows[split])["examples_cut"]:
            self.notes.append(describe_cut(cut, texts, self._length))

    def view(self, split: str) -> list[ExampleView]:
        """The rows of `train` or `validation`; nothing where there are none."""
        examples = self.train if split == "train" else self.validation
        return [ExampleView(self._rows[split], [_texts(e) for e in examples])] if split in self._rows else []

    def rows(self) -> list[Encoded]:
        """All rows that batches are made of."""
        return [row for rows in self._rows.values() for row in rows]

    def sample_text(self) -> str:
        """A little of the training text, which tells its language."""
        return "\n".join(_texts(example) for example in self.train[:_SAMPLE])

    def fingerprints(self) -> dict[str, str]:
        """The content of the rows, by field of the recipe; for a teacher's answers stands what answers.

        Numbers that a model computes differ a little between machines, and a run shall go on on another one.
        """
        field = f"task.{self.name}.data" if self.name else "data"
        taught = "train" if self._teacher else None
        digests = {f"{field}.{split}": _digest(rows, split != taught) for split, rows in self._rows.items()}
        return digests | self._teacher

    def statistics(self) -> dict[str, dict[str, int]]:
        """Examples, rows and tokens, how many were cut, and how many bad records were skipped."""
        out = {
            split: {**data_stats(rows), "tokens_unknown": self._unknown[split]} for split, rows in self._rows.items()
        }
        for split, skipped in self._skipped.items():
            if skipped is not None:
                out.setdefault(split, {})["records_skipped"] = skipped.count
        return out


def read_labelled(
    recipe: Recipe,
    tokenizer: Tokenizer,
    train_data: NamedData | None = None,
    validation_data: NamedData | None = None,
) -> list[LabelledData]:
    """The tasks of a recipe, each with its examples.

    Args:
        train_data, validation_data: data in memory, instead of the recipe's files; of several tasks, those of all or
            those of each by its name.

    Raises:
        UsageError, MissingInputError, DataError: as `LabelledData`.
    """
    return [
        LabelledData(recipe, tokenizer, task.rows(train_data), task.rows(validation_data), task)
        for task in tasks_of(recipe)
    ]


def _read(reader: AnyTask, rows: Data, needs_labels: bool, skipped: SkippedRecords | None) -> list[Example]:
    """Examples; bad records are errors, or skipped and counted."""
    return [example for _, example in iterate_examples(reader, rows, needs_labels, skipped)]


def _read_groups(
    reader: AnyTask, rows: Data, data: DataConfig, skipped: SkippedRecords | None, needs_labels: bool
) -> tuple[list[Example], list[str] | None]:
    """Examples, and the group of each where a column names it.

    Raises:
        DataError: a bad record, or one without a group.
    """
    if data.group is None:
        return _read(reader, rows, needs_labels, skipped), None
    examples: list[Example] = []
    groups: list[str] = []
    more = [Column(data.group, "data.group")]
    for record, example in iterate_examples(reader, rows, needs_labels, skipped, more):
        value = record.get(data.group)
        if is_missing(value) or value == "":
            raise record.error(f"field {data.group!r} is empty", "fill in the group of each row, or leave --group out")
        examples.append(example)
        groups.append(str(value))
    return examples, groups


def _texts(example: Example) -> str:
    """The texts of an example, to be compared with those of another; its label is none of them."""
    values = [getattr(example, field.name) for field in fields(example) if field.name != "label"]
    return "\0".join(value for value in values if isinstance(value, str))


def _check_sources(run_task: RunTask, train_data: Data | None, validation_data: Data | None) -> None:
    """Raises a UsageError where there is no training data, or data both in files and in memory."""
    recipe, table = run_task.recipe, f"task.{run_task.name}.data" if run_task.name else "data"
    for name, files, records in (
        ("train", recipe.data.train, train_data),
        ("validation", recipe.data.validation, validation_data),
        ("holdout", recipe.data.holdout, validation_data),
        ("folds", recipe.data.folds, validation_data),
        ("group", recipe.data.group, validation_data),
    ):
        if files and records is not None:
            value = list(files) if isinstance(files, tuple) else files
            raise UsageError(f"recipe: field '{table}.{name}' = {value}: there are data in memory too; leave one out")
    if train_data is None and not recipe.data.train and run_task.name:
        raise UsageError(
            f"recipe: field '{table}.train' is missing; name the files of this task there, or those of all tasks with "
            "--train"
        )
    if train_data is None and not recipe.data.train:
        raise UsageError("recipe: field 'data.train' is missing; name a file with --train, such as --train data.csv")


def read_task_config(run_task: RunTask) -> Task.Config:
    """What a recipe says of a task."""
    name, tree = run_task.name or run_task.file, run_task.recipe.task[run_task.file]
    fields = dict(tree) if isinstance(tree, Mapping) else {"weight": tree}
    if "columns" in fields:
        table = f"task.{name}.data.columns" if run_task.name else "data.columns"
        raise UsageError(f"recipe: field 'task.{name}.columns': columns are named in {table}; move them there")
    config = validate(run_task.task_class.Config, fields, f"task.{name}")
    return config.model_copy(update={"columns": run_task.recipe.data.columns})


def _with_known_order(
    reader: AnyTask, resolved: Task.Config, recipe: Recipe, examples: Sequence[Example]
) -> Task.Config:
    """Orders the labels of the training data as the model's files have them, where they are the same labels."""
    labels = getattr(resolved, "labels", None)
    if not labels or getattr(reader.config, "labels", None) or recipe.model.init is None:
        return resolved
    known = labels_of_folder(Path(recipe.model.init))
    if known is None or known == list(labels) or sorted(known) != sorted(labels):
        return resolved
    config = reader.config.model_copy(update={"labels": tuple(known)})
    return type(reader)(config, reader.vocabulary).resolve_config(examples)


def _config_of_teacher(reader: AnyTask, recipe: Recipe) -> Task.Config:
    """The settings of the teacher's task, where the training texts have no labels to say them.

    Raises:
        DataError: the teacher was not trained for this task.
    """
    folder = Path(recipe.distil.teacher or "")
    check_has_model(folder)
    for task in recorded_tasks(read_metadata(folder), folder, reader.vocabulary):
        if task.name == reader.name:
            return task.config.model_copy(update={"columns": reader.config.columns})
    raise DataError(
        f"distil.teacher = {folder}: was not trained for {reader.name}, so that nothing says what the texts are asked; "
        "name a teacher of this task, or label some texts and leave distil.unlabelled out"
    )


def _check_no_holdout(recipe: Recipe) -> None:
    """Raises a UsageError where texts without labels would be held out, on which nothing can be scored."""
    if recipe.data.asks_for_holdout:
        raise UsageError(
            "distil.unlabelled: texts without labels are not held out, as nothing can be scored on them; name labelled "
            "ones with --validation, and leave --holdout out"
        )


def _digest(rows: Sequence[Encoded], with_targets: bool) -> str:
    """SHA-256 of all that training reads of rows: tokens, targets where wanted, and which example they are of."""
    digest = hashlib.sha256()
    for row in rows:
        targets = np.zeros(0) if row.targets is None else row.targets
        runs = [row.tokens, row.second, row.third, *row.choices, *row.others]
        sizes = [row.example, *(-1 if run is None else len(run) for run in runs), *targets.shape]
        digest.update(np.array(sizes).tobytes() + f"{targets.dtype.str}{row.targets is None}".encode())
        for run in runs:
            digest.update(b"" if run is None else run.astype("<i8", copy=False).tobytes())
        digest.update(np.ascontiguousarray(targets).tobytes() if with_targets else b"")
    return digest.hexdigest()
