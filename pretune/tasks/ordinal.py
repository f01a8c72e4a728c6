"""Labels that have an order, such as ratings from 1 to 5 or bad, fair, good: a wrong label is worse the farther it is.

Data: examples with a text, an optional second text, and a label. Labels that are numbers are ordered by their value;
words are named in their order in `labels`, the lowest first.

The head has an output for each label but the last: is the label higher, given that it is not lower? Probabilities are
products of these, so that "higher than 3" is never more probable than "higher than 2". A prediction is the median: the
label that has at most half of the probability on either side, which errs by the fewest places.

Source: Shi, Cao and Raschka 2021, CORN (arXiv 2111.08851).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pretune.batch import Batch
from pretune.errors import DataError, UsageError
from pretune.loss import Term
from pretune.nn.heads import ProblemType
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.tasks.classification import ClassificationExample, count_labels
from pretune.tasks.shared.predictions import Prediction
from pretune.tasks.shared.sequence_task import SequenceTask
from pretune.tasks.shared.vector_task import is_number
from pretune.tasks.task import RowBatch, int_targets
from pretune.text.readers.labelled import LabelledText
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary
from pretune.wording import listed


class Ordinal(SequenceTask[ClassificationExample, Prediction]):
    """One of several ordered labels a text.

    Args:
        config: with `labels` filled in, by hand or by `resolve_config`; without them it can only read examples.
        vocabulary: of the tokenizer that encodes the texts.
    """

    name: ClassVar[str] = "ordinal"
    problem_type: ClassVar[ProblemType] = "multi_label_classification"
    main_metric: str = "qwk"

    class Config(SequenceTask.Config):
        """The labels.

        Attributes:
            labels: the labels from the lowest to the highest; by default those of the training data, which must then be
                numbers.
        """

        labels: tuple[str, ...] = ()

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.config = config
        self.labels = list(config.labels)
        self._number = {label: n for n, label in enumerate(self.labels)}

    @property
    def outputs(self) -> Sequence[str]:
        """Each label but the last, beyond which a text may be."""
        return [f"> {label}" for label in self.labels[:-1]]

    def resolve_config(self, examples: Sequence[ClassificationExample]) -> Config:
        """Fill in the labels, ordered by their values.

        Raises:
            UsageError: one label, or words whose order nobody names.
            DataError: no examples, an example without a label, fewer than two labels, or a label that `labels` lacks.
        """
        counts = count_labels(examples, task=self.name)
        if self.config.labels:
            if len(self.config.labels) < 2:
                raise UsageError(f"task.ordinal.labels: expected at least two labels, got {list(self.config.labels)}")
            for example in examples:
                self._number_of(example)
            return self.config
        words = [label for label in counts if not is_number(label)]
        if words:
            named = ", ".join(f'"{label}"' for label in sorted(counts)[:20])
            raise UsageError(
                f"{examples[0].origin.source}: labels such as {words[0]!r} are words, whose order only you know; name "
                f"all from the lowest to the highest: task.ordinal.labels = [{named}]"
            )
        return self.config.model_copy(update={"labels": tuple(sorted(counts, key=float))})

    def read(self, record: Mapping[str, object]) -> ClassificationExample:
        """A text or a pair, and its label."""
        fields = LabelledText.read(record, self.config.columns)
        return ClassificationExample(fields.text, fields.label, second=fields.second, origin=fields.origin)

    def target_of(self, example: ClassificationExample) -> NDArray[np.int64] | None:
        """The label's place in the order."""
        return int_targets(None if example.label is None else self._number_of(example))

    def _number_of(self, example: ClassificationExample) -> int:
        """The label's place in the order.

        Raises:
            DataError: the label is not known.
        """
        if str(example.label) not in self._number:
            raise DataError(
                f"{example.origin}: label {example.label!r} is none of the ordered labels {listed(self.labels, 20)}; "
                "correct the label, or name it in task.ordinal.labels"
            )
        return self._number[str(example.label)]

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the decisions that the label answers, summed over the labelled sequences."""
        index, label = batch.targets[self.name]
        logits = self.logits(model, output, batch)[index]
        steps = torch.arange(logits.shape[1], device=logits.device)
        is_higher, is_asked = label[:, None] > steps, label[:, None] >= steps
        each = F.binary_cross_entropy_with_logits(logits, is_higher.to(logits.dtype), reduction="none")
        correct = (_median(_survival(logits.detach())) == label).sum()
        return [Term(self.name, (each * is_asked).sum(), len(index), self.config.weight, correct)]

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[Prediction]:
        """The median label of each sequence, and the probability of each label."""
        higher = _survival(self.logits(model, model(rows.batch), rows.batch)).cpu()
        return self._predictions(F.pad(higher, (1, 0), value=1.0) - F.pad(higher, (0, 1)), _median(higher))

    def average(self, answers: Sequence[Prediction]) -> Prediction:
        """The median of the mean probabilities."""
        mean = torch.tensor([list(answer.probabilities.values()) for answer in answers]).mean(dim=0, keepdim=True)
        (prediction,) = self._predictions(mean, _median(1.0 - mean.cumsum(dim=1)[:, :-1]))
        return prediction

    def _predictions(self, probabilities: torch.Tensor, places: torch.Tensor) -> list[Prediction]:
        """Shape: probabilities: (N, K); places: (N,)."""
        return [
            Prediction(self.labels[n], dict(zip(self.labels, row, strict=True)))
            for n, row in zip(places.tolist(), probabilities.tolist(), strict=True)
        ]

    def score(self, predictions: Sequence[Prediction], examples: Sequence[ClassificationExample]) -> dict[str, float]:
        """Kappa with quadratic weights, mean distance in places, accuracy; precision, recall, F1, count by label.

        Raises:
            DataError: an example without a label.
        """
        from sklearn import metrics  # 100 MB with what it imports, which a model in use has no need of

        count_labels(examples, min_labels=1)
        numbers = range(len(self.labels))
        truth = np.array([self._number_of(example) for example in examples])
        guess = np.array([self._number[prediction.label] for prediction in predictions])
        differs = len({*truth.tolist(), *guess.tolist()}) > 1  # else kappa is not defined
        kappa = metrics.cohen_kappa_score(truth, guess, labels=list(numbers), weights="quadratic") if differs else 0.0
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            truth, guess, labels=list(numbers), zero_division=0.0
        )
        scores = {
            "qwk": float(kappa),
            "mae": float(np.abs(truth - guess).mean()),
            "accuracy": float((truth == guess).mean()),
            "f1_macro": float(metrics.f1_score(truth, guess, average="macro", zero_division=0.0)),
        }
        for n, label in enumerate(self.labels):
            values = {"precision": precision, "recall": recall, "f1": f1, "count": support}
            scores |= {f"{name}/{label}": float(value[n]) for name, value in values.items()}
        return scores


def _survival(logits: torch.Tensor) -> torch.Tensor:
    """The probability that the label is higher than each but the last. Shape: (N, K - 1) -> (N, K - 1)."""
    return logits.sigmoid().cumprod(dim=1)


def _median(higher: torch.Tensor) -> torch.Tensor:
    """The lowest label beyond which lies at most half of the probability. Shape: (N, K - 1) -> (N,)."""
    return (higher > 0.5).sum(dim=1)
