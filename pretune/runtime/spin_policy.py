"""Decides where OpenMP's threads wait and run, by what a background measurement saw of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Mode(Enum):
    """How the threads share the machine with others."""

    SPIN = "spin at barriers, on all CPUs"
    SLEEP = "sleep at barriers, on all CPUs"
    ONE_CPU = "sleep at barriers, all on one CPU"


@dataclass(frozen=True)
class Measurement:
    """What was seen for a moment.

    Attributes:
        seconds: how long that was.
        waiting: fraction of its runnable time in which the thread that fared worst had no CPU.
        ran: CPU seconds that the threads had together, a second.
        idle: CPUs that nobody used, beside the one that the threads are on.
    """

    seconds: float
    waiting: float
    ran: float
    idle: float = 0.0


class SpinPolicy:
    """Chooses a mode after each measurement.

    Threads that wait much for a CPU stop spinning at once. Where they wait little again, spinning is tried; a trial
    that fails soon doubles the time until the next. Sleeping threads that together get about one CPU or less go to one,
    where a barrier costs no wake-up on another and others make room, unless they get much less CPU time there. CPU time
    tells, as threads that do not spin spend it on their work, but for moments it is noisy.

    Args:
        waiting: fraction of the time so far in which a thread could have run and had no CPU.
    """

    BUSY = 0.25  # fraction from which spinning costs more than sleeping does
    AT_TRIAL = 0.12  # what a trial of spinning begins with: one bad measurement ends it
    PAUSE, MAX_PAUSE, LASTING = 1.0, 30.0, 5.0  # seconds before a trial, at first and at most; of one that succeeded
    _SETTLED = 0.1  # seconds
    _ONE = 1.1  # CPUs that threads on several get together, above which one would be less
    _MUCH_LESS = 0.6  # of what they got on several

    def __init__(self, waiting: float = 0.0) -> None:
        self.waiting = waiting
        self.mode = Mode.SLEEP if waiting > self.BUSY else Mode.SPIN
        self._spin_pause, self._one_pause = self.PAUSE, self._SETTLED
        self._on_several = 0.0  # CPUs, before the threads went to one
        self._since = self._ran = 0.0  # seconds and CPU seconds since the last change

    def update(self, measurement: Measurement) -> Mode:
        """Takes in a measurement; returns the mode from now on."""
        self.waiting = (self.waiting + measurement.waiting) / 2
        self._since += measurement.seconds
        self._ran += measurement.ran * measurement.seconds
        if self.mode is Mode.SPIN:
            self._while_spinning()
        elif self.mode is Mode.SLEEP:
            self._while_sleeping()
        else:
            self._while_on_one(measurement.idle)
        return self.mode

    def _while_spinning(self) -> None:
        if self.waiting > self.BUSY:
            lasted = self._since >= self.LASTING
            self._spin_pause = self.PAUSE if lasted else min(2 * self._spin_pause, self.MAX_PAUSE)
            self._enter(Mode.SLEEP)

    def _while_sleeping(self) -> None:
        if self.waiting < self.BUSY:
            if self._since >= self._spin_pause:
                self._enter(Mode.SPIN)
                self.waiting = self.AT_TRIAL
        elif self._since >= self._one_pause and self._rate < self._ONE:
            self._on_several = self._rate
            self._enter(Mode.ONE_CPU)

    def _while_on_one(self, idle: float) -> None:
        if self._since >= self.PAUSE and self._rate < self._MUCH_LESS * self._on_several:
            self._one_pause = min(2 * self._one_pause, self.MAX_PAUSE)
            self._enter(Mode.SLEEP)
        elif (idle > 0.5 and self._since >= self.PAUSE) or self._since >= self.MAX_PAUSE:
            self._one_pause = self._SETTLED
            self._enter(Mode.SLEEP)

    @property
    def _rate(self) -> float:
        return self._ran / self._since

    def _enter(self, mode: Mode) -> None:
        if Mode.ONE_CPU in (mode, self.mode):
            self.waiting = self.BUSY  # threads on one CPU wait for each other, which tells nothing of others
        self.mode, self._since, self._ran = mode, 0.0, 0.0
