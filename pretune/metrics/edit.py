"""Edit similarity, 0 to 1: 1 - edits / length of the longer text, by characters or tokens; best of several references.

Used of code, where one wrong character is a small fault; BLEU's runs of four tokens punish it four times.

Source: Levenshtein 1966; Svyatkovskiy et al. 2020 (arXiv 2005.08025), who score completions of code by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from pretune import config as configuration
from pretune.metrics.metric import MeanMetric, Scores, check_cells
from pretune.metrics.words import split_tokens


class Edit(MeanMetric):
    """Edit similarity."""

    main: ClassVar[str] = "edit"

    class Config(configuration.Config):
        """What is counted.

        Attributes:
            unit: what an edit inserts, deletes or replaces; spaces count among characters and not among tokens.
        """

        unit: Literal["character", "token"] = "character"

    def score_text(self, hypothesis: str, references: Sequence[str], source: str) -> Scores:
        """The similarity with the nearest reference; spaces at the ends of a text do not count."""
        split = split_tokens if self.config.unit == "token" else list
        check_cells("edit", len(hypothesis), max(map(len, references)), "the metric chrf")
        written = split(hypothesis.strip())
        return {"edit": max(similarity(written, split(reference.strip())) for reference in references)}


def similarity(first: Sequence[str], second: Sequence[str]) -> float:
    """1 - Levenshtein distance / length of the longer; 1 of two empty texts."""
    longer = max(len(first), len(second))
    return 1 - distance(first, second) / longer if longer else 1.0


def distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Insertions, deletions and replacements that turn one into the other; a row of the table at a time."""
    names = {unit: n for n, unit in enumerate({*first, *second})}
    columns = np.array([names[unit] for unit in second], dtype=np.int64)
    steps = np.arange(len(second) + 1)
    row = steps.copy()
    for unit in first:
        new = np.empty_like(row)
        new[0] = row[0] + 1
        new[1:] = np.minimum(row[1:] + 1, row[:-1] + (columns != names[unit]))
        row = np.minimum.accumulate(new - steps) + steps  # insertions
    return int(row[-1])
