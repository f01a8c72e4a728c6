"""Prefixes in PEFT's files, both ways: outputs equal to those of peft."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from peftkit import TASKS, adapted, base, ours, reopened, theirs

from pretune.interop.peft.folder import read as read_peft
from pretune.interop.peft.folder import write as write_peft


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "t5_odd"])
def test_both_ways(name: str, projection: bool, tmp_path: Path) -> None:
    folder = base(name, tmp_path / "base")
    config = peft.PrefixTuningConfig(task_type=TASKS[name], num_virtual_tokens=3, prefix_projection=projection)
    oracle = theirs(name, adapted(name, folder, config, tmp_path / "peft"))
    model = read_peft(tmp_path / "peft", folder)
    for expected, actual in zip(oracle, ours(name, model), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    write_peft(model, tmp_path / "written", str(folder))
    for expected, actual in zip(oracle, theirs(name, reopened(name, folder, tmp_path / "written")), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
