"""Sets weights to zero one column after another, and corrects the columns that follow for the error on the inputs.

Which weights of the next columns become zero is decided for `_BLOCK` columns at a time, by what each would cost.

Source: Frantar and Alistarh 2023, arXiv 2301.00774, algorithm 1, and IST-DASLab/sparsegpt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.compress.sparsity.masks import smallest_in_groups, smallest_of_all
from pretune.errors import DataError

READS_INPUTS = True
_BLOCK = 128
_DAMPING = 0.01  # of the mean of the diagonal, added to it


def sparsify(weight: Tensor, moments: Tensor | None, rate: float, group: tuple[int, int]) -> Tensor:
    """The matrix with its zeros, and with other values elsewhere. Shape: weight: (out, in), moments: (in, in)."""
    assert moments is not None
    weight, inverse = weight.clone(), _inverse(moments)
    dead = moments.diagonal() == 0  # inputs that are always 0
    weight[:, dead] = 0.0
    columns, block = weight.shape[1], _BLOCK - _BLOCK % max(1, group[1])
    for start in range(0, columns, block):
        end = min(start + block, columns)
        part, factors = weight[:, start:end].clone(), inverse[start:end, start:end]
        zero = None if group[1] else smallest_of_all(part.square() / factors.diagonal().square(), rate)
        errors = torch.zeros_like(part)
        for number in range(end - start):
            if group[1] and number % group[1] == 0:
                columns_of_group = slice(number, number + group[1])
                costs = part[:, columns_of_group].square() / factors.diagonal()[columns_of_group].square()
                of_group = smallest_in_groups(costs, group)
            zeros = of_group[:, number % group[1]] if zero is None else zero[:, number]
            stays = part[:, number].masked_fill(zeros, 0.0)
            error = (part[:, number] - stays) / factors[number, number]
            part[:, number:] -= error[:, None] * factors[number, number:]
            part[:, number] = stays
            errors[:, number] = error
        weight[:, start:end] = part
        weight[:, end:] -= errors @ inverse[start:end, end:]
    return weight


def _inverse(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse, whose rows hold what later columns need. Shape: (in, in) -> same.

    Raises:
        DataError: the moments are not finite.
    """
    damped = moments.double()
    damped.diagonal().add_((damped.diagonal() == 0).double())
    damped.diagonal().add_(_DAMPING * damped.diagonal().mean())
    if not damped.isfinite().all():
        raise DataError("prune: the activations on the calibration data are not finite; the weights are damaged")
    lower = torch.linalg.cholesky(damped)
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper.to(moments.dtype)
