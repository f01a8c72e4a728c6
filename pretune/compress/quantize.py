"""Quantization: the matrices of some places are rounded to a format of `nn/formats/`, with values chosen by data.

1. The places are found and checked: every matrix must fit its format, before anything is computed.
2. With calibration data, layers are visited in order (see `walk`). In a layer, projections that read the same rows are
   observed and rounded together, before those that come after them are observed; so each is calibrated on the outputs
   of what was rounded already.
3. The vocabulary is rounded to the nearest, in a format of its own.
4. Rounded bricks take the places of projections and of the vocabulary.

The output error of each place on the calibration data is recorded, whatever chose the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from pretune import config
from pretune.compress.folding import find_source
from pretune.compress.method import CompressContext, check_name
from pretune.compress.values.inputs import Inputs
from pretune.compress.values.method import Values, find_values, levels_of
from pretune.compress.walk import InputGroup, Layer, walk
from pretune.errors import DataError, UsageError
from pretune.models.model import LanguageModel
from pretune.nn.formats.format import (
    Format,
    InputRounding,
    find_format,
    outlier,
    pack,
    problem,
    vocabulary_format,
)
from pretune.nn.projection import Projection
from pretune.nn.rounded import PackedMatrix, RoundedProjection, RoundedVocabulary
from pretune.nn.stack import Stack
from pretune.nn.vocabulary import Vocabulary, VocabularyBrick
from pretune.tune.surgery import VOCABULARY, Site, find_sites, projection_sites, vocabulary_sites

_LISTED = 3  # places in a message
ROUNDS = True
WANTS_PLAIN = True


class Config(config.Config):
    """What is rounded, and how.

    Attributes:
        format: of the matrices: bf16, int8, q8_0, q4_0, or a user's own file.
        values: how values are chosen: rtn, imatrix, gptq, awq, hqq, or a user's own file.
        options: settings of `values`, such as damp of gptq.
        places: roles such as attention.query, feedforward, layers[2:-2]; by default all of every layer.
        keep: places among them that stay as they are; vocabulary too.
        vocabulary: its format; by default q8_0 beside q4_0, else the same.
        inputs: whether matmuls read their inputs as they are, or rounded to 8 bits (int8) or 7 (int7) in groups of 32.
    """

    format: str = "q8_0"
    values: str = "rtn"
    options: dict[str, Any] = Field(default_factory=dict)
    places: tuple[str, ...] = ("layers",)
    keep: tuple[str, ...] = ()
    vocabulary: str | None = None
    inputs: InputRounding = "exact"

    @field_validator("format", "vocabulary")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        if value is not None:
            check_name("nn.formats", value, "format")
        return value

    @field_validator("values")
    @classmethod
    def _known_values(cls, value: str) -> str:
        check_name("compress.values", value, "values")
        return value


def needs(config: Config) -> Iterable[str]:
    """Calibration data, where values are chosen by data."""
    return ["calibration"] if find_values(config.values, config.options).needs_inputs else []


@dataclass
class _RoundingPlan:
    """What will be rounded: sites with their formats, and the packed tensors as they come."""

    values: Values
    formats: dict[str, Format]
    sites: list[Site]
    context: CompressContext
    packed: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    unfolded: list[str] = field(default_factory=list)


def apply(model: LanguageModel, config: Config, context: CompressContext) -> LanguageModel:
    """Rounds the places of a plain model.

    Raises:
        UsageError: a place that names nothing, a format that `values` cannot choose for, a model that is rounded or
            tuned already.
        DataError: a matrix that does not fit the format, too little calibration data, or inputs that are not finite.
    """
    plan = _plan_rounding(model, config, context)
    if context.calibration is not None:
        _check_calibration(plan)
        _round_layers(model, plan)
    for site in plan.sites:
        if site.path not in plan.packed:
            if plan.values.needs_inputs:
                context.note(f"{site.path}: the calibration data never reach it; rounded to the nearest")
            _round_projection(plan, site, None)
    _replace_projections(plan, config)
    _round_vocabulary(model, config, context)
    if plan.unfolded:
        context.note(
            f"{plan.values.name}: the inputs of {len(plan.unfolded)} places, such as {plan.unfolded[0]}, come from no "
            "norm or projection of their own, so that their factors stay 1"
        )
    return model


def acted(model: LanguageModel) -> list[str]:
    """Each rounded place with its format."""
    sites = [*projection_sites(model), *vocabulary_sites(model)]
    rounded = [site for site in sites if isinstance(site.brick, RoundedProjection | RoundedVocabulary)]
    return [f"{site.path}: {site.brick.format.NAME}" for site in rounded]  # type: ignore[union-attr]


def _plan_rounding(model: LanguageModel, config: Config, context: CompressContext) -> _RoundingPlan:
    """Finds and checks what will be rounded."""
    format, values = find_format(config.format), find_values(config.values, config.options)
    if config.values != "rtn":
        levels_of(format, config.values)
    _refuse_replaced(model)
    kept = {site.path for site in find_sites(model, config.keep, "keep")} if config.keep else set()
    chosen = [s for s in find_sites(model, config.places) if s.path not in kept and s.role != VOCABULARY]
    sites = [site for site in chosen if isinstance(site.brick, Projection)]
    if not sites:
        raise UsageError(
            f"compress.quantize: nothing is left to be rounded of places {', '.join(config.places)}; name others (the "
            "vocabulary's format is the field 'vocabulary'), or keep fewer places"
        )
    _check_matrices(sites, format)
    for site in sites:
        if (note := outlier(cast(Projection, site.brick).weight)) is not None:
            context.note(f"warning: {site.path}: {note}, and the weights near it lose digits; --keep keeps a place")
    return _RoundingPlan(values, {site.path: format for site in sites}, sites, context)


def _refuse_replaced(model: LanguageModel) -> None:
    """Refuses a model whose bricks are no plain ones."""
    for site in [*projection_sites(model), *vocabulary_sites(model)]:
        if isinstance(site.brick, RoundedProjection | RoundedVocabulary):
            raise UsageError(
                f"this model is rounded already ({site.path} to {site.brick.format.NAME}), and rounding again would "
                "add to the error; quantize the model that it was made of"
            )
        if not isinstance(site.brick, Projection | Vocabulary):
            name = type(site.brick).__name__
            raise UsageError(
                f"{site.path} is a {name}, which has no matrix of its own to round; use pretune merge first"
            )


def _check_matrices(sites: Sequence[Site], format: Format) -> None:
    problems = []
    for site in sites:
        if (text := problem(format, cast(Projection, site.brick).weight)) is not None:
            problems.append(f"{site.path}: {text}")
    if problems:
        more = f"; and {len(problems) - _LISTED:,} more places" if len(problems) > _LISTED else ""
        raise DataError("; ".join(problems[:_LISTED]) + more + " (--keep PLACE)")


def _check_calibration(plan: _RoundingPlan) -> None:
    """Refuses fewer rows than the widest matrix has columns, of which the moments would say too little."""
    calibration = plan.context.get_calibration()
    widest = max(plan.sites, key=lambda site: cast(Projection, site.brick).in_features)
    width = cast(Projection, widest.brick).in_features
    if plan.values.needs_inputs and calibration.tokens < width:
        raise DataError(
            f"{calibration.source}: {calibration.tokens:,} tokens are too few for values {plan.values.name!r}: "
            f"{widest.path} has {width:,} columns, so that at least {width:,} tokens are needed; give more text, or "
            "raise calibration.tokens"
        )


def _round_layers(model: LanguageModel, plan: _RoundingPlan) -> None:
    """Rounds all sites that the calibration data reach."""
    context = plan.context
    wanted = {site.path for site in plan.sites}
    total = sum(len(m.order) for m in model.modules() if isinstance(m, Stack))
    for number, layer in enumerate(walk(model, context.get_calibration(), context.half)):
        here = [site for site in layer.sites if site.path in wanted]
        if here and plan.values.rescales:
            for group in _groups(layer, here):
                _rescale(model, plan, group)
        for group in _groups(layer, here):
            for site in group.sites:
                _round_projection(plan, site, group.inputs)
        context.progress(number + 1, total, "layers")
        if len(plan.packed) == len(plan.sites):
            break  # what comes after the last place is of no use


def _groups(layer: Layer, sites: Sequence[Site]) -> Iterable[InputGroup]:
    """The sites of a layer by what they read, each group observed when those before it were changed."""
    pending = list(sites)
    while pending and (group := layer.observe(pending)) is not None:
        yield group
        pending = [site for site in pending if site not in group.sites]


@torch.no_grad()
def _rescale(model: LanguageModel, plan: _RoundingPlan, group: InputGroup) -> None:
    """Folds factors of the inputs of some sites into what gives them."""
    source = find_source(model, group.sites)
    if source is None:
        plan.unfolded += [site.path for site in group.sites]
        return
    weights = [cast(Projection, site.brick).weight.detach() for site in group.sites]
    factors = plan.values.rescale(weights, plan.formats[group.sites[0].path], group.inputs)
    if factors is not None:
        source.rescale(factors)


@torch.no_grad()
def _round_projection(plan: _RoundingPlan, site: Site, inputs: Inputs | None) -> None:
    """Rounds the matrix of a site in place, and keeps it packed."""
    brick, format = cast(Projection, site.brick), plan.formats[site.path]
    weight = brick.weight.detach()
    if inputs is None and plan.values.needs_inputs:
        tensors = pack(format, weight)
    else:
        tensors = plan.values.choose(weight, format, inputs)
    rounded = format.dense(tensors)
    plan.packed[site.path] = tensors
    error = float((weight - rounded).norm() / weight.norm().clamp_min(1e-30))
    facts: dict[str, float | str] = {"format": format.NAME, "weight_error": error}
    if inputs is not None:
        facts["error"] = inputs.error(weight, rounded)
    plan.context.record(site.path, **facts)
    brick.weight.copy_(rounded)


def _replace_projections(plan: _RoundingPlan, config: Config) -> None:
    """Puts rounded bricks at the places."""
    for site in plan.sites:
        brick = cast(Projection, site.brick)
        packed = PackedMatrix(plan.formats[site.path], plan.packed.pop(site.path), brick.in_features)
        bias = cast(nn.Parameter | None, brick.bias)
        site.replace(RoundedProjection(packed, bias, config.inputs))


@torch.no_grad()
def _round_vocabulary(model: LanguageModel, config: Config, context: CompressContext) -> None:
    """Rounds every vocabulary that is not kept."""
    kept = {site.path for site in find_sites(model, config.keep, "keep")} if config.keep else set()
    format = find_format(config.vocabulary or vocabulary_format(config.format))
    for site in vocabulary_sites(model):
        if site.path in kept:
            continue
        weight = cast(VocabularyBrick, site.brick).dense().detach()
        if (text := problem(format, weight)) is not None:
            raise DataError(f"{site.path}: {text} (--keep vocabulary)")
        tensors = pack(format, weight)
        error = float((weight - format.dense(tensors)).norm() / weight.norm().clamp_min(1e-30))
        context.record(site.path, format=format.NAME, weight_error=error)
        site.replace(RoundedVocabulary(PackedMatrix(format, tensors, weight.shape[1]), config.inputs))
