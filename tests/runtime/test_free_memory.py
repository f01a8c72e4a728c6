"""How much memory there is."""

import pytest
import torch

from pretune.runtime.memory import free_memory


def test_what_torch_keeps_of_a_gpu_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("mem_get_info", (1000, 5000)), ("memory_reserved", 3000), ("memory_allocated", 500)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda", 0)) == 1000 + 2500
