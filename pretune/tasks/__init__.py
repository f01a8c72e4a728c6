"""Supervised tasks, one file each: prepare, loss, decode, score."""

SHARED_MODULES = (
    "annotated",
    "calibration",
    "named",
    "predictions",
    "records",
    "sequence_task",
    "task",
    "vector_task",
    "windowed",
)
