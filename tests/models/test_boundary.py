"""What is below the first layer that learns is fixed, in every family, and the model goes on above it to the bit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tune"))
from familykit import ENCODER_DECODERS, FAMILIES, batch_of, tiny

from pretune.draw import Draw
from pretune.models.boundary import Boundary, compute_above, compute_below, find_boundary
from pretune.models.flops import Flops, head_flops
from pretune.models.model import LanguageModel
from pretune.nn.dropout import Dropout
from pretune.train.feature_cache import CachedModel, FeatureCache
from pretune.train.row_keys import key_rows
from pretune.train.step import TrainModule
from pretune.tune.method import find_method


class NoObjective(torch.nn.Module):
    """What a root module holds besides the model."""


def training(family: str, method: str, **settings: object) -> TrainModule:
    """A tuned model as the loop trains it, with much dropout wherever the family has some."""
    model = tiny(family)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = 0.5
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.5  # of attention probabilities
    tuning = find_method(method, settings)
    return TrainModule(tuning.apply(model), NoObjective(), tuning).train()  # type: ignore[arg-type]


def keyed(model: LanguageModel, step: int) -> object:
    batch = batch_of(model)
    names = torch.arange(3 * batch.layout.count).view(-1, 3).numpy()
    return key_rows(replace(batch, samples=names), Draw(0).at("dropout", step))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_body_is_a_fixed_reader(family: str, tmp_path: Path) -> None:
    root = training(family, "frozen")
    assert find_boundary(root.model) == Boundary("body")
    cache = FeatureCache(tmp_path / "features", {})
    outputs = [
        CachedModel(root.model, cache)(keyed(root.model, 0)),
        root.model(keyed(root.model, 1)),
        CachedModel(root.model, cache)(keyed(root.model, 2)),
    ]
    assert (cache.computed, cache.reused) == (3, 3)
    for output in outputs:
        assert torch.equal(output.last_hidden_state, outputs[0].last_hidden_state)
        assert output.layout.lengths == outputs[0].layout.lengths


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_below_those_that_learn_are_fixed(family: str, tmp_path: Path) -> None:
    root = training(family, "top", layers=1)
    model, boundary = root.model, find_boundary(root.model)
    if family == "albert":  # all layers are one
        assert boundary is None
        return
    assert boundary == Boundary("stack", 1)
    cache = FeatureCache(tmp_path / "features", {})
    first = compute_below(model, keyed(model, 0), boundary)
    second = compute_below(model, keyed(model, 1), boundary)
    assert torch.equal(first.hidden, second.hidden)
    assert (first.encoder is None) == (family not in ENCODER_DECODERS)
    for _ in range(2):
        whole, begun = model(keyed(model, 2)), CachedModel(model, cache)(keyed(model, 2))
        assert torch.equal(whole.last_hidden_state, begun.last_hidden_state)
        assert begun.last_hidden_state.requires_grad
    assert (cache.computed, cache.reused) == (3, 3)
    other = model(keyed(model, 3)).last_hidden_state
    has_dropout = any(module.p for module in model.stack.modules() if isinstance(module, Dropout))
    assert torch.equal(other, whole.last_hidden_state) != has_dropout  # above, dropout is what it was


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_an_encoder_that_learns_from_a_layer_on(family: str) -> None:
    model = training(family, "top", layers=3).model
    boundary = find_boundary(model)
    assert boundary == Boundary("encoder", 1)
    states = compute_below(model, keyed(model, 0), boundary)
    assert states.encoder is None
    begun = compute_above(model, keyed(model, 0), boundary, states)
    assert torch.equal(begun.last_hidden_state, model(keyed(model, 0)).last_hidden_state)


def test_where_learning_begins() -> None:
    model = tiny("bert")
    assert find_boundary(model) is None
    model.requires_grad_(False)
    model.heads.requires_grad_(True)
    assert find_boundary(model) == Boundary("body")
    model.stack.blocks[1].feedforward.requires_grad_(True)
    assert find_boundary(model) == Boundary("stack", 1)
    model.embedding.word.requires_grad_(True)
    assert find_boundary(model) is None
    model.embedding.requires_grad_(False)
    model.extra = torch.nn.Linear(2, 2)  # nothing says where it acts
    assert find_boundary(model) is None
    del model.extra
    model.forward = model.forward  # type: ignore[method-assign]
    assert find_boundary(model) is None


@pytest.mark.parametrize("family", ["bert", "bart"])
def test_operations_below_count_forward_alone_or_not_at_all(family: str) -> None:
    model = tiny(family)
    batch = replace(batch_of(model), targets={"classification": (torch.arange(3), torch.zeros(3, dtype=torch.long))})
    full, heads = Flops(model)(batch), 3 * 3 * head_flops(model, "classification")
    find_method("top", {"layers": 1}).apply(model)
    top, kept = Flops(model)(batch), Flops(model, features=True)(batch)
    assert heads < kept < top < full
    find_method("frozen", {}).apply(model)
    assert Flops(model)(batch) == pytest.approx((full - heads) / 3 + heads)
    assert Flops(model, features=True)(batch) == heads
