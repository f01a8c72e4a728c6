"""The base of the losses on vectors of texts: a table of vectors in, a loss for each example out.

    text  second  negatives...       rows of a step
    v00   v01     v02   v03    -> VectorTable -> VectorLoss -> RowLosses (N,)
    v10   v11     0     0            no vector where an example has fewer negatives

A loss is one file. Its vectors are of length 1, and so are those of a `VectorTable.truncated` (Matryoshka): the task
asks each loss for every length that is trained, so that no loss need know of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune import config as configuration
from pretune.errors import DataError, UsageError
from pretune.find import find_class
from pretune.objectives.same_texts import DIGEST
from pretune.objectives.text_teacher import Teacher
from pretune.tasks.shared.vector_task import PairExample

OLDER_NAMES = {"scores": "cosent"}
"""What recipes and saved models called a loss before, and its name."""
DEFAULT_TEMPERATURE = 0.05


@dataclass(frozen=True)
class VectorTable:
    """The vectors of the texts of some examples, and what is known of them.

    Attributes:
        vectors: (N, k, width) of length 1: of the text, of the second one, of each negative; 0 where there is none.
        marks: (N, k, MARKS), a digest of each text and, of further ones, how alike the first is to them (NaN where
            that is not known): see `same_texts`.
        temperature: what cosines are divided by, where a loss makes probabilities of them.
        targets: (N, m), what the examples' labels give where they are no scores, such as a teacher's vectors.
    """

    vectors: Tensor
    marks: Tensor
    temperature: float = DEFAULT_TEMPERATURE
    targets: Tensor | None = None

    @cached_property
    def cosines(self) -> Tensor:
        """Of the first text with each further one of its example; 0 where there is none. Shape: return: (N, k - 1)"""
        return (self.vectors[:, :1] * self.vectors[:, 1:]).sum(dim=2)

    @cached_property
    def present(self) -> Tensor:
        """Which texts are there. Shape: return: (N, k) bool"""
        return self.vectors.detach().ne(0).any(dim=2)

    @property
    def scores(self) -> Tensor:
        """How alike the first text is to each further one, by the labels; NaN where they do not say it.

        Shape:
            return: (N, k - 1)
        """
        return self.marks[:, 1:, DIGEST]

    def truncated(self, dim: int) -> VectorTable:
        """The same texts by the first numbers of their vectors, and of a teacher's, at length 1."""
        width = self.vectors.shape[2]
        if dim == width:
            return self
        targets = self.targets
        if targets is not None and targets.shape[1] == width:
            targets = F.normalize(targets[:, :dim], dim=1)
        return replace(self, vectors=F.normalize(self.vectors[..., :dim], dim=2), targets=targets)


@dataclass(frozen=True)
class RowLosses:
    """What a loss gives.

    Attributes:
        losses: (N,) of each example; a loss of all together gives each the same.
        correct: (N,) whether each example was right, for the log; None where that means nothing.
    """

    losses: Tensor
    correct: Tensor | None = None


class VectorLoss(nn.Module):
    """Base of the losses. Parameters of its own are trained along, and not saved with the model.

    Attributes:
        compares_examples: an example's loss depends on the others of the step, whose vectors are then gathered.
        needs_second: each example has a text that belongs to its first one.
        learns: what `targets` are: `scores` of the further texts, or `vectors`, which are no scores; None, the default,
            where labels are not learned. A setting `teacher` names a model that is asked for them.
    """

    compares_examples: ClassVar[bool] = False
    needs_second: ClassVar[bool] = True
    learns: ClassVar[Literal["scores", "vectors"] | None] = None

    class Config(configuration.Config):
        """The settings of the loss; none by default."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def resolve_config(self, examples: Sequence[PairExample]) -> configuration.Config:
        """The settings with what the training data decide filled in; by default nothing.

        Raises:
            DataError: the data are not what the loss learns from; the message names the first such record.
        """
        config: configuration.Config = self.config
        return config

    def training_notes(self, examples: Sequence[PairExample]) -> list[str]:
        """What the user should know of how labels are used; by default that they are not."""
        if all(example.label is None and example.values is None for example in examples):
            return []
        return ["labels are not used: each pair is taken for texts that belong together"]

    def targets(self, example: PairExample) -> Sequence[float] | None:
        """What is learned from an example's label; None, the default, for nothing."""
        return None

    def label_by(self, examples: Sequence[PairExample], teacher: Teacher) -> list[PairExample]:
        """Examples with a teacher's answers as their `values`, as `learns` says."""
        if self.learns == "vectors":
            vectors = teacher.vectors([example.text for example in examples])
            return [replace(example, values=vector) for example, vector in zip(examples, vectors, strict=True)]
        pairs = [
            (example.text, str(further)) for example in examples for further in (example.second, *example.negatives)
        ]
        scores = teacher.scores([first for first, _ in pairs], [further for _, further in pairs])
        ends = np.cumsum([1 + len(example.negatives) for example in examples])
        return [
            replace(example, values=part, label=None)
            for example, part in zip(examples, np.split(scores, ends[:-1]), strict=True)
        ]

    @abstractmethod
    def forward(self, table: VectorTable) -> RowLosses:
        """The loss of each example."""


def name_of(choice: str | Mapping[str, Mapping[str, Any]]) -> str:
    """The file of a chosen loss."""
    name = choice if isinstance(choice, str) else next(iter(choice))
    return OLDER_NAMES.get(name, name)


def build_loss(choice: str | Mapping[str, Mapping[str, Any]], where: str = "task.similarity.loss") -> VectorLoss:
    """A loss by its name, or by its name with settings.

    Raises:
        UsageError: no such loss or setting.
        MissingInputError: a user's own file that is not there.
    """
    name = name_of(choice)
    loss = find_class("tasks.vector_losses", name, VectorLoss)  # type: ignore[type-abstract]
    settings = {} if isinstance(choice, str) else next(iter(choice.values()))
    if loss.compares_examples and loss.learns == "vectors":
        raise UsageError(
            f"{where}: {name} compares the examples of a step and learns vectors: only scores are gathered over a "
            "step; set compares_examples to False, or learns to scores"
        )
    return loss(configuration.validate(loss.Config, settings, f"{where}.{name}"))


def first_without(examples: Sequence[PairExample], what: str) -> PairExample | None:
    """The first example whose field is not there."""
    return next((example for example in examples if getattr(example, what) is None), None)


def refuse_negatives(examples: Sequence[PairExample], loss: str) -> None:
    """Refuses third texts, which a loss of scored pairs has no use for.

    Raises:
        DataError: an example has some.
    """
    example = next((example for example in examples if example.third is not None), None)
    if example is not None:
        raise DataError(
            f"{example.origin}: a third text beside labels that differ: the loss {loss} reads pairs; leave --third out "
            "to learn the labels as scores, or set task.similarity.loss to contrast to take all as alike"
        )


def mean_over(values: Tensor, which: Tensor) -> Tensor:
    """The mean of some values of each row; 0 of a row without any. Shape: (N, m), (N, m) bool -> (N,)"""
    return torch.where(which, values, 0.0).sum(dim=1) / which.sum(dim=1).clamp(min=1)
