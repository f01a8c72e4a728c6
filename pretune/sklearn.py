"""Estimators of scikit-learn that fine-tune a model: for `Pipeline`, `GridSearchCV`, `cross_val_predict`.

    from pretune.sklearn import TextClassifier

    TextClassifier("bert", epochs=5).fit(texts, labels).predict(texts)

`X` is a list, an array or a column of texts; or pairs of texts: tuples, or an array or DataFrame of two columns. A
fitted estimator can be copied and pickled; its model stands in `model_`, and `model_.export(folder)` writes it.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from pretune import api
from pretune.errors import DataError, UsageError
from pretune.interop.run_names import FACTS, GROWING, RECIPE
from pretune.scratch import ScratchFolder

__all__ = ["Tagger", "TextClassifier", "TextRegressor"]
_LEFT_OUT = {*GROWING, RECIPE, FACTS, "data_stats.json"}
Record = dict[str, object]


class ModelFiles:
    """The files of a fitted model, in a temporary folder that is there as long as this object.

    Args:
        folder: of a finished run; the files of its model are moved here.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._holder = ScratchFolder("model")
        self._model: api.Model | None = None
        for path in sorted(folder.iterdir()) if folder is not None else ():
            is_model = path.name not in _LEFT_OUT and not path.name.startswith(("checkpoint-", "initial", "."))
            if is_model:
                shutil.move(path, self.folder / path.name)

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self._holder.path

    def load(self, device: str) -> api.Model:
        """The model, read once."""
        if self._model is None:
            self._model = api.load(self.folder, device)
        return self._model

    def __getstate__(self) -> dict[str, bytes]:
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}

    def __setstate__(self, state: Mapping[str, bytes]) -> None:
        self.__init__()  # type: ignore[misc]
        for name, content in state.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


class _TextEstimator(BaseEstimator):  # type: ignore[misc]
    """Base of the estimators: parameters, records of `X`, and the fitted model.

    Args:
        model: folder of a model to start from, or "tfidf".
        epochs, lr, batch, length, tune: as the flags of `pretune finetune`; by default what suits the data.
        fields: more fields of a recipe by their names, such as `{"optimizer.lr": 1e-4, "holdout": 0}`.
        random_state: the seed.
        device: `auto`, `cpu`, `cuda`.
    """

    def __init__(
        self,
        model: str | Path = "tfidf",
        *,
        epochs: float | None = None,
        lr: float | None = None,
        batch: int | None = None,
        length: int | None = None,
        tune: str | None = None,
        fields: Mapping[str, object] | None = None,
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.lr = lr
        self.batch = batch
        self.length = length
        self.tune = tune
        self.fields = fields
        self.random_state = random_state
        self.device = device

    @property
    def model_(self) -> api.Model:
        """The fitted model.

        Raises:
            NotFittedError: there is none yet.
        """
        check_is_fitted(self, "files_")
        return self.files_.load(self.device)

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.non_deterministic = False
        return tags

    def _fit(self, rows: Sequence[Record], task: Mapping[str, Mapping[str, object]]) -> None:
        """Fine-tunes on records."""
        named = {"epochs": self.epochs, "lr": self.lr, "batch": self.batch, "length": self.length, "tune": self.tune}
        chosen: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        chosen |= {"seed": self.random_state, "device": self.device, "track.progress": "quiet", "track.report": False}
        if "second" in rows[0]:
            chosen["data.columns.second"] = "second"
        chosen |= dict(self.fields or {})
        with ScratchFolder("fit") as folder:
            run = folder / "run"
            api.finetune(train=rows, model=str(self.model), task=task, output=str(run), **chosen)
            self.files_ = ModelFiles(run)

    @abstractmethod
    def predict(self, X: object) -> NDArray[Any]:
        """What the model says of each text."""


class TextClassifier(ClassifierMixin, _TextEstimator):  # type: ignore[misc]
    """Fine-tunes a model to give each text, or pair of texts, a label; or any number of labels.

    Attributes:
        classes_: the labels, sorted; of an indicator matrix, the numbers of its columns.
        model_: the fitted model.
    """

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = str(self.model) != "tfidf"
        return tags

    def fit(self, X: object, y: object) -> Self:
        """Fine-tunes on texts and their labels.

        Args:
            X: texts, or pairs of texts.
            y: a label for each; or an indicator matrix, whose rows say which labels a text has.

        Raises:
            UsageError: several labels and TF-IDF, which gives one.
            DataError: other numbers of texts and labels, no texts, or one label.
        """
        labels = np.asarray(y)
        texts = _records(X)
        self.is_multilabel_ = labels.ndim == 2
        if self.is_multilabel_:
            return self._fit_several(texts, labels)
        _check_sizes(texts, labels)
        self.classes_ = np.unique(labels)
        names = [str(label) for label in self.classes_.tolist()]
        if len(names) < 2:
            raise DataError(f"all {len(texts)} texts have the label {names[0]!r}; give two different labels at least")
        rows = [{**row, "label": str(label)} for row, label in zip(texts, labels.tolist(), strict=True)]
        self._fit(rows, {"classification": {"labels": names}})
        return self

    def _fit_several(self, texts: Sequence[Record], matrix: NDArray[Any]) -> Self:
        """Fine-tunes on an indicator matrix. Shape: matrix: (n, C)"""
        if str(self.model) == "tfidf":
            raise UsageError("TextClassifier: TF-IDF gives one label; name the folder of a model for several")
        _check_sizes(texts, matrix[:, 0])
        if not np.isin(matrix, (0, 1)).all():
            raise DataError("y has two dimensions and other values than 0 and 1; give an indicator matrix, or labels")
        self.classes_ = np.arange(matrix.shape[1])
        rows = [
            {**row, "label": [str(label) for label in np.flatnonzero(each).tolist()]}
            for row, each in zip(texts, matrix, strict=True)
        ]
        self._fit(rows, {"multilabel": {"labels": [str(label) for label in self.classes_]}})
        return self

    def predict(self, X: object) -> NDArray[Any]:
        """The most probable label of each text, or its row of an indicator matrix. Shape: return: (n,) or (n, C)"""
        if getattr(self, "is_multilabel_", False):
            predictions = self.model_.predict(cast("Any", _records(X)))
            return np.array([[str(n) in each["labels"] for n in self.classes_] for each in predictions]).astype(int)
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: object) -> NDArray[np.float64]:
        """How probable each label is, in the order of `classes_`. Shape: return: (n, C)"""
        predictions = self.model_.predict(cast("Any", _records(X)))
        return np.array([list(prediction["probabilities"].values()) for prediction in predictions], np.float64)


class TextRegressor(RegressorMixin, _TextEstimator):  # type: ignore[misc]
    """Fine-tunes a model to give each text, or pair of texts, a number.

    Attributes:
        model_: the fitted model.
    """

    def fit(self, X: object, y: object) -> Self:
        """Fine-tunes on texts and their numbers.

        Raises:
            UsageError: TF-IDF, which has labels alone.
            DataError: other numbers of texts and labels, no texts, or a number that is not finite.
        """
        if str(self.model) == "tfidf":
            raise UsageError("TextRegressor: TF-IDF gives labels and no numbers; name the folder of a model")
        values = np.asarray(y, np.float64)
        texts = _records(X)
        _check_sizes(texts, values)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise DataError(f"y[{row}] = {values[row]}: expected a number that is finite; leave the row out")
        rows = [{**row, "label": value} for row, value in zip(texts, values.tolist(), strict=True)]
        self._fit(rows, {"regression": {}})
        return self

    def predict(self, X: object) -> NDArray[np.float64]:
        """The number of each text. Shape: return: (n,)"""
        predictions = self.model_.predict(cast("Any", _records(X)))
        return np.array([prediction["value"] for prediction in predictions], np.float64)


class Tagger(_TextEstimator):
    """Fine-tunes a model to give each word of a text a tag: `X` and `y` are lists of lists of words and of tags.

    Attributes:
        model_: the fitted model.
    """

    def fit(self, X: object, y: object) -> Self:
        """Fine-tunes on words and their tags, in any scheme (IOB2, IOBES ...), or plain ones such as parts of speech.

        Raises:
            UsageError: TF-IDF, which has labels of whole texts alone.
            DataError: other numbers of texts or words than of tags, no texts, or a tag that its scheme forbids.
        """
        if str(self.model) == "tfidf":
            raise UsageError("Tagger: TF-IDF gives labels of whole texts; name the folder of a model")
        self._fit(_tagged(X, y), {"tagging": {}})
        return self

    def predict(self, X: object) -> NDArray[np.object_]:
        """The tags of the words of each text, as a list. Shape: return: (n,)"""
        predictions = self.model_.predict(cast("Any", [{"tokens": words} for words in _words(X, "X")]))
        out = np.empty(len(predictions), object)
        out[:] = [prediction["tags"] for prediction in predictions]
        return out

    def score(self, X: object, y: object) -> float:
        """F1 of whole spans; of plain tags, such as parts of speech, the fraction of words with the right one."""
        scores = self.model_.evaluate(cast("Any", _tagged(X, y)))
        is_plain = getattr(self.model_.task().config, "scheme", None) == "plain"
        return float(scores["accuracy" if is_plain else "f1"])


def _tagged(X: object, y: object) -> list[Record]:
    """Words and their tags as records.

    Raises:
        DataError: other numbers of texts or words than of tags, or no texts.
    """
    words, tags = _words(X, "X"), _words(y, "y")
    if len(words) != len(tags):
        raise DataError(f"y has {len(tags)} lists of tags, X has {len(words)} texts; give one for each text")
    for number, (each, other) in enumerate(zip(words, tags, strict=True)):
        if len(each) != len(other):
            raise DataError(f"X[{number}] has {len(each)} words, y[{number}] {len(other)} tags; give each word one tag")
    return [{"tokens": each, "tags": other} for each, other in zip(words, tags, strict=True)]


def _words(data: object, name: str) -> list[list[str]]:
    """Lists of words, or of tags.

    Raises:
        DataError: no list, or a row that is no list of texts.
    """
    values = data.tolist() if isinstance(data, np.ndarray) else data
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise DataError(f"{name} = {str(values)[:40]!r}: expected a list of lists")
    rows = [list(row) if isinstance(row, list | tuple | np.ndarray) else row for row in values]
    for number, row in enumerate(rows):
        if not isinstance(row, list) or not all(isinstance(part, str) for part in row):
            raise DataError(f"{name}[{number}] = {str(row)[:40]!r}: expected a list of texts, one for each word")
    if not rows:
        raise DataError(f"{name} holds no texts; give one at least")
    return cast("list[list[str]]", rows)


def _records(data: object) -> list[Record]:
    """Texts, or pairs of texts, as records.

    Raises:
        DataError: no text, or rows that are neither texts nor pairs.
    """
    values = data.to_numpy() if hasattr(data, "to_numpy") else data
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise DataError(f"X = {str(values)[:40]!r}: expected a list, an array or a column of texts")
    rows = [_record(row, number) for number, row in enumerate(values)]
    if not rows:
        raise DataError("X holds no texts; give one at least")
    return rows


def _record(row: object, number: int) -> Record:
    parts = row.tolist() if isinstance(row, np.ndarray) else row
    if isinstance(parts, str):
        return {"text": parts}
    if isinstance(parts, list | tuple) and len(parts) in (1, 2) and all(isinstance(part, str) for part in parts):
        return dict(zip(("text", "second"), parts, strict=False))
    raise DataError(f"X[{number}] = {str(row)[:40]!r}: expected a text, or a pair of texts")


def _check_sizes(texts: Sequence[object], labels: NDArray[Any]) -> None:
    """Refuses labels that are not one for each text.

    Raises:
        DataError: there are more or fewer, or they have columns.
    """
    if labels.shape != (len(texts),):
        raise DataError(f"y has the shape {labels.shape}, X has {len(texts)} texts; give one label for each text")
