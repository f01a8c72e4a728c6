"""Supervised tasks, one file each: prepare, loss, decode, score."""

SHARED_MODULES = (
    "annotated",
    "calibration",
    "link_predictions",
    "link_scores",
    "marked_pairs",
    "named",
    "predictions",
    "records",
    "sequence_task",
    "task",
    "vector_task",
    "windowed",
)
