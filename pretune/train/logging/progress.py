"""Shows the progress of training: a bar on a terminal, plain lines elsewhere, nothing on request."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Literal, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from pretune.language import translate
from pretune.runtime.screen import Screen

_PLAIN_SECONDS = 10.0
_WARNING = "warning: "
_BAR = 10  # characters


class Display:
    """Shows progress on standard error.

    Args:
        mode: `auto` takes a bar where standard error is a terminal.
        minimum: seconds between two plain lines.
        verbose: show the share of the GEMM peak and the time spent waiting for data too.

    Attributes:
        warnings: those that were shown, without the word before them.
    """

    def __init__(
        self,
        mode: Literal["auto", "plain", "quiet"] = "auto",
        minimum: float = _PLAIN_SECONDS,
        *,
        verbose: bool = False,
    ) -> None:
        self.quiet, self.warnings = mode == "quiet", list[str]()
        self._verbose = verbose
        self._screen = Screen()
        self._console = Console(file=cast(IO[str], self._screen), stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._live = mode == "auto" and self._console.is_terminal
        self._minimum = minimum
        self._last = float("-inf")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the bar while the block runs."""
        if not self._live:
            yield
            return
        columns = (
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(_BAR, table_column=Column(no_wrap=True, min_width=_BAR)),
            TextColumn("{task.fields[shown]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        )
        with Progress(*columns, console=self._console) as self._bar:
            self._task = self._bar.add_task(translate("step 0   0%"), total=1.0, shown="")
            try:
                yield
            finally:
                self._bar = None

    def note(self, text: str) -> None:
        """Say something once, in a line of its own."""
        if text.startswith(_WARNING):
            self.warnings.append(text.removeprefix(_WARNING))
        if not self.quiet:
            self._console.print(translate(text), soft_wrap=True, markup=False)

    def update(
        self, step: int, fraction: float, left: float | None, metrics: Mapping[str, float | int], last: bool
    ) -> None:
        """Show the state of the run.

        Args:
            fraction: part of the budget that is used.
            left: seconds to the end, as far as the speed so far tells; None before it tells anything.
            last: show it even if the last line was just now.
        """
        if self.quiet:
            return
        where, shown = f"step {step:,} {min(fraction, 1.0):4.0%}", describe(metrics, left, verbose=self._verbose)
        if self._bar is not None:
            self._bar.update(
                self._task, description=translate(where), completed=min(fraction, 1.0), shown=translate(shown)
            )
            return
        now = time.monotonic()
        if last or now - self._last >= self._minimum:
            self._last = now
            self._screen.line(f"{where}  {shown}")


def describe(metrics: Mapping[str, float | int], left: float | None, *, verbose: bool = False) -> str:
    """Loss, speed and time left, as far as they are known.

    Args:
        left: seconds to the end; none are shown at the end itself.
        verbose: the share of the GEMM peak and the time spent waiting for data too.
    """
    parts = [f"loss {metrics['loss']:.4f}"] if "loss" in metrics else []
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
    if verbose and metrics.get("gemm_utilization"):
        parts.append(f"{metrics['gemm_utilization']:.0%} of GEMM peak")
    if verbose and "data_wait" in metrics:
        parts.append(f"data wait {metrics['data_wait']:.1%}")
    if left:
        parts.append(f"{clock(left)} left")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    whole = round(min(max(seconds, 0.0), 3.6e8))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
