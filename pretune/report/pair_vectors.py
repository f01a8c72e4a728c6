"""What a model says of pairs of texts that it reads apart, as a head on these is fitted to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.model import Model
from pretune.nn.pair_features import coverage, vector_features

_AT_ONCE = 256  # pairs whose tokens' vectors are held


def pair_vectors(model: Model, firsts: Sequence[str], seconds: Sequence[str]) -> NDArray[np.float32]:
    """The features of pairs by `nn.pair_features`, of the vectors that the model gives texts and their tokens.

    Shape:
        return: (n, any)
    """
    u, v = (torch.from_numpy(model.embed(list(texts), normalize=True)) for texts in (firsts, seconds))
    covered: list[torch.Tensor] = []
    for start in range(0, len(firsts), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        sides = [model.embed(list(texts[some]), of="tokens", normalize=True) for texts in (firsts, seconds)]
        covered += [coverage(*(torch.from_numpy(text.vectors) for text in pair)) for pair in zip(*sides, strict=True)]
    return torch.cat([vector_features(u, v), torch.stack(covered)], dim=1).numpy()
