"""Scales vectors to length 1, and says which is too long for that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pretune.runtime.finite import first_non_finite, non_finite

Vectors = NDArray[np.float32]


def unit_length(vectors: Vectors, texts: Sequence[str]) -> Vectors:
    """Vectors at length 1.

    Shape:
        vectors: (n, width); return: same

    Raises:
        NonFiniteError: the square of a length is too large for a number: the quotient would be 0.
    """
    rows = torch.from_numpy(vectors)
    bad = first_non_finite(rows.square().sum(dim=1))
    if bad is not None:
        raise non_finite("a vector of a length", bad, len(texts), texts[bad])
    return np.asarray(F.normalize(rows).numpy())
