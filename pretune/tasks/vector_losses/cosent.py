"""CoSENT: the cosines of a step's pairs are put in the order of their labels.

Data: pairs (`--second`) whose label says how alike they are, a number on any scale, larger for more alike; only the
order of the labels counts. It is what labels that differ are learned by where no loss is named, and is better than
`cosine`, which wants the numbers themselves, on sets like STS-B.

Source: CoSENT (Su 2022, https://kexue.fm/archives/8847); `CoSENTLoss` of sentence-transformers. Related: `angle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune import config as configuration
from pretune.tasks.shared.vector_task import PairExample, number_of, scores_of
from pretune.tasks.vector_losses.vector_loss import RowLosses, VectorLoss, VectorTable, refuse_negatives


class Cosent(VectorLoss):
    """How far the cosines of pairs are from the order of the scores."""

    compares_examples: ClassVar[bool] = True
    learns: ClassVar[Literal["scores", "vectors"] | None] = "scores"

    def resolve_config(self, examples: Sequence[PairExample]) -> configuration.Config:
        """Nothing is filled in.

        Raises:
            DataError: some pairs have no score, or all have the same; third texts.
        """
        scores_of(examples)
        refuse_negatives(examples, "cosent")
        return super().resolve_config(examples)

    def training_notes(self, examples: Sequence[PairExample]) -> list[str]:
        """That labels are used as scores."""
        scores = [number_of(example) for example in examples]
        return [f"labels are used as scores of how alike pairs are, {min(scores):g} to {max(scores):g}"]

    def targets(self, example: PairExample) -> Sequence[float] | None:
        """The label, where it is known."""
        return None if example.label is None else [number_of(example)]

    def forward(self, table: VectorTable) -> RowLosses:
        """One loss of all pairs together, which each is given."""
        return by_order(table.scores[:, 0], table.cosines[:, 0] / table.temperature)


def by_order(scores: Tensor, values: Tensor) -> RowLosses:
    """The logarithm of 1 and, over all two pairs in another order than their scores, of how far apart they are.

    Shape:
        scores, values: (N,)
    """
    is_higher = scores[:, None] > scores
    gaps = (values - values[:, None]).masked_fill(~is_higher, -torch.inf)
    return RowLosses(F.pad(gaps.flatten(), (1, 0)).logsumexp(dim=0).expand(len(values)))
