from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretune.batch import Batch, Layout, OutputRows, bucket_remainder, pad_to_bucket, ragged, split_sequences


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


def test_level_adds_sequences_that_change_nothing_else() -> None:
    batch = replace(
        ragged([[5, 6, 7], [8, 9]], [np.array([0, 0, 1]), np.array([0, 1])]),
        targets={"mlm": (torch.tensor([1]), torch.tensor([4]))},
    )
    found = pad_to_bucket(batch)
    assert found.layout.lengths == (3, 2, 3, 3, 3, 2), "no filler is longer than the batch's own sequences"
    assert found.layout.total == 16 == len(found.tokens) == len(found.segments)
    assert torch.equal(found.tokens[:5], batch.tokens)
    assert found.targets is batch.targets
    assert pad_to_bucket(found) is found


def test_rounding_costs_little_and_leaves_few_numbers() -> None:
    for low in (512, 1024, 2048):
        rows = np.arange(low, 2 * low)
        rounded = [int(n) + bucket_remainder(int(n)) for n in rows]
        assert len(set(rounded)) <= 33
        assert (np.array(rounded) - rows).mean() / rows.mean() < 0.025


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 12))
def test_cut_sequences_are_short_and_even(lengths: list[int], length: int) -> None:
    rng = np.random.default_rng(0)
    layout = Layout.of(lengths)
    read = rng.permutation(layout.total)[: layout.total // 3]
    whole = Batch(torch.arange(layout.total), layout, output_rows=OutputRows.of(read, layout))
    shorter = split_sequences(whole, length)
    parts = [-(-n // length) for n in lengths] if max(lengths, default=0) > length else [1] * len(lengths)
    assert shorter.layout.max_length <= length
    assert shorter.layout.count == sum(parts)
    assert shorter.tokens.equal(whole.tokens)
    ends = np.cumsum([0, *parts])
    for n, (a, b) in enumerate(pairwise(ends)):
        mine = shorter.layout.lengths[a:b]
        assert sum(mine) == lengths[n]
        assert max(mine, default=0) - min(mine, default=0) <= 1
    assert shorter.layout.positions.tolist() == [p for n in shorter.layout.lengths for p in range(n)]
    assert shorter.output_rows is not None
    assert shorter.output_rows.index.tolist() == sorted(read)
    assert shorter.output_rows.layout.count == shorter.layout.count
    assert shorter.output_rows.layout.positions.equal(shorter.layout.positions[shorter.output_rows.index])


def test_level_fills_both_runs_of_a_pair_alike() -> None:
    """As many fillers in the source as in the target, none of them empty in the source, and round numbers in both."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(1, 9))
        own, read = (rng.integers(1, 30, count).tolist() for _ in range(2))
        batch = replace(ragged([[1] * n for n in own]), source=ragged([[2] * n for n in read]))
        found = pad_to_bucket(batch)
        assert found.source is not None
        assert found.layout.lengths[:count] == tuple(own)
        assert found.source.layout.lengths[:count] == tuple(read)
        assert found.layout.count == found.source.layout.count
        assert bucket_remainder(found.layout.total) == bucket_remainder(found.source.layout.total) == 0
        assert min(found.source.layout.lengths) > 0
        assert found.layout.max_length == max(own)
        assert found.source.layout.max_length == max(read)
        assert pad_to_bucket(found) is found
