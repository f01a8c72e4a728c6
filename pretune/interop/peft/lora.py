"""LoRA in PEFT's files: rank-stabilized, weight-decomposed, with ranks and scales of single places.

A fused module, such as GPT-2's `c_attn`, has one `lora_A` for all its parts. It is read as several products that begin
with the same `a`; several products of ours are written as one of the sum of their ranks, whose `lora_B` is a block
diagonal.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from pretune.errors import DataError
from pretune.interop.adapter_files import CONFIG
from pretune.interop.peft import vocabularies
from pretune.interop.peft.contents import ROOT, Contents, Found
from pretune.interop.peft.modules import FileModule, ModuleTable
from pretune.interop.peft.patterns import expected, targets_of, value_for
from pretune.interop.peft.vocabularies import Product
from pretune.models.model import LanguageModel
from pretune.nn.low_rank import DecomposedProjection, LowRankProjection
from pretune.nn.projection import ProjectionBrick
from pretune.nn.singular import SingularBrick
from pretune.tune.surgery import Site, projection_sites

A, B, MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"
PARTS = (A, B, MAGNITUDE, *vocabularies.PARTS)


def read(model: LanguageModel, contents: Contents, by_module: Found) -> None:
    """Puts the products of a folder on their places."""
    table, sites = ModuleTable(model), {site.path: site for site in projection_sites(model)}
    check_complete(contents, by_module, table)
    decomposed = bool(contents.fields.get("use_dora"))
    words = {name: by_module.pop(name) for name in [*by_module] if table.vocabulary(name) is not None}
    products: dict[str, Product] = {}
    for name, tensors in words.items():
        a, b = vocabularies.factors(name, tensors, contents)
        products[name] = Product(a, b, scale_of(name, checked_rank(name, a, b, contents), contents))
    vocabularies.read(model, table, products, contents)
    for name, tensors in by_module.items():
        module = table.find(name, contents)
        if tensors.keys() != ({A, B, MAGNITUDE} if decomposed else {A, B}):
            raise contents.damaged(f"{name!r} has {', '.join(tensors)} and no more")
        a, b = tensors[A], tensors[B]
        scale = scale_of(name, checked_rank(name, a, b, contents), contents)
        put(model, module, sites, (a, b, tensors.get(MAGNITUDE)), scale, contents)


def check_complete(contents: Contents, by_module: Found, table: ModuleTable) -> None:
    """Refuses a file without the tensors of a module that the configuration names.

    Raises:
        DataError: naming the module.
    """
    for name in expected(contents.fields, table.names()):
        if name not in by_module:
            raise contents.damaged(f"target_modules names {name!r}, which has no tensors in the file")


def checked_rank(name: str, a: Tensor, b: Tensor, contents: Contents) -> int:
    """The rank that the configuration and both factors of a module have."""
    rank = rank_of(name, contents)
    if a.dim() != 2 or len(a) != rank or b.dim() != 2 or b.shape[1] != rank:
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        raise contents.damaged(f"{name!r}: factors of shapes {shapes}, {CONFIG} says rank {rank}")
    return rank


def rank_of(name: str, contents: Contents) -> int:
    """The rank that the configuration says of a module."""
    patterns = contents.fields.get("rank_pattern") or {}
    chosen = value_for(name, patterns, f"{contents.where}/{CONFIG}: field 'rank_pattern'")
    if chosen is None:
        return int(contents.number("r", least=1, default=8))
    if type(chosen) is not int or chosen < 1:
        raise DataError(f"{contents.where}/{CONFIG}: field 'rank_pattern': {str(chosen)[:80]} is no rank; correct it")
    return chosen


def scale_of(name: str, rank: int, contents: Contents) -> float:
    """The factor of a module's product."""
    patterns = contents.fields.get("alpha_pattern") or {}
    chosen = value_for(name, patterns, f"{contents.where}/{CONFIG}: field 'alpha_pattern'")
    alpha = contents.number("lora_alpha", default=8) if chosen is None else chosen
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise DataError(f"{contents.where}/{CONFIG}: field 'alpha_pattern': {str(alpha)[:80]} is no number; correct it")
    return alpha / (math.sqrt(rank) if contents.fields.get("use_rslora") else rank)


@torch.no_grad()
def put(
    model: LanguageModel,
    module: FileModule,
    sites: dict[str, Site],
    tensors: tuple[Tensor, Tensor, Tensor | None],
    scale: float,
    contents: Contents,
) -> None:
    """Puts a product on each part of a module that it changes.

    Args:
        tensors: `lora_A`, `lora_B` and, weight-decomposed, the lengths of the rows.
    """
    a, b, lengths = tensors
    bases = [cast(ProjectionBrick, sites[part.path].brick) for part in module.parts]
    rows, columns = sum(base.out_features for base in bases), bases[0].in_features
    if a.shape[1] != columns or len(b) != rows or (lengths is not None and lengths.shape != (rows,)):
        raise contents.damaged(f"{module.name!r}: {B} @ {A} is {len(b)} x {a.shape[1]}, the base {rows} x {columns}")
    dropout = contents.number("lora_dropout", default=0)
    split = [None] * len(bases) if lengths is None else module.split(lengths, model)
    for part, base, own, length in zip(module.parts, bases, module.split(b, model), split, strict=True):
        kept = columns_of(own, b, len(bases), is_needed=length is not None)
        if kept is None:
            continue
        brick = LowRankProjection(base, int(kept.sum()), scale, dropout)
        if length is not None:
            brick = DecomposedProjection(base, int(kept.sum()), scale, dropout)
            brick.magnitude.copy_(length)
        brick.a.copy_(a[kept])
        brick.b.copy_(own[:, kept])
        sites[part.path].replace(brick)


def columns_of(own: Tensor, whole: Tensor, parts: int, *, is_needed: bool = False) -> Tensor | None:
    """Which columns of a module's `lora_B` a part of it reads, so that a block diagonal is taken apart again.

    Args:
        own: rows of the part.
        whole: `lora_B`.
        parts: how many the module has.
        is_needed: the part needs a product, be it zero.

    Returns:
        None for a part that the product does not change, though it changes others.

    Shape:
        (out of the part, rank), (out, rank) -> (rank,) bool
    """
    if parts > 1 and bool(own.any()):
        return own.any(0)
    if parts > 1 and bool(whole.any()) and not is_needed:
        return None
    return torch.ones(whole.shape[1], dtype=torch.bool)


@torch.no_grad()
def write(model: LanguageModel, table: ModuleTable) -> Contents | None:
    """What the files say of a model's low-rank products; None where it has none.

    Args:
        table: of the model without them.
    """
    bricks = {
        site.path: site.brick
        for site in projection_sites(model)
        if isinstance(site.brick, LowRankProjection) and not isinstance(site.brick, SingularBrick)
    }
    words = vocabularies.bricks_of(model)
    if not bricks and not words:
        return None
    contents = Contents(model.family, {})
    decomposed = any(isinstance(brick, DecomposedProjection) for brick in bricks.values())
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for module in table.holding(bricks):
        a, b, scale = fuse(model, module, [bricks.get(part.path) for part in module.parts])
        name = f"{ROOT}{module.name}"
        contents.tensors |= {f"{name}.{A}.weight": a, f"{name}.{B}.weight": b}
        if decomposed:
            lengths = [_lengths(model, part.path) for part in module.parts]
            contents.tensors[f"{name}.{MAGNITUDE}"] = module.join(lengths, model)
        ranks[module.name], alphas[module.name] = len(a), scale * len(a)
    for name, brick in vocabularies.named(table, words).items():
        contents.tensors |= vocabularies.tensors_of(f"{ROOT}{name}", name, table, brick)
        ranks[name], alphas[name] = brick.rank, brick.scale * brick.rank
    rank, alpha = common(ranks.values()), common(alphas.values())
    contents.fields = {
        "peft_type": "LORA",
        "r": int(rank),
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": max((brick.dropout.p for brick in bricks.values()), default=0.0),
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": targets_of([*ranks], table.names()),
        "fan_in_fan_out": any(module.is_transposed for module in table.holding(bricks)),
        "use_dora": decomposed,
        "use_rslora": False,
        "bias": "none",
        "init_lora_weights": True,
    }
    return contents


def common(values: Iterable[float]) -> float:
    """The value that is there most often."""
    return Counter(values).most_common(1)[0][0]


def fuse(
    model: LanguageModel, module: FileModule, bricks: Sequence[LowRankProjection | None]
) -> tuple[Tensor, Tensor, float]:
    """One product for the parts of a module, some of which may have none.

    Returns:
        `lora_A`, `lora_B` and their factor.

    Shape:
        (rank, in), (out, rank)
    """
    own = [brick for brick in bricks if brick is not None]
    scale, a = own[0].scale, own[0].a.detach()
    if all(torch.equal(brick.a, a) for brick in own):
        starts = [0] * len(bricks)
    else:
        a = torch.cat([brick.a for brick in own])
        lengths = [0 if brick is None else brick.rank for brick in bricks]
        starts = [sum(lengths[:n]) for n in range(len(bricks))]
    rows = []
    for part, brick, start in zip(module.parts, bricks, starts, strict=True):
        out = cast(ProjectionBrick, model.get_submodule(part.path)).out_features
        block = a.new_zeros(out, len(a))
        if brick is not None:
            block[:, start : start + brick.rank] = brick.b * (brick.scale / scale)
        rows.append(block)
    return a, module.join(rows, model), scale


def _lengths(model: LanguageModel, path: str) -> Tensor:
    """The lengths of the rows of what stands at a path. Shape: (out,)."""
    brick = cast(ProjectionBrick, model.get_submodule(path))
    return brick.magnitude if isinstance(brick, DecomposedProjection) else brick.dense()[0].norm(dim=1)
