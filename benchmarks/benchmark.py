"""What a comparison is: sides that do the same benchmark, how its speed is told, and what must be equal.

A new benchmark is one file in `suite/` with one subclass of `Benchmark`, whose file also holds our side:

```python
class Sum(Benchmark):
    about = "Adding numbers."
    variants = {"small": 1000}
    amount, unit = "numbers", "numbers/s"

    def sides(self, context):  # called once in the parent; writes what the sides read into context.folder
        options = {"size": self.variants[context.variant]}
        return [self.ours(**options), Side("numpy", peer("numpy_sum"), options, setting="best")]

    def check(self, context, runs):  # of one block: ours and one peer, at both allocators
        if any(past[0]["sum"] != runs[OURS][0]["sum"] for past in runs.values()):
            raise BenchError("the sums differ")
        return {}


def setup(size):  # our side, in a process of its own; options are JSON
    numbers = range(size)

    def run():  # what is timed; its figures are JSON as well
        return {"numbers": size, "sum": sum(numbers)}

    return run
```
"""

from __future__ import annotations

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

Allocator = Literal["own", "ours"]
Setting = Literal["", "default", "best"]
Clock = Literal["wall", "cpu"]
Run = dict[str, Any]
Runs = Mapping[str, Sequence[Run]]
Limits = Mapping[str, Sequence[float]]

OURS = "ours"
GEMM = "GEMM"
ALLOCATORS: tuple[Allocator, ...] = ("own", "ours")
_PEERS = Path(__file__).parent / "peers"


def peer(name: str) -> Path:
    """The script `peers/<name>.py`."""
    return _PEERS / f"{name}.py"


@dataclass(frozen=True)
class Side:
    """One side of a comparison, in a process of its own.

    Attributes:
        name: as the table says it, without the allocator: "transformers bf16, attention dropout 0".
        script: a .py file.
        options: keyword arguments of `function`: JSON values; paths as strings.
        function: of the script; sets up and returns the run, a function without arguments that returns JSON figures.
        environment: None: this interpreter; else a key of `environments.ENVIRONMENTS`.
        setting: whether this is the peer as it comes, or at its best.
        allocator: of a peer, both are run by the harness; it sets this field.
        threads: of its matmuls, if not as many as the others have.
        variables: of its environment, beside the parent's.
        load: number of busy processes beside it while it runs.
    """

    name: str
    script: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    function: str = "setup"
    environment: str | None = None
    setting: Setting = ""
    allocator: Allocator = "own"
    threads: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    load: int = 0

    @property
    def label(self) -> str:
        """The key of its runs."""
        return self.name if self.name == OURS else f"{self.name}, {self.allocator.removesuffix('s')} allocator"


@dataclass(frozen=True)
class Context:
    """What a benchmark is asked for.

    Attributes:
        folder: empty at first, gone after the run; weights, inputs and outputs too large for JSON go there.
        precision: dtype of matmuls, as `limits.dtype_and_threads` gives it.
        clock: what is compared: time on the wall, or the CPU time of a side's process, on a machine that others use.
    """

    variant: str
    folder: Path
    precision: Literal["bf16", "fp32"]
    threads: int
    clock: Clock = "wall"

    @property
    def timer(self) -> Callable[[], float]:
        """Seconds by the clock, of this process."""
        return time.process_time if self.clock == "cpu" else time.perf_counter


@dataclass(frozen=True)
class Search:
    """How a peer's best setting is looked for: one axis at a time from `start`, until a pass changes nothing.

    Attributes:
        axes: values of an option of the side, or of "allocator".
    """

    start: Side
    axes: Mapping[str, Sequence[Any]]


class Benchmark(ABC):
    """A comparison of one kind of work; its name is its file's.

    Attributes:
        about: what is compared, for the page.
        variants: names, and whatever the benchmark wants to know of each.
        amount: the figure of a run that is the work done; "" counts runs.
        unit: of the speed, amount a second.
        fresh: a run gets a new process, set up before the clock starts; memory is that of all its processes.
        allocators: at which a peer runs; the smaller ratio counts.
        timeout: seconds after which a silent side is taken for hung.
        together: the peers of an environment take turns with ours in one block, instead of one after the other.
        max_rounds: rounds and warm-ups at most, for runs of minutes; the command line may ask for fewer.
    """

    about: ClassVar[str]
    variants: ClassVar[Mapping[str, Any]]
    amount: ClassVar[str] = "tokens"
    unit: ClassVar[str] = "tokens/s"
    fresh: ClassVar[bool] = False
    allocators: ClassVar[tuple[Allocator, ...]] = ALLOCATORS
    timeout: ClassVar[float] = 1800.0
    together: ClassVar[bool] = False
    max_rounds: ClassVar[tuple[int, int]] = (1000, 1000)

    @abstractmethod
    def sides(self, context: Context) -> list[Side]:
        """Write weights and inputs into the folder; ours first, then each peer once. Without peers, ours runs alone."""

    def shapes(self, context: Context) -> Sequence[tuple[int, int, int]]:
        """(rows, in, out) of the benchmark's own matmuls, on which the GEMM peak is measured."""
        return [(1024, 1024, 1024)]

    def limits(self, context: Context) -> dict[str, float]:
        """What the machine can do now, measured after each round: `GEMM` in FLOP/s, and others by name.

        A run in which the GEMM peak drifts too far is refused.
        """
        from benchmarks.limits import gemm_peak

        return {GEMM: gemm_peak(context.precision, self.shapes(context), timer=context.timer)}

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Compare what the sides of one block gave: by label, ours under `OURS`.

        Returns:
            How close they were, for the record.

        Raises:
            BenchError: they did not do the same work.
        """
        return {}

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """Figures beside the ratios, from all runs of ours and the limits measured after each."""
        return {}

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as sentences for the page."""
        return []

    def search(self, context: Context) -> Search | None:
        """Which settings of the peer to try, after `sides` was called; None: there is no search."""
        return None

    @property
    def name(self) -> str:
        """The name of the benchmark's file."""
        return self.script.stem

    @property
    def script(self) -> Path:
        """The benchmark's file, which holds our side."""
        return Path(inspect.getfile(type(self)))

    def ours(self, **options: Any) -> Side:
        """Our side: `setup` of the benchmark's file, with our allocator settings, as the command line has them."""
        return Side(OURS, self.script, options, allocator="ours")
