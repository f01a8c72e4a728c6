"""Fills in what held-out predictions decide of a task (thresholds, a temperature), once training has ended."""

from __future__ import annotations

from collections.abc import Sequence

from pretune.errors import UsageError
from pretune.evaluate.engine import predict_examples
from pretune.tasks.task import AnyTask, Example, Task
from pretune.text.samples.rows import Encoded
from pretune.train.assemble import TrainComponents
from pretune.wording import counted, listed


def check_held_out(components: TrainComponents) -> None:
    """Refuses a run of which a task is to decide something by held-out examples and has none.

    Raises:
        UsageError: a setting that could not be obeyed.
    """
    for task in components.objective.alternatives:
        if isinstance(task, Task) and task.needs_held_out and not components.examples.get(task.name):
            raise UsageError(
                f"recipe: field '{task.needs_held_out}' is decided on held-out rows, and there are none; name a file "
                "with --validation, or hold rows out with --holdout 0.1"
            )


def calibrate(components: TrainComponents) -> list[str]:
    """Records in the model what its tasks decide by their predictions for the validation examples.

    Args:
        components: with the finished weights; nothing is done without a task that decides something, or without
            validation examples.

    Returns:
        What the user should know: which settings were chosen.
    """
    notes = []
    for number, task in enumerate(components.objective.alternatives):
        if isinstance(task, Task) and task.is_calibrated:
            rows = [row for view in components.held_out[number] for row in getattr(view, "rows", ())]
            if examples := components.examples.get(task.name):
                notes += _calibrate(components, task, examples, rows)
    return notes


def _calibrate(
    components: TrainComponents, task: AnyTask, examples: Sequence[Example], rows: Sequence[Encoded]
) -> list[str]:
    """Records what one task decides; says which settings were chosen."""
    model = components.model
    predictions = predict_examples(model, task, examples, rows, components.tokenizer)
    before = task.config.model_dump(mode="json", exclude={"columns"})
    after = task.calibrate(predictions, examples).model_dump(mode="json", exclude={"columns"})
    changed = {name: value for name, value in after.items() if value != before.get(name)}
    if not changed:
        return []
    model.metadata = model.metadata.with_settings(task.name, changed)
    values = {name: f" = {value:.4g}" if isinstance(value, float) else "" for name, value in changed.items()}
    fields = listed([f"task.{task.name}.{name}{value}" for name, value in values.items()])
    return [f"chosen by the predictions for {counted(len(examples), 'validation example')}: {fields}"]
