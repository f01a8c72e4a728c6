"""Paired, interleaved timing of contestants that live in processes of their own.

Each contestant is a function of its own process: it sets itself up once, then runs a turn whenever it is told to. The
parent gives turns A B C A B C ..., measures the limits of the machine between them, and reports the ratio of each
round, so that a drift of the machine falls on all alike.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OURS = "ours"

Turn = Callable[[], dict[str, float]]  # does the work; may return figures such as tokens or a loss
Setup = Callable[..., Turn]


@dataclass
class Contestant:
    """One side of a comparison.

    Attributes:
        setup: called in the contestant's own process; returns the turn.
        arguments: of `setup`.
        tuned: with pretune's allocator settings, else with the C library's own.
    """

    setup: Setup
    arguments: dict[str, Any] = field(default_factory=dict)
    tuned: bool = False


def _serve(pipe: Connection, contestant: Contestant) -> None:
    if contestant.tuned:
        from pretune.train.allocator import tune_allocator

        tune_allocator()
    turn = contestant.setup(**contestant.arguments)
    pipe.send({"ready": 1.0})
    while pipe.recv():
        start = time.perf_counter()
        found = turn()
        seconds = time.perf_counter() - start
        pipe.send({**found, "seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


class Worker:
    """A contestant's process."""

    def __init__(self, contestant: Contestant) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        if contestant.tuned:
            os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
        else:
            os.environ.pop("THP_MEM_ALLOC_ENABLE", None)
        self.process = context.Process(target=_serve, args=(far, contestant), daemon=True)
        self.process.start()
        far.close()
        self.pipe.recv()

    def turn(self) -> dict[str, float]:
        """Run once; what the turn returned, its seconds and the process's peak memory."""
        self.pipe.send(True)
        return self.pipe.recv()  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process."""
        self.pipe.send(False)
        self.process.join(10)


def gemm_peak(precision: str, shapes: list[tuple[int, int, int]], seconds: float = 0.15) -> float:
    """Best speed over the shapes (rows, in, out) of the work itself, in FLOP/s."""
    import torch
    import torch.nn.functional as F

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for rows, inner, outer in shapes:
        x, w = torch.randn(rows, inner, dtype=dtype), torch.randn(outer, inner, dtype=dtype)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            F.linear(x, w)
            best = max(best, 2.0 * rows * inner * outer / (time.perf_counter() - start))
    return best


def read_bandwidth(megabytes: int = 192, repeats: int = 3) -> float:
    """Best speed of a plain sum over memory, in bytes/s."""
    import torch

    x = torch.ones(megabytes * 2**20 // 4)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        x.sum()
        best = max(best, megabytes * 2**20 / (time.perf_counter() - start))
    return best


def compete(
    contestants: dict[str, Contestant], rounds: int, warmup: int = 2, between: Callable[[], float] | None = None
) -> dict[str, Any]:
    """Give turns in rounds and gather what came back.

    Args:
        between: measures a limit of the machine, once a round.

    Returns:
        `{"turns": {name: [turn, ...]}, "limit": [...]}`.
    """
    workers = {name: Worker(contestant) for name, contestant in contestants.items()}
    for _ in range(warmup):
        for worker in workers.values():
            worker.turn()
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    limit: list[float] = []
    for number in range(rounds):
        for name, worker in workers.items():
            turns[name].append(worker.turn())
        if between is not None:
            limit.append(between())
        print(
            f"  round {number + 1}: " + ", ".join(f"{n} {t[-1]['seconds']:.2f} s" for n, t in turns.items()), flush=True
        )
    for worker in workers.values():
        worker.close()
    return {"turns": turns, "limit": limit}


@dataclass
class Row:
    """A line of the table: ours against one peer."""

    work: str
    peer: str
    ratio: float
    low: float
    high: float
    ours: float
    theirs: float
    unit: str


def rows_of(work: str, turns: dict[str, list[dict[str, float]]], amount: str, unit: str) -> list[Row]:
    """Ratios of every peer's time to ours, round by round, and speeds from the medians.

    Args:
        amount: key of a turn's figure that is the work done, such as `tokens`.
    """
    mine = turns[OURS]
    out = []
    for name, theirs in turns.items():
        if name == OURS:
            continue
        ratios = [(b["seconds"] / b[amount]) / (a["seconds"] / a[amount]) for a, b in zip(mine, theirs, strict=True)]
        speeds = [statistics.median(t[amount] / t["seconds"] for t in side) for side in (mine, theirs)]
        out.append(Row(work, name, statistics.median(ratios), min(ratios), max(ratios), *speeds, unit))
    return out


def show(rows: list[Row]) -> None:
    """Print the table."""
    for row in rows:
        spread = f"({row.low:.2f} .. {row.high:.2f})"
        print(f"{row.work:34} {row.peer:34} {row.ratio:6.2f}x {spread:18} {row.ours:9.0f} {row.theirs:9.0f} {row.unit}")


def record(name: str, rows: list[Row], **more: Any) -> Path:
    """Write the figures with machine, versions and date into `benchmarks/results/<name>-<capability>.json`.

    Rows and facts of other works stay as the file has them, so that works can be measured one at a time.
    """
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for module in ("transformers", "datasets", "tokenizers"):
        if module in sys.modules or module == "transformers":
            versions[module] = __import__(module).__version__
    machine = {"cpu": _processor(), "cores": os.cpu_count(), "capability": torch.backends.cpu.get_cpu_capability()}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{machine['capability'].lower()}.json"
    old = json.loads(path.read_text()) if path.exists() else {"rows": []}
    measured = {row.work for row in rows}
    if "facts" in more:
        more["facts"] = old.get("facts", {}) | more["facts"]
    tree = {
        "date": str(date.today()),
        "machine": machine,
        "versions": versions,
        "rows": [*(row for row in old["rows"] if row["work"] not in measured), *(asdict(row) for row in rows)],
        **more,
    }
    path.write_text(json.dumps(tree, indent=1) + "\n")
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
