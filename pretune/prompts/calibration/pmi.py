"""Domain-conditional pointwise mutual information: probabilities are divided by those behind the bare question.

Source: Holtzman et al. 2021, "Surface form competition" (arXiv 2104.08315), section 4: the domain's premise is what the
prompt ends with.
"""

from __future__ import annotations

from collections.abc import Sequence

from pretune.prompts.pool import Floats
from pretune.prompts.prompt import Prompt, Rendered, Solved


def references(prompt: Prompt, solved: Sequence[Solved]) -> list[Rendered]:
    """What stands between text and label, alone."""
    return [prompt.premise()]


def calibrate(log_probs: Floats, references: Floats) -> Floats:
    """Shape: log_probs: (n, C); references: (n, 1, C); return: (n, C)"""
    return log_probs - references[:, 0]
