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
from benchmarks.benchmark import Benchmark, Context, Run
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


def profile(benchmark: Benchmark, context: Context, rounds: int, warmup: int) -> dict[str, Any]:
    """Run ours alone, each run once as it is and once under the clock.

    Returns:
        Seconds of a run both ways, and the operations of a run: name, calls, seconds, shapes; the most costly first.
        What is outside of them is Python's, autograd's and the dispatcher's.

    Raises:
        BenchError: our side failed.
    """
    ours = benchmark.sides(context)[0]
    inner = {"script": str(ours.script), "function": ours.function, "options": dict(ours.options)}
    watched = replace(ours, script=Path(__file__), function="watch", options=inner)
    runs: list[Run] = []
    while len(runs) < warmup + rounds:
        with Process(watched, context.threads, benchmark.timeout) as process:
            runs += [process.run() for _ in range(1 if benchmark.fresh else warmup + rounds)]
    kept = runs[warmup:]
    return {
        "date": today(),
        "precision": context.precision,
        "threads": context.threads,
        "rounds": rounds,
        "seconds": statistics.median(run["plain"] for run in kept),
        "watched_seconds": statistics.median(run["watched"] for run in kept),
        "operations": _merged([run["operations"] for run in kept]),
    }


def _merged(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The mean of a run. Each operation is given as calls, seconds and seconds by shape."""
    costs: dict[str, Cost] = defaultdict(Cost)
    for operations in runs:
        for name, (calls, seconds, shapes) in operations.items():
            cost = costs[name]
            cost.calls += calls
            cost.seconds += seconds
            for shape, part in shapes.items():
                cost.shapes[shape] += part
    count = len(runs)
    return [
        {
            "name": name,
            "calls": cost.calls / count,
            "seconds": cost.seconds / count,
            "shapes": sorted(cost.shapes, key=lambda shape: -cost.shapes[shape])[:_SHAPES],
        }
        for name, cost in sorted(costs.items(), key=lambda item: -item[1].seconds)
    ]


def watch(*, script: str, function: str, options: Mapping[str, Any]) -> Callable[[], Run]:
    """A side around another one: its run, plain and under the clock."""
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

    run = getattr(worker.load("watched", Path(script)), function)(**options)

    def both() -> Run:
        costs.clear()
        begun = time.perf_counter()
        run()
        between = time.perf_counter()
        with Clock():  # type: ignore[no-untyped-call]
            run()
        ended = time.perf_counter()
        operations = {name: (cost.calls, cost.seconds, dict(cost.shapes)) for name, cost in costs.items()}
        return {"plain": between - begun, "watched": ended - between, "operations": operations}

    return both


def _shapes(arguments: Sequence[Any]) -> str:
    return " ".join("x".join(map(str, x.shape)) or "()" for x in arguments if hasattr(x, "shape"))
