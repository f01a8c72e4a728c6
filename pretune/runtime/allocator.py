"""Keeps the freed memory of large tensors in the process: 1.15-1.25x on a whole CPU step (DESIGN.md, section 4).

glibc gives blocks above 32 MiB back to the kernel when they are freed, so each step faults its activations in again,
page by page. Two `mallopt` settings keep them. Transparent huge pages need `THP_MEM_ALLOC_ENABLE=1` in the environment
before torch is loaded, so the command line sets that itself.
"""

from __future__ import annotations

import ctypes
import sys

HUGE_PAGES = ("THP_MEM_ALLOC_ENABLE", "1")
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_GIB = 1 << 30


def tune_allocator() -> bool:
    """Tell malloc to keep what is freed; for this process alone.

    Returns:
        Whether both settings were taken: False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
        mallopt = library.mallopt
    except (OSError, AttributeError):
        return False
    # glibc refuses thresholds above half a heap (32 MiB on 64 bits) but takes "no block at all by mmap"
    mapped = mallopt(_M_MMAP_THRESHOLD, _GIB) or mallopt(_M_MMAP_MAX, 0)
    return bool(mapped) and bool(mallopt(_M_TRIM_THRESHOLD, 2 * _GIB - 1))
