from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretune.batch import Batch, Layout, ragged


@given(st.lists(st.integers(0, 9), max_size=8))
def test_a_layout_says_where_each_token_lies(lengths: list[int]) -> None:
    layout = Layout.of(lengths)
    expected = [(n, p) for n, length in enumerate(lengths) for p in range(length)]
    assert layout.positions.tolist() == [p for _, p in expected]
    assert layout.offsets.tolist() == list(layout.bounds)
    assert (layout.count, layout.total, layout.max_length) == (len(lengths), sum(lengths), max(lengths, default=0))
    assert layout.offsets.dtype == torch.int32
    for n, length in enumerate(lengths):
        begin, end = layout.bounds[n : n + 2]
        assert end - begin == length


def test_first_and_last_tokens() -> None:
    layout = Layout.of([3, 1, 2])
    assert layout.first.tolist() == [0, 3, 4]
    assert layout.last.tolist() == [2, 3, 5]


def test_positions_go_on_after_a_cache() -> None:
    assert Layout.of([2, 3], starts=[5, 0]).positions.tolist() == [5, 6, 0, 1, 2]


def test_ragged_lays_sequences_end_to_end() -> None:
    batch = ragged([[1, 2], np.array([], dtype=np.uint16), np.array([70_000, 3], dtype=np.uint32)])
    assert batch.tokens.tolist() == [1, 2, 70_000, 3]
    assert batch.tokens.dtype == torch.int64
    assert batch.layout.lengths == (2, 0, 2)
    assert batch.segments is None
    assert ragged([]).layout.total == 0
    assert ragged([], []).segments is not None


def test_to_moves_every_tensor() -> None:
    source = ragged([[1]])
    target = (torch.tensor([0]), torch.tensor([1]))
    batch = replace(ragged([[1, 2]], [np.array([0, 1])]), source=source, targets={"mlm": target})
    moved = batch.to("meta")
    tensors = [moved.tokens, moved.layout.offsets, moved.layout.positions, *moved.targets["mlm"]]
    assert moved.segments is not None
    assert isinstance(moved.source, Batch)
    tensors += [moved.segments, moved.source.tokens, moved.source.layout.positions]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.layout.lengths == batch.layout.lengths
