"""What several tasks share: bases, examples, predictions, scores. A task itself is a file of `pretune/tasks`."""
