"""ONE FILE A JUDGE: metrics of texts that need a model of one's own; see `docs/metrics.md`."""

SHARED_MODULES = ("judge",)
