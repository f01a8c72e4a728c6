"""Reads the records of files or of memory as examples of a task: each becomes one, stops the run, or is counted.

read_records -> Record, with its place -> Task.read -> Example
             \\-> SkippedRecords, where on_bad = "skip"
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Set

from pretune.errors import DataError, UsageError
from pretune.tasks.task import ExampleT, PredictionT, RowAnswerT, Task
from pretune.text.readers.labelled import Data, read_records
from pretune.text.readers.records import Column, Origin, Record, SkippedRecords, is_missing

_log = logging.getLogger("pretune")
_ID_SETTING = "columns.id"


def read_examples(
    task: Task[ExampleT, RowAnswerT, PredictionT], data: Data, needs_labels: bool = True, *, every_row: bool = False
) -> list[ExampleT]:
    """Every record of files, or of an object in memory, as an example of a task.

    Args:
        needs_labels: False where labels may be missing, as in prediction.
        every_row: each record needs an answer, so that none may be skipped; what it says of the answer itself is not
            read where labels are not needed.

    Raises:
        MissingInputError: a file does not exist or may not be read.
        DataError: a bad record that may not be skipped: place, field, value and remedy; no records.
    """
    skipped = None if every_row else SkippedRecords.of(task.config.columns)
    hidden = _answer_fields(task) if every_row and not needs_labels else frozenset[str]()
    needs_labels = needs_labels and not task.scores_unlabelled
    pairs = iterate_examples(task, data, needs_labels, skipped, unique_ids=not every_row, hidden=hidden)
    examples = [example for _, example in pairs]
    if skipped is not None and skipped.count:
        _log.warning("%s", skipped.describe())
    return examples if every_row else task.join_examples(examples)


def iterate_examples(
    task: Task[ExampleT, RowAnswerT, PredictionT],
    data: Data,
    needs_labels: bool = True,
    skipped: SkippedRecords | None = None,
    more_columns: Sequence[Column] = (),
    *,
    unique_ids: bool = True,
    hidden: Set[str] = frozenset(),
) -> Iterator[tuple[Record, ExampleT]]:
    """The records of files, or of an object in memory, each with the example that it becomes.

    Args:
        skipped: counts bad records, which are left out; None where they are errors.
        more_columns: that are read beside those of the task.
        unique_ids: two records of one id are an error, where a column of ids is read; or, without one, two of a file,
            where the task's form of records has ids.
        hidden: fields that the task does not see.

    Raises:
        MissingInputError, DataError: as `read_examples`; also where all records are skipped.
    """
    config = task.config.columns
    columns = [*task.columns(needs_labels), *more_columns]
    ids = next((column.name for column in columns if column.setting == _ID_SETTING), config.id)
    if ids is not None and ids not in [column.name for column in columns]:
        columns.append(Column(ids, _ID_SETTING, required=False))
    seen: dict[tuple[str, str], Origin] = {}
    count = 0
    for record in read_records(data, columns, config, needs_labels, skipped=skipped):
        try:
            if unique_ids and ids is not None:
                _check_id(record, ids, seen)
            elif unique_ids and task.record_id is not None:
                _check_id(record, task.record_id, seen, record.origin.source)
            example = task.read(record.without(hidden))
        except DataError as error:
            if skipped is None:
                raise
            skipped.add(str(error))
            continue
        count += 1
        yield record, example
    if not count and skipped is not None:
        raise DataError(f"all {skipped.count} records are bad, and were skipped; the first: {skipped.first}")


def _answer_fields(task: Task[ExampleT, RowAnswerT, PredictionT]) -> Set[str]:
    """The fields that say what is to be predicted: those that records must have, but not for a prediction."""
    needed, given = (
        {name for column in task.columns(needs) if column.required for name in (column.name, *column.alternatives)}
        for needs in (True, False)
    )
    return needed - given


def _check_id(record: Record, name: str, seen: dict[tuple[str, str], Origin], source: str = "") -> None:
    """Refuses the second record of an id.

    Args:
        seen: where the first record of each id and source is.
        source: within which ids differ; "" for everywhere.
    """
    value = record.get(name)
    if is_missing(value) or value == "":
        return
    first = seen.setdefault((str(value), source), record.origin)
    if first is not record.origin:
        raise record.error(
            f"field {name!r} = {str(value)[:40]!r} is the id of {first} too",
            "give each record an id of its own, or name another field with --id",
        )


def read_texts(
    task: Task[ExampleT, RowAnswerT, PredictionT], texts: Sequence[str], seconds: Sequence[str] | None = None
) -> list[ExampleT]:
    """Bare texts, or pairs of them, as examples of a task.

    Raises:
        UsageError: not as many second texts as texts, or none for a task that learned from pairs.
        DataError: an empty text.
    """
    if seconds is not None and len(seconds) != len(texts):
        raise UsageError(f"{len(texts)} texts but {len(seconds)} second texts")
    columns = task.config.columns
    if seconds is None and columns.second is not None and texts:
        raise UsageError(
            f"this model was trained on pairs ({columns.text!r} and {columns.second!r}); give the second "
            "texts too, predict(texts, seconds), or records with both"
        )
    second_name = None if seconds is None else columns.second or "second text"
    columns = columns.model_copy(update={"second": second_name, "third": None})
    reader = type(task)(task.config.model_copy(update={"columns": columns}), task.vocabulary)
    first = reader.columns(needs_labels=False)[0]
    records: list[dict[str, object]] = [{first.name: text} for text in texts]
    for record, second in zip(records, seconds or (), strict=False):
        record[str(second_name)] = second
    return [reader.read(Record(record, Origin("text", n + 1))) for n, record in enumerate(records)]
