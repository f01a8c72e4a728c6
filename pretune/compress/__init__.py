"""Compression methods, one per file: each changes a built model into a smaller or faster one; see `method`."""

SHARED_MODULES = (
    "at_load",
    "calibration",
    "distillation",
    "folding",
    "method",
    "pruning",
    "sparsity",
    "values",
    "walk",
)
