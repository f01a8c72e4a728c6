"""The budget: what is used of it, and the floor in steps where few examples make few steps."""

from __future__ import annotations

import pytest

from pretune.config import validate
from pretune.train.budget import BudgetConfig, Spent
from pretune.train.recipe import Recipe


def test_few_examples_get_200_steps_where_no_budget_is_given() -> None:
    """300 examples in batches of 32 made 28 steps, after which a classifier knew the commonest label alone."""
    budget = validate(Recipe, {"task": "classification"}, "recipe").budget
    assert (budget.unit, budget.total) == ("epochs", 3.0)
    assert str(budget) == "3 epochs, 200 steps at least"
    assert str(BudgetConfig.model_validate({"tokens": 50_000_000})) == "50,000,000 tokens"  # it was 5e+07
    assert str(BudgetConfig(epochs=1)) == "1 epoch"
    assert budget.steps_of(epoch=10, tokens=1) == 200
    assert budget.steps_of(epoch=313, tokens=1) == 939
    assert not budget.done(Spent(steps=199, epochs=19.9))
    assert budget.done(Spent(steps=200, epochs=20.0))
    assert not budget.done(Spent(steps=800, epochs=2.5))
    assert budget.fraction(Spent(steps=50, epochs=5.0)) == 0.25


def test_a_budget_that_is_given_is_kept() -> None:
    budget = validate(Recipe, {"task": "classification", "budget": {"epochs": 3}}, "recipe").budget
    assert budget.min_steps == 0
    assert budget.done(Spent(steps=30, epochs=3.0))
    assert validate(Recipe, {"objective": "mlm"}, "recipe").budget.steps_of(epoch=1, tokens=1) == 1000


def test_heads_alone_learn_at_a_rate_of_their_own() -> None:
    """At the rate of full fine-tuning, a head on a frozen encoder learns next to nothing."""
    for frozen in ("frozen", ["frozen"], {"frozen": {}}):
        assert validate(Recipe, {"task": "classification", "tune": frozen}, "recipe").optimizer.lr == 1e-2
    chosen = {"task": "classification", "tune": "frozen", "optimizer": {"lr": 1e-3}}
    assert validate(Recipe, chosen, "recipe").optimizer.lr == 1e-3
    assert validate(Recipe, {"task": "classification"}, "recipe").optimizer.lr == 1e-4


def test_a_floor_is_for_epochs() -> None:
    with pytest.raises(ValueError, match="min_steps is for a budget in epochs"):
        BudgetConfig(steps=10, min_steps=5)
