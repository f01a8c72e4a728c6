"""Lets OpenMP's waiting threads spin on a quiet machine and sleep on a busy one.

A thread of libgomp that waits at a barrier spins for milliseconds before it sleeps. Alone that is right: nobody else
wants the CPU, and the next operator is microseconds away. Beside other processes it is ruinous: the thread that is
waited for has no CPU, while those that wait use theirs up. So a thread of ours measures, while something is computed,
how long the computing threads could have run and had no CPU, and decides by that. Where they get less than one CPU
together, they run on one: there, each is ready when the other needs it.

No result changes by a bit: the number of threads that compute, which decides the order of sums, stays as it is.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pretune.runtime.affinity import Confinement
from pretune.runtime.openmp import SpinLimit
from pretune.runtime.spin_policy import Measurement, Mode, SpinPolicy
from pretune.runtime.thread_times import (
    TASKS,
    ThreadTimes,
    cpu_seconds,
    idle_seconds,
    thread_times,
    waiting_fraction,
    waiting_so_far,
)

_SHORT, _LONG = 0.02, 0.1  # seconds of a measurement: after a change, and later
_log = logging.getLogger("pretune")


class SpinWatch:
    """Measures while some thread computes, and adapts how threads wait and run.

    Args:
        limit: None where there is nothing to choose.
    """

    def __init__(self, limit: SpinLimit | None) -> None:
        self.policy = SpinPolicy()
        self._limit = limit if os.path.isdir(TASKS) else None
        self._confinement = Confinement()
        self._callers: Counter[int] = Counter()
        self._entered: set[int] = set()  # threads that called since the last measurement
        self._recent: set[int] = set()  # and those that did before it, who may be confined
        self._lock = threading.Lock()
        self._computing = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_noted = False

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Adapts threads while the calling one computes, if it does so with several."""
        if self._limit is None or torch.get_num_threads() == 1:
            yield
            return
        caller = threading.get_native_id()
        with self._lock:
            self._callers[caller] += 1
            self._entered.add(caller)
            if caller not in self._recent:
                self._recent.add(caller)
                self._confinement.enter()
            if self._thread is None:
                self._start(self._limit)
        self._computing.set()
        try:
            yield
        finally:
            with self._lock:
                self._callers[caller] -= 1
                if not self._callers[caller]:
                    del self._callers[caller]  # what it is confined to goes on, as it may call again in a moment

    def _start(self, limit: SpinLimit) -> None:
        """Begins with what the calling thread met so far, such as while it imported torch."""
        waiting = waiting_so_far()
        if waiting is not None:
            self.policy = SpinPolicy(waiting)
            limit.set(self.policy.mode is not Mode.SPIN)
        self._thread = threading.Thread(target=self._run, args=(limit,), name="pretune-spin-watch", daemon=True)
        self._thread.start()

    def _run(self, limit: SpinLimit) -> None:
        while True:
            self._computing.wait()
            before, idle, start = thread_times(self._team()), self._idle(), time.monotonic()
            pause = _SHORT
            while self._computing.is_set():
                self._computing.clear()
                time.sleep(pause)
                after, idle_after, now = thread_times(self._team()), self._idle(), time.monotonic()
                mode = self.policy.mode
                measurement = _compare(before, after, now - start, idle_after - idle)
                if measurement is not None:
                    self.policy.update(measurement)
                self._apply(limit)
                pause = _LONG if self.policy.mode is mode else _SHORT
                before, idle, start = after, self._idle(), now
                if self._callers:
                    self._computing.set()
            with self._lock:
                self._confinement.end()
                self._recent = set()

    def _idle(self) -> float:
        others = self._confinement.others if self._confinement.cpu is not None else frozenset[int]()
        return idle_seconds(others) if others else 0.0

    def _team(self) -> set[int]:
        """The threads that compute: those that called, and those that Python knows nothing of."""
        with self._lock:
            callers = set(self._recent)
        python = {thread.native_id for thread in threading.enumerate()}
        return callers | {int(name) for name in os.listdir(TASKS)} - python

    def _apply(self, limit: SpinLimit) -> None:
        limit.set(self.policy.mode is not Mode.SPIN)
        python = {thread.native_id for thread in threading.enumerate()}
        with self._lock:
            tasks = {int(name) for name in os.listdir(TASKS)}
            callers = self._recent & tasks  # without those that have ended
            team = tasks - python | callers
            if self.policy.mode is not Mode.ONE_CPU:
                self._confinement.end()
            elif callers:
                self._confinement.start(team, next(iter(callers)))
                self._confinement.end(but=team)
            self._recent = self._entered | set(self._callers)
            self._entered = set()
        if self.policy.mode is not Mode.SPIN and not self._is_noted:
            self._is_noted = True
            _log.info(
                f"the machine is busy: threads wait {self.policy.waiting:.0%} of the time for a CPU; while this lasts "
                "they do not spin at barriers (results stay the same)"
            )


def _compare(before: ThreadTimes, after: ThreadTimes, seconds: float, idle: float) -> Measurement | None:
    """What threads met between two times; None if none wanted to run for long."""
    waiting = waiting_fraction(before, after, seconds)
    if waiting is None:
        return None
    return Measurement(seconds, waiting, cpu_seconds(before, after) / seconds, idle / seconds)


_watches: list[SpinWatch] = []  # of this process; none before something is computed
_creating = threading.Lock()


@contextmanager
def adaptive_spinning(device: torch.device) -> Iterator[None]:
    """Lets waiting threads spin or sleep as the machine allows, while the block computes on a device that is a CPU."""
    if device.type != "cpu":
        yield
        return
    if not _watches:
        with _creating:
            if not _watches:
                _watches.append(SpinWatch(SpinLimit.of_torch()))
    with _watches[0].computing():
        yield


def _forget() -> None:
    """Begins anew in a forked process, which has the calling thread alone."""
    for watch in _watches:
        watch._confinement.leave()
    _watches.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
