from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest
from fakes import MemorySplit
from hypothesis import given, settings
from hypothesis import strategies as st

from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded, Row
from pretune.text.samples.sampler import Cursor, Sampler, iterate_once, partition
from pretune.text.samples.views.document import DocumentView
from pretune.text.samples.views.stream import StreamView

DRAW = Draw(11)


def make_view(count: int, seed: int = 0) -> ExampleView:
    """Examples of 1 to 40 tokens."""
    lengths = np.random.default_rng(seed).integers(1, 41, count)
    return ExampleView([Encoded(np.full(n, 9)) for n in lengths.tolist()])


def names(rows: Sequence[Row]) -> list[tuple[int, int, int]]:
    return [row.sample for row in rows]


def walk(sampler: Sampler, steps: int) -> tuple[list[Sequence[Row]], list[Cursor]]:
    cursors, batches = [sampler.start], []
    for _ in range(steps):
        rows, cursor = sampler.next_batch(cursors[-1])
        batches.append(rows)
        cursors.append(cursor)
    return batches, cursors


@st.composite
def settings_of_samplers(draw: st.DrawFn) -> dict[str, Any]:
    sizes = draw(st.lists(st.integers(2, 60), min_size=1, max_size=3))
    tokens = draw(st.none() | st.integers(1, 300))
    return {
        "views": [make_view(n, k) for k, n in enumerate(sizes)],
        "weights": [draw(st.floats(0.05, 9.0)) for _ in sizes],
        "draw": Draw(draw(st.integers(0, 2**63))),
        "batch_samples": draw(st.integers(1, 20)) if tokens is None else None,
        "batch_tokens": tokens,
        "window": draw(st.sampled_from([0, 1, 4, 16, 1000])),
    }


samplers = st.builds(lambda given: Sampler(**given), settings_of_samplers())


@given(settings_of_samplers())
@settings(max_examples=40, deadline=None)
def test_a_step_is_a_function_of_its_cursor(given: dict[str, Any]) -> None:
    batches, cursors = walk(Sampler(**given), 8)
    fresh = Sampler(**given)
    for n in np.random.default_rng(0).permutation(8).tolist():
        rows, after = fresh.next_batch(cursors[n])
        assert names(rows) == names(batches[n])
        assert after == cursors[n + 1]


@given(settings_of_samplers(), st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_seek_is_where_a_run_would_stand(given: dict[str, Any], steps: int) -> None:
    sampler = Sampler(**given)
    if given["batch_samples"] is None:
        with pytest.raises(UsageError, match="batch_tokens differ in samples"):
            sampler.seek(steps)
        return
    assert sampler.seek(steps) == walk(sampler, steps)[1][-1]


def test_no_step_is_before_the_first() -> None:
    with pytest.raises(UsageError, match="step -1: the first is 0"):
        Sampler([make_view(9, 0)], [1.0], DRAW, batch_samples=7).seek(-1)


def test_seek_among_stores_of_equal_and_very_unequal_weights() -> None:
    for weights in ([1, 1, 1], [1, 2, 3], [1e-4, 1, 1e3]):
        sampler = Sampler([make_view(9, k) for k in range(3)], weights, DRAW, batch_samples=7)
        _, cursors = walk(sampler, 60)
        assert [sampler.seek(step) for step in range(61)] == cursors


@given(samplers)
@settings(max_examples=40, deadline=None)
def test_each_epoch_holds_every_sample_once(sampler: Sampler) -> None:
    batches, cursors = walk(sampler, 20)
    seen = Counter(name for rows in batches for name in names(rows))
    assert max(seen.values()) == 1
    for store, (view, consumed) in enumerate(zip(sampler.views, cursors[-1].consumed, strict=True)):
        epochs = Counter(epoch for s, epoch, _ in seen if s == store)
        assert sum(epochs.values()) == consumed
        assert all(epochs[epoch] == len(view) for epoch in range(consumed // len(view)))
    total = sum(len(view) for view in sampler.views)
    assert sampler.epoch(cursors[-1]) == pytest.approx(sum(cursors[-1].consumed) / total)


@given(samplers)
@settings(max_examples=40, deadline=None)
def test_stores_are_mixed_by_weight_at_every_moment(sampler: Sampler) -> None:
    batches, _ = walk(sampler, 20)
    order = [store for rows in batches for store, _, _ in names(rows)]
    fractions = sampler.weights / sampler.weights.sum()
    counts = np.cumsum(np.array(order)[:, None] == np.arange(len(fractions)), axis=0)
    quota = np.arange(1, len(order) + 1)[:, None] * fractions
    assert np.abs(counts - quota).max() <= max(1.0, len(fractions) / 2)


@given(st.integers(1, 60), st.integers(1, 300), st.integers(0, 5), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_token_budget_is_filled_but_not_passed(count: int, budget: int, seed: int, overhead: int) -> None:
    view = make_view(count, seed)
    sampler = Sampler([view], [1.0], DRAW, batch_tokens=budget, overhead=overhead)
    batches, _ = walk(sampler, 6)
    sizes = [[row.size + overhead for row in rows] for rows in batches]
    for here, following in pairwise(sizes):
        assert sum(here) <= budget or len(here) == 1
        assert sum(here) + following[0] > budget


def test_an_epoch_is_shuffled_anew() -> None:
    sampler = Sampler([make_view(100)], [1.0], DRAW, batch_samples=100)
    first, second = (names(rows) for rows in walk(sampler, 2)[0])
    orders = [[index for _, _, index in order] for order in (first, second)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(100))
    assert orders[0] != orders[1] != list(range(100))
    other = Sampler([make_view(100)], [1.0], Draw(12), batch_samples=100)
    assert names(walk(other, 1)[0][0]) != first


@pytest.mark.parametrize("budget", [{"batch_samples": 8}, {"batch_tokens": 160}])
def test_a_window_groups_lengths_without_moving_samples_out_of_it(budget: dict[str, int]) -> None:
    view = make_view(200)
    plain = Sampler([view], [1.0], DRAW, batch_samples=1)
    order = [index for rows in walk(plain, 200)[0] for _, _, index in names(rows)]
    sampler = Sampler([view], [1.0], DRAW, window=64, **budget)
    batches, cursors = walk(sampler, 60)
    actual = [index for rows in batches for _, epoch, index in names(rows) if epoch == 0]
    size = sampler._widths[0]
    assert size in range(64, 72)
    for start in range(0, 200, size):
        assert sorted(actual[start : start + size]) == sorted(order[start : start + size])
    spread = [np.ptp([row.size for row in rows]) for rows in batches[:20]]
    assert np.median(spread) < 15
    means = [np.mean([row.size for row in rows]) for rows in batches[:8]]
    assert means != sorted(means)
    assert names(sampler.next_batch(cursors[5])[0]) == names(batches[5])


def test_seeking_far_ahead_is_as_cheap_as_the_start() -> None:
    split = MemorySplit([[50] * 200] * 50)
    sampler = Sampler([StreamView(split, 8), DocumentView(split, 8)], [1.0, 0.3], DRAW, batch_samples=16, window=256)
    far = Cursor((10**9, 3 * 10**8))
    rows, after = sampler.next_batch(far)
    assert sum(after.consumed) == sum(far.consumed) + 16
    assert {epoch for _, epoch, _ in names(rows)} >= {10**9 // len(sampler.views[0])}


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_dealing_keeps_every_row_and_balances_tokens(lengths: list[int], parts: int) -> None:
    rows = [Row((0, 0, n), np.zeros(length, np.int64)) for n, length in enumerate(lengths)]
    dealt = partition(rows, parts)
    assert len(dealt) == parts
    assert sorted(name for part in dealt for name in names(part)) == sorted(names(rows))
    assert all(dealt) or len(rows) < parts
    loads = [sum(row.size for row in part) for part in dealt]
    best = max([max(lengths, default=0), -(-sum(lengths) // parts)])
    assert max(loads) <= best + max(lengths, default=0)
    if rows:
        assert max(loads) - min(loads) <= max(lengths)
    for part in dealt:
        assert [row.size for row in part] == sorted(row.size for row in part)
    shuffled = [rows[n] for n in np.random.default_rng(0).permutation(len(rows)).tolist()]
    assert [names(part) for part in partition(shuffled, parts)] == [names(part) for part in dealt]


def test_equal_rows_are_dealt_in_equal_numbers() -> None:
    rows = [Row((0, 0, n), np.zeros(128, np.int64)) for n in range(32)]
    for parts in (1, 2, 4, 8, 32):
        assert {len(part) for part in partition(rows, parts)} == {32 // parts}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_two_and_four_ranks_see_the_same_samples(accumulate: int) -> None:
    sampler = Sampler([make_view(50), make_view(70, 1)], [2.0, 1.0], DRAW, batch_samples=24)
    for step, rows in enumerate(walk(sampler, 8)[0]):
        for world_size in (1, 2, 4):
            parts = partition(rows, accumulate * world_size)
            ranks = [[name for part in parts[rank::world_size] for name in names(part)] for rank in range(world_size)]
            assert sorted(chain.from_iterable(ranks)) == sorted(names(rows)), step


def test_pairs_count_both_texts() -> None:
    row = Row((0, 0, 0), np.zeros(3, np.int64))
    assert replace(row, second=np.zeros(4, np.int64)).size == 7


def test_a_sweep_reads_every_sample_once_in_order() -> None:
    view = make_view(57)
    batches = list(iterate_once(view, DRAW, 100, store=3))
    assert [index for rows in batches for _, _, index in names(rows)] == list(range(57))
    assert {(store, epoch) for rows in batches for store, epoch, _ in names(rows)} == {(3, 0)}
    assert all(sum(row.size for row in rows) <= 100 for rows in batches)
    assert all(len(rows) == 1 for rows in iterate_once(view, DRAW, 1))
    some = [names(rows) for rows in iterate_once(view, DRAW, 100, limit=20)]
    assert some == [names(rows) for rows in iterate_once(view, DRAW, 100, limit=20)]
    chosen = [index for rows in some for _, _, index in rows]
    assert len(set(chosen)) == 20
    assert chosen == sorted(chosen) != list(range(20))
    assert list(iterate_once(ExampleView([]), DRAW, 100)) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"weights": [1.0]},
        {"weights": [1.0, 0.0]},
        {"weights": [1.0, float("nan")]},
        {"batch_samples": None},
        {"batch_samples": 0},
        {"batch_samples": None, "batch_tokens": 0},
        {"batch_tokens": 100},
        {"views": []},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    good: dict[str, Any] = {"views": [make_view(3), make_view(4)], "weights": [1.0, 2.0], "batch_samples": 2}
    with pytest.raises(UsageError):
        Sampler(**{"draw": DRAW, **good, **bad})


def test_an_empty_store_is_refused_with_what_to_do() -> None:
    empty = StreamView(MemorySplit([[1]]), 8, 2)
    with pytest.raises(DataError, match="store 1 has no sample: 2 tokens are too few"):
        Sampler([make_view(3), empty], [1.0, 1.0], DRAW, batch_samples=2)


def test_a_cursor_of_other_stores_is_refused() -> None:
    with pytest.raises(DataError, match="counts 2 stores, but the run has 1"):
        Sampler([make_view(3)], [1.0], DRAW, batch_samples=2).next_batch(Cursor((0, 0)))


def test_weights_of_stores_change_after_their_samples() -> None:
    views = [make_view(50), make_view(70), make_view(9)]
    schedule = [(101, (1.0, 1.0, 8.0)), (300, (5.0, 1.0, 1.0))]
    sampler = Sampler(views, (2.0, 1.0, 1.0), Draw(3), batch_samples=7, schedule=schedule)
    cursor, taken = sampler.start, []
    for step in range(90):
        assert sampler.seek(step) == cursor
        rows, cursor = sampler.next_batch(cursor)
        taken += [row.sample[0] for row in rows]
    counts = [np.bincount(taken[a:b], minlength=3) for a, b in ((0, 100), (101, 301), (300, 580))]
    assert np.abs(counts[0] - [50, 25, 25]).max() <= 1
    assert np.abs(counts[1] - [20, 20, 160]).max() <= 1
    assert np.abs(counts[2] - [200, 40, 40]).max() <= 1
    assert np.bincount(taken, minlength=3).tolist() == list(cursor.consumed)
    tokens = Sampler(views, (2.0, 1.0, 1.0), Draw(3), batch_tokens=60, schedule=schedule)
    place, order = tokens.start, []
    while len(order) < 400:
        rows, place = tokens.next_batch(place)
        order += [row.sample for row in rows]
    assert [sample[0] for sample in order[:400]] == taken[:400]
    with pytest.raises(UsageError, match="rise"):
        Sampler(views, (1, 1, 1), Draw(3), batch_samples=7, schedule=[(5, (1, 1, 1)), (5, (1, 1, 1))])
    with pytest.raises(UsageError, match="positive"):
        Sampler(views, (1, 1, 1), Draw(3), batch_samples=7, schedule=[(5, (1, 0, 1))])


@given(settings_of_samplers(), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_a_step_takes_no_sample_twice(given: dict[str, Any], steps: int) -> None:
    sampler = Sampler(**given, repeats=False)
    batches, cursors = walk(sampler, 30)
    for rows in batches:
        samples = [(store, index) for store, _, index in names(rows)]
        assert len(set(samples)) == len(samples)
    if given["batch_samples"] is not None:
        assert sampler.seek(steps) == cursors[steps]
    order = [name for rows in batches for name in names(rows)]
    again = [name for rows in walk(Sampler(**given), 30)[0] for name in names(rows)]
    assert order == again[: len(order)], "the samples and their order are the same, steps end elsewhere"


def test_steps_at_the_end_of_an_epoch_are_not_small() -> None:
    """The last two of an epoch take half each of what is left; a step of 32 from 8 samples is of 8."""
    for count, sizes in ((33, [17, 16]), (100, [32, 32, 18, 18]), (64, [32, 32]), (8, [8])):
        batches, _ = walk(Sampler([make_view(count)], [1.0], DRAW, batch_samples=32, repeats=False), 2 * len(sizes))
        assert [len(rows) for rows in batches] == sizes * 2


def test_seeking_to_a_far_step_walks_the_ends_of_epochs_alone() -> None:
    split = MemorySplit([[50] * 200] * 50)
    views = [StreamView(split, 8), DocumentView(split, 8)]
    sampler = Sampler(views, [1.0, 0.3], DRAW, batch_samples=16, repeats=False)
    assert sum(sampler.seek(10**4).consumed) > 10**4 * 15
