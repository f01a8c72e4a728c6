"""Contextual calibration: probabilities are divided by those that the same prompt gives texts without content.

Source: Zhao et al. 2021, "Calibrate before use" (arXiv 2102.09690), section 5: the mean over `N/A`, `[MASK]` and the
empty text, and a diagonal matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.prompts.pool import Floats
from pretune.prompts.prompt import Prompt, Rendered, Solved

CONTENT_FREE = ("N/A", "[MASK]", "")


def references(prompt: Prompt, solved: Sequence[Solved]) -> list[Rendered]:
    """The prompt with each of the texts without content, for both texts of a pair."""
    return [prompt.render(text, text, solved) for text in CONTENT_FREE]


def calibrate(log_probs: Floats, references: Floats) -> Floats:
    """Shape: log_probs: (n, C); references: (n, R, C); return: (n, C)"""
    return np.asarray(log_probs - np.log(np.exp(references).mean(axis=1)))
