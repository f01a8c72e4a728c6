"""Tuning methods, one per file: each changes a built model and chooses which of its parameters train; see `method`."""

SHARED_MODULES = ("method", "proof", "sums", "surgery")
