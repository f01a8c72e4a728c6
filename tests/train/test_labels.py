"""Fine-tuning a model that has a classifier already, and encoder-decoders, whose two sides share a vocabulary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_run import task_recipe

from pretune import api
from pretune.train.run import finetune


def label_rows(path: Path, labels: list[str]) -> str:
    rows = [{"text": f"w{n % 9} w{n % 7}", "label": labels[n % len(labels)]} for n in range(24)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_the_same_labels_keep_the_order_of_the_file(tmp_path, store):
    """The head was made anew, as the order of the text is another than the file's."""
    labels = ["pos", "neg", "mid"]
    data = {"train": [label_rows(tmp_path / "rows.jsonl", labels)], "validation": []}
    first = {"labels": labels}
    over = {"task": {"classification": first}, "budget": {"steps": 2, "epochs": None}}
    finetune(task_recipe(tmp_path / "a", tmp_path, store, data=data, **over))
    assert api.load(tmp_path / "a", "cpu", "fp32").labels == labels
    over = {"model": {"init": str(tmp_path / "a")}, "optimizer": {"lr": 1e-9}, "budget": {"steps": 1, "epochs": None}}
    finetune(task_recipe(tmp_path / "b", tmp_path, store, data=data, **over))
    assert api.load(tmp_path / "b", "cpu", "fp32").labels == labels
    old, new = (load_file(tmp_path / name / "model.safetensors")["classifier.weight"] for name in "ab")
    torch.testing.assert_close(new, old, atol=1e-6, rtol=0)


def test_a_model_in_0_transformer_is_trained_on(tmp_path, store):
    """Older `sentence-transformers` keep a model there: it loaded, and finetune said that it had no weights."""
    labels = ["pos", "neg", "mid"]
    data = {"train": [label_rows(tmp_path / "rows.jsonl", labels)], "validation": []}
    over = {"data": data, "budget": {"steps": 2, "epochs": None}}
    finetune(task_recipe(tmp_path / "a", tmp_path, store, task={"classification": {"labels": labels}}, **over))
    older, inside = tmp_path / "older", tmp_path / "older/0_Transformer"
    inside.mkdir(parents=True)
    for path in (path for path in (tmp_path / "a").glob("*.*") if path.is_file()):
        shutil.copy(path, inside)
    entry = {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    (older / "modules.json").write_text(json.dumps([entry, pooling]))
    (older / "1_Pooling").mkdir()
    fields = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (older / "1_Pooling/config.json").write_text(json.dumps(fields))
    over |= {"optimizer": {"lr": 1e-9}, "model": {"init": str(older)}}
    finetune(task_recipe(tmp_path / "b", tmp_path, store, **over))
    assert api.load(tmp_path / "b", "cpu", "fp32").labels == labels
    old, new = (load_file(tmp_path / name / "model.safetensors")["classifier.weight"] for name in "ab")
    torch.testing.assert_close(new, old, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_an_encoder_decoder_learns_to_classify(family, tmp_path, store):
    """After 20 steps "weights ['encoder.embedding.word.weight'] have no Hugging Face name", or an IndexError."""
    data = {"train": [label_rows(tmp_path / "rows.jsonl", ["a", "b"])], "validation": []}
    recipe = task_recipe(tmp_path / "run", tmp_path, store, data=data, budget={"steps": 3, "epochs": None})
    model = recipe.model.model_copy(update={"family": family, "overrides": {}})
    finetune(recipe.model_copy(update={"model": model}))
    loaded = api.load(tmp_path / "run", "cpu", "fp32")
    assert loaded.predict("w1 w2").label in ("a", "b")
    loaded.export(tmp_path / "out")
