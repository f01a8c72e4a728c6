"""Tasks on whole texts, each from rows to a saved model: several labels, ordered labels, paths of a tree, numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from sklearn import metrics
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer
from torch import nn

import pretune
from pretune.api import Model
from pretune.cli import main
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.find import find_class
from pretune.tasks.hierarchy import Hierarchy
from pretune.tasks.multilabel import Multilabel, best_threshold
from pretune.tasks.ordinal import Ordinal
from pretune.tasks.regression import Regression
from pretune.tasks.shared.records import read_examples
from pretune.tasks.task import Task
from pretune.text.samples.examples import ExampleView

WORDS = word_tokenizer()
NOUNS = ("fox", "dog", "cat", "hat")
TEXTS = [f"the {one} and the {other}" for one in NOUNS for other in NOUNS] * 2
LABELS: dict[str, Callable[[str], object]] = {
    "multilabel": lambda text: [noun for noun in NOUNS[:3] if noun in text],
    "ordinal": lambda text: NOUNS.index(text.split()[1]) + 1,
    "hierarchy": lambda text: f"animal/{text.split()[1]}" if text.split()[1] in NOUNS[:3] else "thing",
    "regression": lambda text: 100.0 + 50 * NOUNS.index(text.split()[1]),
}
FIELDS: dict[str, Any] = {
    "steps": 25,
    "batch": 16,
    "length": 16,
    "lr": 5e-3,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "evaluation": {"every": 25},
    "track": {"report": False, "progress": "quiet"},
}


def rows(task: str) -> list[dict[str, object]]:
    return [{"text": text, "label": LABELS[task](text)} for text in TEXTS]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder, WORDS)
    return folder


@pytest.fixture(scope="module")
def trained(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run of each task."""
    out = {}
    for task in LABELS:
        out[task] = tmp_path_factory.mktemp(task) / "run"
        pretune.finetune(
            model=str(bert), task=task, train=rows(task), validation=rows(task), output=str(out[task]), **FIELDS
        )
    return out


def load(path: Path) -> Model:
    return pretune.load(path, device="cpu", precision="fp32")


@pytest.mark.parametrize("task", LABELS)
def test_a_task_learns_and_is_saved(task: str, trained: dict[str, Path]) -> None:
    model = load(trained[task])
    scores = model.evaluate(rows(task))
    assert scores[model.task().main_metric] > 0.4, dict(scores)
    assert str(scores)  # it prints
    predictions = model.predict(TEXTS[:3])
    assert all(json.loads(json.dumps(prediction)) == prediction for prediction in predictions)
    assert predictions.table().text()


@pytest.mark.parametrize("task", LABELS)
def test_transformers_gives_the_same_logits(task: str, trained: dict[str, Path]) -> None:
    """The scale of regression stands in the weights, so that its values are on the scale of the labels."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(trained[task])
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained[task])
    with torch.no_grad():
        logits = model(**tokenizer(TEXTS[:8], return_tensors="pt", padding=True)).logits
    predictions = load(trained[task]).predict(TEXTS[:8])
    problem = model.config.problem_type
    if task == "regression":
        assert problem == "regression"
        assert [each["value"] for each in predictions] == pytest.approx(logits[:, 0].tolist(), rel=1e-5)
        return
    assert problem == (None if task == "hierarchy" else "multi_label_classification")
    probabilities = torch.tensor([list(each["probabilities"].values()) for each in predictions])
    if task == "multilabel":
        wanted = logits.sigmoid()
    elif task == "hierarchy":
        wanted = logits.softmax(1)
    else:
        higher = logits.sigmoid().cumprod(1)
        wanted = F.pad(higher, (1, 0), value=1.0) - F.pad(higher, (0, 1))
    assert torch.allclose(probabilities, wanted, atol=1e-5)


@pytest.mark.parametrize("task", LABELS)
def test_a_long_text_is_answered_over_its_windows(task: str, trained: dict[str, Path]) -> None:
    model = load(trained[task])
    assert model.predict(TEXTS[1], truncate="windows") == model.predict(TEXTS[1])
    long = model.predict(" ".join([TEXTS[1]] * 9), truncate="windows")
    assert set(long) == set(model.predict(TEXTS[1]))


def test_a_path_that_is_too_improbable_is_none(trained: dict[str, Path]) -> None:
    """`merge` knew plain classes alone, so that `threshold` did nothing."""
    task = {"hierarchy": {"threshold": 1.0}}
    model = load(trained["hierarchy"])
    assert model.evaluate(rows("hierarchy"), task=task)["coverage"] == 0.0
    assert all(each.abstains for each in model.evaluate(rows("hierarchy"), task=task).predictions)
    assert not any(each.abstains for each in model.predict(TEXTS))


def test_verbs_speak_of_each_task(trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def predict(task: str, *flags: str) -> dict[str, Any]:
        assert main(["predict", str(trained[task]), TEXTS[1], "--json", *flags]) == 0
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    several = predict("multilabel", "--top", "2", "--threshold", "0")
    assert several["labels"] == ["cat", "dog", "fox"]
    assert len(several["probabilities"]) == 2
    assert predict("hierarchy")["levels"][0]["label"] == "animal"
    assert set(predict("regression")) == {"text", "value"}
    ordinal = load(trained["ordinal"]).predict(TEXTS[1])
    assert predict("ordinal", "--top", "2")["label"] == ordinal.label
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows("multilabel"))))
    assert main(["evaluate", str(trained["multilabel"]), str(data)]) == 0
    out = capsys.readouterr()
    assert "confusion" not in json.loads(out.out)
    assert main(["evaluate", str(trained["multilabel"]), str(data), "--errors", str(tmp_path / "e.csv")]) == 64


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_a_run_is_scored_as_its_files_say(
    task: str, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a file, `evaluate` took the task of the recipe: no thresholds, and the scale of a regression twice."""
    data, run = tmp_path / "rows.jsonl", tmp_path / "run"
    data.write_text("\n".join(map(json.dumps, rows(task))))
    fields = {**FIELDS, "steps": 10, "evaluation": {"every": 10}}
    model = pretune.finetune(
        model=str(bert), task=task, train=str(data), validation=str(data), output=str(run), **fields
    )
    assert main(["evaluate", str(run), "--device", "cpu", "--precision", "fp32"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(dict(model.evaluate(str(data))), rel=1e-5)


class Scores(nn.Module):
    """A model whose head gives set logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.heads = {"classification": lambda hidden, layout: self.logits}

    def forward(self, batch: object) -> object:
        return type("Output", (), {"last_hidden_state": None, "layout": None})()


def term_of(task: Any, records: list[dict[str, object]], logits: torch.Tensor) -> tuple[Any, Scores]:
    examples = read_examples(task, records)
    view = ExampleView(task.encode(examples, WORDS, 16))
    model = Scores(logits)
    (term,) = task(model, task.prepare(view.read(np.arange(len(examples)), 0, 0, Draw(0)), Draw(0)))
    return term, model


def make(name: str, **config: object) -> Any:
    task = find_class("tasks", name, Task)  # type: ignore[type-abstract]
    return task(task.Config.model_validate(config), WORDS.vocabulary)


def test_the_loss_of_several_labels_is_that_of_transformers() -> None:
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    records = [{"text": "a hat", "label": label} for label in (["a"], [], ["b", "a"])]
    term, _ = term_of(make("multilabel", labels=("a", "b")), records, logits)
    wanted = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert term.count == 3
    assert torch.allclose(term.sum / 3, F.binary_cross_entropy_with_logits(logits, wanted))
    weighted, _ = term_of(make("multilabel", labels=("a", "b"), class_weights={"a": 3.0}), records, logits)
    weight = torch.tensor([3.0, 1.0])
    assert torch.allclose(weighted.sum / 3, F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight))


def test_balanced_weights_of_several_labels() -> None:
    task = make("multilabel", class_weights="balanced")
    config = task.resolve_config(
        read_examples(task, [{"text": "a", "label": label} for label in ("a", "a,b", "a", "a")])
    )
    assert config.class_weights == {"a": 0.25, "b": 3.0}


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        (["b", "a", "b"], ("b", "a")),
        ("b, a", ("b", "a")),
        ("", ()),
        ([], ()),
        (np.array([1, 2]), ("1", "2")),
        (3, ("3",)),
    ],
)
def test_several_labels_are_read(value: object, labels: tuple[str, ...]) -> None:
    (example,) = read_examples(make("multilabel"), [{"text": "a hat", "label": value}])
    assert example.labels == labels


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_has_the_best_f1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, truth = np.round(rng.random(30), 1 + seed % 3), rng.random(30) < 0.3
    best = max(metrics.f1_score(truth, values >= cut, zero_division=0.0) for cut in {*values, 2.0})
    assert metrics.f1_score(truth, values >= best_threshold(values, truth), zero_division=0.0) == pytest.approx(best)
    assert best_threshold(values, np.zeros(30, np.bool_)) == 0.5


def test_thresholds_are_tuned_and_what_is_set_stays() -> None:
    task = make("multilabel", labels=("a", "b"), thresholds={"b": 0.9})
    examples = read_examples(task, [{"text": "a", "label": ["a"] if n < 6 else []} for n in range(12)])
    predictions = [{"labels": [], "probabilities": {"a": 0.3 - n / 100, "b": 0.1}} for n in range(12)]
    config = task.calibrate(predictions, examples)
    assert config.thresholds == {"a": pytest.approx(0.245), "b": 0.9}


def test_tuned_thresholds_are_saved(trained: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    fields = json.loads((trained["multilabel"] / "config.json").read_text())["pretune"]["task"]["config"]
    assert sorted(fields["thresholds"]) == ["cat", "dog", "fox"]
    prediction = load(trained["multilabel"]).predict(TEXTS[1])
    assert prediction["labels"] == [
        label for label, value in prediction["probabilities"].items() if value >= fields["thresholds"][label]
    ]


def test_scores_of_several_labels_are_those_of_sklearn() -> None:
    task = make("multilabel", labels=("a", "b", "c"))
    rng = np.random.default_rng(0)
    truth, values = rng.random((40, 3)) < 0.4, rng.random((40, 3))
    truth[:, 2] = False
    examples = read_examples(
        task, [{"text": "a", "label": [task.labels[n] for n in np.flatnonzero(row)]} for row in truth]
    )
    predictions = [task._prediction(dict(zip(task.labels, row, strict=True))) for row in values.tolist()]
    scores = task.score(predictions, examples)
    for average in ("micro", "macro", "samples"):
        wanted = metrics.f1_score(truth, values >= 0.5, average=average, zero_division=0.0)
        assert scores[f"f1_{average}"] == pytest.approx(wanted)
    assert scores["exact_match"] == pytest.approx((truth == (values >= 0.5)).all(axis=1).mean())
    assert scores["average_precision"] == pytest.approx(metrics.average_precision_score(truth[:, :2], values[:, :2]))


def test_ordinal_probabilities_and_loss() -> None:
    """The loss is the negative log-likelihood of the probabilities that are predicted."""
    task = make("ordinal", labels=("low", "mid", "high"))
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    term, model = term_of(task, [{"text": "a hat", "label": label} for label in ("low", "high", "mid")], logits)
    predictions = task.decode(model, type("Rows", (), {"batch": None})(), WORDS)
    probabilities = [each.probabilities for each in predictions]
    assert all(sum(each.values()) == pytest.approx(1.0) for each in probabilities)
    wanted = -sum(np.log(each[label]) for each, label in zip(probabilities, ("low", "high", "mid"), strict=True))
    assert term.sum.item() == pytest.approx(wanted, rel=1e-5)
    for each in predictions:
        below = [sum(list(each.probabilities.values())[: n + 1]) for n in range(3)]
        assert each.label == task.labels[next(n for n, value in enumerate(below) if value >= 0.5)]


def test_labels_of_numbers_are_ordered_by_value() -> None:
    task = make("ordinal")
    examples = read_examples(task, [{"text": "a", "label": label} for label in ("10", 2, 3.5, "2")])
    assert task.resolve_config(examples).labels == ("2", "3.5", "10")


def test_scores_of_ordered_labels() -> None:
    task = make("ordinal", labels=("1", "2", "3", "4"))
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(1, 5, 50), rng.integers(1, 5, 50)
    examples = read_examples(task, [{"text": "a", "label": int(label)} for label in truth])
    predictions = [pretune.api.Prediction(str(label), {str(label): 1.0}) for label in guess]
    scores = task.score(predictions, examples)
    assert scores["qwk"] == pytest.approx(metrics.cohen_kappa_score(truth, guess, weights="quadratic"))
    assert scores["mae"] == pytest.approx(np.abs(truth - guess).mean())
    assert scores["count/2"] == (truth == 2).sum()


def test_probabilities_of_a_path_are_sums(trained: dict[str, Path]) -> None:
    for prediction in load(trained["hierarchy"]).predict(TEXTS[:4]):
        levels = prediction["levels"]
        assert levels[-1] == {"label": prediction["label"], "probability": prediction["probability"]}
        for level in levels:
            below = [
                p for path, p in prediction["probabilities"].items() if f"{path}/".startswith(f"{level['label']}/")
            ]
            assert level["probability"] == pytest.approx(sum(below))


def test_the_loss_of_paths_adds_their_beginnings() -> None:
    labels = ("a/x", "a/y", "b/x/p", "b/x/q")
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    records = [{"text": "a hat", "label": label} for label in ("a/y", "b/x/q")]
    plain, _ = term_of(make("hierarchy", labels=labels, level_weight=0.0), records, logits)
    wanted = logits.softmax(1)
    assert float(plain.sum) == pytest.approx(-float((wanted[0, 1] * wanted[1, 3]).log()), rel=1e-5)
    term, _ = term_of(make("hierarchy", labels=labels, level_weight=0.5), records, logits)
    first = -(wanted[0, :2].sum().log() + wanted[1, 2:].sum().log())
    second = -(wanted[0, 1].log() + wanted[1, 2:].sum().log())
    assert float(term.sum) == pytest.approx(float(plain.sum + 0.5 * (first + second) / 2), rel=1e-5)


def test_scores_of_paths() -> None:
    task = make("hierarchy", labels=("a/x", "a/y", "b"))
    examples = read_examples(task, [{"text": "a", "label": label} for label in ("a/x", "a/y", "b")])
    predictions = [pretune.api.Prediction(label, {label: 1.0}) for label in ("a/x", "a/x", "a/y")]
    scores = task.score(predictions, examples)
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert scores["accuracy_level_1"] == pytest.approx(2 / 3)
    assert scores["accuracy_level_2"] == pytest.approx(1 / 2)
    assert scores["f1_path"] == pytest.approx(2 * 3 / (5 + 6))


def test_scores_of_numbers() -> None:
    task = make("regression")
    rng = np.random.default_rng(0)
    truth, guess = rng.normal(size=30), rng.normal(size=30)
    examples = read_examples(task, [{"text": "a", "label": float(value)} for value in truth])
    scores = task.score([{"value": float(value)} for value in guess], examples)
    assert scores["r2"] == pytest.approx(metrics.r2_score(truth, guess))
    assert scores["rmse"] == pytest.approx(metrics.mean_squared_error(truth, guess) ** 0.5)
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(truth, guess))
    assert scores["pearson"] == pytest.approx(np.corrcoef(truth, guess)[0, 1])


def test_regression_goes_on_from_its_own_files(trained: dict[str, Path], tmp_path: Path) -> None:
    """Files hold values on the scale of labels; a new run starts from the same values, whatever its own scale."""
    before = [each["value"] for each in load(trained["regression"]).predict(TEXTS[:4])]
    other = [{"text": text, "label": -7.0 + n} for n, text in enumerate(TEXTS)]
    fields = {**FIELDS, "steps": 1, "lr": 1e-12}
    model = pretune.finetune(
        model=str(trained["regression"]), task="regression", train=other, output=str(tmp_path / "run"), **fields
    )
    assert [each["value"] for each in model.predict(TEXTS[:4])] == pytest.approx(before, rel=1e-3)


@pytest.mark.slow
def test_regression_of_a_model_without_a_bias_keeps_its_scale(tmp_path: Path) -> None:
    save_gpt2(tmp_path / "gpt2", byte_tokenizer())
    fields = {**FIELDS, "steps": 2, "length": 48}
    output = str(tmp_path / "run")
    model = pretune.finetune(
        model=str(tmp_path / "gpt2"), task="regression", train=rows("regression"), output=output, **fields
    )
    values = [each["value"] for each in model.predict(TEXTS)]
    assert 50 < np.mean(values) < 300
    assert model.task().config.mean == pytest.approx(175, abs=20)


@pytest.mark.parametrize(
    ("task", "config", "labels", "message"),
    [
        ("multilabel", {}, (["a"], None), r"list\[1\]: field 'label' has no labels; write \[\] where none applies"),
        ("multilabel", {}, (["a"], ["b", ""]), r"list\[1\]: label 2 of field 'label' is the list"),
        ("multilabel", {}, (["a"], "a"), r"list: all labels are a; multilabel needs at least two"),
        ("multilabel", {"labels": ("a", "b")}, ("a", "c"), r"list\[1\]: label 'c' is not in task\.multilabel\.labels"),
        ("ordinal", {}, ("low", "high"), r"list: labels such as 'low' are words, whose order only you know; name"),
        ("ordinal", {"labels": ("1", "2")}, (1, 3), r"list\[1\]: label '3' is none of the ordered labels 1, 2"),
        ("ordinal", {}, (1, 1), r"list: all 2 examples have the label '1'"),
        ("hierarchy", {}, ("a/b", "a//b"), r"list\[1\]: label 'a//b' has an empty part"),
        ("hierarchy", {}, ("a", "b"), r"list: no label, such as 'a', has the separator '/'"),
        ("regression", {}, (1.5, "much"), r"list\[1\]: label 'much' is not a finite number"),
        ("regression", {}, (1.5, "nan"), r"list\[1\]: label 'nan' is not a finite number"),
        ("regression", {}, (1.5, float("nan")), r"list\[1\]: label in field 'label'"),
        ("regression", {}, (2, 2.0), r"list: all 2 labels are 2, so that there is nothing to learn"),
    ],
)
def test_bad_labels_are_refused(task: str, config: dict[str, object], labels: tuple[object, ...], message: str) -> None:
    reader = make(task, **config)
    with pytest.raises((DataError, UsageError), match=message):
        reader.resolve_config(read_examples(reader, [{"text": "a hat", "label": label} for label in labels]))


def test_an_unseen_label_is_named() -> None:
    task = make("multilabel", labels=("a", "b"))
    examples = read_examples(task, [{"text": "a hat", "label": ["b", "d"]}])
    with pytest.raises(DataError, match=r"list\[0\]: label 'd' was not seen in training; known labels: a, b"):
        task.encode(examples, WORDS, 16)


@pytest.mark.parametrize(
    "config", [{"thresholds": {"a": 1.5}, "labels": ("a", "b")}, {"thresholds": {"z": 0.5}, "labels": ("a", "b")}]
)
def test_bad_thresholds_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"task\.multilabel\.thresholds: (no label 'z'|'a' = 1\.5: expected 0 to 1)"):
        make("multilabel", **config)


def test_classes() -> None:
    classes = {"multilabel": Multilabel, "ordinal": Ordinal, "hierarchy": Hierarchy, "regression": Regression}
    assert all(find_class("tasks", name, Task) is wanted for name, wanted in classes.items())  # type: ignore[type-abstract]
