"""Products of the kernels alone: GPT-2 small's weights once through for one row, and an encoder's for many.

The peer is torch's `F.linear` in the same process settings, in bf16 where the processor has it, else in fp32. Weights
are cycled through memory, as in decoding; what they are read at stands beside a plain read.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.benchmark import OURS, Benchmark, Context, Limits, Run, Runs, Side
from benchmarks.limits import read_bandwidth
from pretune.errors import BenchError

_GPT2 = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
_MINILM = [(1152, 384), (384, 384), (1536, 384), (384, 1536)]
_TOLERANCE = {"fp32": 1e-4, "bf16": 0.02, "int8": 0.05, "q8_0": 0.05, "q4_0": 0.5}


@dataclass(frozen=True)
class Work:
    """Which products are computed.

    Attributes:
        format: of our weights.
        rows: of activations.
        peer: dtype of torch's product.
    """

    format: str
    rows: int = 1
    peer: str = "bfloat16"

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(out, in) of the weights."""
        return [*(_GPT2 * 12), (50257, 768)] if self.rows == 1 else _MINILM * 6


class NativeProducts(Benchmark):
    """All products of a step, one after another."""

    about = (
        "The products of one token of GPT-2 small, or of 2,048 tokens of MiniLM (6 layers), against `F.linear`. "
        "Weights are random; ours are rounded to the format, activations too (`int8`, `q8_0`, `q4_0`: by 32)."
    )
    variants: ClassVar[Mapping[str, Work]] = {
        **{f"one-row-{name}": Work(name) for name in ("bf16", "int8", "q8_0", "q4_0")},
        "one-row-fp32": Work("fp32", peer="float32"),
        "2048-rows-bf16": Work("bf16", 2048),
        "2048-rows-int8": Work("int8", 2048, "float32"),
    }
    amount, unit = "passes", "passes/s"

    def sides(self, context: Context) -> list[Side]:
        """Ours and torch."""
        work = self.variants[context.variant]
        options = {"format": work.format, "rows": work.rows, "dtype": work.peer}
        theirs = Side(f"torch {work.peer}", self.script, options, "setup_torch", setting="default")
        return [self.ours(**options), theirs]

    def limits(self, context: Context) -> dict[str, float]:
        """And a plain read of memory, in bytes a second."""
        return super().limits(context) | {"read": read_bandwidth(timer=context.timer)}

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Close results: the sum of squares of the first product."""
        sizes = {label: past[0]["size"] for label, past in runs.items()}
        gap = max(abs(size / sizes[OURS] - 1) for size in sizes.values())
        if gap > _TOLERANCE[self.variants[context.variant].format]:
            raise BenchError(f"the results differ by {gap:.3f}: {sizes}")
        return {"gap": gap}

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """How fast the weights are read, and CPU time."""
        return {
            "weights_gbs": statistics.median(run["bytes"] / run["seconds"] for run in runs) / 1e9,
            "read_gbs": statistics.median(limits["read"]) / 1e9,
            "cpu_ms": 1e3 * min(run["cpu"] / run["passes"] for run in runs),
            "isa": runs[0]["isa"],
        }

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as a sentence."""
        return [
            f"{facts['isa']}: weights are read at {facts['weights_gbs']:.1f} GB/s, a plain read gives "
            f"{facts['read_gbs']:.1f}; {facts['cpu_ms']:.1f} CPU ms a pass"
        ]


def setup(*, format: str, rows: int, dtype: str) -> Callable[[], dict[str, Any]]:
    """Pack the weights; a run goes over them some times."""
    from typing import cast

    from pretune import native
    from pretune.native.memory import Arena
    from pretune.native.packed import PackedMatrix, packed_bytes
    from pretune.native.program import Format, Matrix
    from pretune.nn.formats.format import find_format

    name = cast(Format, format)
    matrices = []
    for weight in _weights(rows):
        tensors = {"values": weight} if format == "fp32" else find_format(format).pack(weight)
        matrices.append(Matrix(name, tensors, *weight.shape))
    arena = Arena([packed_bytes(matrix) for matrix in matrices])
    products = [native.PackedProduct(PackedMatrix(matrix, arena)) for matrix in matrices]
    size = sum(product.matrix.nbytes for product in products)
    return _cycle(products, rows, {"bytes": size, "isa": native.isa()})


def setup_torch(*, format: str, rows: int, dtype: str) -> Callable[[], dict[str, Any]]:
    """The same by torch."""
    import torch
    import torch.nn.functional as F

    weights = [weight.to(getattr(torch, dtype)) for weight in _weights(rows)]
    products = [lambda x, weight=weight: F.linear(x.to(weight.dtype), weight).float() for weight in weights]
    return _cycle(products, rows, {"bytes": sum(weight.nbytes for weight in weights), "isa": "torch"})


def _weights(rows: int) -> list[Any]:
    import torch

    torch.manual_seed(0)
    return [torch.randn(*shape) * 0.05 for shape in Work("fp32", rows).shapes]


def _cycle(products: Sequence[Any], rows: int, facts: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    import torch

    torch.manual_seed(1)
    shapes = Work("fp32", rows).shapes
    inputs = [torch.randn(rows, in_) for _, in_ in shapes]
    passes = 10 if rows == 1 else 1
    size = float(products[0](inputs[0]).square().sum())

    def run() -> dict[str, Any]:
        start, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            for _ in range(passes):
                for product, x in zip(products, inputs, strict=True):
                    product(x)
        seconds = time.perf_counter() - start
        own = {"passes": passes, "size": size, "seconds": seconds, "cpu": time.process_time() - cpu}
        return {**facts, **own, "bytes": facts["bytes"] * passes}

    return run
