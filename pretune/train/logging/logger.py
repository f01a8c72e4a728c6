"""What a run says while it goes: metrics to files and trackers, progress to the screen. On rank 0 alone."""

from __future__ import annotations

import time

from pretune.train.checkpoint.state import State, Window
from pretune.train.context import TrainContext
from pretune.train.logging.plateau import Plateau
from pretune.train.logging.trackers import Metrics, MetricsFile, Tracker


class MetricLogger:
    """Writes metrics and shows progress.

    Args:
        setting: of the run.
        state: where the run goes on from; the journal reads it and begins new windows in it.
    """

    def __init__(self, setting: TrainContext, state: State) -> None:
        self._setting, self._state = setting, state
        self._file: MetricsFile | None = None
        self._trackers: list[Tracker] = []
        self._plateau = Plateau(setting.entropy)
        self._began: tuple[float, float] | None = None
        if setting.world.is_main:
            self._file = MetricsFile(setting.shelf.run, state.metrics_bytes)
            self._trackers = setting.trackers(state.step)

    def note(self, text: str) -> None:
        """Say something once."""
        if self._setting.world.is_main:
            self._setting.display.note(text)

    def after_step(self) -> None:
        """Show where the run is; write a line of metrics where one is due."""
        state = self._state
        if self._setting.world.is_main:
            shown = state.window.metrics(self._setting.precision.peak)
            self._setting.display.update(state.step, state.share, self._left(), shown, last=state.share >= 1)
        if state.step % self._setting.recipe.track.every == 0:
            self.close_window()

    def _left(self) -> float | None:
        """Seconds to the end as the steps since the first one tell; that one warms up, and tells nothing."""
        now, share = time.perf_counter(), self._state.share
        if self._began is None:
            self._began = now, share
        gone, done = now - self._began[0], share - self._began[1]
        return max(1 - share, 0.0) * gone / done if done > 0 else None

    def close_window(self) -> None:
        """Write the metrics of the steps since the last line, if there were any, and begin anew."""
        state = self._state
        if state.window.counts:
            metrics = state.window.metrics(self._setting.precision.peak)
            self.log(metrics | ({"skipped": state.skipped} if state.skipped else {}))
            found = self._plateau.look(metrics, state.share, state.window.lr, self._setting.recipe.optimizer.lr)
            if found:
                self.note(f"warning: step {state.step}: {found}")
            state.window = Window()

    def log(self, metrics: Metrics) -> None:
        """Write metrics of the current step everywhere."""
        if self._file is None:
            return
        state = self._state
        where = {"tokens": state.tokens, "samples": state.samples, "epoch": state.epoch, "time": state.seconds}
        self._file.log(state.step, {**where, **metrics})
        for tracker in self._trackers:
            tracker.log(state.step, metrics)

    def settle(self) -> int:
        """Bring the metrics file to disk; its size in bytes."""
        return self._file.settle() if self._file is not None else 0

    def close(self) -> None:
        """Close everything."""
        for tracker in self._trackers:
            tracker.close()
        if self._file is not None:
            self._file.close()
