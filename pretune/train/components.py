"""The components of a run: model, objective, tokenizer, views of its data, and what is kept for the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.evaluate.engine import MEAN
from pretune.models.model import LanguageModel
from pretune.objectives.objective import Objective
from pretune.runtime.distributed import Distributed
from pretune.tasks.task import AnyTask, Example, Task
from pretune.text.samples.sampler import Sampler
from pretune.text.samples.views.view import View
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.initial_weights import InitialWeights
from pretune.train.own_weights import OwnWeights
from pretune.train.recipe import Recipe
from pretune.train.validation import Scoring, SeveralScorings, Validation, prepare_validation
from pretune.tune.proof import Start


@dataclass
class TrainComponents:
    """What a run is made of.

    Attributes:
        objective: of all members.
        members: the objectives, then the task, in the order of the recipe.
        views: for each part of the objective, the training view of each store.
        held_out: the same of the validation data; empty where there is none.
        examples: those of the validation data of each task.
        data: fingerprints by field of the recipe: what must not change while the run lasts.
        data_stats: tokens and examples in, used, cut.
        notes: what the user should know before it begins.
        facts: for the record.
        tokens: that batches may hold, in any order; None where that is not known.
        initial: the weights from before the first step, where they count in the finished ones.
        added: names of the parameters that the tuning method added.
        start: what the model was before the first step, to prove what the method did.
        adapters: of a run in which each task has an adapter of its own, by its name, what a run of the task alone is
            made of; its model shares all weights with this one, and is what the run ends with.
    """

    model: LanguageModel
    objective: Objective
    members: Sequence[Objective]
    tokenizer: Tokenizer
    views: list[Sequence[View]] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    held_out: list[Sequence[View]] = field(default_factory=list)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    data_stats: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    tokens: NDArray[np.int64] | None = None
    initial: InitialWeights = field(default_factory=lambda: InitialWeights(0.0, {}))
    added: frozenset[str] = frozenset()
    start: Start | None = None
    adapters: Mapping[str, TrainComponents] = field(default_factory=dict)

    @property
    def results(self) -> Mapping[str, TrainComponents]:
        """What the run ends with, by its folder in the run directory: each adapter, else the run's only model."""
        return self.adapters or {"": self}

    def add_part(self, views: Sequence[View], weights: list[float], held_out: Sequence[View]) -> None:
        """Add the data of the next part of the objective.

        Args:
            views: training views, one a store.
            weights: how often each is drawn from.
            held_out: validation views.
        """
        self.views.append(views)
        self.weights.append(weights)
        self.held_out.append(held_out)

    def samplers(self, recipe: Recipe) -> list[Sampler]:
        """One for each part of the objective."""
        data, draw = recipe.data, Draw(recipe.seed)
        schedule = [(int(start), weights) for start, *weights in data.schedule]
        return [
            Sampler(
                views,
                weights,
                draw,
                data.batch,
                data.batch_tokens,
                data.window,
                part.overhead,
                () if isinstance(part, Task) else schedule,  # it is one of stores
                part.repeats_in_step,
            )
            for part, views, weights in zip(self.objective.alternatives, self.views, self.weights, strict=True)
        ]

    def auxiliary_models(self) -> dict[str, LanguageModel]:
        """The models that objectives train beside the main one, by the folder of the run that each is saved to.

        Raises:
            UsageError: one cannot be saved.
        """
        models: dict[str, LanguageModel] = {}
        for name, model in self.objective.auxiliary_models().items():
            if not isinstance(model, LanguageModel):
                raise UsageError(
                    f"the auxiliary model {name!r} is a {type(model).__name__}, which could not be saved; build it "
                    "with model.narrower, or as a family of pretune builds its models"
                )
            models[name] = model
        return models

    def own_weights(self) -> OwnWeights:
        """What the objectives and the task learn beside the model."""
        return OwnWeights.of(self.model, self.members)

    @property
    def tasks(self) -> list[AnyTask]:
        """The tasks that are trained, alone or beside others and objectives."""
        return [part for part in self.objective.alternatives if isinstance(part, Task)]

    def validation(self, recipe: Recipe, distributed: Distributed) -> Validation | None:
        """What evaluation looks at; None where there is nothing or the recipe wants none."""
        config = recipe.evaluation
        if config.samples == 0 or not any(self.held_out):
            return None
        draw = Draw(recipe.seed).at("validation")
        data = prepare_validation(self.objective, self.held_out, draw, config.batch_tokens, config.samples, distributed)
        parts = [
            Scoring(part, self.examples[part.name], data.rows_of_part(number))
            for number, part in enumerate(self.objective.alternatives)
            if isinstance(part, Task) and self.examples.get(part.name)
        ]
        for scored in parts:
            scored.task.select_validation([row for rows in scored.rows for row in rows or ()])
        scoring = SeveralScorings(parts) if len(self.tasks) > 1 else next(iter(parts), None)
        of_adapters = {} if config.metric is not None else self._adapter_metrics()
        return Validation(data, self.tokenizer, self.metric(recipe), scoring, config.metric is not None, of_adapters)

    def _adapter_metrics(self) -> dict[str, str]:
        """By what the evaluations of each adapter are compared, as in a run of its own."""
        scored = {name: own for name, own in self.adapters.items() if own.examples[name]}
        return {name: f"{name}/{own.tasks[0].metric_of(own.examples[name])}" for name, own in scored.items()}

    def metric(self, recipe: Recipe) -> str:
        """The name of what evaluations are compared by."""
        scored = [task.metric_of(self.examples[task.name]) for task in self.tasks if self.examples.get(task.name)]
        main = MEAN if len(self.tasks) > 1 and scored else next(iter(scored), "loss")
        return recipe.evaluation.metric or main
