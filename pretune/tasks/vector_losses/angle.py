"""AnglE: as CoSENT, with an angle in complex space in place of the cosine, whose gradient does not vanish at its ends.

Data: as of `cosent`. The first half of a vector is its real part, the second half the imaginary one. The absolute value
is compared, as in the authors' code: opposite vectors count as equal ones, so begin with a model whose pairs have
cosines above 0 (`findings/angle_loss_takes_opposites_for_equals.sh`).

Source: Li and Li 2023, AnglE (arXiv 2309.12871), equation 6; `AnglELoss` of sentence-transformers, whose form it is.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pretune.tasks.vector_losses import cosent
from pretune.tasks.vector_losses.vector_loss import RowLosses, VectorTable


class Angle(cosent.Cosent):
    """How far the angles of pairs are from the order of the scores."""

    def forward(self, table: VectorTable) -> RowLosses:
        """One loss of all pairs together, which each is given."""
        values = angle_similarity(table.vectors[:, 0], table.vectors[:, 1])
        return cosent.by_order(table.scores[:, 0], values / table.temperature)


def angle_similarity(first: Tensor, second: Tensor) -> Tensor:
    """The cosine and the sine of two vectors as complex numbers, as one value. Shape: (N, width) twice -> (N,)"""
    if first.shape[1] % 2:
        first, second = F.pad(first, (0, 1)), F.pad(second, (0, 1))
    (real, imaginary), (other_real, other_imaginary) = first.chunk(2, dim=1), second.chunk(2, dim=1)
    sines = (imaginary * other_real - real * other_imaginary).sum(dim=1)
    return ((first * second).sum(dim=1) + sines).abs()
