"""Watches the ranks of a run: one that hangs is named within a minute, with the stacks of all threads of all ranks.

Each rank writes a line into the store of the process group every few seconds: that it lives, how far it is, and for how
long it has neither got further nor computed anything. A rank of which nothing is heard (stopped, its machine gone), or
which stands still while others wait for it, ends the run on all ranks; the same command resumes at the last checkpoint.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

BEAT = 2.0  # seconds between two lines of a rank
SILENCE = 30.0  # seconds after which a rank of which nothing is heard is given up
IDLE = 40.0  # seconds for which a rank may stand still in a step
_BUSY = 0.02  # fraction of a core above which a process computes something
TEMPORARY = 75


class Store(Protocol):
    """What of `torch.distributed.Store` is used."""

    def set(self, key: str, value: str, /) -> None:
        """Writes a value."""

    def get(self, key: str, /) -> bytes:
        """Reads a value, which it waits for."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all keys have values."""


@dataclass
class Progress:
    """How far this rank is; written by the main thread.

    Attributes:
        marks: how often it got further; ranks that do the same count alike, and one that has fewer is behind.
        where: what it does.
        in_step: it is in a step of training, where no rank has a reason to stand still.
    """

    marks: int = 0
    where: str = "starting"
    in_step: bool = False

    def mark(self, where: str, in_step: bool | None = None) -> None:
        """Says that this rank got further.

        Args:
            in_step: from now on; None for as before.
        """
        self.marks, self.where = self.marks + 1, where
        self.in_step = self.in_step if in_step is None else in_step


@dataclass
class Report:
    """What a rank writes of itself.

    Attributes:
        beat: counts the reports.
        idle: seconds for which it has stood still.
        has_left: it has ended, and nobody needs to wait for it.
    """

    rank: int
    pid: int
    host: str
    beat: int = 0
    marks: int = 0
    where: str = ""
    in_step: bool = False
    idle: float = 0.0
    has_left: bool = False

    def __str__(self) -> str:
        """Names the rank and where it runs."""
        return f"rank {self.rank} (process {self.pid} on {self.host})"


@dataclass
class Watchdog:
    """Watches the other ranks, in threads of its own.

    Attributes:
        store: a client of its own, which only this watchdog uses.
        progress: of this rank.
    """

    store: Store
    rank: int
    size: int
    progress: Progress
    _closed: threading.Event = field(default_factory=threading.Event)
    _end: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._report = Report(self.rank, os.getpid(), socket.gethostname())
        self._answered = self._heard = self._moved = self._round = time.monotonic()
        self._last = (-1, time.process_time())
        self._beat_of_previous = -1
        self._threads = [
            threading.Thread(target=target, name=target.__name__, daemon=True) for target in (self._beat, self._check)
        ]
        for thread in self._threads:
            thread.start()

    def close(self, reason: str | None = None) -> None:
        """Stops watching, and tells the others that this rank has left.

        Args:
            reason: why it ends, where that is an error.
        """
        self._closed.set()
        self._threads[0].join(timeout=2 * BEAT)
        self._report.has_left = True
        try:
            if reason is not None:
                self.store.set(_failure(self.rank), reason)
            self.store.set(_key(self.rank), json.dumps(asdict(self._report)))
        except RuntimeError:
            pass  # the store ended with another rank

    def reasons(self, patience: float = 3.0) -> list[str]:
        """Why other ranks ended, as far as they could say it or it can be seen; waits a moment for what they say."""
        self._end_if_left_behind()
        if self._end.locked():  # a thread gives a rank up, and ends this process with its own exit code
            time.sleep(4 * BEAT)
        deadline = time.monotonic() + patience
        while True:
            try:
                failed = [n for n in range(self.size) if n != self.rank and self.store.check([_failure(n)])]
                if failed:
                    return [f"rank {n}: {self.store.get(_failure(n)).decode()}" for n in failed]
                if time.monotonic() > deadline:
                    return [f"{report} is gone: killed, perhaps" for report in self._reports() if _is_gone(report)]
            except RuntimeError:
                return []
            time.sleep(0.05)

    # -- the threads ----------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        try:
            self._write()
            while not self._closed.wait(BEAT):
                if (now := time.monotonic()) - self._round > 3 * BEAT:  # this process was itself stopped meanwhile
                    self._heard = self._moved = now
                self._write()
                if self.store.check(["hung"]):
                    self._give_up(self.store.get("hung").decode(), is_first=False)
                self._look_at_previous()
                self._look_at_all()
                self._answered = self._round = time.monotonic()
        except RuntimeError:  # the store ended with another rank: the next collective says so
            self._end_if_left_behind()
            self._closed.set()

    def _end_if_left_behind(self) -> None:
        """Ends a rank that was itself stopped, when the others have given it up."""
        gap = time.monotonic() - self._round
        if gap > SILENCE / 2 and not self._closed.is_set():  # else the beat has ended, long ago perhaps
            stopped = f"rank {self.rank} hangs: it was stopped for {gap:.0f} seconds, and the others have ended"
            self._give_up(stopped, is_first=False)

    def _write(self) -> None:
        report, progress, now = self._report, self.progress, time.monotonic()
        marks, used = self._last
        computed = time.process_time() - used
        self._last = (progress.marks, used + computed)
        if progress.marks != marks or computed > _BUSY * BEAT:
            self._moved = now
        report.beat, report.marks, report.where = report.beat + 1, progress.marks, progress.where
        report.in_step, report.idle = progress.in_step, now - self._moved
        self.store.set(_key(self.rank), json.dumps(asdict(report)))

    def _look_at_previous(self) -> None:
        """Gives up a neighbour of which nothing is heard: every rank is watched by one other."""
        previous, now = (self.rank - 1) % self.size, time.monotonic()
        if not self.store.check([_key(previous)]):
            return
        report = self._read(previous)
        if report.has_left or report.beat != self._beat_of_previous:
            self._beat_of_previous, self._heard = report.beat, now
        elif now - self._heard > SILENCE:
            self._give_up(
                f"{report} hangs: nothing has been heard of it for {now - self._heard:.0f} seconds; its state is "
                f"{_state(report)}, and it was last at or after: {report.where}"
            )

    def _look_at_all(self) -> None:
        """Gives up ranks that stand still in a step while others are ahead of them, or as all do."""
        if self._report.idle < IDLE or not self._report.in_step:
            return
        reports = self._reports()
        if len(reports) < self.size or any(each.has_left for each in reports):
            return
        behind = [each for each in reports if each.marks == min(report.marks for report in reports)]
        if all(each.idle > IDLE - 3 * BEAT and each.in_step for each in behind):
            names = "; ".join(f"{each} hangs: {each.idle:.0f} seconds at or after: {each.where}" for each in behind)
            self._give_up(f"{names}, where it computes nothing; all wait for it")

    def _check(self) -> None:
        """Gives up a store that does not answer, as where the process that holds it is stopped."""
        last = time.monotonic()
        while not self._closed.wait(BEAT / 2):
            now = time.monotonic()
            if now - last > 3 * BEAT:  # this process was itself stopped: what it did not hear meanwhile says nothing
                self._answered = self._heard = self._moved = now
            last = now
            if now - self._answered > SILENCE:
                place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                self._give_up(
                    f"rank 0, or torchrun, hangs: the store at {place} has not answered for "
                    f"{now - self._answered:.0f} seconds",
                    is_first=False,
                )

    def _give_up(self, verdict: str, *, is_first: bool = True) -> None:
        """Writes where every thread of this rank is, and ends the process, also in the middle of a checkpoint.

        Args:
            is_first: the others do not know it yet.
        """
        if not self._end.acquire(blocking=False):
            return
        if is_first:
            self.store.set("hung", verdict)
        head = f"pretune: {verdict}. The run ends; the same command resumes it at its last checkpoint\n"
        print(f"{head}Stacks of rank {self.rank} of {self.size}:", file=sys.stderr, flush=True)
        try:
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        except (OSError, ValueError, AttributeError):  # standard error is no file, as in a notebook
            faulthandler.dump_traceback(2, all_threads=True)
        if is_first:
            time.sleep(2.5 * BEAT)  # the store may be of this process: the others read it first
        os._exit(TEMPORARY)

    def _reports(self) -> list[Report]:
        return [self._read(n) for n in range(self.size) if self.store.check([_key(n)])]

    def _read(self, rank: int) -> Report:
        return Report(**json.loads(self.store.get(_key(rank))))


def _key(rank: int) -> str:
    return f"report/{rank}"


def _failure(rank: int) -> str:
    return f"failure/{rank}"


def _is_gone(report: Report) -> bool:
    """Whether the process of a rank on this machine has ended without leaving."""
    return not report.has_left and report.host == socket.gethostname() and _state(report) in ("gone", "zombie")


def _state(report: Report) -> str:
    """The state of a rank's process, where it is on this machine and the system tells it."""
    if report.host != socket.gethostname() or not Path("/proc/self/status").exists():
        return "unknown"
    try:
        lines = Path(f"/proc/{report.pid}/status").read_text().splitlines()
    except OSError:
        return "gone"
    return next((line.partition("(")[2].rstrip(")") for line in lines if line.startswith("State:")), "unknown")
