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


def __getattr__(name: str) -> object:
    """Gives `prune_heads` on first use: this package is looked through without torch."""
    if name == "prune_heads":
        from pretune.compress.pruning.structure import prune_heads

        return prune_heads
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
