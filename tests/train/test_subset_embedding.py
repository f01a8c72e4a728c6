"""An embedding of the data's tokens alone learns what the whole one would have, and nothing of it shows afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_run import task_recipe
from trainkit import SHAPE, WORDS

from pretune.models import build
from pretune.nn.vocabulary import SubsetEmbedding, Vocabulary
from pretune.train import run as runs
from pretune.train import subset_embedding
from pretune.train.run import finetune
from pretune.train.subset_embedding import restore_embedding, shrink_embedding

BODY = {**SHAPE, "vocab_size": 64}
EMBEDDING = "bert.embeddings.word_embeddings.weight"


def write(path: Path, count: int, seed: int) -> str:
    """Texts of ten out of twenty words; the first decides the label."""
    rng = np.random.default_rng(seed)
    texts = rng.integers(0, 20, (count, 10))
    rows = [f"{' '.join(WORDS[n] for n in text)},{'low' if text[0] < 10 else 'high'}" for text in texts.tolist()]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return str(path)


@pytest.fixture
def make_recipe(tmp_path: Path, store: Path):
    def make(name: str, **over):
        data = {"train": write(tmp_path / "few.csv", 80, 2), "validation": write(tmp_path / "held.csv", 30, 3)}
        base = {"data": data, "budget": {"epochs": 2}, "optimizer": {"lr": 3e-3, "weight_decay": 0.3, "clip": 0.5}}
        return task_recipe(tmp_path / name, tmp_path, store, **{**base, **over})

    return make


def test_learns_what_the_whole_table_would(make_recipe, tmp_path, monkeypatch):
    """Rows that are looked up, and the others by decay alone; clipping sees the same norm."""
    seen = []
    monkeypatch.setattr(
        runs, "shrink_embedding", lambda model, tokens: (shrink_embedding(model, tokens), seen.append(model))
    )
    finetune(make_recipe("some"))
    (model,) = seen
    assert isinstance(model.embedding.word, Vocabulary)
    assert not isinstance(model.embedding.word, SubsetEmbedding)
    monkeypatch.setattr(subset_embedding, "_FRACTION", 0)
    finetune(make_recipe("all"))
    some, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("some", "all"))
    assert some.keys() == whole.keys()
    for name in some:
        torch.testing.assert_close(some[name], whole[name], atol=2e-5, rtol=2e-5)
    facts = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("some", "all")]
    assert facts[0]["parameters"] == facts[1]["parameters"]
    sizes = [
        max((tmp_path / name).glob("checkpoint-*/optimizer.safetensors")).stat().st_size for name in ("some", "all")
    ]
    assert sizes[0] < sizes[1]


def test_goes_on_exactly(make_recipe, tmp_path):
    for name, epochs in (("whole", 2), ("parts", 1), ("parts", 2)):
        finetune(make_recipe(name, budget={"epochs": epochs}, schedule={"tokens": 1500}, evaluation={"keep": "last"}))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_best_weights_are_whole(make_recipe, tmp_path):
    """Of an earlier step than the last: read from a checkpoint, which holds some rows."""
    finetune(make_recipe("run", budget={"epochs": 4}, optimizer={"lr": 0.3}, evaluation={"every": 1, "samples": None}))
    finished = json.loads((tmp_path / "run/run.json").read_text())["finished"]
    assert finished["weights_of_step"] == finished["best_step"] < finished["steps"]
    table = load_file(tmp_path / "run/model.safetensors")[EMBEDDING]
    kept = load_file(tmp_path / f"run/checkpoint-{finished['best_step']}/model.safetensors")
    (rows,) = (value for name, value in kept.items() if name.endswith("embedding.word.weight"))
    assert len(table) == 64
    assert len(rows) == 26  # 5 special ones, 20 words, and what decay leaves of 1
    assert torch.equal(table[:25], rows[:25])


def test_rows(store):
    table = Vocabulary(9, 4)
    table.reset_parameters()
    some = SubsetEmbedding(table, torch.tensor([7, 2, 2, 3]))
    tokens = torch.tensor([[2, 3], [7, 7]])
    assert torch.equal(some.lookup(tokens), table.lookup(tokens))
    assert (some.size, some.weight.shape) == (9, (4, 4))
    with pytest.raises(IndexError):
        some.lookup(torch.tensor([4]))
    with torch.no_grad():
        some.weight[1] = 5.0
        some.weight[3] *= 0.5
    whole = some.restore()
    assert whole.weight.requires_grad
    assert torch.equal(whole.weight[3], torch.full((4,), 5.0))
    assert torch.equal(whole.weight[[2, 7]], table.weight[[2, 7]])
    assert torch.equal(whole.weight[[0, 1, 4, 5, 6, 8]], 0.5 * table.weight[[0, 1, 4, 5, 6, 8]])


@pytest.mark.parametrize(
    ("heads", "tokens", "frozen", "narrowed"),
    [
        (["classification"], range(40), False, True),
        (["classification"], range(60), False, False),  # not worth it
        (["classification"], None, False, False),
        (["classification"], range(40), True, False),
        (["classification", "mlm"], range(40), False, False),  # the table is the head's as well
    ],
)
def test_when(heads, tokens, frozen, narrowed):
    model = build("bert", "tiny", heads, BODY, labels=["a", "b"])
    model.embedding.requires_grad_(not frozen)
    before = model.embedding.word.weight.clone()
    shrink_embedding(model, None if tokens is None else np.array(tokens))
    assert isinstance(model.embedding.word, SubsetEmbedding) == narrowed
    assert model.vocab_size == 64
    restore_embedding(model)
    assert torch.equal(model.embedding.word.weight, before)
