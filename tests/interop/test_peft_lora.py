"""LoRA in PEFT's files, both ways: outputs equal to those of peft on BERT, GPT-2, T5 and Llama."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from peftkit import TASKS, adapted, base, ours, reopened, theirs

from pretune.interop.peft.folder import read_peft, write_peft

TARGETS = {
    "bert": ["query", "value", "output.dense"],
    "bert_mlm": ["query", "key"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "v_proj", "up_proj"],
    "t5": ["q", "v", "wo"],
}
CASES = [
    *((name, {}) for name in TARGETS),
    *((name, {"use_rslora": True, "use_dora": True}) for name in TARGETS),
    ("bert", {"layers_to_transform": [1], "rank_pattern": {"query": 2}, "alpha_pattern": {"1.*value": 3}}),
    ("gpt2", {"rank_pattern": {"mlp.c_proj": 5}, "bias": "lora_only"}),
    ("bert", {"bias": "all"}),
]


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_both_ways(name: str, fields: dict[str, object], tmp_path: Path) -> None:
    folder = base(name, tmp_path / "base")
    config = peft.LoraConfig(task_type=TASKS[name], r=3, lora_alpha=7, target_modules=TARGETS[name], **fields)
    oracle = theirs(name, adapted(name, folder, config, tmp_path / "peft"))
    model = read_peft(tmp_path / "peft", folder)
    for expected, actual in zip(oracle, ours(name, model), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    if "bias" in fields:
        return
    write_peft(model, tmp_path / "written", str(folder))
    for expected, actual in zip(oracle, theirs(name, reopened(name, folder, tmp_path / "written")), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
