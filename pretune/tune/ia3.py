"""The tuning method (IA)^3: the body is frozen, and factors of keys, values and inner feed-forward runs are learned.

Source: Liu et al. 2022, arXiv 2205.05638.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from pretune import config
from pretune.errors import UsageError
from pretune.nn.projection import ProjectionBrick
from pretune.nn.scaling import ScaledInput, ScaledOutput
from pretune.tune.sums import sum_of_factors
from pretune.tune.surgery import Site, find_sites, freeze_body, merge_bricks, projection_sites, select_sites

M = TypeVar("M", bound=nn.Module)
RATE = 5e-3  # Liu et al., section 3.3: 3e-3 for T0
_USUAL = {"attention.key", "attention.value", "cross.key", "cross.value", "feedforward.down"}


class Config(config.Config):
    """Where factors are learned.

    Attributes:
        places: roles such as attention.key, feedforward.down or layers[-2:]; by default the key and the value of every
            attention and the projection down of every feed-forward.
        inputs: those of the places where the input is scaled, and not the output.
    """

    places: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("feedforward.down",)


def apply(model: M, config: Config) -> M:
    """Freezes all but the heads, and puts factors at the places.

    Raises:
        UsageError: a place that names nothing, or no projection.
    """
    sites = find_sites(model, config.places) if config.places else _usual_sites(model)
    for site in sites:
        if not isinstance(site.brick, ProjectionBrick):
            raise UsageError(
                f"tune.ia3.places: {site.path} is a table of tokens, and factors scale projections; remove it, or "
                "choose --tune lora"
            )
    inputs = {site.path for site in _scaled_inputs(model, sites, config)}
    freeze_body(model)
    for site in sites:
        assert isinstance(site.brick, ProjectionBrick)
        site.brick.requires_grad_(False)
        site.replace(ScaledInput(site.brick) if site.path in inputs else ScaledOutput(site.brick))
    return model


def merge(model: M) -> M:
    """Multiplies the matrices by the factors."""
    merge_bricks(model)
    return model


def acted(model: nn.Module) -> list[str]:
    """The places whose factors are not all 1."""
    return [name for name, brick in _bricks(model) if bool((brick.scale != 1).any())]


def idle(model: nn.Module) -> list[str]:
    """The places whose factors are still 1."""
    return [f"{name}: scale is still 1" for name, brick in _bricks(model) if bool((brick.scale == 1).all())]


def _bricks(model: nn.Module) -> list[tuple[str, ScaledOutput | ScaledInput]]:
    return [(name, brick) for name, brick in model.named_modules() if isinstance(brick, ScaledOutput | ScaledInput)]


def _usual_sites(model: nn.Module) -> list[Site]:
    """Finds the places of the paper.

    Raises:
        UsageError: the model has none.
    """
    sites = [site for site in projection_sites(model) if site.role in _USUAL]
    if not sites:
        roles = sorted({site.role for site in projection_sites(model)})
        raise UsageError(f"this model has no attention.key; name places among {', '.join(roles)}")
    return sites


def _scaled_inputs(model: nn.Module, sites: list[Site], config: Config) -> list[Site]:
    """Finds those of the sites where the input is scaled.

    Raises:
        UsageError: `inputs` names what is none of the places.
    """
    if tuple(config.inputs) != Config().inputs:
        return select_sites(sites, config.inputs, "inputs")
    wanted = {site.path for site in projection_sites(model) if site.role == "feedforward.down"}
    return [site for site in sites if site.path in wanted]


def weighted_sum(
    parts: Sequence[tuple[Config, Mapping[str, Tensor]]], weights: Sequence[float]
) -> tuple[str, Config, dict[str, Tensor]]:
    """Factors that change the matrices by the weighted sum of the changes that several models learned.

    Raises:
        UsageError: the models have factors at other places, or of inputs at other places.
    """
    settings = parts[0][0]
    if any(other != settings for other, _ in parts):
        raise UsageError("the factors stand at other places, or scale inputs at other places")
    return "ia3", settings, sum_of_factors([tensors for _, tensors in parts], weights)
