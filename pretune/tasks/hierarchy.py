"""Labels that are paths in a tree, such as `sports/football`: one path a text.

Data: examples with a text, an optional second text, and a label whose parts stand between separators. Paths may have
different lengths, and one may go on from another.

The head decides among the whole paths, and the probability of a part of a path is the sum of those of all paths that
begin with it: probabilities never contradict each other, and `transformers` reads the files as a usual classifier. The
loss adds to the cross-entropy of the path that of its beginnings, so that a mistake among neighbours costs less.

Source: Kiritchenko, Matwin and Famili 2005, "Functional annotation of genes using hierarchical text categorization",
for F1 over the parts of paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from pretune.errors import DataError
from pretune.nn.model_protocol import TrainableModel
from pretune.tasks.classification import Classification, ClassificationExample
from pretune.tasks.shared.predictions import Answer, Prediction
from pretune.tasks.task import RowBatch
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary


class HierarchyPrediction(Prediction):
    """The path of a text: `label`, its `probability`, `probabilities` of all paths, and `levels`.

    Args:
        label: the most probable path.
        probabilities: of every path.
        levels: the beginnings of the path, from the shortest, each with its probability.
    """

    def __init__(
        self, label: str, probabilities: Mapping[str, float], levels: Sequence[tuple[str, float]] = ()
    ) -> None:
        super().__init__(label, probabilities)
        self["levels"] = [{"label": name, "probability": probability} for name, probability in levels]

    @property
    def levels(self) -> list[dict[str, object]]:
        """The beginnings of the path, from the shortest, each with its probability."""
        return cast(list[dict[str, object]], self["levels"])


class Hierarchy(Classification):
    """One path of a tree a text.

    Args:
        config: with `labels` filled in, by hand or by `resolve_config`; without them it can only read examples.
        vocabulary: of the tokenizer that encodes the texts.
    """

    name: ClassVar[str] = "hierarchy"

    class Config(Classification.Config):
        """As of a classification, among whole paths, and how their beginnings count.

        Attributes:
            separator: between the parts of a path.
            level_weight: weight of the mean loss of the beginnings of a path; 0 learns whole paths alone.
        """

        separator: str = Field(default="/", min_length=1)
        level_weight: float = Field(default=1.0, ge=0.0)

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.config = config
        depth = max((len(self._parts(label)) for label in self.labels), default=1)
        self._levels = [self._beginnings(level) for level in range(1, depth)]
        numbers = [[names.index(name) for name in names] for names in self._levels]
        self.groups: Tensor
        table = torch.tensor(numbers, dtype=torch.int64).reshape(len(numbers), len(self.labels))
        self.register_buffer("groups", table, persistent=False)

    @property
    def fits_head(self) -> bool:
        """A fitted head would know whole paths alone."""
        return False

    def _parts(self, label: str) -> list[str]:
        return label.split(self.config.separator)

    def _beginnings(self, level: int) -> list[str]:
        """The first `level` parts of each label."""
        return [self.config.separator.join(self._parts(label)[:level]) for label in self.labels]

    def read(self, record: Mapping[str, object]) -> ClassificationExample:
        """A text or a pair, and its path."""
        example = super().read(record)
        if example.label is not None and not all(part.strip() for part in self._parts(example.label)):
            raise DataError(
                f"{example.origin}: label {example.label!r} has an empty part between separators "
                f"{self.config.separator!r}; correct it, or set task.hierarchy.separator"
            )
        return example

    def resolve_config(self, examples: Sequence[ClassificationExample]) -> Config:
        """Fill in the paths, sorted, and balanced class weights.

        Raises:
            UsageError: one label.
            DataError: as of a classification; or no path has more than one part.
        """
        config = cast(Hierarchy.Config, super().resolve_config(examples))
        if all(len(self._parts(label)) == 1 for label in config.labels):
            raise DataError(
                f"{examples[0].origin.source}: no label, such as {config.labels[0]!r}, has the separator "
                f"{config.separator!r}; set task.hierarchy.separator, or use --task classification"
            )
        return config

    def cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of whole paths, and the mean of those of their beginnings. Shape: (K, C), (K,) -> ()."""
        total = super().cross_entropy(logits, label)
        if not self.config.level_weight or not len(self.groups):
            return total
        scores = logits.log_softmax(dim=1)
        is_other = self.groups[:, None, :] != self.groups[:, label, None]  # (levels, K, C)
        of_levels = -scores.masked_fill(is_other, -torch.inf).logsumexp(dim=2)  # (levels, K)
        return total + self.config.level_weight * of_levels.mean(dim=0).sum()

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[Answer]:
        """The most probable path of each sequence, and the probabilities of its beginnings."""
        return [self._with_levels(answer) for answer in super().decode(model, rows, tokenizer)]

    def average(self, answers: Sequence[Answer]) -> Answer:
        """The answer of the mean logits."""
        return self._with_levels(super().average(answers))

    def _with_levels(self, answer: Answer) -> Answer:
        if not isinstance(answer, Prediction):
            return answer
        place, parts = self.labels.index(answer.label), len(self._parts(answer.label))
        levels = []
        for names in self._levels[: parts - 1]:
            together = [
                answer.probabilities[path]
                for path, name in zip(self.labels, names, strict=True)
                if name == names[place]
            ]
            levels.append((names[place], min(1.0, sum(together))))
        levels.append((answer.label, answer.probability))
        return HierarchyPrediction(answer.label, answer.probabilities, levels)

    def score(self, predictions: Sequence[Answer], examples: Sequence[ClassificationExample]) -> dict[str, float]:
        """The scores of a classification among whole paths; accuracy by level; F1 over the parts of paths.

        Raises:
            DataError: an example without a label.
        """
        scores = super().score(predictions, examples)
        truth = [self._parts(str(example.label)) for example in examples]
        guess = [self._parts(each.label) for each in predictions if isinstance(each, Prediction)]
        for level in range(1, len(self._levels) + 2):
            deep = [n for n, parts in enumerate(truth) if len(parts) >= level]
            right = sum(guess[n][:level] == truth[n][:level] for n in deep)
            scores[f"accuracy_level_{level}"] = right / len(deep) if deep else 0.0
        shared = sum(_shared(one, other) for one, other in zip(truth, guess, strict=True))
        scores["f1_path"] = 2.0 * shared / (sum(map(len, truth)) + sum(map(len, guess)))
        return scores


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts two paths have in common, from their beginning."""
    same = [left == right for left, right in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)
