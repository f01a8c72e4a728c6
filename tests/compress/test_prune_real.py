"""Pruning of real weights, a Llama of 260 thousand that tells stories: what is chosen beats chance."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.batch import Batch, ragged
from pretune.compress import prune
from pretune.compress.calibration import Calibration
from pretune.compress.method import CompressContext
from pretune.compress.pruning import selection, structure
from pretune.draw import Draw
from pretune.generate.session import DecodingSession
from pretune.interop.huggingface import load_model
from pretune.models.model import LanguageModel

_LENGTH, _COUNT = 160, 40
Teller = tuple[LanguageModel, list[Batch]]


def loss(model: LanguageModel, batch: Batch) -> Tensor:
    scores = model.heads["clm"](model(batch).last_hidden_state).view(batch.layout.count, -1, model.vocab_size)
    labels = batch.tokens.view(batch.layout.count, -1)
    return F.cross_entropy(scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


class OwnCalibration(Calibration):
    """Texts whose next tokens are predicted."""

    def loss(self, model: LanguageModel, batch: Batch) -> Tensor:
        return loss(model, batch)


@pytest.fixture(scope="module")
def teller(data_folder: Path) -> Teller:
    """The model, and batches of stories that it told; the last is held out."""
    path = data_folder / "models" / "stories260K" / "hf"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    model = load_model(path).eval()
    generator = torch.Generator().manual_seed(0)
    session = DecodingSession(model, model.vocab_size, _COUNT, _LENGTH + 2)
    logits, runs = session.read([np.array([1])] * _COUNT), [torch.ones(_COUNT, 1, dtype=torch.long)]
    for _ in range(_LENGTH):
        chosen = torch.multinomial((logits.float() / 0.8).softmax(-1), 1, generator=generator)
        runs.append(chosen)
        logits = session.feed(chosen[:, 0])
    stories = torch.cat(runs, 1).numpy()
    return model, [ragged([*stories[n : n + 8]]) for n in range(0, _COUNT, 8)]


def perplexity(model: LanguageModel, batches: list[Batch]) -> float:
    with torch.no_grad():
        return math.exp(float(loss(model, batches[-1])))


def pruned(teller: Teller, **fields: Any) -> float:
    """The perplexity on held-out stories after pruning."""
    model, batches = copy.deepcopy(teller[0]), teller[1]
    calibration = OwnCalibration(tuple(batches[:-1]), None, "stories", 32, 32 * _LENGTH, 32)
    context = CompressContext(None, Draw(0), calibration)  # type: ignore[arg-type]
    return perplexity(prune.apply(model, prune.Config(**fields), context), batches)


@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_sparsegpt_before_wanda_before_magnitude(teller: Teller, pattern: str | None) -> None:
    magnitude, wanda, sparsegpt = (
        pruned(teller, sparsity=name, pattern=pattern) for name in ("magnitude", "wanda", "sparsegpt")
    )
    assert perplexity(*teller) < sparsegpt < wanda < magnitude


def test_importance_beats_chance(teller: Teller) -> None:
    """Better than random choices: of inner values than each of four, of groups of heads than their mean."""
    by_importance = {"heads": pruned(teller, heads=0.25), "inner": pruned(teller, inner=0.25, multiple=4)}
    by_chance: dict[str, list[float]] = {"heads": [], "inner": []}
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        model = copy.deepcopy(teller[0])
        attentions = structure.attentions(model).items()
        heads = {path: torch.rand(each.heads, generator=generator) for path, each in attentions}
        selection.narrow_heads(model, selection.best_heads(model, heads, 0.25))
        by_chance["heads"].append(perplexity(model, teller[1]))
        model = copy.deepcopy(teller[0])
        bricks = structure.feedforwards(model).items()
        inner = {path: torch.rand(each.down.in_features, generator=generator) for path, each in bricks}
        selection.narrow_inner(model, selection.best_inner(inner, 0.25, 4))
        by_chance["inner"].append(perplexity(model, teller[1]))
    assert by_importance["inner"] < min(by_chance["inner"])
    assert by_importance["heads"] < sum(by_chance["heads"]) / 4


def test_the_loss_without_each_layer_finds_the_best(teller: Teller) -> None:
    by_loss = pruned(teller, layers=0.2)
    others = []
    for removed in range(1, 5):
        model = copy.deepcopy(teller[0])
        selection.drop_layers(model, {"stack": [number for number in range(5) if number != removed]})
        others.append(perplexity(model, teller[1]))
    assert by_loss <= min(others) * 1.02
