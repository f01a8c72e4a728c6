"""What metrics of consistency share: of what a hypothesis states, the share that its source holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.metrics.metric import Judgement, Scores, Statistics, Values


def support_judgement(name: str, claims: Sequence[tuple[Sequence[str], Sequence[str]]], signature: str) -> Judgement:
    """The share over the statements of all texts together, and of each text that states something.

    Args:
        name: of the score.
        claims: for each text what it states, and what of that the source does not hold.
    """
    rows = np.array([[len(stated) - len(missing), len(stated)] for stated, missing in claims], dtype=np.float64)

    def compute(total: Values) -> Scores:
        return {name: float(total[0] / total[1]) if total[1] else 1.0}

    with np.errstate(invalid="ignore"):
        per_text = rows[:, 0] / np.where(rows[:, 1] > 0, rows[:, 1], np.nan)
    return Judgement(
        compute(rows.sum(0)),
        {name: per_text},
        signature,
        Statistics(rows, compute),
        details={f"{name}_not_in_source": [list(missing) for _, missing in claims]},
        notes=() if rows[:, 1].any() else (f"{name}: the hypotheses state none, so that all of them hold",),
    )
