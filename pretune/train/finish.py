"""What a run writes beside checkpoints: the model before the first step; the finished one and its statistics."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretune.disk import problem
from pretune.errors import DivergenceError, IdleMethodError
from pretune.interop.deltas import RECORD, TENSORS, save_delta
from pretune.interop.huggingface import save_model
from pretune.interop.run_names import FACTS, INITIAL
from pretune.objectives.contrastive import Contrastive
from pretune.tasks.task import Task
from pretune.train.averaging import MixedWeights
from pretune.train.calibration import calibrate, finalize
from pretune.train.checkpoint import state as states
from pretune.train.checkpoint.state import State
from pretune.train.closed_form import fit_heads
from pretune.train.components import TrainComponents
from pretune.train.context import TrainContext
from pretune.train.directory import RunDirectory
from pretune.train.ignored_source import warn_of_ignored_source
from pretune.train.one_label import warn_of_one_label
from pretune.train.recipe import Recipe
from pretune.train.starting_point import StartingPoint, tuning_method
from pretune.train.step import TrainModule
from pretune.train.subset_embedding import restore_embedding
from pretune.tune.method import TuningMethod, find_method
from pretune.tune.proof import Proof, prove
from pretune.wording import counted, listed


def save_initial(components: TrainComponents, recipe: Recipe, directory: RunDirectory) -> None:
    """Write the model as it is before the first step, on which checkpoints are read; once for all of a run.

    Raises:
        StorageError: the disk is full or fails.
    """
    if components.adapters:
        return  # a checkpoint holds all adapters at once, and is read by the run alone
    model, path = components.model, directory.path / INITIAL
    if (path / "config.json").exists() or (path / RECORD).exists():
        return
    settings = dict(components.tokenizer.settings)
    components.tokenizer.settings["model_max_length"] = recipe.data.length
    if model.metadata.base is None:
        save_model(model, path, components.tokenizer)
    elif recipe.model.init is not None:  # the base is there, and surgery cannot be undone now
        _save_delta(components, recipe, path, tuning_method(recipe))
    components.tokenizer.settings.clear()
    components.tokenizer.settings.update(settings)


def finish(
    components: TrainComponents,
    context: TrainContext,
    state: State,
    directory: RunDirectory,
    mean: MixedWeights | None = None,
) -> None:
    """Write the finished model, the statistics of its data, and how the run ended.

    Args:
        mean: weights that are better than those of any step.

    Raises:
        IdleMethodError: the tuning method, or a part of it, did not act; nothing but the proof is written.
        StorageError: the disk is full or fails.
    """
    left_out = _count_false_negatives(components, context, state)
    results = components.results
    at_end = {name: _proof(result, context) for name, result in results.items()}
    step = _choose_weights(components, context, state, mean)
    for result in results.values():
        result.model.to(context.device)
    mixed = components.initial.mix_into(components.model)
    fitted = [_of_adapter(name) + note for name, result in results.items() for note in fit_heads(result)]
    calibrated = [note for result in results.values() for note in calibrate(result)]
    ignored = [_of_adapter(name) + note for name, result in results.items() for note in warn_of_ignored_source(result)]
    for note in [*mixed, *fitted, *calibrated]:
        context.display.note(note)
    restore_embedding(components.model.cpu())
    for result in results.values():
        result.own_weights().store(result.model.cpu())
    _prove(results, context, at_end, directory)
    components.tokenizer.settings["model_max_length"] = context.recipe.data.length  # what use cuts texts to
    for name, result in results.items():
        _save(result, context, directory.path / name)
    for name, auxiliary in components.auxiliary_models().items():
        restore_embedding(auxiliary.cpu())
        save_model(auxiliary, directory.path / name, components.tokenizer)
    used = {"steps": state.step, "tokens": state.tokens, "samples": state.samples, "epochs": state.epoch}
    training = {
        **used,
        "skipped_steps": state.skipped,
        **dict(sorted(state.data_stats.items())),  # as a checkpoint has them
        **left_out,
        "of_stores": _stores_used(components, context, state),
    }
    facts = {
        "skipped_steps": state.skipped,
        "spikes": state.spikes,
        "rollbacks": state.rollbacks,
        "seconds": state.seconds,
        "weights_of_step": step,
        **({} if mean is None else mean.record),
        "best": state.best,
        "best_step": state.best_step,
        "stale_evaluations": state.stale_evaluations,
    }
    directory.finish({**used, **facts}, {**components.data_stats, "training": training})
    weights = _describe_weights(context, state, step, mean, is_fitted=bool(fitted))
    what = "the adapters' models" if components.adapters else "the model"
    end = f"{what} in {directory.path} {'have' if components.adapters else 'has'} {weights}"
    if directory.has_finished:
        context.display.note(f"finished already at step {state.step:,}; nothing to train; {end}")
    else:
        context.display.note(f"finished: {counted(state.step, 'step')}, {counted(state.tokens, 'token')}; {end}")
    labels = components.facts.get("labels") or []
    for warning in [*_left_out(state), *warn_of_one_label(directory.path, step, labels), *ignored]:
        context.display.note(f"warning: {warning}")
    directory.record_warnings(context.display.warnings)


def _left_out(state: State) -> list[str]:
    """What the optimizer did not see, and what it should perhaps not have seen; nothing of most runs."""
    skipped = f"{state.skipped:,} of {counted(state.step, 'step')} skipped, as not finite or a spike"
    spikes = f"{state.spikes:,} of {counted(state.step, 'step')} with a spike of the loss or the gradient"
    rollbacks = ", ".join(f"from step {step} to {target}" for step, target in state.rollbacks)
    sentences = {skipped: state.skipped, spikes: state.spikes, f"went back {rollbacks}": len(state.rollbacks)}
    return [sentence for sentence, count in sentences.items() if count]


def _describe_weights(
    context: TrainContext, state: State, step: int, mean: MixedWeights | None, *, is_fitted: bool
) -> str:
    """Of which step the finished model's weights are, and how good these were.

    Args:
        is_fitted: a head was fitted to them afterwards, which no evaluation has seen.
    """
    metric = "loss" if context.validation is None else context.validation.metric
    if is_fitted:
        return f"the weights of the last step, {step:,}, and a head that was fitted to them"
    if mean is not None:
        return mean.describe(metric)
    if step == state.best_step and state.best is not None:
        return f"the weights of step {step:,}, the best by {metric} ({state.best:.4f})"
    return f"the weights of the last step, {step:,}"


def _count_false_negatives(components: TrainComponents, context: TrainContext, state: State) -> dict[str, int]:
    """Count and say what contrast did not take for negatives; nothing where there were none."""
    own = sum(part.false_negatives for part in components.objective.modules() if isinstance(part, Contrastive))
    total = state.data_stats.get("false_negatives", 0) + own
    if not total:
        return {}
    context.display.note(
        f"{counted(total, 'negative')} left out ({total / max(state.step, 1):,.0f} a step), as the same text or of the "
        "same text"
    )
    return {"false_negatives": total}


def _proof(components: TrainComponents, context: TrainContext) -> Proof | None:
    """What the tuning method did to the model up to now."""
    if components.start is None or context.method is None:
        return None
    return prove(components.model, components.start, context.method)


def _prove(
    results: Mapping[str, TrainComponents],
    context: TrainContext,
    at_end: Mapping[str, Proof | None],
    directory: RunDirectory,
) -> None:
    """Record what the tuning method did to each model, and fail a run of which a part did not act.

    Args:
        results: what the run ends with, by its folder.
        at_end: the proofs of the weights of the last step, which are not those of the model where others were better.

    Raises:
        IdleMethodError: it names the parts; the checkpoint of the last step stays.
    """
    proofs: dict[str, Proof] = {}
    for name, result in results.items():
        last, proof = at_end[name], _proof(result, context)
        if last is None or proof is None:
            return
        proofs[name] = replace(proof, idle=last.idle, early=[line for line in proof.idle if line not in last.idle])
        if proofs[name].early:
            best = f"warning: {_of_adapter(name)}the best weights are from before all parts acted"
            context.display.note(f"{best}: {listed([*proofs[name].early])}")
    record: dict[str, Any] = {name: {"proof": proof.to_json()} for name, proof in proofs.items()}
    if "" not in record:
        base = str(StartingPoint.of(context.recipe).base)
        record = {"": {"adapters": {name: {"base": base, **each} for name, each in record.items()}}}
    directory.write(FACTS, {**directory.facts(), **record[""]})
    failures: list[str] = []
    for name, proof in proofs.items():
        try:
            proof.check()
        except IdleMethodError as error:
            failures.append(f"{_of_adapter(name)}{error}")
    if failures:
        directory.record_warnings(context.display.warnings)
        kept = next((str(context.checkpoints.path(step)) for step in context.checkpoints.steps()), "no checkpoint")
        raise IdleMethodError(
            f"{'. '.join(failures)}. No model was written; the weights of the last step are in {kept}"
        )
    if context.method is not None and context.method.name != "full":
        for name, proof in proofs.items():
            context.display.note(_of_adapter(name) + proof.summary())


def _of_adapter(name: str) -> str:
    """What a sentence on one of several adapters begins with."""
    return f"{name}: " if name else ""


def _save(components: TrainComponents, context: TrainContext, path: Path) -> None:
    """Write the finished model: as deltas on its base after surgery, else whole."""
    method = context.method or find_method("full", {})
    if components.model.metadata.base is not None and context.recipe.model.init is None:  # there is no base to refer to
        components.model = method.merge(components.model)
        components.model.metadata = components.model.metadata.model_copy(update={"base": None})
    finalize(components)
    if components.model.metadata.base is None:
        save_model(components.model, path, components.tokenizer)
        return
    _save_delta(components, context.recipe, path, method.finished(components.model))
    size = (path / TENSORS).stat().st_size / 1e6
    merging = f"; a plain model: pretune merge {shlex.quote(str(path))} --output FOLDER" if method.can_merge else ""
    base = StartingPoint.of(context.recipe).base
    context.display.note(f"saved what tune.{method.name} learned, {size:,.2f} MB, to be used with {base}{merging}")


def _save_delta(components: TrainComponents, recipe: Recipe, path: Path, method: TuningMethod) -> None:
    start = StartingPoint.of(recipe)
    save_delta(components.model, path, method, str(start.base), components.tokenizer, start.overrides)


def _stores_used(components: TrainComponents, context: TrainContext, state: State) -> dict[str, dict[str, float]]:
    """How much was taken of each store for each objective with a view of its own, samples and passes."""
    parts = zip(components.objective.alternatives, components.views, state.cursors, strict=True)
    return {
        f"{part.view}:{store}": {"samples": taken, "epochs": round(taken / len(view), 4)}
        for part, views, cursor in parts
        for store, view, taken in zip(context.recipe.data.stores, views, cursor, strict=False)
        if not isinstance(part, Task)
    }


def _choose_weights(components: TrainComponents, context: TrainContext, state: State, mean: MixedWeights | None) -> int:
    """Put the best weights into the model, where the recipe wants those; the step that they come from.

    Raises:
        DivergenceError: the last weights are wanted, and give no finite loss on the validation data.
    """
    best = state.best_step
    if mean is not None:
        mean.put_into(TrainModule(components.model, components.objective, context.method))
        return mean.steps[-1]
    if context.recipe.evaluation.keep == "last" or best is None or best == state.step:
        if state.evaluated == state.step and not state.has_finite_evaluation:
            raise DivergenceError(
                f"step {state.step}: the weights give no finite loss on the validation data, so no model was written; "
                "lower optimizer.lr and train again, use an earlier checkpoint (--step), or set evaluation.keep = best"
            )
        return state.step
    path = context.checkpoints.path(best)
    reason = problem(path)
    if reason is not None:
        context.display.note(f"warning: the best weights (step {best}) cannot be read, {reason}; keeping the last")
        return state.step
    states.restore(path, TrainModule(components.model, components.objective, context.method), None)
    return best
