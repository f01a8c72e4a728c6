"""ONE FILE A METRIC: what is measured of texts alone, by the field's own scorers; see `docs/metrics.md`."""

SHARED_MODULES = (
    "metric",
    "words",
    "sacre",
    "significance",
    "number_words",
    "support",
    "sentences",
    "ranking",
)  # ranking: texts are only named there
