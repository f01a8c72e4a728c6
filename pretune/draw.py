"""Keyed random numbers: every random decision is a pure function of a key, never of what was drawn before.

A `Draw` is a 64-bit key. `draw.at("mask", 3)` derives another; `bits`, `uniform` and `below` hash an array of counters
under it, so any element can be computed alone, in any order, on any rank. `Permutation` shuffles `n` samples in O(1)
memory with O(1) access, which is what makes seeking instant.

Source: SplitMix64 finalizer (Steele et al. 2014, "Fast splittable pseudorandom number generators"); Feistel networks
with cycle walking for arbitrary domains (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Words = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def scramble(values: ArrayLike) -> Words:
    """The SplitMix64 finalizer, a bijection of 64-bit words in which every input bit moves every output bit."""
    x = np.asarray(values).astype(np.uint64)
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def combine(key: ArrayLike, value: ArrayLike) -> Words:
    """Hash a key and a counter into a new key; arrays broadcast."""
    with np.errstate(over="ignore"):
        rotated = scramble(key) * np.uint64(3)
        return scramble(rotated ^ scramble(np.asarray(value).astype(np.int64).view(np.uint64)))


def _number(part: int | str) -> int:
    if isinstance(part, str):  # FNV-1a: names are few and short
        return reduce(lambda h, byte: ((h ^ byte) * 0x100000001B3) & _MASK, part.encode(), 0xCBF29CE484222325)
    return part & _MASK


@dataclass(frozen=True)
class Draw:
    """A key from which random numbers are computed.

    Attributes:
        key: the 64-bit word under which counters are hashed.
    """

    key: int

    def at(self, *parts: int | str) -> Draw:
        """The key derived for a purpose, an epoch, a sample ...: `draw.at("mask", epoch)`."""
        key = self.key
        for part in parts:
            key = int(combine(np.uint64(key), np.array(_number(part), dtype=np.uint64).view(np.int64)))
        return Draw(key)

    def keys(self, samples: NDArray[np.int64]) -> Words:
        """One key for each sample.

        Shape:
            samples: (N, k) integers that name a sample, such as (store, epoch, index).
            return: (N,)
        """
        key: Any = np.full(len(samples), self.key, dtype=np.uint64)
        for column in range(samples.shape[1]):
            key = combine(key, samples[:, column])
        return np.asarray(key, dtype=np.uint64)

    def bits(self, counter: ArrayLike) -> Words:
        """64 random bits for each counter. Shape: any -> same."""
        return combine(np.uint64(self.key), counter)

    def uniform(self, counter: ArrayLike) -> NDArray[np.float64]:
        """A float in [0, 1) for each counter. Shape: any -> same."""
        return unit(self.bits(counter))

    def below(self, counter: ArrayLike, limit: ArrayLike) -> NDArray[np.int64]:
        """An integer in [0, limit) for each counter. Shape: any, broadcast with `limit`."""
        return bounded(self.bits(counter), limit)


def unit(words: Words) -> NDArray[np.float64]:
    """Words to floats in [0, 1), 53 bits each."""
    return np.asarray((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def bounded(words: Words, limit: ArrayLike) -> NDArray[np.int64]:
    """Words to integers in [0, limit), by the high part of a product (bias below 2^-20 for limits under 2^32)."""
    return np.asarray((unit(words) * np.asarray(limit)).astype(np.int64))


class Permutation:
    """A keyed shuffle of range(n): O(1) memory, any element on its own.

    Args:
        n: how many samples there are.
        draw: the key; another epoch is another key.
    """

    ROUNDS = 12  # over 200,000 epochs the orders of 3 to 16 samples are uneven with 8 rounds, even with 12
    SIDE = 4  # nor are they even where a half has fewer values than this

    def __init__(self, n: int, draw: Draw) -> None:
        if n < 1:
            raise ValueError(f"a permutation needs at least one sample, got {n}")
        self.n = n
        low = max(self.SIDE, isqrt(n - 1) + 1)
        self._low, self._high = np.uint64(low), np.uint64(max(self.SIDE, -(-n // low)))
        self._keys = draw.at("feistel").bits(np.arange(self.ROUNDS))

    def __call__(self, index: ArrayLike) -> NDArray[np.int64]:
        """Where each index goes. Shape: any -> same; values in [0, n)."""
        values = np.atleast_1d(np.asarray(index)).astype(np.uint64)
        if values.size and int(values.max()) >= self.n:
            raise IndexError(f"index {int(values.max())} is outside a permutation of {self.n}")
        out = self._feistel(values)
        outside = out >= self.n
        while outside.any():  # cycle walking: the domain is n plus less than its root, so it is rare
            out[outside] = self._feistel(out[outside])
            outside = out >= self.n
        return np.asarray(out.astype(np.int64).reshape(np.shape(index)))

    def _feistel(self, values: Words) -> Words:
        """One pass over the domain low x high. Shape: any -> same."""
        here, there = self._low, self._high
        left, right = values % here, values // here
        for key in self._keys:
            left, right = right, (left + scramble(right ^ key) % here) % here
            here, there = there, here
        return np.asarray(left + right * self._low)
