"""Self-supervised objectives, one a file: what to corrupt, what to predict, the loss."""

BASE = ("contrastive", "mixture", "objective", "source_target")
