"""What may be asked of a better model before training: vectors of texts, and how well the texts of pairs fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Teacher(Protocol):
    """A better model in use, with a tokenizer of its own, which a task may ask before it trains."""

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of each text. Shape: return: (n, width)"""

    def scores(self, firsts: Sequence[str], seconds: Sequence[str]) -> NDArray[np.float32]:
        """How well the texts of each pair belong together. Shape: return: (n,)"""
