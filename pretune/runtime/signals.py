"""SIGTERM and SIGINT ask the loop to save and stop; they never interrupt it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pretune.errors import PretuneError

CATCH = (signal.SIGTERM, signal.SIGINT)


class SignalError(PretuneError):
    """Training stopped at a signal, after a checkpoint; the process exits with 128 + the signal's number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.code = 128 + number


class StopRequest:
    """The last signal that asked to stop; 0 until one comes."""

    def __init__(self) -> None:
        self.number = 0

    def __bool__(self) -> bool:
        return self.number != 0

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGINT instead of obeying them, until the block ends. A second signal changes nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._record) for number in CATCH}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
