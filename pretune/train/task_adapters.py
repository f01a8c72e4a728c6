"""Trains several tasks on one frozen base, each with an adapter and heads of its own, as if each were trained alone.

    build(task) -> what a run of the task alone is made of, for each task
    their models share the base's weights (`models.adapters`) -> one network, which learns all that any of them learns
    a step: the sequences of all tasks, each in its group -> one forward of the network -> each task's loss of its rows

Each adapter's gradient comes from its own sequences alone and is clipped by its own norm, so that its weights are those
of a run of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from pretune.batch import Batch, in_group
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.evaluate.together import split_output
from pretune.loss import Term
from pretune.models.adapters import SharedModels
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.objectives.mixture import Mixture
from pretune.objectives.objective import Objective
from pretune.tasks.task import AnyTask
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.components import TrainComponents
from pretune.train.network import build_network
from pretune.train.recipe import Recipe
from pretune.train.several_tasks import RunTask, tasks_of
from pretune.train.starting_point import tuning_method
from pretune.wording import listed

_FIELD = "recipe: field 'adapter_per_task' = true"
_OF_STEPS = ("terms", "before_step", "after_step", "changes", "has_stages", "is_ready")
"""What a method's file has that acts on a whole model while it trains, where there would be several."""
_REMEDY = "choose lora, adapter or ia3, or train each task in a run of its own"
Build = Callable[[Recipe, AnyTask], TrainComponents]
"""What a run of a task alone is made of, by the recipe that it would have."""


class TasksWithAdapters(Mixture):
    """Several tasks, all of which each step trains: their batches have one forward, in which each has its own adapter.

    Args:
        tasks: each with the number of its adapter.
        forms: the base with each adapter and its heads, by that number; they are no part of this module.
    """

    trains_all: ClassVar[bool] = True

    def __init__(self, tasks: Sequence[AnyTask], forms: Sequence[LanguageModel]) -> None:
        super().__init__(tasks)
        self._forms = tuple(forms)

    def model_for(self, model: TrainableModel, batch: Batch) -> TrainableModel:
        """The model with the adapter that reads the batch, and its heads."""
        return cast(TrainableModel, _ModelOfTask(model, self._form(batch), _adapter_of(batch)))

    def forward(self, model: TrainableModel, batch: Batch) -> list[Term]:
        """The terms of each task's part of a batch, by one pass of the model; or of a batch of one task alone."""
        if not batch.parts:
            return cast("list[Term]", self._owner(batch)(self.model_for(model, batch), batch))
        outputs = split_output(model(batch), batch.parts)
        terms: list[Term] = []
        for part, output in zip(batch.parts, outputs, strict=True):
            terms += self._owner(part)(_ModelOfTask(model, self._form(part), _adapter_of(part), part, output), part)
        return terms

    def counts(self, batch: Batch) -> dict[str, int]:
        """Predictions of each task."""
        parts = batch.parts or (batch,)
        return {name: count for part in parts for name, count in self._owner(part).counts(part).items()}

    def passes(self, model: TrainableModel, batch: Batch) -> list[tuple[TrainableModel, Batch]]:
        """Those that each task would make alone, which cost as much as the one that they have in common."""
        parts = batch.parts or (batch,)
        return [each for part in parts for each in self._owner(part).passes(self._form(part), part)]

    def gather_across_step(self, model: TrainableModel, batch: Batch, parts: int) -> Tensor | None:
        """Nothing: a task that asks for something of several micro-batches is refused."""
        return None

    def after_step(self, model: TrainableModel, shared: Tensor | None) -> None:
        """Calls `after_step` of every task."""
        for task, form in zip(self.alternatives, self._forms, strict=True):
            task.after_step(cast(TrainableModel, form), shared)

    def clip_groups(self) -> list[list[nn.Parameter]]:
        """What each adapter learns."""
        return [
            [weight for weight in (*form.parameters(), *task.parameters()) if weight.requires_grad]
            for task, form in zip(self.alternatives, self._forms, strict=True)
        ]

    def _owner(self, batch: Batch) -> Objective:
        return self.alternatives[_adapter_of(batch)]

    def _form(self, batch: Batch) -> LanguageModel:
        return self._forms[_adapter_of(batch)]


def _adapter_of(batch: Batch) -> int:
    """The number of the adapter that reads all sequences of a batch."""
    assert batch.layout.group  # tasks with an adapter put it there
    return batch.layout.group[0]


class _ModelOfTask:
    """The common model as one task sees it: with its adapter and heads.

    Args:
        network: reads batches of all adapters.
        form: the same model with this adapter alone.
        number: of the adapter.
        batch, output: what the network gave already, and for what.
    """

    def __init__(
        self,
        network: TrainableModel,
        form: LanguageModel,
        number: int,
        batch: Batch | None = None,
        output: ModelOutput | None = None,
    ) -> None:
        self._network, self._form, self._number = network, form, number
        self._batch, self._output = batch, output

    def __call__(self, batch: Batch, **options: Any) -> Any:
        """What the network gives with this adapter."""
        if batch is self._batch and not options:
            return self._output
        return self._network(batch if batch.layout.group else in_group(batch, self._number), **options)

    def __getattr__(self, name: str) -> Any:
        """The attributes of the model with this adapter, such as its heads."""
        return getattr(self._form, name)


def check_adapter_per_task(recipe: Recipe) -> None:
    """Refuses a recipe whose tasks cannot have adapters of their own, before any model is read.

    Raises:
        UsageError: it names the field, and what to do.
    """
    method, names = tuning_method(recipe), listed([*recipe.task])
    if len(recipe.task) < 2:
        raise UsageError(
            f"{_FIELD}: there is one task ({names}), whose run is the same without; leave it out, or add a table "
            "[task.NAME] for each further one"
        )
    if recipe.data.temperature != 1.0:
        raise UsageError(
            f"{_FIELD}: each step trains all tasks, and data.temperature = {recipe.data.temperature:g} says how often "
            "each is drawn; leave one of the two out"
        )
    if recipe.objective:
        raise UsageError(f"{_FIELD}: objective = {listed([*recipe.objective])} has none; leave one of the two out")
    if recipe.distil.is_on:
        raise UsageError(f"{_FIELD}: distil.teacher teaches one model; leave one of the two out")
    if recipe.model.init is None:
        raise UsageError(f"{_FIELD}: adapters stand on a model that has files; name one with --model (model.init)")
    if not method.may_be_surgery or method.is_difference:
        raise UsageError(f"{_FIELD}: tune.{method.name} adds nothing to the model that a task could have; {_REMEDY}")
    if acting := [name for name in _OF_STEPS if hasattr(method.module, name)]:
        raise UsageError(
            f"{_FIELD}: tune.{method.name} looks at the whole model while it trains ({listed(acting)}), in which there "
            f"would be {len(recipe.task)} of it; {_REMEDY}"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(f"{_FIELD}: such a run is one process; leave torchrun out")


def assemble_adapters(recipe: Recipe, tasks: Sequence[AnyTask], tokenizer: Tokenizer, build: Build) -> TrainComponents:
    """What a run is made of in which each task has an adapter of its own.

    Args:
        tasks: those of the recipe, in its order.

    Raises:
        UsageError: a task or a method that cannot share the base with others.
        PretuneError: as `build`.
    """
    base = build_network(recipe, lambda model: {}, tokenizer).requires_grad_(False)
    adapters: dict[str, TrainComponents] = {}

    def forms() -> Iterator[LanguageModel]:
        for run_task, task in zip(tasks_of(recipe), tasks, strict=True):
            adapters[task.name] = build(_alone(recipe, run_task), task)
            _check_adapter(recipe, task, adapters[task.name])
            yield adapters[task.name].model

    models = SharedModels.of(base, forms())
    if models.apart:
        number, reason = next(iter(models.apart.items()))
        raise UsageError(f"{_FIELD}: task {tasks[number].name}: tune.{_method(recipe)}: {reason}; {_REMEDY}")
    network = models.for_training()
    added = {id(dict(own.model.named_parameters())[name]) for own in adapters.values() for name in own.added}
    return TrainComponents(
        network,
        TasksWithAdapters(tasks, models.forms),
        tasks,
        tokenizer,
        data={f"task.{name}: {field}": value for name, own in adapters.items() for field, value in own.data.items()},
        notes=[
            f"each step trains all tasks, data.batch of each: {listed([*adapters])}",
            *(f"{name}: {note}" for name, own in adapters.items() for note in own.notes),
        ],
        added=frozenset(name for name, weight in network.named_parameters() if id(weight) in added),
        adapters=adapters,
    )


@torch.no_grad()
def share_data(components: TrainComponents, recipe: Recipe) -> None:
    """Gives what a run of each task alone is made of the task's own rows, and tries a batch of each.

    Raises:
        UsageError: batches that have no forward in common, or a task that asks for something of all micro-batches.
    """
    shapes: dict[tuple[bool, bool], str] = {}
    for number, (name, own) in enumerate(components.adapters.items()):
        own.add_part(components.views[number], components.weights[number], components.held_out[number])
        own.examples = {name: components.examples[name]}
        (task,), (view,), draw = own.objective.alternatives, components.views[number], Draw(recipe.seed)
        batch = task.build_batch(view.read(np.arange(min(2, len(view))), 0, 0, draw), draw, 0)
        shapes.setdefault((batch.source is None, batch.order is None), name)
        parts = recipe.data.accumulate
        if task.gather_across_step(cast(TrainableModel, own.model), batch, parts) is not None:
            raise UsageError(
                f"{_FIELD}: task.{name} compares texts of all micro-batches of a step, and data.accumulate = {parts} "
                "makes several; leave data.accumulate out, or train it in a run of its own"
            )
    if len(shapes) > 1:
        raise UsageError(
            f"{_FIELD}: the tasks {listed([*shapes.values()])} give this model other things to read, so that they have "
            "no forward in common; train them in runs of their own"
        )


def _alone(recipe: Recipe, run_task: RunTask) -> Recipe:
    """The recipe of a run of one of the tasks, in the folder of its adapter."""
    changes = {"adapter_per_task": False, "output": f"{recipe.output}/{run_task.name}"}
    return run_task.recipe.model_copy(update=changes)


def _method(recipe: Recipe) -> str:
    return tuning_method(recipe).name


def _check_adapter(recipe: Recipe, task: AnyTask, own: TrainComponents) -> None:
    """Raises a UsageError where a task learns something that it cannot have for itself."""
    learned = [name for name, weight in own.model.named_parameters() if weight.requires_grad]
    of_base = [name for name in learned if name not in own.added and not name.startswith("heads.")]
    if of_base or not own.added:
        what = f"trains weights of the base ({of_base[0]})" if of_base else "adds nothing to the model"
        raise UsageError(f"{_FIELD}: tune.{_method(recipe)} {what}, which all tasks share; {_REMEDY}")
    beside = [name for name, _ in task.named_parameters()] or list(task.auxiliary_models())
    if beside:
        raise UsageError(
            f"{_FIELD}: task.{task.name} learns {beside[0]} beside the model, which an adapter has no place for; train "
            "it in a run of its own"
        )
