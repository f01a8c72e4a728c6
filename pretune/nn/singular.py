"""Low-rank changes in the form of a singular value decomposition, whose rank is cut while they learn (AdaLoRA).

Source: Zhang et al. 2023, AdaLoRA, arXiv 2303.10512.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from pretune.nn.low_rank import LowRankProjection, LowRankVocabulary
from pretune.nn.projection import ProjectionBrick
from pretune.nn.vocabulary import VocabularyBrick

_STD = 0.02  # of the vectors at first, as in the authors' code
_FACTORS = ("a", "e", "b")
_AVERAGES = ("sensitivity", "uncertainty")
_BUFFERS = tuple(f"{name}_{average}" for name in _FACTORS for average in _AVERAGES)


class SingularBrick(nn.Module):
    """The product `scale * b @ diag(e) @ a`: singular vectors and values, as triplets of which some are kept.

    The values begin as zeros. How much each number matters is averaged over steps in buffers.

    Attributes:
        TRAINING_BUFFERS: names of the buffers that checkpoints hold and files of a finished model do not.

    Shape:
        a: (rank, in); e: (rank,); b: (out, rank); kept: (rank,) bool
    """

    TRAINING_BUFFERS: ClassVar[tuple[str, ...]] = _BUFFERS
    a: nn.Parameter
    b: nn.Parameter
    e: nn.Parameter
    kept: Tensor
    scale: float

    def begin(self) -> None:
        """Draws vectors, and sets values to zero and averages to nothing."""
        rank, device = len(self.a), self.a.device
        nn.init.normal_(self.a, std=_STD)
        nn.init.normal_(self.b, std=_STD)
        self.e = nn.Parameter(torch.zeros(rank, device=device))
        self.register_buffer("kept", torch.ones(rank, dtype=torch.bool, device=device))
        for name in _FACTORS:
            for average in _AVERAGES:
                self.register_buffer(f"{name}_{average}", torch.zeros_like(getattr(self, name), requires_grad=False))

    @property
    def rank(self) -> int:
        """Number of triplets, kept or not."""
        return len(self.e)

    @property
    def right(self) -> Tensor:
        """The right factor of the product, whose left one is `b`. Shape: (rank, in)."""
        return self.a * (self.e * self.scale)[:, None]

    @property
    def factors(self) -> list[Tensor]:
        """The three factors `a`, `e` and `b`."""
        return [getattr(self, name) for name in _FACTORS]

    def averages(self, average: str) -> list[Tensor]:
        """The averages of the factors: their `sensitivity`, or its `uncertainty`."""
        return [getattr(self, f"{name}_{average}") for name in _FACTORS]

    def importance(self) -> Tensor:
        """How much each triplet matters: that of its value, and the means of its vectors. Shape: (rank,)."""
        a, e, b = (s * u for s, u in zip(self.averages("sensitivity"), self.averages("uncertainty"), strict=True))
        total: Tensor = e + a.mean(1) + b.mean(0)
        return total

    @torch.no_grad()
    def cut(self) -> None:
        """Sets the values of the triplets that are not kept to zero."""
        self.e.mul_(self.kept)


class SingularProjection(SingularBrick, LowRankProjection):
    """A projection with a product in singular values at its side.

    Args:
        base, rank, scale, dropout: as of `LowRankProjection`.
    """

    def __init__(self, base: ProjectionBrick, rank: int, scale: float, dropout: float = 0.0) -> None:
        LowRankProjection.__init__(self, base, rank, scale, dropout)
        self.begin()


class SingularVocabulary(SingularBrick, LowRankVocabulary):
    """A vocabulary with a product in singular values at its side.

    Args:
        base, rank, scale: as of `LowRankVocabulary`.
    """

    def __init__(self, base: VocabularyBrick, rank: int, scale: float) -> None:
        LowRankVocabulary.__init__(self, base, rank, scale)
        self.begin()
