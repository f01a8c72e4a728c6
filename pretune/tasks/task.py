"""The base of supervised tasks, which adds records, predictions and scores to an objective.

A task is used in this order, on the host before any step:

1. `task = Task(config, vocabulary)`; `examples = read_examples(task, data)`: each record becomes an example or fails;
2. `config = task.resolve_config(examples)`: what the training data decide (labels, class weights) is filled in;
3. `task = Task(config, vocabulary)`, with that configuration;
4. `rows = task.encode(examples, tokenizer, length)`: examples as tokens, truncated or in windows; `data_stats(rows)`
   counts what was cut;
5. `Task.prepare(rows, draw)` builds batches from rows, as for every objective;
6. after training `decode` gives an answer for each row, `merge` a prediction for each example from the answers of its
   rows, and `score` compares predictions with examples; `calibrate` fills in what the finished weights decide.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeAlias, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.objective import Objective
from pretune.objectives.text_teacher import Teacher
from pretune.tasks.truncation import Truncate as Truncate
from pretune.tasks.truncation import truncate_pair as truncate_pair
from pretune.tasks.truncation import truncate_run as truncate_run
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.records import NOWHERE, Column, Origin
from pretune.text.samples.rows import Encoded, Ints, Row
from pretune.text.tokenizer.long_texts import EncodedText, Keep
from pretune.text.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Example:
    """Base of the examples of tasks.

    Attributes:
        origin: where it comes from, for messages.
    """

    origin: Origin = field(default=NOWHERE, kw_only=True)

    @property
    def held_together(self) -> str | None:
        """What examples have in common that are held out together; None, the default, for copies of all fields."""
        return None


ExampleT = TypeVar("ExampleT", bound=Example)
RowAnswerT = TypeVar("RowAnswerT")
PredictionT = TypeVar("PredictionT")


class RowBatch(Sequence[Row]):
    """Rows, and the batch that they make.

    Args:
        rows: in the order of the batch's sequences, as far as each of them is a sequence.
        batch: built from them, on the device of the model.
        task: whose rows they are.
    """

    def __init__(self, rows: Sequence[Row], batch: Batch, task: AnyTask) -> None:
        self.rows, self.batch, self.task = rows, batch, task

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return self.rows[index]


class Task(Objective, Generic[ExampleT, RowAnswerT, PredictionT]):
    """Base of the supervised tasks.

    Attributes:
        main_metric: the score by which checkpoints are compared; larger is better.
        needs_labels: it trains on labels.
        scores_unlabelled: validation examples may all have no label, and are then scored otherwise.
        score_labels: labels that have scores of their own, such as `f1/LABEL`, where these are not its classes.
        window: tokens that it reads of a long text at once where no length is named; shorter texts cost no more for it.
        record_id: the field that its form of records has for an id, which no two records of a file share; None where
            that is only so of a field that `columns.id` names.
    """

    view: ClassVar[str] = "examples"
    main_metric: str = "accuracy"
    needs_labels: ClassVar[bool] = True
    scores_unlabelled: ClassVar[bool] = False
    has_own_samples: ClassVar[bool] = True
    repeats_in_step: ClassVar[bool] = False
    window: ClassVar[int] = 384
    record_id: ClassVar[str | None] = None
    score_labels: Sequence[str] = ()

    class Config(Objective.Config):
        """What all tasks share.

        Attributes:
            truncate: which part of a text that is too long stays. `head+tail` keeps a quarter of the length for the
                beginning and the rest for the end; `windows` reads all of it, in parts that overlap.
            stride: tokens that a window shares with the next one; by default a quarter of it.
            columns: which fields of a record are read, and how files are read; in a recipe, this is `data.columns`.
        """

        truncate: Truncate = "head"
        stride: int | None = Field(default=None, ge=0)
        columns: LabelledConfig = Field(default_factory=LabelledConfig)

    config: Config

    def resolve_config(self, examples: Sequence[ExampleT]) -> Config:
        """Returns the configuration with what the training data decide filled in; by default nothing.

        Raises:
            DataError: the examples cannot train this task.
        """
        return self.config

    def join_examples(self, examples: Sequence[ExampleT]) -> list[ExampleT]:
        """The examples that records make together, such as the list of a query; by default each makes one.

        Called of data that are trained on or scored, once what is held out is decided; a prediction is one a record.

        Raises:
            DataError: records that contradict each other.
        """
        return list(examples)

    def use_training_rows(self, rows: Sequence[Encoded]) -> None:
        """Gives the rows that it will be trained on, for a task that draws from all of them; by default nothing."""

    @property
    def teacher(self) -> str | None:
        """The folder of a better model whose answers are the labels that are learned; None, the default, for none."""
        return None

    def label_by(self, examples: Sequence[ExampleT], teacher: Teacher) -> list[ExampleT]:
        """Examples with the answers of the `teacher` as labels; called once, before they are encoded for training."""
        return list(examples)

    def calibrate(self, predictions: Sequence[PredictionT], examples: Sequence[ExampleT]) -> Config:
        """Returns the configuration with what held-out predictions decide filled in; by default nothing.

        Called once, after training: what it gives is saved with the model, and `predict` and `evaluate` use it.

        Args:
            predictions: of the finished weights, by the configuration as it is.
            examples: the validation examples, each with its label.
        """
        return self.config

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibrate` has anything to decide; else nothing is predicted for it."""
        return type(self).calibrate is not Task.calibrate

    @property
    def needs_held_out(self) -> str | None:
        """The setting that `calibrate` cannot obey without validation examples; None where nothing was asked for."""
        return None

    def observe(self, model: TrainableModel) -> None:
        """Learns what it must know of the model that answers, before examples are encoded; by default nothing."""

    def select_validation(self, rows: Sequence[Row]) -> None:
        """Chooses for which validation rows, of all ranks, `decode` answers during training; by default for all."""

    @classmethod
    def reads(cls, model: TrainableModel) -> bool:
        """Whether it answers by the head of a model whose files record no task; by default it does not."""
        return False

    def adopt(self, model: TrainableModel, roles: Collection[str]) -> None:
        """Fits heads that the model's files hold to the training data, such as their scale; by default nothing.

        Args:
            roles: of these heads; others are new.
        """

    def finalize(self, model: TrainableModel) -> Config:
        """Puts into the finished weights what other software would not know, such as a scale; by default nothing.

        Returns:
            The configuration that is true of these weights.
        """
        return self.config

    def columns(self, needs_labels: bool) -> list[Column]:
        """The fields that `read` looks at; a reader leaves out all others.

        Args:
            needs_labels: records must have the label; else it is read where there is one.
        """
        columns = self.config.columns
        return [*columns.text_columns(), Column(columns.label, "columns.label", required=needs_labels)]

    def training_notes(self, examples: Sequence[ExampleT]) -> list[str]:
        """What the user should know of how the training examples are used; by default nothing."""
        return []

    @abstractmethod
    def read(self, record: Mapping[str, object]) -> ExampleT:
        """An example from any record: a file's row, a dict, a DataFrame's row.

        Raises:
            DataError: a field that is missing or holds something else: place, field, value and remedy (see `Record`).
        """

    @abstractmethod
    def encode(self, examples: Sequence[ExampleT], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """The rows of all examples, in their order, each of `length` tokens at most, special ones included.

        Raises:
            DataError: a text without tokens, an unseen label, or with `truncate = "error"` a text that is too long; the
                message says where it is.
        """

    @abstractmethod
    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[RowAnswerT]:
        """One answer for each row, in order; called without gradients.

        Args:
            model: called with `rows.batch`; its output is at hand if a loss was taken from it just before.
        """

    @abstractmethod
    def merge(self, example: ExampleT, answers: Sequence[RowAnswerT]) -> PredictionT:
        """The prediction for an example from the answers of its rows, in their order."""

    @abstractmethod
    def score(self, predictions: Sequence[PredictionT], examples: Sequence[ExampleT]) -> dict[str, float]:
        """Scores of predictions against the labels of the examples."""

    def metric_of(self, examples: Sequence[ExampleT]) -> str:
        """The score of these examples by which checkpoints are compared; by default `main_metric` of all."""
        return self.main_metric

    def brief(self, prediction: PredictionT) -> Mapping[str, object]:
        """What a table for people shows of a prediction; nothing, the default, for what is short of its fields."""
        return {}

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Which tokens batches of these rows may hold, so that the embedding need learn no others.

        Returns:
            (any,) in any order; None, the default, where that cannot be said, as where `corrupt` draws tokens.
        """
        return None

    def keep(self, length: int) -> Keep | None:
        """What may be read of a text that is too long, of which no more need be encoded; None: all of it."""
        return None if self.config.truncate == "windows" else Keep.of(length, self.config.truncate)

    def build_rows(self, rows: Sequence[Row], draw: Draw) -> RowBatch:
        """Rows with the batch that they make, on the host."""
        return RowBatch(rows, self.build_batch(rows, draw), cast(AnyTask, self))


AnyTask: TypeAlias = Task[Example, object, object]
"""A task whose types are its own business, where it is found by name."""


def encode_texts(
    examples: Sequence[Example], texts: Sequence[str | None], tokenizer: Tokenizer, keep: Keep | None = None
) -> list[EncodedText | None]:
    """The tokens of a text of each example and where they lie in it, in characters; None where there is no text.

    Args:
        keep: what will stay of a text that is too long, of which no more need be encoded; by default all.

    Raises:
        DataError: a text that is empty or gives no tokens.

    Shape:
        return: (n,), (n, 2) for each
    """
    present = [n for n, text in enumerate(texts) if text is not None]
    wanted = [texts[n] or "" for n in present]
    for n, text in zip(present, wanted, strict=True):
        if not text.strip():
            raise DataError(f"{examples[n].origin}: the text is empty; give it some words or leave the line out")
    out: list[EncodedText | None] = [None] * len(texts)
    encodings = tokenizer.encode_kept(wanted, keep) if wanted else []
    for n, text, encoding in zip(present, wanted, encodings, strict=True):
        if not len(encoding[0]):
            raise DataError(f"{examples[n].origin}: the tokenizer gives no token for {text[:40]!r}; leave the line out")
        out[n] = encoding
    return out


def build_row(
    example: int,
    texts: Sequence[tuple[Ints, Ints] | None],
    kept: Sequence[Ints | None],
    targets: NDArray[np.generic] | None,
) -> Encoded:
    """The row of an example, of which some tokens are kept.

    Args:
        example: its index.
        texts: tokens and offsets of each text, as `encode_texts` gives them.
        kept: which tokens of each stay; see `truncate_pair`.
    """
    present = [(text, index) for text, index in zip(texts, kept, strict=True) if text is not None and index is not None]
    runs = [None if text is None or index is None else text[0][index] for text, index in zip(texts, kept, strict=True)]
    first, second, third = [*runs, None, None][:3]
    assert first is not None  # every example has a text
    return Encoded(
        first,
        second,
        third,
        targets,
        example,
        tuple(text[1][index] for text, index in present),
        cut=sum(len(text[0]) - len(index) + getattr(text, "dropped", 0) for text, index in present),
        others=tuple(run for run in runs[3:] if run is not None),
    )


def tokens_of(task: Objective, base: type[Objective], rows: Sequence[Encoded]) -> Ints | None:
    """All tokens of the texts, and the special ones around them, for `Task.tokens`.

    Args:
        base: whose batches are known to hold no others; of a variant that makes them in its own way they are not.

    Shape:
        return: (any,) ascending
    """
    if any(getattr(type(task), name) is not getattr(base, name) for name in ("prepare", "corrupt")):
        return None
    special = np.flatnonzero(task.vocabulary.special)
    return np.unique(np.concatenate([special, *(text for row in rows for text in row.texts)]))


def int_targets(value: int | None) -> NDArray[np.int64] | None:
    """The number of a class as a row's target. Shape: return: ()"""
    return None if value is None else np.array(value, np.int64)
