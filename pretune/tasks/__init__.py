"""Supervised tasks, one file each: prepare, loss, decode, score."""

SHARED_MODULES = ("annotated", "predictions", "task", "vector_task")
