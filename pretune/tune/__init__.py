"""Tuning methods, one file each: `apply(model, config) -> model` decides which parameters train; see `method`."""

SHARED_MODULES = ("method", "surgery")
