"""Batches by length: every sample once, budgets kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.evaluate.engine import by_length


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(1, 120))
def test_every_sample_once_within_the_budget(lengths: list[int], budget: int) -> None:
    actual = by_length(lengths, budget)
    assert sorted(n for batch in actual for n in batch.tolist()) == list(range(len(lengths)))
    for batch in actual:
        assert sum(lengths[n] for n in batch) <= budget or len(batch) == 1
    order = [lengths[n] for batch in actual for n in batch]
    assert order == sorted(order, reverse=True)


@pytest.mark.parametrize(
    ("lengths", "budget", "sizes"), [([5, 5, 5, 5], 10, [2, 2]), ([20, 1, 1], 10, [1, 2]), ([], 9, [])]
)
def test_batches_are_full(lengths: list[int], budget: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in by_length(np.array(lengths, np.int64), budget)] == sizes
