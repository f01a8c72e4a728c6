"""Supervised tasks, one file each: prepare, loss, decode, score."""

BASE = ("task", "vector_task")
