"""How a peer's best setting is found: one axis at a time, pairs of runs in turn, until a whole pass changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.benchmark import Benchmark, Context, Search, Side
from benchmarks.measurements import Row, today
from benchmarks.runner import compete
from pretune.errors import BenchError, UsageError

log = logging.getLogger(__name__)

_PASSES = 3
_WORTH = 1.02  # as much faster a setting must be to be taken: less is noise


def search(benchmark: Benchmark, context: Context, rounds: int, warmup: int) -> dict[str, Any]:
    """Try every value of every axis against the best setting so far, which it replaces where it is faster.

    Returns:
        The setting found, and each comparison on the way.

    Raises:
        UsageError: the benchmark has no search.
        BenchError: the machine drifted.
    """
    benchmark.sides(context)  # writes what the sides read
    wanted = benchmark.search(context)
    if wanted is None:
        raise UsageError(f"{benchmark.name}: its peer has no settings to search")

    def race(best: Side, other: Side) -> Row:
        sides = [replace(best, name="best so far"), replace(other, name="tried")]
        block = compete(
            sides, rounds=rounds, warmup=warmup, threads=context.threads, limits=lambda: benchmark.limits(context),
            fresh=benchmark.fresh, timeout=benchmark.timeout,
        )  # fmt: skip
        ours, theirs = block.runs.values()
        return Row.of(sides[1], ours, theirs, benchmark.amount)

    best, trials = descend(wanted, race)
    return {
        "variant": context.variant,
        "date": today(),
        "threads": context.threads,
        "rounds": rounds,
        "start": {axis: setting(wanted.start, axis) for axis in wanted.axes},
        "best": {axis: setting(best, axis) for axis in wanted.axes},
        "trials": trials,
    }


def descend(wanted: Search, race: Callable[[Side, Side], Row]) -> tuple[Side, list[dict[str, Any]]]:
    """The search itself.

    Args:
        race: the best so far against another; the ratio is how much faster the best so far is.

    Returns:
        The setting that nothing beat, and the comparisons: each tells its speed relative to the best so far.
    """
    best, trials = wanted.start, []
    known: set[str] = set()  # pairs that have been compared
    for number in range(_PASSES):
        before = best
        for axis, values in wanted.axes.items():
            for value in values:
                other = change(best, axis, value)
                pair = repr(sorted(repr([setting(c, a) for a in wanted.axes]) for c in (best, other)))
                if other == best or pair in known:
                    continue
                known.add(pair)
                trial = {"pass": number + 1, "axis": axis, "from": setting(best, axis), "to": value}
                try:
                    row = race(best, other)
                except BenchError as error:
                    log.warning(f"  {axis} = {value}: {error}")
                    trials.append(trial | {"failed": str(error).splitlines()[-1], "taken": False})
                    continue
                taken = row.ratio * _WORTH < 1
                spread = {"gain": 1 / row.ratio, "low": 1 / row.high, "high": 1 / row.low}
                trials.append(trial | spread | {"speed": row.theirs.speed, "taken": taken})
                log.info(f"  {axis}: {setting(best, axis)} -> {value}: {1 / row.ratio:.2f}x")
                best = other if taken else best
        if best == before:
            break
    return best, trials


def setting(side: Side, axis: str) -> Any:
    """The value of an axis."""
    return side.allocator if axis == "allocator" else side.options[axis]


def change(side: Side, axis: str, value: Any) -> Side:
    """The side with another value of an axis."""
    if axis == "allocator":
        return replace(side, allocator=value)
    return replace(side, options={**side.options, axis: value})
