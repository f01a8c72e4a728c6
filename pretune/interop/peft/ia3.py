"""(IA)^3 in PEFT's files: factors of the output of some modules, and of the input of others."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from pretune.errors import DataError
from pretune.interop.peft.contents import ROOT, Contents, Found
from pretune.interop.peft.modules import FileModule, ModuleTable
from pretune.interop.peft.patterns import expected, targets_of
from pretune.models.model import LanguageModel
from pretune.nn.projection import ProjectionBrick
from pretune.nn.scaling import ScaledInput, ScaledOutput
from pretune.tune.surgery import projection_sites

FACTORS = "ia3_l"
PARTS = (FACTORS,)


@torch.no_grad()
def read(model: LanguageModel, contents: Contents, by_module: Found) -> None:
    """Puts the factors of a folder on their places. Those of an input are a row in the file, of an output a column."""
    table, sites = ModuleTable(model), {site.path: site for site in projection_sites(model)}
    for name in expected(contents.fields, table.names()):
        if name not in by_module:
            raise contents.damaged(f"target_modules names {name!r}, which has no factors in the file")
    for name, tensors in by_module.items():
        module, factors = table.find(name, contents), tensors[FACTORS]
        bases = [cast(ProjectionBrick, sites[part.path].brick) for part in module.parts]
        rows, columns = sum(base.out_features for base in bases), bases[0].in_features
        if list(factors.shape) not in ([rows, 1], [1, columns]):
            raise contents.damaged(f"{name!r} has {list(factors.shape)} factors, its matrix is {rows} x {columns}")
        is_input = factors.shape[0] == 1 and columns > 1
        split = [factors.flatten()] * len(bases) if is_input else module.split(factors.flatten(), model)
        for part, base, own in zip(module.parts, bases, split, strict=True):
            if len(bases) > 1 and bool((own == 1).all()) and not bool((factors == 1).all()):
                continue  # a part that is not scaled
            brick = ScaledInput(base) if is_input else ScaledOutput(base)
            brick.scale.copy_(own)
            sites[part.path].replace(brick)


@torch.no_grad()
def write(model: LanguageModel, table: ModuleTable) -> Contents | None:
    """What the files say of a model's factors; None where it has none."""
    bricks = {s.path: s.brick for s in projection_sites(model) if isinstance(s.brick, ScaledInput | ScaledOutput)}
    if not bricks:
        return None
    contents = Contents(model.family, {})
    inputs: list[str] = []
    outputs: list[str] = []
    modules = table.holding(bricks)
    for module in modules:
        own = [bricks.get(part.path) for part in module.parts]
        if any(isinstance(brick, ScaledInput) for brick in own):
            contents.tensors[f"{ROOT}{module.name}.{FACTORS}"] = _input(module, own)[None]
            inputs.append(module.name)
        else:
            contents.tensors[f"{ROOT}{module.name}.{FACTORS}"] = _output(model, module, own)[:, None]
            outputs.append(module.name)
    known = table.names()
    targets, feedforward = targets_of([*inputs, *outputs], known), targets_of(inputs, [*inputs, *outputs])
    if not set(feedforward) <= set(targets):
        targets, feedforward = sorted([*inputs, *outputs]), sorted(inputs)
    contents.fields = {
        "peft_type": "IA3",
        "target_modules": targets,
        "feedforward_modules": feedforward,
        "fan_in_fan_out": any(module.is_transposed for module in modules),
        "init_ia3_weights": True,
    }
    return contents


def _input(module: FileModule, bricks: list[ScaledInput | ScaledOutput | None]) -> Tensor:
    """The factors of a module's input, which all its parts read. Shape: (in,)."""
    first = bricks[0]
    if not all(isinstance(b, ScaledInput) and first is not None and torch.equal(b.scale, first.scale) for b in bricks):
        raise DataError(
            f"format peft: {module.name} is one module of {len(bricks)} matrices, whose inputs have other factors or "
            "none; export the merged model"
        )
    scale: Tensor = cast(ScaledInput, first).scale.detach()
    return scale


def _output(model: LanguageModel, module: FileModule, bricks: list[ScaledInput | ScaledOutput | None]) -> Tensor:
    """The factors of a module's output; 1 for a part that has none. Shape: (out,)."""
    rows = []
    for part, brick in zip(module.parts, bricks, strict=True):
        out = cast(ProjectionBrick, model.get_submodule(part.path)).out_features
        rows.append(torch.ones(out) if brick is None else brick.scale.detach())
    return module.join(rows, model)
