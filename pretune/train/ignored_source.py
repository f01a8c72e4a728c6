"""Says of a finished model that writes that it does not look at what it reads, which neither loss nor texts show."""

from __future__ import annotations

from pretune.evaluate.sources import source_use
from pretune.models.model import LanguageModel
from pretune.tasks.task import Task
from pretune.train.components import TrainComponents

LEAST_GAIN = 0.01
"""The part of the loss that an answer's own source takes away, at least, where a model looks at it."""


def warn_of_ignored_source(components: TrainComponents) -> list[str]:
    """A warning for each task that writes whose validation answers are as likely behind another source."""
    warnings = []
    for number, task in enumerate(components.objective.alternatives):
        if not isinstance(task, Task) or task.abilities.get(task.name) != "write":
            continue
        rows = [row for view in components.held_out[number] for row in getattr(view, "rows", ())]
        use = source_use(components.model, task, rows, components.tokenizer)
        if use is not None and use.gain < LEAST_GAIN:
            warnings.append(
                f"task {task.name!r} does not look at what it reads: the loss of the validation answers is "
                f"{use.own:.3f} a token behind their own sources and {use.exchanged:.3f} behind those of others; train "
                f"longer (budget.epochs), lower optimizer.lr{larger_weights(components.model)} or lengthen "
                "schedule.warmup, and see that sources and targets of the data belong together"
            )
    return warnings


def larger_weights(model: LanguageModel) -> str:
    """A remedy for a model built anew with small weights: what its attention to the source adds is small then too."""
    std, usual = getattr(model.config, "init_std", None), model.width**-0.5
    if model.loaded is not None or std is None or std >= usual / 2:
        return ""
    return f", begin with larger weights (model.overrides.init_std {usual:.2g})"
