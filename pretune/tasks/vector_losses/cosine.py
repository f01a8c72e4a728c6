"""Cosine: the cosine of a pair shall be its label.

Data: pairs (`--second`) whose label is a number. Labels from -1 to 1 are the cosines themselves; of labels on another
scale, such as 0 to 5, the lowest of the training data becomes 0 and the highest 1 (`low`, `high`). Where only the order
of labels matters, `cosent` is the better loss; this one gives cosines that mean something, such as a teacher's.

Source: Reimers and Gurevych 2019, Sentence-BERT (arXiv 1908.10084), section 3; `CosineSimilarityLoss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pretune import config as configuration
from pretune.tasks.shared.vector_task import PairExample, number_of, scores_of
from pretune.tasks.vector_losses.vector_loss import RowLosses, VectorLoss, VectorTable, refuse_negatives


class Cosine(VectorLoss):
    """Squared difference of cosine and label."""

    learns: ClassVar[Literal["scores", "vectors"] | None] = "scores"

    class Config(configuration.Config):
        """The scale of the labels.

        Attributes:
            low: label whose pairs should have the cosine 0; by default the lowest of the training data, or 0 where all
                are from -1 to 1.
            high: label whose pairs should have the cosine 1; by default the highest, or 1.
        """

        low: float | None = Field(default=None, allow_inf_nan=False)
        high: float | None = Field(default=None, allow_inf_nan=False)

        @model_validator(mode="after")
        def _ascend(self) -> Cosine.Config:
            if self.low is not None and self.high is not None and self.low >= self.high:
                raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
            return self

    config: Config

    def resolve_config(self, examples: Sequence[PairExample]) -> configuration.Config:
        """The scale of the labels.

        Raises:
            DataError: some pairs have no score, or all have the same; third texts.
        """
        scores = scores_of(examples)
        refuse_negatives(examples, "cosine")
        is_cosine = min(scores) >= -1 and max(scores) <= 1
        low, high = (0.0, 1.0) if is_cosine else (min(scores), max(scores))
        chosen = {"low": low, "high": high} | self.config.model_dump(exclude_none=True)
        return configuration.validate(type(self.config), chosen, "task.similarity.loss.cosine")

    def training_notes(self, examples: Sequence[PairExample]) -> list[str]:
        """What cosine a label stands for."""
        return [f"labels are used as cosines: {self.config.low:g} is 0, {self.config.high:g} is 1"]

    def targets(self, example: PairExample) -> Sequence[float] | None:
        """The label, where it is known."""
        return None if example.label is None else [number_of(example)]

    def forward(self, table: VectorTable) -> RowLosses:
        """The loss of each pair."""
        low, high = self.config.low or 0.0, 1.0 if self.config.high is None else self.config.high
        wanted = (table.scores[:, 0] - low) / (high - low)
        return RowLosses((table.cosines[:, 0] - wanted).square())
