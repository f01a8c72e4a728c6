"""Fills in what is decided of a task once training has ended: thresholds, a temperature, a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pretune.errors import UsageError
from pretune.evaluate.engine import predict_examples
from pretune.models.model import LanguageModel
from pretune.tasks.task import AnyTask, Example, Task
from pretune.text.samples.rows import Encoded
from pretune.train.components import TrainComponents
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
    changed = _record(model, task, task.calibrate(predictions, examples))
    if not changed:
        return []
    values = {name: f" = {value:.4g}" if isinstance(value, float) else "" for name, value in changed.items()}
    fields = listed([f"task.{task.name}.{name}{value}" for name, value in values.items()])
    return [f"chosen by the predictions for {counted(len(examples), 'validation example')}: {fields}"]


def finalize(components: TrainComponents) -> None:
    """Lets tasks put into the finished weights what other software would not know."""
    for task in components.objective.alternatives:
        if isinstance(task, Task):
            _record(components.model, task, task.finalize(components.model))


def _record(model: LanguageModel, task: AnyTask, config: Task.Config) -> Mapping[str, object]:
    """Writes settings of a task that have changed into the model's metadata; returns them."""
    before = task.config.model_dump(mode="json", exclude={"columns"})
    after = config.model_dump(mode="json", exclude={"columns"})
    changed = {name: value for name, value in after.items() if value != before.get(name)}
    if changed:
        model.metadata = model.metadata.with_settings(task.name, changed)
    return changed
