"""Dropout by the keys of rows: a pure function of them, and as random as can be told from its statistics."""

import math

import pytest
import torch
from torch import nn

from pretune.batch import RowKeys
from pretune.nn.dropout import Dropout, _words, dice
from pretune.train.row_keys import name_sites


def keys_of(rows: int, seed: int = 0) -> RowKeys:
    generator = torch.Generator().manual_seed(seed)
    return RowKeys(torch.randint(-(2**31), 2**31, (rows, 2), generator=generator).to(torch.int32))


def sites(*rates: float) -> nn.Sequential:
    root = nn.Sequential(*map(Dropout, rates))
    name_sites(root)
    return root


def kept(drop: Dropout, keys: RowKeys, width: int) -> torch.Tensor:
    return (drop(torch.ones(len(keys.words), width), keys) > 0).double()


@pytest.mark.parametrize("width", [1, 5, 128])
def test_a_row_drops_the_same_in_any_company(width):
    (drop,) = sites(0.3)
    keys = keys_of(60)
    whole = kept(drop, keys, width)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    for some in (slice(7, 9), slice(0, 1), order, order[:13]):
        assert torch.equal(kept(drop, RowKeys(keys.words[some]), width), whole[some])


def test_sites_calls_and_rows_differ_and_a_new_forward_draws_again():
    first, second = sites(0.5, 0.5)
    keys = keys_of(40)
    a, b, c = kept(first, keys, 64), kept(first, keys, 64), kept(second, keys, 64)
    for one, other in ((a, b), (a, c), (b, c), (a[:20], a[20:])):
        assert 0.45 < (one == other).double().mean() < 0.55
    keys.calls.clear()
    assert torch.equal(kept(first, keys, 64), a)
    assert torch.equal(kept(first, RowKeys(keys.words), 64), a)


def test_the_number_of_a_site_is_its_name_in_the_model():
    small, large = nn.ModuleDict({"b": Dropout()}), nn.ModuleDict({"a": Dropout(), "b": Dropout()})
    for root in (small, large):
        name_sites(root)
    assert small["b"].site == large["b"].site != large["a"].site


def test_what_stays_of_a_row_does_not_depend_on_its_width():
    decide = dice(3, keys_of(10), torch.empty(10, 1))
    wide, _ = decide.draw(0.2, (9, 4))
    narrow, _ = decide.draw(0.2, (5, 4))
    assert torch.equal(wide[:, :5], narrow)


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.99999])
def test_the_rate_is_kept_and_the_mean(p):
    (drop,) = sites(p)
    x = torch.ones(2000, 256)
    out = drop(x, keys_of(2000))
    gone = (out == 0).double().mean().item()
    rate = min(round(p * 2**15), 2**15 - 1) / 2**15
    assert abs(gone - rate) <= 5 * math.sqrt(rate * (1 - rate) / x.numel())
    assert len(out.unique()) <= 2
    if p <= 0.5:
        assert out.mean().item() == pytest.approx(1.0, abs=0.01)


def test_draws_are_uniform():
    statistics = []
    for seed in range(40):
        rows = keys_of(512, seed).words
        lanes = _words(rows, 128, seed, 0).view(torch.int16).bitwise_and(0x7FFF).flatten()
        counts = torch.bincount(lanes.long() >> 7, minlength=256).double()
        statistics.append(((counts - 512).square() / 512).sum().item())
    z = (torch.tensor(statistics) - 255) / math.sqrt(2 * 255)
    assert abs(z.mean()) < 4 / math.sqrt(40)
    assert z.std() < 1.5


def z_of(a: torch.Tensor, b: torch.Tensor, p: float = 0.1) -> float:
    """The correlation of two masks that should have none, in standard deviations."""
    a, b = a.flatten() - (1 - p), b.flatten() - (1 - p)
    return (a @ b).item() / (p * (1 - p) * math.sqrt(a.numel()))


def neighbours(rows: int) -> RowKeys:
    """Keys as a counter would give them: the worst that keys can be."""
    return RowKeys(torch.stack([torch.arange(rows), torch.zeros(rows)], dim=1).to(torch.int32))


@pytest.mark.parametrize("make", [keys_of, neighbours])
def test_rows_columns_sites_calls_and_steps_are_independent(make):
    first, second = sites(0.1, 0.1)
    keys = make(1024)
    mask, again, other = kept(first, keys, 256), kept(first, keys, 256), kept(second, keys, 256)
    step = kept(first, RowKeys(keys.words ^ 0x5A5A5A5A), 256)
    z = [z_of(mask[lag:], mask[:-lag]) for lag in (1, 2, 3, 8, 64, 512)]
    z += [z_of(mask[:, lag:], mask[:, :-lag]) for lag in (1, 2, 3, 4, 8, 64, 128)]
    z += [z_of(mask, each) for each in (again, other, step)]
    z += [z_of(mask[:, :-2], other[:, 2:]), z_of(mask[1:, :-1], other[:-1, 1:])]
    assert max(map(abs, z)) < 4.5
    assert math.sqrt(sum(v * v for v in z) / len(z)) < 1.7


@pytest.mark.parametrize("axis", [0, 1])
def test_the_number_dropped_in_a_row_or_column_is_binomial(axis):
    (drop,) = sites(0.1)
    gone = 1 - kept(drop, keys_of(2048), 512)
    counts, size = gone.sum(dim=axis), gone.shape[axis]
    expected = size * 0.1 * 0.9
    assert counts.var().item() == pytest.approx(expected, rel=6 * math.sqrt(2 / len(counts)))


def test_pairs_of_rows_share_as_many_places_as_chance_gives():
    (drop,) = sites(0.5)
    signs = 2 * kept(drop, keys_of(512), 1024) - 1
    products = (signs @ signs.T / math.sqrt(1024)).triu(1)
    values = products[products != 0]
    assert values.abs().max() < 6
    assert values.var().item() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_drops_the_same_and_has_its_gradient(dtype):
    (drop,) = sites(0.25)
    x = torch.ones(30, 7, dtype=dtype, requires_grad=True)
    out = drop(x, keys_of(30))
    assert torch.equal(out > 0, drop(torch.ones(30, 7), keys_of(30)) > 0)
    out.backward(torch.ones_like(out))
    assert torch.equal(x.grad, out)


def test_too_few_keys_are_a_fault():
    with pytest.raises(RuntimeError):
        Dropout(0.5)(torch.ones(3, 4), keys_of(2))
