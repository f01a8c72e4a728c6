"""Self-supervised objectives, one a file: what to corrupt, what to predict, the loss."""

SHARED_MODULES = ("contrastive", "mixture", "objective", "source_target")
