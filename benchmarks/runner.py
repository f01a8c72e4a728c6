"""Contestants take turns A B C A B C ..., so that a drift of the machine falls on all alike.

A heat is ours and one peer at both allocators: three processes at most, whatever the number of peers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.benchmark import GEMM, OURS, Contestant, Given, Turn, Work
from benchmarks.environments import AbsentError
from benchmarks.measurements import Result, Row, Speed, mark
from benchmarks.memory import Peak
from benchmarks.process import Process
from pretune.errors import BenchError

log = logging.getLogger(__name__)

DRIFT = 0.25  # max / min - 1 of the limit, above which a run says more of the machine than of the sides


@dataclass
class Heat:
    """What a heat gave.

    Attributes:
        turns: by label, in the order of the rounds.
        limits: of the machine by name, one for each round.
        versions: by label.
    """

    turns: dict[str, list[Turn]]
    limits: dict[str, list[float]]
    versions: dict[str, dict[str, str]]


def compete(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    warmup: int,
    threads: int,
    limits: Callable[[], Mapping[str, float]] = dict,
    fresh: bool = False,
    patience: float = 1800.0,
) -> Heat:
    """Give turns in rounds and gather what came back.

    Args:
        limits: measures what the machine can do, after each round.
        fresh: every turn in a process of its own.

    Raises:
        BenchError: a contestant failed, or the machine drifted.
        AbsentError: the environment of one cannot be made.
    """
    heat = Heat({c.label: [] for c in contestants}, {}, {})
    with ExitStack() as stack:
        sides: dict[str, Callable[[], Turn]] = {}
        for contestant in contestants:
            if fresh:
                sides[contestant.label] = partial(_fresh_turn, contestant, threads, patience, heat)
            else:
                process = stack.enter_context(Process(contestant, threads, patience))
                heat.versions[contestant.label] = process.versions
                sides[contestant.label] = process.turn
        for number in range(-warmup, rounds):
            found = {label: turn() for label, turn in sides.items()}
            if number < 0:
                continue
            for label, turn in found.items():
                heat.turns[label].append(turn)
            _append(heat.limits, limits())
            log.info(f"  round {number + 1}: " + ", ".join(f"{n} {t['seconds']:.2f} s" for n, t in found.items()))
    refuse_drift(heat.limits.get(GEMM, ()))
    return heat


def once(contestant: Contestant, threads: int, patience: float = 1800.0) -> Turn:
    """One turn outside of the race: for checks that need a peer's library."""
    with Process(contestant, threads, patience) as process:
        return process.turn()


def refuse_drift(limits: Sequence[float]) -> None:
    """Refuse a run in which the GEMM peak changed too much.

    Raises:
        BenchError: by more than `DRIFT`.
    """
    if limits and (found := drift(limits)) > DRIFT:
        raise BenchError(
            f"refused: the GEMM peak drifted by {found:.0%} between the rounds ({min(limits):.3g} .. {max(limits):.3g} "
            f"FLOP/s), more than {DRIFT:.0%}; nothing is recorded. Run it again when nothing else runs here"
        )


def drift(limits: Sequence[float]) -> float:
    """Largest to smallest, less 1."""
    return max(limits) / min(limits) - 1


def measure(work: Work, given: Given, rounds: int, warmup: int) -> Result:
    """Run one variant against every peer.

    Raises:
        BenchError: it does not count: a side failed, the sides differ, the machine drifted.
    """
    rounds, warmup = min(rounds, work.most[0]), min(warmup, work.most[1])
    ours, *peers = work.contestants(given)
    rows: list[Row] = []
    mine: list[Turn] = []
    limits: dict[str, list[float]] = {}
    worst = 0.0
    absent: dict[str, str] = {}
    versions: dict[str, dict[str, str]] = {}
    for both in [[replace(peer, allocator=a) for a in work.allocators] for peer in peers] or [[]]:
        try:
            heat = _heat(work, given, [ours, *both], rounds, warmup)
        except AbsentError as error:
            absent[both[0].name] = str(error)
            log.warning(f"absent: {both[0].name}: {error}")
            continue
        checked = work.check(given, heat.turns)
        new = [Row.of(side, heat.turns[OURS], heat.turns[side.label], work.amount) for side in both]
        rows += mark([replace(row, checked=checked) for row in new])
        mine += heat.turns[OURS]
        for name, values in heat.limits.items():
            limits.setdefault(name, []).extend(values)
        worst = max(worst, drift(heat.limits.get(GEMM, [1.0])))
        versions |= {(c.environment or OURS): heat.versions[c.label] for c in (ours, *both)}
    if not mine:
        raise BenchError("no peer could be installed: " + "; ".join(absent))
    facts = work.facts(given, mine, limits)
    return Result(
        precision=given.precision,
        threads=given.threads,
        rounds=rounds,
        warmup=warmup,
        unit=work.unit,
        ours=Speed.of(mine, work.amount),
        rows=rows,
        limits=limits,
        drift=worst,
        versions=versions,
        absent=absent,
        facts=facts,
        notes=work.notes(facts),
    )


def _heat(work: Work, given: Given, contestants: Sequence[Contestant], rounds: int, warmup: int) -> Heat:
    return compete(
        contestants,
        rounds=rounds,
        warmup=warmup,
        threads=given.threads,
        limits=lambda: work.limits(given),
        fresh=work.fresh,
        patience=work.patience,
    )


def _append(gathered: dict[str, list[float]], found: Mapping[str, float]) -> None:
    for name, value in found.items():
        gathered.setdefault(name, []).append(value)


def _fresh_turn(contestant: Contestant, threads: int, patience: float, heat: Heat) -> Turn:
    with Process(contestant, threads, patience) as process:
        heat.versions[contestant.label] = process.versions
        peak = Peak(process.pid)
        try:
            return process.turn() | {"peak_mb": peak.stop()}
        finally:
            peak.stop()
