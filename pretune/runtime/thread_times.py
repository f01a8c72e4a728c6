"""What Linux counts of this process's threads and of the CPUs: who ran, who waited for a CPU, and who is where."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path

ThreadTimes = Mapping[int, tuple[int, int]]  # by thread: nanoseconds on a CPU, nanoseconds waiting for one

TASKS = "/proc/self/task"
_MIN_RUNNABLE = 0.2  # fraction of a measurement in which a thread has to be runnable to count
_START_SECONDS = 60.0  # a thread's life, up to which it tells how busy the machine is now
_PROCESSOR = 36  # field of a stat file after the name
_NS = 1_000_000_000


def thread_times(threads: Set[int]) -> dict[int, tuple[int, int]]:
    """What was counted for some threads, without those that have ended meanwhile."""
    times = {}
    for thread in threads:
        with suppress(OSError, ValueError):
            file = os.open(f"{TASKS}/{thread}/schedstat", os.O_RDONLY)
            try:
                ran, waited, _ = os.read(file, 100).split()
            finally:
                os.close(file)
            times[thread] = (int(ran), int(waited))
    return times


def own_times() -> tuple[int, int]:
    """Nanoseconds that the calling thread ran, and that it was ready to run without a CPU; 0 where nobody counts."""
    thread = threading.get_native_id()
    return thread_times({thread}).get(thread, (0, 0))


def waiting_so_far() -> float | None:
    """The fraction of its runnable time that the calling thread had no CPU; None of one that runs for long already."""
    ran, waited = own_times()
    return waited / (ran + waited) if 0 < ran + waited < _START_SECONDS * _NS else None


def waiting_fraction(before: ThreadTimes, after: ThreadTimes, seconds: float) -> float | None:
    """The largest fraction of its runnable time that a thread waited for a CPU; None if none wanted to run for long."""
    fractions = []
    for thread, (ran, waited) in after.items():
        ran_before, waited_before = before.get(thread, (ran, waited))
        runnable = ran - ran_before + waited - waited_before
        if runnable > _MIN_RUNNABLE * seconds * _NS:
            fractions.append((waited - waited_before) / runnable)
    return max(fractions, default=None)


def cpu_seconds(before: ThreadTimes, after: ThreadTimes) -> float:
    """Seconds that threads were on a CPU, together."""
    return sum(ran - before.get(thread, (ran, 0))[0] for thread, (ran, _) in after.items()) / _NS


def cpu_of(thread: int) -> int | None:
    """The CPU that a thread is on, or was last."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"{TASKS}/{thread}/stat").read_text().rpartition(")")[2].split()[_PROCESSOR])
    return None


def idle_seconds(cpus: Set[int]) -> float:
    """Seconds, since the machine started, in which nobody used some CPUs, together."""
    names = {f"cpu{number}" for number in cpus}
    with suppress(OSError, ValueError, IndexError):
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu")]
        return sum(int(fields[4]) for fields in lines if fields[0] in names) / os.sysconf("SC_CLK_TCK")
    return 0.0
