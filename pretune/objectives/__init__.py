"""Self-supervised objectives, one a file: what to corrupt, what to predict, the loss."""

BASE = ("objective", "mixture")
