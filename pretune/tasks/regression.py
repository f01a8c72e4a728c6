"""A number a text: a rating, a price, how alike the two texts of a pair are.

Data: examples with a text, an optional second text, and a label that is a number on any scale.

The mean squared error is taken of labels that are brought to mean 0 and deviation 1, so that any scale can be learned;
predictions are on the scale of the labels. In the finished model the scale stands in the last layer, so that
`transformers` (problem type `regression`) gives the same numbers.

Source: Devlin et al. 2019 (arXiv 1810.04805), section 4.1, for STS-B as regression.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from pretune.batch import Batch
from pretune.errors import DataError
from pretune.loss import Term
from pretune.nn.heads import ProblemType, SequenceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.nn.projection import Projection
from pretune.tasks.shared.pair_scores import correlations
from pretune.tasks.shared.sequence_task import SequenceTask, TextExample
from pretune.tasks.shared.vector_task import is_number
from pretune.tasks.task import RowBatch
from pretune.text.readers.labelled import LabelledText
from pretune.text.tokenizer.tokenizer import Tokenizer

_OUTPUT = "LABEL_0"  # what transformers calls an output without a name


@dataclass(frozen=True, slots=True)
class RegressionExample(TextExample):
    """A text, or a pair of texts, and its number.

    Attributes:
        value: None where it is not known.
    """

    value: float | None = None


class RegressionPrediction(TypedDict):
    """What is said of a text.

    Attributes:
        value: on the scale of the labels.
    """

    value: float


class Regression(SequenceTask[RegressionExample, RegressionPrediction]):
    """A number a text."""

    name: ClassVar[str] = "regression"
    problem_type: ClassVar[ProblemType] = "regression"
    main_metric: str = "pearson"
    target_dtype: ClassVar[type[np.generic]] = np.float32

    class Config(SequenceTask.Config):
        """The scale of the labels.

        Attributes:
            mean, deviation: of the labels of the training data, from which they are filled in; 0 and 1 once the scale
                stands in the weights.
        """

        mean: float | None = None
        deviation: float | None = Field(default=None, gt=0.0)

    config: Config

    @classmethod
    def reads(cls, model: TrainableModel) -> bool:
        """Whether the files say that the one score is a value."""
        head = dict(model.heads.items()).get("classification")
        return isinstance(head, SequenceHead) and head.output == "value" and len(head.labels) == 1

    @property
    def outputs(self) -> Sequence[str]:
        """One number."""
        return [_OUTPUT]

    def resolve_config(self, examples: Sequence[RegressionExample]) -> Config:
        """Fill in mean and deviation.

        Raises:
            DataError: no examples, one without a number, or numbers that are all alike.
        """
        values = _values(examples)
        if len(set(values)) < 2:
            raise DataError(
                f"{examples[0].origin.source}: all {len(values)} labels are {values[0]:g}, so that there is nothing to "
                "learn; name the column of the labels with --label"
            )
        scale = {"mean": float(np.mean(values)), "deviation": float(np.std(values))}
        stated = {name: value for name in scale if (value := getattr(self.config, name)) is not None}
        return self.config.model_copy(update=scale | stated)

    def training_notes(self, examples: Sequence[RegressionExample]) -> list[str]:
        """The range of the labels."""
        values = _values(examples)
        return [f"labels are numbers from {min(values):g} to {max(values):g}, {np.mean(values):g} on average"]

    def read(self, record: Mapping[str, object]) -> RegressionExample:
        """A text or a pair, and its number."""
        fields = LabelledText.read(record, self.config.columns)
        value = None if fields.label is None else _number(fields)
        return RegressionExample(fields.text, value, second=fields.second, origin=fields.origin)

    def adopt(self, model: TrainableModel, roles: Collection[str]) -> None:
        """Takes the scale out of a head of the model's files, whose values are on the scale of labels."""
        linear = self._linear(model)
        if linear is not None and self.role in roles:
            self._rescale(linear, 1.0 / self._deviation, -self._mean / self._deviation)

    def finalize(self, model: TrainableModel) -> Config:
        """Puts the scale into the last layer, where that has a bias."""
        linear = self._linear(model)
        if linear is None:
            return self.config
        self._rescale(linear, self._deviation, self._mean)
        return self.config.model_copy(update={"mean": 0.0, "deviation": 1.0})

    def target_of(self, example: RegressionExample) -> NDArray[np.float32] | None:
        """The number, brought to the scale of the head."""
        if example.value is None:
            return None
        return np.array((example.value - self._mean) / self._deviation, np.float32)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Squared errors, summed over the sequences whose number is known."""
        index, wanted = batch.targets[self.name]
        values = self.logits(model, output, batch)[index, 0]
        return [Term(self.name, (values - wanted).square().sum(), len(index), self.config.weight)]

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[RegressionPrediction]:
        """The number of each sequence, on the scale of the labels."""
        values = self.logits(model, model(rows.batch), rows.batch)[:, 0].double() * self._deviation + self._mean
        return [{"value": value} for value in values.tolist()]

    def average(self, answers: Sequence[RegressionPrediction]) -> RegressionPrediction:
        """The mean number."""
        return {"value": float(np.mean([answer["value"] for answer in answers]))}

    def score(
        self, predictions: Sequence[RegressionPrediction], examples: Sequence[RegressionExample]
    ) -> dict[str, float]:
        """Correlations with the labels by value and by rank; mean absolute and squared error; variance explained.

        Raises:
            DataError: an example without a number.
        """
        truth = np.array(_values(examples))
        values = np.array([prediction["value"] for prediction in predictions])
        errors, spread = values - truth, float(((truth - truth.mean()) ** 2).sum())
        return {
            **correlations(values.tolist(), truth.tolist()),
            "mae": float(np.abs(errors).mean()),
            "rmse": float(np.sqrt((errors**2).mean())),
            "r2": 1.0 - float((errors**2).sum()) / spread if spread else 0.0,
        }

    @property
    def _mean(self) -> float:
        return self.config.mean or 0.0

    @property
    def _deviation(self) -> float:
        return self.config.deviation or 1.0

    def _linear(self, model: TrainableModel) -> Projection | None:
        """The last layer of the head, where values can be moved and stretched in it."""
        linear = get_head(model, self.role, SequenceHead).linear
        return linear if isinstance(linear, Projection) and linear.bias is not None else None

    @staticmethod
    @torch.no_grad()
    def _rescale(linear: Projection, factor: float, shift: float) -> None:
        """Lets a layer give `factor * value + shift`."""
        linear.weight.mul_(factor)
        linear.bias.mul_(factor).add_(shift)


def _number(fields: LabelledText) -> float:
    """A label as a number.

    Raises:
        DataError: it is none, or not finite.
    """
    if not is_number(fields.label):
        raise DataError(
            f"{fields.origin}: label {fields.label!r} is not a finite number; correct it, remove the row, or use "
            "--task classification for labels that are names"
        )
    return float(str(fields.label))


def _values(examples: Sequence[RegressionExample]) -> list[float]:
    """The numbers of all examples.

    Raises:
        DataError: no examples, or one without a number.
    """
    if not examples:
        raise DataError("no examples: the file has a header at most; give at least two lines a number")
    for example in examples:
        if example.value is None:
            raise DataError(f"{example.origin}: no label; every example needs a number here")
    return [float(example.value or 0.0) for example in examples]
