"""Sides take turns A B C A B C ..., so that a drift of the machine falls on all alike.

A block is ours and one peer at both allocators: three processes at most, whatever the number of peers, unless a
benchmark wants all of an environment in one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.benchmark import GEMM, OURS, Benchmark, Clock, Context, Run, Side
from benchmarks.environments import AbsentError
from benchmarks.measurements import Result, Row, Speed, mark
from benchmarks.memory import Peak
from benchmarks.process import Process
from pretune.errors import BenchError

log = logging.getLogger(__name__)

DRIFT = 0.25  # max / min - 1 of the limit, above which a run says more of the machine than of the runners


@dataclass
class Block:
    """What a block gave.

    Attributes:
        runs: by label, in the order of the rounds.
        limits: of the machine by name, one for each round.
        versions: by label.
    """

    runs: dict[str, list[Run]]
    limits: dict[str, list[float]]
    versions: dict[str, dict[str, str]]


def compete(
    sides: Sequence[Side],
    *,
    rounds: int,
    warmup: int,
    threads: int,
    limits: Callable[[], Mapping[str, float]] = dict,
    fresh: bool = False,
    timeout: float = 1800.0,
    clock: Clock = "wall",
) -> Block:
    """Give runs in rounds and gather what came back.

    Args:
        limits: measures what the machine can do, after each round.
        fresh: every run in a process of its own.
        clock: whose seconds are kept.

    Raises:
        BenchError: a side failed, or the machine drifted.
        AbsentError: the environment of one cannot be made.
    """
    block = Block({c.label: [] for c in sides}, {}, {})
    with ExitStack() as stack:
        runners: dict[str, Callable[[], Run]] = {}
        for side in sides:
            if fresh:
                runners[side.label] = partial(_fresh_run, side, threads, timeout, block)
            else:
                process = stack.enter_context(Process(side, threads, timeout))
                block.versions[side.label] = process.versions
                runners[side.label] = process.run
        for number in range(-warmup, rounds):
            results = {label: _by(clock, run()) for label, run in runners.items()}
            if number < 0:
                continue
            for label, run in results.items():
                block.runs[label].append(run)
            _append(block.limits, limits())
            log.info(f"  round {number + 1}: " + ", ".join(f"{n} {t['seconds']:.2f} s" for n, t in results.items()))
    refuse_drift(block.limits.get(GEMM, ()))
    return block


def once(side: Side, threads: int, timeout: float = 1800.0) -> Run:
    """One run outside of the race: for checks that need a peer's library."""
    with Process(side, threads, timeout) as process:
        return process.run()


def refuse_drift(limits: Sequence[float]) -> None:
    """Refuse a run in which the GEMM peak changed too much.

    Raises:
        BenchError: by more than `DRIFT`.
    """
    if limits and (change := drift(limits)) > DRIFT:
        raise BenchError(
            f"refused: the GEMM peak drifted by {change:.0%} between the rounds ({min(limits):.3g} .. {max(limits):.3g}"
            f" FLOP/s), more than {DRIFT:.0%}; nothing is recorded. Run it again when nothing else runs here"
        )


def drift(limits: Sequence[float]) -> float:
    """Largest to smallest, less 1."""
    return max(limits) / min(limits) - 1


def measure(benchmark: Benchmark, context: Context, rounds: int, warmup: int) -> Result:
    """Run one variant against every peer.

    Raises:
        BenchError: it does not count: a side failed, the runners differ, the machine drifted.
    """
    rounds, warmup = min(rounds, benchmark.max_rounds[0]), min(warmup, benchmark.max_rounds[1])
    ours, *peers = benchmark.sides(context)
    rows: list[Row] = []
    our_runs: list[Run] = []
    limits: dict[str, list[float]] = {}
    worst = 0.0
    absent: dict[str, str] = {}
    versions: dict[str, dict[str, str]] = {}
    for both in _groups(benchmark, peers) or [[]]:
        try:
            block = _block(benchmark, context, [ours, *both], rounds, warmup)
        except AbsentError as error:
            absent[both[0].name] = str(error)
            log.warning(f"absent: {both[0].name}: {error}")
            continue
        checked = benchmark.check(context, block.runs)
        new = [Row.of(side, block.runs[OURS], block.runs[side.label], benchmark.amount) for side in both]
        rows += mark([replace(row, checked=checked) for row in new])
        our_runs += block.runs[OURS]
        for name, values in block.limits.items():
            limits.setdefault(name, []).extend(values)
        worst = max(worst, drift(block.limits.get(GEMM, [1.0])))
        versions |= {(c.environment or OURS): block.versions[c.label] for c in (ours, *both)}
    if not our_runs:
        raise BenchError("no peer could be installed: " + "; ".join(absent))
    facts = benchmark.facts(context, our_runs, limits)
    return Result(
        precision=context.precision,
        threads=context.threads,
        rounds=rounds,
        warmup=warmup,
        unit=benchmark.unit,
        ours=Speed.of(our_runs, benchmark.amount),
        rows=rows,
        limits=limits,
        drift=worst,
        versions=versions,
        absent=absent,
        facts=facts,
        notes=benchmark.notes(facts),
        clock=context.clock,
    )


def _groups(benchmark: Benchmark, peers: Sequence[Side]) -> list[list[Side]]:
    """The peers that take turns with ours in one block, at each allocator."""
    groups: dict[object, list[Side]] = {}
    for number, peer in enumerate(peers):
        group = groups.setdefault(peer.environment if benchmark.together else number, [])
        group += [replace(peer, allocator=allocator) for allocator in benchmark.allocators]
    return list(groups.values())


def _block(benchmark: Benchmark, context: Context, sides: Sequence[Side], rounds: int, warmup: int) -> Block:
    return compete(
        sides,
        rounds=rounds,
        warmup=warmup,
        threads=context.threads,
        clock=context.clock,
        limits=lambda: benchmark.limits(context),
        fresh=benchmark.fresh,
        timeout=benchmark.timeout,
    )


def _by(clock: Clock, run: Run) -> Run:
    return run | {"seconds": run["cpu"]} if clock == "cpu" else run


def _append(gathered: dict[str, list[float]], measured: Mapping[str, float]) -> None:
    for name, value in measured.items():
        gathered.setdefault(name, []).append(value)


def _fresh_run(side: Side, threads: int, timeout: float, block: Block) -> Run:
    with Process(side, threads, timeout) as process:
        block.versions[side.label] = process.versions
        peak = Peak(process.pid)
        try:
            return process.run() | {"peak_mb": peak.stop()}
        finally:
            peak.stop()
