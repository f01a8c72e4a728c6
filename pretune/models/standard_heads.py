"""The standard heads by role: what makes each, for files that carry them and for models that are built by role."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from pretune.errors import UsageError
from pretune.find import suggest
from pretune.models.head_table import classes_of, weight_map_of
from pretune.nn.heads import NSP_LABELS, SOP_LABELS, DetectionHead, ProblemType
from pretune.nn.model_protocol import TrainableModel


@dataclass(frozen=True)
class HeadRequest:
    """What a standard head is for, beyond its role.

    Attributes:
        labels: names of the classes; empty where none were named.
        problem_type: of the head `classification`.
    """

    labels: Sequence[str] = ()
    problem_type: ProblemType = "single_label_classification"


STANDARD_HEADS: Mapping[str, Callable[[TrainableModel, HeadRequest], nn.Module]] = {
    "mlm": lambda model, request: model.vocabulary_head("masked"),
    "clm": lambda model, request: model.vocabulary_head("next"),
    "plm": lambda model, request: model.vocabulary_head("permuted"),
    "rtd": lambda model, request: DetectionHead(model.width, model.head_activation),
    "nsp": lambda model, request: model.sequence_head(NSP_LABELS, dropout=0.0),
    "sop": lambda model, request: model.sequence_head(SOP_LABELS),
    "classification": lambda model, request: model.sequence_head(request.labels, request.problem_type),
    "token_classification": lambda model, request: model.token_head(request.labels),
    "question_answering": lambda model, request: model.span_head(),
    "multiple_choice": lambda model, request: model.choice_head(),
    "pooler": lambda model, request: model.own_pooler(),
}
LABELLED_HEADS = ("classification", "token_classification")
"""Standard heads that decide among labels, which `config.json` names."""


def standard_heads(
    roles: Sequence[str],
    labels: Sequence[str] | None = None,
    problem_type: ProblemType = "single_label_classification",
) -> Callable[[TrainableModel], dict[str, nn.Module]]:
    """What makes the standard heads of some roles, each as the family's files have it.

    Args:
        labels: names of the classes, for a head that decides among them.
        problem_type: of the head `classification`.

    Raises:
        UsageError: when it is called, a head that the family does not have, or labels that are missing.
    """
    request = HeadRequest(tuple(labels or ()), problem_type)

    def make_heads(model: TrainableModel) -> dict[str, nn.Module]:
        listed = {role for roles_of_class in classes_of(model.family).values() for role in roles_of_class}
        known = sorted(listed if weight_map_of(model.family) is not None else STANDARD_HEADS)
        for role in roles:
            if role not in known:
                raise UsageError(f"{model.family} has no head {role!r}; {suggest(role, known)}")
            if role in LABELLED_HEADS and not request.labels:
                raise UsageError(f"a {role.replace('_', ' ')} head needs the names of its labels")
        return {role: STANDARD_HEADS[role](model, request) for role in roles}

    return make_heads
