"""Text classification: one label per text, or per pair of texts.

Data: examples with a text, an optional second text, and a string label. BERT reads `[CLS] text [SEP]` and answers from
the first row through the pooler; GPT-2 reads the bare text and answers from the last row, without any padding token.

Source: Devlin et al. 2019 (arXiv 1810.04805), section 4.1; Radford et al. 2018, section 3.3.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pretune.baselines.vectors import fit_vectors
from pretune.batch import Batch
from pretune.errors import DataError, UsageError
from pretune.find import suggest
from pretune.loss import Term
from pretune.nn.heads import SequenceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.nn.vector_head import VectorHead
from pretune.objectives.label_contrast import label_contrast, step_contrast
from pretune.tasks.shared.calibration import choose_trust, classwise_error, trust_scores
from pretune.tasks.shared.predictions import Answer, IndependentPrediction, Prediction, Values, average
from pretune.tasks.shared.sequence_task import SequenceTask, TextExample
from pretune.tasks.task import RowBatch, int_targets
from pretune.text.readers.labelled import LabelledText
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_BOOLEANS = ("bool", "bool_")  # of Python and of numpy
_NAME_LABELS = """task.classification.labels = ["...", "..."]"""


@dataclass(frozen=True, slots=True)
class ClassificationExample(TextExample):
    """A text, or a pair of texts, and its label.

    Attributes:
        label: None where it is not known.
    """

    label: str | None = None


class Classification(SequenceTask[ClassificationExample, Answer]):
    """One label a text.

    Args:
        config: with `labels` filled in, by hand or by `resolve_config`; without them it can only read examples.
        vocabulary: of the tokenizer that encodes the texts.
    """

    name: ClassVar[str] = "classification"

    class Config(SequenceTask.Config):
        """Labels and the shape of the loss.

        Attributes:
            labels: the labels in the order of the head's outputs; empty: those of the training data, sorted.
            class_weights: `balanced` weighs a label by n / (labels * its count), as scikit-learn does; or a weight for
                each label (1 where not named).
            label_smoothing: fraction of the target that is spread over all labels.
            focal_gamma: exponent of the focal loss, which weighs an example by `(1 - p) ** focal_gamma`, p being the
                probability of its label, so that easy examples count less (Lin et al. 2017, arXiv 1708.02002); 0 is
                cross-entropy, 2 is usual.
            contrast: train the vectors and not the head: texts of one label come close, others apart, and the head is
                fitted to them at the end (`fit_head`).
            contrast_temperature: what the cosines of the contrast are divided by.
            calibrate: choose the temperature on the held-out rows, so that of the labels given with a probability of
                0.8 about 80 % are right.
            temperature: what logits are divided by where probabilities are given; 1 leaves them as they are.
            abstain: fraction of wrong labels, among those that are given, that may be reached at most; chooses the
                threshold on the held-out rows.
            threshold: probability below which no label is given: `predict` writes none, and in Python the prediction
                says that it abstains.
        """

        labels: tuple[str, ...] = ()
        class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
        label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
        focal_gamma: float = Field(default=0.0, ge=0.0, le=10.0)
        contrast: bool = False
        contrast_temperature: float = Field(default=0.1, gt=0.0)
        calibrate: bool = False
        temperature: float = Field(default=1.0, gt=0.0)
        abstain: float | None = Field(default=None, gt=0.0, lt=1.0)
        threshold: float | None = Field(default=None, ge=0.0, le=1.0)

        @model_validator(mode="after")
        def _contrast_fits(self) -> Self:
            if self.contrast and not self.fit_head:
                raise ValueError('contrast trains no head: set fit_head = true and head = "mean" too')
            if self.fit_head and not self.is_plain:
                raise ValueError("fit_head: a fitted head knows no class_weights, label_smoothing or focal_gamma")
            return self

        @property
        def is_plain(self) -> bool:
            """Whether the loss is cross-entropy and nothing more."""
            return self.class_weights == "none" and not self.label_smoothing and not self.focal_gamma

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.config = config
        self.labels = list(config.labels)
        self._number = {label: n for n, label in enumerate(self.labels)}
        weights = config.class_weights if isinstance(config.class_weights, dict) else {}
        unknown = [label for label in weights if label not in self._number]
        if unknown:
            raise UsageError(f"task.class_weights: no label {unknown[0]!r}; {suggest(unknown[0], self.labels)}")
        self.class_weight: torch.Tensor | None
        values = torch.tensor([weights.get(label, 1.0) for label in self.labels]) if weights else None
        self.register_buffer("class_weight", values, persistent=False)

    def resolve_config(self, examples: Sequence[ClassificationExample]) -> Config:
        """Fill in the labels, sorted, and balanced class weights.

        Raises:
            UsageError: one label.
            DataError: labels that are numbers and words, no examples, an example without a label, fewer than two
                labels, or a label that `labels` lacks.
        """
        config = self.config
        if len(config.labels) == 1:
            raise UsageError(f"task.labels: classification needs at least two labels, got {list(config.labels)}")
        counts = count_labels(examples, task=self.name)
        labels = config.labels or tuple(order_labels(counts, examples))
        known = set(labels)
        for example in examples:
            if example.label not in known:
                raise DataError(_unseen(example, labels, "is not in task.labels"))
        weights = config.class_weights
        if weights == "balanced":
            weights = {label: len(examples) / (len(counts) * counts[label]) for label in labels if counts[label]}
        return config.model_copy(update={"labels": labels, "class_weights": weights})

    def read(self, record: Mapping[str, object]) -> ClassificationExample:
        """A text or a pair, and its label."""
        fields = LabelledText.read(record, self.config.columns)
        if not self.labels and str(type(record.get(self.config.columns.label)).__name__) in _BOOLEANS:
            raise DataError(
                f"{fields.origin}: label {fields.label!r}: true and false are no names of classes; write them as text, "
                f"or name the classes: {_NAME_LABELS}"
            )
        return ClassificationExample(fields.text, fields.label, second=fields.second, origin=fields.origin)

    @property
    def fits_head(self) -> bool:
        """Where the loss is plain cross-entropy."""
        return self.config.is_plain

    @property
    def outputs(self) -> list[str]:
        """The labels."""
        return self.labels

    def target_of(self, example: ClassificationExample) -> NDArray[np.int64] | None:
        """The label's number."""
        return int_targets(self._number_of(example))

    def _number_of(self, example: ClassificationExample) -> int | None:
        """The label's place in `labels`."""
        if example.label is None:
            return None
        if example.label not in self._number:
            raise DataError(_unseen(example, self.labels, "was not seen in training"))
        return self._number[example.label]

    def fit_head(
        self,
        head: VectorHead,
        vectors: NDArray[np.float32],
        targets: NDArray[np.generic],
        strength: float | None = None,
    ) -> None:
        """Logistic regression, whose strength is by default chosen on held-out parts."""
        labels = [self.labels[n] for n in targets.tolist()]
        fitted = fit_vectors(vectors, labels, strength=strength, order=self.labels)
        head.set_linear(fitted.weight, fitted.bias)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy, weighted, smoothed and focused as configured, summed over the labelled sequences."""
        index, label = batch.targets[self.name]
        if self.config.contrast:
            return [self._contrast(self._vectors(model, output, batch), label, batch)]
        logits = self.logits(model, output, batch)[index]
        total = self.cross_entropy(logits, label) if label.numel() else logits.sum() * 0.0
        correct = (logits.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, total, label.numel(), self.config.weight, correct)]

    def gather_across_step(self, model: TrainableModel, batch: Batch, parts: int) -> torch.Tensor | None:
        """The labelled vectors with their labels, where texts of other micro-batches are contrasted with these."""
        if parts == 1 or not self.config.contrast:
            return None
        return torch.cat([self._vectors(model, model(batch), batch), batch.targets[self.name][1][:, None]], dim=1)

    def _vectors(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> torch.Tensor:
        """Those of the labelled sequences. Shape: return: (K, width)"""
        return self.vectors(model, output, batch)[batch.targets[self.name][0]]

    def _contrast(self, vectors: torch.Tensor, label: torch.Tensor, batch: Batch) -> Term:
        """The contrast of labelled vectors among all of the step. Shape: vectors: (K, width); label: (K,)"""
        context, temperature = batch.step_context, self.config.contrast_temperature
        if context is None:
            losses = label_contrast(vectors, label, temperature)
        else:
            losses = step_contrast(vectors, label, context.table, context.start, temperature)
        return Term(self.name, losses.sum(), label.numel(), self.config.weight)

    def cross_entropy(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The summed loss of labelled sequences. Shape: logits: (K, C); label: (K,) int64; return: ()."""
        smoothing, gamma = self.config.label_smoothing, self.config.focal_gamma
        if not gamma:
            return F.cross_entropy(logits, label, self.class_weight, reduction="sum", label_smoothing=smoothing)
        each = F.cross_entropy(logits, label, self.class_weight, reduction="none", label_smoothing=smoothing)
        probability = logits.softmax(dim=1).gather(1, label[:, None])[:, 0]
        return ((1.0 - probability).clamp(min=1e-7) ** gamma * each).sum()  # the power's slope at 0 may be infinite

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[Answer]:
        """The most probable label of each sequence, the first of equals; or its values."""
        logits = self.logits(model, model(rows.batch), rows.batch).cpu()
        output = get_head(model, self.head_role, SequenceHead).output
        if output == "value":
            return [Values(dict(zip(self.labels, row, strict=True))) for row in logits.tolist()]
        probabilities = (logits / self.config.temperature).softmax(dim=1) if output == "softmax" else logits.sigmoid()
        prediction = Prediction if output == "softmax" else IndependentPrediction
        return [
            prediction(self.labels[n], dict(zip(self.labels, row, strict=True)))
            for n, row in zip(probabilities.argmax(dim=1).tolist(), probabilities.tolist(), strict=True)
        ]

    def merge(self, example: ClassificationExample, answers: Sequence[Answer]) -> Answer:
        """The answer of all rows; it abstains where it is less probable than the threshold."""
        answer = super().merge(example, answers)
        for choice in _choices([answer]):
            choice.judged_by(self.config.threshold)
        return answer

    def average(self, answers: Sequence[Answer]) -> Answer:
        """The answer of the mean logits."""
        return average(answers)

    @property
    def is_calibrated(self) -> bool:
        """Whether a temperature or a threshold is wanted."""
        return self.needs_held_out is not None

    @property
    def needs_held_out(self) -> str | None:
        """The setting that asks for a temperature or a threshold."""
        wanted = {"calibrate": self.config.calibrate, "abstain": self.config.abstain is not None}
        return next((f"task.{self.name}.{field}" for field, is_wanted in wanted.items() if is_wanted), None)

    def calibrate(self, predictions: Sequence[Answer], examples: Sequence[ClassificationExample]) -> Config:
        """The temperature, and the threshold of the probabilities that it gives."""
        truth = [self.labels.index(str(example.label)) for example in examples]
        probabilities = [list(answer.probabilities.values()) for answer in _choices(predictions)]
        config = self.config
        trust = choose_trust(probabilities, truth, config.calibrate, config.abstain, config.temperature)
        threshold = config.threshold if trust.threshold is None else trust.threshold
        return config.model_copy(update={"temperature": trust.temperature, "threshold": threshold})

    def score(self, predictions: Sequence[Answer], examples: Sequence[ClassificationExample]) -> dict[str, float]:
        """Accuracy, macro F1, Matthews' coefficient; precision, recall, F1 and count of each label.

        Macro F1 is the official average: over the labels that the truth or the predictions hold.

        Raises:
            DataError: an example without a label.
            UsageError: predictions that are values, or of labels that do not exclude each other.
        """
        from sklearn import metrics  # 100 MB with what it imports, which a model in use has no need of

        count_labels(examples, min_labels=1)
        truth = [example.label for example in examples]
        choices = _choices(predictions)
        guess = [prediction.label for prediction in choices]
        if len(guess) < len(truth):
            raise UsageError(
                "this model's config.json says problem_type regression or multi_label_classification, or one label: "
                "evaluate compares one label of several; use predict, and score what it writes"
            )
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            truth, guess, labels=self.labels, zero_division=0.0
        )
        scores = {
            "accuracy": float(metrics.accuracy_score(truth, guess)),
            "f1_macro": float(metrics.f1_score(truth, guess, average="macro", zero_division=0.0)),
            "mcc": _matthews(truth, guess),
            **trust_scores(
                [prediction.probability for prediction in choices],
                [label == other for label, other in zip(truth, guess, strict=True)],
                self.config.threshold,
            ),
            "ece_classwise": classwise_error(
                [[prediction.probabilities.get(label, 0.0) for label in self.labels] for prediction in choices],
                [self.labels.index(str(label)) for label in truth],
            ),
        }
        for n, label in enumerate(self.labels):
            scores |= {
                f"precision/{label}": float(precision[n]),
                f"recall/{label}": float(recall[n]),
                f"f1/{label}": float(f1[n]),
                f"count/{label}": float(support[n]),
            }
        return scores


def _choices(predictions: Sequence[Answer]) -> list[Prediction]:
    """The predictions of labels that exclude each other."""
    return [
        prediction
        for prediction in predictions
        if isinstance(prediction, Prediction) and not isinstance(prediction, IndependentPrediction)
    ]


def _matthews(truth: Sequence[str | None], guess: Sequence[str]) -> float:
    """Matthews' coefficient; 0 where there is one label alone, of which scikit-learn warns in words of its own."""
    from sklearn import metrics

    return float(metrics.matthews_corrcoef(truth, guess)) if len({*truth, *guess}) > 1 else 0.0


def count_labels(
    examples: Sequence[ClassificationExample], min_labels: int = 2, *, task: str = "classification"
) -> Counter[str]:
    """How often each label occurs.

    Args:
        task: that needs so many labels, for the message.

    Raises:
        DataError: no examples, one without a label, or fewer than `min_labels` different labels.
    """
    if not examples:
        raise DataError("no examples: the file has a header at most; give at least one line a label")
    counts: Counter[str] = Counter()
    for example in examples:
        if example.label is None:
            raise DataError(f"{example.origin}: no label; every example needs one here")
        counts[example.label] += 1
    if len(counts) < min_labels:
        raise DataError(
            f"{examples[0].origin.source}: all {len(examples)} examples have the label {next(iter(counts))!r}; "
            f"{task} needs at least {min_labels} different labels; name the column of the labels with --label"
        )
    return counts


def order_labels(labels: Iterable[str], examples: Sequence[ClassificationExample]) -> list[str]:
    """Sorts labels: numbers by their value, words as text.

    Raises:
        DataError: some are numbers and others are words.
    """
    names = list(labels)
    numbers = [name for name in names if _NUMBER.fullmatch(name.strip())]
    if not numbers:
        return sorted(names)
    fraction = next((name for name in numbers if not float(name).is_integer()), None)
    if fraction is not None:
        example = next(example for example in examples if example.label == fraction)
        raise DataError(
            f"{example.origin}: label {fraction!r}: fractions are scores and no classes; use --task regression to "
            f"learn them, or name the classes: {_NAME_LABELS}"
        )
    if len(numbers) == len(names):
        return sorted(names, key=lambda name: (float(name), name))
    words = [name for name in names if name not in numbers]
    odd = words if len(words) < len(numbers) else numbers
    example = next(example for example in examples if example.label in odd)
    raise DataError(
        f"{example.origin}: label {example.label!r}: {len(numbers)} of the labels are numbers, such as {numbers[0]!r}, "
        f"and {len(words)} are words, such as {words[0]!r}; correct the label, or name all labels in task.labels"
    )


def _unseen(example: ClassificationExample, labels: Sequence[str], problem: str) -> str:
    known = ", ".join(labels[:20]) + (f", ... ({len(labels)} in all)" if len(labels) > 20 else "")
    return (
        f"{example.origin}: label {example.label!r} {problem}; known labels: {known}; correct the label, or add it "
        "to the training data or to task.labels"
    )
