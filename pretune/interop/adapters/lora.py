"""LoRA in the files of `adapters`: one rank and one scale, for kinds of matrices in whole layers.

A fused module, such as GPT-2's `c_attn`, has the products of its parts one below the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from pretune.errors import DataError
from pretune.interop.adapter_files import CONFIG
from pretune.interop.adapters.contents import NAME, Contents, Found
from pretune.interop.adapters.places import Target, chosen_keys, coverage, targets_of
from pretune.interop.peft.modules import ModuleTable, Part
from pretune.models.model import LanguageModel
from pretune.nn.low_rank import DecomposedProjection, LowRankProjection, LowRankVocabulary
from pretune.nn.projection import ProjectionBrick
from pretune.nn.singular import SingularBrick
from pretune.tune.surgery import projection_sites

PLACE = "loras"
A, B = "lora_A", "lora_B"
_FIRST_SCALED = (1, 1)


@torch.no_grad()
def read(model: LanguageModel, contents: Contents, by_module: Found) -> None:
    """Puts the products of a folder on their places."""
    table = ModuleTable(model)
    sites = {site.path: site for site in projection_sites(model)}
    rank = int(contents.number("r", least=1, default=8))
    scale, dropout = _alpha(model, contents, rank) / rank, contents.number("dropout", default=0)
    for target, parts, tensors in matched(model, table, contents, by_module):
        if tensors.keys() != {A, B}:
            raise contents.damaged(f"{target.module.name!r} has {', '.join(tensors)}, expected {A} and {B}")
        bases = [cast(ProjectionBrick, sites[part.path].brick) for part in parts]
        rows, columns = sum(base.out_features for base in bases), bases[0].in_features
        if tensors[A].shape != (rank * len(parts), columns) or tensors[B].shape != (rows, rank):
            shapes = f"{list(tensors[A].shape)} and {list(tensors[B].shape)}"
            raise contents.damaged(
                f"{target.module.name!r}: factors of shapes {shapes}, {CONFIG} and the base ask for "
                f"{[rank * len(parts), columns]} and {[rows, rank]}"
            )
        splits = torch.split(tensors[B], [base.out_features for base in bases])
        for part, base, a, b in zip(parts, bases, torch.split(tensors[A], rank), splits, strict=True):
            brick = LowRankProjection(base, rank, scale, dropout)
            brick.a.copy_(a)
            brick.b.copy_(b)
            sites[part.path].replace(brick)


def matched(
    model: LanguageModel, table: ModuleTable, contents: Contents, by_module: Found
) -> list[tuple[Target, list[Part], dict[str, Tensor]]]:
    """The modules that a configuration names, the parts of each that are changed, and their tensors in the file.

    Raises:
        DataError: a module that the file or the configuration lacks.
    """
    keys, left_out = chosen_keys(contents), contents.left_out()
    named = {table.plain(module): tensors for module, tensors in by_module.items()}
    out = []
    for target in targets_of(model, table, contents.where):
        parts = [part for part, key in zip(target.module.parts, target.keys, strict=True) if key in keys]
        if not parts or target.layer in left_out:
            continue
        tensors = named.pop(table.plain(target.module.name), None)
        if tensors is None:
            raise contents.damaged(f"{target.module.name!r} has no tensors in the file, {CONFIG} says it has")
        out.append((target, parts, tensors))
    if named:
        raise contents.damaged(f"tensors of {next(iter(named))!r}, where {CONFIG} says there are none")
    return out


def _alpha(model: LanguageModel, contents: Contents, rank: int) -> float:
    """The numerator of the scale; releases before 1.1.0 computed as if it were the rank, whatever they wrote."""
    alpha = contents.number("alpha", default=8)
    if alpha != rank and _release(contents) < _FIRST_SCALED and model.loaded is not None:
        model.loaded.notes.append(
            f"{contents.where}/{CONFIG}: field 'alpha' = {alpha}: read as {rank}, the rank, since releases of adapters "
            "before 1.1.0 trained with the scale 1"
        )
        return rank
    return alpha


def _release(contents: Contents) -> tuple[int, ...]:
    """The release of `adapters` that wrote the files; a late one where it was not this library, or is not said."""
    library, _, numbers = str(contents.outer.get("version") or "").partition(".")
    parts = numbers.split(".")[:2]
    if library != "adapters" or not all(part.isdigit() for part in parts):
        return _FIRST_SCALED
    return tuple(int(part) for part in parts)


@torch.no_grad()
def write(model: LanguageModel, table: ModuleTable) -> Contents | None:
    """What the files say of a model's low-rank products; None where it has none.

    Raises:
        DataError: products that no one configuration of the library means.
    """
    bricks = {s.path: s.brick for s in projection_sites(model) if isinstance(s.brick, LowRankProjection)}
    words = any(isinstance(module, LowRankVocabulary) for module in model.modules())
    if not bricks and not words:
        return None
    if words or any(isinstance(brick, SingularBrick | DecomposedProjection) for brick in bricks.values()):
        what = "LoRA of a vocabulary" if words else "DoRA or AdaLoRA that means the same"
        raise DataError(f"format adapters: the library has no {what}; export the merged model, or use --format peft")
    settings = {(brick.rank, brick.scale, brick.dropout.p) for brick in bricks.values()}
    if len(settings) > 1:
        raise DataError(
            "format adapters: this model has products of several ranks, scales or dropout rates, and the library has "
            "one; export the merged model, or use --format peft"
        )
    ((rank, scale, dropout),) = settings
    targets = targets_of(model, table, "format adapters")
    alpha = scale * rank
    contents = Contents(model.family, fields(coverage(model, targets, bricks), rank, alpha, "add"))
    contents.fields["dropout"] = float(dropout)
    for target in targets:
        own = [bricks[part.path] for part in target.module.parts if part.path in bricks]
        if own:
            contents.tensors |= _joined(target, own)
    return contents


def _joined(target: Target, bricks: Sequence[LowRankProjection]) -> dict[str, Tensor]:
    stem = f"{target.module.name}.{PLACE}.{NAME}"
    a, b = torch.cat([brick.a for brick in bricks]), torch.cat([brick.b for brick in bricks])
    return {f"{stem}.{A}": a, f"{stem}.{B}": b}


def fields(places: dict[str, object], rank: int, alpha: float, mode: str) -> dict[str, object]:
    """The fields of a configuration of LoRA or (IA)^3, those that ask for nothing included."""
    return {
        "architecture": "lora",
        **places,
        "r": rank,
        "alpha": int(alpha) if alpha == int(alpha) else alpha,
        "dropout": 0.0,
        "composition_mode": mode,
        "init_weights": "lora" if mode == "add" else "ia3",
        "init_weights_seed": None,
        "use_gating": False,
        "use_dora": False,
        "vera_d": None,
        "vera_b": None,
        "dtype": None,
    }
