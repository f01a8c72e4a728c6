"""The vocabulary of an untied language head: part of the base where the files hold it, a new head where they do not."""

from __future__ import annotations

from pathlib import Path

import parity
import pytest

from pretune.interop.huggingface import load_model, save_model
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.tune.method import find_method
from tests.tune.familykit import SHAPES

UNTIED = {"vocab_size": 50, "tie_word_embeddings": False}


def read(folder: Path, family: str, roles: list[str]) -> LanguageModel:
    """A model as `load_model` reads it, whose files have the heads of some roles, for use with the head `clm`."""
    model = build(family, "tiny", roles, {**SHAPES[family], **UNTIED})
    parity.randomise(model)
    save_model(model, folder)
    return load_model(folder, heads=lambda model: {"clm": model.vocabulary_head("next")})


def learns(model: LanguageModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("method", ["lora", "ia3", "adapter", "prefix"])
def test_a_vocabulary_that_was_read_stays_frozen(family: str, method: str, tmp_path: Path) -> None:
    model = find_method(method, {}).apply(read(tmp_path, family, ["clm"]), 1)
    assert "heads.clm.weight" not in learns(model)
    assert learns(model)


def test_a_new_head_learns_in_full(tmp_path: Path) -> None:
    model = find_method("lora", {}).apply(read(tmp_path, "llama", []), 1)
    assert "heads.clm.weight" in learns(model)


def test_frozen_trains_it_and_a_place_learns_a_product(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert learns(find_method("frozen", {}).apply(read(folder, "llama", ["clm"]), 1)) == {"heads.clm.weight"}
    model = find_method("lora", {"places": ["vocabulary"], "rank": 4}).apply(load_model(folder), 1)
    names = learns(model)
    assert any(name.startswith("heads.clm.") for name in names)
    sizes = dict(model.named_parameters())
    assert all(sizes[name].numel() <= 4 * max(50, 32) for name in names)
