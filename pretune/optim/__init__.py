"""Optimizers, one per file: `Config` and `build(parameters, config, dtype)`; and the schedule."""

SHARED_MODULES = ("optimizer", "orthogonal", "rates", "schedule", "without_compiler")
