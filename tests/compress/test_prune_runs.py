"""A pruned model goes on as every other: in rounds with training, rounded, trained on, exported, explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import pretune
from pretune.compress import prune_heads
from tests.tinymodels import TEXTS, save_bert, word_tokenizer

LABELS = ["a", "b"]


@pytest.fixture
def classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A classifier of two layers, with labelled texts in `labels.csv`."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    save_bert(Path("bert"), word_tokenizer(), transformers.BertForSequenceClassification, LABELS)
    rows = [f"{TEXTS[0]} {'hat' if n % 2 else 'dog'} {n},{'ab'[n % 2]}" for n in range(40)]
    Path("labels.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return "bert"


def compress(model: str, *steps: Any, output: str) -> Any:
    fields = {"evaluation.speed": False, "calibration.tokens": 300}
    return pretune.compress_model(model, *steps, output=output, calibration="labels.csv", **fields)


def test_rounds_with_training_then_rounded(classifier: str) -> None:
    data = {"train": ["labels.csv"], "length": 40}
    training = {"data": data, "task": "classification", "budget": {"steps": 1}}
    prune = {"method": "prune", "inner": 0.5, "multiple": 8, "rounds": 2, "training": training}
    small = compress(classifier, prune, {"method": "quantize", "format": "int8"}, output="small")
    record = json.loads(Path("small/compression.json").read_text())
    notes = [note for note in record["steps"][0]["notes"] if "inner width" in note]
    assert notes == ["prune: inner width of 48 is left of 64", "prune: inner width of 32 is left of 48"]
    assert [step["method"] for step in record["steps"]] == ["prune", "quantize"]
    assert small.predict("a hat").label in LABELS
    assert json.loads(Path("small/config.json").read_text())["intermediate_size"] == 32


def test_trained_on_and_exported(classifier: str) -> None:
    small = compress(classifier, {"method": "prune", "layers": 0.5}, output="small")
    assert small.predict("a hat").label in LABELS
    assert 0 <= float(small.evaluate("labels.csv")["accuracy"]) <= 1
    again = pretune.finetune(
        model="small",
        train="labels.csv",
        task="classification",
        steps=2,
        length=40,
        output="again",
        track={"report": False},
    )
    assert len(again.network.stack.order) == 1
    small.export("plain")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained("plain")
    assert theirs.config.num_hidden_layers == 1


def test_zeros_stay_in_a_run(classifier: str) -> None:
    compress(classifier, {"method": "prune", "sparsity": "wanda", "pattern": "2:4"}, output="sparse")
    fields: dict[str, Any] = {"train": "labels.csv", "task": "classification", "steps": 2, "length": 40}
    fields["track"] = {"report": False}
    for tune, zeros in (("sparse", 0.5), ("full", 0.0)):
        model = pretune.finetune(model="sparse", tune={tune: {}}, output=f"run-{tune}", **fields)
        weight = model.network.get_parameter("stack.blocks.0.feedforward.up.weight")
        assert float((weight == 0).float().mean()) == pytest.approx(zeros, abs=0.01)


def test_heads_pruned_in_memory_still_predict(classifier: str) -> None:
    model = pretune.load(classifier, precision="fp32")
    prune_heads(model.network, {0: [1, 2], 1: [0]})
    assert model.predict("a hat").label in LABELS
    with pytest.raises(pretune.errors.DataError, match="cannot be saved so that others open it"):
        model.export("out")
    assert not Path("out").exists()


def test_quantized_first_is_refused(classifier: str) -> None:
    with pytest.raises(pretune.errors.UsageError, match="put quantize last, once"):
        compress(
            classifier, {"method": "quantize", "format": "int8"}, {"method": "prune", "layers": 0.5}, output="small"
        )
    compress(classifier, {"method": "quantize", "format": "int8"}, output="rounded")
    with pytest.raises(pretune.errors.PretuneError, match=r"quantize|rounded"):
        compress("rounded", {"method": "prune", "layers": 0.5}, output="small")
    assert not Path("small").exists()
