"""What Hugging Face calls the standard heads: the class that has each, and the last layer in its files.

A family's `ARCHITECTURES` says which of these classes it has (`standard_classes`), its `HEAD_NAMES` what its last
layers are called where not as here, and its `WEIGHT_MAP` what stands before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pretune.models.weight_map import Weight, weight_and_bias

HEAD_CLASSES: Mapping[str, str] = {
    "classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
    "multiple_choice": "ForMultipleChoice",
}
"""End of the name of the class, by role."""
_LAST_LAYERS: Mapping[str, str] = {
    "classification": "classifier",
    "token_classification": "classifier",
    "question_answering": "qa_outputs",
    "multiple_choice": "classifier",
}


def standard_classes(stem: str, *roles: str) -> dict[str, tuple[str, ...]]:
    """The classes of standard heads whose names are regular.

    Args:
        stem: what the names of a family's classes begin with, such as `Bert`.
        roles: which heads have one; all by default.
    """
    return {stem + HEAD_CLASSES[role]: (role,) for role in roles or HEAD_CLASSES}


def head_weights(
    weights: Sequence[Weight], classes: Mapping[str, tuple[str, ...]], names: Mapping[str, str]
) -> list[Weight]:
    """The last layers of the standard heads that a family's classes have and its own map does not list.

    Args:
        weights: the family's own map.
        classes: its `ARCHITECTURES`.
        names: its `HEAD_NAMES`.
    """
    listed = {weight.ours for weight in weights}
    roles = [role for role in HEAD_CLASSES if any(role in heads for heads in classes.values())]
    return [
        weight
        for role in roles
        if f"heads.{role}.linear.weight" not in listed
        for weight in weight_and_bias(f"heads.{role}.linear", names.get(role, _LAST_LAYERS[role]))
    ]
