"""What a classifier's files mean by its scores, against the pipeline of `transformers` on the same folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers
from tinymodels import save_bert, word_tokenizer

import pretune
from pretune.errors import DataError, UsageError
from pretune.tasks.shared.predictions import IndependentPrediction, Prediction, Values

TEXTS = ["the quick brown fox", "a hat"]
CASES = [
    ({"problem_type": "multi_label_classification"}, 3, dict),
    ({"problem_type": "single_label_classification"}, 3, Prediction),
    ({}, 3, Prediction),
    ({"problem_type": "regression"}, 1, dict),
    ({"problem_type": "regression"}, 2, Values),
    ({"problem_type": "multi_label_classification"}, 1, IndependentPrediction),
    ({}, 1, IndependentPrediction),
]


def save(folder: Path, labels: int, **fields: object) -> Path:
    names = [f"L{n}" for n in range(labels)]
    save_bert(folder, word_tokenizer(), transformers.BertForSequenceClassification, names)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def scores_of(prediction: Mapping[str, Any]) -> dict[str, float]:
    if isinstance(prediction, Values):
        return dict(prediction)
    if "value" in prediction:
        return {"L0": prediction["value"]}
    return dict(prediction["probabilities"])


@pytest.mark.parametrize(("fields", "labels", "kind"), CASES, ids=lambda value: str(value))
def test_scores_are_those_of_the_pipeline(fields, labels, kind, tmp_path):
    folder = save(tmp_path / "model", labels, **fields)
    pipeline = transformers.pipeline("text-classification", str(folder), top_k=None, device="cpu")
    wanted = [{one["label"]: one["score"] for one in each} for each in pipeline(TEXTS)]
    model = pretune.load(folder, device="cpu", precision="fp32")
    predictions = model.predict(TEXTS)
    assert [type(prediction) for prediction in predictions] == [kind] * 2
    for prediction, want in zip(predictions, wanted, strict=True):
        assert scores_of(prediction) == pytest.approx(want, abs=1e-5)
    model.export(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written.get("problem_type") == fields.get("problem_type")
    again = pretune.load(tmp_path / "out", device="cpu", precision="fp32").predict(TEXTS)
    assert [type(prediction) for prediction in again] == [kind] * 2


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, dict),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, IndependentPrediction),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, dict),
        ({}, IndependentPrediction),
    ],
)
def test_a_cross_encoder_says_what_its_files_say(fields, kind, tmp_path):
    import sentence_transformers

    folder = save(tmp_path / "model", 1, **fields)
    pairs = [("the quick brown fox", "a hat"), ("the lazy dog", "the cat")]
    wanted = sentence_transformers.CrossEncoder(str(folder), device="cpu").predict(pairs).tolist()
    model = pretune.load(folder, device="cpu", precision="fp32")
    predictions = model.predict([first for first, _ in pairs], [second for _, second in pairs])
    assert [type(prediction) for prediction in predictions] == [kind] * 2
    assert [next(iter(scores_of(each).values())) for each in predictions] == pytest.approx(wanted, abs=1e-5)


def test_scores_that_are_no_choice_are_not_compared_with_labels(tmp_path):
    model = pretune.load(save(tmp_path / "model", 1), device="cpu", precision="fp32")
    with pytest.raises(UsageError, match="one label of several; use predict"):
        model.evaluate([{"text": "a hat", "label": "L0"}])


def test_files_of_multiple_choice_are_read_as_the_task(tmp_path):
    peer = save_bert(tmp_path / "model", word_tokenizer(), transformers.BertForMultipleChoice)
    model = pretune.load(tmp_path / "model", device="cpu", precision="fp32")
    assert list(model.network.heads) == ["multiple_choice"]
    choices = ["the lazy dog", "a hat", "the cat"]
    (prediction,) = model.predict([{"text": TEXTS[0], "choices": choices}])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    encoded = tokenizer([TEXTS[0]] * 3, choices, return_tensors="pt", padding=True)
    wanted = peer.eval()(**{name: value[None] for name, value in encoded.items()}).logits.softmax(1)[0]
    assert prediction["probabilities"] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert prediction["text"] == choices[prediction["choice"]]
    with pytest.raises(DataError, match="no field 'choices'"):
        model.predict(TEXTS)


def test_values_and_independent_labels_are_evaluated(tmp_path):
    values = pretune.load(save(tmp_path / "values", 1, problem_type="regression"), device="cpu", precision="fp32")
    scores = values.evaluate([{"text": text, "label": n} for n, text in enumerate(TEXTS)])
    assert {"pearson", "spearman", "mae", "rmse", "r2"} == set(scores)
    several = save(tmp_path / "several", 3, problem_type="multi_label_classification")
    scores = pretune.load(several, device="cpu", precision="fp32").evaluate(
        [{"text": TEXTS[0], "label": ["L0", "L2"]}, {"text": TEXTS[1], "label": []}]
    )
    assert {"f1_micro", "f1/L0", "average_precision"} <= set(scores)
