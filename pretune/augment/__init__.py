"""Data augmentation: new texts from old ones, with their labels and spans; one file per method."""

SHARED_MODULES = ("augmenter", "files", "models")
