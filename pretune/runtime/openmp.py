"""Turns the spinning of libgomp's waiting threads off and on while a process runs.

libgomp reads its settings once, when it is loaded, and torch may have been imported by somebody else. But its threads
spin at most 100 times, instead of 300,000, as long as it manages more threads than there are CPUs. So a second team of
threads, which sleeps, turns spinning off for the first, and its end turns it on again.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from pretune.runtime.affinity import cpus

StartTeam = Callable[[int], None]
_DECIDED_BY = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # environment variables that libgomp reads
_MAX_THREADS = 16  # of the second team


class SpinLimit:
    """Limits spinning while it is on.

    Args:
        start_team: starts a team of that many threads, which belongs to the calling thread and ends with it.
        threads: number of threads of the second team.
    """

    def __init__(self, start_team: StartTeam, threads: int) -> None:
        self._start_team, self._threads = start_team, threads
        self._end: threading.Event | None = None

    @classmethod
    def of_torch(cls) -> SpinLimit | None:
        """Limits torch's own libgomp; None where another library is used, or where the user has decided."""
        threads = max(2, cpus() - torch.get_num_threads() + 2)
        if threads > _MAX_THREADS or any(name in os.environ for name in _DECIDED_BY):
            return None
        start_team = _libgomp()
        return cls(start_team, threads) if start_team and _can_start(threads) else None

    def set(self, is_on: bool) -> None:
        """Turns it on, if the system still lets a team start, or off."""
        if is_on and self._end is None and _can_start(self._threads):
            self._end = threading.Event()
            threading.Thread(target=self._hold, args=(self._end,), name="pretune-spin-limit", daemon=True).start()
        elif not is_on and self._end is not None:
            self._end.set()
            self._end = None

    def _hold(self, end: threading.Event) -> None:
        self._start_team(self._threads)
        end.wait()


@contextmanager
def threads_of_caller(count: int) -> Iterator[bool]:
    """Lets operators that the calling thread starts have so many threads, and those of no other thread.

    `torch.set_num_threads` does the same, and sets the number for all threads to come as well. Hands out whether it can
    be done: torch may compute without OpenMP, or with an MKL whose own number is out of reach.
    """
    setters = _setters()
    if setters is None:
        yield False
        return
    before, (set_openmp, set_mkl) = torch.get_num_threads(), setters
    set_openmp(count)
    mkl_before = set_mkl(count)
    try:
        yield True
    finally:
        set_openmp(before)
        set_mkl(mkl_before)


@cache
def _setters() -> tuple[Callable[[int], object], Callable[[int], int]] | None:
    """What sets the calling thread's number of OpenMP and of MKL; the second returns what it was."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        set_openmp = library.omp_set_num_threads
        has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        set_mkl = library.MKL_Set_Num_Threads_Local if has_mkl else lambda count: count
    except (OSError, AttributeError):
        return None
    before = torch.get_num_threads()
    set_openmp(before + 1)
    try:
        return (set_openmp, set_mkl) if torch.get_num_threads() == before + 1 else None
    finally:
        set_openmp(before)


def _libgomp() -> StartTeam | None:
    """What starts a team of the libgomp that torch uses; None where it uses another library."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        parallel = library.GOMP_parallel
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # what each thread calls: free(NULL)
    except (OSError, AttributeError):
        return None
    if hasattr(library, "kmp_set_blocktime"):  # LLVM's or Intel's library, which understands these calls as well
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None

    def start_team(threads: int) -> None:
        parallel(nothing, None, threads, 0)

    return start_team


def _can_start(threads: int) -> bool:
    """Whether the system lets this process start so many threads; where it does not, libgomp would end the process."""
    end, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(threads + 1):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        return False
    finally:
        end.set()
        for thread in started:
            thread.join()
    return True
