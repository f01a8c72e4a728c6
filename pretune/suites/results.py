"""The results of a suite: scores of each run in a file that grows, and the table of means and spread."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pretune.disk import replace_file
from pretune.errors import DataError, UsageError
from pretune.language import translate
from pretune.table import Table

_PERCENT = 100.0


@dataclass(frozen=True)
class RunResult:
    """What a run of a set gave.

    Attributes:
        scores: of the test texts, by name.
        minutes: of training and scoring.
        train, test: examples that it was trained on, and those that were scored.
    """

    scores: Mapping[str, float]
    minutes: float
    train: int
    test: int


@dataclass
class SetResult:
    """What the runs of a set gave.

    Attributes:
        task, metric: the file of `tasks/`, and the score that counts.
        baselines: the scores of what needs no model, by name.
        runs: by their seed.
    """

    task: str
    metric: str
    baselines: dict[str, float] = field(default_factory=dict)
    runs: dict[str, RunResult] = field(default_factory=dict)

    @property
    def values(self) -> list[float]:
        """The score that counts, of each run."""
        return [run.scores[self.metric] for run in self.runs.values()]

    @property
    def mean(self) -> float:
        """Of all runs."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Of all runs, as that of a sample (n - 1); 0 of one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


@dataclass
class SuiteResult:
    """The results of a suite.

    Attributes:
        suite: its name.
        model: the folder that was fine-tuned.
        fields: of the recipe, that were set by hand.
        sets: by the names of their folders.
    """

    suite: str
    model: str
    fields: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, SetResult] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The plain mean of the sets' means, which is the suite's total."""
        return statistics.fmean(each.mean for each in self.sets.values())

    def table(self) -> Table:
        """A row for each set: in percent, with the deviation of its runs; then the total."""
        names = list(dict.fromkeys(name for each in self.sets.values() for name in each.baselines))
        rows: list[list[object]] = []
        for name, each in self.sets.items():
            run = next(iter(each.runs.values()))
            score = f"{each.mean * _PERCENT:.2f} ± {each.deviation * _PERCENT:.2f}"
            known = [_percent(each.baselines.get(baseline)) for baseline in names]
            minutes = sum(one.minutes for one in each.runs.values())
            rows.append(
                [name, each.task, run.train, run.test, each.metric, score, *known, len(each.runs), round(minutes, 1)]
            )
        blank = [""] * len(names)
        total = f"{self.mean * _PERCENT:.2f}"
        rows.append([translate("mean"), "", "", "", "", total, *blank, "", ""])
        columns = ["set", "task", "train", "test", "metric", "score", *names, "runs", "minutes"]
        return Table(columns, rows, f"{self.suite}: {self.model}")

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file: of each set its mean and deviation too."""
        tree = asdict(self)
        for name, each in self.sets.items():
            tree["sets"][name] |= {"mean": each.mean, "deviation": each.deviation}
        return {**tree, "mean": self.mean}

    def write(self, path: Path) -> None:
        """Write all results so far."""
        replace_file(path, (json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> SuiteResult:
        """The results that an earlier call wrote.

        Raises:
            DataError: the file is damaged.
        """
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            sets = {
                name: SetResult(
                    each["task"],
                    each["metric"],
                    each["baselines"],
                    {seed: RunResult(**run) for seed, run in each["runs"].items()},
                )
                for name, each in tree["sets"].items()
            }
            return cls(tree["suite"], tree["model"], tree["fields"], sets)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path}: holds no results of a suite; remove the file, or give another --output") from None

    def check(self, other: SuiteResult, path: Path) -> None:
        """Refuses to mix results of another model, or of other fields, into one file.

        Raises:
            UsageError: they differ.
        """
        for name in ("suite", "model", "fields"):
            before, now = getattr(other, name), getattr(self, name)
            if before != now:
                raise UsageError(
                    f"{path}: holds results with {name} = {before}, not {now}; give another --output, or remove it"
                )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value * _PERCENT:.2f}"
