"""Estimators of scikit-learn: in pipelines and searches, cloned, pickled, on every form of texts."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from tinymodels import save_bert, word_tokenizer

import pretune
from pretune.errors import DataError, UsageError
from pretune.sklearn import Tagger, TextClassifier, TextRegressor

Check = Callable[[str, BaseEstimator], None]
TEXTS = [f"the {word} {n}" for n in range(12) for word in ("cat", "dog", "fox")]
LABELS = np.array([3, 1, 2] * 12)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder, word_tokenizer())
    return folder


@pytest.fixture(scope="module")
def fitted(bert: Path) -> TextClassifier:
    fields = {"precision": "fp32", "steps": 25}
    return TextClassifier(bert, lr=3e-3, length=16, fields=fields, device="cpu").fit(TEXTS, LABELS)


def test_labels_keep_their_type_and_probabilities_their_order(fitted: TextClassifier) -> None:
    assert fitted.classes_.tolist() == [1, 2, 3]
    probabilities = fitted.predict_proba(TEXTS)
    assert probabilities.shape == (36, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert fitted.predict(TEXTS).dtype == LABELS.dtype
    assert fitted.score(TEXTS, LABELS) == (fitted.predict(TEXTS) == LABELS).mean() > 0.5
    assert fitted.model_.labels == ["1", "2", "3"]


def test_a_pickle_is_the_same_and_a_clone_is_not_fitted(fitted: TextClassifier, bert: Path) -> None:
    copy = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    np.testing.assert_array_equal(copy.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    unfitted = clone(fitted)
    assert unfitted.get_params() == fitted.get_params()
    assert unfitted.model == bert
    with pytest.raises(NotFittedError):
        unfitted.predict(TEXTS)
    assert unfitted.set_params(lr=0.5, epochs=2).get_params()["lr"] == 0.5


def test_every_form_of_texts_is_the_same(fitted: TextClassifier) -> None:
    expected = fitted.predict_proba(TEXTS)
    for form in (np.array(TEXTS), np.array(TEXTS, object), pd.Series(TEXTS), pd.DataFrame({"a": TEXTS}), tuple(TEXTS)):
        np.testing.assert_array_equal(fitted.predict_proba(form), expected)


@pytest.mark.parametrize(
    "estimator", [TextClassifier(), TextRegressor(), Tagger()], ids=lambda each: type(each).__name__
)
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
    ],
    ids=lambda each: each.__name__,
)
def test_the_checks_of_scikit_learn_that_need_no_matrix(estimator: BaseEstimator, check: Check) -> None:
    check(type(estimator).__name__, estimator)


def test_pipelines_searches_and_cross_validation() -> None:
    assert is_classifier(TextClassifier())
    assert is_regressor(TextRegressor())
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    search = GridSearchCV(
        make_pipeline(lower, TextClassifier(fields={"holdout": 0})), {"textclassifier__random_state": [0, 1]}, cv=3
    )
    search.fit(TEXTS, LABELS)
    assert search.best_score_ == 1
    assert search.predict(["THE DOG"]).tolist() == [1]
    probabilities = cross_val_predict(TextClassifier(), TEXTS, LABELS, cv=3, method="predict_proba")
    assert (probabilities.argmax(axis=1) + 1 == LABELS).all()
    assert cross_val_score(TextClassifier(), np.array(TEXTS), LABELS.astype(str), cv=3).mean() == 1


def test_pairs() -> None:
    pairs = [(f"w{n}", f"w{n if n % 2 else n + 1}") for n in range(40)]
    labels = [bool(n % 2) for n in range(40)]
    fitted = TextClassifier(fields={"holdout": 0}).fit(pairs, labels)
    assert fitted.classes_.dtype == bool
    np.testing.assert_array_equal(fitted.predict(pd.DataFrame(pairs)), fitted.predict(pairs))


def test_several_labels(bert: Path) -> None:
    matrix = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]] * 12)
    fields = {"precision": "fp32", "steps": 25, "holdout": 0}
    fitted = TextClassifier(bert, lr=3e-3, length=16, fields=fields, device="cpu").fit(TEXTS, matrix)
    assert fitted.predict(TEXTS).shape == fitted.predict_proba(TEXTS).shape == matrix.shape
    assert (fitted.predict(TEXTS) == matrix).mean() > 0.7
    assert fitted.classes_.tolist() == [0, 1, 2]


def test_numbers(bert: Path) -> None:
    values = np.array([1.0, 2.5, 4.0] * 12)
    regressor = TextRegressor(bert, lr=3e-3, length=16, fields={"precision": "fp32", "steps": 25}, device="cpu")
    predictions = regressor.fit(TEXTS, values).predict(TEXTS)
    assert np.corrcoef(predictions, values)[0, 1] > 0.5
    assert regressor.score(TEXTS, values) > 0
    copy = pickle.loads(pickle.dumps(regressor))  # noqa: S301
    assert copy.predict(TEXTS[:2]) == pytest.approx(predictions[:2])


def test_tags(bert: Path) -> None:
    words = [["the", word, "ate", "a", "hat"][: 2 + n % 4] for n in range(12) for word in ("cat", "dog")]
    tags = [["O", "B-CAT" if row[1] == "cat" else "B-DOG", "O", "O", "O"][: len(row)] for row in words]
    tagger = Tagger(bert, lr=1e-2, length=16, fields={"precision": "fp32", "steps": 24, "holdout": 0}, device="cpu")
    predictions = tagger.fit(words, tags).predict(words)
    assert [len(each) for each in predictions] == [len(row) for row in words]
    assert {tag for each in predictions for tag in each} <= {"O", "B-CAT", "B-DOG", "I-CAT", "I-DOG"}
    assert tagger.score(words, tags) > 0.5
    assert [*pickle.loads(pickle.dumps(tagger)).predict(words)] == [*predictions]  # noqa: S301


@pytest.mark.slow
def test_tags_are_cross_validated(bert: Path) -> None:
    words = [["the", "cat", "ate"][: 1 + n % 3] for n in range(12)]
    tags = [["O", "B-CAT", "O"][: len(row)] for row in words]
    tagger = Tagger(bert, length=16, fields={"precision": "fp32", "steps": 1, "holdout": 0}, device="cpu")
    assert [len(each) for each in cross_val_predict(tagger, words, tags, cv=2)] == [len(row) for row in words]


def test_bad_input_is_refused() -> None:
    classifier = TextClassifier()
    with pytest.raises(DataError, match=r"X\[1\] = '3': expected a text, or a pair of texts"):
        classifier.fit(["a", 3], [0, 1])
    with pytest.raises(DataError, match=r"y has the shape \(1,\), X has 2 texts"):
        classifier.fit(["a", "b"], [0])
    with pytest.raises(DataError, match="all 2 texts have the label 'x'"):
        classifier.fit(["a", "b"], ["x", "x"])
    with pytest.raises(UsageError, match="TF-IDF gives one label"):
        classifier.fit(["a", "b"], [[0, 1], [1, 0]])
    with pytest.raises(DataError, match="other values than 0 and 1"):
        TextClassifier("bert").fit(["a", "b"], [[0, 2], [1, 0]])
    with pytest.raises(DataError, match="expected a list, an array or a column of texts"):
        classifier.fit("a", ["x"])
    with pytest.raises(DataError, match=r"y\[1\] = nan: expected a number that is finite"):
        TextRegressor("bert").fit(["a", "b"], [1.0, float("nan")])
    with pytest.raises(DataError, match=r"X\[0\] has 2 words, y\[0\] 1 tags; give each word one tag"):
        Tagger("bert").fit([["a", "b"]], [["O"]])
    with pytest.raises(DataError, match=r"X\[0\] = 'a b': expected a list of texts, one for each word"):
        Tagger("bert").fit(["a b"], [["O"]])
    with pytest.raises(UsageError, match="TF-IDF gives labels of whole texts"):
        Tagger().fit([["a"]], [["O"]])
    with pytest.raises(UsageError, match="TF-IDF gives labels and no numbers"):
        TextRegressor().fit(["a", "b"], [1.0, 2.0])


def test_it_is_found_lazily() -> None:
    assert pretune.sklearn.TextClassifier is TextClassifier
