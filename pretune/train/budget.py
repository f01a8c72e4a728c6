"""The budget of a run: steps, tokens, epochs or minutes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field, model_validator

from pretune.config import Config
from pretune.wording import describe_budget

UNITS = ("steps", "tokens", "epochs", "minutes")


@dataclass(frozen=True)
class Spent:
    """What a run has used so far, over all ranks and all its restarts; halves at the middle of a step.

    Attributes:
        steps: optimizer steps, skipped ones included.
        tokens: tokens that went through the model.
        epochs: passes over the data, fractions included.
        seconds: time in the loop.
    """

    steps: float = 0
    tokens: float = 0
    epochs: float = 0.0
    seconds: float = 0.0


class BudgetConfig(Config):
    """Exactly one of these; training stops after the first step that reaches it.

    Without a budget, pretraining takes 1,000 steps; fine-tuning chooses its steps from the training data, or takes 3
    epochs, and 200 steps at least, of a model from random weights or by surgery.

    Attributes:
        steps: optimizer steps; 1000 for pretraining where no budget is given.
        tokens: tokens through the model, over all ranks.
        epochs: passes over the data; 3 for fine-tuning where no budget is given.
        minutes: time in the training loop, evaluation and saving included, added up over restarts. Such a run cannot
            be reproduced bit for bit.
        min_steps: steps that a budget in epochs takes at least; 200 for fine-tuning where no budget is given.
    """

    steps: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0, allow_inf_nan=False)
    minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    min_steps: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _one(self) -> BudgetConfig:
        units = [unit for unit in UNITS if getattr(self, unit) is not None]
        if len(units) != 1:
            raise ValueError(f"give exactly one of {', '.join(UNITS)}; given: {', '.join(units) or 'none'}")
        if self.min_steps and self.epochs is None:
            raise ValueError(f"min_steps is for a budget in epochs; leave it out, or give epochs instead of {units[0]}")
        return self

    @property
    def unit(self) -> str:
        """The unit in which this budget is given."""
        return next(unit for unit in UNITS if getattr(self, unit) is not None)

    @property
    def total(self) -> float:
        """How much of the unit there is."""
        return float(getattr(self, self.unit))

    def __str__(self) -> str:
        return describe_budget(self.total, self.unit, self.min_steps)

    def fraction(self, spent: Spent) -> float:
        """What part of the budget is used, in [0, 1] and above where the last step went over it."""
        used = {"steps": spent.steps, "tokens": spent.tokens, "epochs": spent.epochs, "minutes": spent.seconds / 60}
        fraction = used[self.unit] / self.total
        return min(fraction, spent.steps / self.min_steps) if self.min_steps else fraction

    def steps_of(self, epoch: float, tokens: float) -> int | None:
        """Steps that this budget allows; None where it is a time.

        Args:
            epoch: steps of an epoch.
            tokens: tokens of a step.
        """
        if self.steps is not None:
            return self.steps
        if self.tokens is not None:
            return max(1, math.ceil(self.tokens / tokens))
        return None if self.epochs is None else max(1, self.min_steps, math.ceil(self.epochs * epoch))

    def done(self, spent: Spent) -> bool:
        """Is the budget used up? Epochs are a quotient of integers, so rounding is allowed for."""
        return self.fraction(spent) >= (1 - 1e-9 if self.epochs is not None else 1)
