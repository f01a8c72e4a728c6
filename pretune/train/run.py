"""`pretrain` and `finetune`: from a recipe to a run directory with the finished model in it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from pretune.config import validate
from pretune.errors import UsageError
from pretune.interop.model_tokenizer import move_positions
from pretune.models.flops import count_parameters
from pretune.runtime.affinity import cpus
from pretune.runtime.device import choose
from pretune.runtime.distributed import Distributed, join_ranks
from pretune.runtime.precision import Precision, choose_precision, fingerprint
from pretune.runtime.signals import SignalError
from pretune.text.readers.labelled import NamedData
from pretune.train.adapter_weights import best_adapter_weights
from pretune.train.agreement import check_inputs, check_recipes
from pretune.train.assemble import assemble
from pretune.train.automatic import Automatic, resolve_automatic
from pretune.train.averaging import average_weights
from pretune.train.calibration import check_held_out
from pretune.train.checkpoint.store import CheckpointStore
from pretune.train.closed_form import fit_heads
from pretune.train.components import TrainComponents
from pretune.train.context import TrainContext
from pretune.train.directory import RunDirectory
from pretune.train.feature_cache import FeatureCache
from pretune.train.feature_plan import plan_features
from pretune.train.finish import finish, save_initial
from pretune.train.initial_weights import InitialWeights
from pretune.train.logging.progress import Display
from pretune.train.logging.trackers import open_trackers
from pretune.train.loop import train
from pretune.train.named_paths import check_named_paths
from pretune.train.preflight import preflight
from pretune.train.recipe import Recipe, plain
from pretune.train.repeats import check_single
from pretune.train.search import search
from pretune.train.settings import resolved_settings
from pretune.train.starting_point import tuning_method
from pretune.train.step import TrainModule
from pretune.train.subset_embedding import shrink_embedding
from pretune.train.teacher import baseline_recipe, compare_baseline, plan_answers, record_teacher
from pretune.tune.proof import Start


def pretrain(recipe: Recipe) -> Path:
    """Train on token stores by self-supervised objectives; goes on where an earlier call stopped.

    Returns:
        The run directory, which is also the finished model's.

    Raises:
        PretuneError: see `pretune.errors`; nothing is half-written.
    """
    if recipe.task:
        raise UsageError(f"this recipe has a task ({', '.join(recipe.task)}); start it with finetune")
    return _run_with_baseline(recipe)


def finetune(recipe: Recipe, train_data: NamedData | None = None, validation_data: NamedData | None = None) -> Path:
    """Train on labelled data for a task, and on token stores for objectives that ride with it.

    Goes on where an earlier call stopped.

    Args:
        train_data: data in memory, instead of the files of `data.train`; of several tasks, also by their names.
        validation_data: data in memory, instead of the files of `data.validation`.

    Returns:
        The run directory, which is also the finished model's.

    Raises:
        PretuneError: see `pretune.errors`; nothing is half-written.
    """
    if not recipe.task:
        raise UsageError("recipe: field 'task' is missing; name one, such as --task classification")
    if recipe.search is not None:
        searched = search(recipe, train_data, validation_data, _run)
        return _run_with_baseline(searched.recipe, train_data, validation_data, searched)
    return _run_with_baseline(recipe, train_data, validation_data)


def _run_with_baseline(
    recipe: Recipe,
    train_data: NamedData | None = None,
    validation_data: NamedData | None = None,
    chosen: Automatic | None = None,
) -> Path:
    """A run, and the same one without its teacher where the recipe wants that."""
    path = _run(recipe, train_data, validation_data, chosen)
    if (plain := baseline_recipe(recipe)) is not None:
        compare_baseline(path, _run(plain, train_data, validation_data), recipe)
    return path


def _run(
    recipe: Recipe,
    train_data: NamedData | None = None,
    validation_data: NamedData | None = None,
    chosen: Automatic | None = None,
) -> Path:
    check_single(recipe)
    with join_ranks(recipe.device) as distributed:
        distributed.on_all_ranks(lambda: check_named_paths(recipe))
        check_recipes(distributed, recipe)
        path = Path(recipe.output)
        directory = distributed.on_main(lambda: RunDirectory(path, recipe.resume))
        context: TrainContext | None = None
        try:
            device = _choose_device(recipe, distributed)
            automatic = chosen or distributed.on_all_ranks(
                partial(resolve_automatic, recipe, train_data, validation_data)
            )
            recipe = automatic.recipe
            recipe, precision = _resolve_recipe(recipe, distributed, directory, device)
            torch.set_num_threads(recipe.threads or torch.get_num_threads())
            components = distributed.on_all_ranks(lambda: assemble(recipe, train_data, validation_data))
            components.notes += automatic.notes
            for result in components.results.values():
                fit_heads(result, is_first=True)
            components.facts |= automatic.facts
            distributed.on_all_ranks(partial(check_held_out, components))
            check_inputs(distributed, recipe, components)
            context = _begin(recipe, components, distributed, directory, device, precision)
            for result in components.results.values():
                result.start = distributed.on_main(partial(Start.of, result.model, result.added))
            shrink_embedding(components.model, components.tokens)
            components.initial = InitialWeights.of(components.model, recipe.evaluation.keep_initial)
            answers = plan_answers(recipe, components, context)
            state = train(components.model, components.objective, components.samplers(recipe), context)
            answers.drop()
            mixed = average_weights(components, context, state) or best_adapter_weights(components, context, state)
            distributed.on_main(lambda: finish(components, context, state, directory, mixed) if directory else None)
            record_teacher(components, context, directory)
        except SignalError:
            if directory is not None and context is not None:
                directory.record_warnings(context.display.warnings)
            raise
        except Exception as error:
            if directory is not None:
                directory.record_failure(error)
            raise
        finally:
            if directory is not None:
                directory.close()
    return path


def _begin(
    recipe: Recipe,
    components: TrainComponents,
    distributed: Distributed,
    directory: RunDirectory | None,
    device: torch.device,
    precision: Precision,
) -> TrainContext:
    """Write the recipe and the facts into the run directory, and say what the user should know.

    Raises:
        PretuneError: the run could not save its result, or its directory holds another run.
    """
    display = Display(recipe.track.progress if distributed.is_main else "quiet", verbose=recipe.track.verbose)
    own = components.own_weights().names_in(TrainModule(components.model, components.objective))
    facts = {**components.facts, "data": components.data, **_sizes(components), "own_weights": own}
    facts |= {"precision": vars(precision), "metric": components.metric(recipe)}
    facts["settings"] = resolved_settings(recipe, components)
    for model in (components.model, *(own.model for own in components.adapters.values())):
        move_positions(model, components.tokenizer)
    plan = partial(_plan_features, recipe, components, distributed, device, precision)
    features, of_features = distributed.on_all_ranks(plan)
    changes = distributed.on_main(lambda: directory.begin(recipe, facts) if directory else [])
    distributed.on_main(lambda: save_initial(components, recipe, directory) if directory else None)
    warnings = distributed.on_main(lambda: [f"warning: {warning}" for warning in preflight(recipe, components, device)])
    of_training = [str(precision), *_of_threads(recipe.threads, device), *components.notes, *of_features]
    notes = [
        *(directory.notes if directory else []),
        *([] if directory and directory.has_finished else [*of_training, *(warnings or [])]),
        *(f"changed since the run began: {change}" for change in changes or []),
    ]
    for note in notes:
        display.note(note)
    distributed.on_main(lambda: directory.record_warnings(display.warnings) if directory else None)
    return TrainContext(
        recipe,
        directory.checkpoints if directory else CheckpointStore(Path(recipe.output)),
        distributed,
        device,
        precision,
        display,
        components.validation(recipe, distributed),
        lambda step: open_trackers(Path(recipe.output), recipe.track, plain(recipe), step),
        components.facts.get("unigram_entropy"),
        components.objective.token_terms,
        tuning_method(recipe),
        components.added,
        features,
    )


def _plan_features(
    recipe: Recipe, components: TrainComponents, distributed: Distributed, device: torch.device, precision: Precision
) -> tuple[FeatureCache | None, list[str]]:
    """What the run keeps of layers that do not learn, the same on all ranks."""
    facts = {**fingerprint(device, precision, 1), "attention": recipe.model.attention}
    return plan_features(recipe, components, facts, distributed.rank)


def _of_threads(threads: int | None, device: torch.device) -> list[str]:
    """Says where a run keeps to more threads than this machine has CPUs for."""
    if device.type != "cpu" or threads is None or threads <= (available := cpus()):
        return []
    remedy = f"--threads {available} is faster, and its results are not bit-exact"
    return [f"warning: {threads} threads, as chosen or as the run began, on {available} CPUs: {remedy}"]


def _choose_device(recipe: Recipe, distributed: Distributed) -> torch.device:
    device = choose(recipe.device)
    return torch.device("cuda", distributed.local) if device.type == "cuda" and distributed.size > 1 else device


def _resolve_recipe(
    recipe: Recipe, distributed: Distributed, directory: RunDirectory | None, device: torch.device
) -> tuple[Recipe, Precision]:
    """The recipe with precision and threads decided: by the run so far, else by rank 0's hardware."""

    def resolve() -> dict[str, Any]:
        known = directory.resolve_recipe(recipe) if directory else recipe
        threads = known.threads or torch.get_num_threads()
        torch.set_num_threads(threads)
        precision = choose_precision(known.precision, device, with_peak=True)
        resolved = known.model_copy(update={"precision": precision.name, "threads": threads})
        return {"recipe": resolved.model_dump(mode="json"), "precision": vars(precision)}

    answer = distributed.broadcast(distributed.on_main(resolve)) or {}
    return validate(Recipe, answer["recipe"], "recipe"), Precision(**answer["precision"])


def _sizes(components: TrainComponents) -> dict[str, Any]:
    model = components.model
    return {
        "parameters": count_parameters(model),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "tokenizer": components.tokenizer.hash,
    }
