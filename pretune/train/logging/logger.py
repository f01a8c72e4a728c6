"""Logs a run: metrics to files and trackers, progress to the screen; on rank 0 alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from pretune.optim.optimizer import OptimizerConfig
from pretune.runtime.distributed import Distributed
from pretune.runtime.precision import Precision
from pretune.train.checkpoint.state import MetricWindow, State
from pretune.train.checkpoint.store import CheckpointStore
from pretune.train.logging.plateau import Plateau
from pretune.train.logging.progress import Display
from pretune.train.logging.trackers import Metrics, MetricsFile, TrackConfig, Tracker


class LoggedRecipe(Protocol):
    """The sections of a recipe that logging reads."""

    @property
    def track(self) -> TrackConfig:
        """Where metrics go."""

    @property
    def optimizer(self) -> OptimizerConfig:
        """With the learning rate at its peak."""


class LoggedRun(Protocol):
    """What logging needs of a run; see `TrainContext`."""

    checkpoints: CheckpointStore
    distributed: Distributed
    precision: Precision
    display: Display
    entropy: float | None
    token_terms: tuple[str, ...]

    @property
    def recipe(self) -> LoggedRecipe:
        """The resolved recipe."""

    @property
    def trackers(self) -> Callable[[int], list[Tracker]]:
        """Starts the trackers, given the step from which training goes on."""


class MetricLogger:
    """Writes metrics and shows progress.

    Args:
        context: of the run.
        state: where the run goes on from; the logger reads it and begins new windows in it.
        of_method: gives the metrics of the tuning method, such as ranks by layer.
    """

    def __init__(
        self, context: LoggedRun, state: State, of_method: Callable[[], Mapping[str, float]] = dict[str, float]
    ) -> None:
        self._context, self._state, self._of_method = context, state, of_method
        self._file: MetricsFile | None = None
        self._trackers: list[Tracker] = []
        self._plateau = Plateau(context.entropy, context.token_terms)
        self._has_warned_of_nothing = False
        self._began: tuple[float, float] | None = None
        if context.distributed.is_main:
            self._file = MetricsFile(context.checkpoints.run, state.metrics_bytes)
            self._trackers = context.trackers(state.step)

    def note(self, text: str) -> None:
        """Say something once."""
        if self._context.distributed.is_main:
            self._context.display.note(text)

    def after_step(self) -> None:
        """Show where the run is; write a line of metrics where one is due."""
        state = self._state
        if self._context.distributed.is_main:
            metrics = state.window.metrics(self._context.precision.peak)
            self._context.display.update(state.step, state.fraction, self._left(), metrics, last=state.fraction >= 1)
        if state.step % self._context.recipe.track.every == 0:
            self.close_window()

    def _left(self) -> float | None:
        """Seconds to the end as the steps since the first one tell; that one warms up, and tells nothing."""
        now, fraction = time.perf_counter(), self._state.fraction
        if self._began is None:
            self._began = now, fraction
        elapsed, done = now - self._began[0], fraction - self._began[1]
        return max(1 - fraction, 0.0) * elapsed / done if done > 0 else None

    def close_window(self) -> None:
        """Write the metrics of the steps since the last line, if there were any, and begin anew."""
        state = self._state
        if state.window.counts:
            self._warn_of_nothing(state.window.counts)
            metrics = state.window.metrics(self._context.precision.peak)
            skipped = {"skipped": state.skipped} if state.skipped else {}
            self.log({**metrics, **skipped, **self._of_method()})
            warning = self._plateau.check(metrics, state.fraction, state.window.lr, self._context.recipe.optimizer.lr)
            if warning:
                self.note(f"warning: step {state.step}: {warning}")
            state.window = MetricWindow()

    def _warn_of_nothing(self, counts: Mapping[str, int]) -> None:
        """Says once that steps had nothing to predict, whose loss is shown as 0."""
        if any(counts.values()) or self._has_warned_of_nothing:
            return
        self._has_warned_of_nothing = True
        self.note(
            f"warning: step {self._state.step:,}: nothing was to be predicted, so that the loss is 0 and nothing is "
            "learned; does the tokenizer know this text?"
        )

    def log(self, metrics: Metrics) -> None:
        """Write metrics of the current step everywhere."""
        if self._file is None:
            return
        state = self._state
        where = {"tokens": state.tokens, "samples": state.samples, "epoch": state.epoch, "time": state.seconds}
        self._file.log(state.step, {**where, **metrics})
        for tracker in self._trackers:
            tracker.log(state.step, metrics)

    def rewind(self) -> None:
        """Drop the metrics of steps that the run has given up."""
        if self._file is not None:
            self._file.rewind(self._state.metrics_bytes)

    def flush(self) -> int:
        """Bring the metrics file to disk; its size in bytes."""
        return self._file.flush() if self._file is not None else 0

    def close(self) -> None:
        """Close everything."""
        for tracker in self._trackers:
            tracker.close()
        if self._file is not None:
            self._file.close()
