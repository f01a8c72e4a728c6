"""Names of the classes that a model's heads decide among."""

from __future__ import annotations

from pretune.interop.weight_names import own_roles
from pretune.models.model import LanguageModel
from pretune.models.standard_heads import LABELLED_HEADS
from pretune.nn.vector_head import VectorHead


def labelled_role(model: LanguageModel) -> str | None:
    """Finds the standard head whose labels `config.json` names; a head with Hugging Face names goes first."""
    roles = [role for role in LABELLED_HEADS if class_labels(model, role) is not None]
    own = own_roles(model)
    return next(iter(sorted(roles, key=lambda role: role in own)), None)


def labels_of(model: LanguageModel) -> list[str] | None:
    """Names the classes that a model decides among, by a standard head or by one on vectors; None where it has none."""
    if (role := labelled_role(model)) is not None:
        return class_labels(model, role)
    return next((list(head.labels) for head in model.heads.values() if isinstance(head, VectorHead)), None)


def class_labels(model: LanguageModel, role: str) -> list[str] | None:
    """Names the classes that a head decides among; None where it has none."""
    labels = getattr(dict(model.heads.items()).get(role), "labels", None)
    return list(labels) if isinstance(labels, list | tuple) else None
