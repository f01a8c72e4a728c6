from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretune.batch import Batch, Layout, OutputRows, bucket_remainder, ragged
from pretune.train.shapes import pad_to_bucket, split_sequences


def test_padding_adds_sequences_that_change_nothing_else() -> None:
    batch = replace(
        ragged([[5, 6, 7], [8, 9]], [np.array([0, 0, 1]), np.array([0, 1])]),
        targets={"mlm": (torch.tensor([1]), torch.tensor([4]))},
    )
    padded = pad_to_bucket(batch)
    assert padded.layout.lengths == (3, 2, 3, 3, 3, 2), "no dummy is longer than the batch's own sequences"
    assert padded.layout.total == 16 == len(padded.tokens) == len(padded.segments)
    assert torch.equal(padded.tokens[:5], batch.tokens)
    assert padded.targets is batch.targets
    assert pad_to_bucket(padded) is padded


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
        own = shorter.layout.lengths[a:b]
        assert sum(own) == lengths[n]
        assert max(own, default=0) - min(own, default=0) <= 1
    assert shorter.layout.positions.tolist() == [p for n in shorter.layout.lengths for p in range(n)]
    assert shorter.output_rows is not None
    assert shorter.output_rows.index.tolist() == sorted(read)
    assert shorter.output_rows.layout.count == shorter.layout.count
    assert shorter.output_rows.layout.positions.equal(shorter.layout.positions[shorter.output_rows.index])


def test_both_runs_of_a_pair_are_padded_alike() -> None:
    """As many dummies in the source as in the target, none of them empty in the source, and round numbers in both."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(1, 9))
        own, read = (rng.integers(1, 30, count).tolist() for _ in range(2))
        batch = replace(ragged([[1] * n for n in own]), source=ragged([[2] * n for n in read]))
        padded = pad_to_bucket(batch)
        assert padded.source is not None
        assert padded.layout.lengths[:count] == tuple(own)
        assert padded.source.layout.lengths[:count] == tuple(read)
        assert padded.layout.count == padded.source.layout.count
        assert bucket_remainder(padded.layout.total) == bucket_remainder(padded.source.layout.total) == 0
        assert min(padded.source.layout.lengths) > 0
        assert padded.layout.max_length == max(own)
        assert padded.source.layout.max_length == max(read)
        assert pad_to_bucket(padded) is padded
