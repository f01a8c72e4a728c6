"""Says of a finished classifier that it gives every text the same label, which no single score shows plainly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pretune.train.logging.trackers import METRICS


def warn_of_one_label(run: Path, step: int, labels: Sequence[str]) -> list[str]:
    """The warning, where the evaluation of a step shows that every text got the same label; else nothing.

    Args:
        run: the run directory.
        step: of the weights that were saved.
        labels: of the task; none where it has none.
    """
    label = only_label(_evaluation(run / METRICS, step), labels)
    if label is None:
        return []
    return [
        f"the model answers {label!r} to every validation text (mcc 0), so that it has not learned to tell the labels "
        "apart; train longer (budget.epochs), raise optimizer.lr, or look at the labels"
    ]


def only_label(scores: Mapping[str, float], labels: Sequence[str]) -> str | None:
    """The label that is found wherever it belongs while no other ever is, though there are texts of others.

    Args:
        scores: of an evaluation, as `metrics.jsonl` has them.
    """
    present = [label for label in labels if scores.get(f"eval/count/{label}")]
    recalls = {label: scores.get(f"eval/recall/{label}", 0.0) for label in present}
    right = [label for label, recall in recalls.items() if recall]
    if len(present) < 2 or len(right) != 1 or recalls[right[0]] < 1 or scores.get("eval/mcc", 1.0) > 0:
        return None
    return right[0]


def _evaluation(path: Path, step: int) -> dict[str, float]:
    """The newest evaluation of a step."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if '"eval/' in line)
    return next((row for row in reversed([row for row in rows if row["step"] == step])), {})
