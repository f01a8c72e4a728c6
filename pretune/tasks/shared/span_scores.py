"""Scores of labelled spans: of whole ones, as CoNLL counts, and of those that are right in part, as SemEval-2013 does.

A span is right where its start, end and label are. Scores of all labels together are micro averages.

Source: Tjong Kim Sang and De Meulder 2003, section 4.1; Segura-Bedmar et al. 2013 (SemEval task 9), section 5, as
nervaluate 1.2 counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Triple: TypeAlias = tuple[int, int, str]
"""Start, end (exclusive) and label of a span."""
PARTIAL_SCORES = ("strict", "exact", "partial", "type")


class Rates(NamedTuple):
    """How many of the spans that were named are right, and how many of the right ones were named."""

    precision: float
    recall: float
    f1: float


def rates(right: float, named: float, true: float) -> Rates:
    """Precision, recall and their harmonic mean; 0 of nothing."""
    precision, recall = right / named if named else 0.0, right / true if true else 0.0
    return Rates(precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0)


def span_scores(
    truth: Sequence[Iterable[Triple]], guess: Sequence[Iterable[Triple]], labels: Sequence[str]
) -> dict[str, float]:
    """Precision, recall and F1 of whole spans: of all, of each label, and the mean F1 of the labels that occur.

    Args:
        truth, guess: the spans of each text.
        labels: that have scores of their own, in this order.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("right", "named", "true")}
    for known, named in zip(truth, guess, strict=True):
        a, b = set(known), set(named)
        for name, spans in (("right", a & b), ("named", b), ("true", a)):
            counts[name].update(label for _, _, label in spans)
    right, named_of, true = counts["right"], counts["named"], counts["true"]
    overall = rates(right.total(), named_of.total(), true.total())
    by_label = {label: rates(right[label], named_of[label], true[label]) for label in labels}
    seen = [by_label[label].f1 for label in labels if true[label] or named_of[label]]
    scores = {"f1": overall.f1, "precision": overall.precision, "recall": overall.recall}
    scores["f1_macro"] = sum(seen) / len(seen) if seen else 0.0
    for label, each in by_label.items():
        scores |= {f"precision/{label}": each.precision, f"recall/{label}": each.recall, f"f1/{label}": each.f1}
        scores[f"count/{label}"] = float(true[label])
    return scores


@dataclass
class PartialCounts:
    """How spans that were named compare with true ones, by one of the four measures.

    Attributes:
        correct, incorrect, partial: named spans that meet a true one: right, wrong, and with other bounds.
        missed: true spans that none was named for.
        spurious: named spans that meet no true one.
    """

    correct: int = 0
    incorrect: int = 0
    partial: int = 0
    missed: int = 0
    spurious: int = 0

    def rates(self, is_partial: bool) -> Rates:
        """Precision, recall and F1; half of what is partial counts where that is wanted."""
        right = self.correct + (0.5 * self.partial if is_partial else 0.0)
        met = self.correct + self.incorrect + self.partial
        return rates(right, met + self.spurious, met + self.missed)


def partial_counts(truth: Sequence[Iterable[Triple]], guess: Sequence[Iterable[Triple]]) -> dict[str, PartialCounts]:
    """The counts of each measure, over all texts.

    `strict` wants bounds and label, `exact` the bounds, `type` the label of spans that share a character, and `partial`
    gives half for bounds that share one.

    Args:
        truth, guess: the spans of each text.
    """
    counts = {name: PartialCounts() for name in PARTIAL_SCORES}
    for known, named in zip(truth, guess, strict=True):
        for measure, each in counts.items():
            _count(measure, sorted(known), sorted(named), each)
    return counts


def partial_scores(truth: Sequence[Iterable[Triple]], guess: Sequence[Iterable[Triple]]) -> dict[str, float]:
    """The F1 of the measures that look at parts of spans: see `partial_counts`."""
    counts = partial_counts(truth, guess)
    return {f"f1_{name}": counts[name].rates(name == "partial").f1 for name in PARTIAL_SCORES if name != "strict"}


def _count(measure: str, known: Sequence[Triple], named: Sequence[Triple], counts: PartialCounts) -> None:
    """Adds what a text gives; each named span meets one true span at most, and no two the same."""
    free = dict(enumerate(known))
    for span in named:
        near = [n for n, other in free.items() if _overlap(span, other)]
        exact = [n for n in near if _is_match(measure, span, free[n])]
        if measure == "type":
            exact.sort(key=lambda n: abs(free[n][0] - span[0]) + abs(free[n][1] - span[1]))
        if not near:
            counts.spurious += 1
            continue
        del free[(exact or near)[0]]
        if exact:
            counts.correct += 1
        elif measure == "partial":
            counts.partial += 1
        else:
            counts.incorrect += 1
    counts.missed += len(free)


def _overlap(span: Triple, true: Triple) -> bool:
    """Whether a span shares a hundredth of a true one with it at least."""
    shared = min(span[1], true[1]) - max(span[0], true[0])
    return shared > 0 and 100 * shared >= true[1] - true[0]


def _is_match(measure: str, span: Triple, true: Triple) -> bool:
    if measure == "type":
        return span[2] == true[2]
    return span[:2] == true[:2] and (measure != "strict" or span[2] == true[2])
