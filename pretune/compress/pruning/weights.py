"""Sets single weights of all projections in the layers to zero, one layer after another.

    calibration batches -> inputs of a projection -> their moments -> zeros there -> the next projections

What follows sees what the zeros before it have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from pretune.compress.method import CompressContext
from pretune.compress.pruning.structure import check_plain
from pretune.compress.values.inputs import Inputs
from pretune.compress.walk import walk
from pretune.errors import DataError, UsageError
from pretune.find import find_defining
from pretune.models.model import LanguageModel
from pretune.nn.projection import Projection, named_projections
from pretune.wording import counted, percent

Sparsify = Callable[[Tensor, Tensor | None, float, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class Sparsity:
    """A file of `compress/sparsity`, or a user's own.

    Attributes:
        name: of it.
        sparsify: gives a matrix with zeros; see the package.
        reads_inputs: needs the moments of the inputs.
    """

    name: str
    sparsify: Sparsify
    reads_inputs: bool


def find_sparsity(name: str) -> Sparsity:
    """The file of a name or path.

    Raises:
        UsageError: no such file, or one without `sparsify`.
        MissingInputError: a path to a user's own file that does not exist.
    """
    module = find_defining("compress.sparsity", name, ("sparsify",), f"prune: sparsity {name!r}")
    return Sparsity(name, module.sparsify, bool(getattr(module, "READS_INPUTS", False)))


@torch.no_grad()
def sparsify_model(
    model: LanguageModel, method: Sparsity, rate: float, group: tuple[int, int], context: CompressContext
) -> None:
    """Sets weights of every projection in the layers to zero, and says what that gives and what not.

    Args:
        rate: fraction of the weights, where `group` is (0, 0).
        group: N of every M weights in a row.

    Raises:
        UsageError: a projection that a method has replaced, or whose width is no multiple of M.
        DataError: a result that is not finite, or inputs that are not.
    """
    bricks = _plain_projections(model, group)
    done = 0
    inputs = _inputs_by_path(model, context) if method.reads_inputs else ((path, None) for path in bricks)
    for path, known in inputs:
        if path not in bricks:
            continue
        brick = bricks[path]
        weight = brick.weight.float()
        sparse = method.sparsify(weight, None if known is None else known.moments, rate, group)
        if sparse.shape != weight.shape or not sparse.isfinite().all():
            raise DataError(f"prune: {method.name} gives no finite matrix of the same shape for {path}")
        context.record(path, zeros=float((sparse == 0).float().mean()))
        if known is not None:
            context.record(path, error=known.error(weight, sparse))
        brick.weight.copy_(sparse)
        done += 1
        context.progress(done, len(bricks), "projections")
    _note_sparsity(list(bricks.values()), context)


def _plain_projections(model: LanguageModel, group: tuple[int, int]) -> dict[str, Projection]:
    """The plain projections of the layers, by their paths."""
    bricks: dict[str, Projection] = {}
    for path, brick in named_projections(model):
        if "blocks." not in path:
            continue
        check_plain(path, brick)
        assert isinstance(brick, Projection)
        if group[1] and brick.in_features % group[1]:
            raise UsageError(
                f"prune: pattern {group[0]}:{group[1]}: {path} reads {brick.in_features:,} values, no multiple of "
                f"{group[1]}; give another pattern, or a rate"
            )
        bricks[path] = brick
    return bricks


def _inputs_by_path(model: LanguageModel, context: CompressContext) -> Iterator[tuple[str, Inputs | None]]:
    """The inputs of every projection, as they are once those before it were changed."""
    for layer in walk(model, context.get_calibration(), context.half):
        pending = list(layer.sites)
        while pending and (seen := layer.observe(pending)) is not None:
            for site in seen.sites:
                yield site.path, seen.inputs
            pending = [site for site in pending if site not in seen.sites]


def _note_sparsity(bricks: Sequence[Projection], context: CompressContext) -> None:
    """Says what zeros are good for: nothing that runs, and a smaller file once it is compressed."""
    numbers = sum(brick.weight.numel() for brick in bricks)
    zeros = sum(int((brick.weight == 0).sum()) for brick in bricks)
    packed = sum(len(pa.compress(_fp32_bytes(brick.weight), codec="zstd", asbytes=True)) for brick in bricks)
    context.note(
        f"prune: {zeros:,} of {numbers:,} weights in {counted(len(bricks), 'projection')} are zero "
        f"({percent(zeros / max(1, numbers))}); a zero is multiplied as any number is, so the model is no faster, and "
        f"its files are as large as before: compressed (zstd), its projections take {packed / 1e6:,.1f} of "
        f"{numbers * 4 / 1e6:,.1f} MB; a training run fills the zeros again unless it is --tune sparse"
    )


def _fp32_bytes(weight: Tensor) -> bytes:
    return weight.detach().float().cpu().contiguous().numpy().tobytes()
