"""Finds out how the answers of a student and a teacher are compared, head by head, and refuses pairs that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pretune.batch import Batch
from pretune.compress.distillation import terms
from pretune.compress.distillation.config import DistilConfig
from pretune.compress.distillation.observe import HeadScores
from pretune.errors import DataError, UsageError
from pretune.models.model import LanguageModel
from pretune.nn.crf import CRF
from pretune.nn.heads import (
    ChoiceHead,
    DetectionHead,
    ScoreOutput,
    SequenceHead,
    SpanHead,
    VocabularyHead,
)
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.nn.projection import Projection
from pretune.objectives.objective import Objective
from pretune.tasks.task import Task
from pretune.wording import listed

Unit = Literal["sequence", "row", "table"]
_PAIRS = "pairs"
_OTHERS = "set distil.soft = 0 and use distil.hidden, distil.relations or distil.vectors"


@dataclass(frozen=True)
class Comparison:
    """How the scores of one head are compared.

    Attributes:
        role: of the head in both models.
        owner: the objective or task that asks it.
        unit: what has scores: sequences, rows that have targets, or what the owner puts into a table (`soft_scores`).
        output: what is said of the scores.
        order: of the teacher's classes, which of them each of the student's is; None where it is the same.
        teacher: its folder, for messages.
    """

    role: str
    owner: Objective
    unit: Unit
    output: ScoreOutput = "softmax"
    order: tuple[int, ...] | None = None
    teacher: str = ""

    def count(self, batch: Batch) -> int:
        """How many answers a batch has."""
        if self.unit == "table":
            return self.owner.soft_count(batch)
        if self.unit == "row":
            return len(batch.targets[self.owner.name][0])
        return len(batch.targets[_PAIRS][0]) if _PAIRS in batch.targets else batch.layout.count - batch.dummies

    def sum(
        self,
        models: tuple[TrainableModel, TrainableModel],
        outputs: tuple[ModelOutput, ModelOutput],
        batch: Batch,
        seen: tuple[Mapping[str, HeadScores], Mapping[str, HeadScores]],
        temperature: float,
    ) -> Tensor:
        """How far the student's answers are from the teacher's. Shape: return: ()

        Args:
            models, outputs, seen: of the student and the teacher.

        Raises:
            UsageError: the loss asked the head for no scores.
        """
        if self.unit == "table":
            return self._of_tables(models, outputs, batch, temperature)
        sides = [observed.get(self.role) for observed in seen]
        ours, theirs = sides
        if ours is None or theirs is None:
            raise UsageError(
                f"distil.soft: {self.owner.name} asks its head {self.role!r} for no scores that could be compared; "
                f"{_OTHERS}"
            )
        if ours.rows is not None and theirs.rows is not None:
            return terms.vocabulary_targets(ours.head, ours.rows, theirs.head, theirs.rows, temperature)
        student, teacher = (self._chosen(side, batch) for side in (ours, theirs))
        if self.order is not None:
            teacher = teacher[:, torch.tensor(self.order, device=teacher.device)]
        return terms.soft_targets(student, teacher, temperature, self.output)

    def _of_tables(
        self,
        models: tuple[TrainableModel, TrainableModel],
        outputs: tuple[ModelOutput, ModelOutput],
        batch: Batch,
        temperature: float,
    ) -> Tensor:
        student = self.owner.soft_scores(models[0], outputs[0], batch)
        with torch.no_grad():
            teacher = self.owner.soft_scores(models[1], outputs[1], batch)
        assert student is not None
        assert teacher is not None
        count = self.count(batch)
        return terms.soft_targets(student[:count], teacher[:count], temperature)

    def _chosen(self, side: HeadScores, batch: Batch) -> Tensor:
        """The scores that count. Shape: return: (K, classes)."""
        scores = side.head(side.rows) if side.scores is None else side.scores
        scores, count = scores if scores.dim() > 1 else scores[:, None], self.count(batch)
        if self.unit == "row" and len(scores) > count:
            return scores[batch.targets[self.owner.name][0]]
        return scores[:count]


def check_teacher(teacher: LanguageModel, config: DistilConfig) -> None:
    """Checks that all weights of a teacher are numbers.

    Raises:
        DataError: one is not.
    """
    for name, weight in teacher.named_parameters():
        if not bool(weight.isfinite().all()):
            bad = int((~weight.isfinite()).sum())
            raise DataError(
                f"{config.teacher}: weight {name!r} has {bad:,} values that are not numbers; name a teacher whose "
                "training ended well, or an earlier checkpoint of it"
            )


def compare_heads(
    members: Sequence[Objective], model: TrainableModel, teacher: LanguageModel, config: DistilConfig
) -> dict[str, Comparison]:
    """How the answers to each member of an objective are compared, by the role of its head.

    Raises:
        UsageError: an objective whose answers cannot be compared.
        DataError: a teacher that lacks a head, or has other labels or tokens.
    """
    matches: dict[str, Comparison] = {}
    for member in members:
        if type(member).forward is not Objective.forward:
            raise UsageError(
                f"distil.soft: {member.name} runs passes of its own, whose answers are not compared; {_OTHERS}"
            )
        with torch.device("meta"):
            roles = list(member.heads(model))
        if isinstance(member, Task):
            member.adopt(cast(TrainableModel, teacher), set(teacher.heads))
        if type(member).soft_scores is not Objective.soft_scores:
            for role in roles:
                _their_head(role, member, teacher, config)
            matches[member.name] = Comparison(member.name, member, "table", teacher=config.teacher or "")
            continue
        for role in roles:
            matches.setdefault(role, _compare(role, member, model.heads[role], teacher, config))
    if not matches:
        raise UsageError(f"distil.soft: {listed([m.name for m in members])} has no answers to compare; {_OTHERS}")
    return matches


def _their_head(role: str, member: Objective, teacher: LanguageModel, config: DistilConfig) -> nn.Module:
    if role not in teacher.heads:
        heads = f"its heads: {', '.join(teacher.heads)}" if len(teacher.heads) else "it has none"
        raise DataError(
            f"distil.teacher = {config.teacher}: no head {role!r}, which {member.name} asks ({heads}); name a teacher "
            f"that was trained for {member.name}, or {_OTHERS}"
        )
    return teacher.heads[role]


def _compare(role: str, member: Objective, ours: nn.Module, teacher: LanguageModel, config: DistilConfig) -> Comparison:
    """How one head is compared."""
    if isinstance(ours, CRF):
        raise UsageError(
            f"distil.soft: a crf scores whole paths of tags, of which no single answer is softened; set "
            f"task.{member.name}.decoder = softmax for the student and its teacher, or {_OTHERS}"
        )
    if isinstance(ours, ChoiceHead | SpanHead):
        raise UsageError(
            f"distil.soft: {member.name} chooses among sequences or rows, and does not say among which (soft_scores); "
            f"{_OTHERS}"
        )
    theirs = _their_head(role, member, teacher, config)
    name = config.teacher or ""
    if isinstance(ours, VocabularyHead):
        sizes = [head.vocabulary.size if isinstance(head, VocabularyHead) else 0 for head in (ours, theirs)]
        if sizes[0] != sizes[1]:
            raise DataError(
                f"distil.teacher = {name}: its vocabulary has {sizes[1]:,} rows, and the student's {sizes[0]:,}; start "
                f"the student from the teacher (--model {name} --student.layers N), or make both of one tokenizer"
            )
        return Comparison(role, member, "row", teacher=name)
    output: ScoreOutput = "softmax"
    if isinstance(ours, SequenceHead):
        output = ours.output
        if isinstance(theirs, SequenceHead) and theirs.output != output:
            raise DataError(
                f"distil.teacher = {name}: its head {role!r} gives {theirs.output} scores, and the student's {output}; "
                f"name a teacher that was trained for {member.name}"
            )
    if isinstance(ours, DetectionHead):
        output = "sigmoid"
    order = _order(role, ours, theirs, name)
    if order is not None and isinstance(linear := getattr(theirs, "linear", None), Projection):
        _reorder(theirs, linear, order)
        order = None
    return Comparison(role, member, "sequence" if isinstance(ours, SequenceHead) else "row", output, order, name)


@torch.no_grad()
def _reorder(head: nn.Module, linear: Projection, order: tuple[int, ...]) -> None:
    """Puts the classes of a head in another order."""
    index = torch.tensor(order, device=linear.weight.device)
    linear.weight.copy_(linear.weight[index])
    if linear.bias is not None:
        linear.bias.copy_(linear.bias[index])
    labels: list[str] = head.labels  # type: ignore[assignment]
    head.labels = [labels[n] for n in order]  # type: ignore[assignment]


def _order(role: str, ours: nn.Module, theirs: nn.Module, teacher: str) -> tuple[int, ...] | None:
    """Which of the teacher's labels each of the student's is.

    Raises:
        DataError: the labels are others.
    """
    own, other = (getattr(head, "labels", None) for head in (ours, theirs))
    if not isinstance(own, list) or not isinstance(other, list) or own == other:
        return None
    if len(own) == len(other) == 1:  # the name of a value
        return None
    if sorted(own) != sorted(other):
        only = [label for label in own if label not in other]
        extra = [label for label in other if label not in own]
        raise DataError(
            f"distil.teacher = {teacher}: its labels for {role!r} are not those of the training data: "
            f"it lacks {listed(only) if only else 'none'}, and has besides {listed(extra) if extra else 'none'}; name "
            "a teacher that was trained with these labels, or correct the labels of the data"
        )
    return tuple(other.index(label) for label in own)
