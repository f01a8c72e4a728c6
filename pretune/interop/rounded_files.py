"""Rounded matrices in a model's files: under our own names, with their formats in `config.json` under `pretune`.

A place is the path of its brick in the model, such as `stack.blocks.0.attention.query`. Its tensors are called by the
place and their name in the format: `stack.blocks.0.attention.query.blocks`. All else of the model has the names of its
family, so that its biases and norms are found as ever. `quantization_config` keeps other software from reading such a
model without its matrices: `transformers` refuses one that names no method.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pretune.errors import DataError
from pretune.interop.file_fields import QUANTIZATION, ROUNDED_NOTICE
from pretune.interop.metadata import FIELD, resolve
from pretune.interop.weights import NamedTensors
from pretune.models.metadata import RoundedPlaces
from pretune.models.model import LanguageModel
from pretune.nn.formats.format import Format, InputRounding, empty, find_format, is_finite
from pretune.nn.projection import ProjectionBrick, bias_of
from pretune.nn.rounded import PackedMatrix, RoundedBrick, RoundedProjection, RoundedVocabulary, rounded_bricks
from pretune.nn.vocabulary import VocabularyBrick
from pretune.tune.surgery import Site, merge_bricks, projection_sites, vocabulary_sites

LAYOUT = 1
"""Version of how tensors of formats are laid out in files."""


def places_of(model: nn.Module) -> tuple[RoundedPlaces, ...] | None:
    """What `config.json` says of a model's rounded matrices; None where it has none."""
    groups: dict[tuple[str, InputRounding], list[str]] = {}
    for path, brick in rounded_bricks(model):
        groups.setdefault((brick.packed.name, brick.inputs), []).append(path)
    records = [
        RoundedPlaces.of(name).model_copy(update={"layout": LAYOUT, "inputs": inputs, "places": tuple(places)})
        for (name, inputs), places in groups.items()
    ]
    return tuple(records) or None


def rounding_fields(places: Sequence[RoundedPlaces] | None) -> dict[str, Any]:
    """What other software reads in `config.json`; nothing for a plain model."""
    return {QUANTIZATION: dict(ROUNDED_NOTICE)} if places else {}


def put_rounded(
    model: LanguageModel, places: Sequence[RoundedPlaces] | None, weights: NamedTensors, where: str
) -> None:
    """Puts bricks without memory where the files have rounded matrices.

    Those of a head that this model does not have are left out.

    Args:
        where: the folder or file, for messages.

    Raises:
        DataError: an unknown or changed format, a place that the model does not have, a tensor that is missing, or that
            has another shape or dtype than the format.
        MissingInputError: the user's file of a format is gone.
    """
    if not places:
        return
    sites = {site.path: site for site in (*projection_sites(model), *vocabulary_sites(model))}
    for number, group in enumerate(places):
        if group.layout > LAYOUT:
            raise DataError(
                f"{where}: its {group.name} matrices were saved by a newer pretune (layout {group.layout}, this one "
                f"reads {LAYOUT}); update pretune"
            )
        format = find_format(resolve(group, "nn.formats", Path(where), f"rounded.{number}"))
        for path in group.places:
            if path.startswith("heads.") and path.split(".")[1] not in model.heads:
                continue
            if path not in sites:
                raise DataError(
                    f"{where}: config.json says that {path!r} is rounded to {format.NAME}, and this {model.family} has "
                    "no matrix there; the two files are not of the same model"
                )
            site = sites[path]
            packed = _packed(site, format, weights, where)
            site.replace(_brick(site, packed, group.inputs))


def _packed(site: Site, format: Format, weights: NamedTensors, where: str) -> PackedMatrix:
    """A matrix without memory, whose tensors in the files are as the format has them."""
    brick = site.brick
    if isinstance(brick, ProjectionBrick):
        rows, width = brick.out_features, brick.in_features
    else:
        vocabulary = cast(VocabularyBrick, brick)
        rows, width = vocabulary.size, vocabulary.width
    if width % format.GROUP:
        raise DataError(
            f"{where}: config.json says that {site.path!r} is rounded to {format.NAME}, and its width {width} is no "
            f"multiple of {format.GROUP}; the file is damaged"
        )
    expected = empty(format, rows, width)
    for key, tensor in expected.items():
        name = f"{site.path}.{key}"
        if name not in weights.shapes:
            raise DataError(f"{where}: tensor {name!r} is missing; the files are incomplete: copy or fetch them again")
        shape, dtype = tuple(weights.shapes[name]), weights.dtypes[name]
        if shape != tuple(tensor.shape) or dtype != tensor.dtype:
            raise DataError(
                f"{where}: tensor {name!r} is {dtype} of shape {list(shape)}; {format.NAME} of a matrix of {rows} x "
                f"{width} is {tensor.dtype} of shape {list(tensor.shape)}; the files are not of the same model"
            )
    return PackedMatrix(format, expected, width)


def _brick(site: Site, packed: PackedMatrix, inputs: InputRounding) -> RoundedBrick:
    if not isinstance(site.brick, ProjectionBrick):
        return RoundedVocabulary(packed, inputs)
    return RoundedProjection(packed, cast(nn.Parameter | None, bias_of(site.brick)), inputs)


def fill_rounded(model: LanguageModel, weights: NamedTensors, where: str) -> None:
    """Reads the rounded matrices of a model, as they are in the files.

    Raises:
        DataError: a scale or a value that is not finite.
    """
    for path, brick in rounded_bricks(model):
        tensors = {key: weights.read(f"{path}.{key}").clone() for key in brick.tensors()}
        if not is_finite(brick.format, tensors):
            raise DataError(
                f"{where}: the {brick.format.NAME} matrix {path!r} holds NaN or infinity in its scales; copy or fetch "
                "the files again, or compress the model again"
            )
        brick.packed.fill(tensors)


def widened(model: LanguageModel) -> LanguageModel:
    """A copy of a model whose rounded matrices are plain ones in fp32, with the values that they stand for."""
    plain = copy.deepcopy(model)
    merge_bricks(plain)
    return plain


@torch.no_grad()
def with_weights(model: LanguageModel, weights: Mapping[str, Tensor]) -> LanguageModel:
    """A copy of a model in fp32 on the CPU with the same rounded matrices, and other values of all else.

    Args:
        weights: by the names of its parameters.
    """
    out = copy.deepcopy(model).float().cpu()
    for name, parameter in out.named_parameters():
        parameter.copy_(weights[name])
    return out


def check_notice(path: Path, fields: Mapping[str, Any], places: Sequence[RoundedPlaces] | None) -> None:
    """Refuses a `config.json` that says one thing to others and another here.

    Raises:
        DataError: it names rounded matrices in one of its two fields alone.
    """
    if bool(places) != (fields.get(QUANTIZATION) == ROUNDED_NOTICE):
        raise DataError(
            f"{path}: fields {FIELD!r} and {QUANTIZATION!r} disagree on whether the weights are rounded; the file was "
            "changed: bring the old one back"
        )
