"""A TF-IDF classifier in use, which `pretune.load` gives for its folder: it predicts and evaluates as any `Model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

from pretune.baselines.folder import empty_tokenizer, load_tfidf, save_tfidf
from pretune.baselines.tfidf import TfidfClassifier
from pretune.config import validate
from pretune.errors import UsageError
from pretune.evaluate.engine import finite_scores
from pretune.evaluate.labelled import Columns, Texts, examples_of, merge_columns, refuse_unused
from pretune.evaluate.prompted import PromptOptions
from pretune.evaluate.results import Evaluation, texts_of
from pretune.evaluate.tfidf import answer_by_tfidf
from pretune.model import Model
from pretune.models.metadata import Metadata
from pretune.table import Table
from pretune.tasks.classification import Classification, ClassificationExample
from pretune.tasks.shared.predictions import Prediction, Predictions
from pretune.tasks.shared.records import read_examples
from pretune.tasks.task import AnyTask
from pretune.text.readers.files import names_file
from pretune.text.readers.labelled import Data


class TfidfModel(Model):
    """A classifier by TF-IDF and logistic regression, ready for use.

    Args:
        classifier: that was fitted.
        metadata: which task it was trained for, and which columns it read.
        folder: where it was read.
    """

    def __init__(self, classifier: TfidfClassifier, metadata: Metadata, folder: Path | str = ".") -> None:
        self.classifier = classifier
        self.tokenizer = empty_tokenizer()
        self._metadata, self._folder = metadata, Path(folder)
        self._is_bf16 = False

    @classmethod
    def read(cls, folder: Path) -> TfidfModel:
        """Reads a folder.

        Raises:
            MissingInputError, DataError: as `load_tfidf`.
        """
        return cls(*load_tfidf(folder), folder)

    def __getattr__(self, name: str) -> Any:
        """Refuses what needs a network, which it has not.

        Raises:
            UsageError: such use.
        """
        if name == "network":
            raise UsageError(f"{self._folder}: a TF-IDF classifier has no network: it can predict and evaluate alone")
        raise AttributeError(name)

    @property
    def metadata(self) -> Metadata:
        """What its files say of it."""
        return self._metadata

    @property
    def length(self) -> int:
        """Tokens that a text may have: any number."""
        return 2**24

    @property
    def abilities(self) -> set[str]:
        """It labels texts."""
        return {"classify"}

    @property
    def labels(self) -> list[str]:
        """What `predict` chooses among."""
        return self.classifier.labels

    def task(
        self,
        task: str | Mapping[str, Mapping[str, Any]] | None = None,
        *,
        truncate: str | None = None,
        columns: Columns | None = None,
    ) -> AnyTask:
        """The task that `predict` and `evaluate` use: classification.

        Raises:
            UsageError: another task, or truncation, of which it has none.
        """
        name = task if task is None or isinstance(task, str) else next(iter(task))
        if name not in (None, Classification.name):
            raise UsageError(f"{self._folder}: a TF-IDF classifier has the task classification, not {name}")
        if truncate is not None:
            raise UsageError(f"truncate = {truncate}: a TF-IDF classifier reads whole texts; leave it out")
        record = self._metadata.task
        fields: dict[str, Any] = {"labels": self.labels} if record is None else dict(record.config)
        fields["columns"] = merge_columns(self._metadata, columns) or (record.columns if record else {})
        fields |= dict(task[Classification.name]) if isinstance(task, Mapping) else {}
        config = validate(Classification.Config, fields, "task.classification")
        return cast(AnyTask, Classification(config, self.tokenizer.vocabulary))

    def predict(
        self,
        data: Data,
        seconds: str | Texts | None = None,
        *,
        truncate: str | None = None,
        columns: Columns | None = None,
        task: str | Mapping[str, Mapping[str, Any]] | None = None,
        **prompting: Unpack[PromptOptions],
    ) -> Any:
        """The labels of texts, pairs of texts or records, as `Model.predict`.

        Raises:
            UsageError, DataError: as `Model.predict`; a prompt, which asks a language model.
        """
        if prompting:
            names = ", ".join(prompting)
            raise UsageError(f"{self._folder}: a TF-IDF classifier is no language model; leave {names} out")
        chosen = self.task(task, truncate=truncate, columns=columns)
        is_single = isinstance(data, str) and not names_file(data)
        others = [seconds] if isinstance(seconds, str) and is_single else seconds
        texts = cast(Data, [data]) if is_single else data
        examples = cast("Sequence[ClassificationExample]", examples_of(chosen, texts, others))
        predictions = Predictions(self._answers(chosen, examples), [texts_of(example) for example in examples])
        return predictions[0] if is_single else predictions

    def evaluate(
        self,
        data: Data,
        *,
        columns: Columns | None = None,
        truncate: str | None = None,
        task: str | Mapping[str, Mapping[str, Any]] | None = None,
        objective: Mapping[str, float | Mapping[str, Any]] | None = None,
        split: str = "validation",
        length: int | None = None,
        pack: str | None = None,
    ) -> Evaluation:
        """Scores on labelled data, as `Model.evaluate`.

        Raises:
            UsageError, DataError: as `Model.evaluate`.
        """
        of_stores = {"objective": objective, "length": length, "pack": pack}
        refuse_unused("labelled data", of_stores | {"split": None if split == "validation" else split})
        judge = self.task(task, truncate=truncate, columns=columns)
        examples = read_examples(judge, data)
        predictions = self._answers(judge, cast("Sequence[ClassificationExample]", examples))
        return Evaluation(finite_scores(judge.score(predictions, examples)), self.labels, predictions, examples)

    def _answers(self, task: AnyTask, examples: Sequence[ClassificationExample]) -> list[Prediction]:
        config = cast(Classification, task).config
        return answer_by_tfidf(self.classifier, examples, config.temperature, config.threshold)

    def export(self, directory: Path | str, **options: object) -> Any:
        """Refuses to write what no other reader has a form for.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self._folder}: transformers has no TF-IDF classifiers; copy the folder, or save it anew")

    def save(self, directory: Path | str, **options: object) -> Any:
        """Writes its folder.

        Raises:
            StorageError, CannotCreateError: as `save_tfidf`.
            UsageError: an option, such as a format: there is one.
        """
        if options:
            raise UsageError(f"save: a TF-IDF classifier has one form; leave {', '.join(options)} out")
        save_tfidf(self.classifier, self._metadata, Path(directory))

    @property
    def facts(self) -> Table:
        """What it is and what it can do, as a table."""
        labels, ngrams = self.labels, self.classifier.ngrams
        sizes = f"{ngrams.sizes[0]} to {ngrams.sizes[1]} {'words' if ngrams.unit == 'word' else 'characters'}"
        facts: list[tuple[str, object]] = [
            ("family", "tfidf"),
            ("parameters", f"{self.classifier.linear.weight.size:,}"),
            ("n-grams", f"{len(ngrams.terms):,} of {sizes}"),
            ("can", "classify"),
            ("labels", ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")),
            ("folder", str(self._folder)),
        ]
        return Table(["", ""], facts)
