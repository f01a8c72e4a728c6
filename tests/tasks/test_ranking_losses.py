"""Losses of rerankers, against those of `sentence-transformers` on random lists, and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sentence_transformers.cross_encoder import CrossEncoder, losses
from torch import Tensor

from pretune.find import variants
from pretune.tasks.ranking_losses.ranking_loss import AXIS, RankingLoss, find_loss

NAMES = variants(AXIS)


class Encoder(CrossEncoder):
    """A cross-encoder that knows the logits of numbered passages."""

    num_labels, device = 1, torch.device("cpu")

    def __init__(self, logits: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.logits = logits

    def preprocess(self, pairs: list[Any], **_: Any) -> dict[str, Tensor]:
        return {"numbers": torch.tensor([int(passage) for _, passage in pairs])}

    def forward(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"scores": self.logits[tokens["numbers"]]}


def random_list(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    size = int(torch.randint(2, 9, (), generator=generator))
    logits = 3 * torch.randn(size, generator=generator)
    grades = torch.randint(0, 4, (size,), generator=generator).float()
    grades[0] = grades[1] + 1
    return logits, grades


def own(loss: RankingLoss, logits: Tensor, grades: Tensor, extra: int = 0) -> Tensor:
    """The loss of one list, with a number of absent passages behind it."""
    wide = torch.cat([logits, torch.full((extra,), -torch.inf)])[None]
    present = torch.arange(wide.shape[1])[None] < len(logits)
    return loss(wide, torch.cat([grades, torch.zeros(extra)])[None], present)[0]


def peer(name: str, **settings: Any) -> Any:
    return lambda logits: getattr(losses, name)(Encoder(logits), **settings)


CASES = [
    ("ranknet", {}, "RankNetLoss", {"reduction_log": "natural"}),
    ("ranknet", {"sigma": 2.0}, "RankNetLoss", {"reduction_log": "natural", "sigma": 2.0}),
    ("listnet", {}, "ListNetLoss", {}),
    ("lambdaloss", {}, "LambdaLoss", {"reduction_log": "natural"}),
    ("lambdaloss", {"k": 2}, "LambdaLoss", {"reduction_log": "natural", "k": 2}),
]


@pytest.mark.parametrize(("name", "fields", "peer_name", "peer_fields"), CASES)
def test_list_losses_are_those_of_the_peer(
    name: str, fields: dict[str, Any], peer_name: str, peer_fields: dict[str, Any]
) -> None:
    loss, make, generator = find_loss({name: fields}), peer(peer_name, **peer_fields), torch.Generator().manual_seed(0)
    for _ in range(200):
        logits, grades = random_list(generator)
        wanted = make(logits)((["q"], [[str(n) for n in range(len(logits))]]), [grades])
        assert own(loss, logits, grades, extra=2) == pytest.approx(float(wanted), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "fields", "peer_name"),
    [
        ("bce", {}, "BinaryCrossEntropyLoss"),
        ("bce", {"pos_weight": 3.0}, "BinaryCrossEntropyLoss"),
        ("mse", {}, "MSELoss"),
    ],
)
def test_pointwise_losses_are_those_of_the_peer(name: str, fields: dict[str, Any], peer_name: str) -> None:
    loss, generator = find_loss({name: fields}), torch.Generator().manual_seed(1)
    make = peer(peer_name, **({"pos_weight": torch.tensor(3.0)} if fields else {}))
    for _ in range(100):
        logits, grades = random_list(generator)
        grades = grades.clamp(max=1.0)
        wanted = make(logits)([["q"] * len(logits), [str(n) for n in range(len(logits))]], grades)
        assert own(loss, logits, grades, extra=1) / len(logits) == pytest.approx(float(wanted), rel=1e-5)


def test_margins_are_those_of_the_peer() -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(100):
        logits, grades = random_list(generator)
        columns = [[str(n)] for n in range(len(logits))]
        wanted = peer("MarginMSELoss")(logits)([["q"], *columns], list(grades[:, None].T))
        assert own(find_loss("marginmse"), logits, grades, extra=3) == pytest.approx(float(wanted), rel=1e-5)


def test_softmax_compares_each_relevant_passage_with_the_irrelevant_ones() -> None:
    logits, grades = torch.tensor([2.0, 1.0, 0.5]), torch.tensor([1.0, 3.0, 0.0])
    first = -math.log(math.exp(2.0) / (math.exp(2.0) + math.exp(0.5)))
    second = -math.log(math.exp(1.0) / (math.exp(1.0) + math.exp(0.5)))
    assert own(find_loss("softmax"), logits, grades, extra=1) == pytest.approx((first + 3 * second) / 4)
    single = torch.nn.functional.cross_entropy(logits[None], torch.tensor([0]))
    assert own(find_loss("softmax"), logits, torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(float(single))


def test_margin_is_content_with_a_distance() -> None:
    grades = torch.tensor([1.0, 0.0, 0.0])
    assert own(find_loss("margin"), torch.tensor([2.0, 1.0, -5.0]), grades) == 0.0
    assert own(find_loss("margin"), torch.tensor([2.0, 1.5, -5.0]), grades) == pytest.approx(0.25)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_and_raise_the_better_passage(name: str) -> None:
    loss = find_loss(name)
    logits = torch.tensor([[0.0, 50.0, 1.0], [0.0, 0.1, -torch.inf]], requires_grad=True)
    grades = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    present = logits.detach().isfinite()
    losses = loss(logits, grades, present)
    assert losses.shape == (2,)
    assert losses.isfinite().all()
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, 0] < 0).all()
    assert logits.grad[1, 2] == 0.0
