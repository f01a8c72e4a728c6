"""What a comparison is: contestants that do the same work, how its speed is told, and what must be equal.

A new work is one file in `works/` with one subclass of `Work`, whose file also holds our side:

```python
class Sum(Work):
    about = "Adding numbers."
    variants = {"small": 1000}
    amount, unit = "numbers", "numbers/s"

    def contestants(self, given):  # called once in the parent; writes what the sides read into given.folder
        options = {"size": self.variants[given.variant]}
        return [self.ours(**options), Contestant("numpy", peer("numpy_sum"), options, setting="best")]

    def check(self, given, turns):  # of one heat: ours and one peer, at both allocators
        if any(past[0]["sum"] != turns[OURS][0]["sum"] for past in turns.values()):
            raise BenchError("the sums differ")
        return {}


def setup(size):  # our side, in a process of its own; options are JSON
    numbers = range(size)

    def turn():  # what is timed; its figures are JSON as well
        return {"numbers": size, "sum": sum(numbers)}

    return turn
```
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

Allocator = Literal["own", "ours"]
Setting = Literal["", "default", "best"]
Turn = dict[str, Any]
Turns = Mapping[str, Sequence[Turn]]
Limits = Mapping[str, Sequence[float]]

OURS = "ours"
GEMM = "GEMM"
ALLOCATORS: tuple[Allocator, ...] = ("own", "ours")
_PEERS = Path(__file__).parent / "peers"


def peer(name: str) -> Path:
    """The script `peers/<name>.py`."""
    return _PEERS / f"{name}.py"


@dataclass(frozen=True)
class Contestant:
    """One side of a comparison, in a process of its own.

    Attributes:
        name: as the table says it, without the allocator: "transformers bf16, attention dropout 0".
        script: a .py file.
        options: keyword arguments of `function`: JSON values; paths as strings.
        function: of the script; sets up and returns the turn, a function without arguments that returns JSON figures.
        environment: None: this interpreter; else a key of `environments.ENVIRONMENTS`.
        setting: whether this is the peer as it comes, or at its best.
        allocator: of a peer, both are run by the harness; it sets this field.
    """

    name: str
    script: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    function: str = "setup"
    environment: str | None = None
    setting: Setting = ""
    allocator: Allocator = "own"

    @property
    def label(self) -> str:
        """The key of its turns."""
        return self.name if self.name == OURS else f"{self.name}, {self.allocator.removesuffix('s')} allocator"


@dataclass(frozen=True)
class Given:
    """What a work is asked for.

    Attributes:
        folder: empty at first, gone after the run; weights, inputs and outputs too large for JSON go there.
        precision: the faster format of this machine, or the one asked for.
    """

    variant: str
    folder: Path
    precision: Literal["bf16", "fp32"]
    threads: int


@dataclass(frozen=True)
class Search:
    """How a peer's best setting is looked for: one axis at a time from `start`, until a pass changes nothing.

    Attributes:
        axes: values of an option of the contestant, or of "allocator".
    """

    start: Contestant
    axes: Mapping[str, Sequence[Any]]


class Work(ABC):
    """A comparison of one kind of work; its name is its file's.

    Attributes:
        about: what is compared, for the page.
        variants: names, and whatever the work wants to know of each.
        amount: the figure of a turn that is the work done; "" counts turns.
        unit: of the speed, amount a second.
        fresh: a turn gets a new process, set up before the clock starts; memory is that of all its processes.
        allocators: at which a peer runs; the smaller ratio counts.
        patience: seconds after which a silent contestant is taken for hung.
        most: rounds and warm-ups at most, for turns of minutes; the command line may ask for fewer.
    """

    about: ClassVar[str]
    variants: ClassVar[Mapping[str, Any]]
    amount: ClassVar[str] = "tokens"
    unit: ClassVar[str] = "tokens/s"
    fresh: ClassVar[bool] = False
    allocators: ClassVar[tuple[Allocator, ...]] = ALLOCATORS
    patience: ClassVar[float] = 1800.0
    most: ClassVar[tuple[int, int]] = (1000, 1000)

    @abstractmethod
    def contestants(self, given: Given) -> list[Contestant]:
        """Write weights and inputs into the folder; ours first, then each peer once. Without peers, ours runs alone."""

    def shapes(self, given: Given) -> Sequence[tuple[int, int, int]]:
        """(rows, in, out) of the work's own matrix products, on which the GEMM peak is measured."""
        return [(1024, 1024, 1024)]

    def limits(self, given: Given) -> dict[str, float]:
        """What the machine can do now, measured after each round: `GEMM` in FLOP/s, and others that the work names.

        A run in which the GEMM peak drifts too far is refused.
        """
        from benchmarks.limits import gemm_peak

        return {GEMM: gemm_peak(given.precision, self.shapes(given))}

    def check(self, given: Given, turns: Turns) -> dict[str, Any]:
        """Compare what the sides of one heat gave: by label, ours under `OURS`.

        Returns:
            How close they were, for the record.

        Raises:
            BenchError: they did not do the same work.
        """
        return {}

    def facts(self, given: Given, turns: Sequence[Turn], limits: Limits) -> dict[str, Any]:
        """Figures beside the ratios, from all turns of ours and the limits measured after each."""
        return {}

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as sentences for the page."""
        return []

    def search(self, given: Given) -> Search | None:
        """Which settings of the peer to try, after `contestants` was called; None: there is no search."""
        return None

    @property
    def name(self) -> str:
        """The name of the work's file."""
        return self.script.stem

    @property
    def script(self) -> Path:
        """The work's file, which holds our side."""
        return Path(inspect.getfile(type(self)))

    def ours(self, **options: Any) -> Contestant:
        """Our side: `setup` of the work's file, with our allocator settings, as the command line has them."""
        return Contestant(OURS, self.script, options, allocator="ours")
