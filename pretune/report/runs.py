"""Lists the runs below a folder: what each trains, how far it is, how good it is. Needs no torch."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pretune.errors import DataError, MissingInputError
from pretune.interop.run_names import FACTS, INITIAL, RECIPE, checkpoint_step, checkpoint_steps
from pretune.report.html import is_number
from pretune.report.run_files import averaged_scores, read_metrics
from pretune.seals import read_facts
from pretune.train.ownership import is_owned

RunState = Literal["finished", "running", "interrupted", "failed", "unreadable"]
METRICS = "metrics.jsonl"
_DEPTH = 4  # folders below the one that is looked through
_UNITS = ("steps", "tokens", "epochs", "minutes")


@dataclass(frozen=True)
class RunSummary:
    """One run in a line.

    Attributes:
        path: the run directory.
        state: `interrupted` runs go on when their command is given again; an `unreadable` one has a damaged file.
        reason: why it failed, or cannot be read.
        trains: objectives and task.
        model: what it started from.
        metric: name of what its evaluations are compared by; empty before the first value.
        value: of the metric: of the saved weights, or the newest where the run has not finished.
        step: optimizer steps that were made.
        fraction: of the budget that is used, in [0, 1].
        minutes: in the training loop, restarts added up.
        began: time in UTC, ISO 8601.
    """

    path: str
    state: RunState
    reason: str = ""
    trains: str = ""
    model: str = ""
    metric: str = ""
    value: float | None = None
    step: int = 0
    fraction: float = 0.0
    minutes: float = 0.0
    began: str = ""

    @property
    def status(self) -> str:
        """The state in words."""
        if self.state == "interrupted":
            return f"interrupted at step {self.step:,}"
        if self.state == "running":
            return f"running, {self.fraction:.0%}"
        return f"{self.state}: {self.reason}" if self.reason else self.state


def list_runs(folder: Path) -> list[RunSummary]:
    """The runs in a folder and below it, the newest first.

    Raises:
        MissingInputError: no such folder.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder")
    runs = [summarize(path) for path in _find_runs(folder, _DEPTH)]
    return sorted(runs, key=lambda run: (run.began, run.path), reverse=True)


def summarize(path: Path) -> RunSummary:
    """What the files of a run directory say of it."""
    try:
        recipe = tomllib.loads((path / RECIPE).read_text(encoding="utf-8"))
        facts = read_facts(path / FACTS) if (path / FACTS).is_file() else {}
        rows = read_metrics(path / METRICS) if (path / METRICS).is_file() else []
    except (DataError, OSError, ValueError) as error:
        return RunSummary(str(path), "unreadable", str(error))
    finished = facts.get("finished")
    state, reason = _state(path, facts)
    last = rows[-1] if rows else {}
    used = finished if isinstance(finished, dict) else _spent(last)
    step = int(used.get("steps", 0)) if state in ("finished", "running") else _resumable(path)
    metric, value = _metric(facts, rows)
    return RunSummary(
        str(path),
        state,
        reason,
        "+".join([*recipe.get("task", {}), *recipe.get("objective", {})]),
        _origin(recipe.get("model", {})),
        metric,
        value,
        step,
        1.0 if state == "finished" else _fraction(recipe.get("budget", {}), used),
        used.get("seconds", 0.0) / 60,
        str(facts.get("began", "")),
    )


def _find_runs(folder: Path, depth: int) -> Iterator[Path]:
    """Folders that hold a recipe and what a run writes beside it; links are not followed."""
    if (folder / RECIPE).is_file() and any((folder / name).exists() for name in (FACTS, METRICS)):
        yield folder
    if depth == 0:
        return
    try:
        below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError:  # one that may not be read holds no run of ours
        return
    for path in map(Path, below):
        if not path.name.startswith(".") and path.name != INITIAL and checkpoint_step(path) is None:
            yield from _find_runs(path, depth - 1)


def _state(path: Path, facts: Mapping[str, Any]) -> tuple[RunState, str]:
    if is_owned(path):
        return "running", ""
    if facts.get("finished"):
        return "finished", ""
    failed = facts.get("failed")
    if isinstance(failed, dict):
        return "failed", str(failed.get("reason", ""))
    return "interrupted", ""


def _spent(row: Mapping[str, Any]) -> dict[str, float]:
    """What a line of the metrics says of the run so far."""
    names = {"step": "steps", "tokens": "tokens", "epoch": "epochs", "time": "seconds"}
    return {ours: row[name] for name, ours in names.items() if is_number(row.get(name))}


def _resumable(path: Path) -> int:
    """The step from which the run would go on."""
    return next(iter(checkpoint_steps(path)), 0)


def _fraction(budget: Mapping[str, Any], used: Mapping[str, float]) -> float:
    amounts = {**used, "minutes": used.get("seconds", 0.0) / 60}
    used_up = next((amounts.get(unit, 0) / budget[unit] for unit in _UNITS if is_number(budget.get(unit))), 0.0)
    floor = budget.get("min_steps") or 0
    return min(1.0, used_up, used.get("steps", 0) / floor if floor else 1.0)


def _metric(facts: Mapping[str, Any], rows: list[dict[str, Any]]) -> tuple[str, float | None]:
    """The name and the value of what evaluations are compared by; without an evaluation the training loss."""
    name = str(facts.get("metric", "loss"))
    if (averaged := averaged_scores(facts).get(name)) is not None:
        return name, averaged
    finished = facts.get("finished")
    step = finished.get("weights_of_step") if isinstance(finished, dict) else None
    scored = [row for row in rows if is_number(row.get(f"eval/{name}"))]
    kept = [row for row in scored if row.get("step") == step] or scored
    if kept:
        return name, float(kept[-1][f"eval/{name}"])
    losses = [float(row["loss"]) for row in rows if is_number(row.get("loss"))]
    return ("training loss", losses[-1]) if losses else ("", None)


def _origin(model: Mapping[str, Any]) -> str:
    return str(model.get("init") or f"{model.get('family', 'bert')} {model.get('size', 'mini')}")
