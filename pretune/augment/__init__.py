"""New texts from old ones, with labels and spans that follow them: a file a method."""

SHARED_MODULES = ("augmenter", "files", "models")
