"""Self-supervised objectives, one a file: what to corrupt, what to predict, the loss."""

BASE = ("mixture", "objective", "source_target")
