"""Sets weights to zero whose absolute value times the norm of their input is smallest, of each row as many.

Source: Sun et al. 2023, arXiv 2306.11695, equation 1 and section 3: scores are compared within a row.
"""

from __future__ import annotations

from torch import Tensor

from pretune.compress.sparsity.masks import smallest_in_groups, smallest_in_rows

READS_INPUTS = True


def sparsify(weight: Tensor, moments: Tensor | None, rate: float, group: tuple[int, int]) -> Tensor:
    """The matrix with its zeros. Shape: weight: (out, in), moments: (in, in) -> as weight."""
    assert moments is not None
    scores = weight.abs() * moments.diagonal().sqrt()
    zero = smallest_in_groups(scores, group) if group[1] else smallest_in_rows(scores, rate)
    return weight.masked_fill(zero, 0.0)
