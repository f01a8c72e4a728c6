"""Where the time of our side goes: each operation of torch, by the clock around it, in turns as they are raced.

`torch.profiler` keeps an event for each call, and events lie in the heap between the blocks of a step: under it a fill
of fresh memory was seen to take fifty times what it takes. Here an operation has a few numbers and a call has nothing.
One thing is not as without it: gradients of shared weights are added out of place.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import worker
from benchmarks.benchmark import Given, Turn, Work
from benchmarks.measurements import today
from benchmarks.process import Process

_SHAPES = 2  # of an operation that are told: those that take the most


@dataclass
class Cost:
    """Of one operation.

    Attributes:
        shapes: seconds by the shapes of its tensors.
    """

    calls: int = 0
    seconds: float = 0.0
    shapes: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def profile(work: Work, given: Given, rounds: int, warmup: int) -> dict[str, Any]:
    """Run ours alone, each turn once as it is and once under the clock.

    Returns:
        Seconds of a turn both ways, and the operations of a turn: name, calls, seconds, shapes; the most costly first.
        What is outside of them is Python's, autograd's and the dispatcher's.

    Raises:
        BenchError: our side failed.
    """
    ours = work.contestants(given)[0]
    inner = {"script": str(ours.script), "function": ours.function, "options": dict(ours.options)}
    watched = replace(ours, script=Path(__file__), function="watch", options=inner)
    turns: list[Turn] = []
    while len(turns) < warmup + rounds:
        with Process(watched, given.threads, work.patience) as process:
            turns += [process.turn() for _ in range(1 if work.fresh else warmup + rounds)]
    kept = turns[warmup:]
    return {
        "date": today(),
        "precision": given.precision,
        "threads": given.threads,
        "rounds": rounds,
        "seconds": statistics.median(turn["plain"] for turn in kept),
        "watched_seconds": statistics.median(turn["watched"] for turn in kept),
        "operations": _merged([turn["operations"] for turn in kept]),
    }


def _merged(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The mean of a turn. Each operation is given as calls, seconds and seconds by shape."""
    costs: dict[str, Cost] = defaultdict(Cost)
    for operations in turns:
        for name, (calls, seconds, shapes) in operations.items():
            cost = costs[name]
            cost.calls += calls
            cost.seconds += seconds
            for shape, part in shapes.items():
                cost.shapes[shape] += part
    count = len(turns)
    return [
        {
            "name": name,
            "calls": cost.calls / count,
            "seconds": cost.seconds / count,
            "shapes": sorted(cost.shapes, key=lambda shape: -cost.shapes[shape])[:_SHAPES],
        }
        for name, cost in sorted(costs.items(), key=lambda item: -item[1].seconds)
    ]


def watch(*, script: str, function: str, options: Mapping[str, Any]) -> Callable[[], Turn]:
    """A contestant around another one: its turn, plain and under the clock."""
    from torch.utils._python_dispatch import TorchDispatchMode

    costs: dict[str, Cost] = defaultdict(Cost)

    class Clock(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Times what reaches the kernels from this thread, which backward runs in as well on a CPU."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            start = time.perf_counter()
            out = func(*args, **(kwargs or {}))
            seconds = time.perf_counter() - start
            cost = costs[func.name()]
            cost.calls += 1
            cost.seconds += seconds
            cost.shapes[_shapes(args)] += seconds
            return out

    turn = getattr(worker.load("watched", Path(script)), function)(**options)

    def both() -> Turn:
        costs.clear()
        begun = time.perf_counter()
        turn()
        between = time.perf_counter()
        with Clock():  # type: ignore[no-untyped-call]
            turn()
        ended = time.perf_counter()
        operations = {name: (cost.calls, cost.seconds, dict(cost.shapes)) for name, cost in costs.items()}
        return {"plain": between - begun, "watched": ended - between, "operations": operations}

    return both


def _shapes(arguments: Sequence[Any]) -> str:
    return " ".join("x".join(map(str, x.shape)) or "()" for x in arguments if hasattr(x, "shape"))
