"""What an evaluation gives: scores by name, and of labelled data what was predicted for each example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pretune.table import Table, rounded_text
from pretune.tasks.shared.predictions import Prediction, Predictions
from pretune.tasks.task import Example

_LISTED = 20  # labels of a confusion matrix that is shown as one
_NARROW = 40  # characters of all labels together that may stand over its columns; else their numbers do
_COUNTS = ("count", "predictions/")  # how scores begin that are whole numbers
_OF_LABEL = ("precision", "recall", "f1", "count")  # scores that a classification gives of each label


@dataclass(frozen=True, repr=False)
class Mistake:
    """An example for which a classifier gave another label than its own.

    Attributes:
        texts: the text, or the texts of a pair.
        label: the example's.
        prediction: the model's label.
        probability: of the model's label.
        origin: where the example comes from.
    """

    texts: tuple[str, ...]
    label: str
    prediction: str
    probability: float
    origin: str

    def __repr__(self) -> str:
        text = " | ".join(self.texts)
        texts = f"{text[:60]!r}{'...' if len(text) > 60 else ''}"
        guess = f"{self.prediction!r} ({rounded_text(self.probability)})"
        return f"Mistake({texts}: {guess} instead of {self.label!r}, {self.origin})"


class Evaluation(dict[str, float]):
    """Scores by name, such as `accuracy` or `f1/LABEL`, that print as tables.

    Args:
        scores: by name.
        labels: that have scores of their own, such as those of a classifier, in its order; none elsewhere.
        predictions: of labelled data, one for each example.
        examples: those that were evaluated.
    """

    def __init__(
        self,
        scores: Mapping[str, float],
        labels: Sequence[str] = (),
        predictions: Sequence[object] = (),
        examples: Sequence[Example] = (),
    ) -> None:
        super().__init__(scores)
        self.labels = list(labels)
        self.predictions = Predictions(predictions, [texts_of(example) for example in examples])
        self.examples = list(examples)

    @property
    def confusion(self) -> dict[str, dict[str, int]]:
        """How often examples of a label were given each label, as `confusion[true][predicted]`; zeros are left out."""
        counts: dict[str, Counter[str]] = {label: Counter() for label in self.labels}
        for example, prediction in zip(self.examples, self.predictions, strict=True):
            label = getattr(example, "label", None)
            if isinstance(prediction, Prediction) and label is not None:
                counts.setdefault(label, Counter())[prediction.label] += 1
        return {label: dict(row) for label, row in counts.items()}

    @property
    def mistakes(self) -> list[Mistake]:
        """Where a classifier was wrong, the most confident first."""
        out = [
            Mistake(tuple(texts_of(example)), label, prediction.label, prediction.probability, str(example.origin))
            for example, prediction in zip(self.examples, self.predictions, strict=True)
            if isinstance(prediction, Prediction)
            and (label := getattr(example, "label", None)) is not None
            and label != prediction.label
        ]
        return sorted(out, key=lambda mistake: -mistake.probability)

    def tables(self) -> list[Table]:
        """The scores of all; then, of a classifier, those of each label in its order and the confusion matrix."""
        of_labels = {f"{score}/{label}" for score in _OF_LABEL for label in self.labels}
        overall = [(name, value) for name, value in self.items() if name not in of_labels]
        tables = [Table(["score", "value"], [[name, _cell(name, value)] for name, value in overall])]
        if of_labels <= self.keys() and of_labels:
            rows = [[label, *(_cell(score, self[f"{score}/{label}"]) for score in _OF_LABEL)] for label in self.labels]
            tables.append(Table(["label", *_OF_LABEL], rows, "by label"))
            tables += [self._confusion_table()] if any(self.confusion.values()) else []
        return tables

    def _confusion_table(self) -> Table:
        """The confusion matrix; of many labels, the pairs that were confused most often."""
        confusion = self.confusion
        if len(self.labels) <= _LISTED:
            is_narrow = sum(map(len, self.labels)) <= _NARROW
            names = self.labels if is_narrow else [str(number) for number in range(1, len(self.labels) + 1)]
            rows = [
                [label if is_narrow else f"{name} {label}", *(confusion[label].get(other, 0) for other in self.labels)]
                for name, label in zip(names, self.labels, strict=True)
            ]
            return Table(
                ["label", *names], rows, "confusion matrix: a row for each label, a column for each prediction"
            )
        pairs = [
            (label, other, count) for label, row in confusion.items() for other, count in row.items() if other != label
        ]
        pairs.sort(key=lambda pair: -pair[2])
        return Table(["label", "prediction", "count"], pairs[:_LISTED], f"the {_LISTED} most frequent confusions")

    def __repr__(self) -> str:
        of_labels = {f"{score}/{label}" for score in _OF_LABEL for label in self.labels}
        scores = ", ".join(f"{name}={rounded_text(value)}" for name, value in self.items() if name not in of_labels)
        return f"Evaluation({scores})"

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())

    def _repr_html_(self) -> str:
        return "".join(table.html() for table in self.tables())


def texts_of(example: Example) -> list[str]:
    """The texts of an example, as far as it has those of a pair or a triplet."""
    texts = (getattr(example, name, None) for name in ("text", "second", "third"))
    return [text for text in texts if isinstance(text, str)]


def _cell(name: str, value: float) -> float | int:
    """A count as a whole number, and any other score as it is."""
    return int(value) if name.startswith(_COUNTS) else value
