"""The last layers and the heads learn; no gradient runs below; layers are unfrozen one after another."""

from __future__ import annotations

import familykit
import pytest
import torch
from familykit import FAMILIES, answers, learning, loss, tiny

from pretune.errors import UsageError
from pretune.tune.method import find_method

SEPARATE = [family for family in FAMILIES if family != "albert"]


@pytest.mark.parametrize("family", SEPARATE)
def test_the_last_layer_and_the_heads_learn(family: str) -> None:
    model = tiny(family)
    before = answers(model)
    model = find_method("top", {"layers": 1}).apply(model)
    assert torch.equal(answers(model), before)
    names = learning(model)
    assert all(name.startswith(("stack.blocks.1.", "stack.norm.", "heads.")) for name in names)
    assert any(name.startswith("stack.blocks.1.attention") for name in names)
    assert any(name.startswith("heads.") for name in names)
    loss(model).backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert reached <= names
    assert {name for name in names if "stack.blocks.1.feedforward" in name} <= reached


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_no_gradient_runs_through_the_body_below(family: str) -> None:
    model = find_method("top", {"layers": 1}).apply(tiny(family))
    inputs: list[bool] = []
    model.stack.blocks[1].register_forward_pre_hook(lambda _, args: inputs.append(args[0].requires_grad))
    loss(model).backward()
    assert inputs == [False]
    assert {name.split(".")[2] for name in learning(model) if name.startswith("stack.blocks.")} == {"1"}


def test_layers_reach_into_the_encoder_below_the_decoder() -> None:
    model = find_method("top", {"layers": 3}).apply(tiny("bart"))
    layers = {name.split("attention")[0] for name in learning(model) if "attention" in name and "norms" not in name}
    assert layers == {"stack.blocks.0.", "stack.blocks.1.", "encoder.stack.blocks.1."}


def test_what_lower_layers_share_stays_as_it_is() -> None:
    model = find_method("top", {"layers": 1}).apply(tiny("t5", ("clm",)))
    assert model.stack.blocks[1].attention.relative is model.stack.blocks[0].attention.relative
    assert not any(weight.requires_grad for weight in model.stack.blocks[1].attention.relative.parameters())
    assert not model.embedding.word.weight.requires_grad
    assert not model.heads["clm"].weight.requires_grad


def test_layers_that_share_their_weights_are_one() -> None:
    with pytest.raises(UsageError, match=r"tune.top.layers = 2: .* 1 layers .* which 2 layers share; give at most 1"):
        find_method("top", {}).apply(tiny("albert"))
    names = learning(find_method("top", {"layers": 1}).apply(tiny("albert")))
    assert not any(name.startswith("embedding.") for name in names)
    with pytest.raises(UsageError, match="the model has 4 layers"):
        find_method("top", {"layers": 5}).apply(tiny("t5"))


@pytest.mark.parametrize("family", SEPARATE)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_are_unfrozen_one_after_another(family: str, checkpointing: bool) -> None:
    method = find_method("top", {"layers": 2, "gradual": True})
    model = method.apply(tiny(family)).train()
    model.stack.checkpointing = checkpointing
    assert {name for name in learning(model) if ".1.feedforward" in name}
    for fraction, open_layers in ((0.0, set()), (0.3, set()), (0.34, {1}), (0.7, {0, 1}), (1.0, {0, 1}), (0.4, {1})):
        method.before_step(model, fraction)
        model.zero_grad()
        loss(model).backward()
        reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
        own = {name for name in reached if name.startswith("stack.blocks.") and "relative" not in name}
        numbers = {int(name.split(".")[2]) for name in own}
        assert numbers == open_layers
        assert any(name.startswith("heads.") for name in reached)
        assert any(name.startswith("stack.norm") for name in reached) <= bool(open_layers)


def test_the_first_part_has_a_layer_where_no_head_learns() -> None:
    method = find_method("top", {"layers": 2, "gradual": True})
    model = method.apply(tiny("gpt2", ("clm",)))
    batch = familykit.batch_of(model)
    for fraction, first in ((0.0, 1), (0.49, 1), (0.5, 0), (1.0, 0)):
        method.before_step(model, fraction)
        assert model.stack.learns_from == first
    model.heads["clm"](model(batch).last_hidden_state).sum().backward()


def test_layers_that_were_never_unfrozen_are_idle() -> None:
    method = find_method("top", {"layers": 3, "gradual": True})
    model = method.apply(tiny("t5"))
    for fraction, closed in ((0.3, ["encoder.stack.blocks.1", "stack.blocks.0"]), (0.6, ["encoder.stack.blocks.1"])):
        method.before_step(model, fraction)
        assert [line.split(":")[0] for line in method.idle(model)] == closed
    method.before_step(model, 0.75)
    assert method.idle(model) == []


def test_a_method_without_stages_has_none() -> None:
    method, model = find_method("frozen", {}), tiny("bert")
    method.before_step(model, 0.5)
    assert not method.has_stages
    assert not find_method("top", {"layers": 1}).has_stages
    assert find_method("top", {"gradual": True}).has_stages
    assert model.stack.learns_from == 0
