"""A head that scores vectors of texts: fitted in closed form, saved under a name of its own, read again as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pretune
from pretune.baselines.vectors import fit_vectors
from pretune.batch import ragged
from pretune.errors import DataError, UsageError
from pretune.interop.weights import Weights
from pretune.nn.vector_head import VectorHead
from pretune.report.pair_vectors import pair_vectors
from tests.tinymodels import save_bert, word_tokenizer

ROWS = [("the quick brown fox", "fox"), ("the lazy dog", "dog"), ("a cat ate a hat", "cat")] * 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_bert(folder, word_tokenizer())
    return folder


def train(base: Path, output: Path, **fields: Any) -> pretune.Model:
    task = {"classification": {"head": "mean", "fit_head": True}}
    values = {"model": str(base), "task": task, "steps": 2, "length": 16, "track.report": False} | fields
    return pretune.finetune(train=ROWS, output=str(output), **values)


def test_what_was_fitted_is_saved_and_read_again(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = train(base, tmp_path / "run")
    texts = [text for text, _ in ROWS[:3]]
    answers = model.predict(texts)
    assert [answer.label for answer in answers] == ["fox", "dog", "cat"], "two steps alone learn nothing"
    assert pretune.load(tmp_path / "run").predict(texts) == answers
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "BertForSequenceClassification" not in config["architectures"], "it would read another row than we do"
    assert not [name for name in Weights(tmp_path / "run").shapes if name.startswith("classifier")]


def test_frozen_vectors_need_no_steps_to_speak_of(base: Path, tmp_path: Path) -> None:
    model = train(base, tmp_path / "run", tune="frozen", steps=1)
    assert [answer.label for answer in model.predict([text for text, _ in ROWS[:3]])] == ["fox", "dog", "cat"]
    before, after = pretune.load(base).embed(["a dog"]), model.embed(["a dog"])
    np.testing.assert_allclose(before, after, atol=0.05)  # bf16


def test_vectors_are_poolings_of_length_one() -> None:
    batch = ragged([np.arange(3), np.arange(2)])
    hidden = torch.randn(5, 4)
    vectors = VectorHead(4, ["a", "b"], "mean").vectors(hidden, batch.layout)
    for vector, rows in zip(vectors, (hidden[:3], hidden[3:]), strict=True):
        torch.testing.assert_close(vector, rows.mean(0) / rows.mean(0).norm())
    last = VectorHead(4, ["a", "b"], "last").vectors(hidden, batch.layout)
    torch.testing.assert_close(last[0], hidden[2] / hidden[2].norm())


def test_contrast_trains_vectors_alone(base: Path, tmp_path: Path) -> None:
    task: dict[str, dict[str, Any]] = {"classification": {"head": "mean", "fit_head": True, "contrast": True}}
    one, other = (
        train(base, tmp_path / name, task=task, steps=6, lr=1e-3, precision="fp32", **{"data.accumulate": parts})
        for name, parts in (("one", 1), ("two", 3))
    )
    texts = [text for text, _ in ROWS[:3]]
    assert [answer.label for answer in one.predict(texts)] == ["fox", "dog", "cat"]
    np.testing.assert_allclose(one.embed(texts), other.embed(texts), atol=1e-4)
    with pytest.raises(UsageError, match="knows no class_weights"):
        train(base, tmp_path / "bad", task={"classification": {**task["classification"], "label_smoothing": 0.1}})
    with pytest.raises(UsageError, match="contrast trains no head"):
        train(base, tmp_path / "bad", task={"classification": {"contrast": True}})


def test_the_weights_before_training_may_count(base: Path, tmp_path: Path) -> None:
    before, after = pretune.load(base), train(base, tmp_path / "one", lr=1e-2)
    mixed = train(base, tmp_path / "two", lr=1e-2, **{"evaluation.keep_initial": 0.5})
    name = "stack.blocks.0.feedforward.up.weight"
    first, last, mean = (dict(model.network.named_parameters())[name] for model in (before, after, mixed))
    torch.testing.assert_close(mean.float(), (first.float() + last.float()) / 2, atol=4e-3, rtol=0.02)


def test_texts_of_a_pair_may_be_read_apart(base: Path, tmp_path: Path) -> None:
    """Fitted to frozen vectors, it is logistic regression on what these and the tokens' vectors say of a pair."""
    texts = [text for text, _ in ROWS[:3]]
    pairs = [(a, b, "same" if a == b else "other") for a in texts for b in texts] * 2
    records = [{"text": a, "second": b, "label": label} for a, b, label in pairs]
    task = {"classification": {"head": "mean", "fit_head": True, "apart": True}}
    fields: dict[str, Any] = {"model": str(base), "task": task, "steps": 1, "length": 16, "tune": "frozen"}
    fields |= {"second": "second", "precision": "fp32", "track.report": False}
    answers = pretune.finetune(train=records, output=str(tmp_path / "run"), **fields).predict(records)
    before = pretune.load(base, precision="fp32")
    u, v = (before.embed([pair[n] for pair in pairs], normalize=True) for n in (0, 1))
    features = np.hstack([u, v, np.abs(u - v), u * v, 4 * (u * v).sum(axis=1, keepdims=True)])
    sides = [
        [text.vectors for text in before.embed([p[n] for p in pairs], of="tokens", normalize=True)] for n in (0, 1)
    ]
    cosines = [one @ other.T for one, other in zip(*sides, strict=True)]
    covered = [[8 * c.max(1).mean(), 8 * c.max(0).mean(), 4 * c.max(1).min(), 4 * c.max(0).min()] for c in cosines]
    features = np.hstack([features, covered]).astype(np.float32)
    np.testing.assert_allclose(
        pair_vectors(before, *([pair[n] for pair in pairs] for n in (0, 1))), features, atol=1e-5
    )
    fitted = fit_vectors(features, [label for *_, label in pairs])
    probabilities = [[answer.probabilities[label] for label in fitted.labels] for answer in answers]
    np.testing.assert_allclose(probabilities, fitted.probabilities(features), atol=1e-3)
    again = pretune.load(tmp_path / "run", precision="fp32")
    assert again.predict(records) == answers
    with pytest.raises(DataError, match="no second text"):
        train(base, tmp_path / "bad", task=task)


@pytest.mark.parametrize("count", [128, 129])
def test_weights_for_fewer_features_of_pairs_are_read(base: Path, tmp_path: Path, count: int) -> None:
    """Before coverage was one, and before the cosine was; what the weights were trained on is told by their width."""
    records = [{"text": a, "second": b, "label": str(a == b)} for a, _ in ROWS[:3] for b, _ in ROWS[:3]]
    task = {"classification": {"head": "mean", "fit_head": True, "apart": True}}
    fields: dict[str, Any] = {"model": str(base), "task": task, "steps": 1, "length": 16, "tune": "frozen"}
    fields |= {"second": "second", "precision": "fp32", "track.report": False}
    model = pretune.finetune(train=records, output=str(tmp_path / "run"), **fields)
    head = model.network.heads["vector_classification"]
    assert isinstance(head, VectorHead)
    whole = head.linear.weight.detach().clone()
    head.use_columns(count)
    with torch.no_grad():
        head.linear.weight.copy_(whole[:, :count])
    answers = model.predict(records)
    model.save(tmp_path / "older")
    assert Weights(tmp_path / "older").shapes["heads.vector_classification.linear.weight"] == (2, count)
    assert pretune.load(tmp_path / "older", precision="fp32").predict(records) == answers
    assert pretune.load(tmp_path / "run", precision="fp32").predict(records) != answers


def test_a_standard_head_is_not_fitted(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fit_head: the standard head .*head = \"mean\""):
        train(base, tmp_path / "run", task={"classification": {"fit_head": True}})
