"""Margin distillation (MarginMSE): the student's margins between partner and negatives shall be a better model's.

Data: a text, the one that belongs to it and negatives (`--second`, `--third`), with a label: the list of the scores of
the second text and of each negative (`pretune mine --scorer CROSS-ENCODER` writes them as `scores`), or of one negative
the margin alone, a number. Or no label and `teacher`, a model that scores pairs, which is asked once for every pair,
before the first step. Cosines are multiplied by `scale` first, as a cross-encoder's scores have a range of their own.

Source: Hofstätter et al. 2020 (arXiv 2010.02666), equation 3; `MarginMSELoss` of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from pretune import config as configuration
from pretune.errors import DataError
from pretune.tasks.shared.vector_task import PairExample, number_of
from pretune.tasks.vector_losses.vector_loss import RowLosses, VectorLoss, VectorTable, first_without, mean_over


class MarginDistillation(VectorLoss):
    """Squared difference of margins, the mean over a text's negatives."""

    learns: ClassVar[Literal["scores", "vectors"] | None] = "scores"

    class Config(configuration.Config):
        """The teacher, and what its scores are compared with.

        Attributes:
            teacher: folder of a model that scores pairs, such as a reranker, where the data hold no scores.
            scale: what the student's cosines are multiplied by.
        """

        teacher: str | None = None
        scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    config: Config

    def resolve_config(self, examples: Sequence[PairExample]) -> configuration.Config:
        """Nothing is filled in.

        Raises:
            DataError: an example has no negative, no scores, or another number of them.
        """
        missing = first_without(examples, "third")
        if missing is not None:
            raise DataError(
                f"{missing.origin}: no third text, and margin_distillation compares a partner with negatives; name "
                "their column with --third, or find some with pretune mine"
            )
        if self.config.teacher is None:
            for example in examples:
                _margins(example)
        return super().resolve_config(examples)

    def training_notes(self, examples: Sequence[PairExample]) -> list[str]:
        """Whose margins are learned."""
        if self.config.teacher is not None:
            return [f"margins are learned from {self.config.teacher}; labels are not used"]
        return ["labels are used as a teacher's scores, whose margins are learned"]

    def targets(self, example: PairExample) -> Sequence[float] | None:
        """The scores of all further texts, where they are known; of a margin alone, as if the negative's were 0."""
        if example.third is None or (example.label is None and example.values is None):
            return None
        return _margins(example)

    def forward(self, table: VectorTable) -> RowLosses:
        """The loss of each example."""
        margins = (table.cosines[:, :1] - table.cosines[:, 1:]) * self.config.scale
        wanted = table.scores[:, :1] - table.scores[:, 1:]
        return RowLosses(mean_over((margins - wanted.nan_to_num()).square(), table.present[:, 2:]))


def _margins(example: PairExample) -> list[float]:
    """The scores of the second text and of each negative.

    Raises:
        DataError: none, or another number of them.
    """
    remedy = (
        "give the score of the second text and of each negative, in their order (pretune mine --scorer writes them)"
    )
    count = len(example.negatives) + 1
    if example.values is not None:
        if len(example.values) != count:
            raise DataError(
                f"{example.origin}: {len(example.values)} scores for 1 text and {count - 1} negatives; {remedy}"
            )
        return [float(value) for value in example.values]
    if example.label is None:
        raise DataError(
            f"{example.origin}: no scores to learn margins from; {remedy}, name their column with --label, or name a "
            "model that scores pairs: task.similarity.loss.margin_distillation.teacher"
        )
    if count != 2:
        raise DataError(f"{example.origin}: the margin {example.label!r} for {count - 1} negatives; {remedy}")
    return [number_of(example), 0.0]
