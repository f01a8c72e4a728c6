"""Takes the mean of the weights at the last evaluations, which often scores better than any of them.

Source: Vaswani et al. 2017 (arXiv 1706.03762), section 6.1, checkpoint averaging; Izmailov et al. 2018 (arXiv
1803.05407), why a mean along the path of training generalises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pretune.disk import problem
from pretune.interop.run_names import MODEL
from pretune.train.checkpoint.state import State, learned_tensors
from pretune.train.components import TrainComponents
from pretune.train.context import TrainContext
from pretune.train.evaluation import as_good, metric_value
from pretune.train.step import TrainModule
from pretune.wording import listed


@dataclass(frozen=True)
class MixedWeights:
    """Weights of several steps that are as good as those of any: their mean, or of each adapter its best ones.

    Attributes:
        steps: whose weights these are, in their order.
        weights: by name, as a checkpoint has them.
        value: of the metric that evaluations are compared by.
        scores: all metrics of the validation data.
        adapters: the step whose weights each adapter has; empty where all have the mean.
    """

    steps: tuple[int, ...]
    weights: dict[str, Tensor]
    value: float
    scores: dict[str, float]
    adapters: Mapping[str, int] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """What `run.json` says of them."""
        if self.adapters:
            return {"adapter_steps": dict(self.adapters), "adapter_scores": self.scores}
        return {"averaged_steps": list(self.steps), "averaged": self.scores}

    def describe(self, metric: str) -> str:
        """Of which steps they are, and how good, for people."""
        if self.adapters:
            each = ", ".join(f"{name} of step {step:,}" for name, step in self.adapters.items())
            return f"the weights of each adapter's best evaluation: {each} ({metric} {self.value:.4f})"
        steps = listed([f"{step:,}" for step in self.steps], len(self.steps))
        return f"the mean of the weights of steps {steps} ({metric} {self.value:.4f})"

    @torch.no_grad()
    def put_into(self, root: TrainModule) -> None:
        """Gives a root module these weights."""
        for name, tensor in learned_tensors(root).items():
            tensor.copy_(self.weights[name])


def average_weights(components: TrainComponents, context: TrainContext, state: State) -> MixedWeights | None:
    """The mean of the weights at the last evaluations, if the recipe wants it and it is the better.

    All ranks call it together. The model keeps the weights of the last step.

    Returns:
        None where the recipe keeps other weights, there are not two checkpoints, or a single evaluation was better.
    """
    validation, display = context.validation, context.display
    if context.recipe.evaluation.keep != "average":
        return None
    if validation is None:
        display.note("warning: without validation data no weights are averaged; the last ones are kept")
        return None
    path, distributed = context.checkpoints.path, context.distributed
    usable = distributed.on_main(lambda: [step for step in state.evaluations if problem(path(step)) is None])
    steps = distributed.broadcast(usable) or []
    if len(steps) < 2:
        display.note("warning: there are not two evaluations whose weights could be averaged")
        return None
    root = TrainModule(components.model, components.objective, context.method)
    last = {name: tensor.clone() for name, tensor in learned_tensors(root).items()}
    mean = MixedWeights(tuple(steps), _mean([path(step) for step in steps]), float("nan"), {})
    mean.put_into(root)
    scores = validation.measure(root, components.objective, context.device, context.precision, distributed)
    value = metric_value(validation.metric, scores or {})
    MixedWeights((), last, value, {}).put_into(root)
    wins = as_good(validation.metric, value, state.best)
    display.note(
        f"the mean of the weights of steps {', '.join(map(str, steps))}: validation {validation.metric} {value:.4f}, "
        f"the best single one {state.best if state.best is None else format(state.best, '.4f')}"
        + ("" if wins else ", which is kept")
    )
    return MixedWeights(mean.steps, mean.weights, value, scores or {}) if wins else None


def _mean(folders: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights of checkpoints; what is no float is that of the last."""
    mean = load_file(folders[0] / MODEL)
    for count, folder in enumerate(folders[1:], 2):
        for name, tensor in load_file(folder / MODEL).items():
            mean[name] = mean[name].lerp(tensor, 1 / count) if tensor.is_floating_point() else tensor
    return mean
