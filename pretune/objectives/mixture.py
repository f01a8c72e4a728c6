"""Several objectives on one model: those that read the same samples share a forward, others take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.batch import Batch
from pretune.config import validate
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.find import find_class
from pretune.loss import Term
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.objectives.objective import Ability, ModelLoader, Objective, refuse_to_load
from pretune.text.samples.rows import Row

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary


def build(config: Mapping[str, float | Mapping[str, Any]], vocabulary: Vocabulary) -> Objective:
    """The objective of a recipe: `{"mlm": 1.0, "nsp": {"weight": 0.5}}`; see `build_members`.

    Raises:
        UsageError: no objective, an unknown name or field (with the nearest known one), a value out of range.
        DataError: the tokenizer lacks a special token that an objective needs.
    """
    if not config:
        raise UsageError("field 'objective' is empty; name one, such as mlm = 1.0")
    return mix(build_members(config, vocabulary))


def build_members(config: Mapping[str, float | Mapping[str, Any]], vocabulary: Vocabulary) -> list[Objective]:
    """The objectives of a recipe, in its order.

    Args:
        config: name (a file of `pretune/objectives`, or `package.module:Class`) to weight or to whole configuration.
        vocabulary: of the tokenizer that made the store.

    Raises:
        UsageError: an unknown name or field (with the nearest known one), a value out of range.
        DataError: the tokenizer lacks a special token that an objective needs.
    """
    members = []
    for name, value in config.items():
        objective_class = find_class("objectives", name, Objective)  # type: ignore[type-abstract]
        tree = value if isinstance(value, Mapping) else {"weight": value}
        members.append(objective_class(validate(objective_class.Config, tree, f"objective.{name}"), vocabulary))
    return members


def mix(members: Sequence[Objective]) -> Objective:
    """One objective of several: a mixture, or the only one itself."""
    return members[0] if len(members) == 1 else Mixture(members)


class Mixture(Objective):
    """A weighted sum of objectives.

    Members that read the same samples in the same way (view, overhead, look-ahead), and those that ride on them, form a
    part: one of them prepares the batch, all corrupt it in the order given, and one forward serves their losses. Of
    several parts each step trains one, drawn by key in proportion to its largest weight; its weights are then relative
    to that one, so that the expected loss is in proportion to the weighted sum. Weights may change over the steps.

    The loop keeps a sampler for each part and calls `prepare` and `corrupt` of the part that `pick` names, but `counts`
    and `forward` of the whole, so that every step gives every head a gradient.

    Attributes:
        members: in the order given.
    """

    def __init__(self, members: Sequence[Objective]) -> None:
        super().__init__(Objective.Config(), members[0].vocabulary)
        names = [member.name for member in members]
        if len(set(names)) < len(names):
            raise UsageError(f"a mixture names each objective once, got {', '.join(names)}")
        self.members = nn.ModuleList(members)
        groups = _groups(members)
        first = next(member for member in groups[0] if _host(member, members) is member)
        self._prepare = first.prepare
        self.view = first.view  # type: ignore[misc]  # a mixture's own, where a variant has its class's
        self.pack = first.pack  # type: ignore[misc]
        self.overhead, self.lookahead = first.overhead, first.lookahead
        self.words = any(member.words for member in members)
        self.repeats_in_step = all(member.repeats_in_step for member in members)  # type: ignore[misc]
        self._parts: tuple[Objective, ...] = (self,)
        self._members: list[list[Objective]] = []
        if len(groups) > 1:
            self._parts = tuple(group[0] if len(group) == 1 else Mixture(group) for group in groups)
            self._members = groups

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """Those of all members, in the order given; one that several need is made once.

        Raises:
            UsageError: two members with samples of their own need a head of the same name, which each would spoil.
        """
        heads: dict[str, nn.Module] = {}
        owners: dict[str, Objective] = {}
        for member in self._objectives():
            for role, head in member.heads(model).items():
                heads.setdefault(role, head)
                owner = owners.setdefault(role, member)
                is_shared = owner.shares_head and member.shares_head
                if owner is not member and owner.has_own_samples and member.has_own_samples and not is_shared:
                    raise UsageError(
                        f"{owner.name} and {member.name} have one head, {role!r}; train them in runs of their own"
                    )
        return heads

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Every member learns what it must know."""
        for member in self._objectives():
            member.setup(model, draw, load)

    @property
    def alternatives(self) -> tuple[Objective, ...]:
        """The objectives of which a step trains one."""
        return self._parts

    def choose(self, draw: Draw, step: int) -> int:
        """Which of `alternatives` a step trains: a draw of the step's key."""
        heaviest = self._heaviest(step)
        drawn = draw.at("mixture").uniform(step) * sum(heaviest)
        return min(int(np.searchsorted(np.cumsum(heaviest), drawn, side="right")), len(self._parts) - 1)

    def _heaviest(self, step: int | None) -> list[float]:
        """The largest weight of each part at a step; 1 where there is one part."""
        return [max(m.config.weight_at(step) for m in group) for group in self._members] or [1.0]

    def _factor(self, member: Objective, step: int | None) -> float:
        """By what the member's own weight is multiplied at a step."""
        heaviest = zip(self._members, self._heaviest(step), strict=False)
        top = next((weight for group, weight in heaviest if member in group), 1.0)
        return member.config.weight_at(step) / member.config.weight / top

    @property
    def token_terms(self) -> tuple[str, ...]:
        """Those of all members, in the order given."""
        return tuple(dict.fromkeys(term for member in self._objectives() for term in member.token_terms))

    @property
    def abilities(self) -> dict[str, Ability]:
        """Those that any member teaches."""
        return {name: ability for member in self._objectives() for name, ability in member.abilities.items()}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """The batch as the leading member prepares it; for a mixture of one part."""
        self._expect_one_part()
        return self._prepare(rows, draw)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """The batch after every member's corruption, in the order given; for a mixture of one part."""
        self._expect_one_part()
        for member in self._objectives():
            batch = member.corrupt(batch, draw)
        return batch

    def output_rows(self, batch: Batch) -> NDArray[np.int64] | None:
        """The rows of all members that the batch is for; None as soon as one reads all."""
        member_rows = [member.output_rows(batch) for member in self._objectives() if member.name in batch.targets]
        some = [rows for rows in member_rows if rows is not None]
        return np.concatenate(some) if some and len(some) == len(member_rows) else None

    def counts(self, batch: Batch) -> dict[str, int]:
        """Predictions of every member; 0 for those of other parts."""
        return {name: n for member in self._objectives() for name, n in member.counts(batch).items()}

    def step_data_stats(self, parts: Sequence[Sequence[Row]]) -> dict[str, int]:
        """Counts of what all members leave out."""
        totals: dict[str, int] = {}
        for member in self._objectives():
            for name, count in member.step_data_stats(parts).items():
                totals[name] = totals.get(name, 0) + count
        return totals

    def gather_across_step(self, model: TrainableModel, batch: Batch, parts: int) -> Tensor | None:
        """What the member that the batch is for asks for; of several that ask, the first's."""
        tables = (
            member.gather_across_step(model, batch, parts)
            for member in self._objectives()
            if member.name in batch.targets
        )
        return next((shared for shared in tables if shared is not None), None)

    def after_step(self, model: TrainableModel, shared: Tensor | None) -> None:
        """Calls `after_step` of every member."""
        for member in self._objectives():
            member.after_step(model, shared)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Terms of every member, in the order given; zero terms for those of other parts."""
        terms = []
        for member in self._objectives():
            is_target = member.name in batch.targets
            member_terms = member.loss(model, output, batch) if is_target else member.zero_terms(model, output)
            factor = self._factor(member, batch.step)
            terms += [replace(term, weight=term.weight * factor) for term in member_terms]
        return terms

    def _objectives(self) -> list[Objective]:
        return [member for member in self.members if isinstance(member, Objective)]

    def _expect_one_part(self) -> None:
        if len(self._parts) > 1:
            raise ValueError(
                "this mixture has several parts: call prepare and corrupt of alternatives[choose(draw, step)]"
            )


def _host(member: Objective, members: Sequence[Objective]) -> Objective:
    """The member on whose samples this one rides; itself where there is none."""
    hosts = (
        other
        for other in members
        if other.view in member.compatible_views and member.view not in other.compatible_views
    )
    return next(hosts, member)


def _groups(members: Sequence[Objective]) -> list[list[Objective]]:
    """Members that share a forward, in the order given."""
    groups: dict[tuple[str, int, int, str], list[Objective]] = {}
    for member in members:
        host = _host(member, members)
        owner = host.name if host.has_own_samples else ""
        groups.setdefault((host.view, host.overhead, host.lookahead, owner), []).append(member)
    return list(groups.values())
