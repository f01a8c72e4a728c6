"""Detects explosions of the loss that stay finite, and says what a run does about them.

A step is a spike if its loss, or its gradient norm, lies far above those of the steps before: further from their
median than six standard deviations, which the median of the distances from it tells (a few outliers do not move it);
three times as far as any of them, so that a loss with a long tail is none at each of its records; and not by a trifle.

Source: Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, 5.1) go back about 100 steps and leave out the data that led to
the spike; OLMo 2 (arXiv 2501.00656) leaves steps out whose loss or norm is six standard deviations above the mean of
the last 128.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from pydantic import Field

from pretune.config import Config

History = dict[str, list[list[float]]]
"""(loss, gradient norm) of the last steps that were no spikes, by what they trained."""

_SPREAD = 1.4826  # standard deviations of a normal distribution in its median distance from the median
_RECORD = 3.0  # distances of the furthest step before
_LOSS = 0.25  # fraction of the median loss by which a spike is above it at least
_NORM = math.log(10.0)  # the same of the logarithm of the norm: clipping makes large gradients harmless
_TINY = 1e-30  # of a norm whose logarithm is taken


class SpikeConfig(Config):
    """What a run does about a loss or a gradient that is finite and far above those before.

    Attributes:
        policy: `note` says it and trains on; `skip` leaves the step out, as one that is not finite; `rollback` goes
            back to the last good state and leaves out the data from there to the spike; `off` looks at nothing.
        window: number of steps that a step is compared with.
        deviations: standard deviations above the median at which a step is a spike.
        every: steps between two states that `rollback` can go back to; each is a checkpoint. It goes back by half of
            this at least, as the steps before a spike have led to it.
        limit: number of rollbacks after which training stops.
    """

    policy: Literal["note", "skip", "rollback", "off"] = "note"
    window: int = Field(128, ge=8)
    deviations: float = Field(6.0, gt=0, allow_inf_nan=False)
    every: int = Field(100, ge=2)
    limit: int = Field(3, ge=1)

    def good_states(self, step: int) -> list[int]:
        """Steps whose checkpoints a spike at a later step may go back to, those that there are after `step`."""
        if self.policy != "rollback":
            return []
        first = max(step + 1 - self.every // 2, 0) // self.every * self.every
        return [each for each in (first, first + self.every) if 0 < each <= step]

    def is_good_state(self, step: int) -> bool:
        """Whether the checkpoint of a step is one that `rollback` goes back to."""
        return self.policy == "rollback" and step > 0 and step % self.every == 0


@dataclass(frozen=True)
class Spike:
    """What was too large in a step.

    Attributes:
        name: loss or gradient norm.
        median, limit: of the steps before.
        steps: how many they are.
    """

    name: str
    value: float
    median: float
    limit: float
    steps: int

    def __str__(self) -> str:
        return (
            f"{self.name} {self.value:.4g}, where the median of {self.steps} steps is {self.median:.4g} and their "
            f"spread allows {self.limit:.4g}"
        )


def find_spike(
    history: History, counts: Mapping[str, int], loss: float, norm: float, config: SpikeConfig
) -> Spike | None:
    """What makes a finite step a spike; None of one that is none, which is added to the history.

    Args:
        counts: predictions of each term: steps that train something else are compared among themselves.
        loss: of the step.
        norm: of its gradient.
    """
    steps = history.setdefault("+".join(sorted(name for name, count in counts.items() if count)), [])
    if len(steps) >= config.window // 2:
        bound = _limit([each[0] for each in steps], loss, _LOSS, config.deviations, is_relative=True)
        if bound is not None:
            return Spike("loss", loss, *bound, len(steps))
        logs = [math.log(max(each[1], _TINY)) for each in steps] if norm > max(each[1] for each in steps) else []
        bound = _limit(logs, math.log(max(norm, _TINY)), _NORM, config.deviations) if logs else None
        if bound is not None:
            return Spike("gradient norm", norm, math.exp(bound[0]), math.exp(bound[1]), len(steps))
    steps.append([loss, norm])
    del steps[: -config.window]
    return None


def _limit(
    values: Sequence[float], value: float, least: float, deviations: float, is_relative: bool = False
) -> tuple[float, float] | None:
    """The median of some values and the limit that another is above; None if it is not.

    Args:
        least: distance of the limit from the median at least, as a fraction of it where `is_relative`.
    """
    largest = max(values)
    if value <= largest:  # nearly always; nothing is sorted then
        return None
    middle = median(values)
    spread = _SPREAD * median(abs(each - middle) for each in values)
    floor = least * abs(middle) if is_relative else least
    limit = middle + max(deviations * spread, _RECORD * (largest - middle), floor)
    return (middle, limit) if value > limit else None
