"""LoRA in PEFT's files, both ways: outputs equal to those of peft on BERT, GPT-2, T5 and Llama."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from peftkit import TASKS, adapted, base, ours, reopened, theirs

from pretune.interop.peft.folder import read as read_peft
from pretune.interop.peft.folder import write as write_peft

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
    ("bert_mlm", {"target_modules": ["word_embeddings", "query"]}),
    ("gpt2", {"target_modules": ["wte"]}),
    ("gpt2", {"target_modules": ["lm_head", "c_attn"]}),
    ("gpt2", {"target_modules": ["wte", "lm_head"], "ensure_weight_tying": True}),
    ("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
    ("t5", {"target_modules": ["embed_tokens", "lm_head"]}),
    ("gpt2", {"modules_to_save": ["lm_head"]}),
    ("gpt2", {"modules_to_save": ["wte", "lm_head"], "ensure_weight_tying": True}),
    ("llama", {"modules_to_save": ["embed_tokens", "lm_head", "norm"]}),
]
READ_ALONE = ("bias", "modules_to_save")  # PEFT's own way to train the base; a run of ours has none


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_both_ways(name: str, fields: dict[str, object], tmp_path: Path) -> None:
    folder = base(name, tmp_path / "base")
    fields = {"target_modules": TARGETS[name], **fields}
    config = peft.LoraConfig(task_type=TASKS[name], r=3, lora_alpha=7, **fields)
    oracle = theirs(name, adapted(name, folder, config, tmp_path / "peft"))
    model = read_peft(tmp_path / "peft", folder)
    for expected, actual in zip(oracle, ours(name, model), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    if any(field in fields for field in READ_ALONE):
        return
    write_peft(model, tmp_path / "written", str(folder))
    for expected, actual in zip(oracle, theirs(name, reopened(name, folder, tmp_path / "written")), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
