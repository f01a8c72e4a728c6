"""What this machine can do, measured by plain means: matmuls and reading memory; and the dtype that it multiplies."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Literal

from pretune.runtime.precision import Name, choose_precision

log = logging.getLogger(__name__)


def dtype_and_threads(precision: Name, threads: int | None) -> tuple[Literal["bf16", "fp32"], int]:
    """Returns the dtype that `auto` is on this machine, else the one named, and how many cores this process may use."""
    import torch

    cores = threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1
    torch.set_num_threads(cores)  # the limits are measured in this process
    choice = choose_precision(precision, torch.device("cpu"))
    log.info(f"{choice.name} ({choice.why}), {cores} threads")
    return choice.name, cores


def gemm_peak(
    precision: str,
    shapes: Sequence[tuple[int, int, int]],
    seconds: float = 0.15,
    timer: Callable[[], float] = time.perf_counter,
) -> float:
    """Best speed of a matmul over the shapes (rows, in, out) of the work itself, in FLOP/s.

    Args:
        seconds: for each shape.
        timer: gives seconds.
    """
    import torch
    import torch.nn.functional as F

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for rows, inner, outer in shapes:
        x, w = torch.randn(rows, inner, dtype=dtype), torch.randn(outer, inner, dtype=dtype)
        end = timer() + seconds
        while timer() < end:
            start = timer()
            F.linear(x, w)
            best = max(best, 2.0 * rows * inner * outer / (timer() - start))
    return best


def read_bandwidth(megabytes: int = 192, repeats: int = 3, timer: Callable[[], float] = time.perf_counter) -> float:
    """Best speed of a plain sum over memory, in bytes/s."""
    import torch

    x = torch.ones(megabytes * 2**20 // 4)
    best = 0.0
    for _ in range(repeats):
        start = timer()
        x.sum()
        best = max(best, megabytes * 2**20 / (timer() - start))
    return best
