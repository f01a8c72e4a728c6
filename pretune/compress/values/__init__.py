"""How the values of a rounded matrix are chosen, one way per file: see `method`."""

SHARED_MODULES = ("inputs", "method", "scales")
