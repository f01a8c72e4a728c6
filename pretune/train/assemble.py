"""Assembles the components of a run from its recipe: stores, tokenizer, model, objective or task, samplers.

Everything that can be wrong with the inputs is found here, before a run directory is written to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.draw import Draw
from pretune.errors import UsageError
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
from pretune.tasks.task import Task
from pretune.text.language import language_of
from pretune.text.readers.labelled import NamedData
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.components import TrainComponents
from pretune.train.distillation import check_baseline, teacher_notes, try_teacher, with_teacher
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
from pretune.train.recipe import Recipe
from pretune.train.several_tasks import draw_weights
from pretune.train.starting_point import tuning_method
from pretune.train.stores import StoreData, unigram_entropy
from pretune.train.task_adapters import assemble_adapters, check_adapter_per_task, share_data


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
    if recipe.adapter_per_task:
        check_adapter_per_task(recipe)
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
    components = _assemble(recipe, members, tokenizer)
    components.notes += tokenizer.notes
    for data in labelled:
        data.encode()
    if labelled and stores is None:
        components.tokens = _tokens(labelled)
    if len(labelled) > 1 and not components.objective.trains_all:
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
    share_data(components, recipe)
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


def _assemble(recipe: Recipe, members: Sequence[Objective], tokenizer: Tokenizer) -> TrainComponents:
    """The model and the objective, and those of each task where it has an adapter of its own."""
    if not recipe.adapter_per_task:
        return _assemble_model(recipe, members, tokenizer)
    tasks = [member for member in members if isinstance(member, Task)]
    return assemble_adapters(recipe, tasks, tokenizer, lambda alone, task: _assemble_model(alone, [task], tokenizer))


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
    _check_learns(components, recipe)
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


def _check_learns(components: TrainComponents, recipe: Recipe) -> None:
    """Refuse a run with a step that trains nothing of its model, such as next tokens by the frozen table of words."""
    model, method = components.model, tuning_method(recipe)
    below = (weight for name, weight in model.named_parameters() if not name.startswith("heads."))
    if method.changes(model) or any(weight.requires_grad for weight in below):
        return
    for part in components.objective.alternatives:
        with torch.device("meta"):
            roles = part.heads(model)
        heads = [model.heads[role] for role in roles if role in model.heads]
        if not any(weight.requires_grad for head in heads for weight in head.parameters()):
            raise UsageError(
                f"tune.{method.name}: nothing of the model would learn, as {part.name} has no head in it with weights "
                "of its own; choose a method that changes what lies below, such as --tune lora"
            )


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
