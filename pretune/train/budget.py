"""The budget of a run: steps, tokens, epochs or minutes."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, model_validator

from pretune.config import Config

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

    Without a budget, pretraining takes 1,000 steps and fine-tuning 3 epochs.

    Attributes:
        steps: optimizer steps; 1000 for pretraining where no budget is given.
        tokens: tokens through the model, over all ranks.
        epochs: passes over the data; 3 for fine-tuning where no budget is given.
        minutes: time in the training loop, evaluation and saving included, added up over restarts. Such a run cannot
            be reproduced bit for bit.
    """

    steps: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0, allow_inf_nan=False)
    minutes: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one(self) -> BudgetConfig:
        units = [unit for unit in UNITS if getattr(self, unit) is not None]
        if len(units) != 1:
            raise ValueError(f"give exactly one of {', '.join(UNITS)}; given: {', '.join(units) or 'none'}")
        return self

    @property
    def unit(self) -> str:
        """The unit in which this budget is given."""
        return next(unit for unit in UNITS if getattr(self, unit) is not None)

    @property
    def total(self) -> float:
        """How much of the unit there is."""
        return float(getattr(self, self.unit))

    def fraction(self, spent: Spent) -> float:
        """What part of the budget is used, in [0, 1] and above where the last step went over it."""
        used = {"steps": spent.steps, "tokens": spent.tokens, "epochs": spent.epochs, "minutes": spent.seconds / 60}
        return used[self.unit] / self.total

    def done(self, spent: Spent) -> bool:
        """Is the budget used up? Epochs are a quotient of integers, so rounding is allowed for."""
        return self.fraction(spent) >= (1 - 1e-9 if self.epochs is not None else 1)
