"""Supervised tasks, one file each: prepare, loss, decode, score."""

SHARED_MODULES = (
    "annotated",
    "calibration",
    "frames",
    "link_predictions",
    "link_scores",
    "marked_pairs",
    "named",
    "predictions",
    "reading_answers",
    "reading_scores",
    "records",
    "sequence_task",
    "span_predictions",
    "span_scores",
    "tag_data",
    "task",
    "unit_tags",
    "units",
    "vector_task",
    "windowed",
)
