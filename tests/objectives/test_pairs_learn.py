"""Next sentences and sentence order are learnt by heart: a few texts, whose pairs a small model comes to tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import make_vocabulary

from pretune.draw import Draw
from pretune.models import build
from pretune.objectives.mixture import build as build_objective
from pretune.text.samples.rows import Row

SHAPE = {"vocab_size": 100, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
ALBERT = {**SHAPE, "embedding_size": 16, "hidden_dropout_prob": 0.0, "classifier_dropout_prob": 0.0}
CASES = {"nsp": ("bert", {**SHAPE, "hidden_dropout_prob": 0.0}), "sop": ("albert", ALBERT)}
CASES["structure"] = CASES["nsp"]


def rows() -> list[Row]:
    rng = np.random.default_rng(0)
    built = []
    for n in range(16):
        tokens, other = rng.integers(5, 100, 12), rng.integers(5, 100, 12)
        built.append(Row((0, 0, n), tokens, np.array([0, 4, 8]), other=other, stops=np.array([4, 8, 12])))
    return built


@pytest.mark.parametrize("name", CASES)
def test_overfits(name: str) -> None:
    family, shape = CASES[name]
    torch.manual_seed(0)
    objective = build_objective({name: 1.0}, make_vocabulary())
    model = build(family, "tiny", objective.heads, shape)
    batch = objective.build_batch(rows(), Draw(3))
    _, label = batch.targets[name]
    assert len(set(label.tolist())) == (3 if name == "structure" else 2)
    assert len(label) == 16
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        (term,) = objective(model, batch)
        optimizer.zero_grad()
        (term.sum / term.count).backward()
        optimizer.step()
        losses.append(float(term.sum.detach()) / term.count)
    assert losses[0] > 0.5
    assert losses[-1] < 0.05
    assert int(term.correct) == 16
