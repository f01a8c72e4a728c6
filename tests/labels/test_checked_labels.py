"""Labels that look wrong, and texts to label next: functions, Python and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pretune
from pretune.baselines.ngrams import Ngrams
from pretune.cli import main
from pretune.errors import DataError, UsageError
from pretune.labels.choice import choose_next
from pretune.labels.errors import find_errors, wrong_chances
from pretune.labels.features import describe_texts, out_of_fold
from pretune.tasks.classification import ClassificationExample

TOPICS = {
    "sport": ["goal", "match", "team", "coach", "league", "ball"],
    "food": ["soup", "bread", "cook", "salt", "oven", "taste"],
    "money": ["bank", "loan", "rate", "stock", "tax", "price"],
}


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of three words of their topic and two of any."""
    rng = np.random.default_rng(seed)
    every = [word for words in TOPICS.values() for word in words]
    rows = []
    for n in range(count):
        topic = list(TOPICS)[n % 3]
        words = [*rng.choice(TOPICS[topic], 3, replace=False), *rng.choice(every, 2), f"n{n}"]
        rows.append((" ".join(map(str, words)), topic))
    return rows


def planted(count: int = 240) -> tuple[list[tuple[str, str]], set[int]]:
    """Sentences of which each twentieth has a wrong label."""
    rows, wrong = sentences(count), set(range(7, count, 20))
    names = list(TOPICS)
    return [(t, names[(names.index(y) + 1) % 3] if n in wrong else y) for n, (t, y) in enumerate(rows)], wrong


def test_planted_errors_come_first() -> None:
    rows, wrong = planted()
    issues = pretune.check_labels(rows)
    first = [issue["index"] for issue in issues[: len(wrong)]]
    assert len(wrong & {int(str(n)) for n in first}) >= 0.7 * len(wrong)
    assert all(issue["suggestion"] == sentences(240)[int(str(issue["index"]))][1] for issue in issues[:8])
    assert pretune.check_labels(rows) == issues
    assert issues[0].keys() == {
        *("index", "label", "suggestion", "probability", "suggestion_probability", "reason", "text", "origin")
    }
    assert len(pretune.check_labels(rows, every_row=True)) == 240


def test_no_text_is_judged_by_what_learned_from_it_or_its_copy() -> None:
    """Random labels of distinct words, each text twice: whoever learned from a copy would always be right."""
    texts = [f"w{n // 2} x{n // 2}" for n in range(60)]
    labels = [str(label) for label in np.random.default_rng(0).choice(["a", "b"], 30).repeat(2)]
    features = describe_texts([ClassificationExample(text) for text in texts])
    apart, order = out_of_fold(features, labels, texts)
    right = np.array(order)[apart.argmax(axis=1)] == labels
    assert right.mean() < 0.7
    leaking, _ = out_of_fold(features, labels, [str(n) for n in range(60)], folds=60)
    assert (np.array(order)[leaking.argmax(axis=1)] == labels).mean() == 1


def test_an_unlikely_label_is_wrong_and_a_doubtful_one_is_not() -> None:
    """Forty rows at 0.9 for the label that they have; the next has its own at 0.02, the last at 0.45."""
    probabilities = np.array([[0.9, 0.1]] * 20 + [[0.1, 0.9]] * 20 + [[0.02, 0.98], [0.45, 0.55]])
    errors = find_errors(probabilities, ["a"] * 20 + ["b"] * 20 + ["a", "a"], ["a", "b"])
    assert [(error.index, error.suggestion) for error in errors] == [(40, "b")]
    assert (errors[0].probability, errors[0].suggestion_probability) == (0.02, 0.98)


@pytest.mark.parametrize("sure", [0.6, 0.9, 0.97, 0.999])
def test_a_classifier_that_is_equally_sure_of_all_hides_no_error(sure: float) -> None:
    """Half of all rows are below the mean of their label, by which confident learning judges: it lists seven of ten."""
    truth = np.repeat(np.arange(20), 50)
    given, planted = truth.copy(), np.arange(10) * 50
    given[planted] = (truth[planted] + 5) % 20
    probabilities = np.full((1000, 20), (1 - sure) / 19)
    probabilities[np.arange(1000), truth] = sure
    probabilities += np.random.default_rng(0).uniform(0, 0.1 * (1 - sure), probabilities.shape)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    names = [f"{n:02}" for n in range(20)]
    errors = find_errors(probabilities, [names[n] for n in given], names)
    assert sorted(error.index for error in errors) == planted.tolist()
    assert [error.suggestion for error in errors] == [names[truth[error.index]] for error in errors]


def test_chances_are_those_of_the_mixture_that_made_the_labels() -> None:
    """Labels are drawn from a classifier's probabilities, and 15 % replaced: as many are expected as were."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)) * 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(5, p=row) for row in probabilities])
    is_wrong = rng.random(4000) < 0.15
    given = np.where(is_wrong, (truth + rng.integers(1, 5, 4000)) % 5, truth)
    for told in (probabilities, probabilities**0.5 / (probabilities**0.5).sum(axis=1, keepdims=True)):
        chances = wrong_chances(told, given)
        assert abs(chances.sum() - is_wrong.sum()) < 0.2 * is_wrong.sum()
        for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 1.0)):
            part = (chances >= low) & (chances < high)
            assert abs(chances[part].mean() - is_wrong[part].mean()) < 0.08


def test_copies_with_different_labels_come_before_all() -> None:
    rows = [*sentences(60), ("one text twice", "food"), ("one text twice", "money")]
    issues = pretune.check_labels(rows)
    assert sorted((issue["index"], issue["reason"]) for issue in issues[:2]) == [(60, "copy"), (61, "copy")]


def test_the_next_texts_are_unsure_and_differ() -> None:
    labelled = sentences(60)
    texts = [text for text, _ in sentences(200, seed=5)]
    ranked = pretune.choose_to_label([*texts, *texts], labelled, count=300)
    assert len(ranked) == 200  # each once
    margins = [float(str(row["margin"])) for row in ranked]
    assert margins == sorted(margins)
    chosen = pretune.choose_to_label(texts, labelled, count=4)
    assert len(chosen) == 4
    assert {row["text"] for row in chosen} <= {row["text"] for row in ranked[:80]}
    assert not pretune.choose_to_label([labelled[0][0]], labelled)  # it has a label already


def test_of_each_cluster_the_nearest_to_its_centre_is_chosen() -> None:
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    around = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    points = (around[:, None] + centres).reshape(-1, 2)
    assert sorted(choose_next(points, np.full((15, 2), 0.5), 3).tolist()) == [0, 1, 2]


def test_without_labels_the_typical_texts_of_each_topic_are_chosen() -> None:
    texts = [text for text, _ in sentences(90)]
    chosen = pretune.choose_to_label(texts, count=3)
    assert len(chosen) == 3
    features = Ngrams.fit(texts).features(texts)
    assert choose_next(features, None, 3).tolist() == [row["index"] for row in chosen]
    assert len(pretune.choose_to_label(texts[:2], count=5)) == 2


def test_vectors_of_a_model_describe_texts() -> None:
    rows, wrong = planted(120)

    def embed(texts: list[str]) -> np.ndarray:
        return np.array([[sum(w in text for w in words) for words in TOPICS.values()] for text in texts], np.float32)

    examples = [ClassificationExample(text, label) for text, label in rows]
    pairs = [ClassificationExample(text, label, second=text) for text, label in rows]
    for described in (describe_texts(examples, embed)[1:], describe_texts(pairs, embed)):
        probabilities, order = out_of_fold(described, [label for _, label in rows], [text for text, _ in rows])
        issues = find_errors(probabilities, [label for _, label in rows], order)
        assert len({issue.index for issue in issues[: len(wrong)]} & wrong) >= 0.5 * len(wrong)


def test_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows, wrong = planted(120)
    table = "id,message,team\n" + "".join(f"{n},{text},{label}\n" for n, (text, label) in enumerate(rows))
    (tmp_path / "train.csv").write_text(table)
    flags = ["--text", "message", "--label", "team", "--no-allocator"]
    out = tmp_path / "suspects.jsonl"
    assert main(["labels", "check", str(tmp_path / "train.csv"), *flags, "--output", str(out)]) == 0
    assert "probably wrong: " in capfd.readouterr().err
    issues = [json.loads(line) for line in out.read_text().splitlines()]
    assert {int(issue["id"]) for issue in issues[:4]} <= wrong
    assert issues[0]["origin"] == f"{tmp_path / 'train.csv'}:{int(issues[0]['id']) + 2}"
    assert issues[0].keys() >= {"message", "team", "suggestion", "probability"}
    new = tmp_path / "new.txt"
    new.write_text("\n".join(text for text, _ in sentences(40, seed=3)))
    chosen = tmp_path / "next.csv"
    words = ["labels", "next", str(new), "--labelled", str(tmp_path / "train.csv"), "--count", "5", *flags]
    assert main([*words, "--output", str(chosen)]) == 0
    assert len(chosen.read_text().splitlines()) == 6
    assert "next: fill in the column 'team'" in capfd.readouterr().err
    assert main(["labels", "check", str(tmp_path / "train.csv"), "--top", "3", *flags, "--quiet"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 3
    assert main(["labels", "check", "--no-allocator"]) == 64


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="all 3 examples have the label 'a'"):
        pretune.check_labels([("x y", "a"), ("y z", "a"), ("z", "a")])
    with pytest.raises(UsageError, match="folds = 1: expected 2 or more"):
        pretune.check_labels(sentences(9), folds=1)
    with pytest.raises(UsageError, match="count = 0: expected 1 or more"):
        pretune.choose_to_label(["a text"], count=0)
    with pytest.raises(DataError, match="label"):
        pretune.check_labels([{"text": "a"}, {"text": "b", "label": "c"}])
