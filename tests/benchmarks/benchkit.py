"""Contestants that are scripts of a few lines, and a work made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.benchmark import Contestant

SCRIPT = """
import os


def setup(name="", log=None, **figures):
    def turn():
        if log:
            with open(log, "a") as file:
                file.write(name + "\\n")
        return {"tokens": 10, "process": os.getpid(), **figures}

    return turn
"""

WORK = '''
"""A work whose peer is itself."""

from pathlib import Path

from benchmarks.benchmark import OURS, Contestant, Work
from pretune.errors import BenchError


class Fake(Work):
    about = "Nothing at all."
    variants = {"equal": 1, "different": 2}

    def contestants(self, given):
        loss = self.variants[given.variant]
        theirs = Contestant("peer", Path(__file__), {"loss": loss, "seconds": 0.2}, setting="best")
        return [self.ours(loss=1, seconds=0.1), theirs]

    def limits(self, given):
        return {"GEMM": 1e9}

    def check(self, given, turns):
        if any(past[0]["loss"] != turns[OURS][0]["loss"] for past in turns.values()):
            raise BenchError("first losses differ")
        return {"gap": 0.0}

    def notes(self, facts):
        return ["a note"]


def setup(loss, seconds):
    return lambda: {"tokens": 10, "loss": loss, "seconds": seconds}
'''


def script(folder: Path, text: str = SCRIPT, name: str = "fake.py") -> Path:
    """A contestant's file."""
    path = folder / name
    path.write_text(text)
    return path


def contestant(folder: Path, name: str, text: str = SCRIPT, options: Mapping[str, Any] | None = None) -> Contestant:
    """One side, in this interpreter."""
    return Contestant(name, script(folder, text, f"{name}.py"), options or {})
