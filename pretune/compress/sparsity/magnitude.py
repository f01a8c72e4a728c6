"""Sets the weights with the smallest absolute values to zero, of each projection as many; needs no data.

Source: Han et al. 2015, arXiv 1506.02626.
"""

from __future__ import annotations

from torch import Tensor

from pretune.compress.sparsity.masks import smallest_in_groups, smallest_of_all

READS_INPUTS = False


def sparsify(weight: Tensor, moments: Tensor | None, rate: float, group: tuple[int, int]) -> Tensor:
    """The matrix with its zeros. Shape: weight: (out, in) -> same."""
    scores = weight.abs()
    zero = smallest_in_groups(scores, group) if group[1] else smallest_of_all(scores, rate)
    return weight.masked_fill(zero, 0.0)
