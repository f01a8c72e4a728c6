"""Decides when to evaluate, by which metric evaluations are compared, and which is the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from pretune.config import Config
from pretune.errors import UsageError
from pretune.find import suggest

PARTS = 10  # evaluations over the budget, where `every` is not given


class EvaluationConfig(Config):
    """Evaluation on a fixed, keyed part of the validation data: the same samples, corrupted alike, each time.

    Attributes:
        every: steps between two evaluations; without it, ten over the budget. The last step is always evaluated.
        samples: number of validation samples, chosen by key, 512 by default and all for a task; 0 never evaluates.
        batch_tokens: maximal number of tokens of a forward pass.
        metric: what evaluations are compared by: `loss` (smaller is better) or another `eval/` metric (larger is
            better, except for losses); by default the task's main metric, else `loss`.
        patience: number of evaluations without improvement after which training stops; by default it never stops early.
        keep: the weights that become the finished model: those of the last step, of the best evaluation, or the mean of
            those of the last evaluations (`averaged`) where it is as good as the best of them. Of equal ones the later
            are kept.
        averaged: of how many evaluations the weights are averaged; their checkpoints are kept.
        keep_initial: how much the weights from before the first step count in these, heads left out: at 0.5 they are
            the mean of both, which forgets less and errs less on few examples. Source: Wortsman et al. 2022, WiSE-FT
            (arXiv 2109.01903).
    """

    every: int | None = Field(None, ge=1)
    samples: int | None = Field(512, ge=0)
    batch_tokens: int = Field(16384, ge=1)
    metric: str | None = None
    patience: int | None = Field(None, ge=1)
    keep: Literal["last", "best", "average"] = "last"
    averaged: int = Field(5, ge=2, le=100)
    keep_initial: float = Field(0.0, ge=0, lt=1)

    def last_evaluations(self, steps: Sequence[int]) -> list[int]:
        """Those of the steps of evaluations whose weights are averaged; none where they are not."""
        return list(steps[-self.averaged :]) if self.keep == "average" else []

    def due(self, step: int, before: float, after: float) -> bool:
        """Is there an evaluation after this step, if it is not the last?

        Args:
            before: fraction of the budget used before the step.
            after: fraction used after it.
        """
        if self.samples == 0 or step == 0:
            return False
        return step % self.every == 0 if self.every else int(after * PARTS) > int(before * PARTS)


def better(metric: str, value: float, best: float | None) -> bool:
    """Is this value of a metric an improvement? NaN never is."""
    if best is None:
        return value == value
    return value < best if metric.startswith("loss") else value > best


def as_good(metric: str, value: float, best: float | None) -> bool:
    """Whether weights with this value of a metric are kept instead of the best earlier ones: of equal ones the later.

    They have learned for longer, and scores of few examples are often equal.
    """
    return value == best or better(metric, value, best)


def metric_value(metric: str, metrics: dict[str, float]) -> float:
    """The value to compare by.

    Raises:
        UsageError: evaluation gives no such metric.
    """
    if metric not in metrics:
        raise UsageError(f"evaluation.metric: no metric {metric!r}; {suggest(metric, sorted(metrics))}")
    return metrics[metric]
