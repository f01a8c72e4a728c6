"""Fills in what held-out predictions decide of a task (thresholds, a temperature), once training has ended."""

from __future__ import annotations

from pretune.evaluate.engine import predict_examples
from pretune.tasks.task import Task
from pretune.train.assemble import TrainComponents
from pretune.wording import counted, listed


def calibrate(components: TrainComponents) -> list[str]:
    """Records in the model what its task decides by its predictions for the validation examples.

    Args:
        components: with the finished weights; nothing is done without a task that decides something, or without
            validation examples.

    Returns:
        What the user should know: which settings were chosen.
    """
    task, examples, model = components.task, components.examples, components.model
    if task is None or type(task).calibrate is Task.calibrate or not examples or model.metadata.task is None:
        return []
    part = next(n for n, member in enumerate(components.objective.alternatives) if member is task)
    rows = [row for view in components.held_out[part] for row in getattr(view, "rows", ())]
    predictions = predict_examples(model, task, examples, rows, components.tokenizer)
    before = task.config.model_dump(mode="json", exclude={"columns"})
    after = task.calibrate(predictions, examples).model_dump(mode="json", exclude={"columns"})
    changed = [name for name, value in after.items() if value != before.get(name)]
    if not changed:
        return []
    record = model.metadata.task.model_copy(update={"config": after})
    model.metadata = model.metadata.model_copy(update={"task": record})
    fields = listed([f"task.{task.name}.{name}" for name in changed])
    return [f"chosen by the predictions for {counted(len(examples), 'validation example')}: {fields}"]
