"""Supervised tasks, one file each: prepare, loss, decode, score."""

SHARED_MODULES = ("frames", "ranking_losses", "shared", "task", "truncation", "vector_losses")
