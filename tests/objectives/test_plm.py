"""Permutation language modelling: what is chosen and in which order, over many draws; it overfits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import CLS, SEP, make_vocabulary
from scipy import stats

from pretune.draw import Draw
from pretune.models import build
from pretune.objectives.plm import PermutationLanguageModelling, choose_spans
from pretune.text.samples.rows import Row

DRAW = Draw(5)


def make(**fields):
    return PermutationLanguageModelling(PermutationLanguageModelling.Config(**fields), make_vocabulary())


def rows(lengths):
    random = np.random.default_rng(0)
    return [Row((0, n % 3, n), random.integers(5, 100, length)) for n, length in enumerate(lengths)]


@pytest.mark.parametrize("length", [1, 2, 5, 17, 24, 101])
@pytest.mark.parametrize("rate", [1 / 6, 0.5, 1.0])
def test_an_exact_fraction_is_chosen_at_any_length(length, rate):
    for seed in range(200):
        actual = choose_spans(length, Draw(seed), rate, 5)
        assert len(actual) == max(1, round(rate * length))
        assert (np.diff(actual) > 0).all()
        assert 0 <= actual[0] <= actual[-1] < length


def test_spans_have_the_odds_of_the_authors_and_lie_everywhere():
    sizes, places = np.zeros(6, int), np.zeros(600)
    for seed in range(600):
        actual = choose_spans(600, Draw(seed), 1 / 6, 5)
        places[actual] += 1
        runs = np.split(actual, np.flatnonzero(np.diff(actual) > 1) + 1)
        for run in runs:
            sizes[min(len(run), 5)] += 1
    fractions = sizes[1:4] / sizes[1:].sum()
    odds = 1 / np.arange(1, 6)
    assert fractions == pytest.approx((odds / odds.sum())[:3], abs=0.03)  # spans that touch count as one
    assert places[10:500].std() / places[10:500].mean() < 0.15


def test_orders_are_permutations_and_uniform():
    objective = make(rate=0.5)
    text = rows([6])[0]
    same = [Row((0, n % 7, n), text.tokens) for n in range(10_000)]
    batch = objective.build_batch(same, DRAW)
    order = batch.order.view(-1, 8).numpy()
    assert (np.sort(order, axis=1)[:, -3:] == [0, 1, 2]).all()
    assert ((order >= 0).sum(axis=1) == 3).all()
    assert (order[:, [0, 7]] == -1).all()  # special tokens are never predicted
    assert (batch.tokens.view(-1, 8)[:, 0] == CLS).all()
    assert (batch.tokens.view(-1, 8)[:, 7] == SEP).all()
    ranks = np.array([row[row >= 0] for row in order])
    codes = ranks[:, 0] * 9 + ranks[:, 1] * 3 + ranks[:, 2]
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_batch_does_not_matter():
    objective, samples = make(), rows([9, 17, 1, 30])
    together, alone = objective.build_batch(samples, DRAW), objective.build_batch(samples[1:2], DRAW)
    a, b = together.layout.bounds[1:3]
    assert together.order[a:b].equal(alone.order)
    index, label = together.targets["plm"]
    assert together.tokens[index].equal(label)
    assert objective.counts(together) == {"plm": len(index)}
    assert together.output_rows is not None
    assert together.output_rows.index.equal(index)


def test_overfits():
    shape = {"vocab_size": 100, "dropout": 0.0, "d_model": 64, "n_head": 2, "d_head": 32, "d_inner": 128}
    model = build("xlnet", "tiny", ["plm"], shape)
    objective, samples = make(), rows([24, 17, 9, 24] * 2)
    batch = objective.build_batch(samples, DRAW)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    losses = []
    for _ in range(60):
        (term,) = objective(model, batch)
        loss = term.sum / term.count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[0] > 4.0
    assert losses[-1] < 0.1


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_is_cut_off_by_key_and_nothing_is_lost(count):
    objective = make(memory=6)
    samples = rows([2, 3, 9, 20, 20, 7])
    batch = objective.build_batch(samples, DRAW)
    cuts = batch.source.layout.lengths
    assert all(1 <= cut <= min(6, len(row.tokens) - 1) for cut, row in zip(cuts, samples, strict=True))
    early, late = batch.source.layout.bounds, batch.layout.bounds
    for n, row in enumerate(samples):
        whole = [*batch.source.tokens[early[n] : early[n + 1]], *batch.tokens[late[n] + 1 : late[n + 1] - 1]]
        assert [int(token) for token in whole] == row.tokens.tolist()
    some = objective.build_batch(samples[3:4], DRAW)
    assert some.source.layout.lengths == (cuts[3],)
    many = [Row((0, 0, n), np.arange(5, 25)) for n in range(count)]
    actual = np.array(objective.prepare(many, DRAW).source.layout.lengths)
    assert stats.chisquare(np.bincount(actual, minlength=7)[1:]).pvalue > 1e-4
    assert objective.prepare(rows([1, 2]), DRAW).source.layout.lengths == (0, 1)
    assert make().build_batch(samples, DRAW).source is None


def test_what_is_remembered_is_read_by_the_rest_and_gets_no_gradient():
    """Against the model itself, a sequence at a time: what memory does is compared with `transformers` elsewhere."""
    objective, samples = make(memory=6), rows([9, 20, 7])
    model = build("xlnet", "tiny", ["plm"], {"vocab_size": 100, "dropout": 0.0}).eval()
    batch = objective.build_batch(samples, DRAW)
    (term,) = objective(model, batch)
    term.sum.backward()
    ours = model.embedding.word.weight.grad.clone()
    model.zero_grad()
    expected = torch.zeros(())
    for row in samples:
        one = objective.build_batch([row], DRAW)
        kept = model.read_segment(one.source, 6)
        assert all(not run.requires_grad for run in kept.hidden)
        output = model(one, memory=kept)
        index, label = one.targets["plm"]
        logits = model.heads["plm"](output.at(index))
        expected = expected + torch.nn.functional.cross_entropy(logits, label, reduction="sum")
    torch.testing.assert_close(term.sum, expected)
    expected.backward()
    torch.testing.assert_close(ours, model.embedding.word.weight.grad, rtol=1e-4, atol=1e-5)
    changed = replace(batch.source, tokens=(batch.source.tokens + 1) % 90 + 5)
    (other,) = objective(model, replace(batch, source=changed))
    assert abs(float(other.sum - term.sum)) > 1e-3
