"""The labelled examples among which those are chosen that stand solved in prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """The examples to choose among.

    Attributes:
        texts: of each; of a pair, both.
        labels: (P,) the number of each one's label.
        similarity: how alike texts are to each example; (n, P).
    """

    texts: Sequence[str]
    labels: Ints
    similarity: Callable[[Sequence[str]], Floats]
