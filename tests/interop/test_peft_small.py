"""Prompts and (IA)^3 in PEFT's files, both ways: outputs equal to those of peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peftkit import ROWS, TASKS, adapted, base, ours, reopened, theirs

from pretune.interop.peft.folder import read as read_peft
from pretune.interop.peft.folder import write as write_peft

SHORT = tuple(row[:11] for row in ROWS)  # behind a prompt fewer positions are left
LENGTH = 4


def check_both_ways(name: str, config: peft.PeftConfig, tmp_path: Path, skip: int = 0) -> None:
    """Reads and writes.

    Args:
        skip: rows of peft's logits that are of no token.
    """
    folder = base(name, tmp_path / "base")
    oracle = [rows[skip:] for rows in theirs(name, adapted(name, folder, config, tmp_path / "peft"), SHORT)]
    model = read_peft(tmp_path / "peft", folder)
    for expected, actual in zip(oracle, ours(name, model, SHORT), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    write_peft(model, tmp_path / "written", str(folder))
    again = theirs(name, reopened(name, folder, tmp_path / "written"), SHORT)
    for expected, actual in zip(oracle, again, strict=True):
        torch.testing.assert_close(actual[skip:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_prompts(name: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"num_transformer_submodules": 1} if name == "t5" else {}
    config = peft.PromptTuningConfig(task_type=TASKS[name], num_virtual_tokens=LENGTH, **fields)
    check_both_ways(name, config, tmp_path, skip=LENGTH if TASKS[name] == "CAUSAL_LM" else 0)


def test_a_prompt_of_both_sides_generates_as_with_peft(tmp_path: Path) -> None:
    """The decoder's half, which is there by default, is left out by both."""
    folder = base("t5", tmp_path / "base")
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=LENGTH)
    oracle = adapted("t5", folder, config, tmp_path / "peft")
    texts = oracle.generate(input_ids=ROWS[0][None], max_new_tokens=6, min_new_tokens=6, do_sample=False)
    model = read_peft(tmp_path / "peft", folder)
    assert model.loaded is not None
    assert "num_transformer_submodules" in model.loaded.notes[-1]
    (logits,) = ours("t5", model, (ROWS[0],), texts[:, :-1])
    logits[:, 1] = -torch.inf  # the end, which may not come yet
    assert logits.argmax(-1).tolist() == texts[0, 1:].tolist()


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_factors(name: str, tmp_path: Path) -> None:
    check_both_ways(name, peft.IA3Config(task_type=TASKS[name]), tmp_path)


def test_factors_of_other_modules(tmp_path: Path) -> None:
    fields = {"target_modules": ["query", "intermediate.dense", "attention.output.dense"]}
    config = peft.IA3Config(task_type="SEQ_CLS", feedforward_modules=["attention.output.dense"], **fields)
    check_both_ways("bert", config, tmp_path)
