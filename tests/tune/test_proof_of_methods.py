"""Every method in `tune/` proves that it acts, in encoders, decoders and both; untrained, it says that it does not."""

from __future__ import annotations

import familykit
import pytest
import torch
from torch import nn

from pretune.errors import IdleMethodError
from pretune.find import variants
from pretune.models.model import LanguageModel
from pretune.tune.method import TuningMethod, find_method
from pretune.tune.proof import Proof, Start, prove

SETTINGS = {"adalora": {"init_rank": 3, "target_rank": 2}, "top": {"layers": 1}, "prompt": {"length": 3}}
METHODS = [name for name in variants("tune") if name not in ("full", "sparse")]  # these leave nothing as it is
FAMILIES = ("albert", "bert", "gpt2", "llama", "t5")


def begin(name: str, family: str = "bert") -> tuple[TuningMethod, LanguageModel, Start]:
    method, model = find_method(name, SETTINGS.get(name, {})), familykit.tiny(family)
    known = set(map(id, model.parameters()))
    model = method.apply(model)
    return method, model, Start.of(model, [n for n, p in model.named_parameters() if id(p) not in known])


def train(method: TuningMethod, model: LanguageModel, steps: int = 4) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        method.before_step(model, step / steps)
        total = familykit.loss(model) + sum((term.weight * term.sum for term in method.terms(model)), torch.zeros(()))
        total.backward()
        optimizer.step()
        method.after_step(model, (step + 1) / steps)
        optimizer.zero_grad()


def proof_of(name: str, family: str) -> Proof:
    method, model, start = begin(name, family)
    train(method, model)
    return prove(model, start, method)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_it_acts_and_leaves_the_base_alone(name: str, family: str) -> None:
    if name == "bitfit" and family in ("llama", "t5"):
        pytest.skip("without biases")
    proof = proof_of(name, family)
    proof.check()
    assert proof.frozen_before == proof.frozen_after
    assert proof.frozen
    assert proof.learned < proof.parameters
    assert bool(proof.learned_below_heads) == (name != "frozen")


@pytest.mark.parametrize("name", METHODS)
def test_untrained_it_does_not(name: str) -> None:
    method, model, start = begin(name)
    with pytest.raises(IdleMethodError):
        prove(model, start, method).check()


@pytest.mark.parametrize("name", ["adalora", "adapter", "ia3", "lora", "prefix"])
def test_one_part_that_no_gradient_reaches_is_named(name: str) -> None:
    """The first part of each kind is put back to what it was, as if it had never learned."""
    method, model, start = begin(name)
    train(method, model)
    stuck = min(start.added).rpartition(".")[0]
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            if parameter.rpartition(".")[0] == stuck:
                weight.copy_(start.values[parameter])
    proof = prove(model, start, method)
    assert proof.idle
    assert all(line.partition(":")[0].startswith(stuck.rpartition(".")[0]) for line in proof.idle), proof.idle
    assert isinstance(model.get_submodule(stuck), nn.Module)
