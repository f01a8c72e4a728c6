"""Folders of the library `adapters` 1.3.0, both ways: read with its outputs, and written as it accepted them.

`tests/oracles/adapters_folders.py` makes the folders and the outputs, and checks what is written here; see there.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from oracles.adapters_folders import CASES, rounded, save_base
from oracles.adapters_oracle import TOKENS, WRITTEN, values
from safetensors.torch import load_file, save_file

from pretune.batch import ragged
from pretune.interop.adapters.folder import read, write
from pretune.models.model import LanguageModel

KNOWN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "oracles/adapters_folders.json").read_text())
OTHER_FIELDS: dict[str, dict[str, Any]] = {
    "bert_lora_inner": {"attn_matrices": []},  # of attention, which has no product there
    "bert_old_lora": {"alpha": 2},  # the scale 1 that it was trained with
    "bert_old_names": {"non_linearity": "gelu_new"},
    "electra_double_seq_bn": {"non_linearity": "leaky_relu"},
    "t5_double_seq_bn": {"reduction_factor": 4},  # which finds the same width as 3.0
}
"""Fields that are written otherwise than they were read, and mean the same."""
OTHER_OUTER = {"bert_old_lora": ["version"], "bert_old_names": ["version", "type"]}
transformers.logging.set_verbosity_error()


def unpack(name: str, folder: Path, *, pickled: bool = False) -> Path:
    """A folder as the library saved it, with its base beside it, which `model_name` names."""
    known = KNOWN[name]
    saved = folder / "saved"
    saved.mkdir(parents=True)
    save_base(transformers, known["base"], saved / "base")
    for stem, fields in known["files"].items():
        (saved / f"{stem}.json").write_text(json.dumps(fields))
    for stem, shapes in known["tensors"].items():
        tensors = {key: value_of(key, shape) for key, shape in shapes.items()}
        if pickled:
            pickles = {"adapter": "pytorch_adapter.bin", "model_head": "pytorch_model_head.bin"}
            torch.save(tensors, saved / pickles[stem])
        else:
            save_file(tensors, saved / f"{stem}.safetensors")
    return saved


def value_of(name: str, shape: list[Any]) -> torch.Tensor:
    """A tensor by its name, or by the name that stands before its shape."""
    if isinstance(shape[0], str):
        name, *shape = shape
    return values(name, tuple(shape))


@torch.no_grad()
def outputs(model: LanguageModel) -> list[float]:
    """What the oracle keeps, of the fixed text and with another one beside it."""
    batch = ragged([np.array(TOKENS), np.array([3, 1])])
    if model.has_encoder:
        batch = replace(ragged([np.array(WRITTEN), np.array([2])]), source=batch)
    hidden = model.eval()(batch).last_hidden_state
    length = batch.layout.lengths[0]
    (role, head) = next(iter(model.heads.items()))
    if role == "classification":
        return rounded(head(hidden, batch.layout)[0])
    return rounded(head(hidden)[:length])


def close(actual: list[float], expected: list[float]) -> None:
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_folders_are_read_with_the_outputs_of_the_library(name: str, tmp_path: Path) -> None:
    close(outputs(read(unpack(name, tmp_path))), KNOWN[name]["outputs"])


def test_every_case_is_there() -> None:
    assert KNOWN.keys() == CASES.keys()


@pytest.mark.parametrize("name", ["bert_seq_bn", "gpt2_lora", "bert_classes"])
def test_pickles_are_read_too(name: str, tmp_path: Path) -> None:
    close(outputs(read(unpack(name, tmp_path, pickled=True))), KNOWN[name]["outputs"])


@pytest.mark.parametrize("name", KNOWN)
def test_folders_are_written_as_the_library_accepted_them(name: str, tmp_path: Path) -> None:
    """Tensor for tensor and field for field; the oracle opened these, with equal outputs."""
    model = read(unpack(name, tmp_path))
    target = Path(os.environ.get("PRETUNE_ADAPTERS_WRITTEN", tmp_path / "written"), name)
    write(model, target, "base")
    known = KNOWN[name]
    tensors = load_file(target / "adapter.safetensors")
    expected = {key: value_of(key, shape) for key, shape in known["tensors"]["adapter"].items()}
    if CASES[name].rename is not None:
        expected = {key.replace(*reversed(CASES[name].rename)): tensor for key, tensor in expected.items()}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in expected.items())
    fields, saved = json.loads((target / "adapter_config.json").read_text()), known["files"]["adapter_config"]
    others = {"model_class", *OTHER_OUTER.get(name, ())}
    assert {**fields, "config": {}} | dict.fromkeys(others) == {**saved, "config": {}} | dict.fromkeys(others)
    assert fields["config"] == saved["config"] | OTHER_FIELDS.get(name, {})
    close(outputs(read(target, tmp_path / "saved/base")), known["outputs"])
