"""Supervised tasks, one file each: prepare, loss, decode, score."""

SHARED_MODULES = ("frames", "shared", "task", "vector_losses")
