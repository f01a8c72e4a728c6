"""Sides that are scripts of a few lines, and a benchmark made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.benchmark import Side

SCRIPT = """
import os


def setup(name="", log=None, **figures):
    def run():
        if log:
            with open(log, "a") as file:
                file.write(name + "\\n")
        return {"tokens": 10, "process": os.getpid(), **figures}

    return run
"""

BENCHMARK = '''
"""A benchmark whose peer is itself."""

from pathlib import Path

from benchmarks.benchmark import OURS, Side, Benchmark
from pretune.errors import BenchError


class Fake(Benchmark):
    about = "Nothing at all."
    variants = {"equal": 1, "different": 2}

    def sides(self, context):
        loss = self.variants[context.variant]
        theirs = Side("peer", Path(__file__), {"loss": loss, "seconds": 0.2}, setting="best")
        return [self.ours(loss=1, seconds=0.1), theirs]

    def limits(self, context):
        return {"GEMM": 1e9}

    def check(self, context, runs):
        if any(past[0]["loss"] != runs[OURS][0]["loss"] for past in runs.values()):
            raise BenchError("first losses differ")
        return {"gap": 0.0}

    def notes(self, facts):
        return ["a note"]


def setup(loss, seconds):
    return lambda: {"tokens": 10, "loss": loss, "seconds": seconds}
'''


def script(folder: Path, text: str = SCRIPT, name: str = "fake.py") -> Path:
    """A side's file."""
    path = folder / name
    path.write_text(text)
    return path


def make_side(folder: Path, name: str, text: str = SCRIPT, options: Mapping[str, Any] | None = None) -> Side:
    """One side, in this interpreter."""
    return Side(name, script(folder, text, f"{name}.py"), options or {})
