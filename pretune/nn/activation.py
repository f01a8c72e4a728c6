"""Activations by the names that model configurations use."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.find import nearest

Activation = Callable[[Tensor], Tensor]


def gelu_new(x: Tensor) -> Tensor:
    """GELU by tanh, as GPT-2 has it. Shape: any -> same.

    Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": gelu_new,
    "gelu_pytorch_tanh": gelu_new,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Activation:
    """The activation of that name.

    Raises:
        ValueError: an unknown name; the nearest one is given.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; {nearest(name, sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]
