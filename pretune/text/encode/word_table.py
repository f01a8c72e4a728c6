"""A table of short ASCII words, looked up a hundred thousand at a time.

A word of up to 16 bytes is two integers, so that equal integers are equal words: no word is ever taken for another.
The table is open-addressed; each round of a look-up is a few array operations on the words that are still not found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 16
Keys = NDArray[np.uint64]
Integers = NDArray[np.int64]

_EIGHT = np.arange(9, dtype=np.uint64) * np.uint64(8)
_MASKS = np.append((np.uint64(1) << _EIGHT[:8]) - np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF))  # of 0 .. 8 bytes
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def keys_of(codes: NDArray[np.uint8], start: Integers, size: Integers) -> tuple[Keys, Keys]:
    """Keys as integers: their first 8 bytes and the next 8.

    Shape:
        codes: (T,) bytes without NUL inside words; start, size: (N,), size at most 16; return: two of (N,)
    """
    padded = np.zeros(len(codes) // 8 * 8 + 32, np.uint8)
    padded[: len(codes)] = codes
    eights = padded.view("<u8")
    first = _eight(eights, start) & _MASKS.take(np.minimum(size, 8))
    second = np.zeros(len(start), np.uint64)
    (long,) = np.nonzero(size > 8)
    second[long] = _eight(eights, start[long] + 8) & _MASKS.take(size[long] - 8)
    return first, second


def _eight(eights: Keys, start: Integers) -> Keys:
    """The 8 bytes from each place on. Shape: (T / 8,), (N,) -> (N,)"""
    index, shift = start >> 3, _EIGHT.take(start & 7)
    low = eights.take(index)
    low >>= shift
    high = eights.take(index + 1)
    high <<= np.uint64(64) - shift  # by 64, which numpy takes for nothing left
    return low | high


class WordTable:
    """Keys to numbers.

    Args:
        bits: of the number of places at first; it doubles when half of them are taken.
    """

    def __init__(self, bits: int = 18) -> None:
        self._count = 0
        self._make(bits)

    def __len__(self) -> int:
        return self._count

    def find(self, first: Keys, second: Keys) -> Integers:
        """The number of each word, -1 for an unknown one. Shape: (N,), (N,) -> (N,)"""
        out = np.full(len(first), -1, np.int64)
        slot = self._place(first, second)
        number = self._numbers.take(slot)
        same = (self._first.take(slot) == first) & (self._second.take(slot) == second) & (number >= 0)
        out[same] = number[same]
        left = np.flatnonzero(~same & (number >= 0))  # another word's place
        slot = slot[left]
        while len(left):
            slot = (slot + 1) & self._mask
            number = self._numbers.take(slot)
            same = (self._first.take(slot) == first[left]) & (self._second.take(slot) == second[left])
            out[left[same]] = number[same]
            on = ~same & (number >= 0)
            left, slot = left[on], slot[on]
        return out

    def add(self, first: Keys, second: Keys, numbers: Integers) -> None:
        """Take in words that are not there yet, each once. Shape: (N,), (N,), (N,)"""
        self._count += len(numbers)
        if self._count * 2 > len(self._numbers):
            taken = self._numbers >= 0
            old = self._first[taken], self._second[taken], self._numbers[taken].astype(np.int64)
            self._make((self._count * 4 - 1).bit_length())
            self._put(*old)
        self._put(first, second, numbers)

    def _make(self, bits: int) -> None:
        self._mask, self._shift = (1 << bits) - 1, np.uint64(64 - bits)
        self._first, self._second = np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.uint64)
        self._numbers = np.full(1 << bits, -1, np.int32)

    def _place(self, first: Keys, second: Keys) -> Integers:
        mixed = (first ^ (second * _SECOND)) * _FIRST
        mixed ^= mixed >> np.uint64(32)
        mixed *= _SECOND
        return (mixed >> self._shift).view(np.int64)

    def _put(self, first: Keys, second: Keys, numbers: Integers) -> None:
        """Each word asks for a place; of those that ask for the same one, one gets it and the others ask on."""
        slot = self._place(first, second)
        left = np.arange(len(numbers))
        while len(left):
            free = self._numbers[slot] < 0
            self._numbers[slot[free]] = numbers[left[free]]
            won = self._numbers[slot] == numbers[left]
            self._first[slot[won]], self._second[slot[won]] = first[left[won]], second[left[won]]
            left, slot = left[~won], (slot[~won] + 1) & self._mask
