"""Several labels a text: each label is given or not, whatever the others are.

Data: examples with a text, an optional second text, and a list of labels: `["sports", "news"]` in JSON lines, in memory
or in Parquet, or a text such as `sports,news` in a table, whose separator is a setting; an empty list, or an empty cell
of a table, is a text to which no label applies.

Each label has a probability of its own (binary cross-entropy), and is given from a threshold on, which is tuned for
each label on the validation data after training. The files are those of `transformers` with the problem type
`multi_label_classification`, which takes 0.5 for every label.

Source: Yang 2001, "A study of thresholding strategies for text categorization" (SIGIR), for thresholds by label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field

from pretune.batch import Batch
from pretune.errors import DataError, UsageError
from pretune.find import suggest
from pretune.loss import Term
from pretune.nn.heads import ProblemType, SequenceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.tasks.shared.calibration import threshold_between
from pretune.tasks.shared.sequence_task import SequenceTask, TextExample
from pretune.tasks.task import RowBatch
from pretune.text.readers.records import Record
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary
from pretune.wording import counted, listed

_THRESHOLD = 0.5  # of a label for which none is set or tuned
_FEW = 5  # validation examples of a label below which all labels together decide its threshold


@dataclass(frozen=True, slots=True)
class MultilabelExample(TextExample):
    """A text, or a pair of texts, and its labels.

    Attributes:
        labels: each once; None where they are not known.
    """

    labels: tuple[str, ...] | None = None


class MultilabelPrediction(TypedDict):
    """What is said of a text.

    Attributes:
        labels: those whose probability reaches their threshold, in the order of the model's labels.
        probabilities: of every label.
    """

    labels: list[str]
    probabilities: dict[str, float]


class Multilabel(SequenceTask[MultilabelExample, MultilabelPrediction]):
    """Any number of labels a text.

    Args:
        config: with `labels` filled in, by hand or by `resolve_config`; without them it can only read examples.
        vocabulary: of the tokenizer that encodes the texts.
    """

    name: ClassVar[str] = "multilabel"
    problem_type: ClassVar[ProblemType] = "multi_label_classification"
    main_metric: str = "f1_micro"
    target_dtype: ClassVar[type[np.generic]] = np.float32

    class Config(SequenceTask.Config):
        """Labels, their thresholds and the shape of the loss.

        Attributes:
            labels: the labels in the order of the head's outputs; empty: those of the training data, sorted.
            separator: the character or text between the labels of a text in a table.
            thresholds: probability from which a label is given; of labels that are not named it is tuned on the
                validation data by F1, or 0.5 without any.
            class_weights: `balanced` weighs the texts that have a label against those that do not have it by their
                numbers; or a weight for the texts that have each label (1 where not named).
        """

        labels: tuple[str, ...] = ()
        separator: str = Field(default=",", min_length=1)
        thresholds: dict[str, float] = Field(default_factory=dict)
        class_weights: Literal["none", "balanced"] | dict[str, float] = "none"

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.config = config
        self.labels = list(config.labels)
        self.target_shape = (len(self.labels),)
        self._number = {label: n for n, label in enumerate(self.labels)}
        weights = config.class_weights if isinstance(config.class_weights, dict) else {}
        for name, values in (("class_weights", weights), ("thresholds", config.thresholds)):
            unknown = [label for label in values if label not in self._number]
            if unknown and self.labels:
                raise UsageError(f"task.multilabel.{name}: no label {unknown[0]!r}; {suggest(unknown[0], self.labels)}")
        for label, threshold in config.thresholds.items():
            if not 0.0 <= threshold <= 1.0:
                raise UsageError(f"task.multilabel.thresholds: {label!r} = {threshold:g}: expected 0 to 1")
        weight = torch.tensor([weights.get(label, 1.0) for label in self.labels]) if weights else None
        self.positive_weight: torch.Tensor | None
        self.register_buffer("positive_weight", weight, persistent=False)

    @classmethod
    def reads(cls, model: TrainableModel) -> bool:
        """Whether the files say that labels do not exclude each other; one label alone is there or not."""
        head = dict(model.heads.items()).get("classification")
        return isinstance(head, SequenceHead) and head.problem_type == cls.problem_type and len(head.labels) > 1

    @property
    def outputs(self) -> Sequence[str]:
        """The labels."""
        return self.labels

    def resolve_config(self, examples: Sequence[MultilabelExample]) -> Config:
        """Fill in the labels, sorted, and balanced weights.

        Raises:
            DataError: no examples, an example whose labels are not known, no label at all, or one that `labels` lacks.
        """
        counts = _count(examples)
        labels = self.config.labels or tuple(sorted(counts))
        for example in examples:
            for label in example.labels or ():
                if label not in set(labels):
                    raise DataError(_unseen(example, label, labels, "is not in task.multilabel.labels"))
        if len(labels) < 2:
            raise DataError(
                f"{examples[0].origin.source}: all labels are {', '.join(labels) or 'empty'}; multilabel needs at "
                "least two labels; name the column of the labels with --label, or what separates them with "
                "task.multilabel.separator"
            )
        weights = self.config.class_weights
        if weights == "balanced":
            total = len(examples)
            weights = {label: max(1, total - counts[label]) / counts[label] for label in labels if counts[label]}
        return self.config.model_copy(update={"labels": labels, "class_weights": weights})

    def training_notes(self, examples: Sequence[MultilabelExample]) -> list[str]:
        """How many labels texts have."""
        sizes = Counter(len(example.labels or ()) for example in examples)
        average = sum(size * count for size, count in sizes.items()) / len(examples)
        notes = [f"{len(self.labels):,} labels ({listed(self.labels)}), {average:.2f} a text"]
        if sizes[0]:
            notes.append(f"texts to which no label applies: {sizes[0]:,} of {counted(len(examples), 'training text')}")
        return notes

    def read(self, record: Mapping[str, object]) -> MultilabelExample:
        """A text or a pair, and its labels."""
        columns = self.config.columns
        fields = Record.of(record)
        text, second = [*(fields.text(each.name, each.setting) for each in columns.text_columns()[:2]), ""][:2]
        labels = fields.labels(columns.label, "columns.label", self.config.separator)
        return MultilabelExample(text, labels, second=second or None, origin=fields.origin)

    def target_of(self, example: MultilabelExample) -> NDArray[np.float32] | None:
        """Ones for the labels, zeros for the others."""
        if example.labels is None:
            return None
        out = np.zeros(len(self.labels), np.float32)
        for label in example.labels:
            if label not in self._number:
                raise DataError(_unseen(example, label, self.labels, "was not seen in training"))
            out[self._number[label]] = 1.0
        return out

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Binary cross-entropy, the mean over the labels, summed over the labelled sequences."""
        index, wanted = batch.targets[self.name]
        logits = self.logits(model, output, batch)[index]
        if not len(index):
            return [Term(self.name, logits.sum() * 0.0, 0, self.config.weight, logits.new_zeros(()).long())]
        each = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=self.positive_weight, reduction="none")
        correct = ((logits.detach() > 0) == (wanted > 0)).all(dim=1).sum()
        return [Term(self.name, each.mean(dim=1).sum(), len(index), self.config.weight, correct)]

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[MultilabelPrediction]:
        """The labels that reach their thresholds, and the probability of each."""
        probabilities = self.logits(model, model(rows.batch), rows.batch).sigmoid().cpu().tolist()
        return [self._prediction(dict(zip(self.labels, row, strict=True))) for row in probabilities]

    def average(self, answers: Sequence[MultilabelPrediction]) -> MultilabelPrediction:
        """The answer of the mean probabilities."""
        mean = np.mean([list(answer["probabilities"].values()) for answer in answers], axis=0)
        return self._prediction(dict(zip(self.labels, mean.tolist(), strict=True)))

    @property
    def thresholds(self) -> dict[str, float]:
        """The probability from which on each label is given."""
        return {label: self.config.thresholds.get(label, _THRESHOLD) for label in self.labels}

    def _prediction(self, probabilities: dict[str, float]) -> MultilabelPrediction:
        thresholds = self.thresholds
        labels = [name for name, value in probabilities.items() if value >= thresholds[name]]
        return {"labels": labels, "probabilities": probabilities}

    def calibrate(self, predictions: Sequence[MultilabelPrediction], examples: Sequence[MultilabelExample]) -> Config:
        """The threshold of each label that has none: the one with the best F1 for the held-out examples."""
        values = np.array([[prediction["probabilities"][label] for label in self.labels] for prediction in predictions])
        truth = np.array([self.target_of(example) for example in examples]) > 0
        shared = best_threshold(values.ravel(), truth.ravel())
        tuned = {
            label: best_threshold(values[:, n], truth[:, n]) if truth[:, n].sum() >= _FEW else shared
            for n, label in enumerate(self.labels)
        }
        return self.config.model_copy(update={"thresholds": {**tuned, **self.config.thresholds}})

    def score(
        self, predictions: Sequence[MultilabelPrediction], examples: Sequence[MultilabelExample]
    ) -> dict[str, float]:
        """F1 over all decisions, its mean over labels and over texts, exact matches; precision, recall, F1 by label.

        `average_precision` is the mean over the labels that occur, and depends on no threshold.

        Raises:
            DataError: an example whose labels are not known.
        """
        from sklearn import metrics  # 100 MB with what it imports, which a model in use has no need of

        _count(examples)
        truth = np.array([self.target_of(example) for example in examples]) > 0
        guess = np.array([[label in prediction["labels"] for label in self.labels] for prediction in predictions])
        values = np.array([list(prediction["probabilities"].values()) for prediction in predictions])
        present = truth.any(axis=0)
        precision, recall, f1, support = metrics.precision_recall_fscore_support(truth, guess, zero_division=0.0)
        scores = {
            f"f1_{name}": float(metrics.f1_score(truth, guess, average=name, zero_division=0.0))
            for name in ("micro", "macro", "samples")
        }
        scores["exact_match"] = float(metrics.accuracy_score(truth, guess))
        scores["average_precision"] = (
            float(metrics.average_precision_score(truth[:, present], values[:, present])) if present.any() else 0.0
        )
        for n, label in enumerate(self.labels):
            scores |= {
                f"precision/{label}": float(precision[n]),
                f"recall/{label}": float(recall[n]),
                f"f1/{label}": float(f1[n]),
                f"count/{label}": float(support[n]),
            }
        return scores


def best_threshold(probabilities: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """The threshold with the best F1, halfway between two probabilities; of equals the one nearest to a half.

    Shape:
        probabilities, truth: (n,)
    """
    order = np.argsort(-probabilities, kind="stable")
    sorted_values, hits = probabilities[order], np.cumsum(truth[order])
    ends = np.append(sorted_values[:-1] > sorted_values[1:], True)  # equal probabilities stand or fall together
    taken = np.flatnonzero(ends)
    f1 = 2.0 * hits[taken] / (taken + 1 + max(1, int(truth.sum())))
    below = np.append(sorted_values[1:], 0.0)[taken]
    middles = (sorted_values[taken] + below) / 2.0
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    chosen = best[np.abs(middles[best] - _THRESHOLD).argmin()]
    return threshold_between(float(sorted_values[taken[chosen]]), float(below[chosen])) if f1.max() > 0 else _THRESHOLD


def _count(examples: Sequence[MultilabelExample]) -> Counter[str]:
    """How often each label occurs.

    Raises:
        DataError: no examples, or one whose labels are not known.
    """
    if not examples:
        raise DataError("no examples: the file has a header at most; give at least one line its labels")
    for example in examples:
        if example.labels is None:
            raise DataError(f"{example.origin}: no labels; write an empty list where none applies")
    return Counter(label for example in examples for label in example.labels or ())


def _unseen(example: MultilabelExample, label: str, labels: Sequence[str], problem: str) -> str:
    return (
        f"{example.origin}: label {label!r} {problem}; known labels: {listed(list(labels), 20)}; correct the label, or "
        "add it to the training data"
    )
