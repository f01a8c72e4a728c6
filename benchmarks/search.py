"""How a peer's best setting is found: one axis at a time, pairs of runs in turn, until a whole pass changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.benchmark import Contestant, Given, Search, Work
from benchmarks.measurements import Row, today
from benchmarks.runner import compete
from pretune.errors import BenchError, UsageError

log = logging.getLogger(__name__)

_PASSES = 3
_WORTH = 1.02  # as much faster a setting must be to be taken: less is noise


def search(work: Work, given: Given, rounds: int, warmup: int) -> dict[str, Any]:
    """Try every value of every axis against the best setting so far, which it replaces where it is faster.

    Returns:
        The setting found, and each comparison on the way.

    Raises:
        UsageError: the work has no search.
        BenchError: the machine drifted.
    """
    work.contestants(given)  # writes what the sides read
    wanted = work.search(given)
    if wanted is None:
        raise UsageError(f"{work.name}: its peer has no settings to search")

    def race(best: Contestant, other: Contestant) -> Row:
        sides = [replace(best, name="best so far"), replace(other, name="tried")]
        heat = compete(
            sides, rounds=rounds, warmup=warmup, threads=given.threads, limits=lambda: work.limits(given),
            fresh=work.fresh, patience=work.patience,
        )  # fmt: skip
        mine, theirs = heat.turns.values()
        return Row.of(sides[1], mine, theirs, work.amount)

    best, trials = descend(wanted, race)
    return {
        "variant": given.variant,
        "date": today(),
        "threads": given.threads,
        "rounds": rounds,
        "start": {axis: setting(wanted.start, axis) for axis in wanted.axes},
        "best": {axis: setting(best, axis) for axis in wanted.axes},
        "trials": trials,
    }


def descend(wanted: Search, race: Callable[[Contestant, Contestant], Row]) -> tuple[Contestant, list[dict[str, Any]]]:
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


def setting(contestant: Contestant, axis: str) -> Any:
    """The value of an axis."""
    return contestant.allocator if axis == "allocator" else contestant.options[axis]


def change(contestant: Contestant, axis: str, value: Any) -> Contestant:
    """The contestant with another value of an axis."""
    if axis == "allocator":
        return replace(contestant, allocator=value)
    return replace(contestant, options={**contestant.options, axis: value})
