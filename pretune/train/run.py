"""`pretrain` and `finetune`: from a recipe to a run directory with the finished model in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pretune.config import validate
from pretune.errors import UsageError
from pretune.interop.deltas import save_delta
from pretune.interop.huggingface import save_model
from pretune.models.flops import count_parameters
from pretune.models.model import LanguageModel
from pretune.runtime.device import choose
from pretune.runtime.distributed import Distributed, join_ranks
from pretune.runtime.precision import Precision, choose_precision
from pretune.text.readers.labelled import Data
from pretune.train.assemble import TrainComponents, assemble
from pretune.train.checkpoint import state as states
from pretune.train.checkpoint.state import State
from pretune.train.checkpoint.store import CheckpointStore, problem
from pretune.train.context import TrainContext
from pretune.train.directory import RunDirectory
from pretune.train.logging.progress import Display
from pretune.train.logging.trackers import open_trackers
from pretune.train.loop import train
from pretune.train.network import tuning_method
from pretune.train.preflight import preflight
from pretune.train.recipe import Recipe, plain
from pretune.train.step import TrainModule
from pretune.train.subset_embedding import narrow, widen
from pretune.tune.method import find_method

DELTA = "delta"  # folder in the run directory for what a tuning method learned
_SHOWN = 5  # changed places in a message


def pretrain(recipe: Recipe) -> Path:
    """Train on token stores by self-supervised objectives; goes on where an earlier call stopped.

    Returns:
        The run directory, which is also the finished model's.

    Raises:
        PretuneError: see `pretune.errors`; nothing is half-written.
    """
    if recipe.task:
        raise UsageError(f"this recipe has a task ({', '.join(recipe.task)}); start it with finetune")
    return _run(recipe)


def finetune(recipe: Recipe, train_data: Data | None = None, validation_data: Data | None = None) -> Path:
    """Train on labelled data for a task, and on token stores for objectives that ride with it.

    Goes on where an earlier call stopped.

    Args:
        train_data: records in memory, or files, instead of `data.train`.
        validation_data: the same instead of `data.validation`.

    Returns:
        The run directory, which is also the finished model's.

    Raises:
        PretuneError: see `pretune.errors`; nothing is half-written.
    """
    if not recipe.task:
        raise UsageError("recipe: field 'task' is missing; name one, such as --task classification")
    return _run(recipe, train_data, validation_data)


def _run(recipe: Recipe, train_data: Data | None = None, validation_data: Data | None = None) -> Path:
    with join_ranks(recipe.device) as world:
        path = Path(recipe.output)
        directory = world.on_main(lambda: RunDirectory(path, recipe.resume))
        try:
            _train(recipe, partial(assemble, train_data=train_data, validation_data=validation_data), world, directory)
        finally:
            if directory is not None:
                directory.close()
    return path


def _train(
    recipe: Recipe,
    assemble_run: Callable[..., TrainComponents],
    world: Distributed,
    directory: RunDirectory | None,
) -> None:
    display = Display(recipe.track.progress if world.is_main else "quiet")
    device = _device(recipe, world)
    recipe, precision = _settle(recipe, world, directory, device)
    torch.set_num_threads(recipe.threads or torch.get_num_threads())
    pieces = world.on_all_ranks(lambda: assemble_run(recipe, verify=world.is_main))
    facts = {**pieces.facts, "data": pieces.data, **_sizes(pieces), "precision": vars(precision)}
    changes = world.on_main(lambda: directory.begin(recipe, facts) if directory else [])
    checked = world.on_main(lambda: [f"warning: {finding}" for finding in preflight(recipe, pieces, device)])
    for note in [
        *pieces.notes,
        *(checked or []),
        *(f"changed since the run began: {change}" for change in changes or []),
    ]:
        display.note(note)
    setting = TrainContext(
        recipe,
        directory.shelf if directory else CheckpointStore(Path(recipe.output)),
        world,
        device,
        precision,
        display,
        pieces.validation(recipe, world),
        lambda step: open_trackers(Path(recipe.output), recipe.track, plain(recipe), step),
        pieces.facts.get("unigram_entropy"),
        tuning_method(recipe),
    )
    narrow(pieces.model, pieces.tokens)
    state = train(pieces.model, pieces.objective, pieces.samplers(recipe), setting)
    world.on_main(lambda: _finish(pieces, setting, state, directory) if directory else None)


def _device(recipe: Recipe, world: Distributed) -> torch.device:
    device = choose(recipe.device)
    return torch.device("cuda", world.local) if device.type == "cuda" and world.size > 1 else device


def _settle(
    recipe: Recipe, world: Distributed, directory: RunDirectory | None, device: torch.device
) -> tuple[Recipe, Precision]:
    """The recipe with precision and threads decided: by the run so far, else by rank 0's measurement."""

    def decide() -> dict[str, Any]:
        known = directory.settle(recipe) if directory else recipe
        threads = known.threads or torch.get_num_threads()
        torch.set_num_threads(threads)
        precision = choose_precision(known.precision, device)
        settled = known.model_copy(update={"precision": precision.name, "threads": threads})
        return {"recipe": settled.model_dump(mode="json"), "precision": vars(precision)}

    found = world.broadcast(world.on_main(decide)) or {}
    return validate(Recipe, found["recipe"], "recipe"), Precision(**found["precision"])


def _sizes(pieces: TrainComponents) -> dict[str, Any]:
    model = pieces.model
    return {
        "parameters": count_parameters(model),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "tokenizer": pieces.tokenizer.hash,
    }


def _finish(pieces: TrainComponents, setting: TrainContext, state: State, directory: RunDirectory) -> None:
    """Write the finished model and the account."""
    step = _choose_weights(pieces, setting, state)
    widen(pieces.model.cpu())
    pieces.tokenizer.settings["model_max_length"] = setting.recipe.data.length  # what use cuts texts to
    said = (part.pooling for part in pieces.objective.alternatives if part.pooling)
    pieces.model.pooling = next(said, pieces.model.pooling)
    _save(pieces, setting, directory.path)
    for name, companion in pieces.objective.auxiliary_models().items():
        assert isinstance(companion, LanguageModel)  # the type of `model.narrower`
        widen(companion.cpu())
        save_model(companion, directory.path / name, pieces.tokenizer)
    used = {"steps": state.step, "tokens": state.tokens, "samples": state.samples, "epochs": state.epoch}
    training = {
        **used,
        "skipped_steps": state.skipped,
        **state.account,
        "of_stores": _of_stores(pieces, setting, state),
    }
    directory.finish(
        {**used, "seconds": state.seconds, "weights_of_step": step, "best": state.best, "best_step": state.best_step},
        {**pieces.account, "training": training},
    )
    setting.display.note(f"finished: {state.step} steps, {state.tokens:,} tokens; the model is in {directory.path}")


def _save(pieces: TrainComponents, setting: TrainContext, path: Path) -> None:
    """Write the finished model: whole where its method can merge, else as deltas on its base; and both deltas apart."""
    method = setting.method or find_method("full", {})
    changes = method.check_acted(pieces.model)
    if changes:
        setting.display.note(f"tune.{method.name} changed {len(changes)} places: {', '.join(changes[:_SHOWN])}")
    if method.is_surgery:
        save_delta(pieces.model, path / DELTA if method.can_merge else path, method, setting.recipe.model.init)
    if method.is_surgery and not method.can_merge:
        pieces.tokenizer.save(path)
        return
    pieces.model = method.merge(pieces.model)
    save_model(pieces.model, path, pieces.tokenizer)


def _of_stores(pieces: TrainComponents, setting: TrainContext, state: State) -> dict[str, dict[str, float]]:
    """How much was taken of each store for each objective with a view of its own, samples and passes."""
    return {
        f"{part.view}:{store}": {"samples": taken, "epochs": round(taken / len(view), 4)}
        for part, views, cursor in zip(pieces.objective.alternatives, pieces.views, state.cursors, strict=True)
        for store, view, taken in zip(setting.recipe.data.stores, views, cursor, strict=False)
        if part is not pieces.task
    }


def _choose_weights(pieces: TrainComponents, setting: TrainContext, state: State) -> int:
    """Put the best weights into the model, where the recipe wants those; the step that they come from."""
    best = state.best_step
    if setting.recipe.evaluation.keep == "last" or best is None or best == state.step:
        return state.step
    path = setting.shelf.path(best)
    reason = problem(path)
    if reason is not None:
        setting.display.note(f"warning: the best weights (step {best}) cannot be read, {reason}; keeping the last")
        return state.step
    states.restore(path, TrainModule(pieces.model, pieces.objective, setting.method), None)
    return best
