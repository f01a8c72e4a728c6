"""What models say of texts: a label with the probability of every label, or values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Self, TypeVar, cast

from pretune.table import Table, rounded_text

_LISTED = 10  # labels of a prediction, or rows of a list, that a notebook shows
_SMALLEST = 1e-38  # probability that a float of 32 bits still holds
PredictionT = TypeVar("PredictionT")


class Prediction(dict[str, object]):
    """What a classifier says about one text: a dict of `label`, its `probability`, and `probabilities`.

    Args:
        label: the most probable label.
        probabilities: of every label, in the order of the model's labels; they sum to 1.
    """

    def __init__(self, label: str, probabilities: Mapping[str, float]) -> None:
        super().__init__(label=label, probability=probabilities[label], probabilities=dict(probabilities))

    @property
    def label(self) -> str:
        """The most probable label."""
        return cast(str, self["label"])

    @property
    def probabilities(self) -> dict[str, float]:
        """Of every label, in the order of the model's labels."""
        return cast(dict[str, float], self["probabilities"])

    @property
    def probability(self) -> float:
        """Probability of the label."""
        return self.probabilities[self.label]

    @property
    def abstains(self) -> bool:
        """Whether the label is less probable than the threshold that the model was trained with, so that it is none."""
        return bool(self.get("abstains"))

    def judged_by(self, threshold: float | None) -> Self:
        """The same, with the field `abstains` where the label is less probable than a threshold."""
        if threshold is not None and self.probability < threshold:
            self["abstains"] = True
        return self

    def top(self, count: int) -> list[tuple[str, float]]:
        """The most probable labels with their probabilities, best first; equals in the order of the labels."""
        return most_probable(self.probabilities, count)

    def __repr__(self) -> str:
        end = ", abstains=True" if self.abstains else ""
        return f"{type(self).__name__}(label={self.label!r}, probability={rounded_text(self.probability)}{end})"

    def _repr_html_(self) -> str:
        others = len(self.probabilities) - _LISTED
        title = f"the {_LISTED} most probable of {len(self.probabilities):,} labels" if others > 0 else ""
        return Table(["label", "probability"], self.top(_LISTED), title).html()


class IndependentPrediction(Prediction):
    """What a classifier says about a text whose labels do not exclude each other: each has its own probability."""

    def above(self, threshold: float) -> list[str]:
        """The labels that are at least so probable, in the order of the model's labels."""
        return [label for label, probability in self.probabilities.items() if probability >= threshold]


class Values(dict[str, float]):
    """What a model that gives values says about one text, such as how alike two texts are: a value by label."""

    @property
    def value(self) -> float:
        """The value, where there is one."""
        (value,) = self.values()
        return value

    def __repr__(self) -> str:
        listed = ", ".join(f"{name!r}: {rounded_text(value)}" for name, value in self.items())
        return f"Values({{{listed}}})"

    def _repr_html_(self) -> str:
        return Table(["label", "value"], list(self.items())).html()


Answer = Prediction | Values


def average(answers: Sequence[Answer]) -> Answer:
    """The answer of the mean logits of a text's windows, or their mean values; of one answer, the answer itself.

    Args:
        answers: of one model, so that all are of the same type; one at least.
    """
    first = answers[0]
    if len(answers) == 1:
        return first
    if isinstance(first, Values):
        rows = [answer for answer in answers if isinstance(answer, Values)]
        return Values({name: math.fsum(row[name] for row in rows) / len(rows) for name in first})
    tables = [answer.probabilities for answer in answers if isinstance(answer, Prediction)]
    is_independent = isinstance(first, IndependentPrediction)
    logits = {name: math.fsum(_logit(t[name], is_independent) for t in tables) / len(tables) for name in tables[0]}
    if is_independent:
        probabilities = {name: 1.0 / (1.0 + math.exp(-logit)) for name, logit in logits.items()}
    else:
        weights = {name: math.exp(logit - max(logits.values())) for name, logit in logits.items()}
        probabilities = {name: weight / math.fsum(weights.values()) for name, weight in weights.items()}
    label = max(probabilities, key=lambda name: probabilities[name])
    return type(first)(label, probabilities)


def _logit(probability: float, is_independent: bool) -> float:
    """The logit of a probability, up to a constant that all labels share where they exclude each other."""
    lost = math.log(max(1.0 - probability, _SMALLEST)) if is_independent else 0.0
    return math.log(max(probability, _SMALLEST)) - lost


class Predictions(list[PredictionT]):
    """The predictions of several texts, in their order; a list that a notebook shows as a table.

    Args:
        predictions: one for each text.
        texts: the text, or the texts of a pair, of each.
        brief: what a table shows of a prediction, where it is not all of it; see `Task.brief`.
    """

    def __init__(
        self,
        predictions: Iterable[PredictionT],
        texts: Sequence[Sequence[str]] = (),
        brief: Callable[[PredictionT], Mapping[str, object]] | None = None,
    ) -> None:
        super().__init__(predictions)
        self._texts, self._brief = texts, brief

    def table(self, count: int | None = None) -> Table:
        """Texts and predictions side by side, the first `count` or all of them."""
        chosen, texts = list(self[:count]), self._texts if len(self._texts) == len(self) else ()
        width = max(map(len, texts), default=0)
        cells = [self._cells(prediction) for prediction in chosen]
        rows = [
            [*(texts[n] if texts else ()), *([""] * (width - len(texts[n]) if texts else 0)), *each.values()]
            for n, each in enumerate(cells)
        ]
        names = ["text", "second", "third", *(f"text {n}" for n in range(4, width + 1))][:width]
        title = f"the first {len(chosen)} of {len(self):,} predictions" if len(chosen) < len(self) else ""
        return Table([*names, *(cells[0] if cells else ())], rows, title)

    def _cells(self, prediction: PredictionT) -> Mapping[str, object]:
        """What a table holds of a prediction, by the names of its columns."""
        brief = {} if self._brief is None else self._brief(prediction)
        return brief or dict(zip(column_names(prediction), cells_of(prediction), strict=True))

    def _repr_html_(self) -> str:
        return self.table(_LISTED).html()


def score_of_prediction(prediction: object) -> float | None:
    """What a task says of a pair as one number: the number itself, a field `score`, or the only value; else None."""
    values = list(prediction.values()) if isinstance(prediction, Mapping) else []
    for value in (prediction, getattr(prediction, "score", None), *(values if len(values) == 1 else ())):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def most_probable(probabilities: Mapping[str, float], count: int) -> list[tuple[str, float]]:
    """The most probable labels with their probabilities, best first; equals in the order of the labels."""
    return sorted(probabilities.items(), key=lambda item: -item[1])[:count]


def column_names(prediction: object) -> list[str]:
    """What the cells of a prediction are called in a table."""
    if isinstance(prediction, Prediction):
        return ["label", "probability"]
    return list(prediction) if isinstance(prediction, Values) else ["prediction"]


def cells_of(prediction: object) -> list[object]:
    """What a table for people holds of a prediction."""
    if isinstance(prediction, Prediction):
        return [prediction.label, prediction.probability]
    return list(prediction.values()) if isinstance(prediction, Values) else [prediction]


def prediction_fields(prediction: object) -> dict[str, object]:
    """A task's prediction as plain values by name, for a line of JSON."""
    if is_dataclass(prediction) and not isinstance(prediction, type):
        return asdict(prediction)
    return dict(prediction) if isinstance(prediction, Mapping) else {"prediction": prediction}
