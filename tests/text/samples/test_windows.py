"""Windows of long texts: word edges, what they share, and which window answers for a token."""

from __future__ import annotations

import numpy as np
import pytest

from pretune.text.samples.windows import in_window, plan_windows, word_starts


def edge_distance(window: np.ndarray, token: int, count: int) -> int:
    """Tokens between one and the nearest edge at which context is missing."""
    left = count if window[0] == 0 else token - window[0]
    right = count if window[-1] == count - 1 else window[-1] - token
    return int(min(left, right)) if window[0] <= token <= window[-1] else -1


@pytest.mark.parametrize("seed", range(40))
def test_each_token_is_answered_once_where_it_is_farthest_from_an_edge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, max_tokens = int(rng.integers(1, 400)), int(rng.integers(2, 60))
    stride = int(rng.integers(0, max_tokens))
    longest = int(rng.choice([1, 4, 40]))
    begins = rng.random(count) < 1 / longest
    windows = plan_windows(begins, max_tokens, stride)
    assert np.concatenate([window.answers for window in windows]).tolist() == list(range(count))
    assert all(0 < len(window.index) <= max_tokens for window in windows)
    assert sum(len(window.index) - window.repeated for window in windows) == count
    if longest > 1:
        return
    for window in windows:
        for token in window.answers.tolist():
            best = max(edge_distance(other.index, token, count) for other in windows)
            assert edge_distance(window.index, token, count) >= best - 1


def test_edges_are_those_of_words() -> None:
    rng = np.random.default_rng(7)
    begins = rng.random(2000) < 0.4
    begins[0] = True
    windows = plan_windows(begins, 100, 24)
    for window in windows:
        for answers in (window.index, window.answers):
            assert begins[answers[0]]
            assert answers[-1] == 1999 or begins[answers[-1] + 1]
    shared = [window.repeated for window in windows[1:]]
    assert min(shared) >= 24
    assert max(shared) <= 36


def test_a_word_longer_than_a_window_is_cut() -> None:
    begins = np.zeros(300, np.bool_)
    begins[[0, 290]] = True
    windows = plan_windows(begins, 50, 10)
    assert len(windows) == 8
    assert np.concatenate([window.answers for window in windows]).tolist() == list(range(300))


@pytest.mark.parametrize("count", [0, 1, 49, 50])
def test_a_text_that_fits_is_one_window(count: int) -> None:
    (window,) = plan_windows(np.ones(count, np.bool_), 50, 10)
    assert window.index.tolist() == list(range(count))
    assert window.answers_for == slice(None)
    assert window.repeated == window.cut == 0


@pytest.mark.parametrize("stride", [-1, 50, 70])
def test_windows_must_make_progress(stride: int) -> None:
    with pytest.raises(ValueError, match="cannot share"):
        plan_windows(np.ones(90, np.bool_), 50, stride)


def test_words_begin_by_the_vocabulary_by_spaces_and_at_whole_characters() -> None:
    continuation = np.array([False, True])
    tokens = np.array([0, 1, 1, 0, 0, 0])
    offsets = np.array([[0, 2], [2, 4], [5, 7], [7, 8], [7, 8], [8, 9]])
    assert word_starts(tokens, offsets, continuation).tolist() == [True, False, True, True, False, True]
    assert word_starts(tokens[:0], offsets[:0], continuation).tolist() == []


def test_a_span_lies_in_a_window_or_does_not() -> None:
    first, second = plan_windows(np.ones(12, np.bool_), 8, 4)
    starts, ends = np.array([0, 3, 6, 11]), np.array([1, 4, 9, 11])
    assert in_window(first, starts, ends).tolist() == [True, True, False, False]
    assert in_window(second, starts, ends).tolist() == [False, False, True, True]
