"""AdaLoRA in PEFT's files: products in singular values, of which the files hold those that are left.

The factor of a product is alpha / (init_r + 1e-5), with the rank before any was cut and the same alpha everywhere. What
differs in a model of ours goes into the values.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from pretune.errors import DataError
from pretune.interop.adapter_files import CONFIG
from pretune.interop.peft.contents import ROOT, Contents, Found
from pretune.interop.peft.lora import check_complete, columns_of
from pretune.interop.peft.modules import FileModule, ModuleTable
from pretune.interop.peft.patterns import targets_of
from pretune.models.model import LanguageModel
from pretune.nn.projection import ProjectionBrick
from pretune.nn.singular import SingularBrick, SingularProjection
from pretune.tune.surgery import Site, projection_sites

A, E, B = PARTS = ("lora_A", "lora_E", "lora_B")
_NOT_ZERO = 1e-5  # what peft adds to the rank that it divides by


def read(model: LanguageModel, contents: Contents, by_module: Found) -> None:
    """Puts the products of a folder on their places."""
    table, sites = ModuleTable(model), {site.path: site for site in projection_sites(model)}
    check_complete(contents, by_module, table)
    init_rank = int(contents.number("init_r", least=1, default=12))
    alpha = contents.number("lora_alpha", default=8)
    scale = (alpha if alpha > 0 else init_rank) / (init_rank + _NOT_ZERO)
    for name, tensors in by_module.items():
        module = table.find(name, contents)
        if tensors.keys() != set(PARTS):
            raise contents.damaged(f"{name!r} has {', '.join(tensors)} and no more")
        rank = _rank(name, init_rank, contents)
        a, e, b = (tensors[part] for part in PARTS)
        if (len(a), e.shape, b.shape[-1]) != (rank, (rank, 1), rank):
            shapes = ", ".join(str(list(tensors[part].shape)) for part in PARTS)
            raise contents.damaged(f"{name!r}: factors of shapes {shapes}, {CONFIG} says rank {rank}")
        if rank:
            _put(model, module, sites, (a, e.flatten(), b), scale, contents)


def _rank(name: str, init_rank: int, contents: Contents) -> int:
    """How many singular values of a module are left."""
    patterns = contents.fields.get("rank_pattern") or {}
    kept = patterns.get(f"{name}.{E}")
    if kept is None:
        return init_rank
    if not isinstance(kept, list) or len(kept) != init_rank or not all(isinstance(each, bool) for each in kept):
        raise DataError(
            f"{contents.where}/{CONFIG}: field 'rank_pattern': {name!r} needs a list of {init_rank} times true or "
            "false; save the adapter again"
        )
    return sum(kept)


@torch.no_grad()
def _put(
    model: LanguageModel,
    module: FileModule,
    sites: dict[str, Site],
    tensors: tuple[Tensor, Tensor, Tensor],
    scale: float,
    contents: Contents,
) -> None:
    a, e, b = tensors
    bases = [cast(ProjectionBrick, sites[part.path].brick) for part in module.parts]
    rows, columns = sum(base.out_features for base in bases), bases[0].in_features
    if a.shape[1] != columns or len(b) != rows:
        raise contents.damaged(f"{module.name!r}: {B} @ {A} is {len(b)} x {a.shape[1]}, the base {rows} x {columns}")
    dropout = contents.number("lora_dropout", default=0)
    for part, base, own in zip(module.parts, bases, module.split(b, model), strict=True):
        kept = columns_of(own, b, len(bases))
        if kept is not None:
            brick = SingularProjection(base, int(kept.sum()), scale, dropout)
            brick.a.copy_(a[kept])
            brick.e.copy_(e[kept])
            brick.b.copy_(own[:, kept])
            sites[part.path].replace(brick)


@torch.no_grad()
def write(model: LanguageModel, table: ModuleTable) -> Contents | None:
    """What the files say of a model's products in singular values; None where it has none."""
    singular = [module for module in model.modules() if isinstance(module, SingularBrick)]
    if not singular:
        return None
    bricks = {s.path: s.brick for s in projection_sites(model) if isinstance(s.brick, SingularProjection)}
    if len(bricks) < len(singular):
        raise DataError("format peft: peft has no AdaLoRA of a vocabulary; export the merged model")
    modules = table.holding(bricks)
    fused = {m.name: _fuse(model, m, [bricks.get(part.path) for part in m.parts]) for m in modules}
    init_rank = max(1, *(len(e) for _, e, _ in fused.values()))
    contents = Contents(model.family, {})
    patterns: dict[str, list[bool]] = {}
    for name, (a, e, b) in fused.items():
        patterns[f"{name}.{E}"] = [True] * len(e) + [False] * (init_rank - len(e))
        values = e * ((init_rank + _NOT_ZERO) / init_rank)
        tensors = {f"{ROOT}{name}.{A}": a, f"{ROOT}{name}.{E}": values[:, None], f"{ROOT}{name}.{B}": b}
        contents.tensors |= tensors
    contents.fields = {
        "peft_type": "ADALORA",
        "init_r": init_rank,
        "target_r": max(1, sum(len(e) for _, e, _ in fused.values()) // len(fused)),
        "lora_alpha": init_rank,
        "lora_dropout": max(brick.dropout.p for brick in bricks.values()),
        "rank_pattern": patterns,
        "target_modules": targets_of([*fused], table.names()),
        "fan_in_fan_out": any(module.is_transposed for module in modules),
        "total_step": 1,
        "bias": "none",
        "init_lora_weights": True,
    }
    return contents


def _fuse(
    model: LanguageModel, module: FileModule, bricks: list[SingularProjection | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """One product for the parts of a module, of what is left of each, with a factor of 1.

    Shape:
        (rank, in), (rank,), (out, rank)
    """
    own = [brick for brick in bricks if brick is not None]
    rank = sum(int(brick.kept.sum()) for brick in own)
    rows: list[Tensor] = []
    start = 0
    for part, brick in zip(module.parts, bricks, strict=True):
        out = cast(ProjectionBrick, model.get_submodule(part.path)).out_features
        block = own[0].b.new_zeros(out, rank)
        if brick is not None:
            count = int(brick.kept.sum())
            block[:, start : start + count] = brick.b[:, brick.kept]
            start += count
        rows.append(block)
    a = torch.cat([brick.a[brick.kept] for brick in own])
    e = torch.cat([brick.e[brick.kept] * brick.scale for brick in own])
    return a, e, module.join(rows, model)
