"""Supervised tasks, one file each: prepare, loss, decode, score."""

SHARED_MODULES = ("predictions", "task", "vector_task")
