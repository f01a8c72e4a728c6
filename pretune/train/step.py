"""One optimizer step: forward and backward over the micro-batches, one synchronization, the update or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Self, cast

import torch
from torch import Tensor, nn

from pretune.batch import Batch, StepContext
from pretune.draw import Draw
from pretune.loss import Term
from pretune.models.boundary import find_boundary
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.objective import Objective
from pretune.objectives.root_module import RootModule
from pretune.optim.optimizer import gradient_norm, update
from pretune.runtime.device import seed
from pretune.runtime.distributed import Distributed, bare, no_sync
from pretune.runtime.precision import Precision
from pretune.train.feature_cache import CachedModel, FeatureCache
from pretune.train.row_keys import begin_forward, name_sites
from pretune.train.shapes import pad_to_bucket
from pretune.tune.method import TuningMethod, find_method


class TrainModule(RootModule):
    """The root module of training: what DDP wraps and the loop calls.

    Args:
        model: called by the objective.
        objective: gives the terms of a batch; may have parameters of its own.
        method: how the model is tuned; all of it, by default.
        features: keeps what is computed below the first layer that learns; None computes it each time.
    """

    model: LanguageModel

    def __init__(
        self,
        model: LanguageModel,
        objective: Objective,
        method: TuningMethod | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        super().__init__(model, objective)
        self.method = method or find_method("full", {})
        self.features = features
        boundary = find_boundary(model) if isinstance(model, LanguageModel) else None
        self.has_fixed_body = boundary is not None and boundary.place == "body"
        name_sites(self)

    @property
    def called(self) -> TrainableModel:
        """The model as the objective calls it."""
        if self.features is None:
            return super().called
        return cast(TrainableModel, CachedModel(self.model, self.features))

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; what of the model does not learn computes as in use, without dropout."""
        super().train(mode)
        if mode:
            _set_frozen_to_eval(self.model)
        return self

    def forward(
        self,
        batch: Batch,
        decode: Callable[[TrainableModel], None] | None = None,
        *,
        needs_loss: bool = True,
        with_method: bool = False,
    ) -> list[Term]:
        """The terms of a batch.

        Args:
            decode, needs_loss: see `RootModule`.
            with_method: add the tuning method's own terms, which depend on the weights alone.
        """
        terms = super().forward(batch, decode, needs_loss=needs_loss)
        return [*terms, *self.method.terms(self.model)] if with_method else terms


@dataclass
class TermAccumulator:
    """Sums of each term over micro-batches, left on the device until `read`."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    correct: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def add(self, terms: Sequence[Term]) -> None:
        """Add what one forward gave."""
        for term in terms:
            _add(self.sums, term.name, term.sum)
            if term.correct is not None:
                _add(self.correct, term.name, term.correct)
            self.weights[term.name] = term.weight

    def read(self, names: Sequence[str], distributed: Distributed, norm: Tensor | None = None) -> Result:
        """The sums over all ranks, and the gradient norm: the one synchronization of a step.

        Args:
            names: of all terms, the same on every rank even if this one has seen none of them.
        """
        zero = torch.zeros((), device=next(iter(self.sums.values())).device) if self.sums else torch.zeros(())
        wanted = [
            zero if norm is None else norm.to(zero.device),
            *(self.sums.get(name, zero) for name in names),
            *(self.correct.get(name, zero) for name in names),
        ]
        total_norm, *total = distributed.sum(torch.stack(wanted).tolist())
        sums, right = total[: len(names)], total[len(names) :]
        return Result(
            dict(zip(names, sums, strict=True)),
            dict(zip(names, right, strict=True)),
            self.weights,
            total_norm / distributed.size,
        )


@dataclass(frozen=True)
class Result:
    """What a step or an evaluation gave, over all ranks.

    Attributes:
        sums, correct: of each term; `correct` is 0 for a term that does not count them.
        weights: of each term in the total loss.
        norm: of the gradient, before clipping; the mean of what ranks computed, which may differ in its last bits, so
            that all of them decide by the same number.
        counts: predictions of each term.
    """

    sums: dict[str, float]
    correct: dict[str, float]
    weights: dict[str, float]
    norm: float
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Are all losses and the whole gradient finite?"""
        return math.isfinite(self.norm) and all(map(math.isfinite, self.sums.values()))


@dataclass
class TrainStep:
    """Runs steps of a root module.

    Attributes:
        root: wrapped for data parallelism where there are several ranks.
        draw: the key of the run. Dropout is a function of each row's key; torch's generator, which only modules of a
            user's own draw from, is seeded by step, micro-batch and rank.
        clip: largest norm of the gradient; 0 for none.
    """

    root: nn.Module
    optimizer: torch.optim.Optimizer
    distributed: Distributed
    device: torch.device
    precision: Precision
    draw: Draw
    clip: float

    def run(
        self,
        step: int,
        batches: Sequence[Batch],
        counts: Mapping[str, int],
        factor: float,
        fraction: float = 0.0,
        accept: Callable[[Result], bool] = lambda result: True,
        done: float = 0.0,
    ) -> Result:
        """One step; the optimizer sees the gradient only if all of it is finite, and accepted.

        Args:
            step: its number.
            batches: this rank's micro-batches.
            counts: predictions of each term over all micro-batches and ranks.
            factor: of the schedule, by which each group multiplies its learning rate.
            fraction: how much of the run is done after this step, from 0 to 1.
            accept: called with what a finite step gave, alike on all ranks.
            done: how much of the run was done before this step.
        """
        self._bare.method.before_step(self._bare.model, done)
        counts, progress = dict(counts), self.distributed.progress
        batches, shared = self._gather_across_step(step, batches)
        accumulator = TermAccumulator()
        last = len(batches) - 1
        for number, batch in enumerate(batches):
            seed(self.device, self.draw.at("dropout", step, number, self.distributed.rank).key)
            with nullcontext() if number == last else no_sync(self.root):
                progress.mark(f"step {step + 1}, forward of micro-batch {number + 1}", in_step=True)
                terms = self._forward(self.root, batch, with_method=number == last)
                for term in terms:  # the tuning method's, which are the same on every rank
                    counts.setdefault(term.name, term.count * self.distributed.size)
                loss = [term.sum * (term.weight * self.distributed.size / max(counts[term.name], 1)) for term in terms]
                progress.mark(f"step {step + 1}, backward of micro-batch {number + 1}")
                torch.stack(loss).sum().backward()  # type: ignore[no-untyped-call]
            accumulator.add(terms)
        features = self._bare.features
        if features is not None:
            features.publish()
        result = accumulator.read(sorted(counts), self.distributed, gradient_norm(self.optimizer))
        if features is not None:
            features.refresh()
        result = replace(result, counts=counts)
        if result.finite and accept(result):
            update(self.optimizer, factor, result.norm, self.clip, self._bare.objective.clip_groups())
            self._bare.objective.after_step(self._bare.model, shared)
            self._bare.method.after_step(self._bare.model, fraction)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    @torch.no_grad()
    def _gather_across_step(self, step: int, batches: Sequence[Batch]) -> tuple[Sequence[Batch], Tensor | None]:
        """Micro-batches that know of each other, where the objective wants that, with the dropout that each will have.

        Returns:
            the batches, and the table that they share.
        """
        bare, parts = self._bare, len(batches) * self.distributed.size
        if type(bare.objective).gather_across_step is Objective.gather_across_step:
            return batches, None
        tables: list[Tensor] = []
        starts, total = [], 0
        for number, batch in enumerate(batches):
            seed(self.device, self.draw.at("dropout", step, number, self.distributed.rank).key)
            with self.precision.autocast(self.device):
                own = bare.objective.gather_across_step(bare.called, self._placed(batch), parts)
            if own is None:
                return batches, None
            everyone = self.distributed.all_gather(own)
            starts.append(total + sum(len(table) for table in everyone[: self.distributed.rank]))
            total += sum(map(len, everyone))
            tables += everyone
        table = torch.cat(tables)
        return [
            replace(b, step_context=StepContext(table, start)) for b, start in zip(batches, starts, strict=True)
        ], table

    @property
    def _bare(self) -> TrainModule:
        """The root module without what wraps it."""
        root = bare(self.root)
        assert isinstance(root, TrainModule)
        return root

    def _placed(self, batch: Batch) -> Batch:
        """The batch on the device, in a good shape, as if no forward had seen it."""
        begin_forward(batch)
        if self.device.type != "cpu":
            return batch.to(self.device)
        return pad_to_bucket(batch, pad_output_rows=not self._bare.has_fixed_body)

    def _forward(self, root: nn.Module, batch: Batch, *, with_method: bool = False) -> list[Term]:
        with self.precision.autocast(self.device):
            terms: list[Term] = root(self._placed(batch), with_method=with_method)
        return terms

    @torch.no_grad()
    def suspects(self, batches: Sequence[Batch]) -> list[list[int]]:
        """(store, epoch, index) of the samples in the micro-batches whose loss is not finite; of all if none is."""
        bad = [b for b in batches if not all(math.isfinite(float(t.sum)) for t in self._forward(self._bare, b))]
        return [[int(n) for n in sample] for batch in bad or batches for sample in batch.samples]


def _set_frozen_to_eval(module: nn.Module) -> set[bool]:
    """Sets parts to evaluation that have weights of which none learns; whether weights of the module learn."""
    learns = {parameter.requires_grad for parameter in module._parameters.values() if parameter is not None}
    for child in module.children():
        child_learns = _set_frozen_to_eval(child)
        if child_learns == {False}:
            child.eval()
        learns |= child_learns
    return learns


def _add(into: dict[str, Tensor], name: str, value: Tensor) -> None:
    value = value.detach().float()
    into[name] = into[name] + value if name in into else value
