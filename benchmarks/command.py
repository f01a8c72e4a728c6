"""Runs the command line of a comparison: what it says goes to stderr, a signal ends its runs, an error has a code."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

from cyclopts import App

from pretune.errors import PretuneError


def run_command(app: App) -> None:
    """Runs a command line to its end, and leaves the process with its exit code."""
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except PretuneError as error:
        print(f"pretune: {error}", file=sys.stderr)
        sys.exit(error.code)


def _stop(number: int, _: FrameType | None) -> None:
    """Ends as Ctrl-C does, so that the run that is going on ends too."""
    raise SystemExit(128 + number)
