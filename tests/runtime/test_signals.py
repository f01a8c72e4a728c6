"""Signals end a process once, and a hang-up takes its screen away and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pretune.runtime.screen import Screen
from pretune.runtime.signals import CATCH, Terminated, stop_on_signal, terminate_on_signal


def kill(*numbers: int) -> None:
    """To this thread: one to the process may reach another of its threads, and be seen here later."""
    for number in numbers:
        signal.raise_signal(number)


@pytest.mark.parametrize("number", CATCH)
def test_a_second_signal_breaks_no_cleaning_up_off(number: signal.Signals) -> None:
    cleaned: list[bool] = []

    def work() -> None:
        try:
            kill(number)
        finally:
            kill(number, signal.SIGTERM, signal.SIGHUP)
            cleaned.append(True)

    expected = KeyboardInterrupt if number == signal.SIGINT else Terminated
    with terminate_on_signal(), pytest.raises(expected) as caught:
        work()
    assert cleaned
    assert getattr(caught.value, "number", number) == number


def test_the_first_signal_counts() -> None:
    with stop_on_signal() as request:
        kill(signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)
        assert request.number == signal.SIGUSR1


def test_handlers_are_as_they_were() -> None:
    before = {number: signal.getsignal(number) for number in CATCH}
    with terminate_on_signal(), stop_on_signal():
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    assert {number: signal.getsignal(number) for number in CATCH} == before


@pytest.mark.parametrize("context", ["stop_on_signal", "terminate_on_signal"])
def test_nohup_is_obeyed(context: str) -> None:
    code = f"""
    import os, signal
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup leaves
    from pretune.runtime.signals import {context}
    with {context}() as request:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not request
    print("alive")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "alive\n", done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_screen_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        Screen().line("nobody hears this")
        assert not Screen().isatty()
        monkeypatch.undo()

        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # so that closing it succeeds
