"""Waiting threads: how spinning is limited, when, and that it changes no bit."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from pretune.runtime.affinity import Confinement, cpus
from pretune.runtime.openmp import SpinLimit
from pretune.runtime.spin_policy import Measurement, Mode, SpinPolicy
from pretune.runtime.spinning import SpinWatch
from pretune.runtime.thread_times import TASKS, cpu_of, cpu_seconds, idle_seconds, thread_times, waiting_fraction

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
        for _ in range(8):
            data.add_(1)  # the team waits for the next one from here on
            time.sleep(0.01)
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


@pytest.mark.skipif(cpus() < 2, reason="threads of one processor wait for each other, and none spins")
@pytest.mark.slow
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


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_no_team_is_started_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    assert SpinLimit.of_torch() is None


def test_no_later_team_is_started_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    teams: list[int] = []
    limit, start = SpinLimit(teams.append, 3), threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    limit.set(True)
    assert not teams
    monkeypatch.setattr(threading.Thread, "start", start)
    limit.set(True)
    limit.set(False)
    deadline = time.monotonic() + 5.0
    while not teams and time.monotonic() < deadline:
        time.sleep(0.01)
    assert teams == [3]


def feed(policy: SpinPolicy, waiting: float, times: int, ran: float = 1.5, idle: float = 0.0) -> list[Mode]:
    return [policy.update(Measurement(0.1, waiting, ran, idle)) for _ in range(times)]


def test_a_quiet_machine_spins() -> None:
    assert {*feed(SpinPolicy(), 0.05, 1000)} == {Mode.SPIN}


def test_a_busy_machine_is_noticed_at_once() -> None:
    assert {*feed(SpinPolicy(), 0.8, 2)} == {Mode.SLEEP}
    assert SpinPolicy(0.8).mode is Mode.SLEEP


def test_a_blip_is_no_busy_machine() -> None:
    policy = SpinPolicy()
    assert {*feed(policy, 0.4, 1), *feed(policy, 0.0, 10), *feed(policy, 0.4, 1)} == {Mode.SPIN}


def test_spinning_comes_back_when_the_machine_is_quiet_again() -> None:
    policy = SpinPolicy(0.8)
    assert {*feed(policy, 0.8, 100)} == {Mode.SLEEP}
    assert {*feed(policy, 0.1, 20)[10:]} == {Mode.SPIN}


def test_failed_trials_become_rare() -> None:
    """Threads that sleep wait little here, those that spin much."""
    policy, modes = SpinPolicy(), []
    for _ in range(6000):
        modes.append(policy.mode)
        policy.update(Measurement(0.1, 0.15 if policy.mode is Mode.SLEEP else 0.5, 1.5))
    assert modes.count(Mode.SPIN) < 60


def test_threads_that_get_less_than_a_cpu_go_to_one() -> None:
    policy = SpinPolicy(0.8)
    assert feed(policy, 0.8, 5, ran=0.5)[-1] is Mode.ONE_CPU
    assert {*feed(policy, 0.8, 200, ran=0.5)} == {Mode.ONE_CPU}
    assert feed(policy, 0.5, 100, ran=0.5)[-1] is Mode.ONE_CPU


def test_one_cpu_is_left_where_it_gives_much_less() -> None:
    policy = SpinPolicy(0.8)
    feed(policy, 0.8, 3, ran=0.5)
    assert Mode.SLEEP in feed(policy, 0.8, 12, ran=0.1)


def test_one_cpu_is_left_when_others_are_idle() -> None:
    policy = SpinPolicy(0.8)
    feed(policy, 0.8, 3, ran=0.5)
    assert Mode.SLEEP in feed(policy, 0.5, 12, ran=1.0, idle=1.0)
    assert feed(policy, 0.05, 60, idle=1.0)[-1] is Mode.SPIN


def test_one_cpu_is_never_tried_where_several_give_more() -> None:
    assert Mode.ONE_CPU not in feed(SpinPolicy(), 0.4, 1000, ran=1.5)


def test_waiting_is_that_of_the_thread_that_fares_worst() -> None:
    before = {1: (0, 0), 2: (0, 0), 3: (0, 0)}
    after = {1: (SECOND, 0), 2: (SECOND // 2, SECOND // 2), 3: (0, SECOND // 10), 4: (0, SECOND)}
    assert waiting_fraction(before, after, 1.0) == 0.5
    assert waiting_fraction(after, after, 1.0) is None
    assert cpu_seconds(before, after) == 1.5


def test_what_the_kernel_counts_of_this_thread() -> None:
    thread, before = threading.get_native_id(), time.process_time()
    first = thread_times({thread, 1 << 30})
    if not first:
        pytest.skip("the kernel does not count here")
    while time.process_time() < before + 0.05:
        pass
    assert cpu_seconds(first, thread_times({thread})) > 0.02
    cpus = os.sched_getaffinity(0)
    assert cpu_of(thread) in cpus
    assert idle_seconds(cpus) > 0.0 == idle_seconds({1 << 20})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or cpus() < 2, reason="one CPU, or threads cannot be moved")
def test_threads_are_confined_and_freed_with_what_they_started() -> None:
    own, all_cpus, end = threading.get_native_id(), os.sched_getaffinity(0), threading.Event()
    confinement = Confinement()
    confinement.start({own}, own)
    try:
        assert os.sched_getaffinity(0) == {confinement.cpu}
        inheriting = threading.Thread(target=end.wait)
        inheriting.start()
        assert inheriting.native_id is not None
        assert os.sched_getaffinity(inheriting.native_id) == {confinement.cpu}
        confinement.end(but={own})
        assert os.sched_getaffinity(inheriting.native_id) == all_cpus
        assert os.sched_getaffinity(0) == {confinement.cpu}
        confinement.leave()
        assert os.sched_getaffinity(0) == all_cpus
        confinement.enter()
        assert os.sched_getaffinity(0) == {confinement.cpu}
        script = "import os; print(len(os.sched_getaffinity(0)))"
        child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert int(child.stdout) == len(all_cpus)
    finally:
        end.set()
        confinement.end()
    assert os.sched_getaffinity(0) == all_cpus
    assert confinement.cpu is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or cpus() < 2, reason="one CPU, or threads cannot be moved")
def test_ranks_of_a_machine_do_not_share_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    chosen = []
    for rank in range(2):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        confinement = Confinement()
        confinement.start(set(), threading.get_native_id())
        chosen.append(confinement.cpu)
    assert chosen == sorted(os.sched_getaffinity(0))[:2]


BITS = """
    import hashlib, os, threading
    import torch
    from pretune.runtime import spinning

    torch.set_num_threads(2)
    torch.manual_seed(0)
    left, right, digests = torch.randn(256, 256), torch.randn(256, 256), set()
    allowed = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0))
    with spinning.adaptive_spinning(torch.device("cpu")):
        watch = spinning._watches[0]
        for number in range(6):
            if watch._limit is not None:
                watch._limit.set(number % 2 == 0)
                watch._confinement.start(watch._team(), threading.get_native_id())
            if number % 3 == 0:
                watch._confinement.end()
            product = (left @ right).softmax(-1).sum(0)
            digests.add(hashlib.sha256(product.numpy().tobytes()).hexdigest())
    child = os.fork()
    if not child:
        with spinning.adaptive_spinning(torch.device("cpu")):
            torch.ones(8).sum()
        os._exit(7 if not allowed or len(os.sched_getaffinity(0)) == allowed else 6)
    print(len(digests), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_no_bit_changes_and_a_forked_process_computes() -> None:
    assert run(BITS) == "1 7\n"


@pytest.mark.skipif(not os.path.isdir(TASKS), reason="no /proc")
def test_a_caller_that_has_ended_is_not_confined() -> None:
    """Its number may be that of a thread of another process by then."""
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    assert ended.native_id is not None
    while str(ended.native_id) in os.listdir(TASKS):  # for the kernel it ends a moment later
        time.sleep(0.001)
    confinement = Confinement()
    confinement.start(set(), ended.native_id)
    assert confinement.cpu is None

    class Limit(SpinLimit):
        def set(self, is_on: bool) -> None:
            pass

    limit = Limit(lambda threads: None, 2)
    watch = SpinWatch(limit)
    watch.policy = SpinPolicy(0.8)
    watch.policy.mode = Mode.ONE_CPU
    watch._recent = {ended.native_id}
    watch._apply(limit)
    assert watch._confinement.cpu is None
