"""Windows as columns: the same rows as one by one, whatever was picked or joined, and the same batches of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import MemorySplit, make_decoder_vocabulary, make_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from pretune.draw import Draw
from pretune.objectives.clm import CausalLanguageModelling
from pretune.objectives.mlm import MaskedLanguageModelling
from pretune.objectives.objective import Objective
from pretune.text.samples.rows import Row, Windows, join, names_of, run_of, select, sizes_of
from pretune.text.samples.sampler import partition
from pretune.text.samples.views.document import DocumentView
from pretune.text.samples.views.stream import StreamView
from pretune.text.samples.views.view import View
from pretune.text.tokenizer.vocabulary import Vocabulary

DRAW = Draw(5)
SPLITS = [MemorySplit([[5, 8, 9], [1], [20, 3, 3, 40]]), MemorySplit([[30], [7, 7]])]


def windows(view: View, store: int = 0, epoch: int = 0) -> Windows:
    actual = view.read(np.arange(len(view)), store, epoch, DRAW)
    assert isinstance(actual, Windows)
    return actual


def check_equal(rows: Windows, expected: list[Row]) -> None:
    assert [row.sample for row in rows] == [row.sample for row in expected]
    assert [row.tokens.tolist() for row in rows] == [row.tokens.tolist() for row in expected]
    assert names_of(rows).tolist() == names_of(expected).tolist()
    assert sizes_of(rows).tolist() == sizes_of(expected).tolist() == [row.size for row in expected]
    for ours, theirs in zip(run_of(rows), run_of(expected), strict=True):
        assert ours.dtype == theirs.dtype == np.int64
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("kind", [StreamView, DocumentView])
@pytest.mark.parametrize("lookahead", [0, 1])
def test_windows_are_the_rows_that_they_hold(kind: type[StreamView | DocumentView], lookahead: int) -> None:
    rows = windows(kind(SPLITS[0], 6, lookahead), 0, 2)
    one_by_one = list(rows)
    assert len(rows) == len(one_by_one) > 9
    for n, row in enumerate(one_by_one):
        assert row.sample == (0, 2, n)
    check_equal(rows, one_by_one)
    order = [3, 0, 7, 3]
    check_equal(rows.select(np.array(order)), [one_by_one[n] for n in order])
    check_equal(rows[2:5], one_by_one[2:5])
    check_equal(rows[:0], [])
    assert rows[-1].sample == one_by_one[-1].sample
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_rows_of_several_stores_are_joined_and_picked() -> None:
    parts = [windows(DocumentView(SPLITS[0], 6)), windows(StreamView(SPLITS[1], 9), 1, 4)]
    rows = join([*parts, parts[0][:2]])
    assert isinstance(rows, Windows)
    one_by_one = [*parts[0], *parts[1], *parts[0][:2]]
    check_equal(rows, one_by_one)
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = select(rows, order)
    assert isinstance(mixed, Windows)
    check_equal(mixed, [one_by_one[n] for n in order.tolist()])
    plain = join([parts[0], list(parts[1])])
    assert isinstance(plain, list)
    assert [row.sample for row in plain] == [row.sample for row in join(parts)]


@pytest.mark.parametrize("parts", [1, 3])
def test_windows_are_dealt_as_rows_are(parts: int) -> None:
    rows = windows(DocumentView(SPLITS[0], 6))
    for ours, theirs in zip(partition(rows, parts), partition(list(rows), parts), strict=True):
        assert isinstance(ours, Windows)
        check_equal(ours, list(theirs))


VOCABULARIES = [make_vocabulary(), make_decoder_vocabulary()]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@given(st.lists(st.integers(0, 9), max_size=6) | st.integers(0, 5).map(lambda n: [4] * n))
@settings(max_examples=40, deadline=None)
def test_runs_are_wrapped_as_texts_are(vocabulary: Vocabulary, sizes: list[int]) -> None:
    texts = [np.random.default_rng(n).integers(5, 99, size) for n, size in enumerate(sizes)]
    run = np.concatenate([np.zeros(0, np.int64), *texts])
    tokens, lengths = vocabulary.add_special_tokens_to_runs(run, np.array(sizes, np.int64))
    wrapped = [vocabulary.add_special_tokens(text)[0] for text in texts]
    assert tokens.tolist() == [token for text in wrapped for token in text.tolist()]
    assert lengths.tolist() == [len(text) for text in wrapped]


@pytest.mark.parametrize("width", [6, 9])
def test_batches_of_windows_are_those_of_their_rows(width: int) -> None:
    vocabulary = make_vocabulary(2000, 500)
    mlm = MaskedLanguageModelling(MaskedLanguageModelling.Config(), vocabulary)
    clm = CausalLanguageModelling(CausalLanguageModelling.Config(), make_decoder_vocabulary(2000))
    objectives: list[tuple[Objective, View]] = [
        (mlm, DocumentView(SPLITS[0], width)),
        (mlm, StreamView(SPLITS[0], width)),
        (clm, StreamView(SPLITS[0], width, 1)),
        (clm, DocumentView(SPLITS[0], width, 1)),
    ]
    for objective, view in objectives:
        rows = windows(view)
        ours, theirs = objective.build_batch(rows, DRAW), objective.build_batch(list(rows), DRAW)
        assert torch.equal(ours.tokens, theirs.tokens)
        assert ours.layout.lengths == theirs.layout.lengths
        assert torch.equal(ours.layout.offsets, theirs.layout.offsets)
        assert ours.samples.tolist() == theirs.samples.tolist()
        for name, (index, label) in ours.targets.items():
            assert torch.equal(index, theirs.targets[name][0])
            assert torch.equal(label, theirs.targets[name][1])
