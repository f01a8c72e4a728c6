"""The base of the losses of rerankers: scores of the passages of each query against their grades.

A loss is one file of this folder, or a user's own, with one subclass of `RankingLoss`; `task.reranking.loss` names it,
or is a table of its settings, `{"bce": {"pos_weight": 4}}`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from pretune import config as configuration
from pretune.config import validate
from pretune.errors import UsageError
from pretune.find import find_class

Activation = Literal["identity", "sigmoid"]
AXIS = "tasks.ranking_losses"


class RankingLoss(ABC):
    """Base of the losses.

    Attributes:
        per_query: the loss is a mean over queries; else over their passages.
        compares: passages of one query are compared, so that these must differ in their grades.
        are_probabilities: grades must lie between 0 and 1.
        activation: what makes a score of a logit once the model is trained. Losses that put passages in order learn
            logits of any size, which a sigmoid would press together at 0 and 1.
    """

    per_query: ClassVar[bool] = True
    compares: ClassVar[bool] = True
    are_probabilities: ClassVar[bool] = False
    activation: ClassVar[Activation] = "identity"

    class Config(configuration.Config):
        """Settings of the loss."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def __call__(self, logits: Tensor, grades: Tensor, present: Tensor) -> Tensor:
        """The loss of each query; of a loss that is a mean over passages, the sum over those of each query.

        Args:
            logits: -inf where a query has no such passage.
            grades: 0 there.
            present: where a query has a passage; one at least.

        Shape:
            logits, grades, present: (N, M); return: (N,) fp32
        """


def find_loss(setting: str | Mapping[str, Mapping[str, Any]]) -> RankingLoss:
    """The loss that a setting names, with its own settings.

    Raises:
        UsageError: no such loss or setting, or several losses.
        MissingInputError: a path to a file that does not exist.
    """
    table = {setting: {}} if isinstance(setting, str) else dict(setting)
    if len(table) != 1:
        raise UsageError(f"task.reranking.loss: expected one loss, got {len(table)} ({', '.join(table) or 'none'})")
    ((name, fields),) = table.items()
    loss_class: type[RankingLoss] = find_class(AXIS, name, RankingLoss)  # type: ignore[type-abstract]
    return loss_class(validate(loss_class.Config, dict(fields), f"task.reranking.loss.{name}"))


def differences(values: Tensor) -> Tensor:
    """How far each value of a row is above each other one, 0 where either is not finite. Shape: (N, M) -> (N, M, M)."""
    finite = values.isfinite()
    both = finite[:, :, None] & finite[:, None, :]
    safe = values.masked_fill(~finite, 0.0)
    return (safe[:, :, None] - safe[:, None, :]).masked_fill(~both, 0.0)


def ordered_pairs(grades: Tensor, present: Tensor) -> Tensor:
    """Which passage of a query is better than which other. Shape: (N, M) -> (N, M, M)."""
    return (grades[:, :, None] > grades[:, None, :]) & present[:, :, None] & present[:, None, :]


def mean_of_pairs(losses: Tensor, pairs: Tensor) -> Tensor:
    """The mean loss of the pairs of each query, 0 where it has none. Shape: (N, M, M) -> (N,)."""
    total = losses.masked_fill(~pairs, 0.0).sum(dim=(1, 2))
    return total / pairs.sum(dim=(1, 2)).clamp(min=1)
