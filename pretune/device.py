"""Where tensors live: `auto|cpu|cuda|mps` to a device, in one place."""

from __future__ import annotations

import torch

from pretune.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose(name: str = "auto") -> torch.device:
    """The device of a name; `auto` takes CUDA, else MPS, else the CPU. `cuda:1` names one of several.

    Raises:
        UsageError: an unknown name, or a device that this machine or this build of torch does not have.
    """
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and not (kind == "cuda" and index.isdigit())):
        raise UsageError(f"device {name!r}: expected one of {', '.join(DEVICES)}, or cuda:N")
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _mps() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r}: torch {torch.__version__} sees no CUDA GPU here; use --device auto or cpu")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA GPUs, counted from 0")
    if kind == "mps" and not _mps():
        raise UsageError("device 'mps': no Apple GPU that torch can use here; use --device auto or cpu")
    return torch.device(name)


def _mps() -> bool:
    return torch.backends.mps.is_available()
