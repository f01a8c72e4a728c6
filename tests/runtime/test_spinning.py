"""Waiting threads: how spinning is limited, when, and that it changes no bit."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import pytest

from pretune.runtime.openmp import SpinLimit
from pretune.runtime.spinning import SpinPolicy, waiting_fraction

SECOND = 1_000_000_000


def run(code: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**environment, "OMP_NUM_THREADS": "2", **variables},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


LEVER = """
    import time
    import torch
    from pretune.runtime.openmp import SpinLimit

    def spent():
        "CPU time of a team's barriers while nothing is to do."
        data, start = torch.ones(1 << 18), time.process_time()
        for _ in range(20):
            data.add_(1)  # the team waits for the next one from here on
            time.sleep(0.02)
        return time.process_time() - start

    torch.set_num_threads(max(2, torch.get_num_threads()))
    limit = SpinLimit.of_torch()
    if limit is None:
        print("none")
    else:
        times = [spent()]
        for is_on in (True, False, True):
            limit.set(is_on)
            time.sleep(0.1)
            times.append(spent())
        print(*times)
"""


def test_a_second_team_turns_spinning_off_and_on() -> None:
    output = run(LEVER).split()
    if output == ["none"]:
        pytest.skip("torch does not compute with libgomp here")
    spinning, limited, again, once_more = map(float, output)
    assert min(spinning, again) > 5 * max(limited, once_more)


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_who_sets_a_variable_has_decided(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert SpinLimit.of_torch() is None


def test_no_team_is_started_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert SpinLimit.of_torch() is None


def feed(policy: SpinPolicy, waiting: float, times: int) -> list[bool]:
    return [policy.update(waiting, 0.1) for _ in range(times)]


def test_a_quiet_machine_spins() -> None:
    assert not any(feed(SpinPolicy(), 0.05, 1000))


def test_a_busy_machine_is_noticed_at_once() -> None:
    assert feed(SpinPolicy(), 0.8, 2) == [True, True]
    assert feed(SpinPolicy(0.8), 0.8, 1) == [True]


def test_a_blip_is_no_busy_machine() -> None:
    policy = SpinPolicy()
    assert not any(feed(policy, 0.4, 1) + feed(policy, 0.0, 10) + feed(policy, 0.4, 1))


def test_spinning_comes_back_when_the_machine_is_quiet_again() -> None:
    policy = SpinPolicy(0.8)
    assert all(feed(policy, 0.8, 100))
    assert not any(feed(policy, 0.1, 20)[10:])


def test_failed_trials_become_rare() -> None:
    """One busy process of two CPUs: sleeping threads wait little, spinning ones much."""
    policy, limited = SpinPolicy(), []
    for _ in range(6000):
        limited.append(policy.is_limited)
        policy.update(0.15 if policy.is_limited else 0.5, 0.1)
    assert limited.count(False) < 30
    assert all(feed(policy, 0.15, 20)) or all(feed(policy, 0.6, 20)[1:])


def test_waiting_is_that_of_the_thread_that_fares_worst() -> None:
    before = {1: (0, 0), 2: (0, 0), 3: (0, 0)}
    after = {1: (SECOND, 0), 2: (SECOND // 2, SECOND // 2), 3: (0, SECOND // 10), 4: (0, SECOND)}
    assert waiting_fraction(before, after, 1.0) == 0.5
    assert waiting_fraction(after, after, 1.0) is None


BITS = """
    import hashlib, os
    import torch
    from pretune.runtime import spinning

    torch.set_num_threads(2)
    torch.manual_seed(0)
    left, right, digests = torch.randn(256, 256), torch.randn(256, 256), set()
    with spinning.adaptive_spinning(torch.device("cpu")):
        watch = spinning._watches[0]
        for number in range(6):
            if watch._limit is not None:
                watch._limit.set(number % 2 == 0)
            product = (left @ right).softmax(-1).sum(0)
            digests.add(hashlib.sha256(product.numpy().tobytes()).hexdigest())
    child = os.fork()
    if not child:
        with spinning.adaptive_spinning(torch.device("cpu")):
            torch.ones(8).sum()
        os._exit(7)
    print(len(digests), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_no_bit_changes_and_a_forked_process_computes() -> None:
    assert run(BITS) == "1 7\n"
