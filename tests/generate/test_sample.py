"""Filters against those of `transformers`, frequencies against the distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pretune.draw import Draw
from pretune.generate.options import GenerateConfig
from pretune.generate.sample import apply_constraints, keys, sample, top_k_top_p
from pretune.nn.model_protocol import GenerationConstraints


@pytest.mark.parametrize(("k", "p"), [(0, 1.0), (5, 1.0), (0, 0.9), (0, 0.3), (0, 1e-9), (7, 0.5), (5000, 0.999)])
def test_filters_are_those_of_transformers(k: int, p: float) -> None:
    logits = torch.randn(6, 3000, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[0.01], [1], [2], [3], [5], [9.0]]
    )
    wanted = TopKLogitsWarper(k)(None, logits) if k else logits
    wanted = TopPLogitsWarper(p)(None, wanted) if p < 1 else wanted
    assert torch.equal(top_k_top_p(logits, k, p), wanted)


def test_frequencies_follow_the_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -20.0]])
    config = GenerateConfig(temperature=0.7)
    drawn = [int(sample(logits, config, [Draw(3)], [step])) for step in range(4000)]
    actual = np.bincount(drawn, minlength=5) / 4000
    assert np.abs(actual - (logits[0] / 0.7).softmax(0).numpy()).max() < 0.025


def test_excluded_tokens_never_come() -> None:
    logits = torch.zeros(1, 100)
    logits[0, [0, 99]] = -torch.inf
    config = GenerateConfig(temperature=1.0)
    drawn = {int(sample(logits, config, [Draw(n)], [0])) for n in range(2000)}
    assert drawn == set(range(1, 99))


def test_keys_name_prompt_and_repetition() -> None:
    a, b = np.array([1, 2]), np.array([1, 3])
    one, two, three = keys([a, b, a], 0)
    assert len({one.key, two.key, three.key}) == 3
    assert keys([b], 0) == [two]
    assert keys([a], 1) != [one]


def test_words_that_are_forbidden_and_tokens_that_must_come() -> None:
    constraints = GenerationConstraints(first=4, last=(1, 3), bad_words=((5,), (2, 0), (0, 2, 1)))
    texts, limits = [[], [7, 2], [0, 2], [9, 9]], [8, 8, 8, 3]
    actual = apply_constraints(torch.full((4, 6), 0.5), constraints, [1] * 4, texts, limits)
    allowed = [torch.isfinite(row).nonzero().flatten().tolist() for row in actual]
    assert allowed == [[4], [1, 2, 3, 4], [2, 3, 4], [1, 3]]
    assert actual[0, 4] == 0 == actual[3, 1] == actual[3, 3]
    scores = torch.full((1, 6), 0.5)
    assert apply_constraints(scores, GenerationConstraints(), [1], [[]], [8]) is scores


def test_min_p_is_that_of_transformers() -> None:
    """A token with less than a fraction of the best one's probability never comes."""
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    warped = MinPLogitsWarper(0.2)(torch.zeros(1, 1, dtype=torch.long), logits)
    allowed = set(torch.isfinite(warped[0]).nonzero().flatten().tolist())
    config = GenerateConfig(temperature=1.0, min_p=0.2)
    draws = keys([np.array([n]) for n in range(300)], 0)
    drawn = set(sample(logits.expand(300, -1), config, draws, [0] * len(draws)).tolist())
    assert 1 < len(allowed) < 50
    assert drawn == allowed
