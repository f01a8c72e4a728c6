"""Gives each of several adapters the weights of its own best evaluation, as a run of its own would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from safetensors.torch import load_file
from torch import Tensor

from pretune.disk import problem
from pretune.interop.run_names import MODEL
from pretune.train.averaging import MixedWeights
from pretune.train.checkpoint.state import State, learned_tensors
from pretune.train.components import TrainComponents
from pretune.train.context import TrainContext
from pretune.train.step import TrainModule


def best_adapter_weights(components: TrainComponents, context: TrainContext, state: State) -> MixedWeights | None:
    """The weights of each adapter at its best evaluation, and how good these are together.

    The model keeps the weights of the last step.

    Returns:
        None where the recipe keeps other weights, or there are no adapters that were evaluated.
    """
    validation = context.validation
    if context.recipe.evaluation.keep != "best" or validation is None or not state.best_adapters:
        return None
    root = TrainModule(components.model, components.objective, context.method)
    tensors = learned_tensors(root)
    last = {name: tensor.clone() for name, tensor in tensors.items()}
    steps = {name: int(step) for name, (_, step) in state.best_adapters.items()}
    weights = dict(last)
    for step, names in _by_step(context, steps, state.step).items():
        checkpoint = load_file(context.checkpoints.path(step) / MODEL)
        for name in names:
            weights |= {each: checkpoint[each] for each in _own(components.adapters[name], tensors)}
    best = MixedWeights(tuple(sorted({*steps.values()})), weights, float("nan"), {}, steps)
    best.put_into(root)
    scores = (
        validation.measure(root, components.objective, context.device, context.precision, context.distributed) or {}
    )
    MixedWeights((), last, 0.0, {}).put_into(root)
    return MixedWeights(best.steps, weights, scores[validation.metric], scores, steps)


def _by_step(context: TrainContext, steps: dict[str, int], last: int) -> Mapping[int, Sequence[str]]:
    """The adapters of each checkpoint that is read; one whose checkpoint is damaged gets the last step in `steps`."""
    readable: dict[int, list[str]] = {}
    for name, step in steps.items():
        reason = None if step == last else problem(context.checkpoints.path(step))
        if reason is not None:
            what = f"{name}: the best weights (step {step}) cannot be read, {reason}"
            context.display.note(f"warning: {what}; keeping the last")
            steps[name] = last
        elif step != last:
            readable.setdefault(step, []).append(name)
    return readable


def _own(adapter: TrainComponents, tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of an adapter's tensors among those that a checkpoint holds: they share the memory."""
    own = {tensor.data_ptr() for tensor in adapter.model.state_dict().values()}
    return [name for name, tensor in tensors.items() if tensor.data_ptr() in own]
