"""The tuning method LoRA: the body is frozen, and low-rank products are learned beside some of its matrices.

Source: Hu et al. 2021, arXiv 2106.09685; rank-stabilized: Kalajdzievski 2023, arXiv 2312.03732; weight-decomposed: Liu
et al. 2024, arXiv 2402.09353.
"""

from __future__ import annotations

import math
from typing import TypeVar, cast

from pydantic import Field
from torch import nn

from pretune import config
from pretune.errors import UsageError
from pretune.nn.low_rank import DecomposedProjection, LowRankProjection
from pretune.nn.projection import ProjectionBrick, named_projections
from pretune.tune.proof import still_zero
from pretune.tune.surgery import Site, find_sites, freeze_body, merge_bricks, query_and_value

M = TypeVar("M", bound=nn.Module)


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
    freeze_body(model)
    brick = DecomposedProjection if config.weight_decomposed else LowRankProjection
    for site in sites:
        base = projection_at(site, config.rank)
        site.brick.requires_grad_(False)
        site.replace(brick(base, config.rank, config.scale, config.dropout))
    return model


def merge(model: M) -> M:
    """Adds the products to the matrices."""
    merge_bricks(model)
    return model


def acted(model: nn.Module) -> list[str]:
    """Each place with its rank."""
    return [f"{name}: rank {b.rank}" for name, b in named_projections(model) if isinstance(b, LowRankProjection)]


def idle(model: nn.Module) -> list[str]:
    """The places whose product is still zero."""
    return still_zero(model, LowRankProjection, "b")


def projection_at(site: Site, rank: int) -> ProjectionBrick:
    """The projection of a site, whose widths allow the rank.

    Raises:
        UsageError: they do not.
    """
    base = cast(ProjectionBrick, site.brick)
    width = min(base.in_features, base.out_features)
    if rank > width:
        raise UsageError(
            f"tune: rank {rank} is above the {width} rows or columns of {site.path}; use a lower rank, or other places"
        )
    return base
