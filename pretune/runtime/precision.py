"""Chooses the dtype of matmuls by what the hardware has, never by a clock: the same machine always decides alike.

A short measurement gives the peak that the speed of training is compared with; nothing hangs on it.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from pretune.errors import UsageError

if TYPE_CHECKING:  # the names of the precisions are read without torch
    import torch

Name = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class Precision:
    """The dtype of matmuls; weights, gradients and the optimizer stay in fp32.

    Attributes:
        name: `bf16` or `fp32`.
        peak: measured speed of a large matmul in that dtype, in FLOP/s on this device; 0 if not measured.
        why: how it was decided, for the record and the screen.
    """

    name: Literal["bf16", "fp32"]
    peak: float
    why: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which a forward runs."""
        import torch

        return torch.autocast(device.type, torch.bfloat16) if self.name == "bf16" else nullcontext()

    def __str__(self) -> str:
        return f"precision: {self.name} ({self.why})"


def choose_precision(name: Name, device: torch.device, *, with_peak: bool = False) -> Precision:
    """Decide `auto` by what the hardware has; load and temperature of the machine play no part.

    Args:
        name: `auto`, `bf16` or `fp32`.
        with_peak: measure the speed of a large matmul, which takes 0.05 s.

    Raises:
        UsageError: another name.
    """
    if name not in get_args(Name):
        raise UsageError(f"precision {name!r}: expected one of {', '.join(get_args(Name))}")
    chosen, why = (name, "as chosen") if name != "auto" else _of_hardware(device)
    return Precision(chosen, measure(device, chosen) if with_peak else 0.0, why)


def measure(device: torch.device, name: Literal["bf16", "fp32"], seconds: float = 0.05) -> float:
    """Best speed of a square matrix product in about `seconds`, in FLOP/s.

    The width grows while a product of the next one is over in four times `seconds`: without a unit for bf16, one of
    1024 x 1024 takes a processor seconds, and is no faster than a smaller one.
    """
    import torch

    largest = 4096 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    best, width = 0.0, 128
    while True:
        left = torch.ones(width, width, dtype=dtype, device=device)
        right, out = torch.ones_like(left), torch.empty_like(left)
        torch.mm(left, right, out=out)  # the first call loads kernels
        took = _timed_product(left, right, out)
        if width == largest or 8 * took > 4 * seconds:
            break
        width *= 2
    end = time.perf_counter() + seconds - took
    while True:
        best = max(best, 2.0 * width**3 / took)
        if time.perf_counter() >= end:
            return best
        took = _timed_product(left, right, out)


def _timed_product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> float:
    """The seconds of one matrix product. Shape: all (width, width)."""
    import torch

    _wait(left.device)
    start = time.perf_counter()
    torch.mm(left, right, out=out)
    _wait(left.device)
    return time.perf_counter() - start


def fingerprint(device: torch.device, precision: Precision, world_size: int) -> dict[str, str | int]:
    """What must be equal for a run to be continued bit for bit."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_capability()
    return {
        "torch": torch.__version__,
        "device": device.type,
        "capability": name,
        "threads": torch.get_num_threads(),
        "precision": precision.name,
        "ranks": world_size,
    }


def cpu_capability() -> str:
    """The instructions that matmuls use: torch's name of the vectors, or AMX where there are tiles for bf16."""
    import torch

    return "AMX" if torch.cpu._is_amx_tile_supported() else torch.backends.cpu.get_cpu_capability()


def _of_hardware(device: torch.device) -> tuple[Literal["bf16", "fp32"], str]:
    """bf16 where the hardware multiplies it itself, which is 2 to 5 times as fast; else fp32; and why."""
    unit = bf16_unit(device)
    return ("bf16", f"{unit}; choose fp32 for unrounded results") if unit else ("fp32", "no matmul unit for bf16 here")


def bf16_unit(device: torch.device) -> str:
    """What of a device multiplies bf16 matrices, by name; empty where nothing does."""
    import torch

    if device.type == "cuda":
        return "tensor cores" if torch.cuda.get_device_capability(device) >= (8, 0) else ""
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "AMX" if torch.cpu._is_amx_tile_supported() else "AVX512_BF16" * torch.cpu._is_avx512_bf16_supported()
    return ""


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
