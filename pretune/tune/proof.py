"""Compares a tuned model with what it was before the first step: what changed, by how much, and what did not act.

    model after surgery --Start.of--> Start ... training ... --prove--> Proof --check--> the run goes on, or fails

What must act is known in two ways. Each module that a method added must have changed: that is found here, for any
method. And the method itself says which of its parts are as they were (`idle(model)` of its file, one sentence each,
which `still_zero` writes for bricks with a factor that begins as 0).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from pretune.errors import IdleMethodError
from pretune.nn.projection import ProjectionBrick
from pretune.nn.rounded import count_rounded, rounded_tensors
from pretune.nn.vocabulary import VocabularyBrick
from pretune.places import Place
from pretune.tune.method import TuningMethod
from pretune.tune.surgery import projection_sites, vocabulary_sites
from pretune.wording import counted, percent

_COPIED = 0.25  # of all parameters at most, for those that learn to be copied, so that norms of differences are known
_NAMED = 5  # parts that a message names


@dataclass(frozen=True)
class Start:
    """A model before the first step.

    Attributes:
        values: copies of the parameters that learn, by name; without those of a method that trains most of the model.
        digests: of the values of all others, and of what rounded matrices hold.
        added: names of the parameters that the method added.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    added: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, added: Collection[str] = ()) -> Start:
        """Keeps what a model is.

        Args:
            model: after surgery.
            added: names of the parameters that surgery added.
        """
        parameters = dict(model.named_parameters())
        learned = {name: p for name, p in parameters.items() if p.requires_grad}
        if _numel(learned) > _COPIED * (_numel(parameters) + count_rounded(model)):
            learned = {name: p for name, p in learned.items() if name in added}
        values = {name: p.detach().to("cpu", copy=True) for name, p in learned.items()}
        digests = {name: _digest(p) for name, p in parameters.items() if name not in values}
        digests |= {name: _digest(tensor) for name, tensor in rounded_tensors(model).items()}
        return cls(values, digests, frozenset(added))


@dataclass(frozen=True)
class Change:
    """How far a parameter moved.

    Attributes:
        norm: of the difference; None where only the fact is known.
        relative: to the norm of the parameter before; None where that is 0 or not known.
    """

    norm: float | None = None
    relative: float | None = None


@dataclass(frozen=True)
class Proof:
    """What a run with a tuning method did to its model.

    Attributes:
        method: its name.
        parameters, learned, learned_below_heads: numbers of all parameters, of those that learn, and of these without
            the heads' own.
        changes: of parameters, by name.
        unchanged: names of the parameters that learn and are as they were.
        places: norm of the difference of the matrix at each place relative to the norm of the base's, where a linear
            brick stands there.
        frozen: number of parameters (tensors) that never learned.
        frozen_before, frozen_after: digests of their values.
        moved: names of those that changed all the same; a head may, which is fitted once training has ended.
        ranks: by place, of a method that chooses them.
        acted: what the method itself says that it changed.
        idle: the parts that did not act, a sentence each.
        early: the parts that acted, and not yet when the weights were best that the finished model has.
    """

    method: str
    parameters: int
    learned: int
    learned_below_heads: int
    changes: Mapping[str, Change]
    unchanged: Sequence[str]
    places: Mapping[str, float]
    frozen: int
    frozen_before: str
    frozen_after: str
    moved: Sequence[str]
    ranks: Mapping[str, int]
    acted: Sequence[str]
    idle: Sequence[str]
    early: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """For `run.json`."""
        return {**asdict(self), "share": self.learned / self.parameters if self.parameters else 0.0}

    def summary(self) -> str:
        """A sentence for people."""
        base = f"; {counted(self.frozen, 'frozen tensor')} unchanged" if self.frozen else ""
        return (
            f"tune.{self.method} trained {percent(self.learned / max(self.parameters, 1))} of the parameters; "
            f"{len(self.changes):,} of {counted(len(self.changes) + len(self.unchanged), 'tensor')} changed{base}"
        )

    def check(self) -> None:
        """Fails a run whose method, or a part of it, did not act.

        Raises:
            IdleMethodError: it names the parts.
        """
        if self.moved:
            raise IdleMethodError(
                f"tune.{self.method}: {counted(len(self.moved), 'tensor')} changed that must not: "
                f"{_some(self.moved, ', ')}; the method's file lets something write into frozen weights"
            )
        if self.idle:
            raise IdleMethodError(
                f"tune.{self.method}: {counted(len(self.idle), 'part')} of the method did not act: "
                f"{_some(self.idle, '; ')}. Name other places in its settings, train longer, raise optimizer.lr, or "
                "choose another method"
            )


@torch.no_grad()
def prove(model: nn.Module, start: Start, method: TuningMethod) -> Proof:
    """Compares a model at the end of a run, before it is merged, with what it was.

    Args:
        start: of the same model.
    """
    parameters = dict(model.named_parameters())
    learned = {name for name, p in parameters.items() if p.requires_grad or name in start.values}
    learned |= method.changes(model) & parameters.keys()
    before = {name: digest for name, digest in start.digests.items() if name not in learned}
    now = {**rounded_tensors(model), **parameters}
    after = {name: _digest(now[name]) for name in before if name in now}
    changes = {name: change for name in sorted(learned) if (change := _change(parameters[name], name, start))}
    unchanged = sorted(learned - changes.keys())
    acted = method.acted(model)
    idle = [*method.idle(model)]
    idle += [line for line in _idle_parts(start.added, unchanged) if not any(line.split(":")[0] in i for i in idle)]
    if not idle:
        idle = _idle_method(method, learned, changes, acted)
    return Proof(
        method=method.name,
        parameters=_numel(parameters) + count_rounded(model),
        learned=_numel({name: parameters[name] for name in learned}),
        learned_below_heads=_numel({name: parameters[name] for name in learned if not name.startswith("heads.")}),
        changes=changes,
        unchanged=unchanged,
        places=_relative_norms(model),
        frozen=len(before),
        frozen_before=_joined(before),
        frozen_after=_joined(after),
        moved=sorted(name for name in before if after.get(name) != before[name] and not name.startswith("heads.")),
        ranks=method.ranks(model),
        acted=acted or [],
        idle=idle,
    )


def still_zero(model: nn.Module, brick_type: type[nn.Module], *tensors: str) -> list[str]:
    """The bricks of a kind of which a tensor is still 0: a sentence for each, as `idle` of a method's file gives them.

    Args:
        tensors: names in the brick, such as `up`.
    """
    return [
        f"{path}: {tensor} is still 0"
        for path, brick in model.named_modules()
        if isinstance(brick, brick_type)
        for tensor in tensors
        if not bool(getattr(brick, tensor).any())
    ]


def without_gradient(model: nn.Module, added: Collection[str]) -> list[str]:
    """Names of the parameters that a method added, that learn, and that have no gradient after a backward."""
    named = model.named_parameters()
    return [name for name, p in named if name in added and p.requires_grad and p.grad is None]


def ranks_by_layer(ranks: Mapping[str, int]) -> dict[str, float]:
    """The mean rank of each layer's places, as metrics: `rank/layer.3`, `rank/encoder.layer.3`, `rank/vocabulary`."""
    groups: dict[str, list[int]] = {}
    for path, rank in ranks.items():
        location = Place.of(path)
        group = path if location.layer is None else f"{location.side}layer.{location.layer}"
        groups.setdefault(group, []).append(rank)
    return {f"rank/{name}": sum(values) / len(values) for name, values in groups.items()}


def _idle_method(
    method: TuningMethod, learned: Collection[str], changes: Collection[str], acted: list[str] | None
) -> list[str]:
    """A sentence on a method that did nothing as a whole; training everything is not held to it."""
    if method.name == "full" or acted:
        return []
    if acted is not None:
        return [f"{method.name}: it says itself that it changed nothing"]
    body = [name for name in learned if not name.startswith("heads.")]
    if any(name in changes for name in body or learned):
        return []
    return [f"{method.name}: nothing that it trains{' below the heads' if body else ''} has changed"]


def _idle_parts(added: Collection[str], unchanged: Collection[str]) -> list[str]:
    """The modules that a method added of which no parameter has changed."""
    parts: dict[str, list[str]] = {}
    for name in sorted(added):
        parts.setdefault(name.rpartition(".")[0], []).append(name)
    return [
        f"{part}: {' and '.join(name.rpartition('.')[2] for name in names)} did not change"
        for part, names in parts.items()
        if all(name in unchanged for name in names)
    ]


def _change(parameter: Tensor, name: str, start: Start) -> Change | None:
    """How far a parameter moved; None if it did not."""
    before = start.values.get(name)
    if before is None or before.shape != parameter.shape:  # a table of words of which some rows are left out
        return Change() if _digest(parameter) != start.digests.get(name) else None
    now = parameter.detach().to("cpu", before.dtype)
    if torch.equal(now, before):
        return None
    norm, scale = float((now - before).float().norm()), float(before.float().norm())
    return Change(norm, norm / scale if scale else None)


def _relative_norms(model: nn.Module) -> dict[str, float]:
    """How much the matrix at each place differs from its base's."""
    norms: dict[str, float] = {}
    for site in (*projection_sites(model), *vocabulary_sites(model)):
        base = _base(site.brick)
        if base is not site.brick and (now := _dense(site.brick)) is not None and (was := _dense(base)) is not None:
            norms[site.path] = float((now - was).float().norm() / was.float().norm().clamp_min(1e-30))
    return norms


def _base(brick: nn.Module) -> nn.Module:
    """What stood at a place before any surgery."""
    while isinstance(base := getattr(brick, "base", None), nn.Module):
        brick = base
    return brick


def _dense(brick: nn.Module) -> Tensor | None:
    """The matrix of a brick; None where it is not linear."""
    try:
        if isinstance(brick, ProjectionBrick):
            return brick.dense()[0]
        return brick.dense() if isinstance(brick, VocabularyBrick) else None
    except NotImplementedError:
        return None


def _numel(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _digest(tensor: Tensor) -> str:
    """XXH3 of shape and values."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    state = xxhash.xxh3_128(f"{tensor.dtype} {list(tensor.shape)}".encode())
    state.update(values.numpy().data)
    return state.hexdigest()


def _joined(digests: Mapping[str, str]) -> str:
    """One digest of many."""
    return xxhash.xxh3_128_hexdigest("\n".join(f"{name} {digests[name]}" for name in sorted(digests)).encode())


def _some(names: Sequence[str], separator: str) -> str:
    rest = f"{separator}and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return separator.join(names[:_NAMED]) + rest
