"""Keyed random numbers: every random decision is a pure function of a key, never of earlier draws.

A `Draw` is a 64-bit key. `draw.at("mask", 3)` derives another; `bits`, `uniform` and `below` hash an array of counters
under it, so any element can be computed alone, in any order, on any rank. `Permutation` shuffles `n` samples in O(1)
memory with O(1) access, which is what makes seeking instant.

Source: SplitMix64 finalizer (Steele et al. 2014, "Fast splittable pseudorandom number generators"); Feistel networks
with cycle walking for arbitrary domains (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, reduce
from math import isqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Words = NDArray[np.uint64]
_WORD = 1 << 64
_MASK = _WORD - 1
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# Arrays without dimensions: numpy takes them faster than its own numbers, by a third of a short operation.
_STEPS = tuple(np.array(n, np.uint64) for n in (_GOLDEN, 30, _FIRST, 27, _SECOND, 31))
_THREE = np.array(3, np.uint64)


def scramble(values: ArrayLike) -> Words:
    """The SplitMix64 finalizer, a bijection of 64-bit words in which every input bit moves every output bit."""
    return _scramble(np.array(values).astype(np.uint64, copy=False))


def _scramble(x: Words) -> Words:
    """The same in place, with one array beside it instead of nine. Shape: any -> same."""
    golden, a, first, b, second, c = _STEPS
    high = np.empty_like(x)
    x += golden
    x ^= np.right_shift(x, a, out=high)
    x *= first
    x ^= np.right_shift(x, b, out=high)
    x *= second
    x ^= np.right_shift(x, c, out=high)
    return x


def _scramble_one(x: int) -> int:
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK
    return x ^ (x >> 31)


def combine(key: ArrayLike, value: ArrayLike) -> Words:
    """Hash a key and a counter into a new key; arrays broadcast."""
    counter = np.asarray(value).astype(np.int64, copy=False).view(np.uint64)
    return _scramble(np.asarray(mixable(key) ^ scramble(counter)))


def _combine_one(key: int, value: int) -> int:
    return _scramble_one((_scramble_one(key) * 3 & _MASK) ^ _scramble_one(value & _MASK))


def mixable(key: ArrayLike) -> Words:
    """The key's half of `combine`, for keys that meet many counters: see `mix`. Shape: any -> same."""
    half = scramble(key)
    half *= _THREE
    return half


def mix(half: Words, counter: NDArray[np.int64], limit: int) -> Words:
    """`combine(key, counter)`, where `half` is `mixable(key)`, for counters below `limit`, which are looked up.

    Shape:
        half, counter: broadcast to what is returned.
    """
    return _scramble(np.asarray(half ^ _table(max(limit - 1, 1 << 12).bit_length()).take(counter)))


@lru_cache(maxsize=4)
def _table(bits: int) -> Words:
    return scramble(np.arange(1 << bits))


@lru_cache(maxsize=1 << 10)
def _derive(key: int, part: int | str) -> int:
    if isinstance(part, str):  # FNV-1a: names are few and short
        part = reduce(lambda h, byte: ((h ^ byte) * 0x100000001B3) & _MASK, part.encode(), 0xCBF29CE484222325)
    return _combine_one(key, part)


@dataclass(frozen=True)
class Draw:
    """A key from which random numbers are computed.

    Attributes:
        key: the 64-bit word under which counters are hashed.
    """

    key: int

    def at(self, *parts: int | str) -> Draw:
        """The key derived for a purpose, an epoch, a sample ...: `draw.at("mask", epoch)`."""
        return Draw(reduce(_derive, parts, self.key))

    def keys(self, samples: NDArray[np.int64]) -> Words:
        """One key for each sample.

        Shape:
            samples: (N, k) integers that name a sample, such as (store, epoch, index).
            return: (N,)
        """
        count, columns = samples.shape
        same = (samples == samples[:1]).all(axis=0).tolist() if count else [False] * columns
        alike = same.index(False) if False in same else columns
        key = reduce(_combine_one, samples[0, :alike].tolist() if alike else (), self.key)  # of a store, of an epoch
        if alike == columns:
            return np.full(count, key, np.uint64)
        half = np.array(_scramble_one(key) * 3 & _MASK, np.uint64)
        keys = _scramble(half ^ scramble(samples[:, alike]))
        for column in samples.T[alike + 1 :]:
            keys = combine(keys, column)
        return keys

    def bits(self, counter: ArrayLike) -> Words:
        """64 random bits for each counter. Shape: any -> same."""
        return combine(np.array(self.key, np.uint64), counter)

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
        left, right = _remainder(values, here), values // here
        for key in self._keys:
            total = left + _remainder(_scramble(right ^ key), here)
            left, right = right, np.minimum(total, total - here)  # below `here`, the difference wraps around
            here, there = there, here
        return np.asarray(left + right * self._low)


def _remainder(words: Words, limit: np.uint64) -> Words:
    """`words % limit`, which numpy computes four times slower than a quotient."""
    return np.asarray(words - words // limit * limit)
