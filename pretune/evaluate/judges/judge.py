"""The base class of metrics that need a model: it is a metric as in `pretune/metrics/`, made with that model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from pretune.config import validate
from pretune.evaluate.likelihood import Score
from pretune.find import find_class
from pretune.metrics.metric import Metric


class JudgeModel(Protocol):
    """What judges use of a `pretune.model.Model`, which this package may not import."""

    def score(self, texts: list[str]) -> list[Score]:
        """How probable texts are."""

    def predict(self, data: list[str], seconds: list[str] | None = None) -> Sequence[Any]:
        """What the model's task says of texts or of pairs."""


class Judge(Metric):
    """Base of all judges.

    Args:
        config: validated.
        model: whose answers are the scores.
    """

    needs_references: ClassVar[bool] = False

    def __init__(self, config: Any, model: JudgeModel) -> None:
        super().__init__(config)
        self.model = model


def build_judge(name: str, model: JudgeModel, tree: Mapping[str, Any] | None = None) -> Judge:
    """Builds a judge by its file name, or a user's own by the path of its file.

    Args:
        tree: fields of its configuration.

    Raises:
        UsageError: an unknown name (with the nearest) or field.
    """
    judge = find_class("evaluate.judges", name, Judge)  # type: ignore[type-abstract]
    return judge(validate(judge.Config, tree or {}, f"judges.{name}"), model)
