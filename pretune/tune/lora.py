"""The tuning method LoRA: the body is frozen, and low-rank products are learned beside some of its matrices.

Source: Hu et al. 2021, arXiv 2106.09685; rank-stabilized: Kalajdzievski 2023, arXiv 2312.03732; weight-decomposed: Liu
et al. 2024, arXiv 2402.09353.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

from pydantic import Field
from torch import Tensor, nn

from pretune import config
from pretune.errors import UsageError
from pretune.nn.low_rank import DecomposedProjection, DecomposedVocabulary, LowRankProjection, LowRankVocabulary
from pretune.nn.projection import ProjectionBrick
from pretune.nn.vocabulary import VocabularyBrick
from pretune.tune.proof import still_zero
from pretune.tune.sums import all_places, sum_of_products
from pretune.tune.surgery import Site, find_sites, freeze_body, merge_bricks, query_and_value

M = TypeVar("M", bound=nn.Module)
RATE = 5e-4  # Hu et al., appendix D, for RoBERTa base
LowRank = LowRankProjection | LowRankVocabulary
USUAL = ("query", "value")  # the places of settings that name none, as `query_and_value` finds them


class Config(config.Config):
    """Where low-rank products are learned, and of which rank.

    Attributes:
        places: roles such as attention.query, feedforward, layers[-2:], vocabulary or head; by default the query and
            value of every attention.
        rank: of the products.
        alpha: scales the products: by alpha / rank.
        dropout: rate at which their input is dropped while training.
        rank_stabilized: scale by alpha / sqrt(rank), so that higher ranks do not learn more slowly.
        weight_decomposed: learn the length of each row of the matrix apart from its direction (DoRA).
    """

    places: tuple[str, ...] = ()
    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    rank_stabilized: bool = False
    weight_decomposed: bool = False

    @property
    def scale(self) -> float:
        """Factor of the products."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


def apply(model: M, config: Config) -> M:
    """Freezes all but the heads, and puts low-rank products at the places.

    Raises:
        UsageError: a place that names nothing, or a rank above the width of one.
    """
    sites = find_sites(model, config.places) if config.places else query_and_value(model)
    for site in sites:
        check_rank(site, config.rank)
    freeze_body(model)
    for site in sites:
        site.brick.requires_grad_(False)
        site.replace(_brick(site.brick, config))
    return model


def _brick(base: nn.Module, config: Config) -> nn.Module:
    """What stands at a place from now on."""
    rank, scale, decomposed = config.rank, config.scale, config.weight_decomposed
    if isinstance(base, ProjectionBrick):
        projection = DecomposedProjection if decomposed else LowRankProjection
        return projection(base, rank, scale, config.dropout)
    vocabulary = DecomposedVocabulary if decomposed else LowRankVocabulary
    return vocabulary(cast(VocabularyBrick, base), rank, scale)


def merge(model: M) -> M:
    """Adds the products to the matrices."""
    merge_bricks(model)
    return model


def acted(model: nn.Module) -> list[str]:
    """Each place with its rank."""
    return [f"{name}: rank {brick.rank}" for name, brick in model.named_modules() if isinstance(brick, LowRank)]


def idle(model: nn.Module) -> list[str]:
    """The places whose product is still zero."""
    return still_zero(model, LowRankProjection, "b") + still_zero(model, LowRankVocabulary, "b")


def check_rank(site: Site, rank: int) -> None:
    """Refuses a rank above the widths of a site.

    Raises:
        UsageError: it is above the rows or columns of the matrix.
    """
    brick = site.brick
    widths = (brick.in_features, brick.out_features) if isinstance(brick, ProjectionBrick) else _widths(brick)
    if rank > min(widths):
        raise UsageError(
            f"tune: rank {rank} is above the {min(widths)} rows or columns of {site.path}; use a lower rank, or other "
            "places"
        )


def _widths(brick: nn.Module) -> tuple[int, int]:
    vocabulary = cast(VocabularyBrick, brick)
    return vocabulary.size, vocabulary.width


def weighted_sum(
    parts: Sequence[tuple[Config, Mapping[str, Tensor]]], weights: Sequence[float]
) -> tuple[str, Config, dict[str, Tensor]]:
    """What changes the matrices by the weighted sum of what several models learned: products of the ranks' sum.

    Raises:
        UsageError: lengths were learned apart from directions (DoRA), which is no sum.
    """
    if any(config.weight_decomposed for config, _ in parts):
        raise UsageError("weight_decomposed (DoRA) changes lengths of rows too, which do not add up")
    products = [
        {name[:-2]: (tensors[f"{name[:-2]}.b"] * config.scale, a) for name, a in tensors.items() if name.endswith(".a")}
        for config, tensors in parts
    ]
    tensors, rank = sum_of_products(products, weights)
    places = all_places([config.places for config, _ in parts], USUAL)
    dropout = max(config.dropout for config, _ in parts)
    return "lora", Config(places=places, rank=rank, alpha=rank, dropout=dropout), tensors
