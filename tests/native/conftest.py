"""Weights in every format, with the values that they stand for, and each instruction set in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pretune import native
from pretune.native.program import Format, Matrix
from pretune.nn.formats.format import find_format


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves the library and the number of threads as they were."""
    native.set_threads(1)
    yield
    monkeypatch.undo()
    native.set_threads(None)
    native.reload()


def random_matrix(format: Format, out: int, in_: int, seed: int = 0) -> tuple[Matrix, Tensor]:
    """A matrix and its values in fp32."""
    weight = torch.randn(out, in_, generator=torch.Generator().manual_seed(seed)) * 0.05
    if format == "fp32":
        return Matrix("fp32", {"values": weight}, out, in_), weight
    packed = find_format(format).pack(weight)
    return Matrix(format, packed, out, in_), find_format(format).dense(packed)
