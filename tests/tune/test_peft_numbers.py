"""LoRA, DoRA and AdaLoRA compute what peft computes: outputs, gradients, and ranks step by step."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pretune.nn.low_rank import (
    DecomposedProjection,
    DecomposedVocabulary,
    LowRankProjection,
    LowRankVocabulary,
)
from pretune.nn.projection import Projection
from pretune.nn.singular import SingularProjection
from pretune.nn.vocabulary import Vocabulary
from pretune.tune.method import find_method

peft = pytest.importorskip("peft", reason="peft is in the test extra")


def theirs(base: nn.Module, **config: object) -> nn.Module:
    """The layer that peft puts in place of a base."""
    torch.manual_seed(3)
    model = peft.get_peft_model(nn.ModuleDict({"place": base}), peft.LoraConfig(target_modules=["place"], **config))
    layer: nn.Module = model.base_model.model["place"]
    for name, parameter in layer.named_parameters():
        if "magnitude" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif "lora" in name:
            nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("stabilized", [False, True])
@pytest.mark.parametrize("decomposed", [False, True])
def test_projections(stabilized: bool, decomposed: bool) -> None:
    base = nn.Linear(6, 5)
    layer = theirs(base, r=3, lora_alpha=4, use_rslora=stabilized, use_dora=decomposed)
    config = find_method("lora", {"rank": 3, "alpha": 4, "rank_stabilized": stabilized}).config
    kind = DecomposedProjection if decomposed else LowRankProjection
    brick = kind(Projection.of(base.weight.detach().clone(), base.bias.detach()), 3, config.scale)  # type: ignore[attr-defined]
    pairs = [(brick.a, layer.lora_A["default"].weight), (brick.b, layer.lora_B["default"].weight)]
    if isinstance(brick, DecomposedProjection):
        torch.testing.assert_close(brick.magnitude, base.weight.norm(dim=1), msg="at the start, the lengths of rows")
        pairs.append((brick.magnitude, layer.lora_magnitude_vector["default"].weight))
    compare(pairs, brick, layer, torch.randn(7, 6))
    layer.merge()
    torch.testing.assert_close(brick.dense(), (layer.base_layer.weight, layer.base_layer.bias), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("decomposed", [False, True])
def test_embeddings(decomposed: bool) -> None:
    base = nn.Embedding(9, 6)
    layer = theirs(base, r=3, lora_alpha=4, use_dora=decomposed)
    kind = DecomposedVocabulary if decomposed else LowRankVocabulary
    brick = kind(Vocabulary.of(nn.Parameter(base.weight.detach().clone())), 3, 4 / 3)
    ours_a, ours_b = layer.lora_embedding_B["default"], layer.lora_embedding_A["default"]  # (width, rank), (rank, V)
    pairs = [(brick.a, ours_a), (brick.b, ours_b)]
    if isinstance(brick, DecomposedVocabulary):
        torch.testing.assert_close(brick.magnitude, base.weight.norm(dim=0))
        pairs.append((brick.magnitude, layer.lora_magnitude_vector["default"].weight))
    compare(pairs, brick.lookup, layer, torch.tensor([3, 0, 8, 3]), transposed=True)
    layer.merge()
    torch.testing.assert_close(brick.dense(), layer.base_layer.weight, atol=1e-6, rtol=1e-5)


def compare(pairs, ours, layer, x: Tensor, transposed: bool = False) -> None:  # type: ignore[no-untyped-def]
    """Copies values, then holds outputs and gradients equal."""

    def like(theirs: Tensor) -> Tensor:
        return theirs.t() if transposed and theirs.dim() == 2 else theirs

    with torch.no_grad():
        for own, other in pairs:
            own.copy_(like(other))
    actual, wanted = ours(x), layer(x)
    torch.testing.assert_close(actual, wanted, atol=1e-6, rtol=1e-5)
    grads = torch.autograd.grad(actual.square().sum(), [own for own, _ in pairs])
    others = torch.autograd.grad(wanted.square().sum(), [other for _, other in pairs])
    for grad, other in zip(grads, others, strict=True):
        torch.testing.assert_close(grad, like(other), atol=1e-4, rtol=1e-5)


def test_initial_values() -> None:
    torch.manual_seed(5)
    brick = LowRankProjection(Projection(200, 100), 8, 1.0)
    bound = 1 / math.sqrt(200)  # kaiming uniform with a = sqrt(5)
    assert 0.95 * bound < float(brick.a.detach().abs().max()) <= bound
    layer = peft.get_peft_model(nn.ModuleDict({"p": nn.Linear(200, 100)}), peft.LoraConfig(target_modules=["p"]))
    other = layer.base_model.model["p"].lora_A["default"].weight
    torch.testing.assert_close(brick.a.std(), other.std(), rtol=0.1, atol=0)
    singular = SingularProjection(Projection(200, 100), 8, 1.0)
    assert not singular.e.any()
    assert float(singular.a.detach().std()) == pytest.approx(0.02, rel=0.1)


class Net(nn.Module):
    """Two layers and a loss, for peft and for us."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()
        self.first, self.second = Projection(8, 7), Projection(7, 6)

    def forward(self, x: Tensor, y: Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=(self.second(torch.tanh(self.first(x))) - y).square().mean())


@pytest.mark.parametrize("interval", [1, 3])
def test_ranks_step_by_step(interval: int) -> None:
    torch.manual_seed(1)
    steps, ours = 16, Net()
    theirs = Net()
    theirs.load_state_dict(ours.state_dict())
    settings = {"init_r": 5, "target_r": 2, "tinit": 4, "tfinal": 4, "deltaT": interval, "lora_alpha": 16}
    config = peft.AdaLoraConfig(target_modules=["first", "second"], total_step=steps, **settings)
    wrapped = peft.get_peft_model(theirs, config)
    own = {"init_rank": 5, "target_rank": 2, "tinit": 0.25, "tfinal": 0.25, "interval": interval, "alpha": 16}
    method = find_method("adalora", {"places": ["first", "second"], **own})
    method.apply(ours)
    pairs = []
    for name in ("first", "second"):
        brick, layer = getattr(ours, name), getattr(theirs, name)
        pairs += [(getattr(brick, factor), getattr(layer, f"lora_{factor.upper()}")["default"]) for factor in "aeb"]
    with torch.no_grad():
        for mine, other in pairs:
            mine.copy_(other.view_as(mine))
    optimizers = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=0.02) for m in (ours, theirs)]
    for step in range(1, steps + 1):
        x, y = torch.randn(10, 8), torch.randn(10, 6)
        (term,) = method.terms(ours)
        loss = ours(x, y).loss + term.weight * term.sum / term.count
        other_loss = wrapped.base_model(x, y).loss  # the wrapper's own forward leaves the term out
        torch.testing.assert_close(loss, other_loss, atol=1e-5, rtol=1e-5)
        for total, optimizer in zip((loss, other_loss), optimizers, strict=True):
            total.backward()
            optimizer.step()
        method.after_step(ours, step / steps)
        wrapped.base_model.update_and_allocate(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        for mine, other in pairs:
            torch.testing.assert_close(mine, other.view_as(mine), atol=1e-4, rtol=1e-3)
            assert torch.equal(mine == 0, other.view_as(mine) == 0)
    pattern = wrapped.peft_config["default"].rank_pattern
    ranks = method.ranks(ours)
    assert list(ranks.values()) == [sum(kept) for kept in pattern.values()]
    assert sum(ranks.values()) == 4
    assert not method.idle(ours)
