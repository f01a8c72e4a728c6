"""Sets single weights of all projections in the layers to zero, a few layers at a time, in the order of the model.

    calibration batches -> inputs of the projections of some layers -> moments -> zeros there -> the next layers

The layers that follow see what the zeros before them have changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor, nn

from pretune.compress.method import CompressContext
from pretune.errors import DataError, UsageError
from pretune.find import find
from pretune.models.model import LanguageModel
from pretune.nn.projection import Projection, named_projections
from pretune.wording import counted, percent

_MEMORY = 1 << 30  # bytes of moments at a time
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
    module = find("compress.sparsity", name)
    if not hasattr(module, "sparsify"):
        raise UsageError(f"prune: sparsity {name!r} has no function sparsify(weight, moments, rate, group)")
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
        DataError: a result that is not finite.
    """
    sites = _sites(model, group)
    done = 0
    for part in _in_memory(sites) if method.reads_inputs else [sites]:
        moments = _moments(model, part, context) if method.reads_inputs else {}
        for path, brick in part:
            weight = brick.weight.float()
            sparse = method.sparsify(weight, moments.get(path), rate, group)
            if sparse.shape != weight.shape or not sparse.isfinite().all():
                raise DataError(f"prune: {method.name} gives no finite matrix of the same shape for {path}")
            zeros = float((sparse == 0).float().mean())
            context.record(path, zeros=zeros)
            if path in moments:
                context.record(path, error=_error(weight, sparse, moments[path]))
            brick.weight.copy_(sparse)
            done += 1
            context.progress(done, len(sites), "projections")
    _report(sites, context)


def _sites(model: LanguageModel, group: tuple[int, int]) -> list[tuple[str, Projection]]:
    """The plain projections of the layers, in the order of the model."""
    sites: list[tuple[str, Projection]] = []
    for path, brick in named_projections(model):
        if "blocks." not in path:
            continue
        if type(brick) is not Projection:
            raise UsageError(
                f"prune: {path} is a {type(brick).__name__}, no plain projection: prune first, then quantize; "
                "merge an adapter before (pretune adapters merge)"
            )
        if group[1] and brick.in_features % group[1]:
            raise UsageError(
                f"prune: pattern {group[0]}:{group[1]}: {path} reads {brick.in_features:,} values, no multiple of "
                f"{group[1]}; give another pattern, or a rate"
            )
        sites.append((path, brick))
    order = {"encoder": 0, "stack": 1}
    return sorted(sites, key=lambda site: order.get(site[0].split(".")[0], 2))


def _in_memory(sites: Sequence[tuple[str, Projection]]) -> Iterator[list[tuple[str, Projection]]]:
    """Some whole layers at a time, whose moments fit into memory."""
    part: list[tuple[str, Projection]] = []
    used, layer = 0, ""
    for path, brick in sites:
        own = ".".join(path.split("blocks.")[1].split(".")[:1]) + path.split("blocks.")[0]
        if own != layer and used > _MEMORY:
            yield part
            part, used = [], 0
        layer, used = own, used + 4 * brick.in_features**2
        part.append((path, brick))
    if part:
        yield part


def _moments(
    model: LanguageModel, sites: Sequence[tuple[str, Projection]], context: CompressContext
) -> dict[str, Tensor]:
    """The mean of x x^T over the inputs of projections. Shape: return: (in, in) each."""
    sums = {path: torch.zeros(brick.in_features, brick.in_features) for path, brick in sites}
    counts = dict.fromkeys(sums, 0)
    with _collecting(sites, sums, counts):
        for batch in context.get_calibration().batches:
            model(batch.to(model.device))
    return {path: total / max(1, counts[path]) for path, total in sums.items()}


@contextmanager
def _collecting(
    sites: Sequence[tuple[str, Projection]], sums: dict[str, Tensor], counts: dict[str, int]
) -> Iterator[None]:
    last: dict[int, tuple[Tensor, Tensor]] = {}  # queries, keys and values read one run

    def collect(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            if id(x) not in last or last[id(x)][0] is not x:
                last.clear()
                last[id(x)] = x, x.float().T @ x.float()
            sums[path] += last[id(x)][1]
            counts[path] += len(x)

        return hook

    handles = [brick.register_forward_pre_hook(collect(path)) for path, brick in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _error(weight: Tensor, sparse: Tensor, moments: Tensor) -> float:
    """Relative error of the outputs on the calibration data."""
    change = sparse - weight
    wrong, whole = (float((each @ moments * each).sum()) for each in (change, weight))
    return math.sqrt(max(0.0, wrong) / max(whole, 1e-30))


def _report(sites: Sequence[tuple[str, Projection]], context: CompressContext) -> None:
    """Says what zeros are good for: nothing that runs, and a smaller file once it is compressed."""
    numbers = sum(brick.weight.numel() for _, brick in sites)
    zeros = sum(int((brick.weight == 0).sum()) for _, brick in sites)
    packed = sum(pa.compress(_bytes(brick.weight), codec="zstd", asbytes=True).__len__() for _, brick in sites)
    context.note(
        f"prune: {zeros:,} of {numbers:,} weights in {counted(len(sites), 'projection')} are zero "
        f"({percent(zeros / max(1, numbers))}); a zero is multiplied as any number is, so the model is no faster, and "
        f"its files are as large as before: compressed (zstd), its projections take {packed / 1e6:,.1f} of "
        f"{numbers * 4 / 1e6:,.1f} MB; a training run fills the zeros again unless it is --tune sparse"
    )


def _bytes(weight: Tensor) -> bytes:
    return weight.detach().float().cpu().contiguous().numpy().tobytes()
