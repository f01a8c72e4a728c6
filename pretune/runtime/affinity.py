"""Lets the threads of a computation run on one CPU, and on all of them again."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence, Set
from contextlib import suppress
from functools import cache

from pretune.runtime.thread_times import TASKS, cpu_of


@cache
def cpus() -> int:
    """Number of CPUs that this process may use, before any of its threads was confined to one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_STARTING = {"subprocess.Popen", "os.posix_spawn", "os.system", "os.exec"}  # audit events


class Confinement:
    """Keeps threads on one CPU while it is on.

    Threads that they start meanwhile inherit that, and are freed again; a process would keep it, so that a thread that
    starts one is freed first.
    """

    def __init__(self) -> None:
        self._is_hooked = False
        self.cpu: int | None = None
        self.others: frozenset[int] = frozenset()  # CPUs that the threads may use otherwise

    def start(self, team: Set[int], caller: int) -> None:
        """Confines threads to the CPU that one of them is on; each rank of a machine to a CPU of its own."""
        if self.cpu is None:
            try:
                cpus = os.sched_getaffinity(caller)
            except OSError:  # it has ended
                return
            cpu = cpu_of(caller)
            self.cpu = _of_rank(sorted(cpus), cpu if cpu in cpus else min(cpus))
            self.others = frozenset(cpus - {self.cpu})
            if not self._is_hooked:  # for good; not before, as it is called for every audit event
                self._is_hooked = True
                sys.addaudithook(self._before)
        for thread in team:
            _allow(thread, {self.cpu})

    def end(self, but: Set[int] = frozenset()) -> None:
        """Frees all threads of the process that are on this CPU alone, but those named."""
        if self.cpu is None:
            return
        for thread in {int(name) for name in os.listdir(TASKS)} - but:
            with suppress(OSError):
                if os.sched_getaffinity(thread) == {self.cpu}:
                    _allow(thread, self.others | {self.cpu})
        if not but:
            self.cpu = None

    def enter(self) -> None:
        """Confines the calling thread, if others are."""
        if self.cpu is not None:
            _allow(threading.get_native_id(), {self.cpu})

    def leave(self) -> None:
        """Frees the calling thread."""
        if self.cpu is not None:
            _allow(threading.get_native_id(), self.others | {self.cpu})

    def _before(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in _STARTING:
            self.leave()


def _of_rank(cpus: Sequence[int], cpu: int) -> int:
    """The CPU of this rank among those on this machine, as torchrun numbers them; the one given without ranks."""
    rank = os.environ.get("LOCAL_RANK", "")
    several = os.environ.get("LOCAL_WORLD_SIZE", "1") != "1"
    return cpus[int(rank) % len(cpus)] if several and rank.isdigit() else cpu


def _allow(thread: int, cpus: Set[int]) -> None:
    with suppress(OSError):  # the thread has ended, or its CPUs were changed by somebody else
        os.sched_setaffinity(thread, cpus)
