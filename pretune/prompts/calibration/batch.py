"""Batch calibration: probabilities are divided by their mean over all texts of the call.

A prediction so depends on the texts beside it; labels should be about equally frequent among them.

Source: Zhou et al. 2023, "Batch calibration" (arXiv 2309.17249), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.prompts.pool import Floats
from pretune.prompts.prompt import Prompt, Rendered, Solved


def references(prompt: Prompt, solved: Sequence[Solved]) -> list[Rendered]:
    """None: the texts themselves say what the model prefers."""
    return []


def calibrate(log_probs: Floats, references: Floats) -> Floats:
    """Shape: log_probs: (n, C); references: (n, 0, C); return: (n, C)"""
    return np.asarray(log_probs - np.log(np.exp(log_probs).mean(axis=0)))
