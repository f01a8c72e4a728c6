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
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.find import suggest
from pretune.loss import Term
from pretune.nn.heads import SequenceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import Ability, ends, name_samples, target
from pretune.tasks.predictions import Answer, IndependentPrediction, Prediction, Values
from pretune.tasks.task import (
    Example,
    RowBatch,
    Task,
    build_row,
    encode_texts,
    int_targets,
    tokens_of,
    truncate_pair,
)
from pretune.text.readers.labelled import LabelledText
from pretune.text.samples.rows import Encoded, Ints, Row
from pretune.text.tokenizer.long_texts import Keep
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_BOOLEANS = ("bool", "bool_")  # of Python and of numpy
_NAME_LABELS = """task.classification.labels = ["...", "..."]"""


@dataclass(frozen=True, slots=True)
class ClassificationExample(Example):
    """A text, or a pair of texts, and its label.

    Attributes:
        text: never empty.
        label: None where it is not known.
        second: the second text of a pair.
    """

    text: str
    label: str | None = None
    second: str | None = None


class Classification(Task[ClassificationExample, Answer, Answer]):
    """One label a text.

    Args:
        config: with `labels` filled in, by hand or by `resolve_config`; without them it can only read examples.
        vocabulary: of the tokenizer that encodes the texts.
    """

    name: ClassVar[str] = "classification"
    role: ClassVar[str] = "classification"

    class Config(Task.Config):
        """Labels and the shape of the loss.

        Attributes:
            labels: the labels in the order of the head's outputs; empty: those of the training data, sorted.
            class_weights: `balanced` weighs a label by n / (labels * its count), as scikit-learn does; or a weight for
                each label (1 where not named).
            label_smoothing: fraction of the target that is spread over all labels.
        """

        labels: tuple[str, ...] = ()
        class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
        label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)

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
        counts = count_labels(examples)
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
        return ClassificationExample(fields.text, fields.label, fields.second, origin=fields.origin)

    def encode(self, examples: Sequence[ClassificationExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """A row for each example; a text and its second make one sequence, of which the longer is truncated first."""
        targets = [int_targets(self._number_of(example)) for example in examples]
        keep = Keep.of(length, self.config.truncate)
        firsts = encode_texts(examples, [example.text for example in examples], tokenizer, keep)
        seconds = encode_texts(examples, [example.second for example in examples], tokenizer, keep)
        rows = []
        for n, (example, first, second) in enumerate(zip(examples, firsts, seconds, strict=True)):
            assert first is not None  # every example has a text
            max_tokens = length - self.vocabulary.overhead(second is not None)
            index = None if second is None else np.arange(len(second[0]))
            kept = truncate_pair(np.arange(len(first[0])), index, max_tokens, self.config.truncate, example)
            rows.append(build_row(n, (first, second), kept, targets[n]))
        return rows

    def _number_of(self, example: ClassificationExample) -> int | None:
        """The label's place in `labels`."""
        if example.label is None:
            return None
        if example.label not in self._number:
            raise DataError(_unseen(example, self.labels, "was not seen in training"))
        return self._number[example.label]

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head that decides among the labels."""
        return {self.role: model.sequence_head(self.labels)}

    @property
    def abilities(self) -> dict[str, Ability]:
        """It labels texts."""
        return {self.name: "classify"}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Wrap texts in the model's special tokens and name the labels that are known."""
        wrapped = [self.vocabulary.add_special_tokens(row.tokens, row.second) for row in rows]
        batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
        known = [(n, int(row.targets)) for n, row in enumerate(rows) if row.targets is not None]
        index, label = np.array(known, dtype=np.int64).reshape(-1, 2).T
        batch = name_samples(batch, rows)
        batch.targets[self.name] = target(index, label)
        return batch

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts, and the special ones around them."""
        return tokens_of(self, Classification, rows)

    def output_rows(self, batch: Batch) -> NDArray[np.int64]:
        """The ends of every sequence."""
        return ends(batch.layout)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy, weighted and smoothed as configured, summed over the labelled sequences."""
        index, label = batch.targets[self.name]
        logits = self._logits(model, output, batch)[index]
        if label.numel():
            total = F.cross_entropy(
                logits,
                label,
                weight=self.class_weight,
                reduction="sum",
                label_smoothing=self.config.label_smoothing,
            )
        else:
            total = logits.sum() * 0.0
        correct = (logits.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, total, label.numel(), self.config.weight, correct)]

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[Answer]:
        """The most probable label of each sequence, the first of equals; or its values."""
        logits = self._logits(model, model(rows.batch), rows.batch).cpu()
        output = get_head(model, self.role, SequenceHead).output
        if output == "value":
            return [Values(dict(zip(self.labels, row, strict=True))) for row in logits.tolist()]
        probabilities = logits.softmax(dim=1) if output == "softmax" else logits.sigmoid()
        prediction = Prediction if output == "softmax" else IndependentPrediction
        return [
            prediction(self.labels[n], dict(zip(self.labels, row, strict=True)))
            for n, row in zip(probabilities.argmax(dim=1).tolist(), probabilities.tolist(), strict=True)
        ]

    def merge(self, example: ClassificationExample, answers: Sequence[Answer]) -> Answer:
        """The answer of the one row."""
        (answer,) = answers
        return answer

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
        guess = [prediction.label for prediction in predictions if type(prediction) is Prediction]
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
        }
        for n, label in enumerate(self.labels):
            scores |= {
                f"precision/{label}": float(precision[n]),
                f"recall/{label}": float(recall[n]),
                f"f1/{label}": float(f1[n]),
                f"count/{label}": float(support[n]),
            }
        return scores

    def _logits(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> torch.Tensor:
        """Shape: return: (N, C) fp32."""
        logits: torch.Tensor = get_head(model, self.role, SequenceHead)(output.last_hidden_state, output.layout)
        return logits.float()


def _matthews(truth: Sequence[str | None], guess: Sequence[str]) -> float:
    """Matthews' coefficient; 0 where there is one label alone, of which scikit-learn warns in words of its own."""
    from sklearn import metrics

    return float(metrics.matthews_corrcoef(truth, guess)) if len({*truth, *guess}) > 1 else 0.0


def count_labels(examples: Sequence[ClassificationExample], min_labels: int = 2) -> Counter[str]:
    """How often each label occurs.

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
            f"classification needs at least {min_labels} different labels; name the column of the labels with --label"
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
            f"{example.origin}: label {fraction!r}: fractions are scores and no classes; use --task similarity for "
            f"scores of pairs, or name the classes: {_NAME_LABELS}"
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
