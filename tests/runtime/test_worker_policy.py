"""How many workers compute: fewer where they wait for a CPU, more where they do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pretune.runtime import worker_policy
from pretune.runtime.worker_policy import WorkerPolicy

MEASUREMENT = 20_000_000  # nanoseconds
Clock = Callable[[float], None]


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Clock:
    now = [100.0]
    monkeypatch.setattr(worker_policy.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(worker_policy, "waiting_so_far", lambda: 0.0)

    def step(seconds: float) -> None:
        now[0] += seconds

    return step


def meet(policy: WorkerPolicy, waiting: float, available: int, times: int = 1) -> int:
    for _ in range(times):
        policy.update(round(MEASUREMENT * (1 - waiting)), round(MEASUREMENT * waiting), available)
    return policy.max_workers(available)


@pytest.mark.usefixtures("advance")
def test_workers_that_wait_are_halved_until_one_is_left() -> None:
    policy = WorkerPolicy()
    assert policy.max_workers(8) == 8
    assert [meet(policy, 0.8, 8) for _ in range(4)] == [4, 2, 1, 1]


def test_they_come_back_when_the_machine_is_quiet(advance: Clock) -> None:
    policy = WorkerPolicy()
    policy.max_workers(4)
    assert meet(policy, 0.9, 4, times=3) == 1
    assert meet(policy, 0.0, 4, times=9) == 1  # not at once
    for expected in (2, 4):
        advance(30)
        assert meet(policy, 0.0, 4) == expected


def test_a_trial_that_fails_doubles_the_time_until_the_next(advance: Clock) -> None:
    policy = WorkerPolicy()
    policy.max_workers(2)
    pauses = []
    for _ in range(7):
        assert meet(policy, 1.0, 2, times=2) == 1
        seconds = 0
        while meet(policy, 0.0, 2, times=3) == 1:
            advance(0.5)
            seconds += 1
        pauses.append(seconds / 2)
    assert pauses == [2, 4, 8, 16, 30, 30, 30]


@pytest.mark.usefixtures("advance")
def test_short_moments_are_added_up() -> None:
    policy = WorkerPolicy()
    policy.max_workers(2)
    for _ in range(9):
        policy.update(0, MEASUREMENT // 10, 2)
    assert policy.max_workers(2) == 2
    policy.update(0, MEASUREMENT // 10, 2)
    assert policy.max_workers(2) == 1


def test_a_process_that_waited_while_it_started_begins_with_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_policy, "waiting_so_far", lambda: 0.6)
    assert WorkerPolicy().max_workers(4) == 2
    monkeypatch.setattr(worker_policy, "waiting_so_far", lambda: None)  # unknown, as beside other systems
    assert WorkerPolicy().max_workers(4) == 4


@pytest.mark.usefixtures("advance")
def test_a_fixed_policy_keeps_all() -> None:
    policy = WorkerPolicy(is_fixed=True)
    assert meet(policy, 1.0, 4, times=5) == 4
