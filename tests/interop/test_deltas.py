"""Deltas: put on their base alone; damaged, hostile or newer files are refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretune.errors import DataError, MissingInputError
from pretune.interop.deltas import is_delta, learned, save_delta
from pretune.interop.fingerprint import body_fingerprint
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.recorded_heads import head_sources
from pretune.interop.tuned_model import load_delta
from pretune.models import build
from pretune.models.text_vectors import TextVectors
from pretune.tune.method import find_method

pytestmark = pytest.mark.usefixtures("unsealed")

LORA = str(Path(__file__).parents[1] / "outside" / "lora.py")
SHAPE = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": 64,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A base, and deltas of another value than 0 beside it."""
    save_model(build("bert", "tiny", ["mlm"], SHAPE), tmp_path / "base")
    model = load_model(tmp_path / "base")
    record = {"base": body_fingerprint(model), "heads": head_sources(model)}
    model.metadata = model.metadata.model_copy(update=record)
    method = find_method(LORA, {"places": ["attention"]})
    model = method.apply(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.fill_(0.1)
    model.vectors = TextVectors.pooled("mean")
    model.extra_weights = {"objective.own.scale": torch.ones(2)}
    save_delta(model, tmp_path / "delta", method, str(tmp_path / "base"))
    return tmp_path / "delta"


def test_what_learned_comes_back(saved: Path) -> None:
    assert is_delta(saved)
    assert not is_delta(saved.parent / "base")
    model = load_delta(saved)
    values = {name: tensor for name, tensor in learned(model).items() if name.endswith(".up")}
    assert len(values) == 4
    assert all(torch.equal(tensor, torch.full_like(tensor, 0.1)) for tensor in values.values())
    assert model.vectors is not None
    assert model.vectors.pooling == "mean"
    assert torch.equal(model.extra_weights["objective.own.scale"], torch.ones(2))
    assert [name for name, p in model.named_parameters() if p.requires_grad and ".base." in name] == []


def change(folder: Path, **fields: object) -> None:
    path = folder / "delta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_bad_files(saved: Path) -> None:
    tensors = load_file(saved / "delta.safetensors")
    name = next(name for name in tensors if name.endswith(".up"))
    for bad, message in (
        ({**tensors, name: torch.full_like(tensors[name], torch.nan)}, "NaN or infinity"),
        ({**tensors, name: tensors[name][:1]}, "has shape"),
        ({key: value for key, value in tensors.items() if key != name}, "not the tensors"),
        ({**tensors, "stack.more": torch.ones(1)}, "not the tensors"),
    ):
        save_file({key: value.contiguous() for key, value in bad.items()}, saved / "delta.safetensors")
        with pytest.raises(DataError, match=message):
            load_delta(saved)
    (saved / "delta.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(DataError):
        load_delta(saved)
    (saved / "delta.safetensors").unlink()
    with pytest.raises(MissingInputError, match="incomplete"):
        load_delta(saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "newer pretune"),
        ({"fingerprint": "none"}, "fingerprint"),
        ({"fingerprint": "0" * 64}, "not the weights that"),
        ({"base": None}, "never saved"),
        ({"more": 1}, "more"),
        ({"method": {"name": "none"}}, "no such variant of tune"),
    ],
)
def test_bad_records(saved: Path, fields: dict[str, object], message: str) -> None:
    change(saved, **fields)
    with pytest.raises(DataError, match=message):
        load_delta(saved)


def test_a_base_that_is_gone(saved: Path) -> None:
    (saved.parent / "base").rename(saved.parent / "moved")
    with pytest.raises(MissingInputError, match="give its new place"):
        load_delta(saved)
    assert load_delta(saved, saved.parent / "moved")


def test_a_fingerprint_must_be_taken_before_surgery(tmp_path: Path) -> None:
    method = find_method(LORA, {})
    with pytest.raises(ValueError, match="before surgery"):
        save_delta(method.apply(build("bert", "tiny", ["mlm"], SHAPE)), tmp_path / "delta", method, None)
    assert not (tmp_path / "delta").exists()
