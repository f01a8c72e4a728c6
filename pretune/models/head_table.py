"""What Hugging Face calls the standard heads: the class that has each, and the last layer in its files.

A family's `ARCHITECTURES` says which of these classes it has (`standard_classes`), its `HEAD_NAMES` what its last
layers are called where not as here, and its `WEIGHT_MAP` what stands before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from pretune.find import find
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


def weight_map_of(family: str) -> Sequence[Weight] | None:
    """The weight map of a family with its standard heads; None for a user's family that no other software knows."""
    weights = getattr(find("models", family), "WEIGHT_MAP", None)
    return None if weights is None else [*weights, *_last_layers(family, weights)]


def classes_of(family: str) -> Mapping[str, tuple[str, ...]]:
    """The classes of `transformers` that a family has, and the heads of each; none for a family of its own."""
    return cast(Mapping[str, tuple[str, ...]], getattr(find("models", family), "ARCHITECTURES", {}))


def encoder_class_of(family: str) -> str | None:
    """The class of an encoder-decoder's encoder alone; None where the family has none."""
    return cast(str | None, getattr(find("models", family), "ENCODER_CLASS", None))


def prefix_of(family: str) -> str:
    """What the names of a family's body begin with in its files, where heads stand beside it."""
    return str(getattr(find("models", family), "PREFIX", ""))


def class_prefixes_of(family: str) -> Mapping[str, str]:
    """Prefixes of the body's names in the files of single classes, where they are not the family's."""
    return cast(Mapping[str, str], getattr(find("models", family), "PREFIXES", {}))


def _last_layers(family: str, weights: Sequence[Weight]) -> list[Weight]:
    """The last layers of the standard heads that a family's classes have and its own map does not list."""
    names: Mapping[str, str] = getattr(find("models", family), "HEAD_NAMES", {})
    classes, listed = classes_of(family), {weight.ours for weight in weights}
    roles = [role for role in HEAD_CLASSES if any(role in heads for heads in classes.values())]
    return [
        weight
        for role in roles
        if f"heads.{role}.linear.weight" not in listed
        for weight in weight_and_bias(f"heads.{role}.linear", names.get(role, _LAST_LAYERS[role]))
    ]
