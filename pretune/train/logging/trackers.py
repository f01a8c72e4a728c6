"""Writes metrics: one JSON object per line, always; to TensorBoard, Weights & Biases and MLflow by name."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from pydantic import Field

from pretune.config import Config
from pretune.disk import fsync, storage_errors
from pretune.errors import MissingPackageError

Metrics = Mapping[str, float | int]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]
METRICS = "metrics.jsonl"


class TrackConfig(Config):
    """Where metrics go besides `metrics.jsonl`.

    Attributes:
        every: number of steps that one line of metrics averages.
        to: trackers, by name: `tensorboard`, `wandb` (offline) or `mlflow`; they need the extra `pretune[track]`.
        project: name of the project in the trackers.
        report: write `report.html` at the end.
        progress: `auto` draws a bar on a terminal and prints lines elsewhere, `plain` prints lines, `quiet` nothing.
        verbose: show the share of the GEMM peak and the time spent waiting for data too.
    """

    every: int = Field(10, ge=1)
    to: tuple[TrackerName, ...] = ()
    project: str = "pretune"
    report: bool = True
    progress: Literal["auto", "plain", "quiet"] = "auto"
    verbose: bool = False


class Tracker(Protocol):
    """What the loop asks of a tracker."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step."""

    def close(self) -> None:
        """Write what is still held."""


class MetricsFile:
    """`metrics.jsonl` of a run directory.

    Args:
        run: the run directory.
        size: bytes that belong to the checkpoint which training continues from; what lies beyond is dropped, so that no
            step is ever written twice.
    """

    def __init__(self, run: Path, size: int = 0) -> None:
        self.path = run / METRICS
        with storage_errors(self.path, "write metrics"):
            self._file = self.path.open("a+b")
        if self._file.tell() > size:
            self.rewind(size)

    def log(self, step: int, metrics: Metrics) -> None:
        """Append a line and hand it to the operating system; what is not finite is null, as JSON has no word for it."""
        line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with storage_errors(self.path, "write metrics"):
            self._file.write((json.dumps({"step": step, **line}) + "\n").encode())
            self._file.flush()

    def rewind(self, size: int) -> None:
        """Drop what lies beyond some bytes."""
        with storage_errors(self.path, "write metrics"):
            self._file.flush()
            self._file.truncate(size)
            self._file.seek(0, os.SEEK_END)

    def flush(self) -> int:
        """Sync to disk; how many bytes there are now. A file that was removed meanwhile is made again."""
        with storage_errors(self.path, "write metrics"):
            self._file.flush()
            if not self.path.exists():
                self._file.seek(0)
                content = self._file.read()
                self._file.close()
                self._file = self.path.open("a+b")
                self._file.write(content)
                self._file.flush()
            fsync(self._file.fileno())
            return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _TensorBoard:
    def __init__(self, run: Path, config: TrackConfig, settings: Mapping[str, Any], step: int) -> None:
        _package("tensorboard")
        writer = importlib.import_module("torch.utils.tensorboard")
        self._writer = writer.SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, run: Path, config: TrackConfig, settings: Mapping[str, Any], step: int) -> None:
        self._run = _package("wandb").init(
            project=config.project, name=run.name, id=_id(run), dir=str(run), config=dict(settings), mode="offline"
        )

    def log(self, step: int, metrics: Metrics) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, run: Path, config: TrackConfig, settings: Mapping[str, Any], step: int) -> None:
        self._mlflow = _package("mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            self._mlflow.set_tracking_uri(f"sqlite:///{run.resolve() / 'mlflow.db'}")
        self._mlflow.set_experiment(config.project)
        self._mlflow.start_run(run_name=run.name)
        if step == 0:
            self._mlflow.log_params({name: str(value)[:250] for name, value in settings.items()})

    def log(self, step: int, metrics: Metrics) -> None:
        self._mlflow.log_metrics({name: float(value) for name, value in metrics.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


_TRACKERS: dict[TrackerName, Callable[[Path, TrackConfig, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}


def open_trackers(run: Path, config: TrackConfig, settings: Mapping[str, Any], step: int) -> list[Tracker]:
    """Start the trackers that the recipe names.

    Args:
        settings: the resolved recipe, flat.
        step: the step from which training goes on.

    Raises:
        MissingPackageError: a tracker's package is not installed.
    """
    return [_TRACKERS[name](run, config, settings, step) for name in config.to]


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingPackageError(
            f"track.to names {name!r}, which is not installed; install it with: pip install 'pretune[track]'"
        ) from None


def _id(run: Path) -> str:
    import hashlib

    return hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
