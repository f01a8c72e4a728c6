"""Cheap baselines equal scikit-learn's own pipeline, and what is folded into their weights changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pretune.baselines.linear import choose_strength, deal_folds, fit_linear
from pretune.baselines.tfidf import fit_tfidf
from pretune.baselines.vectors import fit_vectors
from pretune.errors import DataError

TEXTS = ["a good film", "a bad film", "good fun", "bad, boring", "so good", "a boring bad one", "what fun", "so bad"]
LABELS = ["pos", "neg", "pos", "neg", "pos", "neg", "pos", "neg"]
THREE = ["pos", "neg", "fun", "neg", "pos", "neg", "fun", "neg"]


@pytest.mark.parametrize("labels", [LABELS, THREE])
def test_tfidf_equals_the_pipeline_of_scikit_learn(labels: list[str]) -> None:
    oracle = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
        LogisticRegression(C=3.0, max_iter=300),
    ).fit(TEXTS, labels)
    ours = fit_tfidf(TEXTS, labels, strength=3.0)
    assert ours.labels == list(oracle.classes_)
    new = ["a good bad film", "nothing known"]
    np.testing.assert_allclose(ours.probabilities(new), oracle.predict_proba(new), atol=1e-5)


def test_chinese_is_told_by_its_characters() -> None:
    model = fit_tfidf(["这部电影很好看", "很难看的电影", "真好看", "太难看了"], ["好", "差", "好", "差"])
    assert (model.ngrams.unit, model.ngrams.sizes) == ("char", (1, 3))
    assert model.labels[int(model.probabilities(["好看的书"]).argmax())] == "好"


def test_pairs_are_told_by_what_they_share() -> None:
    firsts = [f"w{n} and w{n + 1}" for n in range(40)]
    seconds = [first if n % 2 else f"w{n + 20} or w{n + 21}" for n, first in enumerate(firsts)]
    labels = ["same" if n % 2 else "other" for n in range(40)]
    model = fit_tfidf(firsts, labels, seconds)
    assert model.labels[int(model.probabilities(["w3 and w9"], ["w3 and w9"]).argmax())] == "same"


def test_weights_of_vectors_apply_to_vectors_as_they_are() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(60, 5)) * 7 + 100).astype(np.float32)
    labels = [("a", "b", "c")[n] for n in (vectors[:, :3]).argmax(axis=1)]
    model = fit_vectors(vectors, labels, strength=10.0)
    centred = vectors - vectors.mean(axis=0)
    oracle = LogisticRegression(C=10.0, max_iter=300)
    oracle.fit(centred / np.sqrt(np.square(centred).sum(axis=1).mean()), labels)
    expected = oracle.predict_proba(centred / np.sqrt(np.square(centred).sum(axis=1).mean()))
    np.testing.assert_allclose(model.probabilities(vectors), expected, atol=1e-3)
    assert (np.array(model.labels)[model.probabilities(vectors).argmax(axis=1)] == labels).mean() > 0.9


def test_a_label_without_a_row_is_never_predicted() -> None:
    model = fit_linear(np.eye(4), ["a", "b", "a", "b"], order=["a", "c", "b"])
    assert model.labels == ["a", "c", "b"]
    assert model.probabilities(np.eye(4))[:, 1].max() == 0


def test_strength_is_chosen_by_what_is_right_on_held_out_rows() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(90, 5))
    labels = ["a" if value > -1 else "b" for value in features[:, 0]]
    assert choose_strength(features, labels, (1e-6, 1.0)) == 1.0
    assert choose_strength(features, ["a", "b", *labels[2:-1], "c"], (0.5, 1.0, 2.0)) == 1.0  # "c" once: the middle


def test_folds_part_each_label_and_keep_groups_together() -> None:
    labels = ["a"] * 9 + ["b"] * 3
    folds = deal_folds(labels, 3)
    assert [int((folds[:9] == n).sum()) for n in range(3)] == [3, 3, 3]
    assert sorted(folds[9:].tolist()) == [0, 1, 2]
    groups = [str(n // 2) for n in range(12)]
    folds = deal_folds(labels, 3, groups=groups)
    assert all(folds[2 * n] == folds[2 * n + 1] for n in range(6))


def test_one_label_and_unknown_labels_are_refused() -> None:
    with pytest.raises(DataError, match="all 2 examples have the label 'a'; give two different labels"):
        fit_tfidf(["x", "y"], ["a", "a"])
    with pytest.raises(DataError, match="label 'b' is none of a, c"):
        fit_linear(np.eye(2), ["a", "b"], order=["a", "c"])
    with pytest.raises(DataError, match="no text has a word"):
        fit_tfidf(["!", "?"], ["a", "b"])
