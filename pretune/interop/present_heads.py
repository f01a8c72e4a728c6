"""Finds the standard heads in a model's files: by the names of their weights, and by the class that is stated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pretune.interop.weight_names import body_prefixes, plain_name
from pretune.models.head_table import HEAD_CLASSES, weight_map_of
from pretune.models.model import Config, get_family
from pretune.models.weight_map import Weight


def stated_class(config_fields: Mapping[str, Any]) -> str:
    """Returns the class of `transformers` that a configuration names; empty where it names none."""
    listed = config_fields.get("architectures")
    return str(listed[0]) if isinstance(listed, list) and listed else ""


@dataclass(frozen=True)
class _HeadNames:
    """Finds the standard heads whose weights are in the files.

    Attributes:
        family: name of its file.
        tied: the output layer may be the embedding, so that the files may lack it.
        stated: roles of the class that `config.json` names; None where it names none that is known.
        saved: roles that pretune recorded.
        plain: names in the files, without prefix.
    """

    family: str
    tied: bool
    stated: tuple[str, ...] | None
    saved: tuple[str, ...]
    plain: frozenset[str]

    def names(self) -> dict[str, list[str]]:
        """The names of each head's weights in files, the most probable heads first."""
        prefixes, classes = body_prefixes(self.family), get_family(self.family).ARCHITECTURES
        known = [role for roles in classes.values() for role in roles]
        roles = dict.fromkeys([*(r for r in self.saved if r in known), *(self.stated or ()), *known])
        weights = weight_map_of(self.family) or ()
        names = {role: [plain_name(w.theirs, prefixes) for w in weights if self._counts(w, role)] for role in roles}
        if self.stated is not None:
            return names
        return dict(sorted(names.items(), key=lambda item: -self._fit(*item)))

    def _fit(self, role: str, names: Sequence[str]) -> int:
        """How many weights of a head that has rivals are there, where no class says which it is; 0 for the others."""
        whole = all(name in self.plain for name in names if name.endswith(".weight"))
        return len(names) if role in HEAD_CLASSES and role not in self.saved and whole else 0

    def rivals(self, role: str) -> list[str]:
        """Other heads with the same weights, where neither a class nor pretune says which it is."""
        names = self.names()
        if self.stated is not None or role not in HEAD_CLASSES or role in self.saved:
            return []
        fit = self._fit(role, names[role])
        return [
            other
            for other in names
            if other in HEAD_CLASSES and other != role and self._fit(other, names[other]) == fit > 0
        ]

    def _counts(self, weight: Weight, role: str) -> bool:
        if not weight.ours.startswith(f"heads.{role}."):
            return False
        return not weight.alias or (weight.ours.endswith(".weight") and not self.tied)

    def present(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """The heads that are there, and of the class's heads that are not the first absent weight.

        A head without weights of its own is there if the class or pretune says so, and the model's own pooler if
        nothing else is.
        Of the heads whose last layers have the same name, such as the classes of sequences and of tokens, the one that
        was saved or that the class says is there, else the first.
        """
        names = self.names()
        present: list[str] = []
        missing: dict[str, str] = {}
        taken: set[str] = set()
        for role in names:
            rivals = HEAD_CLASSES if role in HEAD_CLASSES else (role,)
            shared = {name for other in names if other not in rivals for name in names[other]}
            own = [name for name in names[role] if name not in shared]
            needed = [name for name in names[role] if name.endswith(".weight")]
            absent = [name for name in needed if name not in self.plain]
            here = not absent and not taken & set(own)
            is_told = not own if self.stated is None else role in self.stated
            is_recorded = role in self.saved and not names[role]  # beside another head, for which there is no class
            if here and (any(n in self.plain for n in own) or is_told or is_recorded):
                present.append(role)
                taken |= set(own)
            elif any(name.startswith(f"heads.{role}.") for name in self.plain):  # saved under our own names
                present.append(role)
            elif absent and role in (self.stated or ()) and (role != "pooler" or len(absent) < len(needed)):
                missing[role] = absent[0]
        roles = [r for r in present if r != "pooler" or len(present) == 1 or self.stated == ("pooler",)]
        return tuple(roles), missing


@dataclass(frozen=True)
class PresentHeads:
    """Tells which standard heads are in a model's files.

    Attributes:
        roles: that are there.
        missing: of the stated class's roles that are not, the first weight that is absent.
        unsure: roles whose weights may be another head's, and those heads.
    """

    roles: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    unsure: Mapping[str, Sequence[str]] = field(default_factory=dict)


def present_heads(
    family: str, config: Config, saved: Iterable[str], class_name: str, tensors: Iterable[str]
) -> PresentHeads:
    """Finds the standard heads in the files, and those that the stated class has and they lack.

    Args:
        saved: roles that pretune recorded.
        class_name: that `config.json` states, or nothing.
        tensors: names in the files.
    """
    if weight_map_of(family) is None:
        return PresentHeads()
    prefixes, module = body_prefixes(family), get_family(family)
    tied = config.tie_word_embeddings or bool(getattr(module, "ALWAYS_TIED", False))
    plain = frozenset(plain_name(name, prefixes) for name in tensors)
    stated = module.ARCHITECTURES.get(class_name)
    names = _HeadNames(family, tied, stated, tuple(saved), plain)
    present, missing = names.present()
    if not getattr(config, "is_encoder_decoder", True):
        present = tuple(role for role in present if role == "token_classification")
    unsure = {role: rivals for role in present if (rivals := names.rivals(role))}
    return PresentHeads(present, missing, unsure)
