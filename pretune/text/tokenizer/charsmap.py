"""Checks the normalization table of a sentencepiece model, which a library walks without looking where it steps.

The table is a number of bytes, a double-array trie of that size, whose keys are the UTF-8 of what is replaced, and the
replacements, each ended by a zero byte; the value of a key is where its replacement begins.

Source: google/sentencepiece, normalizer.cc; s-yata/darts-clone, darts.h.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 8 << 20
MAX_KEY = 128
"""Bytes of what is replaced."""
MAX_REPLACEMENT = 256
"""Bytes of a replacement."""


def check_charsmap(table: bytes) -> None:
    """Walks all keys of a table.

    Raises:
        ValueError: a table that leads out of itself, or whose keys or replacements are longer than any in Unicode.
    """
    if len(table) > MAX_BYTES:
        raise ValueError(f"{len(table):,} bytes, more than {MAX_BYTES:,}")
    size = int.from_bytes(table[:4], "little")
    if len(table) < 8 or size % 4 or not 4 <= size <= len(table) - 4:
        raise ValueError(f"{len(table):,} bytes that are to begin with a trie of {size:,}")
    units = np.frombuffer(table, np.uint32, size // 4, 4).astype(np.int64)
    _check_replacements(table[4 + size :], _values(units))


def _values(units: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values of all keys of a trie.

    Shape:
        units: (U,); return: (K,)
    """
    labels, offsets = units & 0x800000FF, (units >> 10) << ((units & 0x200) >> 6)
    places = np.arange(len(units))
    parents = places ^ labels
    is_label = (labels > 0) & (labels < 0x100)
    is_reached = np.zeros(len(units), np.bool_)
    is_base = np.zeros(len(units), np.bool_)
    fresh, values = places[:1], list[NDArray[np.int64]]()
    for _ in range(MAX_KEY + 2):
        bases = fresh ^ offsets[fresh]
        if len(bases) == 0:
            return np.concatenate(values) if values else bases
        if int((bases | 0xFF).max()) >= len(units):
            raise ValueError("its trie leads out of the table")
        ends = bases[(units[fresh] >> 8) & 1 == 1]
        values.append(units[ends] & 0x7FFFFFFF)
        is_base[:] = False
        is_base[bases] = True
        below = np.flatnonzero(is_label & ~is_reached)
        fresh = below[is_base[np.minimum(parents[below], len(units) - 1)]]
        is_reached[fresh] = True
    raise ValueError(f"a key of more than {MAX_KEY} bytes")


def _check_replacements(texts: bytes, values: NDArray[np.int64]) -> None:
    try:
        texts.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"its replacements are not UTF-8 at byte {error.start}") from None
    if len(values) == 0:
        return
    data = np.frombuffer(texts, np.uint8)
    zeros = np.flatnonzero(data == 0)
    if int(values.max()) >= len(data) or len(zeros) == 0 or int(values.max()) > int(zeros[-1]):
        raise ValueError("a key whose replacement lies outside the table")
    if ((data[values] & 0xC0) == 0x80).any():
        raise ValueError("a key whose replacement begins within a character")
    lengths = zeros[np.searchsorted(zeros, values)] - values
    if int(lengths.max()) > MAX_REPLACEMENT:
        raise ValueError(f"a replacement of {int(lengths.max()):,} bytes, more than {MAX_REPLACEMENT}")
