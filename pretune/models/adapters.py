"""Several tuned forms of one model that share its weights, and the model that reads a batch with all of them at once.

Each form is the base after a tuning method's surgery. What they have in common is found by going through all module
trees at once: a tensor that a form did not change is the base's own, in memory too; a `TunedBrick` stands on the base's
brick; prefixes and embeddings go side by side. Whatever else differs, as a whole layer that was trained, belongs to one
form alone, which then reads its sequences apart.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.embedding import Embedding
from pretune.nn.grouped import BASE, GroupedBrick, GroupedProjection, Parts
from pretune.nn.grouped_attention import GroupedAttention, GroupedBehind
from pretune.nn.prefix import NoPrefix
from pretune.nn.projection import ProjectionBrick
from pretune.nn.prompt import LongerRun
from pretune.nn.relative_attention import RelativeAttention
from pretune.nn.tuned import TunedBrick

HEADS = "heads"


class GroupedHead(nn.Module):
    """Several forms' heads of one role; each form calls its own.

    Args:
        members: by the numbers of the forms; None for one without such a head.
    """

    def __init__(self, members: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.members = nn.ModuleList(cast("list[nn.Module]", members))
        self.needs_all_rows = any(getattr(head, "needs_all_rows", False) for head in members)


@dataclass(frozen=True)
class SharedModels:
    """A base and its tuned forms.

    Attributes:
        base: the model before any tuning; its weights are those of all forms.
        forms: by their numbers, each a whole model.
        network: reads a batch whose layout says which form reads each sequence; its heads are the base's.
        apart: why a form has to read its sequences apart, by its number; the others read theirs together.
    """

    base: LanguageModel
    forms: tuple[LanguageModel, ...]
    network: LanguageModel
    apart: dict[int, str]

    @classmethod
    def of(cls, base: LanguageModel, forms: Iterable[LanguageModel]) -> SharedModels:
        """Lets the forms share the weights of their base, in place, and builds the common model.

        Args:
            forms: each is asked for when the one before has given up its own copy of the base's weights.
        """
        apart: dict[int, str] = {}
        known: list[LanguageModel] = []
        for number, form in enumerate(forms):
            differences = share_weights(base, form)
            if differences:
                apart[number] = differences[0]
            known.append(form)
        together = [None if number in apart else form for number, form in enumerate(known)]
        network = cast(LanguageModel, _Zipper().zip(base, together))
        return cls(base, tuple(known), network, apart)

    def form(self, number: int) -> LanguageModel:
        """A form, or the base."""
        return self.base if number == BASE else self.forms[number]

    def for_training(self) -> LanguageModel:
        """The common model, with the heads of all forms in place of the base's: it learns all that any form learns."""
        roles = dict.fromkeys(role for form in self.forms for role in form.heads)
        heads = {role: GroupedHead([dict(form.heads.items()).get(role) for form in self.forms]) for role in roles}
        network = copy.copy(self.network)
        network._modules = {**self.network._modules, HEADS: nn.ModuleDict(heads)}
        return network


def share_weights(base: LanguageModel, form: LanguageModel) -> list[str]:
    """Gives a form the base's own tensors wherever it has the same values.

    Returns:
        what of the body differs otherwise than by bricks on those of the base: it cannot be read together.
    """
    sharing = _Sharing()
    sharing.go(base, form, "")
    for module in form.modules():  # what is tied to a shared weight, as a vocabulary head is
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in sharing.replaced:
                module._parameters[name] = sharing.replaced[id(parameter)][1]
    return sharing.differences


@dataclass
class _Sharing:
    """One walk through a base and a form of it.

    Attributes:
        replaced: by the identity of a form's parameter, itself and the base's instead.
        differences: places where the form is another, in words.
    """

    replaced: dict[int, tuple[nn.Parameter, nn.Parameter]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    visited: set[tuple[int, int]] = field(default_factory=set)

    def go(self, base: nn.Module, form: nn.Module, path: str, *, own: bool = False) -> None:
        """Visits two modules at one path.

        Args:
            own: differences are fine below, as the form's module is called for its own sequences alone.
        """
        if (id(base), id(form)) in self.visited:
            return
        self.visited.add((id(base), id(form)))
        if isinstance(form, TunedBrick) and not isinstance(base, TunedBrick):
            form = cast(nn.Module, form.base)
            if isinstance(form, TunedBrick):
                self.differences.append(f"{path} has several bricks on each other")
                form = cast(nn.Module, _core(form))
        if type(base) is not type(form):
            if not own:
                self.differences.append(f"{path} is a {type(form).__name__}, not a {type(base).__name__}")
            if (inner := form._modules.get("base")) is not None:  # as a vocabulary that stands on the base's
                self.go(base, inner, path, own=True)
            return
        if isinstance(base, RelativeAttention) and cast(RelativeAttention, form).prefix.length != base.prefix.length:
            self.differences.append(f"{path} has a prefix, which counts in its positions")
        if isinstance(base, Embedding) and cast(Embedding, form).prompt.length != base.prompt.length:
            self.differences.append(f"{path} has a prompt, which makes its sequences longer")
        own = own or isinstance(base, Embedding)
        self._tensors(base, form, path, own=own)
        for name, child in base.named_children():
            other = form._modules.get(name)
            if other is not None:
                self.go(child, other, f"{path}.{name}" if path else name, own=own or (not path and name == HEADS))
            elif not own:
                self.differences.append(f"{path}.{name} is not there")

    def _tensors(self, base: nn.Module, form: nn.Module, path: str, *, own: bool) -> None:
        for name, weight in base._parameters.items():
            other = form._parameters.get(name)
            if weight is None or other is None or other is weight:
                continue
            if _equal(weight, other):
                self.replaced[id(other)] = (other, weight)
                form._parameters[name] = weight
            elif not own:
                self.differences.append(f"{path}.{name} has other values")
        for name, values in base._buffers.items():
            other_values = form._buffers.get(name)
            if values is not None and other_values is not None and _equal(values, other_values):
                form._buffers[name] = values


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


@dataclass
class _Zipper:
    """Builds the common model of a base and its forms; modules that none of them changed are the base's own.

    Attributes:
        done: what was built for a base's module, so that modules in several places stay one.
    """

    done: dict[int, nn.Module] = field(default_factory=dict)

    def zip(self, base: nn.Module, forms: Sequence[nn.Module | None]) -> nn.Module:
        """The common module at one place.

        Args:
            forms: what stands there in each form; None where it changes nothing, or reads apart.
        """
        if id(base) not in self.done:
            self.done[id(base)] = self._zip(base, [None if form is base else form for form in forms])
        return self.done[id(base)]

    def _zip(self, base: nn.Module, forms: Sequence[nn.Module | None]) -> nn.Module:
        if isinstance(base, Embedding):
            return self._embedding(base, forms)
        bricks = [form if isinstance(form, TunedBrick) and type(form) is not type(base) else None for form in forms]
        cores = [_core(form) if brick is not None else form for form, brick in zip(forms, bricks, strict=True)]
        common = self._children(base, cores)
        if not any(bricks):
            return common
        chains = [None if brick is None else _on(brick, common) for brick in bricks]
        grouped = GroupedProjection if isinstance(base, ProjectionBrick) else GroupedBrick
        return grouped(common, chains)

    def _children(self, base: nn.Module, forms: Sequence[nn.Module | None]) -> nn.Module:
        changed: dict[str, nn.Module] = {}
        for name, child in base.named_children():
            if name == HEADS and isinstance(base, LanguageModel):
                continue
            others = [None if form is None else form._modules.get(name) for form in forms]
            common = self.zip(child, others)
            if common is not child:
                changed[name] = common
        out = base
        if changed:
            out = copy.copy(base)
            out._modules = {**base._modules, **changed}
        if isinstance(out, Attention):
            members = [form if isinstance(form, Attention) else None for form in forms]
            if any(form is not None and not isinstance(form.prefix, NoPrefix) for form in members):
                return GroupedAttention.of(out, members)
        return out

    def _embedding(self, base: Embedding, forms: Sequence[nn.Module | None]) -> nn.Module:
        changed = [form for form in forms if form is not None and _differs(base, form)]
        if not changed:
            return base
        return GroupedEmbedding.of(base, [form if form in changed else None for form in forms])


def _core(form: nn.Module | None) -> nn.Module | None:
    while isinstance(form, TunedBrick):
        form = cast(nn.Module, form.base)
    return form


def _on(brick: TunedBrick[nn.Module], base: nn.Module) -> TunedBrick[nn.Module]:
    """The brick on another base, which computes the same; it shares all else."""
    out = copy.copy(brick)
    out._modules = {**brick._modules, "base": base}
    return out


def _differs(base: nn.Module, form: nn.Module) -> bool:
    """Whether a form has other modules or tensors than the base, whose tensors it shares where it can."""
    if type(base) is not type(form) or base._modules.keys() != form._modules.keys():
        return True
    if isinstance(base, Embedding) and base.behind != cast(Embedding, form).behind:
        return True
    if any(form._parameters.get(name) is not weight for name, weight in base._parameters.items()):
        return True
    return any(_differs(base._modules[n], form._modules[n]) for n in base._modules if base._modules[n] is not None)  # type: ignore[arg-type]


class GroupedEmbedding(Embedding):
    """Several forms' embeddings: each looks up the tokens of its own sequences."""

    members: nn.ModuleList

    @classmethod
    def of(cls, base: Embedding, members: Sequence[nn.Module | None]) -> GroupedEmbedding:
        """The embeddings of all forms; None for one that is the base's."""
        out = copy.copy(base)
        out.__class__ = cls
        each = [base if member is None else member for member in members]
        out._modules = {**base._modules, "members": nn.ModuleList(each)}
        out.behind = GroupedBehind.of([cast(Embedding, member).behind for member in each])
        return cast(GroupedEmbedding, out)

    def forward(
        self, tokens: Tensor, layout: Layout, segments: Tensor | None = None, longer: LongerRun | None = None
    ) -> Tensor:
        """Shape: tokens, segments: (T,) int64; return: (T, width)."""
        del longer  # a form with a prompt reads its sequences apart
        if layout.group is None or not layout.count:
            return super().forward(tokens, layout, segments)
        parts = Parts.of(layout)
        runs = []
        for part in parts.each:
            own = None if segments is None else segments[part.rows]
            if part.number == BASE:
                runs.append(super().forward(tokens[part.rows], part.layout, own))
            else:
                runs.append(self.members[part.number](tokens[part.rows], part.layout, own))
        return parts.join(runs)
