"""Confidence intervals of scores, and whether two systems differ by more than chance: texts are drawn anew many times.

- Bootstrap: as many texts as there are, drawn with repetition; the middle 95 % of the scores is the interval. Two
  systems are compared on the same draws.
- Approximate randomization: the outputs of two systems for a text change sides by the toss of a coin; how often is the
  difference as large as the real one?

Both draw from the statistics of the texts, so nothing is tokenized twice, and both draw what sacrebleu draws, so the
same p-values come out. One thing differs: a difference that chance makes exactly as large counts as made by chance, as
Noreen 1989 has it. sacrebleu leaves such draws out, and says of two systems with equal outputs that they differ.

Source: Koehn 2004; Riezler and Maxwell 2005; sacrebleu's `significance.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretune.errors import UsageError
from pretune.metrics.metric import Scores, Statistics, Values

Test = Literal["bootstrap", "randomization"]
SEED = 12345  # sacrebleu's
SAMPLES: Mapping[Test, int] = {"bootstrap": 1000, "randomization": 10_000}
_ROUNDING = 1e-9  # of sums in double precision
_BLOCK = 1 << 25  # draws that are in memory at once


@dataclass(frozen=True)
class Interval:
    """Where a score would lie for other texts of the kind.

    Attributes:
        low, high: ends of the middle 95 % of the drawn scores.
    """

    low: float
    high: float


def find_intervals(
    statistics: Statistics, samples: int = SAMPLES["bootstrap"], seed: int = SEED
) -> dict[str, Interval]:
    """The interval of each score, by the bootstrap."""
    drawn = _columns([statistics.compute(total) for total in _resampled(statistics.rows, samples, seed)])
    return {name: _middle(values) for name, values in drawn.items()}


def compare(
    first: Statistics, second: Statistics, test: Test = "bootstrap", samples: int = 0, seed: int = SEED
) -> dict[str, float]:
    """The p-value of each score: how often chance alone makes a difference as large as that of the two systems.

    Args:
        first, second: of the same texts by the same metric.
        samples: draws; 0 for the usual number of the test.

    Raises:
        UsageError: the systems have unequal numbers of texts.
    """
    if first.rows.shape != second.rows.shape:
        raise UsageError(f"{len(first.rows)} and {len(second.rows)} texts: two systems are compared on the same texts")
    samples = samples or SAMPLES[test]
    real = _difference(first.compute(first.rows.sum(0)), second.compute(second.rows.sum(0)))
    draw = _bootstrap_differences if test == "bootstrap" else _shuffled_differences
    drawn = _columns(draw(first, second, samples, seed))
    return {
        name: float((np.sum(_centred(values, test) >= abs(real[name]) - _ROUNDING) + 1) / (samples + 1))
        for name, values in drawn.items()
    }


def _centred(values: Values, test: Test) -> Values:
    """Differences that are due to chance: of the bootstrap, which draws about the real one, those from their mean."""
    return np.abs(values) - np.abs(values).mean() if test == "bootstrap" else np.abs(values)


def _bootstrap_differences(first: Statistics, second: Statistics, samples: int, seed: int) -> list[Scores]:
    both = zip(_resampled(first.rows, samples, seed), _resampled(second.rows, samples, seed), strict=True)
    return [_difference(first.compute(one), second.compute(other)) for one, other in both]


def _shuffled_differences(first: Statistics, second: Statistics, samples: int, seed: int) -> list[Scores]:
    rng = np.random.default_rng(seed)
    count = len(first.rows)
    total = first.rows.sum(0) + second.rows.sum(0)
    out: list[Scores] = []
    for size in _blocks(samples, count):
        stays = rng.integers(2, size=(size, count), dtype=bool)
        sums: Values = stays @ first.rows + ~stays @ second.rows
        out += [_difference(first.compute(one), second.compute(total - one)) for one in sums]
    return out


def _resampled(rows: Values, samples: int, seed: int) -> Iterator[Values]:
    """Sums of as many rows as there are, drawn with repetition. Shape: (statistics,) each."""
    rng = np.random.default_rng(seed)
    for size in _blocks(samples, len(rows)):
        index: NDArray[np.int64] = rng.choice(len(rows), size=(size, len(rows)), replace=True)
        for one in index:
            yield np.bincount(one, minlength=len(rows)).astype(np.float64) @ rows


def _blocks(samples: int, texts: int) -> Iterator[int]:
    size = max(1, _BLOCK // texts)
    for first in range(0, samples, size):
        yield min(size, samples - first)


def _difference(first: Scores, second: Scores) -> Scores:
    return {name: first[name] - second[name] for name in first}


def _columns(scores: list[Scores]) -> dict[str, Values]:
    return {name: np.array([each[name] for each in scores]) for name in scores[0]}


def _middle(values: Values) -> Interval:
    """As sacrebleu: 1 in 40 lies on either side."""
    ordered = np.sort(values)
    outside = len(ordered) // 40
    return Interval(float(ordered[outside]), float(ordered[len(ordered) - outside - 1]))
