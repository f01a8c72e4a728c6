"""This checkout against another one of pretune, on our own side of the benchmarks: did a change cost speed or memory?

    python -m benchmarks.builds ../before train_step/mlm-mini-packed embed/minilm-ragged --rounds 7

Both builds prepare the same inputs by their own code, warm up, and run in turn, A B B A ..., each in a process of its
own with the same interpreter. A ratio above 1 means that this checkout is faster.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
LAYOUTS = (("benchmarks", "suite"), ("pretune/bench", "works"))  # where a checkout keeps its harness and its benchmarks

# Runs in the checkout: writes the inputs of a benchmark and tells our side of it.
_DESCRIBE = """
import dataclasses, importlib, json, pathlib, sys
package, folder, name, variant, into, precision, threads = sys.argv[1:]
module = importlib.import_module(f"{package}.{folder}.{name}")
(benchmark,) = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__
                and "variants" in vars(v) and hasattr(v, "about")]
harness = sys.modules[next(b for b in benchmark.__mro__ if b.__module__ != module.__name__).__module__]
(context,) = [v for v in vars(harness).values() if dataclasses.is_dataclass(v)
              and {f.name for f in dataclasses.fields(v)} - {"clock"} == {"variant", "folder", "precision", "threads"}]
asked = context(variant, pathlib.Path(into), precision, int(threads))
made = benchmark()
side = (made.sides if hasattr(made, "sides") else made.contestants)(asked)[0]
print(json.dumps({"script": str(side.script), "function": side.function, "options": dict(side.options),
                  "amount": benchmark.amount, "fresh": benchmark.fresh}))
"""


@dataclass
class Build:
    """One checkout's side of one benchmark, in a process of its own."""

    checkout: Path
    order: dict[str, Any]
    threads: int
    worker: Path
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    child: subprocess.Popen[str] | None = None

    @classmethod
    def describe(cls, checkout: Path, benchmark: str, folder: Path, precision: str, threads: int) -> Build:
        """Prepares the inputs of `NAME/VARIANT`."""
        name, _, variant = benchmark.partition("/")
        for package, suite in LAYOUTS:
            if (checkout / package / suite / f"{name}.py").is_file():
                words = [package.replace("/", "."), suite, name, variant, str(folder), precision, str(threads)]
                done = subprocess.run(
                    [sys.executable, "-c", _DESCRIBE, *words],
                    env=_environment(checkout, threads),
                    cwd=checkout,
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                order = json.loads(done.stdout.splitlines()[-1])
                return cls(checkout, order, threads, checkout / package / "worker.py")
        raise SystemExit(f"{checkout}: no benchmark {name!r}")

    def start(self) -> None:
        """Starts the process and waits until it is set up."""
        self.child = subprocess.Popen(
            [sys.executable, str(self.worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(self.checkout, self.threads),
            cwd=self.checkout,
        )
        setup = {name: self.order[name] for name in ("script", "function", "options")}
        self._ask({**setup, "allocator": "ours", "threads": self.threads, "load": 0, "packages": []})

    def run(self, counts: bool) -> None:
        """Runs once; a benchmark whose runs are fresh gets a new process first."""
        if self.child is None:
            self.start()
        answer = self._ask("turn")
        if counts:
            amount = answer[self.order["amount"]] if self.order["amount"] else 1.0
            self.seconds.append(answer["seconds"] / amount)
            self.peaks.append(answer["peak_mb"])
        if self.order["fresh"]:
            self.close()

    def close(self) -> None:
        """Ends the process."""
        if self.child is not None:
            self.child.communicate()
            self.child = None

    def _ask(self, order: object) -> dict[str, Any]:
        assert self.child is not None
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps(order) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self.child.communicate()[1]}
        if "error" in answer:
            raise SystemExit(f"{self.checkout}: {answer['error']}")
        return answer


def _environment(checkout: Path, threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(checkout)}
    return os.environ | dict.fromkeys(names, str(threads)) | offline


def compare(before: Path, benchmark: str, rounds: int, warmup: int, precision: str, threads: int) -> dict[str, Any]:
    """Median, smallest and largest ratio of the times of a unit of work, and of the peaks of memory."""
    with ExitStack() as stack:
        builds = []
        for checkout in (HERE, before):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            build = Build.describe(checkout, benchmark, folder, precision, threads)
            stack.callback(build.close)
            builds.append(build)
        for number in range(warmup + rounds):
            for build in builds if number % 2 else reversed(builds):
                build.run(number >= warmup)
    ours, theirs = builds
    ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    memory = [a / b for a, b in zip(ours.peaks, theirs.peaks, strict=True)]
    return {
        "benchmark": benchmark,
        "speed": [round(f(ratios), 3) for f in (statistics.median, min, max)],
        "memory": round(statistics.median(memory), 3),
        "precision": precision,
    }


def main(words: Sequence[str] | None = None) -> None:
    """Prints a line of JSON for each benchmark."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("benchmarks", nargs="+", help="NAME/VARIANT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(words)
    for benchmark in options.benchmarks:
        comparison = compare(
            options.before.resolve(), benchmark, options.rounds, options.warmup, options.precision, options.threads
        )
        print(json.dumps(comparison), flush=True)


if __name__ == "__main__":
    main()
