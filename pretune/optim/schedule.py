"""Learning rate over a run: warm-up, then linear, cosine, or constant with a decay at the end.

A schedule maps the share of the run that is over, in [0, 1], to a factor of the peak rate. The share is taken at the
middle of a step, so neither the first nor the last step is spent at rate zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from pretune.config import Config

Kind = Literal["linear", "cosine", "constant"]


class ScheduleConfig(Config):
    """Shape of the learning rate.

    Attributes:
        kind: `linear` and `cosine` fall from the end of the warm-up to the end of the run; `constant` stays at the
            peak and falls linearly over the last `decay` of it.
        warmup: share of the run in which the rate rises linearly from 0.
        decay: share of the run in which `constant` falls; 0 never falls.
        floor: rate at the end, as a share of the peak.
        tokens: length of the schedule in tokens, where it is not that of the budget. After it the floor holds.
    """

    kind: Kind = "linear"
    warmup: float = Field(0.06, ge=0, lt=1)
    decay: float = Field(0.2, ge=0, le=1)
    floor: float = Field(0.0, ge=0, le=1)
    tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> ScheduleConfig:
        if self.kind == "constant" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are more than the whole run")
        return self


def _linear(config: ScheduleConfig, share: float) -> float:
    return (1 - share) / (1 - config.warmup)


def _cosine(config: ScheduleConfig, share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * (share - config.warmup) / (1 - config.warmup)))


def _constant(config: ScheduleConfig, share: float) -> float:
    """Source: "warmup-stable-decay" of Hu et al. 2024 (MiniCPM, arXiv 2404.06395)."""
    return min(1.0, (1 - share) / config.decay) if config.decay else 1.0


_FALL: dict[Kind, Callable[[ScheduleConfig, float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "constant": _constant,
}


def schedule_factor(config: ScheduleConfig, share: float) -> float:
    """The rate as a share of its peak, after `share` of the run."""
    share = min(max(share, 0.0), 1.0)
    if share < config.warmup:
        return share / config.warmup
    return config.floor + (1 - config.floor) * _FALL[config.kind](config, share)
