"""Tells how much memory there is, so that what cannot be held is refused, with its size, before it is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from pretune.errors import UsageError

_USABLE = 0.95  # of the memory that is free
_GROUP = Path("/sys/fs/cgroup")  # what a container may use


def free_memory(device: torch.device) -> int | None:
    """Bytes that the device could still give; None where that is not known.

    On the host this is what the machine has left, or what the process's container has left of its limit, if less.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for what comes
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    container = _left_in_container()
    return machine if container is None else min(machine, container)


def _left_in_container() -> int | None:
    """Bytes that the control group of this process may still use, its page cache left out; None without a limit."""
    try:
        limit = int((_GROUP / "memory.max").read_text())  # "max" where there is none
        used = int((_GROUP / "memory.current").read_text())
        lines = (_GROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    return max(0, limit - used + sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file ")))


def total_memory(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(needed: float, device: torch.device, what: str, remedy: str) -> None:
    """Refuses what is more than there is memory.

    Args:
        needed: bytes, at the least.
        what: needs them, such as "beam search over 1000 beams".
        remedy: how to need less.

    Raises:
        UsageError: the device has not as much memory free.
    """
    free = free_memory(device)
    if free is not None and needed > _USABLE * free:
        raise UsageError(f"{what} needs {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free; {remedy}")
