"""The table of words: never one word for another, whatever collides, however many are taken in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pretune.text.encode.word_table import MAX_BYTES, WordTable, keys_of

words = st.lists(
    st.text(st.characters(min_codepoint=1, max_codepoint=126), min_size=1, max_size=MAX_BYTES), max_size=60
)


def keys(found: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    codes = np.frombuffer("".join(found).encode(), np.uint8)
    size = np.array([len(word) for word in found], np.int64)
    return keys_of(codes, np.cumsum(size) - size, size)


@given(words)
@settings(max_examples=200, deadline=None)
def test_keys_are_the_bytes_of_words_wherever_they_lie(found: list[str]) -> None:
    first, second = keys(found)
    bytes_ = [word.encode().ljust(MAX_BYTES, b"\0") for word in found]
    assert first.tolist() == [int.from_bytes(raw[:8], "little") for raw in bytes_]
    assert second.tolist() == [int.from_bytes(raw[8:], "little") for raw in bytes_]


@given(st.lists(words, max_size=5), st.sampled_from([1, 3, 10]))
@settings(max_examples=200, deadline=None)
def test_a_table_is_a_dictionary(batches: list[list[str]], bits: int) -> None:
    table, known = WordTable(bits), dict[str, int]()
    for batch in batches:
        if batch:
            assert table.find(*keys(batch)).tolist() == [known.get(word, -1) for word in batch]
        new = [word for word in dict.fromkeys(batch) if word not in known]
        numbers = np.arange(len(known), len(known) + len(new))
        table.add(*keys(new), numbers)
        known |= dict(zip(new, numbers.tolist(), strict=True))
        assert len(table) == len(known)
    if known:
        assert table.find(*keys(list(known))).tolist() == list(known.values())


def test_words_that_ask_for_one_place_all_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WordTable, "_place", lambda self, first, second: np.full(len(first), self._mask, np.int64))
    table = WordTable(4)
    actual = [f"{n}word" for n in range(100)]
    table.add(*keys(actual[:50]), np.arange(50))
    table.add(*keys(actual[50:]), np.arange(50, 100))
    assert table.find(*keys([*actual, "other"])).tolist() == [*range(100), -1]
