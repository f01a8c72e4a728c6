"""The scores of several runs of one recipe, and how far chance spreads them: mean and standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pretune.errors import CannotCreateError
from pretune.interop.run_names import RECIPE
from pretune.language import N_, translate
from pretune.report.run_files import read_run
from pretune.table import Table, readable

N_("mean")
FILE = "spread.json"
_PREFIX = "eval/"


@dataclass(frozen=True)
class RunScores:
    """The scores of one run, of the weights that it saved.

    Attributes:
        run: its directory.
        scores: by name, such as `accuracy`.
    """

    run: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Spread:
    """The scores of several runs.

    Attributes:
        runs: in the order in which they were made.
        mean, deviation: of each score; the deviation is that of a sample (n - 1).
    """

    runs: list[RunScores]
    mean: dict[str, float]
    deviation: dict[str, float]

    @classmethod
    def of(cls, runs: Sequence[RunScores]) -> Spread:
        """The spread of runs, by the scores that all of them have."""
        names = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
        values = {name: [run.scores[name] for run in runs] for name in names}
        deviation = {name: statistics.stdev(each) if len(each) > 1 else 0.0 for name, each in values.items()}
        return cls(list(runs), {name: statistics.fmean(each) for name, each in values.items()}, deviation)

    def table(self) -> Table:
        """A row for each run, then mean and deviation; without the scores of single labels."""
        names = [name for name in self.mean if "/" not in name]
        rows = [[Path(run.run).name, *(run.scores[name] for name in names)] for run in self.runs]
        mean, deviation = translate("mean"), translate("± std")  # before they are padded
        rows += [[mean, *(self.mean[name] for name in names)], [deviation, *(self.deviation[name] for name in names)]]
        return Table(["run", *names], rows)

    def to_json(self) -> dict[str, object]:
        """Plain values, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [
            f"{name} {readable(mean)} ± {readable(self.deviation[name])}"
            for name, mean in self.mean.items()
            if "/" not in name
        ]
        return f"{len(self.runs)} runs: {', '.join(parts)}"

    def _repr_html_(self) -> str:
        return self.table().html()


def read_scores(run: Path) -> RunScores:
    """The scores of a finished run on its validation data, of the weights that it saved."""
    files = read_run(run)
    saved = {name.removeprefix(_PREFIX): files.saved(name) for name in files.names(_PREFIX)}
    return RunScores(str(run), {name: value for name, value in saved.items() if value is not None})


def check_folder(output: Path) -> None:
    """Refuses to put runs into the directory of another run.

    Raises:
        CannotCreateError: it holds a recipe.
    """
    if (output / RECIPE).exists():
        raise CannotCreateError(f"{output}: holds a run of its own; give several runs another --output")
