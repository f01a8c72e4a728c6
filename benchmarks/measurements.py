"""What a comparison gave, and the file that keeps it: `results/<benchmark>-<capability>.json`."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.benchmark import Run, Side


@dataclass(frozen=True)
class Speed:
    """How fast one side was: median over its runs, in the work's unit, and the most memory it held."""

    speed: float
    low: float
    high: float
    peak_mb: float

    @classmethod
    def of(cls, runs: Sequence[Run], amount: str) -> Speed:
        """Of the runs of one side.

        Args:
            amount: the figure that is the work done; "" counts runs.
        """
        speeds = [_speed(run, amount) for run in runs]
        peak = max(run["peak_mb"] for run in runs)
        return cls(statistics.median(speeds), min(speeds), max(speeds), peak)


@dataclass(frozen=True)
class Row:
    """Ours against one peer at one allocator.

    Attributes:
        ratio: our speed to theirs, the median over the rounds; above 1, ours is faster.
        counts: its ratio is the smaller of both allocators: this is the row of the table.
        checked: how close both sides' results were.
    """

    peer: str
    setting: str
    allocator: str
    ratio: float
    low: float
    high: float
    ours: Speed
    theirs: Speed
    counts: bool = False
    checked: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, peer: Side, ours: Sequence[Run], theirs: Sequence[Run], amount: str) -> Row:
        """From the runs of both sides, round by round."""
        ratios = [_speed(a, amount) / _speed(b, amount) for a, b in zip(ours, theirs, strict=True)]
        spread = statistics.median(ratios), min(ratios), max(ratios)
        sides = Speed.of(ours, amount), Speed.of(theirs, amount)
        return cls(peer.name, peer.setting, peer.allocator, *spread, *sides)


@dataclass
class Result:
    """All of one variant.

    Attributes:
        ours: our speed over all rounds.
        limits: of the machine by name, one for each round of each block.
        drift: of the GEMM peak within a block, the largest.
        versions: of our environment and of each peer's.
        absent: peers that could not be installed, and why.
        facts, notes: figures beside the ratios, and the same as sentences.
        clock: whose seconds they are: of the wall, or CPU time.
    """

    precision: str
    threads: int
    rounds: int
    warmup: int
    unit: str
    ours: Speed
    rows: list[Row]
    limits: dict[str, list[float]]
    drift: float
    versions: dict[str, dict[str, str]]
    absent: dict[str, str]
    facts: dict[str, Any]
    notes: list[str]
    date: str = field(default_factory=lambda: today())
    clock: str = "wall"


def today() -> str:
    """The date, as figures carry it."""
    return str(date.today())


def mark(rows: Sequence[Row]) -> list[Row]:
    """Mark the smaller ratio of each peer's two allocators as the row that counts."""
    lowest = {row.peer: row for row in sorted(rows, key=lambda row: -row.ratio)}
    return [replace(row, counts=row is lowest[row.peer]) for row in rows]


def machine() -> dict[str, Any]:
    """The processor, its cores and the instructions that torch uses."""
    from pretune.runtime.precision import cpu_capability

    return {"cpu": _processor(), "cores": os.cpu_count(), "capability": cpu_capability()}


def record(folder: Path, benchmark: str, about: str, results: Mapping[str, Result]) -> Path:
    """Write the results of some variants of a benchmark; others stay as the file has them."""
    here = machine()
    path = folder / f"{benchmark}-{here['capability'].lower()}.json"
    variants = _known(path, "variants") | {name: asdict(result) for name, result in results.items()}
    write(path, {"benchmark": benchmark, "about": about, "machine": here, "variants": variants})
    return path


def record_profile(folder: Path, benchmark: str, variant: str, profile: Mapping[str, Any]) -> Path:
    """Write where the time of a variant goes; other variants stay as the file has them."""
    here = machine()
    path = folder / f"{benchmark}-profile-{here['capability'].lower()}.json"
    write(path, {"benchmark": benchmark, "machine": here, "profile": _known(path, "profile") | {variant: profile}})
    return path


def write(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a file of results; figures have six digits, which is more than the machine repeats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(tree), indent=1) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """A tree as the file has it: figures of six digits, lists for tuples."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _known(path: Path, part: str) -> dict[str, Any]:
    """What the file has of each variant; nothing if there is no file."""
    recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get(part, {}) if path.exists() else {}
    return recorded


def _speed(run: Run, amount: str) -> float:
    return float((run[amount] if amount else 1.0) / run["seconds"])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
