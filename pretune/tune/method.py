"""The joint of tuning methods: what a file of `tune/`, or a user's own file, offers to a run.

A method's file has a class `Config` and the function `apply(model, config) -> model`, which changes a built model with
its heads by surgery (see `surgery`) and chooses which parameters train. Where it needs more, it has some of

- `terms(model) -> list[Term]`: parts of the loss that depend on the weights alone, added once a step;
- `before_step(model, config, fraction)`: called before each step with the fraction of the run that is done, for what
  must be the same when a run goes on from a checkpoint;
- `has_stages(config) -> bool`: whether there may be steps without a gradient for some of the parameters that learn;
- `after_step(model, fraction)`: called after each optimizer step with the fraction of the run that is done;
- `changes(model) -> Iterable[str]`: names of parameters that the method changes itself or lets learn later, beside
  those that learn from the start; the same names all the time: checkpoints hold these, what learns, and nothing else;
- `finished(model, config) -> Config`: called before the difference is saved; leaves out what only training needed, and
  gives the settings with which `apply` makes a model of the weights that are left;
- `merge(model) -> model`: undoes the surgery, so that a plain model computes the same;
- `weighted_sum(parts, weights) -> (name, config, tensors)`: what changes a base by the weighted sum of what several
  models learned on it, each given by its settings and its tensors; perhaps as another method's (see `sums`);
- `acted(model) -> list[str]`: what the method changed, for people, such as the places; an empty list fails the run;
- `idle(model) -> list[str]`: its parts that should act and do not, one sentence each that begins with the place, such
  as "stack.blocks.0.attention.query: up is still 0"; any fails the run. `proof.still_zero` writes them for bricks. What
  has no `idle` is still held to this: each module that surgery added must have changed (see `proof`);
- `is_ready(model) -> bool`: whether these weights may be those of the finished model; until they may, no evaluation is
  the best one, and patience does not run out;
- `RATE`: the learning rate of a fine-tuning run that names none;
- `ranks(model) -> dict[str, int]`: the rank at each place now, of a method that chooses them; logged while training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from pretune import config as configuration
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.find import call_if_defined, find, find_defining
from pretune.loss import Term

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class TuningMethod:
    """A method with its settings; what its file does not have does nothing.

    Attributes:
        name: file name of the method, or the path to a user's own file.
        config: its settings.
        module: its file.
    """

    name: str
    config: configuration.Config
    module: ModuleType

    def apply(self, model: M, seed: int = 0) -> M:
        """Changes a built model and chooses which of its parameters train.

        Args:
            seed: what the method draws from torch's generator is a function of it.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(Draw(seed).at("tune").key & (2**63 - 1))
            return cast(M, self.module.apply(model, self.config))

    def terms(self, model: nn.Module) -> list[Term]:
        """The method's own parts of the loss, for one step, named `tune.<name>` in the metrics."""
        terms: list[Term] = call_if_defined(self.module, "terms", model, default=[])
        return [replace(term, name=f"tune.{term.name}") for term in terms]

    @property
    def has_stages(self) -> bool:
        """Whether there may be steps without a gradient for some of the parameters that learn."""
        return call_if_defined(self.module, "has_stages", self.config, default=False)

    def before_step(self, model: nn.Module, fraction: float) -> None:
        """Prepare for an optimizer step.

        Args:
            fraction: how much of the run is done, from 0 to 1.
        """
        call_if_defined(self.module, "before_step", model, self.config, fraction, default=None)

    def after_step(self, model: nn.Module, fraction: float) -> None:
        """React to an optimizer step.

        Args:
            fraction: how much of the run is done, from 0 to 1.
        """
        call_if_defined(self.module, "after_step", model, fraction, default=None)

    def changes(self, model: nn.Module) -> set[str]:
        """Names of parameters that change in the run although they do not learn at its start."""
        names: Iterable[str] = call_if_defined(self.module, "changes", model, default=())
        return set(names)

    @property
    def may_be_surgery(self) -> bool:
        """Whether the method may replace modules, so that the fingerprint of its base is wanted.

        A file says `SURGERY = False` where its method only chooses which parameters train; that spares a pass over the
        weights.
        """
        return bool(getattr(self.module, "SURGERY", True))

    @property
    def is_difference(self) -> bool:
        """Whether a run ends as the difference to its base although the method replaces nothing.

        A file says `DIFFERENCE = True` where its method trains a small part of what there is.
        """
        return bool(getattr(self.module, "DIFFERENCE", False))

    @property
    def can_merge(self) -> bool:
        """Whether the method can turn a tuned model into a plain one that computes the same."""
        return hasattr(self.module, "merge")

    def merge(self, model: M) -> M:
        """A plain model that computes the same; the model itself where the method has no surgery to undo."""
        return cast(M, self.module.merge(model)) if self.can_merge else model

    def rehearse_merge(self, model: M) -> M | None:
        """Merges a copy of the model whose tensors have no memory, for a dry run of saving.

        Returns:
            None where the method looks at values, so that it cannot be rehearsed, or where it cannot merge.
        """
        try:
            return self.merge(_copy_without_memory(model))
        except (RuntimeError, NotImplementedError, UsageError):
            return None

    def rehearse_apply(self, model: M) -> M | None:
        """Applies the method to a copy of a model, all without memory: which tensors there would be, and how large.

        Returns:
            None where the method looks at values, so that it cannot be rehearsed.
        """
        with torch.device("meta"):
            try:
                return self.apply(_copy_without_memory(model))
            except (RuntimeError, NotImplementedError):
                return None

    def weighted_sum(
        self, parts: Sequence[tuple[configuration.Config, Mapping[str, Tensor]]], weights: Sequence[float]
    ) -> tuple[TuningMethod, dict[str, Tensor]]:
        """The method, with its settings, and the tensors of the weighted sum of what several models learned.

        Args:
            parts: settings and tensors of each model, those of its heads left out.

        Raises:
            UsageError: what the method learns does not add up.
        """
        total: tuple[str, configuration.Config, dict[str, Tensor]] | None
        total = call_if_defined(self.module, "weighted_sum", parts, weights, default=None)
        if total is None:
            raise UsageError("what it learns is no change of a matrix, so that sums of it mean nothing")
        name, config, tensors = total
        return TuningMethod(name, config, self.module if name == self.name else find("tune", name)), tensors

    def finished(self, model: nn.Module) -> TuningMethod:
        """The method with the settings of a finished run; its model may lose what served training alone."""
        return replace(self, config=call_if_defined(self.module, "finished", model, self.config, default=self.config))

    def acted(self, model: nn.Module) -> list[str] | None:
        """What the method says that it changed; None of a method that makes no such statement."""
        return call_if_defined(self.module, "acted", model, default=None)

    def idle(self, model: nn.Module) -> list[str]:
        """The parts of the method that should act and do not, a sentence each that begins with the place."""
        return call_if_defined(self.module, "idle", model, default=[])

    def is_ready(self, model: nn.Module) -> bool:
        """Whether the weights may be those of the finished model; always, unless the method says otherwise."""
        return call_if_defined(self.module, "is_ready", model, default=True)

    def ranks(self, model: nn.Module) -> dict[str, int]:
        """The rank at each place, of a method that chooses them."""
        return call_if_defined(self.module, "ranks", model, default={})


def _copy_without_memory(model: M) -> M:
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    memo: dict[int, Tensor] = {id(tensor): _without_memory(tensor) for tensor in tensors}
    return copy.deepcopy(model, memo)


def _without_memory(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def find_method(name: str, settings: object) -> TuningMethod:
    """The method of a name or path, with validated settings.

    Args:
        settings: what the recipe says under the name: a table of fields, or anything else for the defaults.

    Raises:
        UsageError: no such method, a file without `Config` and `apply`, or a bad setting.
        MissingInputError: a path to a user's own file that does not exist.
    """
    module = find_defining("tune", name, ("Config", "apply"), f"tune: {name!r}")
    config_class: type[configuration.Config] = module.Config
    tree = settings if isinstance(settings, Mapping) else {}
    return TuningMethod(name, configuration.validate(config_class, tree, f"tune.{name}"), module)
