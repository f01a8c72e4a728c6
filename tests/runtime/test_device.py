"""Names of devices."""

from __future__ import annotations

import pytest
import torch

from pretune.errors import UsageError
from pretune.runtime.device import choose, seed


def test_auto_is_here() -> None:
    assert choose("cpu") == torch.device("cpu")
    assert choose().type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:0", "cuda:", "cuda:x", "auto:1"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UsageError, match="expected one of auto, cpu, cuda, mps"):
        choose(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_missing_gpu_says_what_to_do(name: str) -> None:
    with pytest.raises(UsageError, match="--device auto or cpu"):
        choose(name)


def test_seeding_is_that_of_torch() -> None:
    for key in (0, 7, 2**64 - 1):
        torch.manual_seed(key)
        wanted = torch.rand(5)
        seed(torch.device("cpu"), key)
        torch.testing.assert_close(torch.rand(5), wanted, rtol=0, atol=0)
