"""Assembles the components of a run from its recipe: stores, tokenizer, model, objective or task, samplers.

Everything that can be wrong with the inputs is found here, before a run directory is written to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.evaluate.engine import MEAN
from pretune.interop.deltas import is_delta
from pretune.interop.fingerprint import fingerprint
from pretune.interop.run_folder import check_has_model
from pretune.interop.savable import check_savable
from pretune.models.metadata import HeadSource, describe_weights
from pretune.models.model import LanguageModel, MakeHeads
from pretune.models.text_vectors import TextVectors
from pretune.nn.rounded import rounded_tensors
from pretune.objectives.mixture import build_members, mix
from pretune.objectives.objective import Objective
from pretune.objectives.root_module import RootModule
from pretune.optim.optimizer import place_factors
from pretune.runtime.device import choose
from pretune.runtime.distributed import Distributed
from pretune.tasks.task import AnyTask, Example, Task
from pretune.text.language import language_of
from pretune.text.readers.labelled import NamedData
from pretune.text.samples.sampler import Sampler
from pretune.text.samples.views.view import View
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.distillation import check_baseline, teacher_notes, try_teacher, with_teacher
from pretune.train.initial_weights import InitialWeights
from pretune.train.labelled import LabelledData, read_labelled
from pretune.train.memory import allocation_errors, check_step
from pretune.train.metadata import training_metadata
from pretune.train.network import (
    FrozenModels,
    apply_model_settings,
    build_network,
    fitted_tokenizer,
    loading_notes,
    make_student,
    tune_network,
)
from pretune.train.own_weights import OwnWeights
from pretune.train.recipe import Recipe
from pretune.train.several_tasks import draw_weights
from pretune.train.starting_point import tuning_method
from pretune.train.stores import StoreData, unigram_entropy
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
        return Validation(data, self.tokenizer, self.metric(recipe), scoring, config.metric is not None)

    def metric(self, recipe: Recipe) -> str:
        """The name of what evaluations are compared by."""
        scored = [task.metric_of(self.examples[task.name]) for task in self.tasks if self.examples.get(task.name)]
        main = MEAN if len(self.tasks) > 1 and scored else next(iter(scored), "loss")
        return recipe.evaluation.metric or main


def assemble(
    recipe: Recipe,
    train_data: NamedData | None = None,
    validation_data: NamedData | None = None,
    *,
    verify: bool = True,
) -> TrainComponents:
    """The components of a run: on token stores for objectives, on labelled data for a task, on both for both.

    Args:
        train_data: labelled data in memory, instead of `data.train`; of several tasks, by their names.
        validation_data: labelled data in memory, instead of `data.validation`.
        verify: compare every byte of the stores with their manifests, if the recipe says so too.

    Raises:
        UsageError: fields that do not fit together.
        MissingInputError: a store, file or model that is not there.
        DataError: a bad row or label; a store, tokenizer and model that do not fit together, or are damaged.
    """
    if recipe.model.init is not None and not is_delta(recipe.model.init):
        check_has_model(Path(recipe.model.init))
    stores = StoreData(recipe, verify) if recipe.objective else None
    tokenizer = Tokenizer.load(_tokenizer_path(recipe, stores))
    if stores is not None:
        stores.check_tokenizer(tokenizer)
    tokenizer = fitted_tokenizer(recipe, tokenizer)
    labelled = read_labelled(recipe, tokenizer, train_data, validation_data) if recipe.task else []
    members = build_members(recipe.objective, tokenizer.vocabulary)
    members += [data.task for data in labelled]
    if not members:
        raise UsageError("recipe: fields 'objective' and 'task' are missing; name one, such as --objective mlm")
    components = _assemble_model(recipe, members, tokenizer)
    components.notes += tokenizer.notes
    for data in labelled:
        data.encode()
    if labelled and stores is None:
        components.tokens = _tokens(labelled)
    if len(labelled) > 1:
        components.notes += _weigh_tasks(labelled, recipe)
    for part in components.objective.alternatives:
        if data_of_task := [data for data in labelled if data.task is part]:
            (data,) = data_of_task
            components.add_part(data.view("train"), [1.0], data.view("validation"))
        elif stores is not None:
            views = stores.views(part)
            components.add_part(views, stores.weights(views), stores.held_out(part))
            windows = components.data_stats.setdefault("windows", {})
            windows |= stores.window_statistics(part, views)
    _add_records(components, stores, labelled)
    _check_steps(components, recipe)
    check_baseline(recipe.distil, components.held_out)
    try_teacher(components.model, components.objective, components.views, Draw(recipe.seed))
    return components


def _tokens(labelled: Sequence[LabelledData]) -> NDArray[np.int64] | None:
    """The tokens that batches of all tasks may hold. Shape: return: (any,)"""
    known = [tokens for data in labelled if (tokens := data.task.tokens(data.rows())) is not None]
    if len(known) < len(labelled):
        return None
    return known[0] if len(known) == 1 else np.unique(np.concatenate(known))


def _weigh_tasks(labelled: Sequence[LabelledData], recipe: Recipe) -> list[str]:
    """Lets steps be drawn by the sizes of the tasks; says how often each is."""
    sizes = [len(data.view("train")[0]) for data in labelled]
    weights = draw_weights([data.task for data in labelled], sizes, recipe.data.temperature)
    for data, weight in zip(labelled, weights, strict=True):
        data.task.config = data.task.config.model_copy(update={"weight": weight})
    rates = [f"{data.name} {weight / sum(weights):.1%}" for data, weight in zip(labelled, weights, strict=True)]
    return [f"each step trains one task, drawn by their examples (data.temperature): {', '.join(rates)}"]


def _check_steps(components: TrainComponents, recipe: Recipe) -> None:
    """Refuse steps that no memory here holds, before any is asked for."""
    device = choose(recipe.device)
    for part, views in zip(components.objective.alternatives, components.views, strict=True):
        samples = sum(len(view) for view in views)
        used = sum(view.data_stats()["used"] for view in views)
        tokens = used / samples + part.overhead
        at_most = math.inf if part.repeats_in_step else tokens * samples
        check_step(recipe, components.model.width, tokens, at_most, device)


def _assemble_model(recipe: Recipe, members: Sequence[Objective], tokenizer: Tokenizer) -> TrainComponents:
    """The model and the objective, set up for training.

    Raises:
        PretuneError: what the run trains could not be saved, read again or exported.
    """
    objective = mix(members)
    model = build_network(recipe, objective.heads, tokenizer)
    chosen = make_student(recipe, model)
    objective = with_teacher(recipe, objective, chosen)
    model.metadata = training_metadata(model.metadata, recipe, members)
    read = {} if model.loaded is None else model.loaded.record()
    model, added = tune_network(recipe, model)
    notes = loading_notes(model)
    notes += _choose_vectors(model, objective)
    _adopt_heads(model, members)
    frozen = FrozenModels(tokenizer)
    with allocation_errors(f"recipe: {' and '.join(f'{m.name} = {m.config}' for m in members)}; lower what grows it"):
        objective.setup(model, Draw(recipe.seed), frozen.load)
    notes += [*frozen.notes, *teacher_notes(objective, chosen)]
    components = TrainComponents(model, objective, members, tokenizer, data=frozen.fingerprints, notes=notes)
    components.added = added
    components.facts |= {"read_from_model": read} if read else {}
    _keep_own_weights(components)
    frozen_weights = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}
    if fixed := {**frozen_weights, **rounded_tensors(model)}:
        components.data["model.init (weights that do not learn)"] = fingerprint(fixed.items())
    finished = model if model.metadata.base is None else tuning_method(recipe).rehearse_merge(model)
    if finished is not None and (model.metadata.base is None or tuning_method(recipe).can_merge):
        _check_savable(recipe, finished, members, tokenizer)
    place_factors(RootModule(model, objective), recipe.optimizer)  # refuses a place that there is not
    for name, auxiliary in components.auxiliary_models().items():
        apply_model_settings(auxiliary, recipe.model)
        check_savable(auxiliary, tokenizer, Path(recipe.output) / name)
    return components


def _adopt_heads(model: LanguageModel, members: Sequence[Objective]) -> None:
    """Let the task fit the heads that the model's files hold to its training data."""
    new = [] if model.loaded is None else [name.split(".")[1] for name in model.loaded.initialised if "." in name]
    roles = {role for role, _ in model.heads.items() if role not in new} if model.loaded is not None else set()
    for member in members:
        if isinstance(member, Task):
            member.adopt(model, roles)


def _choose_vectors(model: LanguageModel, objective: Objective) -> list[str]:
    """Let the finished model make vectors as its objective trains them, and say what its files had said instead."""
    if any(part.is_sparse for part in objective.alternatives):
        before, model.vectors = model.vectors, TextVectors.sparse()
        is_other = before is not None and before.sparse_pool is None
        return ["the model's files make dense vectors; what this run saves makes sparse ones"] if is_other else []
    pooling = next((part.pooling for part in objective.alternatives if part.pooling), None)
    if pooling is None:
        return []
    before, model.vectors = model.vectors, TextVectors.pooled(pooling)
    if before is None or (before.pooling == pooling and not before.prompts):
        return []
    return [
        f"the model's files make vectors by {before.describe()}; this run trains the {pooling} of the last layer's "
        "rows, and what it saves says so"
    ]


def _check_savable(recipe: Recipe, model: LanguageModel, members: Sequence[Objective], tokenizer: Tokenizer) -> None:
    """Refuse a run that could not keep what it trains."""
    makers: dict[HeadSource, MakeHeads] = {}
    objectives = [member for member in members if not isinstance(member, Task)]
    if objectives:
        makers["objectives"] = mix(objectives).heads
    if tasks := [member for member in members if isinstance(member, Task)]:
        makers["task"] = mix(tasks).heads
    check_savable(model, tokenizer, Path(recipe.output), makers)


def _keep_own_weights(components: TrainComponents) -> None:
    """Go on from what the model's files hold of the objectives' own parameters, and say which will be saved."""
    own = components.own_weights()
    missing = own.restore(components.model)
    if missing:
        components.notes.append(f"newly initialized, not in the model's files: {describe_weights(missing)}")
    components.notes += own.notes()
    own.store(components.model)


def _add_records(components: TrainComponents, stores: StoreData | None, labelled: Sequence[LabelledData]) -> None:
    """What is kept for the record: fingerprints, statistics, notes, facts."""
    components.facts["abilities"] = components.objective.abilities
    if any(part.is_sparse for part in components.objective.alternatives):
        components.facts["is_sparse"] = True
    components.facts["token_terms"] = list(components.objective.token_terms)
    if stores is not None:
        components.data |= stores.fingerprints()
        components.data_stats |= stores.statistics()
        components.notes += [*stores.losses(components.data_stats["windows"]), *stores.notes]
        components.facts["unigram_entropy"] = unigram_entropy(stores.stores)
        components.facts["language"] = language_of(stores.sample_text(components.tokenizer))
    for data in labelled:
        components.data |= data.fingerprints()
        components.notes += [f"{data.name}: {note}" for note in data.notes] if data.name else data.notes
        components.examples[data.task.name] = data.validation
        components.facts["language"] = language_of(data.sample_text())
        record: dict[str, Any] = {"labels": data.labels} | (
            {} if data.held_out is None else {"held_out": data.held_out.to_json()}
        )
        if data.name:
            components.data_stats[data.name] = data.statistics()
            record["is_paired"] = data.task.config.columns.second is not None
            components.facts.setdefault("tasks", {})[data.name] = record
        else:
            components.data_stats |= data.statistics()
            components.facts |= record | ({} if data.records is None else {"records": data.records})


def _tokenizer_path(recipe: Recipe, stores: StoreData | None) -> Path | str:
    path = recipe.data.tokenizer or (stores.stores[0].tokenizer_path if stores is not None else recipe.model.init)
    if path is None:
        raise UsageError(
            "recipe: a model from random weights needs a tokenizer; name one with --tokenizer (data.tokenizer), or "
            "start from a model with --model (model.init)"
        )
    return path
