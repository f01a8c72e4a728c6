"""How long the command line takes to answer, beside a Python that imports nothing and one that imports torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from benchmarks.benchmark import OURS, Benchmark, Context, Runs, Side
from pretune.errors import BenchError


class Startup(Benchmark):
    """The time to the last word of an answer that needs no model."""

    about = (
        "Answers of the command line that need no model, in a process of its own each time: ours against `python -c`."
    )
    variants: ClassVar[Mapping[str, Sequence[str]]] = {
        "version": ["--version"],
        "help": ["finetune", "--help"],
        "all-help": ["finetune", "--help-all"],
        "objectives": ["show", "objectives"],
    }
    amount, unit = "", "answers/s"
    allocators = ("own",)

    def sides(self, context: Context) -> list[Side]:
        """Our verb; Python alone; Python with torch, which our answers must do without."""
        words = ["-m", "pretune", *self.variants[context.variant]]
        return [
            Side(OURS, self.script, {"words": words}, allocator="own"),
            Side("python", self.script, {"words": ["-c", "print(1)"]}, setting="best"),
            Side("python, import torch", self.script, {"words": ["-c", "import torch; print(1)"]}, setting="default"),
        ]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Ours answered."""
        if not all(past[0]["letters"] for past in runs.values()):
            raise BenchError("a command said nothing")
        return {}


def setup(*, words: Sequence[str]) -> Callable[[], dict[str, Any]]:
    """A process with these words after `python`."""

    def run() -> dict[str, Any]:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
        return {"letters": len(done.stdout)}

    return run
