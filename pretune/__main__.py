"""`python -m pretune`, `torchrun -m pretune`, and the command `pretune`: the process around the command line."""

from __future__ import annotations

import os
import signal
import sys


def run() -> int:
    """Runs the command line; returns the exit code.

    Before the verb listens for signals, and after it has ended, one ends the process at once and in silence: what is
    imported then, and what the interpreter does at its end, would print tracebacks instead.
    """
    _fill_closed_streams()
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a background job of a shell ignores it
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pretune.cli import main

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main()
    finally:
        if heard:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _fill_closed_streams() -> None:
    """Opens the null device in place of standard streams that the caller closed, as `2>&-` does.

    The next file that is opened would have the number of standard error, and get what libraries print there.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (of the whole process)


if __name__ == "__main__":
    sys.exit(run())
