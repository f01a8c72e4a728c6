"""Bricks: they know tensors and the layout of a ragged run, and no configuration."""
