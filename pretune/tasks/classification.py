"""Text classification: one label a text, or a pair of texts.

Data: examples with a text, an optional second text, and a string label. BERT reads `[CLS] text [SEP]` and answers from
the first row through the pooler; GPT-2 reads the bare text and answers from the last row, without any padding token.

Source: Devlin et al. 2019 (arXiv 1810.04805), section 4.1; Radford et al. 2018, section 3.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from sklearn import metrics
from torch import nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.find import suggest
from pretune.loss import Term
from pretune.nn.heads import SequenceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import ends, name_samples, target
from pretune.tasks.task import Prediction, Task, Tokens, tokens_of, where
from pretune.text.readers.labelled import Example
from pretune.text.samples.rows import Encoding, Row
from pretune.text.tokenizer.tokenizer import Vocabulary


class Classification(Task[Prediction]):
    """One label a text.

    Args:
        config: with `labels` filled in, by hand or by `settle`.
        vocabulary: of the tokenizer that encodes the texts.
    """

    name: ClassVar[str] = "classification"

    class Config(Task.Config):
        """Labels and the shape of the loss.

        Attributes:
            labels: in the order of the head's outputs; empty: those of the training data, sorted.
            class_weights: `balanced` weighs a label by n / (labels * its count), as scikit-learn does; or a weight for
                each label (1 where not named).
            label_smoothing: share of the target that is spread over all labels.
        """

        labels: tuple[str, ...] = ()
        class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
        label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        if len(config.labels) < 2:
            raise UsageError(f"task.labels: classification needs at least two labels, got {list(config.labels)}")
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

    @classmethod
    def settle(cls, config: Config, examples: Sequence[Example]) -> Config:
        """Fill in the labels, sorted, and balanced class weights.

        Raises:
            DataError: no examples, an example without a label, fewer than two labels, or a label that `labels` lacks.
        """
        counts = count_labels(examples)
        labels = config.labels or tuple(sorted(counts))
        known = set(labels)
        for example in examples:
            if example.label not in known:
                raise DataError(_unseen(example, labels, "is not in task.labels"))
        weights = config.class_weights
        if weights == "balanced":
            weights = {label: len(examples) / (len(counts) * counts[label]) for label in labels if counts[label]}
        return config.model_copy(update={"labels": labels, "class_weights": weights})

    def label_of(self, example: Example) -> int | None:
        """The label's place in `labels`."""
        if example.label is None:
            return None
        if example.label not in self._number:
            raise DataError(_unseen(example, self.labels, "was not seen in training"))
        return self._number[example.label]

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head that decides among the labels."""
        return {self.name: model.sequence_head(self.labels)}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Wrap texts in the model's special tokens and name the labels that are known."""
        wrapped = [self.vocabulary.wrap(row.tokens, row.second) for row in rows]
        batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
        known = [(n, row.label) for n, row in enumerate(rows) if row.label is not None]
        index, label = np.array(known, dtype=np.int64).reshape(-1, 2).T
        batch = name_samples(batch, rows)
        batch.targets[self.name] = target(index, label)
        return batch

    def tokens(self, rows: Sequence[Encoding]) -> Tokens | None:
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

    @torch.inference_mode()
    def decode(self, model: TrainableModel, batch: Batch) -> list[Prediction]:
        """The most probable label of each sequence; the first of equals."""
        probabilities = self._logits(model, model(batch), batch).softmax(dim=1).cpu().numpy()
        best = probabilities.argmax(axis=1).tolist()
        return [
            Prediction(self.labels[n], dict(zip(self.labels, row, strict=True)))
            for n, row in zip(best, probabilities.tolist(), strict=True)
        ]

    def score(self, answers: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float]:
        """Accuracy, macro F1, Matthews' coefficient; precision, recall, F1 and count of each label.

        Raises:
            DataError: an example without a label.
        """
        count_labels(examples, least=1)
        truth = [example.label for example in examples]
        guess = [prediction.label for prediction in answers]
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            truth, guess, labels=self.labels, zero_division=0.0
        )
        scores = {
            "accuracy": float(metrics.accuracy_score(truth, guess)),
            "f1_macro": float(metrics.f1_score(truth, guess, labels=self.labels, average="macro", zero_division=0.0)),
            "mcc": float(metrics.matthews_corrcoef(truth, guess)),
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
        logits: torch.Tensor = get_head(model, self.name, SequenceHead)(output.last_hidden_state, output.layout)
        return logits.float()


def count_labels(examples: Sequence[Example], least: int = 2) -> Counter[str]:
    """How often each label occurs.

    Raises:
        DataError: no examples, one without a label, or fewer than `least` different labels.
    """
    if not examples:
        raise DataError("no examples: the file has a header at most; give at least one line a label")
    counts: Counter[str] = Counter()
    for example in examples:
        if example.label is None:
            raise DataError(f"{where(example)}: no label; every example needs one here")
        counts[example.label] += 1
    if len(counts) < least:
        raise DataError(
            f"{examples[0].source}: all {len(examples)} examples have the label {next(iter(counts))!r}; "
            f"classification needs at least {least} different labels (is label_column right?)"
        )
    return counts


def _unseen(example: Example, labels: Sequence[str], problem: str) -> str:
    shown = ", ".join(labels[:20]) + (f", ... ({len(labels)} in all)" if len(labels) > 20 else "")
    return (
        f"{where(example)}: label {example.label!r} {problem}; known labels: {shown}; correct the label, or add it "
        "to the training data or to task.labels"
    )
