"""Keys of rows: functions of the sample and of the place in it, whatever batch, shape or micro-batch they are in."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pretune.batch import Batch, Layout, OutputRows, ragged
from pretune.draw import Draw
from pretune.train.row_keys import begin_forward, key_rows
from pretune.train.shapes import pad_to_bucket, split_sequences

DRAW = Draw(7).at("dropout", 3)


def batch_of(samples: list[tuple[int, int, int]], lengths: list[int], source: list[int] | None = None) -> Batch:
    batch = ragged([np.arange(length) for length in lengths])
    inner = None if source is None else ragged([np.arange(length) for length in source])
    rows = OutputRows.of(np.array([0, batch.layout.total - 1]), batch.layout)
    return Batch(batch.tokens, batch.layout, source=inner, samples=np.array(samples).reshape(-1, 3), output_rows=rows)


def words(batch: Batch) -> dict[tuple[int, ...], list[torch.Tensor]]:
    """Words of each sequence, by the name of its sample."""
    assert batch.layout.keys is not None
    parts = batch.layout.keys.words.split(batch.layout.lengths)
    out: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for name, part in zip(batch.samples.tolist(), parts, strict=False):
        out.setdefault(tuple(name), []).append(part)
    return out


def test_company_and_length_change_no_key():
    whole = words(key_rows(batch_of([(0, 0, 5), (0, 1, 5), (1, 0, 5)], [4, 3, 6]), DRAW))
    alone = words(key_rows(batch_of([(0, 1, 5)], [5]), DRAW))
    assert torch.equal(alone[0, 1, 5][0][:3], whole[0, 1, 5][0])
    every = torch.cat([part for parts in whole.values() for part in parts])
    assert len(every.unique(dim=0)) == 13
    later = words(key_rows(batch_of([(0, 1, 5)], [5]), Draw(7).at("dropout", 4)))
    assert not torch.equal(later[0, 1, 5][0], alone[0, 1, 5][0])


def test_twins_differ_whatever_lies_between_them():
    names = [(0, 0, 5), (0, 0, 6)]
    both = words(key_rows(batch_of([*names, *names], [4] * 4), DRAW))
    one = words(key_rows(batch_of([names[1]] * 2, [4] * 2), DRAW))
    assert not torch.equal(*both[names[1]])
    for first, second in zip(both[names[1]], one[names[1]], strict=True):
        assert torch.equal(first, second)


def test_source_rows_have_keys_of_their_own():
    batch = key_rows(batch_of([(0, 0, 5), (0, 0, 6)], [4, 4], [3, 4]), DRAW)
    assert batch.source is not None
    own, other = batch.layout.keys, batch.source.layout.keys
    assert own is not None
    assert other is not None
    assert len(torch.cat([own.words, other.words]).unique(dim=0)) == 15
    assert own.calls is other.calls
    assert [own.next_call(1), other.next_call(1)] == [0, 1]
    begin_forward(batch)
    assert own.next_call(1) == 0


def test_shapes_keep_the_keys_of_rows():
    batch = key_rows(batch_of([(0, 0, 5), (0, 0, 6)], [40, 35]), DRAW)
    assert batch.layout.keys is not None
    for shaped in (pad_to_bucket(batch), split_sequences(batch, 16), pad_to_bucket(split_sequences(batch, 16))):
        keys, rows = shaped.layout.keys, shaped.output_rows
        assert keys is not None
        assert rows is not None
        assert rows.layout.keys is not None
        assert torch.equal(keys.words[:75], batch.layout.keys.words)
        assert len(keys.words) == shaped.layout.total
        assert torch.equal(rows.layout.keys.words, keys.words[rows.index])


@pytest.mark.parametrize("samples", [[], [(0, 0, 1)]])
def test_sequences_without_names_have_no_keys(samples):
    batch = key_rows(Batch(torch.zeros(4, dtype=torch.int64), Layout.of([2, 2]), samples=np.array(samples)), DRAW)
    assert batch.layout.keys is None
    empty = replace(ragged([]), samples=np.zeros((0, 3), np.int64))
    assert key_rows(empty, DRAW).layout.total == 0
