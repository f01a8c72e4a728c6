"""AdaLoRA in PEFT's files, both ways, with ranks that were cut: outputs equal to those of peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peftkit import TASKS, adapted, base, ours, reopened, theirs

from pretune.interop.peft.folder import read as read_peft
from pretune.interop.peft.folder import write as write_peft
from pretune.tune.adalora import ranks

TARGETS = {"bert": ["query", "dense"], "gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "v_proj"], "t5": ["q", "wo"]}


def cut(model: Any) -> None:
    """Masks triplets as the end of a run does: some of most places, all of the first."""
    pattern = {}
    for number, (name, parameter) in enumerate(each for each in model.named_parameters() if "lora_E" in each[0]):
        kept = [bool((number + n) % 3) and number > 0 for n in range(4)]
        parameter.data[[n for n, keep in enumerate(kept) if not keep]] = 0
        pattern[name.removeprefix("base_model.model.")] = kept
    model.peft_config["default"].rank_pattern = pattern


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("is_cut", [False, True])
def test_both_ways(name: str, is_cut: bool, tmp_path: Path) -> None:
    folder = base(name, tmp_path / "base")
    fields = {"init_r": 4, "target_r": 2, "lora_alpha": 9, "total_step": 10, "target_modules": TARGETS[name]}
    config = peft.AdaLoraConfig(task_type=TASKS[name], **fields)
    oracle = theirs(name, adapted(name, folder, config, tmp_path / "peft", change=cut if is_cut else None))
    model = read_peft(tmp_path / "peft", folder)
    for expected, actual in zip(oracle, ours(name, model), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    write_peft(model, tmp_path / "written", str(folder))
    for expected, actual in zip(oracle, theirs(name, reopened(name, folder, tmp_path / "written")), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert len(set(ranks(model).values())) == (2 if is_cut else 1)
