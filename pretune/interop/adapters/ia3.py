"""(IA)^3 in the files of `adapters`: factors of the outputs of some matrices.

The library has factors of what a feed-forward's first matrix answers, before the activation; the paper, peft and
`tune.ia3` have them behind it. Both are read as what they are.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from pretune.errors import DataError
from pretune.interop.adapters.contents import NAME, Contents, Found
from pretune.interop.adapters.lora import PLACE, B, fields, matched
from pretune.interop.adapters.places import coverage, targets_of
from pretune.interop.peft.modules import ModuleTable
from pretune.models.model import LanguageModel
from pretune.nn.projection import ProjectionBrick
from pretune.nn.scaling import ScaledInput, ScaledOutput
from pretune.tune.surgery import projection_sites


@torch.no_grad()
def read(model: LanguageModel, contents: Contents, by_module: Found) -> None:
    """Puts the factors of a folder on their places."""
    table = ModuleTable(model)
    sites = {site.path: site for site in projection_sites(model)}
    for target, parts, tensors in matched(model, table, contents, by_module):
        bases = [cast(ProjectionBrick, sites[part.path].brick) for part in parts]
        rows = [base.out_features for base in bases]
        if tensors.keys() != {B} or tensors[B].shape != (sum(rows), 1):
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
            raise contents.damaged(f"{target.module.name!r} has {shapes}, expected {B} {[sum(rows), 1]}")
        for part, base, own in zip(parts, bases, torch.split(tensors[B].flatten(), rows), strict=True):
            brick = ScaledOutput(base)
            brick.scale.copy_(own)
            sites[part.path].replace(brick)


@torch.no_grad()
def write(model: LanguageModel, table: ModuleTable) -> Contents | None:
    """What the files say of a model's factors; None where it has none.

    Raises:
        DataError: factors of inputs, or of matrices that no one configuration of the library means.
    """
    sites = projection_sites(model)
    bricks = {site.path: site.brick for site in sites if isinstance(site.brick, ScaledOutput)}
    if inputs := [site for site in sites if isinstance(site.brick, ScaledInput)]:
        raise DataError(
            f"format adapters: {inputs[0].path} has factors of its input, and the library has factors of outputs, for "
            "a feed-forward before its activation: train with --tune.ia3.places attention.key,attention.value,"
            "feedforward.up, or use --format peft"
        )
    if not bricks:
        return None
    targets = targets_of(model, table, "format adapters")
    contents = Contents(model.family, fields(coverage(model, targets, bricks), 1, 1, "scale"))
    for target in targets:
        own: list[Tensor] = [bricks[part.path].scale for part in target.module.parts if part.path in bricks]
        if own:
            contents.tensors[f"{target.module.name}.{PLACE}.{NAME}.{B}"] = torch.cat(own)[:, None]
    return contents
