"""(IA)^3 in every family: the same at the start, merged as unmerged, at the places of the paper and at others."""

from __future__ import annotations

import pytest
import torch
from familykit import ENCODER_DECODERS, FAMILIES, answers, batch_of, learning, loss, tiny
from torch import nn

from pretune.errors import UsageError
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.projection import Projection, named_projections
from pretune.nn.scaling import ScaledInput, ScaledOutput
from pretune.tune.method import TuningMethod, find_method


def tuned(model: LanguageModel, **settings: object) -> TuningMethod:
    method = find_method("ia3", settings)
    method.apply(model)
    return method


def randomise(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(".scale"):
            nn.init.normal_(parameter, mean=1.0, std=0.5)


def scaled(model: nn.Module, kind: type[nn.Module] = ScaledOutput) -> set[str]:
    """The roles of the places in layers."""
    names = (name for name, brick in model.named_modules() if isinstance(brick, kind))
    return {name.partition("blocks.")[2].partition(".")[2] for name in names}


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_at_the_start_and_after_merging(family: str) -> None:
    model = tiny(family)
    before, names = answers(model), list(dict(model.named_parameters()))
    method = tuned(model)
    assert torch.equal(answers(model), before)
    cross = {"cross.key", "cross.value"} if family in ENCODER_DECODERS else set()
    assert scaled(model) == {"attention.key", "attention.value", *cross}
    assert scaled(model, ScaledInput) == {"feedforward.down"}
    assert method.acted(model) == []
    idle = method.idle(model)
    assert all(line.endswith("scale is still 1") for line in idle)
    randomise(model)
    changed = answers(model)
    assert (changed - before).abs().max() > 1e-2
    assert not method.idle(model)
    assert method.acted(model) == [line.split(":")[0] for line in idle]
    loss(model).backward()
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("heads.") or name.endswith(".scale") for name in learned)
    assert not [name for name, p in learned.items() if p.grad is None or not p.grad.any()]
    method.merge(model)
    torch.testing.assert_close(answers(model), changed, atol=1e-5, rtol=1e-5)
    assert list(dict(model.named_parameters())) == names
    assert all(type(brick) is Projection for _, brick in named_projections(model))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_a_fused_model_computes_the_same(family: str) -> None:
    model = tiny(family)
    tuned(model)
    randomise(model)
    batch = batch_of(model)
    with torch.no_grad():
        want, got = model(batch).last_hidden_state, fuse(model)(batch).last_hidden_state
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


def test_places_and_inputs() -> None:
    model = tiny("bert")
    tuned(model, places=["layers[-1:].attention.query", "feedforward", "head"], inputs=["feedforward.up"])
    assert scaled(model, ScaledInput) == {"feedforward.up"}
    assert {name for name in learning(model) if not name.startswith("heads.")} == {
        "stack.blocks.1.attention.query.scale",
        *(f"stack.blocks.{n}.feedforward.{role}.scale" for n in (0, 1) for role in ("up", "down")),
    }
    assert "heads.classification.linear.scale" in learning(model)
    assert not any(".base." in name for name in learning(model))
    for places, message in (
        (["vocabulary"], "embedding.word is a table of tokens, and factors scale projections"),
        (["attention.kye"], r"no place of this model is called 'attention.kye'; did you mean 'attention.key'"),
    ):
        with pytest.raises(UsageError, match=message):
            tuned(tiny("bert"), places=places)
    with pytest.raises(UsageError, match=r"no place of this model is called 'feedforward.down'"):
        tuned(tiny("bert"), places=["attention"], inputs=["attention", "feedforward.down"])


def test_a_small_change_is_not_rounded_away_in_bf16() -> None:
    brick = ScaledOutput(Projection(8, 8))
    x = torch.randn(4, 8)
    nn.init.constant_(brick.scale, 1.003)  # 1 in bf16
    with torch.autocast("cpu", torch.bfloat16):
        y, base = brick(x), brick.base(x)
    assert y.dtype == base.dtype == torch.bfloat16
    assert (y != base).float().mean() > 0.2


def test_flops_are_those_of_the_base_and_little_more() -> None:
    model = tiny("bert")
    for kind in (ScaledOutput, ScaledInput):
        base = model.stack.blocks[0].feedforward.up
        assert isinstance(base, Projection)
        assert base.flops(10) < kind(base).flops(10) < 1.05 * base.flops(10)
