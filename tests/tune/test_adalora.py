"""AdaLoRA in every family: equal at the start, cut to its budget exactly, merged as unmerged, resumed bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from familykit import FAMILIES, answers, learning, loss, tiny
from torch import nn

from pretune.errors import UsageError
from pretune.interop.deltas import learned
from pretune.models.model import LanguageModel
from pretune.nn.projection import Projection, named_projections
from pretune.nn.singular import SingularBrick
from pretune.tune import adalora
from pretune.tune.method import TuningMethod, find_method

STEPS = 10


def tuned(model: LanguageModel, **settings: object) -> TuningMethod:
    method = find_method("adalora", {"init_rank": 4, "target_rank": 2, **settings})
    method.apply(model, 7)
    return method


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)


def train(
    model: LanguageModel,
    method: TuningMethod,
    optimizer: torch.optim.Optimizer,
    first: int = 0,
    last: int = STEPS,
    total: int = STEPS,
) -> list[int]:
    """The sum of the ranks after each step."""
    totals = []
    for step in range(first, last):
        (term,) = method.terms(model)
        (loss(model) + term.weight * term.sum / term.count).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        method.after_step(model, (step + 1) / total)
        optimizer.zero_grad(set_to_none=True)
        totals.append(sum(method.ranks(model).values()))
    return totals


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    model = tiny(family)
    before, names = answers(model), list(dict(model.named_parameters()))
    method = tuned(model, places=["layers", "vocabulary"], tinit=0.2)
    assert torch.equal(answers(model), before)
    places, idle = len(method.ranks(model)), method.idle(model)
    assert len(idle) == places + 1
    assert (
        idle[-1] == f"rank_allocator: the ranks are {4 * places} in all, from {4 * places} to a budget of {2 * places}"
    )
    totals = train(model, method, optimizer_of(model), last=5, total=5)
    assert totals == sorted(totals, reverse=True)
    assert totals[0] == 4 * places > totals[1] > 2 * places
    assert totals[-2:] == [2 * places] * 2
    ranks = method.ranks(model)
    assert len(set(ranks.values())) > 1, "the ranks differ"
    assert method.idle(model) == []
    changed = answers(model)
    assert (changed - before).abs().max() > 1e-3
    method.merge(model)
    torch.testing.assert_close(answers(model), changed, atol=1e-5, rtol=1e-5)
    assert list(dict(model.named_parameters())) == names
    assert all(type(brick) is Projection for _, brick in named_projections(model))
    assert not hasattr(model, "rank_allocator")


def test_a_run_that_goes_on_is_the_same_bit_for_bit() -> None:
    whole = tiny("bert")
    method = tuned(whole, places=["attention"])
    train(whole, method, optimizer_of(whole))
    for stop in (1, 5, 8):  # before the first cut, between, and once the ranks are final
        model = tiny("bert")
        tuned(model, places=["attention"])
        optimizer = optimizer_of(model)
        train(model, method, optimizer, last=stop)
        again = tiny("bert")
        tuned(again, places=["attention"])
        other = optimizer_of(again)
        again.load_state_dict(copy.deepcopy(model.state_dict()))
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(again, method, other, first=stop)
        state = again.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


def test_files_of_a_finished_model_hold_no_averages() -> None:
    model = tiny("bert")
    tuned(model)
    kept = learned(model).keys() - learning(model)
    assert {name.rpartition(".")[2] for name in kept} == {"kept", "steps", "is_final"}
    averages = [name for name in model.state_dict() if name.endswith(("sensitivity", "uncertainty"))]
    assert len(averages) == 4 * 6, "a checkpoint holds them"


def test_weights_are_ready_once_the_ranks_are_final() -> None:
    model = tiny("bert")
    method = tuned(model, tinit=0.2, tfinal=0.5)
    ready = []
    for step in range(STEPS):
        method.after_step(model, (step + 1) / STEPS)
        ready.append(method.is_ready(model))
    assert ready == [False] * 4 + [True] * 6
    assert find_method("lora", {}).is_ready(model)


def test_the_budget_falls_along_a_cubic_curve() -> None:
    config = adalora.Config(init_rank=12, target_rank=4, tinit=0.25, tfinal=0.25)
    assert [config.budget(fraction, 10) for fraction in (0.0, 0.25, 0.5, 0.75, 1.0)] == [120, 120, 50, 40, 40]
    model = tiny("bert")
    method = tuned(model, interval=3, tinit=0.1, tfinal=0.1)
    totals = train(model, method, optimizer_of(model))
    assert totals == [16, 16, totals[2], totals[2], totals[2], totals[5], totals[5], totals[5], 8, 8]
    assert 16 > totals[2] > totals[5] >= 8


def test_a_place_may_lose_its_rank_and_equal_triplets_stay_in_order() -> None:
    model = tiny("bert")
    method = tuned(model, places=["layers[:1].attention.query", "layers[:1].attention.key"])
    bricks = [brick for brick in model.modules() if isinstance(brick, SingularBrick)]
    adalora.allocate(bricks, 4)
    assert list(method.ranks(model).values()) == [4, 0]
    nn.init.ones_(bricks[0].e)
    assert not method.idle(model), "a place without rank has nothing to learn"
    assert (method.acted(model) or [])[-1] == "stack.blocks.0.attention.key: rank 4 -> 0"
    nn.init.zeros_(bricks[0].e)
    assert method.idle(model) == ["stack.blocks.0.attention.query: e is still 0"]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="target_rank 13 is above init_rank 12"):
        find_method("adalora", {"target_rank": 13})
    with pytest.raises(UsageError, match="no time to cut ranks"):
        find_method("adalora", {"tinit": 0.5, "tfinal": 0.5})
    with pytest.raises(UsageError, match="rank 33 is above the 32 rows or columns"):
        tuned(tiny("bert"), init_rank=33)
