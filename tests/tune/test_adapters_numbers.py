"""Bottleneck adapters compute what the library `adapters` 1.3.0 does: its outputs are kept in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from oracles.adapters_oracle import FORMS, TOKENS, WRITTEN, base, values
from safetensors.torch import load_file

from pretune.batch import ragged
from pretune.interop.huggingface import load_model
from pretune.models.model import LanguageModel
from pretune.nn.bottleneck import Bottleneck
from pretune.places import Place
from pretune.tune.method import find_method

WANTED = load_file(Path(__file__).parents[1] / "oracles/adapters_oracle.safetensors")
PLACES = {"houlsby-cross": ["attention", "cross", "feedforward"]}


def hidden(model: LanguageModel) -> torch.Tensor:
    """The last hidden states of the fixed text, and of another one beside it, which is not returned."""
    texts = [np.array(TOKENS), np.array([3, 1])]
    batch = ragged(texts)
    if model.has_encoder:
        batch = replace(ragged([np.array(WRITTEN), np.array([2])]), source=batch)
    rows: torch.Tensor = model(batch).last_hidden_state[: batch.layout.lengths[0]]
    return rows


def fill(model: LanguageModel) -> int:
    """Gives adapters the weights of their names; their number."""
    count = 0
    for path, module in model.named_modules():
        if isinstance(module, Bottleneck):
            place = Place.of(path)
            branches = ("attention", "cross", "feedforward")
            branch = next((name for name in branches if name in place.role), "feedforward")  # of a parallel one
            for name, weight in module.named_parameters():
                own = f"{place.side}{place.layer}.{branch}.{name}"
                weight.data = values(own, tuple(weight.shape))
                count += 1
    return count


@pytest.mark.parametrize("case", WANTED)
def test_outputs_are_theirs(case: str, tmp_path: Path) -> None:
    family, form = case.split(".")
    base(transformers, family).save_pretrained(tmp_path)
    model = load_model(tmp_path).eval()
    with torch.no_grad():
        plain = hidden(model)
        settings = {"form": form.partition("-")[0], "reduction": 4, "places": PLACES.get(form, [])}
        model = find_method("adapter", settings).apply(model)
        assert torch.equal(hidden(model), plain)
        assert fill(model)
        torch.testing.assert_close(hidden(model), WANTED[case], atol=1e-5, rtol=1e-5)
    assert (plain - WANTED[case]).abs().max() > 1e-2


def test_every_form_is_there() -> None:
    assert {case.split(".")[1] for case in WANTED} == set(FORMS)
    assert {case.split(".")[0] for case in WANTED} == {"bert", "gpt2", "llama", "t5"}
