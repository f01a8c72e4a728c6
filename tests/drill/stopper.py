"""`pretune ...` that gets a signal, twice, in its first step after a start, if that is before some step.

Usage: stopper.py SIGNAL STEP VERB ...
"""

import os
import sys
from typing import Any

from pretune.cli import main
from pretune.train.step import TrainStep

number, end, run, steps = int(sys.argv[1]), int(sys.argv[2]), TrainStep.run, []


def stopping(self: TrainStep, at: int, *arguments: Any, **more: Any) -> Any:
    """The first step of this process, with the signals."""
    if not steps and at < end:
        steps.append(at)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    return run(self, at, *arguments, **more)


TrainStep.run = stopping
sys.exit(main(sys.argv[3:]))
