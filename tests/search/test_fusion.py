"""Fusion: ranks and weighted scores as their formulas say; a weight of 0 or 1 leaves one list as it is."""

from __future__ import annotations

import numpy as np
import pytest

from pretune.find import variants
from pretune.search.fuse import Ranked, fusion_of


def ranked(rows: list[int], scores: list[float]) -> Ranked:
    return np.array(rows, np.int64), np.array(scores, np.float32)


WORDS = ranked([5, 2, 9], [12.0, 4.0, 2.0])
VECTORS = ranked([2, 7, 5], [0.9, 0.8, 0.5])


def test_reciprocal_ranks() -> None:
    rows, scores = fusion_of("rrf").fuse(WORDS, VECTORS, 0.5, 10)
    expected = {5: 1 / 61 + 1 / 63, 2: 1 / 62 + 1 / 61, 9: 1 / 63, 7: 1 / 62}
    assert rows.tolist() == sorted(expected, key=lambda row: -expected[row])
    np.testing.assert_allclose(scores, sorted((value / 2 for value in expected.values()), reverse=True), rtol=1e-6)


def test_weighted_scores() -> None:
    rows, scores = fusion_of("weighted").fuse(WORDS, VECTORS, 0.25, 10)
    expected = {5: 0.75, 2: 0.75 * 0.2 + 0.25, 9: 0.0, 7: 0.25 * 0.75}
    assert rows.tolist() == [5, 2, 7, 9]
    np.testing.assert_allclose(scores, [expected[row] for row in rows.tolist()], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", variants("search.fusion"))
def test_weights_of_one_list_alone(name: str) -> None:
    fusion = fusion_of(name)
    assert fusion.fuse(WORDS, VECTORS, 0.0, 10)[0].tolist() == WORDS[0].tolist()
    assert fusion.fuse(WORDS, VECTORS, 1.0, 10)[0].tolist() == VECTORS[0].tolist()
    empty = ranked([], [])
    assert fusion.fuse(empty, VECTORS, 0.5, 2)[0].tolist() == [2, 7]
    assert fusion.fuse(empty, empty, 0.5, 2)[0].tolist() == []
