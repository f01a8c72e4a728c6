"""Decides how many threads compute side by side, each by itself, by how long they waited for a CPU."""

from __future__ import annotations

import threading
import time

from pretune.runtime.spin_policy import SpinPolicy
from pretune.runtime.thread_times import waiting_so_far

_MIN_SECONDS = 0.02  # of wanting to run, for a measurement
_NS = 1_000_000_000


class WorkerPolicy:
    """How many workers of a process compute: half as many where they wait much for a CPU, and twice as many again where
    they wait little.

    Beside busy processes several workers of one interpreter are slower than one, as the one that holds its lock may
    have no CPU. A trial that fails soon doubles the time until the next, as of spinning.

    Args:
        is_fixed: all workers compute, whatever they meet.
    """

    def __init__(self, is_fixed: bool = False) -> None:
        self._is_fixed = is_fixed
        self.waiting: float | None = None  # fraction of the time lately; None before the first call
        self._max_workers: int | None = None  # as many as there are
        self._ran = self._waited = 0  # nanoseconds since the last measurement
        self._pause, self._changed = SpinPolicy.PAUSE, 0.0
        self._lock = threading.Lock()

    def max_workers(self, available: int) -> int:
        """How many of the available workers compute now, at least one."""
        with self._lock:
            if self.waiting is None and not self._is_fixed:
                self._begin(available)
            return available if self._max_workers is None else min(available, self._max_workers)

    def _begin(self, available: int) -> None:
        """Begins with what the calling thread met so far, such as while it imported torch."""
        self._changed = time.monotonic()
        self.waiting = waiting_so_far() or 0.0
        if self.waiting > SpinPolicy.BUSY:
            self._max_workers = max(1, available // 2)

    def update(self, ran: int, waited: int, available: int) -> None:
        """Takes in what a worker met.

        Args:
            ran, waited: nanoseconds on a CPU, and ready to run without one.
            available: number of workers that there are.
        """
        if self._is_fixed:
            return
        with self._lock:
            self._ran, self._waited = self._ran + ran, self._waited + waited
            if (runnable := self._ran + self._waited) < _MIN_SECONDS * _NS:
                return
            self.waiting = ((self.waiting or 0.0) + self._waited / runnable) / 2
            self._ran = self._waited = 0
            self._choose(available, time.monotonic())

    def _choose(self, available: int, now: float) -> None:
        assert self.waiting is not None  # it was measured
        workers = min(available, self._max_workers or available)
        if self.waiting > SpinPolicy.BUSY and workers > 1:
            lasted = now - self._changed >= SpinPolicy.LASTING
            self._pause = SpinPolicy.PAUSE if lasted else min(2 * self._pause, SpinPolicy.MAX_PAUSE)
            self._max_workers, self._changed = workers // 2, now
        elif self.waiting < SpinPolicy.BUSY and workers < available and now - self._changed >= self._pause:
            self._max_workers, self._changed = 2 * workers, now
            self.waiting = SpinPolicy.AT_TRIAL
