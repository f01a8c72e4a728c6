"""Optimizers, one a file: `Config` and `build(parameters, config, dtype)`; the schedule beside them."""

SHARED_MODULES = ("optimizer", "orthogonal", "schedule")
