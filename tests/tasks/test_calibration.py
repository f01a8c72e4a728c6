"""Calibration and abstention: the numbers, and a run that keeps them in its model."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from tinymodels import word_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import UsageError
from pretune.tasks.shared.calibration import (
    calibration_error,
    choose_threshold,
    choose_trust,
    classwise_error,
    coverage_and_risk,
    fit_temperature,
    rescale,
    threshold_between,
)


def test_calibration_error_by_hand() -> None:
    assert calibration_error([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0]) == pytest.approx(0.15)
    assert calibration_error([1.0, 0.5], [1, 0]) == pytest.approx(0.25)
    assert calibration_error([0.95] * 20, [1] * 19 + [0]) == pytest.approx(0)


def test_errors_of_two_labels_that_hide_each_other() -> None:
    """Every probability of the second label is 0.1 too high: answers of it too sure, those of the first too unsure."""
    second = np.repeat([0.9, 0.1], 50)
    truth = np.array([1] * 40 + [0] * 10 + [0] * 50)
    both = np.stack([1 - second, second], 1)
    assert calibration_error(both.max(1), both.argmax(1) == truth) == pytest.approx(0)
    assert classwise_error(both, truth) == pytest.approx(0.1)
    three = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    assert classwise_error(three, [0, 1]) == pytest.approx((0 + 0.2 + 0.2) / 3)


def test_temperature_is_found_again() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (true.cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)
    sharp = rescale(true, 1 / 2.5)  # as of a model that is too sure
    temperature = fit_temperature(sharp, truth)
    assert temperature == pytest.approx(2.5, rel=0.06)
    np.testing.assert_allclose(rescale(sharp, 2.5), true, atol=1e-9)
    before, after = (
        calibration_error(p.max(axis=1), p.argmax(axis=1) == truth) for p in (sharp, rescale(sharp, temperature))
    )
    assert before > 0.1
    assert after < 0.03


def test_few_examples_that_are_all_right_give_no_extreme() -> None:
    assert 0.2 < fit_temperature([[0.9, 0.1]] * 5, [0] * 5) < 1


def test_threshold_keeps_the_risk_and_answers_equals_alike() -> None:
    rng = np.random.default_rng(1)
    confidence = np.round(rng.random(500), 2)
    right = rng.random(500) < confidence
    threshold = choose_threshold(confidence.tolist(), right.tolist(), 0.1)
    assert threshold is not None
    coverage, risk = coverage_and_risk(confidence, right, threshold)
    assert 0 < risk <= 0.1
    lower = max(value for value in confidence if value < threshold)
    count = int((confidence >= lower).sum())
    assert (coverage_and_risk(confidence, right, lower)[1] * count + 1) / (count + 1) > 0.1
    assert 0.1 < coverage < 0.6
    assert choose_threshold([0.9] * 8, [True] * 8, 0.1) is None  # too few to be sure of one in ten


def test_no_held_out_text_stands_on_the_threshold() -> None:
    """The last bits of its probability, which another number of threads changes, decided whether it had a label."""
    confidence = [0.91234567] * 30 + [0.7] * 10
    right = [True] * 30 + [False] * 10
    assert choose_threshold(confidence, right, 0.1) == 0.8062
    assert choose_threshold(confidence[:30], right[:30], 0.1) == 0.9078
    assert threshold_between(0.5000002, 0.5000001) == 0.50000015
    assert threshold_between(-1.0, 2.0) == 0.5
    assert threshold_between(0.5, math.nextafter(0.5, 0.0)) == 0.5
    assert threshold_between(1e-9, 0.0) == 5e-10


def test_no_threshold_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    trust = choose_trust([[0.9, 0.1]] * 4, [0, 1, 0, 0], calibrate=False, risk=0.05)
    assert trust.threshold is None
    assert caplog.messages == [
        "warning: no threshold keeps wrong labels at 0.05 of those given on 4 held-out rows, so none is set; allow "
        "more with abstain, or hold more rows out"
    ]


def train(root: Path, output: str, *, report: bool = False) -> None:
    """A run with both settings."""
    pretune.finetune(
        task={"classification": {"calibrate": True, "abstain": 0.3}},
        train=str(root / "train.jsonl"),
        validation=str(root / "held.jsonl"),
        data={"tokenizer": str(root / "tokenizer"), "length": 16},
        model={"size": "tiny"},
        steps=20,
        lr=3e-3,
        output=str(root / output),
        device="cpu",
        precision="fp32",
        track={"progress": "quiet", "report": report},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both settings, on labels of which some are noise."""
    root = tmp_path_factory.mktemp("calibrated")
    word_tokenizer().save(root / "tokenizer")
    texts = [("the cat ate a hat", "cat"), ("the lazy dog", "dog"), ("a dog and a fox", "dog"), ("a cat", "cat")]
    rows = [{"text": f"{text} {n}", "label": label if n % 5 else "cat"} for n in range(40) for text, label in texts]
    for name, part in (("train", rows[:100]), ("held", rows[100:])):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    train(root, "run")
    return root


def test_a_run_saves_temperature_and_threshold_and_evaluate_uses_them(run: Path) -> None:
    config = json.loads((run / "run" / "config.json").read_text())["pretune"]["task"]["config"]
    assert config["temperature"] != 1
    model = pretune.load(run / "run", "cpu", "fp32")
    scores = model.evaluate(str(run / "held.jsonl"))
    assert 0 < scores["coverage"] <= 1
    assert scores["risk"] <= 0.3
    predictions = model.predict(str(run / "held.jsonl"))
    assert [prediction.abstains for prediction in predictions] == [
        prediction.probability < config["threshold"] for prediction in predictions
    ]
    assert scores["coverage"] == pytest.approx(1 - sum(each.abstains for each in predictions) / len(predictions))
    plain = model.evaluate(str(run / "held.jsonl"), task={"classification": {"temperature": 1.0}})
    assert plain["accuracy"] == scores["accuracy"]
    assert plain["ece"] != scores["ece"]


@pytest.mark.slow
def test_the_report_shows_what_was_chosen(run: Path) -> None:
    train(run, "reported", report=True)
    page = (run / "reported" / "report.html").read_text()
    for words in ("calibration error (ECE)", "before calibration", "texts that get a label", "wrong of the labels"):
        assert words in page


def test_predict_gives_no_label_below_the_threshold(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = run / "run" / "config.json"
    threshold = json.loads(path.read_text())["pretune"]["task"]["config"]["threshold"]
    assert main(["predict", str(run / "run"), str(run / "held.jsonl"), "--device", "cpu", "--no-allocator"]) == 0
    out, err = capfd.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    key = "predicted_label"
    assert [row[key] is None for row in answers] == [row["probability"] < threshold for row in answers]
    assert "no label is as probable as the model's threshold" in err
    flags = ["--threshold", "0", "--device", "cpu", "--no-allocator", "--quiet"]
    assert main(["predict", str(run / "run"), str(run / "held.jsonl"), *flags]) == 0
    assert all(json.loads(line)[key] is not None for line in capfd.readouterr().out.splitlines())


def test_a_table_holds_rows_with_a_label_and_rows_without(run: Path, tmp_path: Path) -> None:
    """A row without a label had a column more, so that a table which began with another could not be written."""
    shutil.copytree(run / "run", tmp_path / "run")
    rows = [json.loads(line) for line in (run / "held.jsonl").read_text().splitlines()]
    predictions = pretune.load(run / "run", "cpu", "fp32").predict([row["text"] for row in rows])
    order = sorted(range(len(rows)), key=lambda n: -predictions[n].probability)
    sure, unsure = order[0], order[-1]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(rows[n]) for n in (sure, unsure)))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["pretune"]["task"]["config"]["threshold"] = predictions[sure].probability - 1e-6
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert main(["verify", "--accept", str(tmp_path / "run")]) == 0
    output = tmp_path / "answers.csv"
    flags = ["--device", "cpu", "--precision", "fp32", "--no-allocator", "--output", str(output)]
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "rows.jsonl"), *flags]) == 0
    header, first, second = csv.reader(output.open())
    place = header.index("predicted_label")
    assert (first[place], second[place]) == (predictions[sure].label, "")


def test_settings_that_need_held_out_rows_are_refused_without_any(tmp_path: Path) -> None:
    word_tokenizer().save(tmp_path / "tokenizer")
    rows = [{"text": f"a cat {n}", "label": "ab"[n % 2]} for n in range(8)]
    with pytest.raises(UsageError, match=r"'task.classification.calibrate' is decided on held-out rows, and there are"):
        pretune.finetune(
            task={"classification": {"calibrate": True}},
            train=rows,
            data={"tokenizer": str(tmp_path / "tokenizer"), "length": 16},
            model={"size": "tiny"},
            steps=1,
            output=str(tmp_path / "run"),
            track={"progress": "quiet", "report": False},
        )
