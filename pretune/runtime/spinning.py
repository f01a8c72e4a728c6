"""Lets OpenMP's waiting threads spin on a quiet machine and sleep on a busy one.

A thread of libgomp that waits at a barrier spins for milliseconds before it sleeps. Alone that is right: nobody else
wants the CPU, and the next operator is microseconds away. Beside other processes it is ruinous: the thread that is
waited for has no CPU, while those that wait use theirs up. So a thread of ours measures, while something is computed,
how long the computing threads could have run and had no CPU, and decides by that.

No result changes by a bit: the number of threads that compute, which decides the order of sums, stays as it is.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress

import torch

from pretune.runtime.openmp import SpinLimit

ThreadTimes = Mapping[int, tuple[int, int]]  # by thread: nanoseconds on a CPU, nanoseconds waiting for one

_TASKS = "/proc/self/task"
_SHORT, _LONG = 0.02, 0.1  # seconds of a measurement: after a change, and later
_MIN_RUNNABLE = 0.2  # fraction of a measurement in which a thread has to be runnable to count
_START_SECONDS = 60.0  # a thread's life, up to which it tells how busy the machine is now
_NS = 1_000_000_000
_log = logging.getLogger("pretune")


class SpinPolicy:
    """Decides whether to limit spinning.

    Limits it at once where threads wait much for a CPU. Where they do no longer, spinning is tried again; a trial that
    fails soon doubles the time until the next.

    Args:
        waiting: fraction of the time so far in which a thread could have run and had no CPU.
    """

    BUSY = 0.25  # fraction from which spinning costs more than sleeping does
    _AT_TRIAL = 0.12  # what a trial begins with: one bad measurement ends it
    _PAUSE, _MAX_PAUSE, _LASTING = 1.0, 60.0, 5.0  # seconds

    def __init__(self, waiting: float = 0.0) -> None:
        self.waiting = waiting
        self.is_limited = waiting > self.BUSY
        self._pause, self._since = self._PAUSE, 0.0

    def update(self, waiting: float, seconds: float) -> bool:
        """Takes in a measurement; returns whether spinning is to be limited from now on."""
        self.waiting = (self.waiting + waiting) / 2
        self._since += seconds
        if self.is_limited and self.waiting < self.BUSY and self._since >= self._pause:
            self.is_limited, self._since, self.waiting = False, 0.0, self._AT_TRIAL
        elif not self.is_limited and self.waiting > self.BUSY:
            self._pause = self._PAUSE if self._since >= self._LASTING else min(2 * self._pause, self._MAX_PAUSE)
            self.is_limited, self._since = True, 0.0
        return self.is_limited


class SpinWatch:
    """Measures while some thread computes, and limits spinning while the machine is busy.

    Args:
        limit: None where there is nothing to choose.
    """

    def __init__(self, limit: SpinLimit | None) -> None:
        self.policy = SpinPolicy()
        self._limit = limit if os.path.isdir(_TASKS) else None
        self._callers: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._computing = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_noted = False

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Adapts spinning while the calling thread computes, if it does so with several threads."""
        if self._limit is None or torch.get_num_threads() == 1:
            yield
            return
        caller = threading.get_native_id()
        with self._lock:
            self._callers[caller] += 1
            if self._thread is None:
                self._start(self._limit, caller)
        self._computing.set()
        try:
            yield
        finally:
            with self._lock:
                self._callers[caller] -= 1
                self._callers += Counter()  # drops what is 0

    def _start(self, limit: SpinLimit, caller: int) -> None:
        """Begins with what the calling thread met so far, such as while it imported torch."""
        ran, waited = thread_times({caller}).get(caller, (0, 0))
        if 0 < ran + waited < _START_SECONDS * _NS:
            self.policy = SpinPolicy(waited / (ran + waited))
            self._apply(limit)
        self._thread = threading.Thread(target=self._run, args=(limit,), name="pretune-spin-watch", daemon=True)
        self._thread.start()

    def _run(self, limit: SpinLimit) -> None:
        while True:
            self._computing.wait()
            before, start = thread_times(self._team()), time.monotonic()
            seconds = _SHORT
            while self._computing.is_set():
                self._computing.clear()
                time.sleep(seconds)
                after, now = thread_times(self._team()), time.monotonic()
                was_limited = self.policy.is_limited
                waiting = waiting_fraction(before, after, now - start)
                if waiting is not None and self.policy.update(waiting, now - start) != was_limited:
                    self._apply(limit)
                seconds = _LONG if self.policy.is_limited == was_limited else _SHORT
                before, start = after, now
                if self._callers:
                    self._computing.set()

    def _team(self) -> set[int]:
        """The threads that compute: those that called, and those that Python knows nothing of."""
        with self._lock:
            callers = set(self._callers)
        python = {thread.native_id for thread in threading.enumerate()}
        return callers | {int(name) for name in os.listdir(_TASKS)} - python

    def _apply(self, limit: SpinLimit) -> None:
        limit.set(self.policy.is_limited)
        if self.policy.is_limited and not self._is_noted:
            self._is_noted = True
            _log.info(
                f"the machine is busy: threads wait {self.policy.waiting:.0%} of the time for a CPU; while this lasts "
                "they do not spin at barriers (results stay the same)"
            )


def waiting_fraction(before: ThreadTimes, after: ThreadTimes, seconds: float) -> float | None:
    """The largest fraction of its runnable time that a thread waited for a CPU; None if none wanted to run for long."""
    fractions = []
    for thread, (ran, waited) in after.items():
        ran_before, waited_before = before.get(thread, (ran, waited))
        runnable = ran - ran_before + waited - waited_before
        if runnable > _MIN_RUNNABLE * seconds * _NS:
            fractions.append((waited - waited_before) / runnable)
    return max(fractions, default=None)


def thread_times(threads: Set[int]) -> dict[int, tuple[int, int]]:
    """What the kernel counted for some threads of this process, without those that have ended meanwhile."""
    times = {}
    for thread in threads:
        with suppress(OSError, ValueError):
            file = os.open(f"{_TASKS}/{thread}/schedstat", os.O_RDONLY)
            try:
                ran, waited, _ = os.read(file, 100).split()
            finally:
                os.close(file)
            times[thread] = (int(ran), int(waited))
    return times


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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watches.clear)  # the thread is not there
