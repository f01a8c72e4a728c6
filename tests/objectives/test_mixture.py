from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeModel, MemorySplit, make_decoder_vocabulary, make_vocabulary
from scipy import stats

from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.models import build as build_model
from pretune.objectives.clm import CausalLanguageModelling
from pretune.objectives.mixture import Mixture, build
from pretune.objectives.mlm import MaskedLanguageModelling
from pretune.objectives.nsp import NextSentencePrediction
from pretune.objectives.objective import Objective
from pretune.text.samples.rows import Row
from pretune.text.samples.views.pairs import PairsView
from pretune.text.samples.views.view import build_view

DRAW = Draw(8)
SIZE = 500
VOCABULARY = make_vocabulary(SIZE)


def make(config: Mapping[str, float | Mapping[str, Any]]) -> Objective:
    return build(config, VOCABULARY)


def make_rows(objective: Objective) -> list[Row]:
    split = MemorySplit([[7, 5, 6, 8], [9], [4, 4, 4], [6, 2]] * 3)
    split.tokens = split.tokens % (SIZE - 10) + 10
    view = build_view(split, objective.view, 30 - objective.overhead, objective.lookahead, objective.pack)
    return view.read(np.arange(len(view)), 0, 0, DRAW)


def test_one_name_gives_the_objective_itself() -> None:
    objective = make({"mlm": {"rate": 0.3, "weight": 2.0}})
    assert isinstance(objective, MaskedLanguageModelling)
    assert (objective.config.rate, objective.config.weight) == (0.3, 2.0)
    assert objective.alternatives == (objective,)
    assert objective.choose(DRAW, 7) == 0


@pytest.mark.parametrize("order", [["mlm", "nsp"], ["nsp", "mlm"]])
def test_mlm_and_nsp_share_one_forward(order: list[str]) -> None:
    mixture = make(dict(zip(order, (1.0, 0.5), strict=True)))
    assert (mixture.view, mixture.overhead, mixture.lookahead, len(mixture.alternatives)) == ("pairs", 3, 0, 1)
    assert sorted(mixture.heads(build_model("bert", "tiny", overrides={"vocab_size": SIZE}))) == ["mlm", "nsp"]
    rows, model = make_rows(mixture), FakeModel(SIZE)
    clean = mixture.prepare(rows, DRAW)
    batch = mixture.corrupt(clean, DRAW)
    terms = mixture(model, batch)
    assert model.passes == 1
    assert [(term.name, term.weight) for term in terms] == [(order[0], 1.0), (order[1], 0.5)]
    assert {term.name: term.count for term in terms} == mixture.counts(batch)
    assert min(mixture.counts(batch).values()) > 0
    assert batch.data_stats == clean.data_stats
    nsp = NextSentencePrediction(NextSentencePrediction.Config(), VOCABULARY)
    mlm = MaskedLanguageModelling(MaskedLanguageModelling.Config(), VOCABULARY)
    alone = mlm.corrupt(nsp.prepare(rows, DRAW), DRAW)
    assert torch.equal(batch.tokens, alone.tokens)
    for name in ("mlm", "nsp"):
        assert torch.equal(batch.targets[name][0], alone.targets[name][0])
        assert torch.equal(batch.targets[name][1], alone.targets[name][1])


def test_hidden_tokens_lie_in_both_texts_but_not_in_special_ones() -> None:
    mixture = make({"mlm": {"rate": 0.5}, "nsp": 1.0})
    clean = mixture.prepare(make_rows(mixture), DRAW)
    index = mixture.corrupt(clean, DRAW).targets["mlm"][0]
    assert clean.segments is not None
    assert set(clean.segments[index].tolist()) == {0, 1}
    assert not VOCABULARY.special[clean.tokens[index].numpy()].any()


def test_other_views_take_turns_by_weight() -> None:
    mixture = make({"mlm": 1.0, "clm": 3.0, "nsp": 0.5})
    assert [part.view for part in mixture.alternatives] == ["pairs", "stream"]
    assert isinstance(mixture.alternatives[0], Mixture)
    assert isinstance(mixture.alternatives[1], CausalLanguageModelling)
    picks = np.array([mixture.choose(DRAW, step) for step in range(20_000)])
    assert stats.binomtest(int(picks.sum()), len(picks), 0.75).pvalue > 1e-4
    assert [mixture.choose(DRAW, step) for step in (5, 3)] == picks[[5, 3]].tolist()
    assert (np.array([mixture.choose(Draw(9), step) for step in range(100)]) != picks[:100]).any()
    with pytest.raises(ValueError, match="several parts"):
        mixture.prepare([], DRAW)


def test_turns_keep_the_expected_loss_in_proportion_to_the_weights() -> None:
    weights = {"mlm": 1.0, "clm": 3.0, "nsp": 0.5}
    mixture, model = make(weights), FakeModel(SIZE)
    heaviest = [1.0, 3.0]
    weight_of = dict.fromkeys(weights, 0.0)
    for n, part in enumerate(mixture.alternatives):
        batch = part.corrupt(part.prepare(make_rows(part), DRAW), DRAW)
        for term in mixture(model, batch):
            weight_of[term.name] += heaviest[n] / sum(heaviest) * term.weight * bool(term.count)
    assert {name: value * sum(heaviest) for name, value in weight_of.items()} == pytest.approx(weights)


def test_every_turn_gives_every_head_a_gradient() -> None:
    mixture = make({"mlm": 1.0, "clm": 3.0, "nsp": 0.5})
    for n, part in enumerate(mixture.alternatives):
        model = FakeModel(SIZE)
        batch = part.corrupt(part.prepare(make_rows(part), DRAW), DRAW)
        terms = mixture(model, batch)
        assert [term.name for term in terms] == ["mlm", "clm", "nsp"]
        assert mixture.counts(batch) == {term.name: term.count for term in terms}
        sum((term.sum for term in terms), torch.zeros(())).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        used = {term.name for term in terms if term.count}
        assert used == ({"mlm", "nsp"} if n == 0 else {"clm"})
        for name, head in model.heads.items():
            assert any(p.grad is not None and bool(p.grad.any()) for p in head.parameters()) == (name in used)


def test_what_is_absent_gives_zero_even_with_broken_weights() -> None:
    mixture, model = make({"mlm": 1.0, "clm": 1.0}), FakeModel(SIZE)
    with torch.no_grad():
        model.heads["clm"].linear.weight.fill_(float("nan"))
    part = mixture.alternatives[0]
    terms = mixture(model, part.corrupt(part.prepare(make_rows(part), DRAW), DRAW))
    assert [bool(torch.isfinite(term.sum)) for term in terms] == [True, True]
    assert float(terms[1].sum.detach()) == 0.0


def test_the_view_of_a_mixture_is_its_leader() -> None:
    rows = make_rows(make({"mlm": 1.0, "nsp": 1.0}))
    assert all(row.other is not None for row in rows)
    with pytest.raises(DataError, match="another document"):
        PairsView(MemorySplit([[4, 4]]), 27)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "'objective' is empty"),
        ({"mln": 1.0}, "did you mean 'mlm'"),
        ({"mlm": {"rates": 0.2}}, r"objective\.mlm: unknown field 'rates'; did you mean 'rate'"),
        ({"mlm": {"rate": 2.0}}, "field 'rate' = 2"),
        ({"mlm": 0.0}, "field 'weight' = 0"),
        ({"nsp": -1.0, "mlm": 1.0}, r"objective\.nsp: field 'weight'"),
        ({"mlm": "much"}, "field 'weight'"),
        ({"mlm": 1.0, "pretune.objectives.mlm:MaskedLanguageModelling": 1.0}, "each objective once"),
    ],
)
def test_a_bad_recipe_names_field_and_remedy(config: Mapping[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(config)


def test_a_tokenizer_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="mask token"):
        build({"mlm": 1.0, "nsp": 1.0}, make_decoder_vocabulary())


def test_a_batch_reads_what_its_members_read() -> None:
    """Masked tokens and both ends of every sequence; and the loss from these rows is the loss from all."""
    both = make({"mlm": 1.0, "nsp": 1.0})
    batch = both.build_batch(make_rows(both), DRAW)
    assert batch.output_rows is not None
    layout = batch.layout
    wanted = {*batch.targets["mlm"][0].tolist(), *layout.first.tolist(), *layout.last.tolist()}
    assert batch.output_rows.index.tolist() == sorted(wanted)
    assert len(wanted) < layout.total
    model = build_model("bert", "tiny", ["mlm", "nsp"], {"vocab_size": SIZE}).eval()
    for some, whole in zip(both(model, batch), both(model, replace(batch, output_rows=None)), strict=True):
        torch.testing.assert_close(some.sum, whole.sum)
    causal = make({"clm": 1.0})
    assert causal.build_batch(make_rows(causal), DRAW).output_rows is None


def test_weights_change_over_the_steps() -> None:
    both = make({"mlm": {"weight": 1.0, "weight_start": 3.0, "weight_steps": 100}, "nsp": 1.0})
    rows, model = make_rows(both), FakeModel(SIZE)
    actual = {
        step: [term.weight for term in both(model, both.build_batch(rows, DRAW, step))]
        for step in (0, 50, 100, 900, None)
    }
    assert actual == {0: [3.0, 1.0], 50: [2.0, 1.0], 100: [1.0, 1.0], 900: [1.0, 1.0], None: [1.0, 1.0]}
    parts = make({"mlm": {"weight_start": 9.0, "weight_steps": 20_000}, "clm": 1.0})
    picked = np.array([parts.choose(DRAW, step) for step in range(40_000)])
    assert picked[:500].mean() == pytest.approx(0.1, abs=0.05)
    assert picked[20_000:].mean() == pytest.approx(0.5, abs=0.02)
    with pytest.raises(UsageError, match="belong together"):
        make({"mlm": {"weight_start": 2.0}})
