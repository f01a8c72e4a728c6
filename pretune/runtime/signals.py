"""Signals that end a process: training saves a checkpoint first, everything else stops cleanly.

SIGTERM comes from `kill` and schedulers, SIGINT from Ctrl-C, SIGHUP from a terminal that closes or a connection that is
lost, SIGUSR1 from SLURM ahead of its time limit (`sbatch --signal=USR1@60`).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pretune.errors import PretuneError

CATCH = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_UNWINDING = 10.0  # seconds in which a process that is ending needs not be told again


class SignalError(PretuneError):
    """Training stopped at a signal, after a checkpoint; the process exits with 128 + the signal's number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.code = 128 + number


class Terminated(BaseException):
    """Raised by a signal while no training loop handles it."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.number = number


class StopRequest:
    """The first signal that asked to stop; 0 until one comes."""

    def __init__(self) -> None:
        self.number = 0

    def __bool__(self) -> bool:
        return self.number != 0

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number


class _Termination:
    """Ends a process by an exception, once: what it cleans up is not broken off by a second signal."""

    def __init__(self) -> None:
        self._at = -_UNWINDING

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._at >= _UNWINDING:
            self._at = time.monotonic()
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


def caught() -> list[signal.Signals]:
    """The signals that are handled: all of them, but for a hang-up that `nohup` lets the process ignore."""
    return [each for each in CATCH if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Note signals instead of obeying them, until the block ends. A second signal changes nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._record) for number in caught()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminate_on_signal() -> Iterator[None]:
    """Let signals raise `Terminated`, SIGINT `KeyboardInterrupt` as ever, until the block ends."""
    termination = _Termination()
    python = signal.getsignal(signal.SIGINT) == signal.default_int_handler  # else a shell's background job ignores it
    numbers = [number for number in caught() if number != signal.SIGINT or python]
    before = {number: signal.signal(number, termination) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
