"""Chooses the dtype of matmuls by a short measurement, which also gives the peak that speed is compared with."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the names of the precisions are read without torch
    import torch

Name = Literal["auto", "bf16", "fp32"]
_WORTH = 1.2  # bf16 must be this much faster to be chosen


@dataclass(frozen=True)
class Precision:
    """The dtype of matmuls; weights, gradients and the optimizer stay in fp32.

    Attributes:
        name: `bf16` or `fp32`.
        peak: measured speed of a large matmul in that dtype, in FLOP/s on this device; 0 if not measured.
        why: how it was decided, for the record.
    """

    name: Literal["bf16", "fp32"]
    peak: float
    why: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which a forward runs."""
        import torch

        return torch.autocast(device.type, torch.bfloat16) if self.name == "bf16" else nullcontext()


def choose_precision(name: Name, device: torch.device) -> Precision:
    """Decide `auto` by what the device can do and what a 0.1 s probe measures.

    Args:
        name: `auto`, or what the recipe says; the peak is measured in either case.
    """
    if name == "auto" and not _native_bf16(device):
        return Precision("fp32", measure(device, "fp32"), "no native bf16")
    if name != "auto":
        return Precision(name, measure(device, name), "as the recipe says")
    half, full = measure(device, "bf16"), measure(device, "fp32")
    rates = f"bf16 {half / 1e9:.0f} GFLOP/s, fp32 {full / 1e9:.0f} GFLOP/s"
    return Precision("bf16", half, rates) if half > _WORTH * full else Precision("fp32", full, rates)


def measure(device: torch.device, name: Literal["bf16", "fp32"], seconds: float = 0.05) -> float:
    """Best speed of a square matrix product in `seconds`, in FLOP/s."""
    import torch

    width = 4096 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    left = torch.ones(width, width, dtype=dtype, device=device)
    right, out = torch.ones_like(left), torch.empty_like(left)
    torch.mm(left, right, out=out)  # the first call loads kernels
    _wait(device)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or not best:
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(device)
        best = max(best, 2.0 * width**3 / (time.perf_counter() - start))
    return best


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


def _native_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
