"""What a verb tells of predictions of labels: the most probable ones, and none below a threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from pretune.cli.session import Session
from pretune.errors import UsageError

if TYPE_CHECKING:
    from pretune.tasks.task import AnyTask


@dataclass
class LabelChoice:
    """What is told of a task's predictions, as `--top` and `--threshold` say.

    Attributes:
        top: how many labels are told, best first; None for the probability of all.
        threshold: probability below which no label is given.
        below: predictions without a label.
        total: all predictions.
        is_own: the threshold is the model's own.
        thresholds: all by which labels are given, in ascending order: the threshold, or those of each label.
        task: what messages begin with, where there are several tasks.
    """

    top: int | None
    threshold: float | None
    below: int = 0
    total: int = 0
    is_own: bool = False
    thresholds: tuple[float, ...] = ()
    task: str = ""

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise UsageError(f"--top {self.top}: expected at least 1")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold {self.threshold:g}: expected a probability, from 0 to 1")

    def of(self, task: AnyTask, *, is_named: bool) -> LabelChoice:
        """The same for a task, with the threshold that this was trained with where none was named."""
        own = getattr(task.config, "threshold", None)
        is_own = self.threshold is None and isinstance(own, float) and hasattr(task.config, "abstain")
        name = f"{task.name}: " if is_named else ""
        threshold = own if is_own else self.threshold
        of_labels: Mapping[str, float] = getattr(task, "thresholds", {})
        thresholds = tuple(sorted(of_labels.values())) if threshold is None else (threshold,)
        return replace(self, threshold=threshold, is_own=is_own, thresholds=thresholds, task=name)

    def fields(self, prediction: object) -> dict[str, object]:
        """The fields of a prediction.

        Raises:
            UsageError: `--top` or `--threshold` of a model that gives no probabilities.
        """
        from pretune.tasks.shared.predictions import IndependentPrediction, Prediction, prediction_fields

        if not isinstance(prediction, Prediction):
            fields = prediction_fields(prediction)
            if isinstance(fields.get("labels"), list) and isinstance(fields.get("probabilities"), dict):
                return self._fields_of_set(fields)
            for flag, value in (("--top", self.top), ("--threshold", self.threshold)):
                if value is not None and not (flag == "--top" and "generated_text" in fields):
                    raise UsageError(f"{flag} {value:g}: this model gives no probabilities of labels; leave it out")
            return fields
        label, probability = prediction.label, prediction.probability
        others = [pair for pair in prediction.top(self.top or 1) if pair[0] != label][: (self.top or 1) - 1]
        fields = {"label": label, "probability": probability}
        if self.threshold is not None:
            is_below = probability < self.threshold
            self.below, self.total = self.below + is_below, self.total + 1
            fields["label"] = None if is_below else label
            if isinstance(prediction, IndependentPrediction):
                fields["labels"] = prediction.above(self.threshold)
        for number, (label, probability) in enumerate(others, 2):
            fields |= {f"label_{number}": label, f"probability_{number}": probability}
        told = {"label", "probability", "abstains", *(["probabilities"] if self.top else [])}
        return fields | {name: value for name, value in prediction.items() if name not in told}

    def _fields_of_set(self, fields: dict[str, object]) -> dict[str, object]:
        """The fields of a prediction of several labels, with its probabilities."""
        from pretune.tasks.shared.predictions import most_probable

        probabilities = cast(dict[str, float], fields["probabilities"])
        if self.threshold is not None:
            labels = [label for label, probability in probabilities.items() if probability >= self.threshold]
            fields["labels"], self.below, self.total = labels, self.below + (not labels), self.total + 1
        if self.top:
            fields["probabilities"] = dict(most_probable(probabilities, self.top))
        return fields

    def say(self, session: Session) -> None:
        """Says how many predictions have no label."""
        if self.is_own:
            text = (
                f"no label is as probable as the model's threshold of {self.threshold:.4g}: {self.below:,} of "
                f"{self.total:,}; --threshold 0 gives each a label"
            )
            session.say(self.task + text)
        elif self.threshold is not None:
            text = f"no label is as probable as --threshold {self.threshold:g}: {self.below:,} of {self.total:,}"
            session.say(self.task + text)


def thresholds_of(choices: Iterable[LabelChoice]) -> list[float]:
    """The thresholds by which any of several tasks gives labels, in ascending order."""
    return sorted({threshold for choice in choices for threshold in choice.thresholds})
