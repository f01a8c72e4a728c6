"""`finetune --model tfidf`: a folder that load, predict and evaluate use as any model's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pretune
from pretune.baselines.folder import load_tfidf
from pretune.baselines.tfidf import fit_tfidf
from pretune.cli import main
from pretune.errors import CannotCreateError, DataError, UsageError

ROWS = [
    {"message": f"{text} {n}", "team": team}
    for n in range(40)
    for text, team in (("my card is lost", "cards"), ("the transfer failed", "money"), ("reset my password", "login"))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the command line made, beside its rows."""
    root = tmp_path_factory.mktemp("tfidf")
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    words = ["finetune", "--model", "tfidf", "--task", "classification", "--train", str(root / "rows.jsonl")]
    words += ["--text", "message", "--label", "team", "--calibrate", "true", "--output", str(root / "model")]
    assert main([*words, "--no-allocator"]) == 0
    return root


def test_the_folder_predicts_as_the_classifier_that_was_fitted(folder: Path) -> None:
    model = pretune.load(folder / "model")
    prediction = model.predict("a lost card")
    assert prediction.label == "cards"
    assert model.predict(["a lost card"])[0] == prediction
    assert model.labels == ["cards", "login", "money"]
    assert model.abilities == {"classify"}
    classifier, metadata = load_tfidf(folder / "model")
    temperature = metadata.task.config["temperature"] if metadata.task else 1
    assert temperature != 1
    logits = np.log(classifier.probabilities(["a lost card"])[0]) / temperature
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(list(prediction.probabilities.values()), expected, atol=1e-9)


def test_a_variant_of_classification_is_refused(tmp_path: Path) -> None:
    """It was fitted, and the folder could not be used."""
    rows = [{"text": row["message"], "label": f"team/{row['team']}"} for row in ROWS]
    with pytest.raises(UsageError, match="has the task classification alone, not hierarchy"):
        pretune.finetune(model="tfidf", task="hierarchy", train=rows, output=str(tmp_path / "model"))


def test_a_temperature_is_where_calibration_begins(tmp_path: Path) -> None:
    """That of the recipe was multiplied in a second time."""
    rows = [{**row, "team": row["team"] if n % 7 else "cards"} for n, row in enumerate(ROWS)]
    fields: dict[str, object] = {"text": "message", "label": "team", "model": "tfidf", "train": rows}
    found = [
        pretune.finetune(
            task={"classification": {"calibrate": True, "temperature": start}},
            output=str(tmp_path / str(start)),
            **fields,
        )
        .task()
        .config.model_dump()["temperature"]
        for start in (1.0, 2.0)
    ]
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_predict_and_evaluate_read_its_columns(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, rows = str(folder / "model"), str(folder / "rows.jsonl")
    assert main(["predict", model, rows, "--quiet", "--no-allocator"]) == 0
    answers = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [answer["label"] for answer in answers] == [row["team"] for row in ROWS]
    assert main(["evaluate", model, rows, "--quiet", "--no-allocator"]) == 0
    scores = json.loads(capfd.readouterr().out)
    assert scores["accuracy"] == 1
    assert scores["confusion"]["cards"] == {"cards": 40}


def test_pairs(tmp_path: Path) -> None:
    rows = [{"text": f"w{n}", "second": f"w{n if n % 2 else n + 1}", "label": "ab"[n % 2]} for n in range(40)]
    out = pretune.finetune(
        model="tfidf",
        task="classification",
        train=rows,
        data={"columns": {"second": "second"}},
        output=str(tmp_path / "out"),
    )
    model = pretune.load(tmp_path / "out")
    assert model.predict("w3", "w3") == out.predict("w3", "w3")
    with pytest.raises(UsageError, match="trained on pairs"):
        model.predict("w3")


def test_what_needs_a_network_is_refused(folder: Path, tmp_path: Path) -> None:
    model = pretune.load(folder / "model")
    with pytest.raises(UsageError, match="a TF-IDF classifier has no network: it can predict and evaluate alone"):
        model.embed(["a text"])
    with pytest.raises(UsageError, match="has the task classification, not similarity"):
        model.evaluate(ROWS, task="similarity")
    with pytest.raises(UsageError, match="reads whole texts; leave it out"):
        model.predict("a text", truncate="tail")
    with pytest.raises(UsageError, match="trains no network"):
        pretune.finetune(model="tfidf", task="classification", tune="lora", train=ROWS, output=str(tmp_path / "a"))
    with pytest.raises(UsageError, match="transformers has no TF-IDF classifiers"):
        model.export(tmp_path / "out")
    with pytest.raises(UsageError, match="is a TF-IDF classifier, which no training begins with"):
        pretune.finetune(model=str(folder / "model"), task="classification", train=ROWS, output=str(tmp_path / "b"))
    assert main(["show", "--model", "tfidf", "--task", "classification", "--train", str(folder / "rows.jsonl")]) == 64
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("")
    with pytest.raises(CannotCreateError, match="holds the run of a network"):
        pretune.finetune(model="tfidf", task="classification", train=ROWS, output=str(tmp_path / "run"))


def test_what_is_not_used_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = {"classification": {"label_smoothing": 0.1, "calibrate": True}}
    pretune.finetune(
        model="tfidf", task=task, train=ROWS, text="message", label="team", lr=0.5, output=str(tmp_path / "a")
    )
    (message,) = [message for message in caplog.messages if message.startswith("warning: ")]
    assert message == (
        "warning: not used by TF-IDF, which has no steps and reads whole texts: optimizer.lr, "
        "task.classification.label_smoothing"
    )
    caplog.clear()
    pretune.finetune(
        model="tfidf", task="classification", train=ROWS, text="message", label="team", output=str(tmp_path / "b")
    )
    assert not caplog.messages


def test_a_copy_is_the_same(folder: Path, tmp_path: Path) -> None:
    model = pretune.load(folder / "model")
    model.save(tmp_path / "copy")
    assert pretune.load(tmp_path / "copy").predict("my password") == model.predict("my password")


def test_files_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    pretune.load(folder / "model").save(tmp_path / "bad")
    arrays = load_file(tmp_path / "bad" / "model.safetensors")
    save_file({**arrays, "bias": arrays["bias"][:1]}, tmp_path / "bad" / "model.safetensors")
    (tmp_path / "bad" / "pretune.xxh128").unlink()  # else the seal speaks first
    with pytest.raises(DataError, match="its files do not fit each other"):
        pretune.load(tmp_path / "bad")


def test_characters_of_chinese_are_saved(tmp_path: Path) -> None:
    texts = ["这部电影很好看\n真的", "很难看的电影", "真好看", "太难看了"]
    rows = [{"text": text, "label": "好差"[n % 2]} for n, text in enumerate(texts)]
    model = pretune.finetune(model="tfidf", task="classification", train=rows, output=str(tmp_path / "zh"))
    expected = fit_tfidf(texts, ["好", "差", "好", "差"]).probabilities(["好看的书"])[0]
    probabilities = model.predict("好看的书").probabilities
    np.testing.assert_allclose([probabilities["好"], probabilities["差"]], expected, atol=1e-6)
    assert expected[0] > 0.5
