"""Where tensors live, what seeds their dropout, and in which dtype matmuls run after training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pretune.errors import UsageError
from pretune.runtime.spinning import adaptive_spinning

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose(name: str = "auto") -> torch.device:
    """The device of a name; `auto` takes CUDA, else MPS, else the CPU. `cuda:1` names one of several.

    Raises:
        UsageError: an unknown name, or a device that this machine or this build of torch does not have.
    """
    backend, _, index = name.partition(":")
    if backend not in DEVICES or (":" in name and not (backend == "cuda" and index.isdigit())):
        raise UsageError(f"device {name!r}: expected one of {', '.join(DEVICES)}, or cuda:N")
    if backend == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _mps() else "cpu")
    if backend == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r}: torch {torch.__version__} sees no CUDA GPU here; use --device auto or cpu")
    if backend == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA GPUs, counted from 0")
    if backend == "mps" and not _mps():
        raise UsageError("device 'mps': no Apple GPU that torch can use here; use --device auto or cpu")
    return torch.device(name)


def seed(device: torch.device, key: int) -> None:
    """Seed torch's own generators of the CPU and of one device, which dropout draws from.

    `torch.manual_seed` goes through every kind of device and formats a stack trace on the way: 1-2 ms a call.
    """
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(key)
    elif device.type == "mps":
        torch.mps.manual_seed(key)


def is_bf16(model: nn.Module) -> bool:
    """Whether `cast_to_bf16` was applied."""
    return any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


@contextmanager
def inference_context(device: torch.device, half: bool) -> Iterator[None]:
    """The context of a forward without gradients.

    Args:
        half: `is_bf16(model)`: matmuls are in bf16.
    """
    with adaptive_spinning(device), torch.inference_mode():
        if half:
            with torch.autocast(device.type, torch.bfloat16):
                yield
        else:
            yield


def _mps() -> bool:
    return torch.backends.mps.is_available()
