"""Memory for weights, and for keys and values, in pages of 2 MB where the system has them.

A token reads all weights once. In pages of 4 KB the processor looks up an address every 100 ns: GPT-2 small in bf16
takes 10.4 to 17 CPU ms a token so, and 8.9 in pages of 2 MB (`python -m benchmarks native_products`).
"""

from __future__ import annotations

import ctypes
from typing import Final

import torch
from torch import Tensor

from pretune.native.library import available, library

_PAGE: Final = 1 << 21
_LINE: Final = 64


def prefer_huge_pages(memory: Tensor) -> Tensor:
    """Asks for large pages below a tensor that nobody has touched yet, and gives it back."""
    if available() and memory.nbytes >= _PAGE:
        library().functions.pretune_prefer_huge_pages(ctypes.c_void_p(memory.data_ptr()), ctypes.c_int64(memory.nbytes))
    return memory


class Arena:
    """One piece of memory for many tensors, each at the beginning of a cache line. What is in it at first is any.

    Args:
        sizes: in bytes, of all that will be taken.
    """

    def __init__(self, sizes: list[int]) -> None:
        total = sum(-(-size // _LINE) * _LINE for size in sizes)
        if total >= _PAGE:  # whole pages; what is not touched costs nothing
            total = -(-total // _PAGE) * _PAGE
            memory = torch.empty(total + _PAGE, dtype=torch.uint8)
            self._memory = prefer_huge_pages(memory[-memory.data_ptr() % _PAGE :][:total])
        else:
            self._memory = torch.empty(total, dtype=torch.uint8)
        self._used = 0

    def take(self, size: int) -> Tensor:
        """The next bytes. Shape: (size,) uint8."""
        first = self._used
        self._used += -(-size // _LINE) * _LINE
        return self._memory[first : first + size]
