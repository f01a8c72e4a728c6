import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pretune.draw import Draw, Permutation, bounded, combine, scramble, unit

DRAW = Draw(20240607)
MASK = (1 << 64) - 1


def splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_scramble_is_splitmix64() -> None:
    # The first three outputs of SplitMix64 seeded with 1234567 (Rosetta Code's reference values).
    state, golden = 1234567, 0x9E3779B97F4A7C15
    seeds = [(state + n * golden) & MASK for n in range(3)]
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert scramble(np.array(seeds, dtype=np.uint64)).tolist() == expected
    assert [splitmix(s) for s in seeds] == expected


@given(st.integers(0, MASK), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_combine_is_the_same_alone_and_in_an_array(key: int, values: list[int]) -> None:
    alone = [int(combine(np.uint64(key), np.int64(value))) for value in values]
    slow = [splitmix((splitmix(key) * 3 & MASK) ^ splitmix(value & MASK)) for value in values]
    assert combine(np.uint64(key), np.array(values)).tolist() == alone == slow


def test_keys_depend_on_every_part_and_their_order() -> None:
    draws = [DRAW.at("a", 1), DRAW.at("a", 2), DRAW.at(1, "a"), DRAW.at("a").at(2, 1), DRAW.at("b", 1), DRAW.at(-1)]
    assert len({d.key for d in draws}) == len(draws)
    assert DRAW.at("a", 1) == DRAW.at("a").at(1)


def test_sample_keys_are_those_of_each_sample_alone() -> None:
    samples = np.array([[0, 0, 5], [0, 5, 0], [5, 0, 0], [1, 2, 3]])
    keys = DRAW.keys(samples)
    assert len(set(keys.tolist())) == len(samples)
    assert [DRAW.keys(samples[n : n + 1])[0] for n in range(4)] == keys.tolist()
    assert keys[3] == DRAW.at(1, 2, 3).key


def test_every_input_bit_moves_half_of_the_output_bits() -> None:
    values = DRAW.bits(np.arange(500))
    for bit in range(64):
        moved = scramble(values) ^ scramble(values ^ np.uint64(1 << bit))
        fraction = np.unpackbits(moved.view(np.uint8)).mean()
        assert abs(fraction - 0.5) < 0.02


def test_uniform_and_below_are_uniform() -> None:
    draws = DRAW.uniform(np.arange(200_000))
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.bincount(DRAW.below(np.arange(200_000), 37), minlength=37)).pvalue > 1e-3


@given(st.integers(1, 2**40))
def test_the_largest_word_stays_below_the_limit(limit: int) -> None:
    top = np.array([MASK], dtype=np.uint64)
    assert unit(top)[0] < 1
    assert bounded(top, limit)[0] == limit - 1 or limit > 2**20
    assert bounded(top, limit)[0] < limit


@given(st.integers(1, 5000), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_permutation_visits_every_sample_once(n: int, seed: int) -> None:
    order = Permutation(n, Draw(seed))
    whole = order(np.arange(n))
    assert sorted(whole.tolist()) == list(range(n))
    assert int(order(n // 2)) == whole[n // 2]


@pytest.mark.parametrize("n", [5, 64])
def test_every_place_is_equally_likely(n: int) -> None:
    actual = np.stack([Permutation(n, DRAW.at("order", epoch))(np.arange(n)) for epoch in range(1500)])
    for place in (0, n // 2, n - 1):
        assert stats.chisquare(np.bincount(actual[:, place], minlength=n)).pvalue > 1e-4
    following = (actual[:, 1] - actual[:, 0]) % n
    assert stats.chisquare(np.bincount(following, minlength=n)[1:]).pvalue > 1e-4


def test_all_orders_of_four_occur_equally_often() -> None:
    actual = [tuple(Permutation(4, DRAW.at(epoch))(np.arange(4)).tolist()) for epoch in range(1_500)]
    _, counts = np.unique(actual, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbors_in_a_large_permutation_are_far_apart() -> None:
    n = 1_000_003
    actual = Permutation(n, DRAW)(np.arange(20_000))
    assert stats.kstest(actual / n, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(actual[:-1], actual[1:])[0, 1]) < 0.03


def test_a_permutation_refuses_what_lies_outside() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0, DRAW)
    with pytest.raises(IndexError, match="7"):
        Permutation(7, DRAW)(np.array([7]))
