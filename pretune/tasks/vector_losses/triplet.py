"""Triplet: a text shall be nearer to the one that belongs to it than to its negatives, by a margin.

Data: triplets (`--second`, `--third`: a text, or a list of texts). Each negative is compared alone, so that steps need
not be large; where there are pairs enough, `contrast`, which sees all others of the step too, is mostly better.

Source: Schroff et al. 2015, FaceNet (arXiv 1503.03832); Reimers and Gurevych 2019 (arXiv 1908.10084); `TripletLoss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from pretune import config as configuration
from pretune.errors import DataError
from pretune.tasks.shared.vector_task import PairExample
from pretune.tasks.vector_losses.vector_loss import RowLosses, VectorLoss, VectorTable, first_without, mean_over


class Triplet(VectorLoss):
    """How much of the margin is missing, the mean over a text's negatives."""

    class Config(configuration.Config):
        """The margin.

        Attributes:
            margin: by which the distance to a negative should be larger than that to the text's partner.
            distance: 1 less the cosine, or the length of the difference of two vectors of length 1.
        """

        margin: float = Field(default=0.2, gt=0, allow_inf_nan=False)
        distance: Literal["cosine", "euclidean"] = "cosine"

    config: Config

    def resolve_config(self, examples: Sequence[PairExample]) -> configuration.Config:
        """Nothing is filled in.

        Raises:
            DataError: an example has no negative.
        """
        missing = first_without(examples, "third")
        if missing is not None:
            raise DataError(
                f"{missing.origin}: no third text, and the loss triplet needs one that does not belong to the first; "
                "name its column with --third, find some with pretune mine, or set task.similarity.loss to contrast"
            )
        return super().resolve_config(examples)

    def forward(self, table: VectorTable) -> RowLosses:
        """The loss of each example."""
        distances = 1 - table.cosines
        if self.config.distance == "euclidean":
            squares = (table.vectors[:, :1] - table.vectors[:, 1:]).square().sum(dim=2)
            distances = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
        missing = F.relu(distances[:, :1] - distances[:, 1:] + self.config.margin)
        return RowLosses(mean_over(missing, table.present[:, 2:]))
