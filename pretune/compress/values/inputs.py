"""What is known of the inputs of a matrix: their second moments, from which every way of rounding takes its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """The inputs of a projection on the calibration data.

    The error of the output of any change of the matrix follows from the second moments alone: with D the difference of
    two matrices and H the moments, the mean squared error of a row's output is the trace of D H D'.

    Attributes:
        moments: (in, in) fp32, the mean of x x' over all rows.
        magnitude: (in,) fp32, the mean of |x|.
        rows: number of rows that were seen.
    """

    moments: Tensor
    magnitude: Tensor
    rows: int

    @property
    def squares(self) -> Tensor:
        """The mean square of each input. Shape: (in,)."""
        return self.moments.diagonal()

    def error(self, weight: Tensor, rounded: Tensor) -> float:
        """The norm of the output's error, relative to the norm of the output. Shape: (out, in) twice."""
        size = output_square(weight, self.moments)
        return 0.0 if size <= 0 else (output_square(weight - rounded, self.moments) / size) ** 0.5

    def scaled(self, scale: Tensor) -> Inputs:
        """The same inputs, each divided by a factor. Shape: (in,)."""
        return Inputs(self.moments / (scale[:, None] * scale), self.magnitude / scale, self.rows)


def output_square(weight: Tensor, moments: Tensor) -> float:
    """The mean square of the norm of the output. Shape: (out, in), (in, in)."""
    return max(0.0, float(((weight @ moments) * weight).sum(dtype=torch.float64)))


class Moments:
    """Adds up the second moments of the rows of many batches.

    Args:
        width: of a row.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._sum = torch.zeros(width, width, device=device)
        self._magnitude = torch.zeros(width, device=device)
        self._rows = 0

    def add(self, x: Tensor) -> None:
        """Adds some rows. Shape: (T, in)."""
        x = x.detach().float()
        self._sum.addmm_(x.T, x)
        self._magnitude += x.abs().sum(0)
        self._rows += len(x)

    def inputs(self) -> Inputs:
        """The means over all rows that were added."""
        count = max(1, self._rows)
        return Inputs(self._sum / count, self._magnitude / count, self._rows)
