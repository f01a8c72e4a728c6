import pytest

from pretune.config import validate
from pretune.errors import UsageError
from pretune.train.budget import BudgetConfig, Spent


def test_share_counts_in_the_budgets_own_unit():
    spent = Spent(steps=5, tokens=300, epochs=0.75, seconds=90)
    assert BudgetConfig(steps=10).fraction(spent) == 0.5
    assert BudgetConfig(tokens=1000).fraction(spent) == 0.3
    assert BudgetConfig(epochs=3).fraction(spent) == 0.25
    assert BudgetConfig(minutes=3).fraction(spent) == 0.5


def test_done_at_the_budget_and_not_before():
    budget = BudgetConfig(steps=10)
    assert not budget.done(Spent(steps=9))
    assert budget.done(Spent(steps=10))


def test_three_epochs_of_seven_samples_end_in_spite_of_rounding():
    assert BudgetConfig(epochs=0.3).done(Spent(epochs=0.1 + 0.1 + 0.1 - 1e-16))


@pytest.mark.parametrize("tree", [{}, {"steps": 1, "tokens": 1}, {"steps": 0}, {"minutes": float("inf")}])
def test_exactly_one_unit_in_range(tree):
    with pytest.raises(UsageError):
        validate(BudgetConfig, tree, "recipe")
