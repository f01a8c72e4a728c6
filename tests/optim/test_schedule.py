import math

import pytest

from pretune.config import validate
from pretune.errors import UsageError
from pretune.optim.schedule import ScheduleConfig, schedule_factor


def test_all_kinds_rise_to_the_peak():
    for kind in ("linear", "cosine", "constant", "inverse_sqrt"):
        config = ScheduleConfig(kind=kind, warmup=0.1)
        assert schedule_factor(config, 0.0) == 0.0
        assert schedule_factor(config, 0.05) == pytest.approx(0.5)
        assert schedule_factor(config, 0.1) == pytest.approx(1.0)


def test_linear_falls_to_the_floor():
    config = ScheduleConfig(kind="linear", warmup=0.2, floor=0.1)
    assert schedule_factor(config, 0.6) == pytest.approx(0.1 + 0.9 * 0.5)
    assert schedule_factor(config, 1.0) == pytest.approx(0.1)
    assert schedule_factor(config, 7.0) == pytest.approx(0.1)


def test_cosine_is_half_way_in_the_middle():
    config = ScheduleConfig(kind="cosine", warmup=0.0)
    assert schedule_factor(config, 0.5) == pytest.approx(0.5)
    assert schedule_factor(config, 0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert schedule_factor(config, 1.0) == pytest.approx(0.0, abs=1e-12)


def test_constant_falls_only_at_the_end():
    config = ScheduleConfig(kind="constant", warmup=0.1, decay=0.2)
    assert schedule_factor(config, 0.5) == 1.0
    assert schedule_factor(config, 0.8) == pytest.approx(1.0)
    assert schedule_factor(config, 0.9) == pytest.approx(0.5)
    assert schedule_factor(config, 1.0) == pytest.approx(0.0)
    assert schedule_factor(ScheduleConfig(kind="constant", decay=0.0), 1.0) == 1.0


def test_warmup_and_decay_must_fit():
    with pytest.raises(UsageError, match="more than the whole run"):
        validate(ScheduleConfig, {"kind": "constant", "warmup": 0.5, "decay": 0.6}, "recipe")


def test_inverse_sqrt_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config, steps = ScheduleConfig(kind="inverse_sqrt", warmup=0.1), 200
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = transformers.get_inverse_sqrt_schedule(optimizer, num_warmup_steps=20, timescale=20)
    for step in range(steps):
        assert schedule_factor(config, step / steps) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()
    with pytest.raises(UsageError, match="set warmup above 0"):
        validate(ScheduleConfig, {"kind": "inverse_sqrt", "warmup": 0.0}, "schedule")
