"""The standard heads by role: what makes each, for files that carry them and for models that are built by role."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from pretune.errors import UsageError
from pretune.find import suggest
from pretune.models.model import LanguageModel, MakeHeads, get_family
from pretune.nn.heads import NSP_LABELS, SOP_LABELS, DetectionHead

_Maker = Callable[[LanguageModel, Sequence[str]], nn.Module]


def _pooler(model: LanguageModel, labels: Sequence[str]) -> nn.Module:
    if model.parts.model_pooler is None:
        raise UsageError(f"{model.family} has no pooler of its own")
    return model.parts.model_pooler()


STANDARD_HEADS: Mapping[str, _Maker] = {
    "mlm": lambda model, labels: model.vocabulary_head(),
    "clm": lambda model, labels: model.vocabulary_head(),
    "plm": lambda model, labels: model.vocabulary_head(),
    "rtd": lambda model, labels: DetectionHead(model.width, model.head_activation),
    "nsp": lambda model, labels: model.sequence_head(NSP_LABELS, dropout=0.0),
    "sop": lambda model, labels: model.sequence_head(SOP_LABELS),
    "classification": lambda model, labels: model.sequence_head(labels),
    "pooler": _pooler,
}


def standard_heads(roles: Sequence[str], labels: Sequence[str] | None = None) -> MakeHeads:
    """What makes the standard heads of some roles, each as the family's files have it.

    Args:
        labels: names of the classes, for a head that decides among them.

    Raises:
        UsageError: when it is called, a head that the family does not have, or labels that are missing.
    """

    def make_heads(model: LanguageModel) -> dict[str, nn.Module]:
        architectures = getattr(get_family(model.family), "ARCHITECTURES", None)
        known = sorted(
            STANDARD_HEADS if architectures is None else {r for group in architectures.values() for r in group}
        )
        for role in roles:
            if role not in known:
                raise UsageError(f"{model.family} has no head {role!r}; {suggest(role, known)}")
        if "classification" in roles and not labels:
            raise UsageError("a classification head needs the names of its labels")
        return {role: STANDARD_HEADS[role](model, labels or ()) for role in roles}

    return make_heads
