"""New texts from old ones, with labels and spans that follow them: a file a method."""

BASE = ("augmenter", "files", "models")
