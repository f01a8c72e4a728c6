"""Precision, recall and F1 of items with labels, such as spans and links, over many texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable


class ItemScores:
    """Counts of items that are right, predicted and true, by label."""

    def __init__(self) -> None:
        self._right, self._predicted, self._true = Counter[str](), Counter[str](), Counter[str]()

    def add(self, truth: Iterable[tuple[str, Hashable]], guess: Iterable[tuple[str, Hashable]]) -> None:
        """Counts the items of a text: each is a label and what else must agree. An item counts once."""
        true, predicted = set(truth), set(guess)
        self._true.update(label for label, _ in true)
        self._predicted.update(label for label, _ in predicted)
        self._right.update(label for label, _ in true & predicted)

    def total(self) -> tuple[float, float, float]:
        """Precision, recall and F1 of all items together."""
        return ratios(self._right.total(), self._predicted.total(), self._true.total())

    def total_by_name(self, prefix: str = "") -> dict[str, float]:
        """`f1`, `precision` and `recall` of all items together, with something before their names."""
        precision, recall, f1 = self.total()
        return {f"{prefix}f1": f1, f"{prefix}precision": precision, f"{prefix}recall": recall}

    def macro(self) -> float:
        """The mean F1 of the labels that the truth has; 0 without any."""
        return sum(self.of(label)[2] for label in self._true) / max(len(self._true), 1)

    def of(self, label: str) -> tuple[float, float, float]:
        """Precision, recall and F1 of a label."""
        return ratios(self._right[label], self._predicted[label], self._true[label])

    def by_label(self, labels: Iterable[str]) -> dict[str, float]:
        """`precision/LABEL`, `recall/LABEL`, `f1/LABEL` and `count/LABEL` of each of some labels."""
        scores: dict[str, float] = {}
        for label in labels:
            precision, recall, f1 = self.of(label)
            scores |= {f"precision/{label}": precision, f"recall/{label}": recall, f"f1/{label}": f1}
            scores[f"count/{label}"] = float(self._true[label])
        return scores


def ratios(right: int, predicted: int, true: int) -> tuple[float, float, float]:
    """Precision, recall and F1 of counts; 0 where there is nothing to count."""
    precision, recall = right / max(predicted, 1), right / max(true, 1)
    return precision, recall, 2 * right / max(predicted + true, 1)
