"""BitFit: biases and heads learn, in place; a model without biases is refused."""

from __future__ import annotations

import pytest
import torch
from familykit import FAMILIES, answers, learning, loss, tiny

from pretune.errors import UsageError
from pretune.tune.method import find_method

WITHOUT = {"llama", "modernbert", "qwen3", "t5"}


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in WITHOUT])
def test_biases_and_heads_learn(family: str) -> None:
    model = tiny(family)
    before = answers(model)
    method = find_method("bitfit", {})
    model = method.apply(model)
    assert torch.equal(answers(model), before)
    names = {name for name in learning(model) if not name.startswith("heads.")}
    assert names
    assert names == {n for n, _ in model.named_parameters() if n.endswith("bias") and not n.startswith("heads.")}
    assert {name.split(".")[1] for name in learning(model) if name.startswith("heads.")} == {"classification"}
    loss(model).backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert method.merge(model) is model


@pytest.mark.parametrize("family", sorted(WITHOUT))
def test_a_model_without_biases_is_refused(family: str) -> None:
    with pytest.raises(UsageError, match="no biases below its heads; choose --tune ia3"):
        find_method("bitfit", {}).apply(tiny(family))


def test_places() -> None:
    model = find_method("bitfit", {"places": ["attention.query", "layers[-1:].feedforward.up"]}).apply(tiny("bert"))
    assert {name for name in learning(model) if not name.startswith("heads.")} == {
        *(f"stack.blocks.{n}.attention.query.bias" for n in (0, 1)),
        "stack.blocks.1.feedforward.up.bias",
    }
    with pytest.raises(UsageError, match=r"no place of this model is called 'attention.qeury'"):
        find_method("bitfit", {"places": ["attention.qeury"]}).apply(tiny("bert"))
