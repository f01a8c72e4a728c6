"""Learning rate over a run: warm-up, then linear, cosine, inverse square root, or constant with a decay at the end.

A schedule maps the fraction of the run that is over, in [0, 1], to a factor of the peak rate. The fraction is that at
the middle of a step, so neither the first nor the last step is spent at rate zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from pretune.config import Config

ScheduleKind = Literal["linear", "cosine", "constant", "inverse_sqrt"]


DESCRIPTIONS: dict[ScheduleKind, str] = {
    "linear": "Rises in the warm-up, then falls linearly to the floor at the end of the run.",
    "cosine": "Rises in the warm-up, then falls along a cosine to the floor at the end of the run.",
    "constant": "Rises in the warm-up, stays at the peak, and falls linearly over the last part of the run (`decay`).",
    "inverse_sqrt": "Rises in the warm-up, then falls as one over the square root of the steps, which needs no end.",
}
"""What each schedule does with the learning rate, in a sentence."""


class ScheduleConfig(Config):
    """Shape of the learning rate.

    Attributes:
        kind: `linear` and `cosine` fall from the end of the warm-up to the end of the run; `constant` stays at the
            peak and falls linearly over the last `decay` of it; `inverse_sqrt` falls with the square root of the steps.
        warmup: fraction of the run in which the rate rises linearly from 0.
        decay: fraction of the run in which `constant` falls; 0 never falls.
        floor: learning rate at the end, as a fraction of the peak.
        tokens: length of the schedule in tokens, if not the budget's; afterwards the rate stays at the floor.
    """

    kind: ScheduleKind = "linear"
    warmup: float = Field(0.06, ge=0, lt=1)
    decay: float = Field(0.2, ge=0, le=1)
    floor: float = Field(0.0, ge=0, le=1)
    tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> ScheduleConfig:
        if self.kind == "constant" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are more than the whole run")
        if self.kind == "inverse_sqrt" and not self.warmup:
            raise ValueError("inverse_sqrt begins to fall where the warm-up ends: set warmup above 0, such as 0.1")
        return self


def _linear(config: ScheduleConfig, fraction: float) -> float:
    return (1 - fraction) / (1 - config.warmup)


def _cosine(config: ScheduleConfig, fraction: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * (fraction - config.warmup) / (1 - config.warmup)))


def _constant(config: ScheduleConfig, fraction: float) -> float:
    """Source: "warmup-stable-decay" of Hu et al. 2024 (MiniCPM, arXiv 2404.06395)."""
    return min(1.0, (1 - fraction) / config.decay) if config.decay else 1.0


def _inverse_sqrt(config: ScheduleConfig, fraction: float) -> float:
    """Source: Vaswani et al. 2017 (arXiv 1706.03762), section 5.3."""
    return math.sqrt(config.warmup / max(fraction, config.warmup))


_FALL: dict[ScheduleKind, Callable[[ScheduleConfig, float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "constant": _constant,
    "inverse_sqrt": _inverse_sqrt,
}


def schedule_factor(config: ScheduleConfig, fraction: float) -> float:
    """The learning rate divided by its peak, after a fraction of the run."""
    fraction = min(max(fraction, 0.0), 1.0)
    if fraction < config.warmup:
        return fraction / config.warmup
    return config.floor + (1 - config.floor) * _FALL[config.kind](config, fraction)
