"""Features of pairs of texts: against loops over tokens, without special tokens, in half precision, with gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pretune.batch import Layout
from pretune.nn.pair_features import TextPairs, coverage_features, vector_features
from pretune.nn.vector_head import VectorHead

LENGTHS = (4, 3, 5, 2, 3)
PAIRS = TextPairs(torch.tensor([0, 4]), torch.tensor([2, 1]), prefix=1, suffix=1)


def slow(hidden: Tensor, pairs: TextPairs) -> list[list[float]]:
    """Every token beside every token of the other text, one at a time."""
    texts = [run[pairs.prefix : len(run) - pairs.suffix].tolist() for run in hidden.split(LENGTHS)]

    def cosine(one: list[float], other: list[float]) -> float:
        dot = sum(a * b for a, b in zip(one, other, strict=True))
        return dot / (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5

    out = []
    for first, second in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
        one, other = texts[first], texts[second]
        found = [max(cosine(a, b) for b in other) for a in one]
        back = [max(cosine(a, b) for a in one) for b in other]
        out.append([8 * sum(found) / len(found), 8 * sum(back) / len(back), 4 * min(found), 4 * min(back)])
    return out


@pytest.fixture
def hidden() -> Tensor:
    return torch.randn(sum(LENGTHS), 6, generator=torch.Generator().manual_seed(0))


def test_coverage_is_what_loops_find(hidden: Tensor) -> None:
    actual = coverage_features(hidden, Layout.of(LENGTHS), PAIRS)
    np.testing.assert_allclose(actual.numpy(), slow(hidden, PAIRS), rtol=1e-5)
    bare = TextPairs(PAIRS.first, PAIRS.second)
    np.testing.assert_allclose(
        coverage_features(hidden, Layout.of(LENGTHS), bare).numpy(), slow(hidden, bare), rtol=1e-5
    )
    assert coverage_features(hidden, Layout.of(LENGTHS), TextPairs(*torch.zeros(2, 0).long())).shape == (0, 4)


def test_a_text_that_says_less_is_covered_and_covers_not(hidden: Tensor) -> None:
    runs = [hidden[:5], hidden[1:3]]  # the second text is a part of the first one
    (found,) = coverage_features(torch.cat(runs), Layout.of((5, 2)), TextPairs(torch.tensor([0]), torch.tensor([1])))
    torch.testing.assert_close(found[[1, 3]], torch.tensor([8.0, 4.0]))
    assert found[0] < 7.9
    assert found[2] < 3.9


def test_special_tokens_are_no_part_of_a_text(hidden: Tensor) -> None:
    layout, other = Layout.of(LENGTHS), hidden.clone()
    other[[0, 3, 4, 6, 7, 11, 14, 16]] = 5.0  # the ends of the four sequences that are read
    expected = coverage_features(hidden, layout, PAIRS)
    torch.testing.assert_close(coverage_features(other, layout, PAIRS), expected)
    other[1] = 5.0
    assert not torch.equal(coverage_features(other, layout, PAIRS), expected)
    empty = TextPairs(torch.tensor([3]), torch.tensor([0]), prefix=1, suffix=1)  # nothing is between its two tokens
    assert coverage_features(hidden, layout, empty).isfinite().all()


def test_half_precision_does_not_round_cosines(hidden: Tensor) -> None:
    expected = coverage_features(hidden, Layout.of(LENGTHS), PAIRS)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(coverage_features(hidden, Layout.of(LENGTHS), PAIRS), expected)


def test_gradients_reach_both_texts(hidden: Tensor) -> None:
    rows, layout = hidden.double().requires_grad_(), Layout.of(LENGTHS)

    def features(rows: Tensor) -> Tensor:
        return coverage_features(rows, layout, PAIRS)

    rows.grad = None
    features(rows).sum().backward()
    assert rows.grad is not None
    steps = torch.zeros_like(rows)
    with torch.no_grad():
        for n in range(len(rows)):
            for k in range(rows.shape[1]):
                moved = rows.detach().clone()
                moved[n, k] += 1e-2
                up = features(moved).sum()
                moved[n, k] -= 2e-2
                steps[n, k] = (up - features(moved).sum()) / 2e-2
    torch.testing.assert_close(rows.grad, steps, atol=0.02, rtol=0.05)
    assert not rows.grad[[0, 3, 12, 13]].any(), "special tokens, and a sequence of no pair"


def test_a_head_scores_vectors_then_coverage(hidden: Tensor) -> None:
    layout = Layout.of(LENGTHS)
    head = VectorHead(6, ["a", "b"], "last", apart=True)
    assert head.needs_all_rows, "the last rows alone say nothing of the other tokens"
    actual = head.vectors(hidden, layout, PAIRS)
    units = torch.nn.functional.normalize(hidden[layout.last], dim=1)
    u, v = units[PAIRS.first], units[PAIRS.second]
    torch.testing.assert_close(actual[:, :25], vector_features(u, v))
    torch.testing.assert_close(actual[:, :25], torch.cat([u, v, (u - v).abs(), u * v, 4 * (u * v).sum(1)[:, None]], 1))
    torch.testing.assert_close(actual[:, 25:], coverage_features(hidden, layout, PAIRS))
    for count in (24, 25):  # what weights of before the coverage, and of before the cosine, were trained on
        older = VectorHead(6, ["a", "b"], "last", apart=True)
        older.use_columns(count)
        assert older.linear.weight.shape == (2, count)
        assert not older.needs_all_rows
        torch.testing.assert_close(older.vectors(hidden, layout, PAIRS), actual[:, :count])
    head.use_columns(17)
    assert head.linear.weight.shape == (2, 29), "whoever compares shapes says what is wrong"
