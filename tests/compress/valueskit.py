"""Matrices with the inputs that they read, for tests of ways to round."""

from __future__ import annotations

import torch
from torch import Tensor

from pretune.compress.values.inputs import Inputs, Moments
from pretune.compress.values.method import find_values
from pretune.nn.formats.format import find_format

Q4 = find_format("q4_0")


def matrix(rows: int = 24, width: int = 64, seed: int = 0) -> Tensor:
    """A random matrix with a few large values. Shape: (rows, width)."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator)
    return weight * (1 + 3 * (torch.rand(rows, width, generator=generator) > 0.97))


def correlated(width: int = 64, count: int = 400, seed: int = 1) -> tuple[Tensor, Inputs]:
    """Rows whose columns go together and are of unlike sizes. Shape: (count, width)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5 + torch.eye(width)
    x = torch.randn(count, width, generator=generator) @ mixing * torch.logspace(-1, 1, width)
    moments = Moments(width, x.device)
    for part in x.tensor_split(3):
        moments.add(part)
    return x, moments.inputs()


def rounded(name: str, weight: Tensor, inputs: Inputs | None, format_name: str = "q4_0", **options: object) -> Tensor:
    """What a way to round makes of a matrix, as values. Shape: (out, in)."""
    format = find_format(format_name)
    return format.dense(find_values(name, options).choose(weight, format, inputs))
