"""ONE FILE A METRIC: what is measured of texts alone, by the field's own scorers; see `docs/metrics.md`."""

SHARED_MODULES = ("ranking",)  # scores of rankings, whose texts are only named
