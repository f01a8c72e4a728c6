"""The tuning method AdaLoRA: low-rank products whose ranks are cut where they matter least, down to a budget.

    after each step: importance of each triplet --budget of this time--> the least important are set to zero

Ranks stay as they are at first, shrink along a cubic curve, and are fixed for the last part of the run.

Source: Zhang et al. 2023, arXiv 2303.10512.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pretune import config
from pretune.loss import Term
from pretune.nn.projection import ProjectionBrick
from pretune.nn.singular import SingularBrick, SingularProjection, SingularVocabulary
from pretune.nn.vocabulary import VocabularyBrick
from pretune.tune import lora
from pretune.tune.lora import check_rank
from pretune.tune.sums import all_places, sum_of_products
from pretune.tune.surgery import find_sites, freeze_body, merge_bricks, query_and_value

M = TypeVar("M", bound=nn.Module)
RATE = 1e-3  # Zhang et al., appendix C: 5e-4 to 2e-3 for DeBERTa base


class Config(config.Config):
    """Where low-rank products are learned, and how their ranks are cut.

    Attributes:
        places: roles such as attention.query, feedforward, layers[-2:], vocabulary or head; by default the query and
            value of every attention.
        init_rank: of each product at first.
        target_rank: of each product in the end, on average.
        alpha: scales the products: by alpha / init_rank.
        dropout: rate at which their input is dropped while training.
        tinit: fraction of the run before the first cut.
        tfinal: fraction of the run after the last cut.
        interval: steps between two cuts.
        beta1: of the moving average of each number's sensitivity.
        beta2: of the moving average of the sensitivity's uncertainty.
        orthogonal_weight: of the term that keeps the vectors of a product orthogonal.
    """

    places: tuple[str, ...] = ()
    init_rank: int = Field(12, ge=1)
    target_rank: int = Field(8, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    tinit: float = Field(0.1, ge=0, lt=1)
    tfinal: float = Field(0.3, ge=0, lt=1)
    interval: int = Field(1, ge=1)
    beta1: float = Field(0.85, gt=0, lt=1)
    beta2: float = Field(0.85, gt=0, lt=1)
    orthogonal_weight: float = Field(0.5, ge=0)

    @model_validator(mode="after")
    def _can_cut(self) -> Config:
        if self.target_rank > self.init_rank:
            raise ValueError(f"target_rank {self.target_rank} is above init_rank {self.init_rank}; lower it")
        if self.tinit + self.tfinal >= 1:
            raise ValueError("tinit and tfinal leave no time to cut ranks; their sum must be below 1")
        return self

    def budget(self, fraction: float, products: int) -> int:
        """How many triplets are kept in all at a time of the run, from 0 to 1."""
        first, last = self.init_rank * products, self.target_rank * products
        if fraction <= self.tinit:
            return first
        if fraction >= 1 - self.tfinal:
            return last
        left = 1 - (fraction - self.tinit) / (1 - self.tfinal - self.tinit)
        return int((first - last) * left**3 + last)


class RankAllocator(nn.Module):
    """What the method knows of the whole model.

    Args:
        config: of the method.

    Attributes:
        steps: that were counted.
        is_final: whether the ranks are fixed.
    """

    steps: Tensor
    is_final: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("is_final", torch.zeros((), dtype=torch.bool))


def apply(model: M, config: Config) -> M:
    """Freezes all but the heads, and puts low-rank products in singular values at the places.

    Raises:
        UsageError: a place that names nothing, or a rank above the width of one.
    """
    sites = find_sites(model, config.places) if config.places else query_and_value(model)
    for site in sites:
        check_rank(site, config.init_rank)
    freeze_body(model)
    rank, scale = config.init_rank, config.alpha / config.init_rank
    for site in sites:
        brick = site.brick.requires_grad_(False)
        if isinstance(brick, ProjectionBrick):
            site.replace(SingularProjection(brick, rank, scale, config.dropout))
        else:
            site.replace(SingularVocabulary(cast(VocabularyBrick, brick), rank, scale))
    model.add_module("rank_allocator", RankAllocator(config))
    return model


def terms(model: nn.Module) -> list[Term]:
    """How far vectors of a product are from orthogonal: the mean distance of their Gram matrices from identity."""
    config = _allocator(model).config
    if not config.orthogonal_weight:
        return []
    with torch.autocast(_allocator(model).steps.device.type, enabled=False):
        grams = [gram for brick in _bricks(model).values() for gram in (brick.a @ brick.a.t(), brick.b.t() @ brick.b)]
        identity = torch.eye(config.init_rank, device=grams[0].device)
        distances = torch.stack([torch.linalg.matrix_norm(gram - identity) for gram in grams])
    return [Term("orthogonality", distances.mean(), 1, config.orthogonal_weight)]


@torch.no_grad()
def after_step(model: nn.Module, fraction: float) -> None:
    """Averages what the gradient says of each number, and cuts ranks to the budget of this time.

    Args:
        fraction: how much of the run is done, from 0 to 1.
    """
    allocator, bricks = _allocator(model), [*_bricks(model).values()]
    config = allocator.config
    allocator.steps += 1
    if not allocator.is_final:
        allocator.is_final.fill_(fraction >= 1 - config.tfinal)
        if not allocator.is_final:
            observe(bricks, config.beta1, config.beta2)
        is_due = fraction > config.tinit and int(allocator.steps) % config.interval == 0
        if allocator.is_final or is_due:
            allocate(bricks, config.budget(fraction, len(bricks)))
    if allocator.is_final:
        for brick in bricks:
            brick.cut()


@torch.no_grad()
def observe(bricks: Sequence[SingularBrick], beta1: float, beta2: float) -> None:
    """Averages the sensitivity of each number, |value x gradient|, and how far it is from its average."""
    factors = [factor for brick in bricks for factor in brick.factors]
    means = [average for brick in bricks for average in brick.averages("sensitivity")]
    spreads = [average for brick in bricks for average in brick.averages("uncertainty")]
    now = torch._foreach_mul(factors, [torch.zeros_like(f) if f.grad is None else f.grad for f in factors])
    torch._foreach_abs_(now)
    torch._foreach_mul_(means, beta1)
    torch._foreach_add_(means, now, alpha=1 - beta1)
    torch._foreach_sub_(now, means)
    torch._foreach_abs_(now)
    torch._foreach_mul_(spreads, beta2)
    torch._foreach_add_(spreads, now, alpha=1 - beta2)


@torch.no_grad()
def allocate(bricks: Sequence[SingularBrick], budget: int) -> None:
    """Keeps the triplets that matter most of all products; of equal ones, the first."""
    importance = torch.cat([brick.importance() for brick in bricks])
    kept = torch.zeros_like(importance, dtype=torch.bool)
    kept[importance.argsort(descending=True, stable=True)[:budget]] = True
    own = torch.split(kept, [brick.rank for brick in bricks])
    for brick, mask in zip(bricks, own, strict=True):
        brick.kept.copy_(mask)
        brick.cut()


def merge(model: M) -> M:
    """Adds the products to the matrices."""
    merge_bricks(model)
    del model.rank_allocator
    return model


def ranks(model: nn.Module) -> dict[str, int]:
    """How many triplets are kept at each place."""
    return {name: int(brick.kept.sum()) for name, brick in _bricks(model).items()}


def acted(model: nn.Module) -> list[str]:
    """Each place with its rank at first and now."""
    first = _allocator(model).config.init_rank
    return [f"{name}: rank {first} -> {rank}" for name, rank in ranks(model).items()]


def idle(model: nn.Module) -> list[str]:
    """The places that have a rank and only zeros as values, and a budget that was not reached."""
    config, now = _allocator(model).config, ranks(model)
    total, wanted = sum(now.values()), config.target_rank * len(now)
    lines = [f"{name}: e is still 0" for name, brick in _bricks(model).items() if now[name] and not brick.e.any()]
    if total != wanted:
        first = config.init_rank * len(now)
        lines.append(f"rank_allocator: the ranks are {total:,} in all, from {first:,} to a budget of {wanted:,}")
    return lines


def is_ready(model: nn.Module) -> bool:
    """Whether the ranks are final, so that these weights may be those of the finished model."""
    return bool(_allocator(model).is_final)


def _allocator(model: nn.Module) -> RankAllocator:
    return cast(RankAllocator, model.get_submodule("rank_allocator"))


def _bricks(model: nn.Module) -> dict[str, SingularBrick]:
    return {name: brick for name, brick in model.named_modules() if isinstance(brick, SingularBrick)}


def weighted_sum(
    parts: Sequence[tuple[Config, Mapping[str, Tensor]]], weights: Sequence[float]
) -> tuple[str, config.Config, dict[str, Tensor]]:
    """What changes the matrices by the weighted sum of what several models learned: products of LoRA."""
    products = []
    for settings, tensors in parts:
        scale, product = settings.alpha / settings.init_rank, {}
        for path in (name.removesuffix(".a") for name in tensors if name.endswith(".a")):
            a, e, b = (tensors[f"{path}.{factor}"] for factor in ("a", "e", "b"))
            product[path] = ((b * e * scale)[:, e != 0], a[e != 0])
        products.append(product)
    summed, rank = sum_of_products(products, weights)
    places = all_places([settings.places for settings, _ in parts], lora.USUAL)
    dropout = max(settings.dropout for settings, _ in parts)
    return "lora", lora.Config(places=places, rank=rank, alpha=rank, dropout=dropout), summed
