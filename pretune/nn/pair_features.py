"""What a linear classifier of pairs of texts reads, each text a run of its own: how their vectors and tokens agree.

    u, v                 the vectors of both texts, of length 1
    |u - v|, u * v       their distance and their product, number by number
    cosine               the sum of the product
    coverage             the largest cosine of a text's tokens with one of the other: mean and smallest, both ways

The last ones are single numbers, so that few examples suffice to use them: the mean says how much of a text the other
one says too, as far as a hypothesis follows from its premise, and the smallest whether anything is new in it.

Source: Conneau et al. 2017 (arXiv 1705.02364), section 3.1, for the parts of the vectors; Zhang et al. 2020
(arXiv 1904.09675), section 3, whose precision and recall of token vectors are the two means.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.batch import Layout

# Weights of the single numbers beside vectors of length 1, as the weights that a classifier gives them are kept small.
_COSINE = 4.0
_MEAN = 8.0
_SMALLEST = 4.0


@dataclass(frozen=True)
class TextPairs:
    """Which sequences of a run are the texts of each pair.

    Attributes:
        first, second: numbers of the sequences.
        prefix, suffix: special tokens before and behind each text, which are no part of it.

    Shape:
        first, second: (N,) int64
    """

    first: Tensor
    second: Tensor
    prefix: int = 0
    suffix: int = 0


def vector_features(first: Tensor, second: Tensor) -> Tensor:
    """Both vectors, their distance, their product, and their cosine.

    Args:
        first, second: vectors of length 1.

    Shape:
        first, second: (N, width); return: (N, 4 width + 1)
    """
    product = first * second
    cosine = product.sum(dim=1, keepdim=True)
    return torch.cat([first, second, (first - second).abs(), product, _COSINE * cosine], dim=1)


def coverage(first: Tensor, second: Tensor) -> Tensor:
    """How well the tokens of two texts are found in each other.

    Args:
        first, second: a row for each token, of length 1.

    Shape:
        first: (A, width); second: (B, width); return: (4,), means of the first and of the second, then the smallest
    """
    cosines = first @ second.T  # (A, B)
    best = cosines.amax(dim=1), cosines.amax(dim=0)  # of each token of the first, and of the second
    means = torch.stack([part.mean() for part in best])
    return torch.cat([_MEAN * means, _SMALLEST * torch.stack([part.amin() for part in best])])


def coverage_features(hidden: Tensor, layout: Layout, pairs: TextPairs) -> Tensor:
    """The coverage of each pair of a run; a text without a token of its own is read with its special ones.

    Shape:
        hidden: (T, width); return: (N, 4) fp32
    """
    bounds = layout.bounds

    def rows(sequence: int) -> Tensor:
        start, stop = bounds[sequence], bounds[sequence + 1]
        inside = slice(start + pairs.prefix, stop - pairs.suffix)
        return units[inside if inside.start < inside.stop else slice(start, stop)]

    with torch.autocast(hidden.device.type, enabled=False):  # in bf16 cosines near 1 would be told apart by 1/128
        units = F.normalize(hidden.float(), dim=1)
        numbers = zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
        features = [coverage(rows(first), rows(second)) for first, second in numbers]
        return torch.stack(features) if features else units.new_zeros(0, 4)
