"""What a finished classifier answers on its validation data: recorded, compared with other ways, and on the page."""

from __future__ import annotations

import csv
import json
import shutil
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinymodels
from sklearn.linear_model import LogisticRegression

import pretune
from pretune.baselines.tfidf import fit_tfidf
from pretune.config import validate
from pretune.draw import Draw
from pretune.report import validation
from pretune.report.finished import comparison, report_finished
from pretune.report.run_files import read_run
from pretune.tasks.classification import Classification, ClassificationExample
from pretune.train.recipe import Recipe

WORDS = {"1": "the Quick  fox", "2": "a lazy dog", "10": "模型 learns"}
TAILS = ("and the cat", "over the hat", "don't you think?", "ate a hat", "jumps & quickly <b>")


def rows(count: int, shift: int) -> list[dict[str, str]]:
    """Texts whose first words tell their label, but for every fifth one's."""
    labels = ["1", "2", "10", "10"]
    names = [labels[n % 4] for n in range(count)]
    return [
        {
            "title": f"{WORDS[label if n % 5 else '2']} {TAILS[(n + shift) % len(TAILS)]} {'й' if n % 3 else ''}x{n}",
            "answer": TAILS[n % 5],
            "topic": label,
        }
        for n, label in enumerate(names)
    ]


def tune(folder: Path, name: str, **over: Any) -> Path:
    """Fine-tunes a tiny BERT on files."""
    init = folder / "bert"
    if not init.exists():
        tinymodels.save_bert(init, tinymodels.word_tokenizer())
        for split, content in (("train", rows(40, 0)), ("dev", rows(30, 2))):
            with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["title", "answer", "topic"])
                writer.writeheader()
                writer.writerows(content)
    columns = {"text": "title", "label": "topic", **over.pop("columns", {})}
    files = {"train": [f"{folder}/train.csv"], "validation": [f"{folder}/dev.csv"]}
    recipe = {
        "output": str(folder / name),
        "device": "cpu",
        "precision": "fp32",
        "model": {"init": str(init)},
        "data": {**files, "columns": columns, "length": 24, "batch": 8},
        "task": {"classification": {}},
        "optimizer": {"lr": 3e-3},
        "budget": {"steps": 12},
        "evaluation": {"every": 3},
        "track": {"progress": "quiet", "every": 2},
    }
    pretune.finetune({**recipe, **over})
    return folder / name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune(tmp_path_factory.mktemp("answers"), "run")


@pytest.fixture(scope="module")
def answers(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "validation.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def test_scores_are_those_of_the_saved_model(run: Path, answers: dict[str, Any], page: str) -> None:
    model = pretune.load(run, "cpu", "fp32")
    scores = model.evaluate(run.parent / "dev.csv")
    assert answers["scores"] == pytest.approx(dict(scores))
    assert answers["step"] == json.loads((run / "run.json").read_text())["finished"]["weights_of_step"]
    assert f"{answers['scores']['accuracy']:.1%}" in page


def test_confusion_matrix_has_the_labels_in_their_order(answers: dict[str, Any]) -> None:
    matrix = np.array(answers["confusion"])
    assert answers["labels"] == ["1", "2", "10"]
    assert matrix.sum(axis=1).tolist() == [8, 8, 14]
    assert np.trace(matrix) / matrix.sum() == pytest.approx(answers["scores"]["accuracy"])


def test_mistakes_are_the_texts_as_they_were_written(run: Path, answers: dict[str, Any], page: str) -> None:
    listed = answers["mistakes"]
    assert len(listed) == min(20, answers["mistake_count"]) > 0
    assert answers["mistake_count"] == 30 - np.trace(answers["confusion"])
    known = {row["title"]: row for row in rows(30, 2)}
    for mistake in listed:
        assert known[mistake["text"]]["topic"] == mistake["label"] != mistake["prediction"]
        assert escape(mistake["text"]) in page
        assert mistake["origin"].startswith(f"{run.parent}/dev.csv:")
    probabilities = [mistake["probability"] for mistake in listed]
    assert probabilities == sorted(probabilities, reverse=True)


def test_baselines_are_what_others_compute(run: Path, answers: dict[str, Any], page: str) -> None:
    known, before = answers["baselines"], pretune.load(run / "initial", "cpu", "fp32")
    train, dev = rows(40, 0), rows(30, 2)
    assert known["commonest"] == "10"
    assert known["accuracy"]["majority"] == pytest.approx(14 / 30)
    x, y = (before.embed([row["title"] for row in part], normalize=True) for part in (train, dev))
    probe = LogisticRegression(C=10.0, max_iter=1000).fit(x, [row["topic"] for row in train])
    assert known["accuracy"]["probe"] == pytest.approx(probe.score(y, [row["topic"] for row in dev]))
    tfidf = fit_tfidf([row["title"] for row in train], [row["topic"] for row in train])
    right = tfidf.probabilities([row["title"] for row in dev]).argmax(axis=1)
    assert known["accuracy"]["tfidf"] == pytest.approx(
        np.mean([tfidf.labels[n] == row["topic"] for n, row in zip(right.tolist(), dev, strict=True)])
    )
    assert "commonest label 0.47" in page  # the line of the chart
    assert f"logistic regression {known['accuracy']['probe']:.2f}" in page


def test_comparison_costs_a_fraction_of_the_training(
    run: Path, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors of thousands of texts would keep a short run of a large model waiting for minutes."""
    assert answers["baselines"]["probe_examples"] == [40, 30]
    monkeypatch.setattr(validation, "_MIN_PROBE", 6)
    monkeypatch.setattr(validation, "_PROBE_WORK", 0.25)  # of 12 steps of 8: 24
    model = pretune.load(run, "cpu", "fp32")
    task, examples = model.task(), [ClassificationExample(row["title"], row["topic"]) for row in rows(40, 0)]
    assert isinstance(task, Classification)
    fewer = validation.baselines(run, model, task, examples, examples[:30], Draw(0))
    assert fewer["probe_examples"] == [16, 8]
    assert fewer["accuracy"]["majority"] == pytest.approx(14 / 30)  # of all of them


def test_page_has_warnings_unknown_tokens_and_every_field(run: Path, page: str) -> None:
    assert "the run has 12 steps, too few to learn" in page
    assert "of the validation texts" in page
    assert "tokens unknown" in page
    for field in ("task · classification · label smoothing", "evaluation · samples", "model · family"):
        assert field in page
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert settings["model.family"] == "bert"
    assert settings["task.classification.labels"] == ["1", "2", "10"]
    assert settings["evaluation.samples"] is None
    assert settings["optimizer.lr"] == 3e-3


def test_samples_have_their_labels(run: Path, page: str) -> None:
    samples = json.loads((run / "samples.json").read_text(encoding="utf-8"))
    known = {row["title"]: row["topic"] for row in rows(30, 2)}
    assert {sample["prompt"]: sample["label"] for sample in samples}.items() <= known.items()
    assert f"{samples[0]['output']}; true label: {samples[0]['label']}</div>" in page


def test_answers_of_other_weights_are_left_out(run: Path, tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "validation.json", "samples.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    facts = json.loads((run / "run.json").read_text())
    del facts["sha256"]
    (tmp_path / "run.json").write_text(json.dumps(facts))
    assert read_run(tmp_path).mistakes
    (tmp_path / "run.json").write_text(json.dumps({**facts, "finished": {"weights_of_step": 1, "steps": 99}}))
    assert not read_run(tmp_path).mistakes
    del facts["finished"]
    (tmp_path / "run.json").write_text(json.dumps(facts))
    assert not read_run(tmp_path).mistakes
    assert not read_run(tmp_path).samples


def test_pairs_are_compared_too(run: Path) -> None:
    other = tune(run.parent, "pairs", columns={"second": "answer"}, tune={"frozen": {}}, budget={"steps": 2})
    answers = json.loads((other / "validation.json").read_text(encoding="utf-8"))
    assert answers["baselines"]["probe_problem"] is None
    assert 0 < answers["baselines"]["accuracy"]["probe"] <= 1
    assert {mistake["second"] for mistake in answers["mistakes"]} <= set(TAILS)


def test_data_that_are_gone_by_the_end_do_not_fail_a_finished_run(run: Path, tmp_path: Path) -> None:
    """The labelled files are read once more for the page, after hours of training."""
    shutil.copytree(run, tmp_path / "run")
    tree = {"output": str(tmp_path / "run"), "data": {"train": ["gone.csv"]}, "task": {"classification": {}}}
    (note,) = report_finished(tmp_path / "run", pretune.load(run, "cpu", "fp32"), validate(Recipe, tree, "recipe"))
    assert note.startswith("warning: the report shows no samples and no mistakes: gone.csv")
    assert "Samples" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_says_where_fine_tuning_does_not_pay() -> None:
    def sentences(own: float, **others: float) -> list[str]:
        answers = {"scores": {"accuracy": own}, "baselines": {"accuracy": others}, "examples": 500}
        return list(comparison(answers))

    lines = sentences(0.758, majority=0.384, probe=0.68, tfidf=0.52)
    assert lines[0].startswith("validation accuracy 75.8%; always answering the commonest label reaches 38.4%")
    assert lines[1:] == [
        "logistic regression on TF-IDF reaches 52.0%",
        "logistic regression on the model's vectors before training reaches 68.0%",
    ]
    assert "--tune frozen" in sentences(0.39, majority=0.384, probe=0.68, tfidf=0.52)[-1]
    assert "--model tfidf --task classification" in sentences(0.39, majority=0.384, probe=0.48, tfidf=0.52)[-1]
    assert len(sentences(0.67, majority=0.384, probe=0.68)) == 2, "within what chance gives"
    assert sentences(0.39, majority=0.576)[1].startswith("warning: ")
    assert list(comparison({})) == []
