import pytest

from pretune.errors import UsageError
from pretune.train.evaluation import EvaluationConfig, better, metric_value


def test_ten_over_the_budget_or_every_n_steps():
    config = EvaluationConfig()
    steps = [n for n in range(1, 101) if config.due(n, (n - 1) / 100, n / 100)]
    assert len(steps) == 10
    assert steps[0] == 10
    every = EvaluationConfig(every=30)
    assert [n for n in range(101) if every.due(n, 0, 0)] == [30, 60, 90]
    assert not EvaluationConfig(samples=0, every=1).due(5, 0, 0)


def test_smaller_losses_and_larger_scores_are_better():
    assert better("loss", 1.0, None)
    assert better("loss/mlm", 1.0, 2.0)
    assert not better("loss", 2.0, 2.0)
    assert better("accuracy", 0.9, 0.8)
    assert not better("accuracy", float("nan"), None)
    assert not better("loss", float("nan"), 3.0)


def test_an_unknown_metric_is_named():
    assert metric_value("loss", {"loss": 1.0}) == 1.0
    with pytest.raises(UsageError, match="did you mean 'accuracy'"):
        metric_value("acuracy", {"accuracy": 1.0})
